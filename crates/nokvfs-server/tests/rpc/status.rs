//! What HTTP tells.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nokvfs_object::{Fault, FaultStore, MemoryStore, ObjectError, Operation};
use nokvfs_server::{Limits, ServeOptions, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::TestBackend;
use crate::{create, endpoint, open, options};

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("read");
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
    (status, text)
}

async fn wait_for(address: SocketAddr, wanted: u16) -> String {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let (status, text) = get(address, "/readyz").await;
        if status == wanted {
            return text;
        }
        assert!(Instant::now() < until, "not {wanted}: {text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn serve(backend: &Arc<TestBackend>) -> (Server, Arc<FaultStore>, SocketAddr) {
    let store = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
    let limits = Limits { probe_interval: Duration::from_millis(20), ..Limits::default() };
    let http = Some("127.0.0.1:0".parse().expect("address"));
    let options = ServeOptions { http, limits, ..options() };
    let server = Server::start_with(Arc::clone(backend) as _, Arc::clone(&store) as _, options).await.expect("start");
    let address = server.http_addr().expect("HTTP");
    (server, store, address)
}

#[tokio::test]
async fn readyz_tells_the_truth_about_store_and_committer() {
    const REASON: &str = "x-nokv-reason: ObjectStoreUnreachable\r\n";
    let backend = TestBackend::new();
    let (server, store, address) = serve(&backend).await;
    assert!(!wait_for(address, 200).await.contains("x-nokv-reason"));
    let gone = ObjectError::Unavailable("connection refused".into());
    store.inject_always(Operation::List, Fault::FailBefore(gone));
    let text = wait_for(address, 503).await;
    assert!(
        text.contains("\r\n\r\nthe S3 object store can't be reached: ") && text.contains("connection refused"),
        "{text}"
    );
    assert!(text.contains(REASON), "{text}");
    assert_eq!(get(address, "/healthz").await.0, 200, "alive all the same");
    store.heal();
    wait_for(address, 200).await;
    backend.sick.store(true, Ordering::Relaxed);
    let text = wait_for(address, 503).await;
    assert!(text.contains("committer") && !text.contains("x-nokv-reason"), "{text}");
    backend.sick.store(false, Ordering::Relaxed);
    wait_for(address, 200).await;
    server.shutdown(Duration::from_secs(5)).await.expect("shutdown");
}

#[tokio::test]
async fn metrics_show_requests_volumes_and_figures() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("data");
    let (server, _store, address) = serve(&backend).await;
    let service = open(endpoint(&server), &volume).await;
    for op in 1..4 {
        create(&service, &format!("f{op}"), op, Duration::from_secs(5)).await.expect("create");
    }
    wait_for(address, 200).await;
    let (status, text) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "nokv_request_duration_seconds_count{op=\"create\"} 3",
        "nokv_connections 1",
        "nokv_sessions 1",
        "nokv_commit_commands 12",
        "nokv_garbage_records 4",
        "nokv_ready 1",
        &format!("nokv_volume_used_bytes{{volume=\"{}\",name=\"data\"}} 5", volume.0.id),
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(get(address, "/other").await.0, 404);
}
