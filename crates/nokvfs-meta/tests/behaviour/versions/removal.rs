//! How long what versions share stays, and that removing it can stop anywhere.

use std::time::Duration;

use nokvfs_meta::commit::Committer;
use nokvfs_meta::layout::{Family, Key, Tree};
use nokvfs_meta::service::{MetadataService, SnapshotService, VolumeService};
use nokvfs_object::{Fault, ObjectError, Operation};
use nokvfs_types::{Applied, BLOCK_SIZE, Extent, InodeId, Mutation, SetAttr, SliceId, UploadId};

use super::{Volume, body, extent, publish, resize, write};
use crate::{Mounted, ROOT, World, file, options, unlink, until};

fn down() -> Fault {
    Fault::FailBefore(ObjectError::Unavailable("on purpose".into()))
}

impl World {
    async fn delete(&self, volume: &Volume) {
        self.engine.delete_volume(volume.0.id).await.expect("deleted");
    }

    /// Closes the engine and reads which records there are, but the server's own.
    pub async fn records(&self) -> Vec<Key> {
        self.engine.close().await.expect("closed");
        let (store, committer) = Committer::open(options(self.dir.path()).store).expect("the store");
        let mut keys = Vec::new();
        for tree in Tree::ALL {
            store
                .scan_raw(tree, &[], None, usize::MAX, &mut |key, _, _| {
                    keys.push(Key::decode(key)?);
                    Ok(true)
                })
                .expect("a scan");
        }
        committer.shutdown();
        keys.retain(|key| key.family() != Family::Server);
        keys
    }

    /// Waits until all is deleted: no object is left and no record.
    pub async fn is_empty(&mut self) {
        until("no object", async || self.memory.is_empty()).await;
        // After a start it takes as long as a session lasts until uploads are swept.
        until("swept", async || self.engine.figures().unswept == 0).await;
        let mut left = Vec::new();
        for _ in 0..50 {
            left = self.records().await;
            if left.is_empty() {
                return;
            }
            // The last of it may just have been going.
            self.restart().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{left:?} are left");
    }

    /// Garbage goes in the order in which it was made: with this gone, all that was made before is.
    async fn collected(&self, volume: &Volume, mount: &Mounted) {
        let inode = mount.make(file(ROOT, "fence")).await.inode;
        let slice = write(self, volume, mount, inode, &[0]).await[0];
        mount.apply(resize(inode, 0)).await;
        until("the fence goes", async || !self.has(volume, slice)).await;
        mount.apply(unlink(ROOT, "fence")).await;
    }
}

#[tokio::test]
async fn a_repeated_publish_after_a_snapshot_counts_once() {
    for cut_between in [false, true] {
        let mut world = World::new().await;
        let volume = world.volume().await;
        let mount = world.mount(&volume).await;
        let inode = mount.make(file(ROOT, "a")).await.inode;
        let slice = write(&world, &volume, &mount, inode, &[0]).await[0];
        world.snapshot(&volume, "s").await;
        if cut_between {
            mount.apply(resize(inode, 0)).await;
        }
        for _ in 0..2 {
            mount.apply(publish(inode, vec![extent(slice, 0)])).await;
        }
        world.unsnapshot(&volume, "s").await;
        world.collected(&volume, &mount).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.collected(&volume, &mount).await;
        assert!(world.has(&volume, slice), "the file names it");
        assert_eq!(body(&mount, inode).await, [extent(slice, 0)]);
        world.snapshot(&volume, "s").await;
        mount.apply(resize(inode, 0)).await;
        world.collected(&volume, &mount).await;
        assert!(world.has(&volume, slice), "the snapshot names it");
        world.unsnapshot(&volume, "s").await;
        until("the object goes", async || !world.has(&volume, slice)).await;
        mount.close().await.expect("closed");
        world.delete(&volume).await;
        world.is_empty().await;
    }
}

/// A writer goes on with a slice that a snapshot has a part of.
#[tokio::test]
async fn all_blocks_of_a_slice_that_grew_after_a_snapshot_go() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    let slice = SliceId { upload: mount.reserve(1).await, inode, chunk: 0 };
    // The last block is uploaded, and its writer lost before it is published.
    world.upload(volume.0.id, slice, 4).await;
    let long = |blocks: u64| Extent { len: blocks * BLOCK_SIZE, slice_len: blocks * BLOCK_SIZE, ..extent(slice, 0) };
    mount.apply(publish(inode, vec![long(1)])).await;
    world.snapshot(&volume, "s").await;
    mount.apply(publish(inode, vec![long(2)])).await;
    mount.apply(publish(inode, vec![long(3)])).await;
    mount.close().await.expect("closed");
    until("swept", async || world.keys(&volume).len() == 3).await;
    let mount = world.mount(&volume).await;
    mount.apply(unlink(ROOT, "a")).await;
    until("reclaimed", async || world.usage(&volume).await == (0, 1)).await;
    world.collected(&volume, &mount).await;
    let reader = world.read(&volume, "s").await;
    assert_eq!(body(&reader, inode).await, [long(1)]);
    reader.close().await.expect("closed");
    assert!(world.has(&volume, slice));
    world.unsnapshot(&volume, "s").await;
    until("all of it goes", async || world.keys(&volume).is_empty()).await;
}

