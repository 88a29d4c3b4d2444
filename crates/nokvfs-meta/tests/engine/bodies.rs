//! Bodies, links and attributes as reads show them.

use bytes::Bytes;
use nokvfs_meta::service::{MetadataService, VolumeService};
use nokvfs_types::{
    Applied, BodyView, CHUNK_SIZE, Extent, InodeId, MetaError, Mutation, NewNode, Publish, SetAttr, SliceId, Timestamp,
    UploadId, XattrMode,
};

use crate::{Mounted, World, context, file, node};

const ROOT: InodeId = InodeId::ROOT;

async fn reserve(mount: &Mounted, count: u32) -> UploadId {
    match mount.apply(Mutation::ReserveUploads { count, settled: UploadId(0) }).await {
        Applied::Uploads { first, .. } => first,
        other => panic!("no uploads: {other:?}"),
    }
}

/// Extents of 10 bytes, each of its own upload, 100 bytes apart, `each` in each of the chunks.
fn extents(inode: InodeId, first: UploadId, chunks: &[u32], each: u64) -> Vec<Extent> {
    let mut upload = first.0;
    let mut extents = Vec::new();
    for chunk in chunks {
        for number in 0..each {
            let slice = SliceId { upload: UploadId(upload), inode, chunk: *chunk };
            let offset = u64::from(*chunk) * CHUNK_SIZE + number * 100;
            extents.push(Extent { offset, len: 10, slice, slice_offset: 0, slice_len: 10 });
            upload += 1;
        }
    }
    extents
}

fn publish(inode: InodeId, extents: Vec<Extent>) -> Mutation {
    Mutation::Publish(Publish { inode, truncate: None, size: 0, written: Timestamp::now(), extents })
}

/// The whole body from `from` on, view by view.
async fn body(mount: &Mounted, inode: InodeId, from: u64) -> (Vec<BodyView>, Vec<Extent>) {
    let (mut views, mut all, mut at) = (Vec::new(), Vec::new(), from);
    loop {
        let view = mount.body(&context(), inode, at).await.expect("a view");
        assert!(view.complete_to > at, "a view without progress");
        assert!(view.extents.iter().all(|extent| extent.end() > at && extent.offset < view.complete_to));
        all.extend(view.extents.iter().copied());
        at = view.complete_to;
        views.push(view);
        if at == u64::MAX {
            return (views, all);
        }
    }
}

#[tokio::test]
async fn a_long_body_comes_in_parts_and_whole() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let mount = world.mount(&volume).await;
    let inode = mount.make(file(ROOT, "long")).await.inode;
    // More extents than one view holds, and chunks that are not there in between.
    let chunks: Vec<u32> = (0..20).map(|number| number * 3).collect();
    let first = reserve(&mount, 20 * 500).await;
    let all = extents(inode, first, &chunks, 500);
    for part in all.chunks(2000) {
        mount.apply(publish(inode, part.to_vec())).await;
    }
    let (views, read) = body(&mount, inode, 0).await;
    assert_eq!(read, all);
    assert!(views.len() > 1 && views.iter().all(|view| view.extents.len() <= 4096 + 512), "{}", views.len());
    let attr = mount.getattr(&context(), inode).await.expect("attributes");
    assert_eq!((attr.mapped, attr.size), (10 * 20 * 500, all[all.len() - 1].end()));
    assert_eq!(views[0].attr, attr);
    assert_eq!(world.engine.volume(volume.0.id).await.expect("volume").usage.bytes, attr.mapped);
    // From inside an extent, from a hole, from beyond the end.
    let from = |at: u64| all.iter().filter(move |extent| extent.end() > at).copied().collect::<Vec<_>>();
    for at in [5, 10, 7 * CHUNK_SIZE + 3, 57 * CHUNK_SIZE + 49_905, attr.size - 1] {
        assert_eq!(body(&mount, inode, at).await.1, from(at), "from {at}");
    }
    for at in [attr.size, 1 << 60, u64::MAX - 1] {
        assert_eq!(body(&mount, inode, at).await.1, [], "from {at}");
    }
    // Cut, the rest is what is in front of it.
    let cut = 30 * CHUNK_SIZE + 255;
    let set = SetAttr { size: Some(cut), ..SetAttr::default() };
    mount.apply(Mutation::SetAttr { inode, set }).await;
    let kept: Vec<_> = all.iter().filter(|extent| extent.offset < cut).copied().collect();
    assert_eq!(body(&mount, inode, 0).await.1, kept);
    assert_eq!(mount.getattr(&context(), inode).await.expect("attributes").size, cut);
}

