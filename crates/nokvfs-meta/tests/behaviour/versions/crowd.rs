//! A volume and its clone that change at once, while snapshots and clones of both come and go: commands of all share
//! batches, and are planned while the batch before is on its way.

use std::collections::BTreeSet;

use futures::future::join_all;
use nokvfs_meta::LocalService;
use nokvfs_meta::service::{MetadataService, SnapshotService, VolumeService};
use nokvfs_types::{Attr, CHUNK_SIZE, Extent, InodeId, MetaError, Mutation, RenameMode, SetAttr, Version};

use super::{Volume, body, list, publish, resize, write};
use crate::{Mounted, ROOT, World, context, entry, file, name, unlink, until};

const FILES: usize = 16;
const ROUNDS: u32 = 5;

/// What a file was from a commit on; `None`: it had no name.
type Was = Vec<(Version, Option<(Attr, Vec<Extent>)>)>;

/// Changes one file step by step and tells what it became. Nobody else changes it.
async fn change(world: &World, volume: &Volume, mount: &Mounted, inode: InodeId, seed: u32) -> Was {
    let mut was = Vec::new();
    for round in 0..ROUNDS {
        let mutation = match (seed + round) % 5 {
            0 | 1 => {
                let at = u64::from(round) * 7;
                let offsets: Vec<u64> = (0..10).map(|part| at + part / 5 * CHUNK_SIZE + part * 20).collect();
                write(world, volume, mount, inode, &offsets).await;
                publish(inode, Vec::new())
            }
            2 => resize(inode, u64::from(round) * 31),
            3 => Mutation::SetAttr { inode, set: SetAttr { mode: Some(0o600), ..SetAttr::default() } },
            _ => resize(inode, CHUNK_SIZE + 55),
        };
        // A written file has this state since the commit before, too: what is in between is not looked at.
        let attr = entry(mount.apply(mutation).await);
        was.push((attr.version, Some((attr, body(mount, inode).await))));
    }
    if seed.is_multiple_of(3) {
        mount.apply(unlink(ROOT, &inode.to_string())).await;
        // The unlink tells no version; this is after it.
        let after = entry(mount.apply(file(ROOT, &format!("after {inode}"))).await);
        was.push((after.version, None));
    }
    was
}

/// A snapshot shows of each file what it was; answers of how many that is known. Of one that was between the two commits
/// of a step it is not.
async fn check(mount: &LocalService, at: Version, files: &[(InodeId, Was)]) -> usize {
    let mut known = 0;
    for (inode, was) in files {
        let last = was.iter().rposition(|(version, _)| *version <= at);
        let Some(last) = last else { continue };
        let (_, state) = &was[last];
        let shown = mount.lookup(&context(), ROOT, &name(&inode.to_string())).await;
        let may_be_gone = matches!(was.get(last + 1), Some((_, None)));
        match (state, shown) {
            (None, shown) => assert_eq!(shown, Err(MetaError::NotFound)),
            (Some((attr, extents)), Ok(shown)) if shown.version == attr.version => {
                assert_eq!(shown, *attr);
                let view = mount.body(&context(), *inode, 0).await.expect("a view");
                assert_eq!(view.extents, *extents);
                known += 1;
            }
            (Some((attr, _)), Ok(shown)) => {
                assert!(shown.version > attr.version && shown.version <= at, "{shown:?} at {at}");
            }
            (Some(_), Err(error)) => assert!(may_be_gone && error == MetaError::NotFound, "{error}"),
        }
    }
    known
}

/// All objects of what can be read are there.
async fn all_are_there(world: &World, mount: &LocalService) {
    let keys: BTreeSet<_> = world.memory.keys().into_iter().collect();
    for inode in list(mount, ROOT, 100).await.into_values() {
        let view = mount.body(&context(), inode, 0).await.expect("a view");
        assert_eq!(view.attr.mapped, view.extents.iter().map(|extent| extent.len).sum::<u64>());
        for extent in view.extents {
            let owner = mount.grant().volume.origin(extent.slice.upload);
            assert!(keys.contains(&extent.slice.object_key(owner, 0)), "{} of {owner} is gone", extent.slice);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_and_its_clone_change_at_once() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let first: Vec<u64> = (0..10).map(|part| part / 5 * CHUNK_SIZE + part * 20).collect();
    let mut files = Vec::new();
    for number in 0..FILES {
        let made = mount.make(file(ROOT, &format!("f{number}"))).await.inode;
        let rename = Mutation::Rename {
            parent: ROOT,
            name: name(&format!("f{number}")),
            new_parent: ROOT,
            new_name: name(&made.to_string()),
            mode: RenameMode::Replace,
        };
        mount.apply(rename).await;
        write(&world, &volume, &mount, made, &first).await;
        files.push(made);
    }
    let clone = world.clone_of(&volume, None, "clone").await;
    let cloned = world.mount(&clone).await;
    // Another stays what the volume was.
    let kept_volume = world.clone_of(&volume, None, "kept").await;
    let kept = world.mount(&kept_volume).await;

    let changes = async |volume: &Volume, mount: &Mounted, seed: u32| {
        let each = files.iter().zip(seed..).map(|(inode, seed)| change(&world, volume, mount, *inode, seed));
        join_all(each).await
    };
    let pins = async |volume: &Volume| {
        let mut made = Vec::new();
        for number in 0..12 {
            made.push(world.engine.create_snapshot(volume.0.id, &format!("s{number}")).await.expect("a snapshot"));
            if number % 3 == 2 {
                let gone = made.remove(number / 3);
                world.unsnapshot(volume, &gone.name).await;
            }
        }
        made
    };
    // Queued in this order, snapshots of each are in the middle of batches.
    let (ours, our_pins, theirs, their_pins) =
        futures::join!(changes(&volume, &mount, 0), pins(&volume), changes(&clone, &cloned, 2), pins(&clone));
    let mut known = 0;
    for (volume, was, pins) in [(&volume, ours, our_pins), (&clone, theirs, their_pins)] {
        let files: Vec<_> = files.iter().copied().zip(was).collect();
        for pin in pins {
            let reader = world.read(volume, &pin.name).await;
            known += check(&reader, pin.version, &files).await;
            all_are_there(&world, &reader).await;
            reader.close().await.expect("closed");
        }
    }
    assert!(known > 0, "no snapshot was between two changes");
    for mount in [&mount, &cloned, &kept] {
        all_are_there(&world, mount).await;
    }
    assert_eq!(list(&kept, ROOT, 100).await.len(), FILES);
    for inode in &files {
        assert_eq!(body(&kept, *inode).await.len(), first.len());
    }
    for mount in [mount, cloned, kept] {
        mount.close().await.expect("closed");
    }
    for volume in [&volume, &clone] {
        world.engine.delete_volume(volume.0.id).await.expect("deleted");
        for pin in world.engine.list_snapshots(volume.0.id).await.expect("listed") {
            world.unsnapshot(volume, &pin.name).await;
        }
    }
    until("all but the kept clone", async || world.is_gone(&clone).await).await;
    world.engine.delete_volume(kept_volume.0.id).await.expect("deleted");
    world.is_empty().await;
}
