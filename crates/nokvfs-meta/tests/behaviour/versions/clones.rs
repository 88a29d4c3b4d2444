//! What a clone shows of its base, and that neither changes the other.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::join_all;
use nokvfs_meta::service::{MetadataService, SnapshotService, VolumeService};
use nokvfs_types::{Applied, CHUNK_SIZE, InodeId, MAX_BASES, MetaError, Mutation, RenameMode, XattrMode};

use super::{Volume, body, clone_of, extent, list, publish, resize, write};
use crate::{Mounted, ROOT, World, context, dir, file, name, unlink, until};

fn link(inode: InodeId, parent: InodeId, text: &str) -> Mutation {
    Mutation::Link { inode, parent, name: name(text) }
}

fn rename(from: (InodeId, &str), to: (InodeId, &str), mode: RenameMode) -> Mutation {
    Mutation::Rename { parent: from.0, name: name(from.1), new_parent: to.0, new_name: name(to.1), mode }
}

fn rmdir(parent: InodeId, text: &str) -> Mutation {
    Mutation::Rmdir { parent, name: name(text) }
}

async fn find(mount: &Mounted, parent: InodeId, text: &str) -> Option<(InodeId, u32)> {
    match mount.lookup(&context(), parent, &name(text)).await {
        Ok(attr) => Some((attr.inode, attr.nlink)),
        Err(MetaError::NotFound) => None,
        Err(error) => panic!("{error}"),
    }
}

/// A volume with a session, and a clone of it with one.
struct Both {
    world: World,
    volume: Volume,
    base: Mounted,
    cloned: Volume,
    clone: Mounted,
}

impl Both {
    async fn new(fill: impl AsyncFnOnce(&World, &Volume, &Mounted)) -> Both {
        let world = World::new().await;
        let volume = world.volume().await;
        let base = world.mount(&volume).await;
        fill(&world, &volume, &base).await;
        let cloned = world.clone_of(&volume, None, "clone").await;
        let clone = world.mount(&cloned).await;
        Both { world, volume, base, cloned, clone }
    }
}

async fn make_all(mount: &Mounted, names: impl Iterator<Item = String>) {
    let names: Vec<_> = names.collect();
    join_all(names.iter().map(|name| mount.apply(file(ROOT, name)))).await;
}

async fn unlink_all(mount: &Mounted, names: impl Iterator<Item = String>) {
    let names: Vec<_> = names.collect();
    join_all(names.iter().map(|name| mount.apply(unlink(ROOT, name)))).await;
}

#[tokio::test]
async fn pages_of_a_clone_are_of_both() {
    let both = Both::new(async |_, _, mount| make_all(mount, (0..1000).map(|at| format!("b{at}"))).await).await;
    let there = list(&both.base, ROOT, 4000).await;
    assert_eq!(list(&both.clone, ROOT, 7).await, there);
    // A page in the middle, before anything changes.
    let page = both.clone.readdir(&context(), ROOT, 0, 300, false).await.expect("a page");
    let cookie = page.entries.last().expect("an entry").cookie;

    unlink_all(&both.clone, (0..1000).step_by(3).map(|at| format!("b{at}"))).await;
    make_all(&both.clone, (0..100).map(|at| format!("c{at}"))).await;
    unlink_all(&both.base, (0..1000).step_by(2).map(|at| format!("b{at}"))).await;
    make_all(&both.base, (0..100).map(|at| format!("d{at}"))).await;

    let mut wanted: BTreeMap<_, _> = there.clone();
    wanted.retain(|name, _| !name[1..].parse::<u32>().expect("a number").is_multiple_of(3));
    let mut shown = list(&both.clone, ROOT, 7).await;
    assert_eq!(shown, list(&both.clone, ROOT, 4000).await);
    let made = shown.extract_if(.., |name, _| name.starts_with('c')).count();
    assert_eq!((made, &shown), (100, &wanted));
    // What comes after a cookie is the same as in the whole, from before the changes too.
    let rest = both.clone.readdir(&context(), ROOT, cookie, 4000, false).await.expect("a page");
    let whole = both.clone.readdir(&context(), ROOT, 0, 4000, false).await.expect("a page");
    let after: Vec<_> = whole.entries.into_iter().filter(|entry| entry.cookie > cookie).collect();
    assert_eq!(rest.entries, after);
    let counted = both.clone.getattr(&context(), ROOT).await.expect("the root").size;
    assert_eq!(counted as usize, wanted.len() + 100);

    // A clone of the clone, with a name that was removed made again.
    let second = both.world.clone_of(&both.cloned, None, "second").await;
    let mount = both.world.mount(&second).await;
    make_all(&mount, ["b0".to_owned()].into_iter()).await;
    let listed = list(&mount, ROOT, 7).await;
    assert_eq!(listed.len(), wanted.len() + 101);
    assert!(!there.values().any(|inode| *inode == listed["b0"]));
    assert_eq!(list(&both.clone, ROOT, 7).await.len(), wanted.len() + 100);
    assert_eq!(list(&both.base, ROOT, 7).await.len(), 600);
}

