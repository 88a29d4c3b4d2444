//! Deletion while the object store fails, stops half-way, or is another server's.

use nokvfs_meta::service::{MetadataService, VolumeService};
use nokvfs_object::{Fault, ObjectError, Operation};
use nokvfs_types::{
    Extent, InodeId, MetaError, Mutation, Publish, SliceId, Timestamp, Token, UploadId, VolumeInfo, VolumeState,
    owner_key, volume_prefix,
};

use crate::{Mounted, ROOT, World, file, unlink, until};

fn down() -> ObjectError {
    ObjectError::Unavailable("on purpose".into())
}

/// A file with one object per extent.
async fn fill(world: &World, volume: &(VolumeInfo, Token), mount: &Mounted, text: &str, count: u64) -> InodeId {
    let inode = mount.make(file(ROOT, text)).await.inode;
    let first = mount.reserve(count as u32).await;
    let mut extents = Vec::new();
    for number in 0..count {
        let slice = SliceId { upload: UploadId(first.0 + number), inode, chunk: 0 };
        world.put(&slice.object_key(volume.0.id, 0)).await;
        extents.push(Extent { offset: number * 10, len: 5, slice, slice_offset: 0, slice_len: 5 });
    }
    let publish = Publish { inode, truncate: None, size: 0, written: Timestamp(1), extents };
    mount.apply(Mutation::Publish(publish)).await;
    inode
}

#[tokio::test]
async fn garbage_waits_for_the_store_and_outlives_restarts() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let kept = fill(&world, &volume, &mount, "kept", 20).await;
    fill(&world, &volume, &mount, "a", 30).await;
    world.objects.inject_always(Operation::Delete, Fault::FailBefore(down()));
    mount.apply(unlink(ROOT, "a")).await;
    until("removed", async || world.usage(&volume).await == (100, 2)).await;
    until("tried", async || world.objects.calls(Operation::Delete) > 0).await;
    assert_eq!(world.keys(&volume).len(), 50);
    mount.close().await.expect("closed");
    // Nothing is lost of the queue, whether the reply is lost or the server stops.
    world.objects.inject_always(Operation::Delete, Fault::FailAfter(down()));
    world.restart().await;
    until("deleted, as far as the store knows", async || world.keys(&volume).len() == 20).await;
    world.objects.heal();
    until("the queue is empty", async || world.engine.figures().garbage == 0).await;
    let slices: Vec<_> = world.keys(&volume).into_iter().filter(|key| key.contains(&format!("/{kept}/"))).collect();
    assert_eq!(slices.len(), 20);
    world.engine.close().await.expect("closed");
}

#[tokio::test]
async fn a_sweep_waits_for_the_store() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    let inode = fill(&world, &volume, &mount, "a", 20).await;
    let first = mount.reserve(2500).await;
    for number in [0, 1, 1023, 1024, 2499] {
        let slice = SliceId { upload: UploadId(first.0 + number), inode, chunk: 7 };
        world.put(&slice.object_key(volume.0.id, 3)).await;
    }
    world.objects.inject_always(Operation::List, Fault::FailBefore(down()));
    mount.close().await.expect("closed");
    until("tried", async || world.objects.calls(Operation::List) > 0).await;
    assert_eq!((world.keys(&volume).len(), world.engine.figures().unswept), (25, 1));
    world.objects.heal();
    world.restart_with(|options| options.session_expiry = std::time::Duration::from_millis(100)).await;
    until("swept", async || world.engine.figures().unswept == 0).await;
    assert_eq!(world.keys(&volume).len(), 20);
    world.engine.close().await.expect("closed");
}

#[tokio::test]
async fn a_deletion_that_stops_anywhere_goes_on() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    for number in 0..10 {
        fill(&world, &volume, &mount, &number.to_string(), 12).await;
    }
    for number in 0..700 {
        mount.make(file(ROOT, &format!("empty {number}"))).await;
    }
    mount.close().await.expect("closed");
    world.objects.inject_always(Operation::List, Fault::FailBefore(down()));
    world.engine.delete_volume(volume.0.id).await.expect("deleted");
    world.restart().await;
    assert_eq!(world.engine.volume(volume.0.id).await.expect("still there").state, VolumeState::Deleting);
    assert_eq!(world.keys(&volume).len(), 120);
    world.objects.heal();
    world.objects.inject_always(Operation::Delete, Fault::FailAfter(down()));
    world.restart().await;
    until("objects are gone", async || world.keys(&volume).is_empty()).await;
    assert_eq!(world.engine.volume(volume.0.id).await.expect("still there").state, VolumeState::Deleting);
    world.objects.heal();
    until("gone", async || world.engine.volume(volume.0.id).await == Err(MetaError::NotFound)).await;
    assert!(world.memory.is_empty(), "{:?}", world.memory.keys());
    world.engine.close().await.expect("closed");
}

#[tokio::test]
async fn objects_of_another_server_are_never_deleted() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let mount = world.mount(&volume).await;
    fill(&world, &volume, &mount, "a", 3).await;
    fill(&world, &volume, &mount, "b", 3).await;
    world.objects.inject_always(Operation::Delete, Fault::FailBefore(down()));
    mount.apply(unlink(ROOT, "b")).await;
    until("removed", async || world.usage(&volume).await == (15, 2)).await;
    mount.close().await.expect("closed");
    // The volume moved to another server, and this one runs on with old metadata.
    world.memory.overwrite(&owner_key(volume.0.id), "somebody else".into()).expect("overwritten");
    world.restart().await;
    world.objects.heal();
    world.engine.delete_volume(volume.0.id).await.expect("accepted");
    until("seen", async || world.objects.calls(Operation::Get) > 0).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(world.keys(&volume).len(), 6, "{} went", volume_prefix(volume.0.id));
    assert_eq!(world.memory.keys().len(), 7);
    assert_eq!(world.engine.volume(volume.0.id).await.expect("still there").state, VolumeState::Deleting);
    world.engine.close().await.expect("closed");
}
