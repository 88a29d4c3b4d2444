//! The whole server: engine on disk, bodies in a store, client and SDK over a socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nokvfs_body::{Bodies, BodyOptions};
use nokvfs_client::{Endpoint, Fs, RemoteService, RemoteVolumes};
use nokvfs_meta::service::{MetadataService, VolumeService};
use nokvfs_object::{MemoryStore, ObjectStore, S3Options};
use nokvfs_server::{Limits, Listen, Server, ServerOptions};
use nokvfs_types::{Applied, Caller, FileKind, InodeId, MetaError, RenameMode, Token, VolumeInfo, VolumeSpec};

use crate::proxy::Proxy;
use crate::{create, ctx, endpoint, open};

const LONG: Duration = Duration::from_secs(30);

pub fn at(dir: &Path, listen: Vec<Listen>) -> ServerOptions {
    ServerOptions {
        data: dir.to_owned(),
        listen,
        http: None,
        tls: None,
        s3: S3Options::default(),
        memory_limit: 256 << 20,
        limits: Limits::default(),
    }
}

pub struct Whole {
    pub store: Arc<dyn ObjectStore>,
    pub server: Server,
    pub volume: (VolumeInfo, Token),
    /// Last, as the server goes before it.
    pub dir: tempfile::TempDir,
}

impl Whole {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
        let listen = vec!["127.0.0.1:0".parse().expect("address")];
        let server = Server::start_on(Arc::clone(&store), at(dir.path(), listen)).await.expect("start");
        let volumes = RemoteVolumes::connect(endpoint(&server), None, std::time::Instant::now() + LONG).await;
        let volume = volumes.expect("connect").create_volume(spec("v")).await.expect("volume");
        Whole { store, server, volume, dir }
    }

    fn endpoint(&self) -> Endpoint {
        endpoint(&self.server)
    }

    pub async fn service(&self) -> Arc<RemoteService> {
        open(self.endpoint(), &self.volume).await
    }

    fn fs(&self, service: &Arc<RemoteService>) -> (Fs, Arc<Bodies>) {
        let service = Arc::clone(service) as Arc<dyn MetadataService>;
        let bodies =
            Bodies::new(Arc::clone(&service), Arc::clone(&self.store), BodyOptions::default()).expect("bodies");
        (Fs::new(service, Arc::clone(&bodies), Caller { uid: 7, gid: 8, groups: [].into() }), bodies)
    }
}

fn spec(name: &str) -> VolumeSpec {
    VolumeSpec { name: name.into(), quota_bytes: 0, quota_inodes: 0, root_mode: 0o755, root_uid: 0, root_gid: 0 }
}

#[tokio::test]
async fn volumes_are_made_listed_and_deleted() {
    let whole = Whole::start().await;
    let volumes =
        RemoteVolumes::connect(whole.endpoint(), None, std::time::Instant::now() + LONG).await.expect("connect");
    let again = volumes.create_volume(spec("v")).await.expect("the same again");
    assert_eq!((again.0.id, again.1), (whole.volume.0.id, whole.volume.1));
    let (second, _) = volumes.create_volume(spec("w")).await.expect("another");
    let names = |list: Vec<VolumeInfo>| list.into_iter().map(|info| info.spec.name).collect::<Vec<_>>();
    assert_eq!(names(volumes.list_volumes(None, 10).await.expect("list")), ["v", "w"]);
    assert_eq!(names(volumes.list_volumes(Some("v"), 10).await.expect("list")), ["w"]);
    assert_eq!(volumes.set_quota(second.id, 5, 6).await.expect("quota").spec.quota_bytes, 5);
    let service = whole.service().await;
    assert!(matches!(volumes.delete_volume(whole.volume.0.id).await, Err(MetaError::Busy(_))));
    service.close().await.expect("close");
    volumes.delete_volume(whole.volume.0.id).await.expect("delete");
    whole.server.shutdown(LONG).await.expect("shutdown");
}

