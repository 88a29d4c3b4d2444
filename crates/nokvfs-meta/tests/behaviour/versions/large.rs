//! Long bodies, of which one command can't keep, copy or let go all at once.

use futures::future::join;
use nokvfs_meta::layout::Key;
use nokvfs_meta::service::{MetadataService, SnapshotService, VolumeService};
use nokvfs_types::{CHUNK_SIZE, Extent, InodeId, MAX_CHUNK_EXTENTS, SliceId, UploadId};

use super::{Volume, body, extent, publish, resize, write};
use crate::{Mounted, ROOT, World, context, file, unlink, until};

const CHUNKS: u64 = 60;
const EACH: u64 = 500;

/// A file of many chunks with many slices each, of which none is uploaded but the first of each chunk.
async fn long_file(world: &World, volume: &Volume, mount: &Mounted, text: &str) -> (InodeId, Vec<SliceId>) {
    let inode = mount.make(file(ROOT, text)).await.inode;
    let mut uploaded = Vec::new();
    for chunks in 0..CHUNKS / 30 {
        let first = mount.reserve((30 * EACH) as u32).await.0;
        let mut extents: Vec<Extent> = Vec::new();
        for chunk in chunks * 30..(chunks + 1) * 30 {
            for number in 0..EACH {
                let upload = UploadId(first + extents.len() as u64);
                let slice = SliceId { upload, inode, chunk: chunk as u32 };
                extents.push(extent(slice, chunk * CHUNK_SIZE + number * 100));
                if number == 0 {
                    world.upload(volume.0.id, slice, 1).await;
                    uploaded.push(slice);
                }
            }
        }
        mount.apply(publish(inode, extents)).await;
    }
    (inode, uploaded)
}

fn there(world: &World, volume: &Volume, slices: &[SliceId]) -> usize {
    slices.iter().filter(|slice| world.has(volume, **slice)).count()
}

#[tokio::test]
async fn long_bodies_are_kept_copied_and_let_go_in_steps() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let bytes = CHUNKS * EACH * 10;
    let (cut, cut_slices) = long_file(&world, &volume, &mount, "cut").await;
    let (gone, gone_slices) = long_file(&world, &volume, &mount, "gone").await;
    world.snapshot(&volume, "s").await;
    mount.apply(resize(cut, 5)).await;
    mount.apply(unlink(ROOT, "gone")).await;
    until("reclaimed", async || world.usage(&volume).await == (5, 2)).await;
    let clone = world.clone_of(&volume, Some("s"), "c").await;
    assert_eq!(world.usage(&clone).await, (2 * bytes, 3));
    let cloned = world.mount(&clone).await;
    // A whole chunk record of another's slices is copied for one write.
    let fresh = write(&world, &clone, &cloned, gone, &[30]).await;
    let view = cloned.body(&context(), gone, 0).await.expect("a view");
    let first: Vec<_> = view.extents.iter().filter(|extent| extent.offset < CHUNK_SIZE).collect();
    assert_eq!((first.len() as u64, first[1].slice), (EACH + 1, fresh[0]));
    assert!(first.len() <= MAX_CHUNK_EXTENTS);
    cloned.apply(resize(cut, CHUNK_SIZE)).await;
    assert_eq!(body(&cloned, cut).await.len() as u64, EACH);
    cloned.apply(unlink(ROOT, "gone")).await;
    until("reclaimed", async || world.usage(&clone).await == (EACH * 10, 2)).await;
    world.snapshot(&clone, "t").await;
    cloned.apply(unlink(ROOT, "cut")).await;
    until("reclaimed", async || world.usage(&clone).await == (0, 1)).await;
    let all = [cut_slices, gone_slices].concat();
    assert_eq!(there(&world, &volume, &all), all.len(), "the snapshot names them");
    // The clone's moment goes, and with it what builds on the volume; then the snapshot.
    cloned.close().await.expect("closed");
    world.unsnapshot(&clone, "t").await;
    world.engine.delete_volume(clone.0.id).await.expect("deleted");
    until("the clone goes", async || world.is_gone(&clone).await).await;
    assert_eq!(there(&world, &volume, &all), all.len());
    world.unsnapshot(&volume, "s").await;
    until("all but one go", async || there(&world, &volume, &all) == 1).await;
    assert_eq!(body(&mount, cut).await.len(), 1);
    mount.close().await.expect("closed");
    world.engine.delete_volume(volume.0.id).await.expect("deleted");
    world.is_empty().await;
}

/// A client that did not hear of its publish repeats it just when the snapshot that has the first goes.
#[tokio::test]
async fn a_publish_that_is_repeated_before_its_history_is_pruned_is_counted() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    let slice = write(&world, &volume, &mount, inode, &[0]).await[0];
    world.snapshot(&volume, "s").await;
    mount.apply(resize(inode, 0)).await;
    // Both are queued at once: whatever prunes comes after them.
    let deleted = world.engine.delete_snapshot(volume.0.id, "s");
    let (deleted, _) = join(deleted, mount.apply(publish(inode, vec![extent(slice, 0)]))).await;
    deleted.expect("deleted");
    let records = world.records().await;
    assert!(records.iter().any(|key| matches!(key, Key::Slice(_, counted) if *counted == slice)), "{records:?}");
}