/// After a rollback, what was written since the last one goes record by record: beside it is what stays.
#[tokio::test]
async fn a_volume_that_was_rolled_back_twice_loses_what_came_between() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    let kept = write(&world, &volume, &mount, inode, &[0]).await[0];
    mount.close().await.expect("closed");
    world.snapshot(&volume, "first").await;
    world.roll_back(&volume, "first").await;
    let mount = world.mount(&volume).await;
    let pack = SliceId::pack(mount.reserve(1).await);
    world.upload(volume.0.id, pack, 1).await;
    let other = mount.make(file(ROOT, "b")).await.inode;
    mount.apply(publish(inode, vec![extent(pack, 100)])).await;
    mount.apply(publish(other, vec![extent(pack, 0)])).await;
    let slices = write(&world, &volume, &mount, other, &[100, 200]).await;
    // Several moments name the same slices.
    for number in 0..3 {
        world.snapshot(&volume, &format!("s{number}")).await;
        for inode in [inode, other] {
            let set = SetAttr { mode: Some(0o600 + number), ..SetAttr::default() };
            mount.apply(Mutation::SetAttr { inode, set }).await;
        }
    }
    mount.close().await.expect("closed");
    world.roll_back(&volume, "first").await;
    let reader = world.read(&volume, "s1").await;
    assert_eq!(body(&reader, other).await.len(), 3);
    reader.close().await.expect("closed");
    // Nothing is pruned before all are gone: the records of the last moment go as they are.
    let delete = (0..3).map(|number| world.engine.delete_snapshot(volume.0.id, ["s0", "s1", "s2"][number]));
    for deleted in futures::future::join_all(delete).await {
        deleted.expect("deleted");
    }
    until("it goes", async || !slices.iter().chain([&pack]).any(|slice| world.has(&volume, *slice))).await;
    assert!(world.has(&volume, kept));
    let mount = world.mount(&volume).await;
    assert_eq!(body(&mount, inode).await, [extent(kept, 0)]);
    mount.close().await.expect("closed");
    world.unsnapshot(&volume, "first").await;
    world.delete(&volume).await;
    world.is_empty().await;
}

#[tokio::test]
async fn uploads_of_a_session_are_swept_after_a_rollback() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    let named = write(&world, &volume, &mount, inode, &[0]).await[0];
    let lost = SliceId { upload: mount.reserve(1).await, inode, chunk: 0 };
    world.upload(volume.0.id, lost, 2).await;
    world.snapshot(&volume, "s").await;
    let since = write(&world, &volume, &mount, inode, &[50]).await[0];
    world.objects.inject_always(Operation::List, down());
    mount.close().await.expect("closed");
    world.roll_back(&volume, "s").await;
    until("trimmed", async || !world.has(&volume, since)).await;
    // The same again, in what a second rollback leaves behind as a whole.
    let mount = world.mount(&volume).await;
    let second = SliceId { upload: mount.reserve(1).await, inode, chunk: 0 };
    world.upload(volume.0.id, second, 2).await;
    let published = write(&world, &volume, &mount, inode, &[50]).await[0];
    mount.close().await.expect("closed");
    world.roll_back(&volume, "s").await;
    assert!([lost, second, named].iter().all(|slice| world.has(&volume, *slice)));
    world.objects.heal();
    world.restart_with(|options| options.session_expiry = Duration::from_millis(100)).await;
    until("swept", async || [lost, second, published].iter().all(|slice| !world.has(&volume, *slice))).await;
    until("swept", async || world.engine.figures().unswept == 0).await;
    assert_eq!(world.keys(&volume), [named.object_key(volume.0.id, 0)]);
    let mount = world.mount(&volume).await;
    assert_eq!(body(&mount, inode).await, [extent(named, 0)]);
    mount.close().await.expect("closed");
    world.unsnapshot(&volume, "s").await;
    world.delete(&volume).await;
    world.is_empty().await;
}