#[tokio::test]
async fn acknowledged_mutations_survive_a_restart_and_waiting_ones_go_on() {
    let whole = Whole::start().await;
    let service = whole.service().await;
    for op in 1..=50 {
        create(&service, &format!("before-{op}"), op, LONG).await.expect("create");
    }
    let Whole { dir, store, server, .. } = whole;
    let listen = server.addresses().to_vec();
    server.shutdown(LONG).await.expect("shutdown");
    let waiting = (0..20u64).map(|index| {
        let service = Arc::clone(&service);
        tokio::spawn(async move { create(&service, &format!("during-{index}"), 100 + index, LONG).await })
    });
    let waiting: Vec<_> = waiting.collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let server = Server::start_on(store, at(dir.path(), listen)).await.expect("start again");
    for done in waiting {
        assert!(matches!(done.await.expect("task"), Ok(Applied::Entry { created: true, .. })));
    }
    let page = service.readdir(&ctx(0, LONG), InodeId::ROOT, 0, 1000, true).await.expect("list");
    assert_eq!((page.entries.len(), page.end), (70, true));
    service.close().await.expect("close");
    server.shutdown(LONG).await.expect("shutdown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_create_each_file_once_in_the_engine() {
    let whole = Whole::start().await;
    let target = whole.server.addr().expect("address");
    let proxy = Proxy::start(target, |number| 24_000 + number * 3_797 % 8_192).await;
    let service = open(proxy.address.to_string().parse().expect("endpoint"), &whole.volume).await;
    let work = (0..1500u64).map(|index| {
        let service = Arc::clone(&service);
        tokio::spawn(async move { create(&service, &format!("f{index}"), index + 1, LONG).await })
    });
    for done in futures::future::join_all(work).await {
        // A request that was carried out twice would find its own file: `Exists`.
        let done = done.expect("task").expect("create");
        assert!(matches!(done, Applied::Entry { created: true, .. }), "{done:?}");
    }
    let stat = service.statfs(&ctx(0, LONG)).await.expect("statfs");
    assert_eq!(stat.used_inodes, 1501);
    assert!(proxy.cuts.load(std::sync::atomic::Ordering::Relaxed) >= 3, "the proxy hardly cut");
}

#[tokio::test]
async fn paths_are_resolved_with_links_and_dots() {
    let whole = Whole::start().await;
    let service = whole.service().await;
    let (fs, _bodies) = whole.fs(&service);
    let deep = fs.mkdir_all("/a/b/c", 0o755).await.expect("mkdir -p");
    assert_eq!((deep.uid, deep.gid, deep.kind), (7, 8, FileKind::Directory));
    fs.mkdir_all("a/b/c", 0o755).await.expect("again");
    assert_eq!(fs.mkdir("a", 0o755).await.expect_err("taken").errno(), libc::EEXIST);
    for (target, path) in
        [("b/c", "a/rel"), ("/a/b", "abs"), ("../b/../b/c", "a/b/up"), ("loop2", "loop1"), ("loop1", "loop2")]
    {
        fs.symlink(target, path).await.expect("symlink");
    }
    for path in ["a/rel", "/abs/c", "a/b/up", "a/./b//c/", "a/b/c/../c", "../../a/b/c", "abs/../b/c"] {
        assert_eq!(fs.stat(path).await.expect(path).inode, deep.inode, "{path}");
    }
    assert_eq!(fs.lstat("abs").await.expect("link").kind, FileKind::Symlink);
    assert_eq!(fs.readlink("abs").await.expect("link"), "/a/b");
    assert_eq!(fs.stat("loop1").await.expect_err("loop").errno(), libc::ELOOP);
    assert!(fs.stat("a/none/x").await.expect_err("missing").is_not_found());
    fs.write("file", Bytes::from_static(b"x"), 0o644).await.expect("write");
    assert_eq!(fs.stat("file/x").await.expect_err("no directory").errno(), libc::ENOTDIR);
    assert_eq!(fs.mkdir_all("file", 0o755).await.expect_err("a file").errno(), libc::EEXIST);
}

#[tokio::test]
async fn files_are_written_whole_read_moved_and_removed() {
    let whole = Whole::start().await;
    let service = whole.service().await;
    let (fs, bodies) = whole.fs(&service);
    let content: Bytes = (0..9_000_000u32).map(|at| (at / 7 % 251) as u8).collect::<Vec<_>>().into();
    fs.mkdir("d", 0o755).await.expect("mkdir");
    fs.write("d/f", Bytes::from_static(b"old"), 0o600).await.expect("write");
    let mut writer = fs.create("d/f", 0o640).await.expect("create");
    for piece in content.chunks(1_000_000) {
        writer.write(Bytes::copy_from_slice(piece)).await.expect("write");
    }
    assert_eq!(fs.read("d/f", 0, 10).await.expect("read"), "old", "nothing shows before the commit");
    assert_eq!(writer.commit().await.expect("commit").size, 9_000_000);
    assert_eq!(fs.stat("d/f").await.expect("stat").mode, 0o640);
    let mut reader = fs.open("d/f").await.expect("open");
    let mut read = Vec::new();
    loop {
        let bytes = reader.next().await.expect("read");
        if bytes.is_empty() {
            break;
        }
        read.extend_from_slice(&bytes);
    }
    assert!(read == content, "{} bytes", read.len());
    assert_eq!(fs.read("d/f", 8_999_990, 100).await.expect("tail"), content[8_999_990..]);
    // Dropped or aborted writers leave nothing behind.
    fs.create("d/g", 0o644).await.expect("create").abort().await.expect("abort");
    fs.rename("d/f", "d/h", RenameMode::NoReplace).await.expect("rename");
    let mut listing = fs.list("d").await.expect("list");
    let entry = listing.next().await.expect("entry").expect("one");
    assert_eq!((entry.name.as_bytes(), entry.attr.expect("attributes").size), (&b"h"[..], 9_000_000));
    assert_eq!(listing.next().await.expect("end"), None);
    for index in 0..20 {
        fs.mkdir_all(format!("d/{index}/x/y"), 0o755).await.expect("mkdir");
        fs.symlink("/d", format!("d/{index}/x/back")).await.expect("symlink");
    }
    assert_eq!(fs.remove("d").await.expect_err("not empty").errno(), libc::ENOTEMPTY);
    assert_eq!(fs.remove_all("d").await.expect("rm -r"), 1 + 1 + 20 * 4);
    assert_eq!(fs.remove_all("d").await.expect("nothing left"), 0);
    assert_eq!(bodies.dirty(), 0);
}
