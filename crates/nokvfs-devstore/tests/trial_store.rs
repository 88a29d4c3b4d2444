//! What the trial store promises beyond the protocol: locking, kill -9, full disks, restarts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nokvfs_devstore::{DevStore, DevStoreError, DevStoreOptions};
use nokvfs_object::{ObjectError, ObjectStore, S3Options, S3Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const CHILD: &str = "NOKV_TEST_DEVSTORE_DIR";

fn options(dir: &Path) -> DevStoreOptions {
    DevStoreOptions {
        dir: dir.to_owned(),
        bucket: "bucket".to_owned(),
        access_key: "access".to_owned(),
        secret_key: "a-secret".to_owned(),
    }
}

fn client(port: u16, deadline: Duration) -> Arc<S3Store> {
    let options = S3Options {
        endpoint: format!("http://127.0.0.1:{port}"),
        bucket: "bucket".to_owned(),
        access_key: "access".to_owned(),
        secret_key: "a-secret".to_owned(),
        deadline,
        ..S3Options::default()
    };
    Arc::new(S3Store::new(options).expect("options"))
}

async fn serve(dir: &Path) -> (Arc<S3Store>, CancellationToken, tokio::task::JoinHandle<()>) {
    let store = DevStore::open(options(dir)).expect("open");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let stop = CancellationToken::new();
    let token = stop.clone();
    let served = tokio::spawn(async move { store.serve(listener, token).await.expect("served") });
    (client(port, Duration::from_secs(20)), stop, served)
}

/// Not a test of its own: the server process that `a_kill_leaves_every_acknowledged_object_whole` kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_server() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let store = DevStore::open(options(Path::new(&dir))).expect("open");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("\nport {}", listener.local_addr().expect("an address").port());
    store.serve(listener, CancellationToken::new()).await.expect("served");
}

struct Server(Child);

impl Server {
    fn start(dir: &Path) -> (Self, u16) {
        let mut child = Command::new(std::env::current_exe().expect("this binary"));
        child.args(["--exact", "child_server", "--nocapture"]).env(CHILD, dir).stdout(Stdio::piped());
        let mut child = child.spawn().expect("spawn");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("port ")?.parse().ok());
        (Self(child), port.expect("a port"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

fn body(writer: u32, number: u32) -> Bytes {
    Bytes::from(format!("{writer}/{number} ").repeat(1 + (number as usize % 7) * 20_000))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_every_acknowledged_object_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged = BTreeMap::new();
    for round in 0..3u32 {
        let (server, port) = Server::start(dir.path());
        let store = client(port, Duration::from_secs(2));
        let writers = (0..8u32).map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut done = Vec::new();
                for number in 0.. {
                    let key = format!("{round}/{writer}/{number}");
                    if store.put_if_absent(&key, body(writer, number)).await.is_err() {
                        break;
                    }
                    done.push((key, body(writer, number)));
                }
                done
            })
        });
        let writers: Vec<_> = writers.collect();
        tokio::time::sleep(Duration::from_millis(700)).await;
        drop(server);
        for writer in writers {
            acknowledged.extend(writer.await.expect("no panic"));
        }
    }
    let (store, stop, served) = serve(dir.path()).await;
    assert!(acknowledged.len() > 24, "{}", acknowledged.len());
    for (key, body) in &acknowledged {
        assert!(store.get(key, None).await.expect(key) == *body, "{key}");
    }
    let mut after = None;
    loop {
        let page = store.list("", after.as_deref(), 1000).await.expect("list");
        for object in &page.objects {
            let parts: Vec<u32> = object.key.split('/').map(|part| part.parse().expect("a number")).collect();
            assert!(store.get(&object.key, None).await.expect("get") == body(parts[1], parts[2]), "{object:?}");
        }
        after = page.objects.last().map(|object| object.key.clone());
        if !page.more {
            break;
        }
    }
    stop.cancel();
    served.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_a_directory_and_a_restart_finds_the_objects() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, stop, served) = serve(dir.path()).await;
    let long = "long/".repeat(200);
    for key in ["a", "a/b", &long] {
        store.put(key, Bytes::from_static(b"x")).await.expect("put");
    }
    store.put("a", Bytes::from_static(b"replaced")).await.expect("put");
    let second = DevStore::open(options(dir.path())).expect_err("locked");
    let pid = std::process::id().to_string();
    assert!(matches!(&second, DevStoreError::Locked { pid: other, .. } if *other == pid), "{second}");
    stop.cancel();
    served.await.expect("no panic");
    let (store, stop, served) = serve(dir.path()).await;
    let page = store.list("", None, 10).await.expect("list");
    assert_eq!(page.objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a", "a/b", &long]);
    assert_eq!(store.get("a", None).await.expect("get"), "replaced");
    stop.cancel();
    served.await.expect("no panic");
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_tears_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let flags = rustix::mount::MountFlags::empty();
    if rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, c"size=8m").is_err() {
        println!("skipped: mounting a tmpfs needs root");
        return;
    }
    let mounted = Mounted(dir.path());
    let (store, stop, served) = serve(dir.path()).await;
    let big = Bytes::from(vec![7; 3 << 20]);
    store.put("1", big.clone()).await.expect("fits");
    store.put("2", big.clone()).await.expect("fits");
    let full = store.put("3", big.clone()).await.expect_err("full");
    assert!(matches!(&full, ObjectError::Unavailable(text) if text.contains("InsufficientStorage")), "{full}");
    assert!(matches!(store.head("3").await, Err(ObjectError::NotFound(_))));
    assert!(store.get("2", None).await.expect("get") == big);
    store.put("2", big.clone()).await.expect_err("a replacement needs room too");
    assert!(store.get("2", None).await.expect("get") == big);
    store.delete(&["1".to_owned()]).await.expect("delete");
    store.put("3", big.clone()).await.expect("fits again");
    stop.cancel();
    served.await.expect("no panic");
    drop(mounted);
}

#[test]
fn options_are_checked_and_secrets_hidden() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = options(dir.path());
    assert!(!format!("{good:?}").contains("a-secret"));
    let bad = DevStore::open(DevStoreOptions { bucket: "..".to_owned(), ..good.clone() });
    assert!(bad.expect_err("bucket").to_string().contains("option bucket"));
    let bad = DevStore::open(DevStoreOptions { secret_key: String::new(), ..good });
    assert!(bad.expect_err("secret").to_string().contains("option secret_key"));
}
