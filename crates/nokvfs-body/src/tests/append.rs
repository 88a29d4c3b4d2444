//! Appends of several mounts to one file.

use std::sync::Arc;

use nokvfs_types::{BLOCK_SIZE, InodeId, MetaError};

use super::{Volume, bytes, ctx, read_all};
use crate::{Bodies, OpenFile};

const FILE: InodeId = InodeId(5);

async fn open(mount: &Arc<Bodies>) -> Arc<OpenFile> {
    mount.open(&ctx(), FILE).await.unwrap()
}

/// What a fresh mount reads.
async fn stored(volume: &Volume) -> Vec<u8> {
    read_all(&open(&volume.mount()).await).await
}

#[tokio::test]
async fn what_two_mounts_append_at_the_same_end_is_all_there() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let a = volume.create(&one, FILE.0);
    a.append(&ctx(), "first ".into()).await.unwrap();
    a.sync(&ctx()).await.unwrap();
    let b = open(&two).await;
    for (file, text) in [(&a, "one "), (&b, "two, "), (&a, "and one more "), (&b, "and two more")] {
        assert!(file.append(&ctx(), text.into()).await.unwrap() >= 6);
    }
    a.sync(&ctx()).await.unwrap();
    assert!(!a.take_moved());
    // What is appended while it is not published yet goes along.
    assert_eq!(read_all(&b).await, b"first two, and two more");
    let attr = b.sync(&ctx()).await.unwrap();
    assert!(b.take_moved() && !b.take_moved());
    let all = b"first one and one more two, and two more";
    assert_eq!((attr.size, read_all(&b).await), (all.len() as u64, all.to_vec()));
    assert_eq!(stored(&volume).await, all);
    // Where it went on before, the other one appends after it now.
    a.append(&ctx(), ".".into()).await.unwrap();
    a.sync(&ctx()).await.unwrap();
    assert_eq!(stored(&volume).await, [&all[..], b"."].concat());
    assert_eq!(read_all(&a).await, [&all[..], b"."].concat());
}

#[tokio::test]
async fn long_appends_move_over_blocks_and_are_published_before_they_are_too_long() {
    let volume = Volume::new();
    let options = crate::BodyOptions { write_buffer: 64 << 20, read_buffer: 8 << 20, ..crate::BodyOptions::default() };
    let (one, two) = (volume.mount_with(options.clone()), volume.mount_with(options));
    let a = volume.create(&one, FILE.0);
    let b = open(&two).await;
    let (first, second) = (bytes(1, 5_000_001), bytes(2, 7_000_003));
    a.append(&ctx(), first.clone()).await.unwrap();
    b.append(&ctx(), second.clone()).await.unwrap();
    a.sync(&ctx()).await.unwrap();
    b.sync(&ctx()).await.unwrap();
    assert_eq!(stored(&volume).await, [&first[..], &second[..]].concat());
    // Without any sync no more is left unpublished than two blocks and one append.
    let piece = bytes(3, 1 << 20);
    for _ in 0..20 {
        a.append(&ctx(), piece.clone()).await.unwrap();
    }
    let published = open(&volume.mount()).await.attr().size;
    let all = (first.len() + second.len() + 20 * piece.len()) as u64;
    assert!(published + 2 * BLOCK_SIZE + piece.len() as u64 >= all, "{published} of {all}");
    a.sync(&ctx()).await.unwrap();
    let stored = stored(&volume).await;
    assert_eq!(stored.len() as u64, all);
    assert!(stored[first.len() + second.len()..].chunks(piece.len()).all(|part| part == piece));
}

#[tokio::test]
async fn appends_stay_where_something_else_was_written_among_them() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let a = volume.create(&one, FILE.0);
    a.append(&ctx(), "0123".into()).await.unwrap();
    a.write(&ctx(), 6, "67".into()).await.unwrap();
    a.append(&ctx(), "89".into()).await.unwrap();
    let b = open(&two).await;
    b.append(&ctx(), "b".into()).await.unwrap();
    b.sync(&ctx()).await.unwrap();
    a.sync(&ctx()).await.unwrap();
    assert_eq!(stored(&volume).await, b"0123\x00\x006789");
}

