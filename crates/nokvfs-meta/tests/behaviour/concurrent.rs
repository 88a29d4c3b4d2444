//! Clients at once: quotas are exact, directories never make a ring, orphans that one has open stay.

use std::collections::BTreeSet;

use nokvfs_meta::service::{MetadataService, VolumeService};
use nokvfs_types::{Applied, Extent, InodeId, MetaError, Mutation, Publish, RenameMode, SliceId, Timestamp, UploadId};

use crate::{Mounted, ROOT, World, context, dir, file, name, unlink, until};

const CLIENTS: u64 = 6;

async fn clients(world: &World, volume: &(nokvfs_types::VolumeInfo, nokvfs_types::Token)) -> Vec<Mounted> {
    futures::future::join_all((0..CLIENTS).map(|_| world.mount(volume))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inodes_of_a_quota_are_all_given_out_and_no_more() {
    let world = World::new().await;
    let volume = world.limited(0, 50).await;
    let mounts = clients(&world, &volume).await;
    let tries = mounts.iter().enumerate().map(async |(client, mount)| {
        let mut made = Vec::new();
        for number in 0..20 {
            let text = format!("{client} {number}");
            match mount.try_apply(file(ROOT, &text)).await {
                Ok(_) => made.push(text),
                Err(error) => assert!(matches!(error, MetaError::QuotaExceeded(_)), "{error:?}"),
            }
        }
        made
    });
    let made: Vec<String> = futures::future::join_all(tries).await.into_iter().flatten().collect();
    assert_eq!((made.len(), world.usage(&volume).await), (49, (0, 50)));
    // What goes makes room once nobody has it open.
    mounts[0].apply(unlink(ROOT, &made[0])).await;
    until("room again", async || world.usage(&volume).await.1 == 49).await;
    let tries = mounts.iter().map(|mount| mount.try_apply(file(ROOT, "one more")));
    let made = futures::future::join_all(tries).await.into_iter().filter(Result::is_ok).count();
    assert_eq!((made, world.usage(&volume).await), (1, (0, 50)));
    world.engine.close().await.expect("closed");
}

fn write(inode: InodeId, upload: UploadId, at: u64, len: u64) -> Mutation {
    let slice = SliceId { upload, inode, chunk: 0 };
    let extents = vec![Extent { offset: at, len, slice, slice_offset: 0, slice_len: len }];
    Mutation::Publish(Publish { inode, truncate: None, size: 0, written: Timestamp(1), extents })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_quota_are_all_given_out_and_no_more() {
    let world = World::new().await;
    let volume = world.limited(1000, 0).await;
    let mounts = clients(&world, &volume).await;
    let tries = mounts.iter().enumerate().map(async |(client, mount)| {
        let inode = mount.make(file(ROOT, &client.to_string())).await.inode;
        let first = mount.reserve(60).await;
        let mut bytes = 0;
        for number in 0..30 {
            match mount.try_apply(write(inode, UploadId(first.0 + number), number * 10, 10)).await {
                Ok(_) => {
                    bytes += 10;
                    // In place of what is there it is always allowed.
                    mount.apply(write(inode, UploadId(first.0 + 30 + number), number * 10, 10)).await;
                }
                Err(error) => assert!(matches!(error, MetaError::QuotaExceeded(_)), "{error:?}"),
            }
        }
        let attr = mount.getattr(&context(), inode).await.expect("attributes");
        assert_eq!(attr.mapped, bytes);
        bytes
    });
    let bytes: u64 = futures::future::join_all(tries).await.into_iter().sum();
    assert_eq!((bytes, world.usage(&volume).await), (1000, (1000, 1 + CLIENTS)));
    world.engine.close().await.expect("closed");
}

/// Moves directories into each other without regard for others.
async fn mover(mount: &Mounted, dirs: &[InodeId], seed: u64) {
    let mut state = seed;
    let mut pick = |count: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % count
    };
    for _ in 0..150 {
        let (moved, from, to) = (pick(dirs.len() - 1) + 1, pick(dirs.len()), pick(dirs.len()));
        let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][pick(3)];
        let text = name(&moved.to_string());
        let other =
            if mode == RenameMode::Exchange { name(&(pick(dirs.len() - 1) + 1).to_string()) } else { text.clone() };
        let (parent, new_parent) = (dirs[from], dirs[to]);
        let rename = Mutation::Rename { parent, name: text, new_parent, new_name: other, mode };
        match mount.try_apply(rename).await {
            Ok(answer) => assert_eq!(answer, Applied::Unit),
            Err(MetaError::NotFound | MetaError::Exists | MetaError::Invalid(_) | MetaError::NotEmpty) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_at_once_never_make_a_ring() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mounts = clients(&world, &volume).await;
    let mut dirs = vec![ROOT];
    for number in 1..=8 {
        let inode = mounts[0].make(dir(ROOT, &number.to_string())).await.inode;
        mounts[0].make(file(inode, "keeps it from being replaced")).await;
        dirs.push(inode);
    }
    futures::future::join_all((1..).zip(&mounts).map(|(seed, mount)| mover(mount, &dirs, seed * 7919))).await;
    let (mut seen, mut open) = (BTreeSet::new(), vec![(ROOT, ROOT)]);
    while let Some((inode, parent)) = open.pop() {
        assert!(seen.insert(inode), "{inode} has two names");
        let page = mounts[0].readdir(&context(), inode, 0, 1000, false).await.expect("a page");
        let subdirs: Vec<_> = page.entries.iter().filter(|entry| dirs.contains(&entry.inode)).collect();
        let attr = mounts[0].getattr(&context(), inode).await.expect("attributes");
        assert_eq!((page.parent, page.end), (parent, true));
        assert_eq!((attr.nlink as usize, attr.size as usize), (2 + subdirs.len(), page.entries.len()));
        open.extend(subdirs.into_iter().map(|entry| (entry.inode, inode)));
    }
    assert_eq!(seen, dirs.into_iter().collect());
    world.engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_stays_while_a_client_of_many_has_it_open() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mounts = clients(&world, &volume).await;
    let inode = mounts[0].make(file(ROOT, "a")).await.inode;
    let upload = mounts[0].reserve(2).await;
    mounts[0].apply(write(inode, upload, 0, 10)).await;
    world.put(&SliceId { upload, inode, chunk: 0 }.object_key(volume.0.id, 0)).await;
    mounts[3].opened(inode);
    mounts[3].opened(inode);
    mounts[5].apply(unlink(ROOT, "a")).await;
    mounts[3].closed(inode);
    // Others come and go meanwhile.
    for number in 0..20 {
        mounts[1].make(file(ROOT, &number.to_string())).await;
        mounts[2].apply(unlink(ROOT, &number.to_string())).await;
    }
    until("the others are gone", async || world.usage(&volume).await.1 == 2).await;
    mounts[3].apply(write(inode, UploadId(upload.0 + 1), 10, 10)).await;
    let attr = mounts[3].getattr(&context(), inode).await.expect("still open");
    assert_eq!((attr.nlink, attr.size), (0, 20));
    assert_eq!(world.keys(&volume).len(), 1);
    mounts[3].closed(inode);
    until("gone", async || world.usage(&volume).await == (0, 1) && world.keys(&volume).is_empty()).await;
    assert_eq!(world.engine.figures().orphans, 0);
    assert_eq!(world.engine.volume(volume.0.id).await.expect("volume").sessions, CLIENTS as u32);
    world.engine.close().await.expect("closed");
}
