//! Sessions: generations, exactly once, expiry, orphans.

use std::time::Duration;

use nokvfs_meta::EngineOptions;
use nokvfs_meta::service::{SessionService, VolumeService};
use nokvfs_object::ObjectStore;
use nokvfs_types::{
    Applied, CHUNK_SIZE, Extent, Heartbeat, InodeId, MetaError, Mutation, Publish, SessionGrant, SessionRequest,
    SliceId, Timestamp, Token, UploadId,
};

use crate::{World, caller, entry, file, request, stamp, unlink, until};

const ROOT: InodeId = InodeId::ROOT;

fn resume(of: &SessionRequest, grant: &SessionGrant) -> SessionRequest {
    SessionRequest { resume: Some((grant.session, grant.generation)), ..of.clone() }
}

fn short(options: &mut EngineOptions) {
    options.session_expiry = Duration::from_millis(300);
    options.restart_grace = Duration::from_millis(300);
}

#[tokio::test]
async fn a_token_opens_its_volume_and_no_other() {
    let world = World::new().await;
    let (one, other) = (world.volume("one").await, world.volume("other").await);
    let grant = world.engine.open_session(request(&one)).await.expect("opened");
    assert_eq!((grant.generation, grant.volume.id, grant.slots), (1, one.0.id, 256));
    assert_eq!(world.engine.volume(one.0.id).await.expect("volume").sessions, 1);
    for token in [other.1, Token([0; 32])] {
        let answer = world.engine.open_session(SessionRequest { token, ..request(&one) }).await;
        assert!(matches!(answer, Err(MetaError::Unauthorized(_))), "{answer:?}");
    }
    // The other volume's token does not help to take a session over, and a session of one is none of the other.
    let stolen = SessionRequest { resume: Some((grant.session, 1)), ..request(&other) };
    let answer = world.engine.open_session(stolen.clone()).await;
    assert!(matches!(answer, Err(MetaError::Unauthorized(_))), "{answer:?}");
    let answer = world.engine.attach_session(stolen).await;
    assert!(matches!(answer, Err(MetaError::Unauthorized(_))), "{answer:?}");
    let long = SessionRequest { client: "x".repeat(300), ..request(&one) };
    assert!(matches!(world.engine.open_session(long).await, Err(MetaError::Invalid(_))));
}

#[tokio::test]
async fn the_next_generation_ends_the_one_before() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let engine = &world.engine;
    let first = engine.open_session(request(&volume)).await.expect("opened");
    assert_eq!(engine.attach_session(resume(&request(&volume), &first)).await.expect("attached").generation, 1);
    let second = engine.open_session(resume(&request(&volume), &first)).await.expect("taken over");
    assert_eq!((second.session, second.generation), (first.session, 2));
    assert_eq!(engine.volume(volume.0.id).await.expect("volume").sessions, 1);
    let superseded = MetaError::Superseded(2);
    let beat = engine.heartbeat(first.session, 1, Heartbeat::default()).await;
    assert_eq!(beat, Err(superseded.clone()));
    assert_eq!(engine.getattr(first.session, 1, ROOT).await, Err(superseded.clone()));
    assert_eq!(engine.mutate(stamp(&first, 0, 1, 1), caller(), file(ROOT, "a")).await, Err(superseded.clone()));
    assert_eq!(engine.open_session(resume(&request(&volume), &first)).await, Err(superseded.clone()));
    assert_eq!(engine.close_session(first.session, 1).await, Err(superseded));
    engine.heartbeat(second.session, 2, Heartbeat::default()).await.expect("alive");
    engine.close_session(second.session, 2).await.expect("closed");
    let expired = MetaError::SessionExpired(second.session.0);
    assert_eq!(engine.getattr(second.session, 2, ROOT).await, Err(expired.clone()));
    assert_eq!(engine.open_session(resume(&request(&volume), &second)).await, Err(expired));
    assert_eq!(engine.volume(volume.0.id).await.expect("volume").sessions, 0);
}

#[tokio::test]
async fn a_request_takes_effect_once() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let first = world.engine.open_session(request(&volume)).await.expect("opened");
    let made = world.engine.mutate(stamp(&first, 3, 1, 77), caller(), file(ROOT, "a")).await.expect("made");
    // Sent again, to this process and to the one after it.
    assert_eq!(world.engine.mutate(stamp(&first, 3, 1, 77), caller(), file(ROOT, "a")).await.as_ref(), Ok(&made));
    world.restart().await;
    assert_eq!(world.engine.mutate(stamp(&first, 3, 1, 77), caller(), file(ROOT, "a")).await.as_ref(), Ok(&made));
    // A new request in the slot is a new one, and the old sequence is over.
    let again = world.engine.mutate(stamp(&first, 3, 2, 78), caller(), file(ROOT, "a")).await;
    assert_eq!(again, Err(MetaError::Exists));
    // Answers that were refusals leave no sequence behind; those that were carried out do.
    world.engine.mutate(stamp(&first, 3, 3, 79), caller(), file(ROOT, "b")).await.expect("made");
    let late = world.engine.mutate(stamp(&first, 3, 1, 77), caller(), file(ROOT, "a")).await;
    assert!(matches!(late, Err(MetaError::Invalid(_))), "{late:?}");
    assert_eq!(world.engine.volume(volume.0.id).await.expect("volume").usage.inodes, 3);
}

