//! Small bodies that share an object.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nokvfs_object::{Fault, ObjectError, Operation, Stall};
use nokvfs_types::{InodeId, MetaError};

use super::metadata::pack_of;
use super::{Volume, bytes, ctx, read_all};
use crate::{Bodies, OpenFile};

/// Longer than the server waits to hear of settled packs.
async fn wait(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn packs(volume: &Volume) -> usize {
    volume.objects.keys().iter().filter(|key| pack_of(key).is_some()).count()
}

async fn check(volume: &Volume, inode: u64, len: usize) {
    let there = volume.mount().open(&ctx(), InodeId(inode)).await.unwrap();
    assert!(read_all(&there).await == bytes(inode, len), "inode {inode} differs");
}

/// Files of these lengths, written and not synced.
async fn written(volume: &Volume, mount: &Arc<Bodies>, lens: &[usize]) -> Vec<Arc<OpenFile>> {
    let mut files = Vec::new();
    for (inode, len) in (1..).zip(lens) {
        let file = volume.create(mount, inode);
        file.write(&ctx(), 0, bytes(inode, *len)).await.unwrap();
        files.push(file);
    }
    files
}

/// Holds the uploader with a file of its own, so that what is queued meanwhile comes in one pack.
async fn hold(volume: &Volume, mount: &Arc<Bodies>) -> (Arc<OpenFile>, Stall) {
    let file = volume.create(mount, 1000);
    file.write(&ctx(), 0, bytes(1000, 10)).await.unwrap();
    let stall = volume.store.stall(Operation::Put, 1);
    file.send_staged();
    assert!(stall.reached().await);
    (file, stall)
}

/// How many bodies wait.
async fn queued(mount: &Arc<Bodies>, files: &[Arc<OpenFile>]) {
    files.iter().for_each(|file| file.send_staged());
    wait("queued", || mount.packer.waiting() == files.len()).await;
}

async fn sync_all(files: &[Arc<OpenFile>]) {
    for result in join_all(files.iter().map(|file| async move { file.sync(&ctx()).await })).await {
        result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_synced_at_once_share_objects() {
    let volume = Volume::new();
    let mount = volume.mount();
    let files = written(&volume, &mount, &[4096; 64]).await;
    sync_all(&files).await;
    let puts = volume.store.calls(Operation::Put);
    assert!(puts <= 32, "64 files took {puts} requests");
    assert!(packs(&volume) >= 1);
    for inode in 1..=64 {
        check(&volume, inode, 4096).await;
    }
}

#[tokio::test]
async fn a_file_alone_is_no_pack() {
    let volume = Volume::new();
    let mount = volume.mount();
    sync_all(&written(&volume, &mount, &[4096]).await).await;
    assert_eq!((packs(&volume), volume.objects.len()), (0, 1));
}

#[tokio::test]
async fn a_pack_that_fails_is_uploaded_again_and_leaves_nothing() {
    for after in [false, true] {
        let volume = Volume::new();
        let mount = volume.mount();
        let (held, stall) = hold(&volume, &mount).await;
        let files = written(&volume, &mount, &[4096; 8]).await;
        queued(&mount, &files).await;
        let error = ObjectError::Unavailable("down".to_owned());
        let fault = if after { Fault::FailAfter(error) } else { Fault::FailBefore(error) };
        volume.store.inject(Operation::Put, 1, fault);
        stall.release();
        let failed = join_all(files.iter().map(|file| async move { file.sync(&ctx()).await })).await;
        assert!(failed.iter().any(Result::is_err), "the fault was met");
        sync_all(&files).await;
        held.sync(&ctx()).await.unwrap();
        for inode in 1..=8 {
            check(&volume, inode, 4096).await;
        }
        drop((files, held));
        wait("unnamed objects are deleted", || volume.metadata.unnamed().is_empty()).await;
    }
}

#[tokio::test]
async fn long_bodies_and_merged_tails_are_not_packed() {
    let volume = Volume::new();
    let mount = volume.mount();
    let files = written(&volume, &mount, &[(128 << 10) + 1; 6]).await;
    sync_all(&files).await;
    for file in &files {
        let all = bytes(file.inode().0, 200_001);
        file.write(&ctx(), (128 << 10) + 1, all.slice((128 << 10) + 1..)).await.unwrap();
    }
    sync_all(&files).await;
    assert_eq!(packs(&volume), 0);
    for inode in 1..=6 {
        check(&volume, inode, 200_001).await;
    }
}

#[tokio::test]
async fn a_file_cut_or_given_up_while_its_pack_is_uploaded_does_no_harm() {
    let volume = Volume::new();
    let mount = volume.mount();
    let (held, stall) = hold(&volume, &mount).await;
    let files = written(&volume, &mount, &[4096; 4]).await;
    queued(&mount, &files).await;
    let pack = volume.store.stall(Operation::Put, 1);
    stall.release();
    assert!(pack.reached().await);
    files[0].truncate(&ctx(), 0).await.unwrap();
    files[1].discard();
    files[2].truncate(&ctx(), 100).await.unwrap();
    pack.release();
    sync_all(&files).await;
    assert_eq!(packs(&volume), 1);
    check(&volume, 1, 0).await;
    check(&volume, 2, 0).await;
    check(&volume, 3, 100).await;
    check(&volume, 4, 4096).await;
    // As long as an older upload is open the server hears of no later one.
    held.sync(&ctx()).await.unwrap();
    for file in &files[2..] {
        file.truncate(&ctx(), 0).await.unwrap();
    }
    drop(files);
    wait("a pack that nothing names is deleted", || packs(&volume) == 0).await;
}

#[tokio::test]
async fn a_refused_publish_does_not_harm_the_pack_of_others() {
    let volume = Volume::new();
    let mount = volume.mount();
    let (_held, stall) = hold(&volume, &mount).await;
    let files = written(&volume, &mount, &[4096; 4]).await;
    queued(&mount, &files).await;
    stall.release();
    volume.metadata.fail_publish(false, MetaError::QuotaExceeded("full".to_owned()));
    assert!(files[0].sync(&ctx()).await.is_err());
    sync_all(&files[1..]).await;
    files[0].discard();
    assert_eq!(packs(&volume), 1);
    for inode in 2..=4 {
        check(&volume, inode, 4096).await;
    }
}

/// Both are in one object: only what was published is the file's published content.
#[tokio::test]
async fn two_versions_of_a_file_in_one_pack_stay_apart() {
    let volume = Volume::new();
    let mount = volume.mount();
    let (_held, stall) = hold(&volume, &mount).await;
    let file = written(&volume, &mount, &[1000]).await.remove(0);
    let context = ctx();
    let first = file.sync(&context);
    tokio::pin!(first);
    // Polled once: the first version is sealed and its sync waits for that alone.
    assert!(futures::poll!(&mut first).is_pending());
    wait("queued", || mount.packer.waiting() == 1).await;
    file.write(&ctx(), 0, bytes(7, 1000)).await.unwrap();
    file.send_staged();
    wait("queued", || mount.packer.waiting() == 2).await;
    stall.release();
    wait("uploaded", || mount.stage.used() == 0).await;
    first.await.unwrap();
    let read = read_all(&file).await;
    file.append(&ctx(), bytes(8, 10)).await.unwrap();
    file.sync(&ctx()).await.unwrap();
    let there = volume.mount().open(&ctx(), InodeId(1)).await.unwrap();
    assert!(read_all(&there).await == [bytes(7, 1000), bytes(8, 10)].concat(), "the second version is lost");
    assert!(read == bytes(7, 1000), "the second version is not read while it is unpublished");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_packs_do_not_wait_for_an_upload_that_takes_long() {
    let volume = Volume::new();
    let mount = volume.mount();
    let (held, stall) = hold(&volume, &mount).await;
    // A pack holds eight of these.
    let files = written(&volume, &mount, &[128 << 10; 24]).await;
    sync_all(&files).await;
    assert!(held.is_dirty(), "the first upload is still under way");
    drop(stall);
    held.sync(&ctx()).await.unwrap();
    for inode in 1..=24 {
        check(&volume, inode, 128 << 10).await;
    }
}
