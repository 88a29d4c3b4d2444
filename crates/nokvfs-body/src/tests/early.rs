//! New files whose creation was answered early and lost with the server.

use std::sync::Arc;

use nokvfs_types::{Ack, Caller, InodeId, MetaError, Mutation, Name, NewNode};

use super::{Volume, bytes, ctx, read_all};
use crate::{Bodies, BodyError, OpenFile, RangeChange};

const DIR: InodeId = InodeId(77);

/// A new file of user 1000 that the server does not know any more.
fn lost(volume: &Volume, mount: &Arc<Bodies>, inode: u64) -> Arc<OpenFile> {
    let file = volume.create(mount, inode);
    let again = Mutation::Create {
        parent: DIR,
        name: Name::try_from("new").unwrap(),
        node: NewNode::File,
        mode: 0o640,
        open_existing: false,
        ack: Ack::Restore(InodeId(inode)),
    };
    file.answered_early(Caller { uid: 1000, gid: 1000, groups: Arc::from([]) }, again);
    volume.metadata.lose(inode);
    file
}

#[tokio::test]
async fn a_sync_makes_it_again_for_its_owner_and_publishes() {
    let volume = Volume::new();
    let mount = volume.mount();
    // One in an object of its own, and a longer one.
    for (inode, len) in [(5, 4096), (6, 5 << 20)] {
        let file = lost(&volume, &mount, inode);
        file.write(&ctx(), 0, bytes(inode, len)).await.unwrap();
        file.sync(&ctx()).await.unwrap();
        let there = volume.mount().open(&ctx(), InodeId(inode)).await.unwrap();
        assert!(read_all(&there).await == bytes(inode, len), "inode {inode} differs");
        assert!(!file.is_unsettled());
        file.sync(&ctx()).await.unwrap();
    }
    // The caller of the sync is another.
    assert_eq!(volume.metadata.restored(), [(InodeId(5), 1000), (InodeId(6), 1000)]);
}

#[tokio::test]
async fn an_empty_one_is_made_again_by_its_own_sync_or_its_directorys() {
    let volume = Volume::new();
    let mount = volume.mount();
    let (own, of_dir, cut) = (lost(&volume, &mount, 5), lost(&volume, &mount, 6), lost(&volume, &mount, 7));
    own.sync(&ctx()).await.unwrap();
    let allocated = lost(&volume, &mount, 8);
    cut.truncate(&ctx(), 100).await.unwrap();
    assert_eq!(allocated.fallocate(&ctx(), 0..777, RangeChange::Allocate, true).await.unwrap().size, 777);
    assert_eq!(volume.metadata.restored().len(), 3);
    mount.settle_in(&ctx(), InodeId(78)).await.unwrap();
    assert!(of_dir.is_unsettled(), "another directory's sync is none of its business");
    mount.settle_in(&ctx(), DIR).await.unwrap();
    assert!(!of_dir.is_unsettled());
    assert_eq!(volume.metadata.restored().len(), 4);
}

#[tokio::test]
async fn one_that_was_durable_and_is_gone_is_not_made_again() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 5);
    file.write(&ctx(), 0, bytes(5, 100)).await.unwrap();
    volume.metadata.lose(5);
    assert!(matches!(file.sync(&ctx()).await, Err(BodyError::Meta(MetaError::NotFound))));
    assert_eq!(volume.metadata.restored(), []);
}
