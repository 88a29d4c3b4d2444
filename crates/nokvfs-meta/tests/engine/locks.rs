//! Locks of sessions: how long they last, and what waits for them.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use nokvfs_meta::EngineOptions;
use nokvfs_meta::service::{GiveUp, LockService, MetadataService, SessionService, SnapshotService};
use nokvfs_types::{
    Heartbeat, InodeId, Lock, LockKind, LockOwner, LockRange, LockReply, LockType, MetaError, SessionGrant,
    SessionRequest,
};
use tokio::sync::oneshot;

use crate::{World, context, request, until};

const FILE: InodeId = InodeId(77);

fn short(options: &mut EngineOptions) {
    options.session_expiry = Duration::from_millis(400);
    options.restart_grace = Duration::ZERO;
}

fn lock(owner: u64, lock_type: LockType) -> Lock {
    let (kind, range) = (LockKind::Posix, LockRange::WHOLE);
    Lock { inode: FILE, owner: LockOwner(owner), kind, range, lock_type, pid: 1 }
}

fn never() -> Option<GiveUp> {
    Some(std::future::pending().boxed())
}

/// Sets a lock of a session that was opened by hand: nobody keeps it alive.
async fn set(world: &World, grant: &SessionGrant, lock: Lock) -> LockReply {
    world.engine.set_lock(grant.session, grant.generation, 1, lock).await.expect("answered")
}

#[tokio::test]
async fn a_silent_session_loses_its_locks_and_a_waiter_gets_them() {
    let world = World::with(short).await;
    let volume = world.volume("v").await;
    let grant = world.engine.open_session(request(&volume)).await.expect("opened");
    assert_eq!(set(&world, &grant, lock(1, LockType::Exclusive)).await, LockReply::Done);
    let mount = world.mount(&volume).await;
    assert_eq!(mount.lock(&context(), lock(1, LockType::Shared), None).await, Err(MetaError::Locked));
    mount.lock(&context(), lock(1, LockType::Shared), never()).await.expect("after the expiry");
    let late = world.engine.set_lock(grant.session, grant.generation, 1, lock(2, LockType::Shared)).await;
    assert_eq!(late, Err(MetaError::SessionExpired(grant.session.0)));
    mount.close().await.expect("closed");
    until("nothing is left", async || world.engine.figures().locks == 0).await;
}

#[tokio::test]
async fn locks_in_a_snapshot_hold_nobody_up_who_goes_on() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    world.engine.create_snapshot(volume.0.id, "s").await.expect("made");
    let past = SessionRequest { snapshot: Some("s".into()), ..request(&volume) };
    let one = world.engine.open_session(past.clone()).await.expect("opened");
    let two = world.engine.open_session(past).await.expect("opened");
    assert_eq!(set(&world, &one, lock(1, LockType::Exclusive)).await, LockReply::Done);
    assert!(matches!(set(&world, &two, lock(1, LockType::Exclusive)).await, LockReply::Held(_)), "the same file");
    let mount = world.mount(&volume).await;
    mount.lock(&context(), lock(1, LockType::Exclusive), None).await.expect("another file");
    mount.close().await.expect("closed");
}

#[tokio::test]
async fn the_end_of_a_session_gives_its_locks_to_a_waiter_at_once() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let (one, two) = (world.mount(&volume).await, world.mount(&volume).await);
    one.lock(&context(), lock(1, LockType::Exclusive), None).await.expect("free");
    let waiter = Arc::clone(&two.0);
    let waiting = tokio::spawn(async move { waiter.lock(&context(), lock(1, LockType::Exclusive), never()).await });
    until("it waits", async || world.engine.figures().lock_waits == 1).await;
    one.close().await.expect("closed");
    assert_eq!(waiting.await.expect("task"), Ok(()));
    // A session that is taken over begins with nothing.
    let grant = two.grant().clone();
    let resume = SessionRequest { resume: Some((grant.session, grant.generation)), ..request(&volume) };
    let next = world.engine.open_session(resume).await.expect("taken over");
    assert_eq!(world.engine.figures().locks, 0);
    assert_eq!(set(&world, &next, lock(1, LockType::Exclusive)).await, LockReply::Done);
}

#[tokio::test]
async fn who_gives_up_leaves_nothing_behind() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let (one, two) = (world.mount(&volume).await, world.mount(&volume).await);
    one.lock(&context(), lock(1, LockType::Exclusive), None).await.expect("free");
    let (give_up, given_up) = oneshot::channel::<()>();
    let waiter = Arc::clone(&two.0);
    let waiting = tokio::spawn(async move {
        let give_up = given_up.map(drop).boxed();
        waiter.lock(&context(), lock(1, LockType::Exclusive), Some(give_up)).await
    });
    until("it waits", async || world.engine.figures().lock_waits == 1).await;
    drop(give_up);
    assert_eq!(waiting.await.expect("task"), Err(MetaError::Interrupted));
    assert_eq!(world.engine.figures().lock_waits, 0);
    one.lock(&context(), lock(1, LockType::Unlock), None).await.expect("given back");
    one.lock(&context(), lock(2, LockType::Exclusive), None).await.expect("nobody has it");
    let held = two.test_lock(&context(), lock(1, LockType::Shared)).await.expect("answered");
    assert_eq!(held.map(|held| (held.lock_type, held.pid)), Some((LockType::Exclusive, None)));
}

#[tokio::test]
async fn after_a_restart_locks_are_told_again_before_others_get_any() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let kept = world.engine.open_session(request(&volume)).await.expect("opened");
    let lost = world.engine.open_session(request(&volume)).await.expect("opened");
    assert_eq!(set(&world, &kept, lock(1, LockType::Exclusive)).await, LockReply::Done);
    world.restart_with(short).await;
    let engine = Arc::clone(&world.engine);
    // Nothing goes before the locks are told.
    let early = engine.set_lock(kept.session, 1, 1, lock(1, LockType::Exclusive)).await;
    assert!(matches!(early, Err(MetaError::Unavailable(_))), "{early:?}");
    engine.sync_locks(kept.session, 1, 2, vec![lock(1, LockType::Exclusive)]).await.expect("told");
    let beats = tokio::spawn({
        let (engine, session) = (Arc::clone(&engine), kept.session);
        async move {
            loop {
                engine.heartbeat(session, 1, Heartbeat::default()).await.expect("alive");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let mount = world.mount(&volume).await;
    let new = mount.grant().clone();
    assert_eq!(set(&world, &new, lock(1, LockType::Shared)).await, LockReply::Recovering);
    // Whoever asks waits for the other one, which does not come back, and then hears of the one that did.
    assert_eq!(mount.lock(&context(), lock(1, LockType::Shared), None).await, Err(MetaError::Locked));
    assert_eq!(
        engine.heartbeat(lost.session, 1, Heartbeat::default()).await.err(),
        Some(MetaError::SessionExpired(lost.session.0))
    );
    assert_eq!(engine.set_lock(kept.session, 1, 2, lock(1, LockType::Unlock)).await, Ok(LockReply::Done));
    mount.lock(&context(), lock(1, LockType::Shared), None).await.expect("free");
    beats.abort();
}

#[tokio::test]
async fn nobody_waits_for_clients_that_ended_with_their_process() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    world.engine.open_session(request(&volume)).await.expect("opened");
    world.restart_with(|options| options.clients_elsewhere = false).await;
    let mount = world.mount(&volume).await;
    assert_eq!(set(&world, mount.grant(), lock(1, LockType::Exclusive)).await, LockReply::Done);
}
