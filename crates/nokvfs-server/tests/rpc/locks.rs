//! Locks over the wire: restarts, lost connections, many that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use nokvfs_client::RemoteService;
use nokvfs_meta::service::{GiveUp, MetaResult, MetadataService};
use nokvfs_server::{Limits, Server, ServerOptions};
use nokvfs_types::{InodeId, Lock, LockKind, LockOwner, LockRange, LockType, MetaError};
use tokio::sync::oneshot;

use crate::proxy::Proxy;
use crate::whole::{Whole, at};
use crate::{ctx, open};

const LONG: Duration = Duration::from_secs(30);
/// So long a request that must wait is seen to wait.
const A_WHILE: Duration = Duration::from_millis(200);

fn lock(owner: u64, start: u64, end: u64, lock_type: LockType) -> Lock {
    let (kind, range) = (LockKind::Posix, LockRange { start, end });
    Lock { inode: InodeId(5), owner: LockOwner(owner), kind, range, lock_type, pid: 1 }
}

fn exclusive(owner: u64) -> Lock {
    lock(owner, 0, LockRange::MAX, LockType::Exclusive)
}

async fn try_lock(service: &RemoteService, lock: Lock) -> MetaResult<()> {
    service.lock(&ctx(1, LONG), lock, None).await
}

async fn unlock(service: &RemoteService, owner: u64) {
    try_lock(service, lock(owner, 0, LockRange::MAX, LockType::Unlock)).await.expect("given back");
}

fn waiting(service: &Arc<RemoteService>, op: u64, lock: Lock) -> tokio::task::JoinHandle<MetaResult<()>> {
    let service = Arc::clone(service);
    let never: GiveUp = std::future::pending().boxed();
    tokio::spawn(async move { service.lock(&ctx(op, LONG), lock, Some(never)).await })
}

#[tokio::test]
async fn locks_and_those_who_wait_for_them_outlive_a_restart() {
    let whole = Whole::start().await;
    let (one, two) = (whole.service().await, whole.service().await);
    try_lock(&one, lock(1, 0, 9, LockType::Exclusive)).await.expect("free");
    try_lock(&one, lock(1, 5, 9, LockType::Unlock)).await.expect("given back");
    try_lock(&two, lock(1, 20, 29, LockType::Shared)).await.expect("free");
    let mut waiter = waiting(&two, 7, lock(1, 0, 9, LockType::Exclusive));
    assert!(tokio::time::timeout(A_WHILE, &mut waiter).await.is_err());
    let Whole { dir, store, server, volume } = whole;
    let listen = server.addresses().to_vec();
    // Waiting requests do not hold the server up.
    server.shutdown(Duration::from_secs(3)).await.expect("shutdown");
    let server = Server::start_on(store, at(dir.path(), listen)).await.expect("start again");
    let three = open(crate::endpoint(&server), &volume).await;
    assert_eq!(try_lock(&three, lock(1, 4, 4, LockType::Shared)).await, Err(MetaError::Locked));
    assert_eq!(try_lock(&three, lock(1, 29, 29, LockType::Exclusive)).await, Err(MetaError::Locked));
    try_lock(&three, lock(1, 29, 50, LockType::Shared)).await.expect("free");
    assert!(tokio::time::timeout(A_WHILE, &mut waiter).await.is_err(), "granted while it was held");
    let held = three.test_lock(&ctx(2, LONG), exclusive(9)).await.expect("answered").expect("held");
    assert_eq!((held.range.start, held.range.end, held.pid), (0, 4, None));
    unlock(&one, 1).await;
    assert_eq!(waiter.await.expect("task"), Ok(()));
    // A session that closes leaves nothing.
    two.close().await.expect("close");
    unlock(&three, 1).await;
    try_lock(&three, exclusive(2)).await.expect("free");
    server.shutdown(LONG).await.expect("shutdown");
}

