//! What a snapshot keeps, and what it refuses.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use nokvfs_meta::service::{MetadataService, SessionService, SnapshotService, VolumeService};
use nokvfs_object::{Fault, ObjectError, Operation};
use nokvfs_types::{
    CHUNK_SIZE, InodeId, MAX_SNAPSHOTS, MetaError, Mutation, SessionRequest, UploadId, VolumeState, XattrMode,
};

use super::{body, clone_of, list, publish, resize, write};
use crate::{ROOT, World, context, dir, entry, file, name, request, unlink, until};

fn is_busy<T: std::fmt::Debug>(answer: Result<T, MetaError>) {
    assert!(matches!(answer, Err(MetaError::Busy(_))), "{answer:?}");
}

#[tokio::test]
async fn numbers_are_never_given_out_again() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mut inodes = BTreeSet::new();
    let mut uploads = 0;
    for round in 0..4 {
        let mount = world.mount(&volume).await;
        for number in 0..20 {
            let made = mount.make(file(ROOT, &format!("{round}-{number}"))).await.inode;
            assert!(inodes.insert(made), "{made} was given out before");
            let first = mount.reserve(3).await;
            assert!(first.0 > uploads, "{first} was granted before");
            uploads = first.0 + 2;
            if round == 0 && number == 9 {
                world.snapshot(&volume, "s").await;
            }
        }
        mount.close().await.expect("closed");
        if round == 1 {
            world.restart().await;
        }
        world.roll_back(&volume, "s").await;
        let mount = world.mount(&volume).await;
        assert_eq!(list(&mount, ROOT, 100).await.len(), 10);
        mount.close().await.expect("closed");
    }
}

