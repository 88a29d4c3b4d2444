//! One suite over every store: in memory, the trial store, and somebody else's S3 server.

mod suite;
mod trouble;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nokvfs_devstore::{DevStore, DevStoreOptions};
use nokvfs_object::{MemoryStore, S3Options, S3Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) fn options(port: u16) -> S3Options {
    S3Options {
        endpoint: format!("http://127.0.0.1:{port}"),
        bucket: "bucket".to_owned(),
        prefix: "some/prefix".to_owned(),
        access_key: "access".to_owned(),
        secret_key: "a-secret".to_owned(),
        deadline: Duration::from_secs(20),
        ..S3Options::default()
    }
}

/// A trial store in this process. Its directory goes with the value.
pub(crate) struct Trial {
    pub(crate) port: u16,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Trial {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = DevStore::open(DevStoreOptions {
            dir: dir.path().to_owned(),
            bucket: "bucket".to_owned(),
            access_key: "access".to_owned(),
            secret_key: "a-secret".to_owned(),
        });
        let store = store.expect("open");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let stop = CancellationToken::new();
        let token = stop.clone();
        let served = tokio::spawn(async move { store.serve(listener, token).await.expect("served") });
        Self { port, stop, served, _dir: dir }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.served.await.expect("no panic");
    }
}

#[tokio::test]
async fn memory() {
    suite::run(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trial_store() {
    let trial = Trial::start().await;
    let store = S3Store::new(options(trial.port)).expect("options");
    store.check().await.expect("check");
    suite::run(Arc::new(store)).await;
    trial.stop().await;
}

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

fn gateway_binary() -> Option<PathBuf> {
    let cache = std::env::var_os("NOKV_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache/nokv")))?;
    Some(cache.join("bin/versitygw")).filter(|binary| binary.exists())
}

#[tokio::test(flavor = "multi_thread")]
async fn versitygw() {
    let Some(binary) = gateway_binary() else {
        println!("skipped: no $NOKV_CACHE/bin/versitygw");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("bucket")).expect("a bucket");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let mut gateway = Command::new(binary);
    gateway.args(["--port", &format!("127.0.0.1:{port}")]);
    gateway.arg("posix").arg(dir.path()).env("ROOT_ACCESS_KEY", "access").env("ROOT_SECRET_KEY", "a-secret");
    let child = gateway.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn");
    let _gateway = Gateway(child);
    // The store's own retries wait until the gateway listens.
    let store = S3Store::new(options(port)).expect("options");
    store.check().await.expect("check");
    suite::run(Arc::new(store)).await;
}