#[tokio::test]
async fn those_who_wait_take_no_place_of_other_requests() {
    let Whole { dir, store, server, volume } = Whole::start().await;
    server.shutdown(LONG).await.expect("shutdown");
    let limits = Limits { in_flight: 2, ..Limits::default() };
    let options = ServerOptions { limits, ..at(dir.path(), vec!["127.0.0.1:0".parse().expect("address")]) };
    let server = Server::start_on(store, options).await.expect("start");
    let (holder, service) =
        (open(crate::endpoint(&server), &volume).await, open(crate::endpoint(&server), &volume).await);
    try_lock(&holder, exclusive(1)).await.expect("free");
    let waiters: Vec<_> = (0..50u64).map(|op| waiting(&service, op, lock(op, 0, 9, LockType::Shared))).collect();
    for op in 100..120 {
        crate::create(&service, &format!("f{op}"), op, LONG).await.expect("others go on");
    }
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    unlock(&holder, 1).await;
    for waiter in waiters {
        assert_eq!(waiter.await.expect("task"), Ok(()));
    }
    server.shutdown(LONG).await.expect("shutdown");
}

#[tokio::test]
async fn who_gives_up_leaves_nothing_behind_even_without_a_server() {
    let whole = Whole::start().await;
    let (one, two) = (whole.service().await, whole.service().await);
    try_lock(&one, exclusive(1)).await.expect("free");
    let begin = |op: u64| {
        let (give_up, given_up) = oneshot::channel::<()>();
        let (service, given_up) = (Arc::clone(&two), given_up.map(drop).boxed());
        (give_up, tokio::spawn(async move { service.lock(&ctx(op, LONG), exclusive(3), Some(given_up)).await }))
    };
    let (give_up, mut waiter) = begin(11);
    assert!(tokio::time::timeout(A_WHILE, &mut waiter).await.is_err());
    drop(give_up);
    assert_eq!(waiter.await.expect("task"), Err(MetaError::Interrupted));
    let (give_up, mut waiter) = begin(12);
    assert!(tokio::time::timeout(A_WHILE, &mut waiter).await.is_err());
    let Whole { dir, store, server, .. } = whole;
    let listen = server.addresses().to_vec();
    server.shutdown(LONG).await.expect("shutdown");
    drop(give_up);
    let ended = tokio::time::timeout(Duration::from_secs(3), waiter).await.expect("within 3 s");
    assert_eq!(ended.expect("task"), Err(MetaError::Interrupted));
    // Given back while nobody hears it.
    let unlocking = tokio::spawn({
        let one = Arc::clone(&one);
        async move { unlock(&one, 1).await }
    });
    let server = Server::start_on(store, at(dir.path(), listen)).await.expect("start again");
    unlocking.await.expect("task");
    try_lock(&one, exclusive(2)).await.expect("nobody has it");
    server.shutdown(LONG).await.expect("shutdown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_one_is_inside_however_often_connections_are_cut() {
    let whole = Whole::start().await;
    let target = whole.server.addr().expect("address");
    let inside = Arc::new(AtomicI32::new(0));
    let mut tasks = Vec::new();
    let mut proxies = Vec::new();
    for client in 0..3u64 {
        let proxy = Proxy::start(target, move |number| 1500 + (number * 379 + client * 97) % 700).await;
        let service = open(proxy.address.to_string().parse().expect("endpoint"), &whole.volume).await;
        proxies.push(proxy);
        for owner in 0..2u64 {
            let (service, inside) = (Arc::clone(&service), Arc::clone(&inside));
            tasks.push(tokio::spawn(async move {
                for round in 0..15u64 {
                    let never: GiveUp = std::future::pending().boxed();
                    service
                        .lock(&ctx(owner * 1000 + round, LONG), exclusive(owner), Some(never))
                        .await
                        .expect("granted");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are inside");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    unlock(&service, owner).await;
                }
            }));
        }
    }
    for task in tasks {
        task.await.expect("task");
    }
    let cuts: u64 = proxies.iter().map(|proxy| proxy.cuts.load(Ordering::Relaxed)).sum();
    assert!(cuts > 5, "only {cuts} cuts");
    let service = whole.service().await;
    try_lock(&service, exclusive(1)).await.expect("nobody has it");
    whole.server.shutdown(LONG).await.expect("shutdown");
}
