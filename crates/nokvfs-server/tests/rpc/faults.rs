//! Lost connections, restarts, bad peers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use nokvfs_client::Endpoint;
use nokvfs_meta::service::MetadataService;
use nokvfs_protocol::{Answer, Call, SessionRef, decode_reply, encode_request};
use nokvfs_server::{Limits, ServeOptions};
use nokvfs_types::{InodeId, MetaError};
use tokio::io::AsyncWriteExt;

use crate::backend::TestBackend;
use crate::proxy::Proxy;
use crate::raw::Raw;
use crate::{create, ctx, endpoint, open, options, request, start};

const LONG: Duration = Duration::from_secs(30);

fn through(proxy: &Proxy) -> Endpoint {
    proxy.address.to_string().parse().expect("endpoint")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_repeat_requests_and_each_takes_effect_once() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    backend.delay_after.store(3, Ordering::Relaxed);
    let server = start(&backend, options()).await;
    // Enough for greeting, attaching and a few of the 64 requests that are sent again, then a cut somewhere.
    let proxy = Proxy::start(server.addr().expect("address"), |number| 5_500 + number * 3_797 % 4_096).await;
    let service = open(through(&proxy), &volume).await;
    let work = (0..600u64).map(|index| {
        let service = Arc::clone(&service);
        tokio::spawn(async move { create(&service, &format!("f{index}"), index + 1, LONG).await })
    });
    for done in futures::future::join_all(work).await {
        done.expect("task").expect("create");
    }
    let effects = backend.effects();
    assert_eq!(effects.len(), 600);
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
    assert!(proxy.cuts.load(Ordering::Relaxed) >= 5, "the proxy hardly cut");
}

#[tokio::test]
async fn requests_wait_through_a_restart_and_take_effect_once() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    backend.delay_after.store(10_000, Ordering::Relaxed);
    let server = start(&backend, options()).await;
    let listen = server.addresses().to_vec();
    let service = open(endpoint(&server), &volume).await;
    let waiting: Vec<_> = (0..20u64)
        .map(|index| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { create(&service, &format!("f{index}"), index + 1, LONG).await })
        })
        .collect();
    while backend.effects().len() < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // As if killed: the effects are there, the answers were never sent.
    drop(server);
    backend.delay_after.store(0, Ordering::Relaxed);
    let unreachable = create(&service, "late", 99, Duration::from_millis(200)).await;
    assert!(matches!(unreachable, Err(MetaError::Unavailable(_) | MetaError::Deadline(_))), "{unreachable:?}");
    let again = start(&backend, ServeOptions { listen, ..options() }).await;
    for done in waiting {
        done.await.expect("task").expect("create");
    }
    create(&service, "after", 100, LONG).await.expect("create");
    let effects = backend.effects();
    assert_eq!(effects.len(), 21);
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
    again.shutdown(LONG).await.expect("shutdown");
}