#[tokio::test]
async fn names_are_unique_and_limited() {
    let world = World::new().await;
    let volume = world.volume().await;
    let first = world.engine.create_snapshot(volume.0.id, "s0").await.expect("made");
    let mount = world.mount(&volume).await;
    mount.make(file(ROOT, "a")).await;
    assert_eq!(world.engine.create_snapshot(volume.0.id, "s0").await, Ok(first.clone()));
    let names: Vec<_> = (1..MAX_SNAPSHOTS).map(|number| format!("s{number}")).collect();
    for made in join_all(names.iter().map(|name| world.engine.create_snapshot(volume.0.id, name))).await {
        made.expect("made");
    }
    is_busy(world.engine.create_snapshot(volume.0.id, "more").await);
    assert_eq!(world.engine.create_snapshot(volume.0.id, "s0").await, Ok(first));
    assert_eq!(world.engine.list_snapshots(volume.0.id).await.expect("listed").len(), MAX_SNAPSHOTS);
    world.unsnapshot(&volume, "s7").await;
    world.unsnapshot(&volume, "s7").await;
    world.snapshot(&volume, "more").await;
    for refused in ["", "A", "-a", "a/b"] {
        let answer = world.engine.create_snapshot(volume.0.id, refused).await;
        assert!(matches!(answer, Err(MetaError::Invalid(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_mounted_is_busy() {
    let world = World::new().await;
    let volume = world.volume().await;
    world.snapshot(&volume, "s").await;
    let reader = world.read(&volume, "s").await;
    is_busy(world.engine.delete_snapshot(volume.0.id, "s").await);
    // A reader of a snapshot holds no rollback up, and goes on after it.
    world.roll_back(&volume, "s").await;
    assert_eq!(reader.getattr(&context(), ROOT).await.expect("there").inode, ROOT);
    is_busy(world.engine.delete_snapshot(volume.0.id, "s").await);
    let mount = world.mount(&volume).await;
    is_busy(world.engine.rollback_volume(volume.0.id, "s").await);
    is_busy(world.engine.delete_volume(volume.0.id).await);
    mount.close().await.expect("closed");
    reader.close().await.expect("closed");
    world.unsnapshot(&volume, "s").await;
    assert_eq!(world.engine.rollback_volume(volume.0.id, "s").await.map(drop), Err(MetaError::NotFound));
}

#[tokio::test]
async fn a_session_on_a_snapshot_changes_nothing_and_ends() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    world.snapshot(&volume, "s").await;
    let reader = world.read(&volume, "s").await;
    let mutations = [
        file(ROOT, "b"),
        unlink(ROOT, "a"),
        resize(inode, 5),
        publish(inode, Vec::new()),
        Mutation::ReserveUploads { count: 1, settled: UploadId(0) },
        Mutation::SetXattr { inode, name: "user.x".into(), value: "y".into(), mode: XattrMode::Set },
    ];
    for mutation in mutations {
        assert_eq!(reader.mutate(&context(), mutation).await, Err(MetaError::ReadOnly));
    }
    // Taken over after a restart it is the same.
    let grant = reader.grant().clone();
    drop(reader);
    mount.apply(unlink(ROOT, "a")).await;
    world.restart().await;
    let resume = Some((grant.session, grant.generation));
    let wanted = SessionRequest { snapshot: Some("s".into()), resume, ..request(&volume) };
    let grant = world.engine.open_session(wanted).await.expect("resumed");
    assert_eq!(world.engine.lookup(grant.session, grant.generation, ROOT, &name("a")).await.expect("a").inode, inode);
    world.engine.close_session(grant.session, grant.generation).await.expect("closed");
    assert_eq!(world.engine.figures().sessions, 1);
    world.unsnapshot(&volume, "s").await;
}

/// A reader has the inode open that its snapshot shows, not the one that the volume had.
#[tokio::test]
async fn a_session_on_a_snapshot_keeps_no_orphan() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    world.snapshot(&volume, "s").await;
    let reader = world.read(&volume, "s").await;
    reader.opened(inode);
    mount.apply(unlink(ROOT, "a")).await;
    until("reclaimed", async || world.usage(&volume).await == (0, 1)).await;
    assert_eq!(reader.getattr(&context(), inode).await.expect("there").nlink, 1);
}

#[tokio::test]
async fn a_snapshot_costs_as_much_however_many_files_there_are() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let mut costs = Vec::new();
    for round in 0..2 {
        let names: Vec<_> = (0..800 * round).map(|number| format!("f{number}")).collect();
        join_all(names.iter().map(|name| mount.apply(file(ROOT, name)))).await;
        let before = world.engine.health();
        world.snapshot(&volume, &format!("s{round}")).await;
        world.clone_of(&volume, Some(&format!("s{round}")), &format!("c{round}")).await;
        let after = world.engine.health();
        // The log is as long as what was written.
        costs.push((after.commands - before.commands, after.usage.wal - before.usage.wal));
    }
    assert_eq!(costs[0].0, 2);
    assert_eq!(costs[1].0, 2);
    assert!(costs[1].1 < costs[0].1 + 1024, "{costs:?}");
}

/// Commands that are planned with a pin in between, in one batch or in several.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_around_a_snapshot_is_on_one_side_of_it() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let folder = mount.make(dir(ROOT, "d")).await.inode;
    let mut inodes = Vec::new();
    for number in 0..24 {
        let inode = mount.make(file(folder, &number.to_string())).await.inode;
        write(&world, &volume, &mount, inode, &[0, CHUNK_SIZE]).await;
        inodes.push(inode);
    }
    let change = async |inode: InodeId| {
        let mut sizes = Vec::new();
        for size in 1..20u64 {
            let changed = entry(mount.apply(resize(inode, size)).await);
            assert_eq!(changed.size, size);
            sizes.push((changed.version.0, size));
        }
        sizes
    };
    let pins = async {
        let mut pins = Vec::new();
        for number in 0..15 {
            let made = world.engine.create_snapshot(volume.0.id, &format!("s{number}")).await;
            pins.push(made.expect("a snapshot"));
        }
        pins
    };
    // Queued in this order, the snapshot is in the middle of a batch.
    let (before, after) = inodes.split_at(inodes.len() / 2);
    let before = join_all(before.iter().map(|inode| change(*inode)));
    let after = join_all(after.iter().map(|inode| change(*inode)));
    let (mut sizes, pins, rest) = futures::join!(before, pins, after);
    sizes.extend(rest);
    for pin in pins {
        let reader = world.read(&volume, &pin.name).await;
        for (inode, sizes) in inodes.iter().zip(&sizes) {
            let last = sizes.iter().rev().find(|(version, _)| *version <= pin.version.0);
            let size = last.map_or(CHUNK_SIZE + 10, |(_, size)| *size);
            assert_eq!(reader.getattr(&context(), *inode).await.expect("there").size, size, "{}", pin.name);
            assert!(body(&reader, *inode).await.iter().all(|extent| extent.end() <= size));
        }
        reader.close().await.expect("closed");
    }
}

#[tokio::test]
async fn a_deleted_volume_with_a_snapshot_is_hidden() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    let slices = write(&world, &volume, &mount, inode, &[0]).await;
    world.snapshot(&volume, "s").await;
    mount.apply(resize(inode, 0)).await;
    mount.close().await.expect("closed");
    world.engine.delete_volume(volume.0.id).await.expect("deleted");
    assert_eq!(world.engine.volume(volume.0.id).await.expect("hidden").state, VolumeState::Hidden);
    assert_eq!(world.engine.open_session(request(&volume)).await, Err(MetaError::NotFound));
    assert_eq!(world.engine.create_snapshot(volume.0.id, "t").await, Err(MetaError::NotFound));
    assert_eq!(world.engine.list_volumes(None, 10).await, Ok(Vec::new()));
    let again = world.engine.create_volume(volume.0.spec.clone()).await.expect("its name is free");
    assert_ne!(again.0.id, volume.0.id);
    let clone = world.clone_of(&volume, Some("s"), "c").await;
    let mount = world.mount(&clone).await;
    assert_eq!(body(&mount, inode).await, [super::extent(slices[0], 0)]);
    assert_eq!(world.usage(&clone).await, (10, 2));
    world.unsnapshot(&volume, "s").await;
    assert!(world.has(&volume, slices[0]));
    mount.close().await.expect("closed");
    world.engine.delete_volume(clone.0.id).await.expect("deleted");
    until("both gone", async || world.is_gone(&clone).await && world.is_gone(&volume).await).await;
    until("no object", async || world.memory.keys().len() == 1).await;
}

/// A snapshot of what a volume was before a rollback is found through what it was last.
#[tokio::test]
async fn a_deleted_volume_finds_snapshots_from_before_a_rollback() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    mount.close().await.expect("closed");
    world.snapshot(&volume, "before").await;
    world.roll_back(&volume, "before").await;
    world.snapshot(&volume, "after").await;
    world.engine.delete_volume(volume.0.id).await.expect("deleted");
    world.unsnapshot(&volume, "after").await;
    // Time for a deletion that must not be.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let reader = world.read(&volume, "before").await;
    assert_eq!(reader.lookup(&context(), ROOT, &name("a")).await.expect("a").inode, inode);
    reader.close().await.expect("closed");
    world.unsnapshot(&volume, "before").await;
    until("gone", async || world.is_gone(&volume).await && world.memory.is_empty()).await;
}