#[tokio::test]
async fn a_successor_finds_the_answers_of_those_before_it() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let first = world.engine.open_session(request(&volume)).await.expect("opened");
    let made = world.engine.mutate(stamp(&first, 0, 1, 501), caller(), file(ROOT, "a")).await.expect("made");
    let second = world.engine.open_session(resume(&request(&volume), &first)).await.expect("taken over");
    world.restart().await;
    let answer = world.engine.mutate(stamp(&second, 9, 1, 501), caller(), file(ROOT, "a")).await;
    assert_eq!(answer.as_ref(), Ok(&made));
    // The successor of a successor that never got to ask.
    let third = world.engine.open_session(resume(&request(&volume), &second)).await.expect("taken over");
    let fourth = world.engine.open_session(resume(&request(&volume), &third)).await.expect("taken over");
    let answer = world.engine.mutate(stamp(&fourth, 1, 1, 501), caller(), file(ROOT, "a")).await;
    assert_eq!(answer.as_ref(), Ok(&made));
    let other = world.engine.mutate(stamp(&fourth, 1, 2, 502), caller(), file(ROOT, "a")).await;
    assert_eq!(other, Err(MetaError::Exists));
}

#[tokio::test]
async fn a_read_only_session_changes_nothing() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let reader = SessionRequest { read_only: true, ..request(&volume) };
    let grant = world.engine.open_session(reader).await.expect("opened");
    let answer = world.engine.mutate(stamp(&grant, 0, 1, 1), caller(), file(ROOT, "a")).await;
    assert_eq!(answer, Err(MetaError::ReadOnly));
    let attr = world.engine.getattr(grant.session, 1, ROOT).await.expect("readable");
    assert_eq!((attr.mode, attr.uid, attr.gid, attr.nlink), (0o755, 7, 8, 2));
}

#[tokio::test]
async fn a_silent_session_expires_and_its_unnamed_objects_go() {
    let world = World::with(short).await;
    let volume = world.volume("v").await;
    let grant = world.engine.open_session(request(&volume)).await.expect("opened");
    let inode =
        entry(world.engine.mutate(stamp(&grant, 0, 1, 1), caller(), file(ROOT, "a")).await.expect("made")).inode;
    let reserve = Mutation::ReserveUploads { count: 2, settled: UploadId(0) };
    let granted = world.engine.mutate(stamp(&grant, 0, 2, 2), caller(), reserve).await.expect("granted");
    let Applied::Uploads { first, count: 2 } = granted else { panic!("{granted:?}") };
    let slice = |upload: u64| SliceId { upload: UploadId(upload), inode, chunk: 0 };
    let (named, unnamed) = (slice(first.0), slice(first.0 + 1));
    for slice in [named, unnamed] {
        world.objects.put(&slice.object_key(volume.0.id, 0), "bytes".into()).await.expect("put");
    }
    let extent = Extent { offset: 0, len: 5, slice: named, slice_offset: 0, slice_len: 5 };
    let publish = Publish { inode, truncate: None, size: 5, written: Timestamp::now(), extents: vec![extent] };
    world.engine.mutate(stamp(&grant, 0, 3, 3), caller(), Mutation::Publish(publish)).await.expect("published");

    until("expired", async || world.engine.volume(volume.0.id).await.expect("volume").sessions == 0).await;
    let beat = world.engine.heartbeat(grant.session, 1, Heartbeat::default()).await;
    assert_eq!(beat, Err(MetaError::SessionExpired(grant.session.0)));
    let answer = world.engine.mutate(stamp(&grant, 0, 4, 4), caller(), file(ROOT, "late")).await;
    assert_eq!(answer, Err(MetaError::SessionExpired(grant.session.0)));
    until("swept", async || world.engine.figures().unswept == 0).await;
    let keys = world.objects.keys();
    assert!(keys.contains(&named.object_key(volume.0.id, 0)), "a published object was swept: {keys:?}");
    assert!(!keys.contains(&unnamed.object_key(volume.0.id, 0)), "{keys:?}");
    world.engine.delete_volume(volume.0.id).await.expect("no session holds it");
}