#[tokio::test]
async fn links_over_base_and_own_records() {
    let both = Both::new(async |_, _, mount| {
        let inode = mount.make(file(ROOT, "a")).await.inode;
        mount.make(link(inode, ROOT, "b")).await;
        mount.make(link(inode, ROOT, "c")).await;
    })
    .await;
    let inode = find(&both.base, ROOT, "a").await.expect("a").0;
    both.clone.apply(unlink(ROOT, "a")).await;
    assert_eq!(find(&both.clone, ROOT, "b").await, Some((inode, 2)));
    both.clone.apply(unlink(ROOT, "b")).await;
    assert_eq!(find(&both.clone, ROOT, "c").await, Some((inode, 1)));
    both.clone.make(link(inode, ROOT, "d")).await;
    both.clone.apply(rename((ROOT, "d"), (ROOT, "c"), RenameMode::Replace)).await;
    assert_eq!(find(&both.clone, ROOT, "c").await, Some((inode, 2)));
    both.clone.apply(unlink(ROOT, "d")).await;
    for text in ["a", "b", "c"] {
        assert_eq!(find(&both.base, ROOT, text).await, Some((inode, 3)));
    }
    both.clone.apply(unlink(ROOT, "c")).await;
    until("reclaimed", async || both.world.usage(&both.cloned).await == (0, 1)).await;
    assert_eq!(both.clone.getattr(&context(), inode).await, Err(MetaError::NotFound));
    for text in ["a", "b"] {
        both.base.apply(unlink(ROOT, text)).await;
    }
    assert_eq!(find(&both.base, ROOT, "c").await, Some((inode, 1)));
    assert_eq!(both.world.usage(&both.volume).await, (0, 2));
}

#[tokio::test]
async fn directories_of_the_base_move_and_go_in_the_clone() {
    let both = Both::new(async |_, _, mount| {
        for text in ["d", "e"] {
            let inode = mount.make(dir(ROOT, text)).await.inode;
            mount.make(file(inode, "f")).await;
        }
    })
    .await;
    let clone = &both.clone;
    let (d, e) = (find(clone, ROOT, "d").await.expect("d").0, find(clone, ROOT, "e").await.expect("e").0);
    assert_eq!(clone.try_apply(rmdir(ROOT, "d")).await, Err(MetaError::NotEmpty));
    clone.apply(rename((ROOT, "d"), (e, "d"), RenameMode::Replace)).await;
    let loop_made = clone.try_apply(rename((ROOT, "e"), (d, "e"), RenameMode::Replace)).await;
    assert!(matches!(loop_made, Err(MetaError::Invalid(_))), "{loop_made:?}");
    assert_eq!(find(clone, ROOT, "d").await, None);
    assert_eq!(find(clone, e, "d").await, Some((d, 2)));
    assert_eq!(find(clone, ROOT, "e").await, Some((e, 3)));
    assert_eq!(clone.readdir(&context(), d, 0, 10, false).await.expect("a page").parent, e);
    assert_eq!(find(&both.base, e, "d").await, None);
    assert_eq!(find(&both.base, ROOT, "d").await, Some((d, 2)));
    clone.apply(rename((e, "d"), (e, "f"), RenameMode::Exchange)).await;
    assert_eq!(find(clone, e, "f").await, Some((d, 2)));
    clone.apply(unlink(d, "f")).await;
    clone.apply(rmdir(e, "f")).await;
    clone.apply(unlink(e, "d")).await;
    clone.apply(rmdir(ROOT, "e")).await;
    assert_eq!(list(clone, ROOT, 10).await, BTreeMap::new());
    until("reclaimed", async || both.world.usage(&both.cloned).await == (0, 1)).await;
    assert_eq!(both.world.usage(&both.volume).await, (0, 5));
    assert_eq!(list(&both.base, d, 10).await.len(), 1);
    // The names are free.
    let again = clone.make(dir(ROOT, "d")).await.inode;
    assert_eq!(list(clone, again, 10).await, BTreeMap::new());
}