#[tokio::test]
async fn a_short_body_is_in_one_view() {
    let world = World::new().await;
    let mount = world.mount(&world.volume("v").await).await;
    let inode = mount.make(file(ROOT, "short")).await.inode;
    assert_eq!(body(&mount, inode, 0).await.1, []);
    let first = reserve(&mount, 8).await;
    let all = extents(inode, first, &[0, 2], 4);
    mount.apply(publish(inode, all.clone())).await;
    let (views, read) = body(&mount, inode, 0).await;
    assert_eq!((views.len(), read), (1, all.clone()));
    assert_eq!(body(&mount, inode, 105).await.1, all[1..]);
}

#[tokio::test]
async fn only_files_have_bytes_and_only_links_targets() {
    let world = World::new().await;
    let mount = world.mount(&world.volume("v").await).await;
    let plain = mount.make(file(ROOT, "plain")).await.inode;
    let target = Bytes::from_static(b"../else where/\xff");
    let link = mount.make(node(ROOT, "link", NewNode::Symlink(target.clone()))).await;
    assert_eq!(link.size, target.len() as u64);
    assert_eq!(mount.readlink(&context(), link.inode).await, Ok(target));
    assert!(matches!(mount.readlink(&context(), plain).await, Err(MetaError::Invalid(_))));
    assert_eq!(mount.readlink(&context(), InodeId(99)).await, Err(MetaError::NotFound));
    assert_eq!(mount.body(&context(), ROOT, 0).await, Err(MetaError::IsDirectory));
    assert!(matches!(mount.body(&context(), link.inode, 0).await, Err(MetaError::Invalid(_))));
    assert_eq!(mount.body(&context(), InodeId(99), 0).await, Err(MetaError::NotFound));
    assert_eq!(mount.getattr(&context(), InodeId(99)).await, Err(MetaError::NotFound));
}

#[tokio::test]
async fn extended_attributes_are_read_back() {
    let world = World::new().await;
    let mount = world.mount(&world.volume("v").await).await;
    let inode = mount.make(file(ROOT, "a")).await.inode;
    assert_eq!(mount.listxattr(&context(), inode).await, Ok(vec![]));
    for (name, value) in [("user.b", "two"), ("user.a", "one"), ("trusted.c", "")] {
        let set = Mutation::SetXattr { inode, name: name.into(), value: value.into(), mode: XattrMode::Create };
        assert_eq!(mount.apply(set).await, Applied::Unit);
    }
    let mut names = mount.listxattr(&context(), inode).await.expect("names");
    names.sort();
    assert_eq!(names, ["trusted.c", "user.a", "user.b"]);
    assert_eq!(mount.getxattr(&context(), inode, b"user.a").await.expect("value"), "one");
    assert_eq!(mount.getxattr(&context(), inode, b"trusted.c").await.expect("value"), "");
    assert_eq!(mount.getxattr(&context(), inode, b"user.x").await, Err(MetaError::NoAttribute));
    assert_eq!(mount.getxattr(&context(), InodeId(99), b"user.a").await, Err(MetaError::NotFound));
    assert_eq!(mount.listxattr(&context(), InodeId(99)).await, Err(MetaError::NotFound));
    mount.apply(Mutation::RemoveXattr { inode, name: "user.a".into() }).await;
    assert_eq!(mount.getxattr(&context(), inode, b"user.a").await, Err(MetaError::NoAttribute));
}
