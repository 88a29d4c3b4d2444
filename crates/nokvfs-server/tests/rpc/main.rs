//! Client and server over real sockets.

mod auth;
mod backend;
mod certs;
mod faults;
mod load;
mod locks;
mod proxy;
mod raw;
mod status;
mod whole;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_client::{Endpoint, RemoteOptions, RemoteService};
use nokvfs_meta::service::{MetaResult, MetadataService, RequestContext};
use nokvfs_object::{MemoryStore, ObjectStore};
use nokvfs_server::{Limits, Listen, ServeOptions, Server};
use nokvfs_types::{Ack, Applied, Caller, InodeId, Mutation, Name, NewNode, OpId, SessionRequest, Token, VolumeInfo};

use backend::TestBackend;

fn options() -> ServeOptions {
    ServeOptions {
        listen: vec!["127.0.0.1:0".parse().expect("address")],
        http: None,
        tls: None,
        limits: Limits::default(),
    }
}

async fn start(backend: &Arc<TestBackend>, options: ServeOptions) -> Server {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    Server::start_with(Arc::clone(backend) as _, store, options).await.expect("start")
}

fn endpoint(server: &Server) -> Endpoint {
    server.addr().expect("a TCP address").to_string().parse().expect("endpoint")
}

fn request(volume: &(VolumeInfo, Token)) -> SessionRequest {
    SessionRequest {
        volume: volume.0.id,
        token: volume.1,
        client: "test".into(),
        read_only: false,
        snapshot: None,
        resume: None,
    }
}

async fn open(endpoint: Endpoint, volume: &(VolumeInfo, Token)) -> Arc<RemoteService> {
    let options = RemoteOptions { open_timeout: Duration::from_secs(10) };
    RemoteService::open(endpoint, None, request(volume), options).await.expect("session")
}

fn ctx(op: u64, timeout: Duration) -> RequestContext {
    let caller = Caller { uid: 0, gid: 0, groups: [].into() };
    RequestContext { caller, op: OpId(op), deadline: Instant::now() + timeout }
}

async fn create(service: &RemoteService, name: &str, op: u64, timeout: Duration) -> MetaResult<Applied> {
    let name = Name::try_from(name).expect("name");
    let mutation = Mutation::Create {
        parent: InodeId::ROOT,
        name,
        node: NewNode::File,
        mode: 0o644,
        open_existing: false,
        ack: Ack::Durable,
    };
    service.mutate(&ctx(op, timeout), mutation).await
}

#[tokio::test]
async fn a_unix_socket_serves_alike_and_a_stale_one_is_replaced() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("nokv.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("stale"));
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    let listen = vec![Listen::Unix(path.clone())];
    let server = start(&backend, ServeOptions { listen: listen.clone(), ..options() }).await;
    let service = open(format!("unix:{}", path.display()).parse().expect("endpoint"), &volume).await;
    create(&service, "a", 1, Duration::from_secs(5)).await.expect("create");
    let second = Server::start_with(
        Arc::clone(&backend) as _,
        Arc::new(MemoryStore::new()),
        ServeOptions { listen, ..options() },
    );
    assert!(second.await.is_err(), "a socket that is in use is not taken");
    service.close().await.expect("close");
    server.shutdown(Duration::from_secs(5)).await.expect("shutdown");
    assert!(!path.exists());
}

#[tokio::test]
async fn many_requests_of_many_clients_come_back_to_whom_they_belong() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    let server = start(&backend, options()).await;
    let mut clients = Vec::new();
    for client in 0..8u64 {
        let service = open(endpoint(&server), &volume).await;
        clients.push(tokio::spawn(async move {
            let work = (0..100u64).map(|index| {
                let (service, name) = (Arc::clone(&service), format!("c{client}-{index}"));
                async move {
                    let made = create(&service, &name, index + 1, Duration::from_secs(20)).await.expect("create");
                    let (ctx, name) = (ctx(0, Duration::from_secs(20)), Name::try_from(&*name).expect("name"));
                    let found = service.lookup(&ctx, InodeId::ROOT, &name).await.expect("lookup");
                    assert_eq!(made, Applied::Entry { attr: found, created: true });
                }
            });
            futures::future::join_all(work).await;
        }));
    }
    for client in clients {
        client.await.expect("client");
    }
    assert_eq!(backend.effects().len(), 800);
    assert!(backend.effects().values().all(|count| *count == 1));
    server.shutdown(Duration::from_secs(5)).await.expect("shutdown");
    assert!(backend.was_shut_down());
}
