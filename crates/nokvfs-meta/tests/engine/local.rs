//! The service in this process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use nokvfs_meta::LocalService;
use nokvfs_meta::service::{MetadataService, RequestContext, VolumeService};
use nokvfs_types::{InodeId, MetaError, NewNode, SessionRequest};

use crate::{World, context, file, name, node, request, unlink, until};

const ROOT: InodeId = InodeId::ROOT;

#[tokio::test]
async fn reads_of_durable_records_answer_at_once() {
    let world = World::new().await;
    let mount = world.mount(&world.volume("v").await).await;
    let dir = mount.make(node(ROOT, "dir", NewNode::Directory)).await.inode;
    let inode = mount.make(file(dir, "a")).await.inode;
    let ctx = context();
    let found = mount.lookup(&ctx, dir, &name("a")).now_or_never().expect("at once").expect("found");
    assert_eq!(found.inode, inode);
    let missing = mount.lookup(&ctx, dir, &name("b")).now_or_never().expect("at once");
    assert_eq!(missing, Err(MetaError::NotFound));
    mount.getattr(&ctx, inode).now_or_never().expect("at once").expect("attributes");
    mount.body(&ctx, inode, 0).now_or_never().expect("at once").expect("body");
    mount.readdir(&ctx, dir, 0, 10, true).now_or_never().expect("at once").expect("page");
    mount.listxattr(&ctx, inode).now_or_never().expect("at once").expect("names");
    mount.statfs(&ctx).now_or_never().expect("at once").expect("stat");
}

#[tokio::test]
async fn no_call_outlives_its_deadline() {
    let world = World::new().await;
    let mount = world.mount(&world.volume("v").await).await;
    let late = RequestContext { deadline: Instant::now(), ..context() };
    let answer = mount.mutate(&late, file(ROOT, "a")).await;
    assert!(matches!(answer, Err(MetaError::Deadline(_))), "{answer:?}");
    // The slot of the request that was given up serves the next one.
    mount.make(file(ROOT, "b")).await;
}

#[tokio::test]
async fn more_requests_than_slots_are_all_served() {
    let world = World::new().await;
    let mount = world.mount(&world.volume("v").await).await;
    let made = (0..700).map(async |number| mount.make(file(ROOT, &format!("{number}"))).await);
    futures::future::join_all(made).await;
    assert_eq!(mount.getattr(&context(), ROOT).await.expect("root").size, 700);
}

#[tokio::test]
async fn a_service_keeps_its_session_alive_and_lets_it_go_when_dropped() {
    let world = World::with(|options| options.session_expiry = Duration::from_millis(600)).await;
    let volume = world.volume("v").await;
    let mount = world.mount(&volume).await;
    // A second one, that nobody keeps alive, shows that the time is over.
    let silent = nokvfs_meta::service::SessionService::open_session(&*world.engine, request(&volume)).await;
    until("the silent one expires", async || world.engine.volume(volume.0.id).await.expect("volume").sessions == 1)
        .await;
    assert!(world.engine.getattr(silent.expect("opened").session, 1, ROOT).await.is_err());
    mount.getattr(&context(), ROOT).await.expect("alive");
    drop(mount);
    until("the dropped one expires", async || world.engine.volume(volume.0.id).await.expect("volume").sessions == 0)
        .await;
}

#[tokio::test]
async fn a_closed_service_answers_so() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let mount = world.mount(&volume).await;
    assert_eq!(mount.volume().id, volume.0.id);
    mount.close().await.expect("closed");
    assert_eq!(world.engine.volume(volume.0.id).await.expect("volume").sessions, 0);
    let answer = mount.getattr(&context(), ROOT).await;
    assert!(matches!(answer, Err(MetaError::SessionExpired(_))), "{answer:?}");
    let answer = mount.mutate(&context(), file(ROOT, "a")).await;
    assert!(matches!(answer, Err(MetaError::SessionExpired(_))), "{answer:?}");
    let refused = LocalService::open(
        Arc::clone(&world.engine),
        SessionRequest { token: nokvfs_types::Token([1; 32]), ..request(&volume) },
    );
    assert!(matches!(refused.await, Err(MetaError::Unauthorized(_))));
}

#[tokio::test]
async fn an_unlinked_file_is_kept_while_it_is_open_here() {
    let world = World::with(|options| options.session_expiry = Duration::from_millis(1200)).await;
    let volume = world.volume("v").await;
    let (mount, other) = (world.mount(&volume).await, world.mount(&volume).await);
    let kept = mount.make(file(ROOT, "kept")).await.inode;
    let gone = mount.make(file(ROOT, "gone")).await.inode;
    mount.opened(kept);
    for text in ["kept", "gone"] {
        other.apply(unlink(ROOT, text)).await;
    }
    until("the closed one goes", async || mount.getattr(&context(), gone).await == Err(MetaError::NotFound)).await;
    assert_eq!(mount.getattr(&context(), kept).await.expect("open").nlink, 0);
    mount.closed(kept);
    until("the other one too", async || mount.getattr(&context(), kept).await == Err(MetaError::NotFound)).await;
}
