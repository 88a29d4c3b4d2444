//! Volumes: names, tokens, markers, quota, deletion.

use std::sync::Arc;

use nokvfs_meta::Engine;
use nokvfs_meta::service::{MetadataService, SessionService, VolumeService};
use nokvfs_object::{MemoryStore, ObjectStore};
use nokvfs_types::{InodeId, MetaError, VolumeId, VolumeSpec, VolumeState, owner_key};

use crate::{World, context, file, options, request, spec, until};

#[tokio::test]
async fn creation_is_idempotent_by_name() {
    let mut world = World::new().await;
    let (info, token) = world.volume("data.one").await;
    assert_eq!((info.state, info.usage.inodes, info.sessions), (VolumeState::Active, 1, 0));
    assert_eq!(world.volume("data.one").await, (info.clone(), token));
    world.restart().await;
    assert_eq!(world.volume("data.one").await, (info.clone(), token));
    let more = VolumeSpec { quota_bytes: 1 << 30, ..spec("data.one") };
    assert_eq!(world.engine.create_volume(more).await.expect("only the quota differs").0.id, info.id);
    let other = VolumeSpec { root_mode: 0o700, ..spec("data.one") };
    assert_eq!(world.engine.create_volume(other).await, Err(MetaError::Exists));
    let (second, second_token) = world.volume("data.two").await;
    assert!(second.id != info.id && second.mount != info.mount && second_token != token);
    assert_eq!(world.engine.volume(VolumeId::random()).await, Err(MetaError::NotFound));
}

#[tokio::test]
async fn names_are_checked() {
    let world = World::new().await;
    let long = "x".repeat(254);
    for name in ["", "A", "-a", "a-", "a/b", "a b", "\u{e4}", ".", "a\n", &long] {
        let answer = world.engine.create_volume(spec(name)).await;
        assert!(matches!(answer, Err(MetaError::Invalid(_))), "{name:?}: {answer:?}");
    }
    world.volume(&long[1..]).await;
    assert!(world.objects.len() == 1, "markers of refused volumes: {:?}", world.objects.keys());
}

#[tokio::test]
async fn callers_at_once_get_one_volume() {
    let world = World::new().await;
    let made = futures::future::join_all((0..8).map(|_| world.volume("same"))).await;
    assert!(made.iter().all(|one| one.0.id == made[0].0.id && one.1 == made[0].1));
    assert_eq!(world.objects.keys(), [owner_key(made[0].0.id)]);
    assert_eq!(world.engine.list_volumes(None, 10).await.expect("list").len(), 1);
}

#[tokio::test]
async fn a_listing_goes_by_name_in_pages() {
    let world = World::new().await;
    for name in ["b", "a", "a-1", "c"] {
        world.volume(name).await;
    }
    let names = async |after: Option<&str>, limit| -> Vec<String> {
        let page = world.engine.list_volumes(after, limit).await.expect("list");
        page.into_iter().map(|info| info.spec.name).collect()
    };
    assert_eq!(names(None, 1000).await, ["a", "a-1", "b", "c"]);
    assert_eq!(names(None, 2).await, ["a", "a-1"]);
    assert_eq!(names(Some("a-1"), 2).await, ["b", "c"]);
    assert_eq!(names(Some("aa"), 1).await, ["b"]);
    assert_eq!(names(Some("c"), 1).await, [""; 0]);
    assert!(matches!(world.engine.list_volumes(None, 0).await, Err(MetaError::Invalid(_))));
}

#[tokio::test]
async fn a_volume_whose_objects_are_another_servers_is_refused() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    world.objects.overwrite(&owner_key(volume.0.id), "somebody else".into()).expect("overwritten");
    world.restart().await;
    let answer = world.engine.open_session(request(&volume)).await;
    assert!(
        matches!(&answer, Err(MetaError::Unauthorized(text)) if text.contains("somebody else") && text.contains("owners/")),
        "{answer:?}"
    );
    // Nor does a server on a copy of the bucket remove what is not its own.
    assert_eq!(world.engine.volume(volume.0.id).await.expect("volume").sessions, 0);
}

#[tokio::test]
async fn a_held_volume_is_not_deleted_and_a_deleted_one_goes_as_a_whole() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let kept = world.volume("kept").await;
    let mount = world.mount(&volume).await;
    for number in 0..300 {
        mount.make(file(InodeId::ROOT, &format!("file {number}"))).await;
    }
    let stray = format!("{}ff/1/2/0/0", nokvfs_types::volume_prefix(volume.0.id));
    world.objects.put(&stray, "bytes".into()).await.expect("put");
    assert!(matches!(world.engine.delete_volume(volume.0.id).await, Err(MetaError::Busy(_))));
    mount.close().await.expect("closed");
    world.engine.delete_volume(volume.0.id).await.expect("deleted");
    world.engine.delete_volume(volume.0.id).await.expect("deleted twice");
    world.engine.delete_volume(VolumeId::random()).await.expect("unknown is fine");
    let answer = world.engine.open_session(request(&volume)).await;
    assert!(answer.is_err(), "{answer:?}");
    // A server that stops half-way goes on at the next start.
    world.restart().await;
    until("gone", async || world.engine.volume(volume.0.id).await == Err(MetaError::NotFound)).await;
    until("objects gone", async || world.objects.keys() == [owner_key(kept.0.id)]).await;
    let (fresh, token) = world.volume("v").await;
    assert!(fresh.id != volume.0.id && fresh.mount > volume.0.mount && token != volume.1);
    let root = world.mount(&(fresh, token)).await.getattr(&context(), InodeId::ROOT).await.expect("root");
    assert_eq!((root.size, root.nlink), (0, 2));
}

#[tokio::test]
async fn a_quota_is_kept_and_can_be_changed() {
    let world = World::new().await;
    let (info, token) = world.engine.create_volume(VolumeSpec { quota_inodes: 2, ..spec("v") }).await.expect("volume");
    let mount = world.mount(&(info.clone(), token)).await;
    mount.make(file(InodeId::ROOT, "a")).await;
    let full = mount.mutate(&context(), file(InodeId::ROOT, "b")).await;
    assert!(matches!(full, Err(MetaError::QuotaExceeded(_))), "{full:?}");
    let stat = mount.statfs(&context()).await.expect("stat");
    assert_eq!((stat.used_inodes, stat.total_inodes, stat.used_bytes), (2, 2, 0));
    assert!(stat.total_bytes > 1 << 40);
    let changed = world.engine.set_quota(info.id, 1 << 20, 3).await.expect("changed");
    assert_eq!((changed.spec.quota_bytes, changed.spec.quota_inodes), (1 << 20, 3));
    mount.make(file(InodeId::ROOT, "b")).await;
    let stat = mount.statfs(&context()).await.expect("stat");
    assert_eq!((stat.used_inodes, stat.total_inodes, stat.total_bytes), (3, 3, 1 << 20));
    assert_eq!(world.engine.set_quota(VolumeId::random(), 0, 0).await, Err(MetaError::NotFound));
}

#[tokio::test]
async fn one_folder_has_one_server() {
    let world = World::new().await;
    let second = Engine::open(options(world.dir.path()), Arc::new(MemoryStore::new())).await;
    assert!(matches!(second, Err(MetaError::Unavailable(_))), "{second:?}");
}