#[tokio::test]
async fn sessions_outlive_a_restart_and_expire_after_it_if_nobody_comes_back() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let kept = world.engine.open_session(request(&volume)).await.expect("opened");
    let lost = world.engine.open_session(request(&volume)).await.expect("opened");
    world.restart_with(short).await;
    assert_eq!(world.engine.volume(volume.0.id).await.expect("volume").sessions, 2);
    until("the silent one expires", async || {
        world.engine.heartbeat(kept.session, 1, Heartbeat::default()).await.expect("alive");
        world.engine.volume(volume.0.id).await.expect("volume").sessions == 1
    })
    .await;
    assert_eq!(world.engine.getattr(lost.session, 1, ROOT).await, Err(MetaError::SessionExpired(lost.session.0)));
}

#[tokio::test]
async fn an_orphan_stays_until_every_session_closed_it() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    let holder = world.engine.open_session(request(&volume)).await.expect("opened");
    let other = world.engine.open_session(request(&volume)).await.expect("opened");
    let made = world.engine.mutate(stamp(&holder, 0, 1, 1), caller(), file(ROOT, "a")).await.expect("made");
    let inode = entry(made).inode;
    let removed = world.engine.mutate(stamp(&other, 0, 1, 1), caller(), unlink(ROOT, "a")).await;
    assert_eq!(removed, Ok(Applied::Removed { inode, nlink: 0 }));

    let open = Heartbeat { open: vec![inode], closed: vec![] };
    let closed = Heartbeat { open: vec![], closed: vec![inode] };
    for grant in [&holder, &other] {
        let reply = world.engine.heartbeat(grant.session, 1, Heartbeat::default()).await.expect("alive");
        assert_eq!(reply.orphans, [inode]);
    }
    // Twice: what the sessions said before a restart does not count after it.
    for _ in 0..2 {
        world.engine.heartbeat(other.session, 1, closed.clone()).await.expect("alive");
        world.engine.heartbeat(holder.session, 1, open.clone()).await.expect("alive");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let attr = world.engine.getattr(holder.session, 1, inode).await.expect("still open");
        assert_eq!(attr.nlink, 0);
        assert_eq!(world.engine.body(holder.session, 1, inode, 0).await.expect("readable").complete_to, u64::MAX);
        world.restart().await;
        let reply = world.engine.heartbeat(other.session, 1, Heartbeat::default()).await.expect("alive");
        assert_eq!(reply.orphans, [inode]);
    }
    world.engine.heartbeat(other.session, 1, closed.clone()).await.expect("alive");
    world.engine.heartbeat(holder.session, 1, closed).await.expect("alive");
    until("reclaimed", async || world.engine.getattr(holder.session, 1, inode).await == Err(MetaError::NotFound)).await;
    assert_eq!(world.engine.volume(volume.0.id).await.expect("volume").usage.inodes, 1);
    let reply = world.engine.heartbeat(other.session, 1, Heartbeat::default()).await.expect("alive");
    assert_eq!(reply.orphans, []);
}

#[tokio::test]
async fn orphans_of_a_volume_without_sessions_go() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let grant = world.engine.open_session(request(&volume)).await.expect("opened");
    let inode =
        entry(world.engine.mutate(stamp(&grant, 0, 1, 1), caller(), file(ROOT, "a")).await.expect("made")).inode;
    let slice = SliceId { upload: UploadId(1), inode, chunk: 1 };
    let reserve = Mutation::ReserveUploads { count: 1, settled: UploadId(0) };
    world.engine.mutate(stamp(&grant, 0, 2, 2), caller(), reserve).await.expect("granted");
    world.objects.put(&slice.object_key(volume.0.id, 0), "bytes".into()).await.expect("put");
    let extent = Extent { offset: CHUNK_SIZE, len: 5, slice, slice_offset: 0, slice_len: 5 };
    let publish = Publish { inode, truncate: None, size: 0, written: Timestamp::now(), extents: vec![extent] };
    let published = world.engine.mutate(stamp(&grant, 0, 3, 3), caller(), Mutation::Publish(publish)).await;
    assert_eq!(entry(published.expect("published")).size, CHUNK_SIZE + 5);
    world.engine.mutate(stamp(&grant, 0, 4, 4), caller(), unlink(ROOT, "a")).await.expect("removed");
    world.engine.close_session(grant.session, 1).await.expect("closed");
    until("its objects are gone", async || world.objects.keys().iter().all(|key| key.starts_with("owners/"))).await;
    let usage = world.engine.volume(volume.0.id).await.expect("volume").usage;
    assert_eq!((usage.bytes, usage.inodes), (0, 1));
}
