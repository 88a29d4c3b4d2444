//! Files whose creation is answered before it is durable.

use nokvfs_meta::service::MetadataService;
use nokvfs_types::{Ack, InodeId, MetaError, Mutation, NewNode};

use crate::{World, context, file, name, unlink};

const ROOT: InodeId = InodeId::ROOT;

fn with(ack: Ack, text: &str) -> Mutation {
    Mutation::Create { parent: ROOT, name: name(text), node: NewNode::File, mode: 0o640, open_existing: false, ack }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_finds_a_file_that_was_answered_early() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let (mount, other) = (world.mount(&volume).await, world.mount(&volume).await);
    for number in 0..100 {
        let text = format!("file{number}");
        let made = mount.make(with(Ack::Early, &text)).await;
        // Each question is asked first for some file.
        match number % 5 {
            0 => assert_eq!(other.lookup(&context(), ROOT, &name(&text)).await.as_ref(), Ok(&made)),
            1 => assert_eq!(other.getattr(&context(), made.inode).await.as_ref(), Ok(&made)),
            2 => {
                let page = other.readdir(&context(), ROOT, 0, 1000, true).await.expect("listed");
                assert!(page.entries.iter().any(|entry| entry.attr.as_ref() == Some(&made)), "{text}");
            }
            3 => assert_eq!(other.body(&context(), made.inode, 0).await.expect("a body").attr, made),
            _ => {
                other.apply(unlink(ROOT, &text)).await;
                assert_eq!(mount.lookup(&context(), ROOT, &name(&text)).await, Err(MetaError::NotFound));
            }
        }
    }
    drop((mount, other));
    world.restart().await;
    let mount = world.mount(&volume).await;
    assert_eq!(mount.readdir(&context(), ROOT, 0, 1000, false).await.expect("listed").entries.len(), 80);
}

#[tokio::test]
async fn a_lost_file_is_made_again_with_its_number_and_nothing_else_is() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let mount = world.mount(&volume).await;
    let first = mount.make(file(ROOT, "first")).await;
    drop(mount);
    // The rest of the block of numbers is skipped by the next run: as if it had been told and lost.
    world.restart().await;
    let mount = world.mount(&volume).await;
    let lost = InodeId(first.inode.0 + 5);
    assert_eq!(mount.getattr(&context(), lost).await, Err(MetaError::NotFound));
    let next = mount.make(file(ROOT, "next")).await;
    // Versions that were told early and lost are not given out again either: a mount would take what is new for old.
    assert!(next.version.0 > first.version.0 + 4096);
    let next = next.inode;
    assert!(next > lost);
    let made = mount.make(with(Ack::Restore(lost), "lost")).await;
    assert_eq!((made.inode, made.mode), (lost, 0o640));
    assert_eq!(mount.lookup(&context(), ROOT, &name("lost")).await.as_ref(), Ok(&made));
    let refused = async |ack, text| mount.mutate(&context(), with(ack, text)).await.expect_err("refused");
    assert_eq!(refused(Ack::Restore(lost), "lost").await, MetaError::Exists, "the name is taken");
    assert_eq!(refused(Ack::Restore(lost), "other").await, MetaError::Exists, "the number is taken");
    assert_eq!(refused(Ack::Restore(first.inode), "other").await, MetaError::Exists);
    for never in [InodeId(next.0 + 1), InodeId(next.0 + 100_000)] {
        assert!(matches!(refused(Ack::Restore(never), "other").await, MetaError::Invalid(_)));
    }
}
