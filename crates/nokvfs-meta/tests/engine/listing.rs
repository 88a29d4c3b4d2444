//! Listings.

use std::collections::BTreeSet;

use nokvfs_meta::service::MetadataService;
use nokvfs_types::{Ack, DirEntry, FileKind, InodeId, MetaError, NewNode};

use crate::{Mounted, World, context, file, name, node, unlink};

const ROOT: InodeId = InodeId::ROOT;

async fn fill(mount: &Mounted, dir: InodeId, count: usize) {
    let made = (0..count).map(async |number| mount.make(file(dir, &format!("entry {number}"))).await);
    futures::future::join_all(made).await;
}

/// All entries, in pages of `limit`.
async fn list(mount: &Mounted, dir: InodeId, limit: u32, attrs: bool) -> Vec<DirEntry> {
    let mut all: Vec<DirEntry> = Vec::new();
    loop {
        let after = all.last().map_or(0, |entry| entry.cookie);
        let page = mount.readdir(&context(), dir, after, limit, attrs).await.expect("a page");
        assert!(page.end || !page.entries.is_empty(), "a page without progress");
        assert!(page.entries.len() <= limit.max(1) as usize + 1);
        all.extend(page.entries);
        if page.end {
            return all;
        }
    }
}

#[tokio::test]
async fn pages_have_every_entry_once_in_cookie_order() {
    let world = World::new().await;
    let mount = world.mount(&world.volume("v").await).await;
    let dir = mount.make(node(ROOT, "dir", NewNode::Directory)).await.inode;
    fill(&mount, dir, 1500).await;
    for limit in [1, 7, 100, 1500, u32::MAX] {
        if limit == 1 {
            // Of a small directory only: each page is a request.
            assert_eq!(list(&mount, ROOT, limit, true).await.len(), 1);
            continue;
        }
        let entries = list(&mount, dir, limit, limit == 100).await;
        let names: BTreeSet<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        assert_eq!((entries.len(), names.len()), (1500, 1500), "limit {limit}");
        assert!(entries.is_sorted_by(|a, b| a.cookie < b.cookie), "limit {limit}");
        assert!(entries.iter().all(|entry| entry.cookie >= 4 && entry.cookie <= i64::MAX as u64));
        for entry in entries.iter().filter(|_| limit == 100) {
            let attr = entry.attr.as_ref().expect("asked for");
            assert_eq!((attr.inode, attr.kind, attr.nlink), (entry.inode, FileKind::File, 1));
        }
    }
    let page = mount.readdir(&context(), dir, 0, 0, false).await.expect("a page");
    assert_eq!((page.entries.len(), page.end, page.parent), (1, false, ROOT));
    assert_eq!(mount.readdir(&context(), ROOT, 0, 9, false).await.expect("a page").parent, ROOT);
    assert!(mount.readdir(&context(), dir, i64::MAX as u64, 9, false).await.expect("a page").end);
}

#[tokio::test]
async fn a_listing_goes_on_while_its_entries_go() {
    let world = World::new().await;
    let mount = world.mount(&world.volume("v").await).await;
    fill(&mount, ROOT, 200).await;
    let (mut seen, mut after) = (0, 0);
    loop {
        let page = mount.readdir(&context(), ROOT, after, 16, false).await.expect("a page");
        for entry in &page.entries {
            mount.apply(unlink(ROOT, &entry.name.to_string())).await;
        }
        seen += page.entries.len();
        after = page.entries.last().map_or(after, |entry| entry.cookie);
        if page.end {
            break;
        }
    }
    assert_eq!(seen, 200);
    assert_eq!(mount.getattr(&context(), ROOT).await.expect("root").size, 0);
}

#[tokio::test]
async fn what_is_no_directory_is_not_listed() {
    let world = World::new().await;
    let mount = world.mount(&world.volume("v").await).await;
    let plain = mount.make(file(ROOT, "plain")).await.inode;
    assert_eq!(mount.readdir(&context(), plain, 0, 9, false).await, Err(MetaError::NotDirectory));
    assert_eq!(mount.readdir(&context(), InodeId(99), 0, 9, false).await, Err(MetaError::NotFound));
    assert_eq!(mount.lookup(&context(), plain, &name("x")).await, Err(MetaError::NotDirectory));
    assert_eq!(mount.lookup(&context(), InodeId(99), &name("x")).await, Err(MetaError::NotFound));
    assert_eq!(mount.lookup(&context(), ROOT, &name("x")).await, Err(MetaError::NotFound));
    assert_eq!(mount.lookup(&context(), ROOT, &name("plain")).await.expect("found").inode, plain);
}

#[tokio::test]
async fn names_are_bytes() {
    let world = World::new().await;
    let mount = world.mount(&world.volume("v").await).await;
    let odd: Vec<Vec<u8>> =
        vec![vec![1], vec![1, 1], vec![1, 2], vec![2], vec![0xff; 255], b"\xc3\x28".to_vec(), b"...".to_vec()];
    for bytes in &odd {
        let name = nokvfs_types::Name::new(bytes.clone()).expect("a name");
        let create = nokvfs_types::Mutation::Create {
            parent: ROOT,
            name: name.clone(),
            node: NewNode::File,
            mode: 0,
            open_existing: false,
            ack: Ack::Durable,
        };
        let made = mount.make(create).await;
        assert_eq!(mount.lookup(&context(), ROOT, &name).await.expect("found").inode, made.inode);
    }
    let listed: BTreeSet<_> =
        list(&mount, ROOT, 2, false).await.into_iter().map(|entry| entry.name.as_bytes().to_vec()).collect();
    assert_eq!(listed, odd.into_iter().collect());
}