#[tokio::test]
async fn shutdown_answers_what_is_in_flight_and_takes_no_more() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    backend.delay_before.store(300, Ordering::Relaxed);
    let server = start(&backend, options()).await;
    let service = open(endpoint(&server), &volume).await;
    let mut raw = Raw::greeted(server.addr().expect("address")).await;
    let Ok(Answer::Session(_)) = raw.call(&Call::OpenSession(request(&volume))).await else { panic!("a session") };
    let running: Vec<_> = (0..10u64)
        .map(|index| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { create(&service, &format!("f{index}"), index + 1, Duration::from_secs(5)).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown(LONG).await.expect("shutdown");
    assert!(backend.was_shut_down());
    assert_eq!(backend.effects().len(), 10);
    for done in running {
        done.await.expect("task").expect("answered before the end");
    }
    assert!(raw.frame().await.is_none(), "idle connections are closed");
    let refused = create(&service, "later", 11, Duration::from_millis(300)).await;
    assert!(matches!(refused, Err(MetaError::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn a_shutdown_that_takes_too_long_says_so() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    backend.delay_before.store(60_000, Ordering::Relaxed);
    let server = start(&backend, options()).await;
    let service = open(endpoint(&server), &volume).await;
    let running = tokio::spawn(async move { create(&service, "f", 1, Duration::from_secs(1)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = server.shutdown(Duration::from_millis(200)).await.expect_err("still running");
    assert!(error.to_string().contains("cut off"), "{error}");
    assert!(backend.was_shut_down(), "the sync comes all the same");
    assert!(running.await.expect("task").is_err());
}

#[tokio::test]
async fn an_ended_session_is_final() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    let server = start(&backend, options()).await;
    let service = open(endpoint(&server), &volume).await;
    create(&service, "a", 1, LONG).await.expect("create");
    backend.expire_sessions();
    for op in 2..5 {
        assert!(matches!(create(&service, "b", op, LONG).await, Err(MetaError::SessionExpired(_))));
    }
    assert!(matches!(tokio::time::timeout(LONG, service.lost()).await, Ok(MetaError::SessionExpired(_))));
    assert!(matches!(service.trouble(), Some(MetaError::SessionExpired(_))));
    assert!(matches!(service.getattr(&ctx(9, LONG), InodeId::ROOT).await, Err(MetaError::SessionExpired(_))));
}

#[tokio::test]
async fn a_session_that_was_closed_answers_nothing_more() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    let server = start(&backend, options()).await;
    let service = open(endpoint(&server), &volume).await;
    service.close().await.expect("close");
    assert!(matches!(service.getattr(&ctx(9, LONG), InodeId::ROOT).await, Err(MetaError::SessionExpired(_))));
}

#[tokio::test]
async fn a_client_without_answer_stops_at_its_deadline() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    let server = start(&backend, options()).await;
    let service = open(endpoint(&server), &volume).await;
    backend.delay_before.store(60_000, Ordering::Relaxed);
    let late = create(&service, "a", 1, Duration::from_millis(100)).await;
    assert!(matches!(late, Err(MetaError::Deadline(_))), "{late:?}");
    backend.delay_before.store(0, Ordering::Relaxed);
    create(&service, "b", 2, LONG).await.expect("the slot is usable again");
}

#[tokio::test]
async fn peers_that_send_garbage_are_hung_up_on_and_others_go_on() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    let server = start(&backend, options()).await;
    let address = server.addr().expect("address");
    let service = open(endpoint(&server), &volume).await;
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 64],
        &[0; 64],
        &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 3],
        &[0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1, 1, 7, 7, 7],
    ];
    for bytes in garbage {
        // Instead of a greeting: a refusal, then the end.
        let mut raw = Raw::connect(address).await;
        raw.stream.write_all(bytes).await.expect("write");
        while raw.frame().await.is_some() {}
    }
    for bytes in [garbage[1], garbage[2], &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 9], &[0x00, 0x20, 0, 0]] {
        let mut raw = Raw::greeted(address).await;
        raw.stream.write_all(bytes).await.expect("write");
        assert!(raw.frame().await.is_none(), "{bytes:?}");
    }
    // A whole frame whose message is nonsense is answered, and the connection goes on.
    let mut raw = Raw::greeted(address).await;
    raw.stream.write_all(&[0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 5, 3, 0xff, 0xff, 0xff]).await.expect("write");
    let (id, message) = raw.frame().await.expect("a reply");
    assert_eq!(id, 5);
    assert!(matches!(decode_reply(message), Ok(Err(MetaError::Invalid(_)))));
    assert_eq!(raw.call(&Call::Ping).await, Ok(Answer::Unit));
    create(&service, "a", 1, LONG).await.expect("others are not disturbed");
}

#[tokio::test]
async fn a_peer_that_does_not_read_disturbs_nobody_and_is_dropped() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    let limits = Limits { write_timeout: Duration::from_millis(500), ..Limits::default() };
    let server = start(&backend, ServeOptions { limits, ..options() }).await;
    let mut slow = Raw::greeted(server.addr().expect("address")).await;
    let Ok(Answer::Session(grant)) = slow.call(&Call::OpenSession(request(&volume))).await else { panic!("a session") };
    let session = SessionRef { session: grant.session, generation: grant.generation };
    let mut flood = BytesMut::new();
    for id in 0..200 {
        // More than a MiB each: far beyond what sockets and the server's buffer hold.
        let call = Call::Readdir { session, inode: InodeId::ROOT, after: 0, limit: 4096, attrs: true };
        encode_request(&mut flood, id, LONG, &call).expect("encode");
    }
    slow.stream.write_all(&flood).await.expect("write");
    let service = open(endpoint(&server), &volume).await;
    for op in 1..50 {
        create(&service, &format!("f{op}"), op, LONG).await.expect("others go on");
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut replies = 0;
    while slow.frame().await.is_some() {
        replies += 1;
    }
    assert!(replies < 100, "{replies} replies for a peer that did not read");
}

#[tokio::test]
async fn too_many_connections_are_refused_in_words() {
    let backend = TestBackend::new();
    let limits = Limits { connections: 2, ..Limits::default() };
    let server = start(&backend, ServeOptions { limits, ..options() }).await;
    let address = server.addr().expect("address");
    let first = Raw::greeted(address).await;
    let _second = Raw::greeted(address).await;
    let refused = Raw::connect(address).await.greet().await.refused;
    assert!(matches!(&refused, Some(MetaError::Unavailable(text)) if text.contains("connections")), "{refused:?}");
    drop(first);
    let until = std::time::Instant::now() + LONG;
    while Raw::connect(address).await.greet().await.refused.is_some() {
        assert!(std::time::Instant::now() < until, "the place is not free again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn silent_peers_are_dropped() {
    let backend = TestBackend::new();
    let short = Duration::from_millis(100);
    let limits = Limits { idle_timeout: short, handshake_timeout: short, ..Limits::default() };
    let server = start(&backend, ServeOptions { limits, ..options() }).await;
    let address = server.addr().expect("address");
    assert!(Raw::connect(address).await.frame().await.is_none(), "no greeting");
    assert!(Raw::greeted(address).await.frame().await.is_none(), "no request");
}