#[tokio::test]
async fn extended_attributes_of_the_base() {
    let set = |inode, text: &'static str, value: &'static str, mode| Mutation::SetXattr {
        inode,
        name: text.into(),
        value: value.into(),
        mode,
    };
    let both = Both::new(async |_, _, mount| {
        let inode = mount.make(file(ROOT, "a")).await.inode;
        mount.apply(set(inode, "user.x", "1", XattrMode::Set)).await;
        mount.apply(set(inode, "user.y", "1", XattrMode::Set)).await;
    })
    .await;
    let inode = find(&both.clone, ROOT, "a").await.expect("a").0;
    assert_eq!(both.clone.try_apply(set(inode, "user.x", "2", XattrMode::Create)).await, Err(MetaError::Exists));
    both.clone.apply(set(inode, "user.x", "2", XattrMode::Replace)).await;
    both.clone.apply(Mutation::RemoveXattr { inode, name: "user.y".into() }).await;
    let replaced = both.clone.try_apply(set(inode, "user.y", "2", XattrMode::Replace)).await;
    assert_eq!(replaced, Err(MetaError::NoAttribute));
    both.clone.apply(set(inode, "user.z", "2", XattrMode::Create)).await;
    both.base.apply(Mutation::RemoveXattr { inode, name: "user.x".into() }).await;
    let names = |mut names: Vec<Bytes>| {
        names.sort_unstable();
        names
    };
    let shown = names(both.clone.listxattr(&context(), inode).await.expect("names"));
    assert_eq!(shown, [Bytes::from("user.x"), Bytes::from("user.z")]);
    assert_eq!(both.clone.getxattr(&context(), inode, b"user.x").await, Ok("2".into()));
    assert_eq!(both.clone.getxattr(&context(), inode, b"user.y").await, Err(MetaError::NoAttribute));
    assert_eq!(names(both.base.listxattr(&context(), inode).await.expect("names")), [Bytes::from("user.y")]);
    both.clone.apply(unlink(ROOT, "a")).await;
    until("reclaimed", async || both.clone.getattr(&context(), inode).await == Err(MetaError::NotFound)).await;
    assert_eq!(both.base.getxattr(&context(), inode, b"user.y").await, Ok("1".into()));
}

/// Ten extents in each of three chunks.
fn offsets() -> Vec<u64> {
    (0..30).map(|at| at / 10 * CHUNK_SIZE + at % 10 * 100).collect()
}

#[tokio::test]
async fn chunks_of_the_base_are_cut_and_overwritten_on_both_sides() {
    let both = Both::new(async |world, volume, mount| {
        for text in ["a", "b"] {
            let inode = mount.make(file(ROOT, text)).await.inode;
            write(world, volume, mount, inode, &offsets()).await;
        }
    })
    .await;
    let Both { world, volume, base, cloned, clone } = &both;
    let (a, b) = (find(base, ROOT, "a").await.expect("a").0, find(base, ROOT, "b").await.expect("b").0);
    let (old_a, old_b) = (body(base, a).await, body(base, b).await);
    assert_eq!(body(clone, a).await, old_a);
    // One is cut and written in the clone, the other in the base.
    clone.apply(resize(a, CHUNK_SIZE + 105)).await;
    let fresh = write(world, cloned, clone, a, &[CHUNK_SIZE, 2 * CHUNK_SIZE + 50]).await;
    base.apply(resize(b, 0)).await;
    write(world, volume, base, b, &[7]).await;
    let mut wanted: Vec<_> = old_a.iter().filter_map(|extent| extent.clip(0, CHUNK_SIZE + 105)).collect();
    wanted[10] = extent(fresh[0], CHUNK_SIZE);
    wanted.push(extent(fresh[1], 2 * CHUNK_SIZE + 50));
    assert_eq!(body(clone, a).await, wanted);
    assert_eq!(clone.getattr(&context(), a).await.expect("a").mapped, 10 * 12 + 5);
    assert_eq!((body(base, a).await, body(clone, b).await), (old_a.clone(), old_b));
    assert_eq!(world.usage(cloned).await.0, 10 * 30 + 10 * 12 + 5);
    assert_eq!(world.usage(volume).await.0, 10 * 30 + 10);
    // With the base's own gone, its objects stay for the clone.
    base.apply(unlink(ROOT, "a")).await;
    base.apply(unlink(ROOT, "b")).await;
    until("reclaimed", async || world.usage(volume).await == (0, 1)).await;
    assert!(old_a.iter().all(|extent| world.has(volume, extent.slice)));
    assert_eq!(body(clone, a).await, wanted);
    clone.apply(resize(a, 0)).await;
    assert_eq!(body(clone, a).await, []);
    clone.apply(resize(a, 4 * CHUNK_SIZE)).await;
    assert_eq!(body(clone, a).await, [], "chunks of the base came back");
    assert!(fresh.len() == 2);
    until("own objects go", async || fresh.iter().all(|slice| !world.has(cloned, *slice))).await;
    assert!(old_a.iter().all(|extent| world.has(volume, extent.slice)), "the moment of the clone names them");
}

