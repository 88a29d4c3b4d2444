//! What is left when a caller gives up or the object store fails.

use std::sync::Arc;

use futures::FutureExt;
use nokvfs_meta::Engine;
use nokvfs_meta::service::{SessionService, VolumeService};
use nokvfs_object::{Fault, FaultStore, MemoryStore, ObjectError, ObjectStore, Operation};
use nokvfs_types::{InodeId, MetaError};

use crate::{World, caller, file, options, request, spec, stamp, unlink, until};

const ROOT: InodeId = InodeId::ROOT;

#[tokio::test]
async fn an_orphan_whose_unlinker_gave_up_is_reclaimed() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let grant = world.engine.open_session(request(&volume)).await.expect("opened");
    let mut sequence = 0;
    let mut next = || {
        sequence += 1;
        stamp(&grant, 0, sequence, sequence)
    };
    loop {
        world.engine.mutate(next(), caller(), file(ROOT, "a")).await.expect("made");
        let mut given_up = Box::pin(world.engine.mutate(next(), caller(), unlink(ROOT, "a")));
        // A committer that is quicker than a poll gets another file.
        if given_up.as_mut().now_or_never().is_none() {
            // Queued behind it: it is carried out, and nobody hears of it.
            world.engine.set_quota(volume.0.id, 0, 0).await.expect("changed");
            break;
        }
    }
    world.engine.close_session(grant.session, 1).await.expect("closed");
    until("reclaimed", async || world.engine.volume(volume.0.id).await.expect("volume").usage.inodes == 1).await;
}

#[tokio::test]
async fn a_session_whose_opener_gave_up_does_not_hold_the_volume() {
    let world = World::with(|options| options.session_expiry = std::time::Duration::from_millis(300)).await;
    let volume = world.volume("v").await;
    loop {
        let mut given_up = Box::pin(world.engine.open_session(request(&volume)));
        match given_up.as_mut().now_or_never() {
            Some(grant) => world.engine.close_session(grant.expect("opened").session, 1).await.expect("closed"),
            None => {
                world.engine.set_quota(volume.0.id, 0, 0).await.expect("queued behind it");
                break;
            }
        }
    }
    until("deletable", async || world.engine.delete_volume(volume.0.id).await.is_ok()).await;
}

#[tokio::test]
async fn a_volume_is_not_made_without_its_marker() {
    let dir = tempfile::tempdir().expect("a folder");
    let objects = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
    let engine = Engine::open(options(dir.path()), Arc::clone(&objects) as Arc<dyn ObjectStore>).await.expect("open");
    objects.inject_always(Operation::PutIfAbsent, Fault::FailBefore(ObjectError::Unavailable("on purpose".into())));
    let answer = engine.create_volume(spec("v")).await;
    assert!(matches!(&answer, Err(MetaError::Unavailable(text)) if text.contains("on purpose")), "{answer:?}");
    assert_eq!(engine.list_volumes(None, 10).await, Ok(vec![]));
    engine.close().await.expect("closed");
}