#[tokio::test]
async fn garbage_of_a_volume_that_is_gone_goes() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    write(&world, &volume, &mount, inode, &[0, 100]).await;
    world.snapshot(&volume, "s").await;
    let clone = world.clone_of(&volume, Some("s"), "c").await;
    let cloned = world.mount(&clone).await;
    write(&world, &clone, &cloned, inode, &[0]).await;
    world.objects.inject_always(Operation::Delete, down());
    cloned.apply(resize(inode, 0)).await;
    mount.apply(resize(inode, 0)).await;
    for mount in [mount, cloned] {
        mount.close().await.expect("closed");
    }
    world.unsnapshot(&volume, "s").await;
    world.delete(&clone).await;
    world.delete(&volume).await;
    until("tried", async || world.objects.calls(Operation::Delete) > 0).await;
    world.restart_with(|options| options.session_expiry = Duration::from_millis(100)).await;
    world.objects.heal();
    until("the queue is empty", async || world.engine.figures().garbage == 0).await;
    world.is_empty().await;
}

/// Files of one object each, in whose records more than one step has to go through.
async fn fill(world: &World, volume: &Volume, mount: &Mounted, prefix: &str, count: u64) -> Vec<(InodeId, SliceId)> {
    let names: Vec<_> = (0..count).map(|number| format!("{prefix}{number}")).collect();
    let made = futures::future::join_all(names.iter().map(|name| mount.make(file(ROOT, name)))).await;
    let first = mount.reserve(count as u32).await.0;
    let mut files = Vec::new();
    for (attr, upload) in made.iter().zip(first..) {
        let slice = SliceId { upload: UploadId(upload), inode: attr.inode, chunk: 0 };
        world.upload(volume.0.id, slice, 1).await;
        files.push((attr.inode, slice));
    }
    let published = files.iter().map(|(inode, slice)| mount.apply(publish(*inode, vec![extent(*slice, 0)])));
    for applied in futures::future::join_all(published).await {
        assert!(matches!(applied, Applied::Entry { .. }));
    }
    files
}

async fn cut_all(mount: &Mounted, files: &[(InodeId, SliceId)]) {
    futures::future::join_all(files.iter().map(|(inode, _)| mount.apply(resize(*inode, 0)))).await;
}

#[tokio::test]
async fn pruning_trimming_and_deleting_stop_anywhere_and_go_on() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let old = fill(&world, &volume, &mount, "old", 700).await;
    world.snapshot(&volume, "kept").await;
    world.snapshot(&volume, "pruned").await;
    let new = fill(&world, &volume, &mount, "new", 700).await;
    world.snapshot(&volume, "late").await;
    cut_all(&mount, &new).await;
    cut_all(&mount, &old[..600]).await;
    mount.close().await.expect("closed");
    until("swept", async || world.engine.figures().unswept == 0).await;
    let there = |world: &World, files: &[(InodeId, SliceId)]| {
        let keys: std::collections::BTreeSet<_> = world.memory.keys().into_iter().collect();
        files.iter().filter(|(_, slice)| keys.contains(&slice.object_key(volume.0.id, 0))).count()
    };

    // Prune.
    for name in ["pruned", "late"] {
        world.unsnapshot(&volume, name).await;
        world.restart().await;
        assert_eq!(there(&world, &old), 700);
    }
    world.restart().await;
    until("the later snapshot's go", async || there(&world, &new) == 0).await;
    assert_eq!(there(&world, &old), 700);

    // Trim.
    let mount = world.mount(&volume).await;
    let fresh = fill(&world, &volume, &mount, "fresh", 700).await;
    mount.close().await.expect("closed");
    until("swept", async || world.engine.figures().unswept == 0).await;
    world.roll_back(&volume, "kept").await;
    world.restart().await;
    world.restart().await;
    until("what came after goes", async || there(&world, &fresh) == 0).await;
    assert_eq!((world.keys(&volume).len(), world.usage(&volume).await), (700, (7000, 701)));

    // Deletion, of a clone that is between others first.
    let clone = world.clone_of(&volume, Some("kept"), "c").await;
    let mount = world.mount(&clone).await;
    cut_all(&mount, &old[..300]).await;
    let own = fill(&world, &clone, &mount, "own", 600).await;
    mount.close().await.expect("closed");
    until("swept", async || world.engine.figures().unswept == 0).await;
    let last = world.clone_of(&clone, None, "d").await;
    world.delete(&clone).await;
    world.restart().await;
    world.unsnapshot(&volume, "kept").await;
    world.delete(&volume).await;
    world.restart().await;
    let mount = world.mount(&last).await;
    for (inode, slice) in old[300..310].iter().chain(&own[..10]) {
        assert_eq!(body(&mount, *inode).await, [extent(*slice, 0)]);
    }
    mount.close().await.expect("closed");
    assert_eq!((world.keys(&volume).len(), world.keys(&clone).len()), (700, 600));
    world.objects.inject_always(Operation::List, down());
    world.delete(&last).await;
    world.restart().await;
    world.objects.heal();
    for _ in 0..4 {
        world.restart().await;
    }
    world.is_empty().await;
}
