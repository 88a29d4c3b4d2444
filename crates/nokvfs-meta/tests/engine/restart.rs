//! What a server knows after a stop and a start.

use bytes::Bytes;
use nokvfs_meta::service::{MetadataService, SessionService, VolumeService};
use nokvfs_types::{InodeId, MetaError, Mutation, NewNode, OpId, SetAttr, Timestamp, XattrMode};

use crate::{World, caller, context, entry, file, name, node, request, stamp};

const ROOT: InodeId = InodeId::ROOT;

#[tokio::test]
async fn everything_acknowledged_is_there_after_a_restart() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let mount = world.mount(&volume).await;
    let dir = mount.make(node(ROOT, "dir", NewNode::Directory)).await.inode;
    let inode = mount.make(file(dir, "file")).await.inode;
    let link = mount.make(node(dir, "link", NewNode::Symlink(Bytes::from_static(b"file")))).await.inode;
    let set = Mutation::SetXattr { inode, name: "user.a".into(), value: "one".into(), mode: XattrMode::Set };
    mount.apply(set).await;
    let set = SetAttr { mode: Some(0o4711), uid: Some(3), ctime: Some(Timestamp(-5)), ..SetAttr::default() };
    let attr = mount.make(Mutation::SetAttr { inode, set }).await;
    let info = world.engine.volume(volume.0.id).await.expect("volume");
    drop(mount);
    for _ in 0..2 {
        world.restart().await;
        let mount = world.mount(&volume).await;
        assert_eq!(mount.lookup(&context(), dir, &name("file")).await.as_ref(), Ok(&attr));
        assert_eq!((attr.mode, attr.uid, attr.ctime), (0o4711, 3, Timestamp(-5)));
        assert_eq!(mount.readlink(&context(), link).await.expect("target"), "file");
        assert_eq!(mount.getxattr(&context(), inode, b"user.a").await.expect("value"), "one");
        let root = mount.getattr(&context(), ROOT).await.expect("root");
        assert_eq!((root.nlink, root.size), (3, 1));
        assert_eq!(world.engine.volume(volume.0.id).await.expect("volume").usage, info.usage);
        mount.close().await.expect("closed");
    }
    // Numbers go on where they were.
    let mount = world.mount(&volume).await;
    assert!(mount.make(file(ROOT, "next")).await.inode > link);
}

#[tokio::test]
async fn a_stopped_engine_refuses_and_does_not_hang() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let grant = world.engine.open_session(request(&volume)).await.expect("opened");
    let first = stamp(&grant, 0, 1, 1);
    entry(world.engine.mutate(first, caller(), file(ROOT, "a")).await.expect("made"));
    world.engine.close().await.expect("closed");
    world.engine.close().await.expect("closed twice");
    let answer = world.engine.mutate(stamp(&grant, 0, 2, 2), caller(), file(ROOT, "b")).await;
    assert!(matches!(answer, Err(MetaError::Unavailable(_))), "{answer:?}");
    let late = world.engine.mutate(nokvfs_types::Stamp { op: OpId(3), ..first }, caller(), file(ROOT, "c")).await;
    assert!(matches!(late, Err(MetaError::Unavailable(_))), "{late:?}");
}
