//! Memory, extents and requests stay bounded.

use std::sync::Arc;
use std::time::Duration;

use nokvfs_object::Operation;
use nokvfs_types::InodeId;

use super::{Volume, bytes, ctx, read_all, within};
use crate::{BodyError, BodyOptions, ReadStream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_share_a_bounded_stage() {
    let volume = Volume::new();
    let mount = volume.mount();
    let writers: Vec<_> = (1..=6)
        .map(|inode| {
            let file = volume.create(&mount, inode);
            let mount = mount.clone();
            tokio::spawn(async move {
                for step in 0..12u64 {
                    // Every second file is written in pieces with gaps: no block is ever full.
                    let at = step * 1_000_000 * (1 + inode % 2);
                    file.write(&ctx(), at, bytes(step, 700_000)).await.unwrap();
                    assert!(mount.stage.used() <= mount.stage.capacity());
                }
                file.sync(&ctx()).await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    super::model::wait_for(|| mount.stage.used() == 0).await;
    for inode in 1..=6 {
        let file = volume.mount().open(&ctx(), InodeId(inode)).await.unwrap();
        let all = read_all(&file).await;
        for step in 0..12u64 {
            let at = (step * 1_000_000 * (1 + inode % 2)) as usize;
            assert!(all[at..at + 700_000] == bytes(step, 700_000));
        }
    }
}

#[tokio::test]
async fn a_full_stage_makes_writers_wait_until_their_deadline() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    let stalls: Vec<_> = (1..=2).map(|nth| volume.store.stall(Operation::Put, nth)).collect();
    for block in 0..2u64 {
        file.write(&ctx(), block << 22, bytes(block, 4 << 20)).await.unwrap();
    }
    let error = file.write(&within(Duration::from_millis(50)), 8 << 20, bytes(9, 10)).await.unwrap_err();
    assert!(matches!(error, BodyError::Deadline(_)), "{error}");
    assert_eq!(file.attr().size, 8 << 20, "nothing was written");
    stalls.into_iter().for_each(nokvfs_object::Stall::release);
    file.write(&ctx(), 8 << 20, bytes(9, 10)).await.unwrap();
    file.sync(&ctx()).await.unwrap();
    assert_eq!(volume.metadata.attr(1).size, (8 << 20) + 10);
}

#[tokio::test]
async fn a_log_with_a_sync_after_each_line_has_few_extents() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    let mut expected = Vec::new();
    for line in 0..600 {
        let data = bytes(line, 5000);
        file.append(&ctx(), data.clone()).await.unwrap();
        file.sync(&ctx()).await.unwrap();
        expected.extend_from_slice(&data);
    }
    assert!(volume.metadata.most_extents() <= 40, "{}", volume.metadata.most_extents());
    assert!(volume.metadata.unnamed().is_empty());
    assert!(read_all(&volume.mount().open(&ctx(), InodeId(1)).await.unwrap()).await == expected);
}

#[tokio::test]
async fn a_log_opened_for_each_line_is_compacted() {
    let volume = Volume::new();
    let mount = volume.mount();
    drop(volume.create(&mount, 1));
    for line in 0..400 {
        let file = mount.open(&ctx(), InodeId(1)).await.unwrap();
        file.append(&ctx(), bytes(line, 100)).await.unwrap();
        file.sync(&ctx()).await.unwrap();
    }
    assert!(volume.metadata.most_extents() <= 256, "{}", volume.metadata.most_extents());
    let all: Vec<u8> = (0..400).flat_map(|line| bytes(line, 100)).collect();
    assert!(read_all(&volume.mount().open(&ctx(), InodeId(1)).await.unwrap()).await == all);
}

#[tokio::test]
async fn more_pieces_than_a_chunk_can_have_are_published_rewritten() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    let mut expected = vec![0; 1_500 * 8192 - 4096];
    for piece in 0..1_500 {
        let data = bytes(piece, 4096);
        file.write(&ctx(), piece * 8192, data.clone()).await.unwrap();
        expected[piece as usize * 8192..][..4096].copy_from_slice(&data);
    }
    file.sync(&ctx()).await.unwrap();
    assert!(volume.metadata.most_extents() <= 128, "{}", volume.metadata.most_extents());
    assert!(read_all(&file).await == expected);
    assert!(read_all(&volume.mount().open(&ctx(), InodeId(1)).await.unwrap()).await == expected);
    drop(file);
    super::model::wait_for(|| volume.metadata.unnamed().is_empty()).await;
}

/// Another session fragments the chunk between this mount's view and its publish.
#[tokio::test]
async fn a_publish_refused_as_too_fragmented_is_repeated_rewritten() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let file = volume.create(&one, 1);
    let there = two.open(&ctx(), InodeId(1)).await.unwrap();
    for (file, shift) in [(&file, 0), (&there, 255 * 8192), (&file, 2 * 255 * 8192)] {
        for piece in 0..255 {
            file.write(&ctx(), shift + piece * 8192, bytes(piece, 100)).await.unwrap();
        }
        file.sync(&ctx()).await.unwrap();
    }
    let all = read_all(&volume.mount().open(&ctx(), InodeId(1)).await.unwrap()).await;
    for piece in 0..3 * 255usize {
        assert!(all[piece * 8192..][..100] == bytes(piece as u64 % 255, 100), "piece {piece}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_while_writes_go_on_publishes_what_was_before() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    let writer = {
        let file = file.clone();
        tokio::spawn(async move {
            for step in 0..300u64 {
                file.append(&ctx(), bytes(step, 20_000)).await.unwrap();
            }
        })
    };
    let syncers: Vec<_> = (0..3)
        .map(|_| {
            let (file, metadata) = (file.clone(), volume.metadata.clone());
            tokio::spawn(async move {
                for _ in 0..20 {
                    let before = file.attr().size;
                    file.sync(&ctx()).await.unwrap();
                    assert!(metadata.attr(1).size >= before);
                }
            })
        })
        .collect();
    writer.await.unwrap();
    for syncer in syncers {
        syncer.await.unwrap();
    }
    file.sync(&ctx()).await.unwrap();
    let all: Vec<u8> = (0..300).flat_map(|step| bytes(step, 20_000)).collect();
    assert!(read_all(&volume.mount().open(&ctx(), InodeId(1)).await.unwrap()).await == all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_readers_fetch_each_frame_once() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    file.write(&ctx(), 0, bytes(1, 6 << 20)).await.unwrap();
    file.sync(&ctx()).await.unwrap();
    let other = volume.mount_with(BodyOptions::default());
    let there = other.open(&ctx(), InodeId(1)).await.unwrap();
    let before = volume.store.calls(Operation::Get);
    let readers = (0..8).map(|_| {
        let there = there.clone();
        tokio::spawn(async move { assert!(read_all(&there).await == bytes(1, 6 << 20)) })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    let gets = volume.store.calls(Operation::Get) - before;
    assert!(gets <= 12, "48 frames came in {gets} requests");
}

#[tokio::test]
async fn a_random_reader_is_not_read_ahead() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    file.write(&ctx(), 0, bytes(1, 64 << 20)).await.unwrap();
    file.sync(&ctx()).await.unwrap();
    let there = volume.mount_with(BodyOptions::default()).open(&ctx(), InodeId(1)).await.unwrap();
    let stream = ReadStream::new();
    let before = volume.store.calls(Operation::Get);
    for step in 1..=10u64 {
        let at = (step * 7 % 11) * 5_000_000;
        let data = there.read(&ctx(), &stream, at, 4096).await.unwrap();
        assert_eq!(data.len(), 4096);
    }
    assert_eq!(volume.store.calls(Operation::Get) - before, 10);
}

#[tokio::test]
async fn upload_ids_are_settled_as_their_files_are_published() {
    let volume = Volume::new();
    let mount = volume.mount();
    for inode in 1..=900u64 {
        let file = volume.create(&mount, inode);
        file.write(&ctx(), 0, bytes(inode, 10)).await.unwrap();
        file.sync(&ctx()).await.unwrap();
    }
    let metadata = volume.metadata.clone();
    super::model::wait_for(|| metadata.reservations() == 2).await;
    assert!(metadata.settled() > 700, "{}", metadata.settled());
}

#[tokio::test]
async fn a_stage_in_a_directory_works_alike() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::new();
    let mount = volume.mount_with(BodyOptions { stage_dir: Some(dir.path().to_owned()), ..BodyOptions::default() });
    let file: Arc<_> = volume.create(&mount, 1);
    file.write(&ctx(), 3, bytes(1, 5_000_000)).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    file.sync(&ctx()).await.unwrap();
    assert!(read_all(&file).await[3..] == bytes(1, 5_000_000));
}