#[tokio::test]
async fn a_file_that_was_cut_is_appended_to_at_its_new_end() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let a = volume.create(&one, FILE.0);
    a.append(&ctx(), "0123456789".into()).await.unwrap();
    a.sync(&ctx()).await.unwrap();
    let b = open(&two).await;
    b.append(&ctx(), "end".into()).await.unwrap();
    a.truncate(&ctx(), 4).await.unwrap();
    b.sync(&ctx()).await.unwrap();
    assert_eq!(stored(&volume).await, b"0123end");
    assert_eq!(read_all(&b).await, b"0123end");
}

#[tokio::test]
async fn an_append_whose_answer_was_lost_is_there_once_and_nobody_gets_in_between() {
    for took_effect in [false, true] {
        let volume = Volume::new();
        let (one, two) = (volume.mount(), volume.mount());
        let a = volume.create(&one, FILE.0);
        let b = open(&two).await;
        a.append(&ctx(), "one ".into()).await.unwrap();
        volume.metadata.fail_publish(took_effect, MetaError::Deadline("test".into()));
        a.sync(&ctx()).await.unwrap_err();
        b.append(&ctx(), "two ".into()).await.unwrap();
        // It waits until the first one knows.
        let waiting = tokio::spawn({
            let b = b.clone();
            async move { b.sync(&ctx()).await.map(drop) }
        });
        a.append(&ctx(), "one more ".into()).await.unwrap();
        a.sync(&ctx()).await.unwrap();
        waiting.await.unwrap().unwrap();
        let text = String::from_utf8(stored(&volume).await).unwrap();
        assert!(["one one more two ", "one two one more "].contains(&&*text), "{took_effect}: {text}");
        assert_eq!(read_all(&a).await.len(), text.len() - if text.ends_with("two ") { 4 } else { 0 });
    }
}

#[tokio::test]
async fn a_refused_append_goes_to_the_end_of_later() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let a = volume.create(&one, FILE.0);
    let b = open(&two).await;
    a.append(&ctx(), "one".into()).await.unwrap();
    volume.metadata.fail_publish(false, MetaError::QuotaExceeded("test".into()));
    a.sync(&ctx()).await.unwrap_err();
    b.append(&ctx(), "two ".into()).await.unwrap();
    b.sync(&ctx()).await.unwrap();
    a.sync(&ctx()).await.unwrap();
    let text = String::from_utf8(stored(&volume).await).unwrap();
    assert!(["two one", "onetwo "].contains(&&*text), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_of_many_appenders_is_there_once_and_whole() {
    let volume = Volume::new();
    let mounts = [volume.mount(), volume.mount(), volume.mount()];
    drop(volume.create(&mounts[0], FILE.0));
    let mut tasks = Vec::new();
    for (number, mount) in mounts.iter().enumerate() {
        for writer in 0..2 {
            let mount = mount.clone();
            tasks.push(tokio::spawn(async move {
                let file = open(&mount).await;
                for record in 0..15 {
                    let text = format!("{number}.{writer}.{record} {}\n", "x".repeat((record * 977) % 5000));
                    file.append(&ctx(), text.into()).await.unwrap();
                    if record % 3 != 2 {
                        file.sync(&ctx()).await.unwrap();
                    }
                }
                file.sync(&ctx()).await.unwrap();
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let text = String::from_utf8(stored(&volume).await).unwrap();
    let mut found: Vec<&str> = text.lines().collect();
    let mut expected: Vec<String> = (0..3)
        .flat_map(|number| (0..2).map(move |writer| (number, writer)))
        .flat_map(|(number, writer)| {
            (0..15)
                .map(move |record: usize| format!("{number}.{writer}.{record} {}", "x".repeat((record * 977) % 5000)))
        })
        .collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}