#[tokio::test]
async fn clones_of_clones_end_somewhere() {
    let world = World::new().await;
    let mut chain = vec![world.volume().await];
    for depth in 0..MAX_BASES {
        let last = chain.last().expect("one");
        let mount = world.mount(last).await;
        let inode = mount.make(file(ROOT, &format!("f{depth}"))).await.inode;
        write(&world, last, &mount, inode, &[0]).await;
        mount.close().await.expect("closed");
        let clone = world.clone_of(last, None, &format!("c{depth}")).await;
        chain.push(clone);
    }
    let last = chain.last().expect("one").clone();
    let refused = world.engine.clone_volume(clone_of(&last, None, "more")).await;
    assert!(matches!(&refused, Err(MetaError::Busy(reason)) if reason.contains("copy its files")), "{refused:?}");
    world.snapshot(&last, "s").await;
    let refused = world.engine.rollback_volume(last.0.id, "s").await;
    assert!(matches!(refused, Err(MetaError::Busy(_))), "{refused:?}");
    world.unsnapshot(&last, "s").await;
    // All but the last go, from the middle out; what they made stays in it.
    for at in [4, 3, 5, 0, 7, 1, 6, 2] {
        world.engine.delete_volume(chain[at].0.id).await.expect("deleted");
    }
    let mount = world.mount(&last).await;
    let listed = list(&mount, ROOT, 3).await;
    assert_eq!(listed.len(), MAX_BASES);
    for (text, inode) in listed {
        let extents = body(&mount, inode).await;
        let depth: usize = text[1..].parse().expect("a number");
        assert!(world.has(&chain[depth], extents[0].slice), "{text}");
        assert_eq!(mount.grant().volume.origin(extents[0].slice.upload), chain[depth].0.id);
    }
    mount.close().await.expect("closed");
    world.engine.delete_volume(last.0.id).await.expect("deleted");
    until("all gone", async || world.memory.is_empty() && world.is_gone(&chain[0]).await).await;
}

#[tokio::test]
async fn what_is_unlinked_and_open_is_not_counted_in_a_clone() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let (a, b) = (mount.make(file(ROOT, "a")).await.inode, mount.make(file(ROOT, "b")).await.inode);
    for inode in [a, b] {
        mount.opened(inode);
        write(&world, &volume, &mount, inode, &[0, 100]).await;
    }
    mount.apply(unlink(ROOT, "b")).await;
    mount.apply(resize(b, 105)).await;
    assert_eq!(world.usage(&volume).await, (35, 3));
    world.snapshot(&volume, "s").await;
    let clone = world.clone_of(&volume, Some("s"), "c").await;
    assert_eq!(world.usage(&clone).await, (20, 2));
    let cloned = world.mount(&clone).await;
    let Applied::Entry { attr, .. } = cloned.apply(publish(a, Vec::new())).await else { panic!("not an entry") };
    assert_eq!(attr.mapped, 20);
    assert_eq!(world.usage(&clone).await, (20, 2));
    mount.closed(b);
    until("reclaimed", async || world.usage(&volume).await == (20, 2)).await;
    assert_eq!(world.usage(&clone).await, (20, 2));
}