#[tokio::test]
async fn extended_attributes_and_removed_files_stay_in_a_snapshot() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    let set = |value: &'static str| Mutation::SetXattr {
        inode,
        name: "user.x".into(),
        value: value.into(),
        mode: XattrMode::Set,
    };
    mount.apply(set("old")).await;
    world.snapshot(&volume, "s").await;
    mount.apply(set("new")).await;
    world.snapshot(&volume, "t").await;
    mount.apply(Mutation::RemoveXattr { inode, name: "user.x".into() }).await;
    mount.apply(unlink(ROOT, "a")).await;
    until("reclaimed", async || world.usage(&volume).await == (0, 1)).await;
    for (snapshot, value) in [("s", "old"), ("t", "new")] {
        let reader = world.read(&volume, snapshot).await;
        assert_eq!(reader.getxattr(&context(), inode, b"user.x").await, Ok(Bytes::from(value)));
        assert_eq!(reader.listxattr(&context(), inode).await.expect("names").len(), 1);
        let usage = reader.statfs(&context()).await.expect("figures");
        assert_eq!((usage.used_bytes, usage.used_inodes), (0, 2));
    }
}

/// A clone's name is that of a volume that is going.
#[tokio::test]
async fn a_clone_is_not_answered_with_one_that_is_being_deleted() {
    let world = World::new().await;
    let volume = world.volume().await;
    let clone = world.clone_of(&volume, None, "c").await;
    world.objects.inject_always(Operation::List, Fault::FailBefore(ObjectError::Unavailable("on purpose".into())));
    world.engine.delete_volume(clone.0.id).await.expect("deleted");
    is_busy(world.engine.clone_volume(clone_of(&volume, None, "c")).await);
    world.objects.heal();
    until("gone", async || world.is_gone(&clone).await).await;
    world.clone_of(&volume, None, "c").await;
}

/// What a volume was cloned from has uploads of the same numbers as its own, later ones.
#[tokio::test]
async fn a_clone_publishes_only_its_own_uploads() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    let slice = write(&world, &volume, &mount, inode, &[0]).await[0];
    let clone = world.clone_of(&volume, None, "c").await;
    let mount = world.mount(&clone).await;
    let answer = mount.try_apply(publish(inode, vec![super::extent(slice, 100)])).await;
    assert!(matches!(answer, Err(MetaError::Invalid(_))), "{answer:?}");
}
