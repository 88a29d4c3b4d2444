//! A server that is ended at a failpoint under clients that live: their calls wait, go on with the next server, and each
//! takes effect once.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nokvfs_body::{Bodies, BodyOptions};
use nokvfs_client::{RemoteOptions, RemoteService, RemoteVolumes};
use nokvfs_meta::service::{MetadataService, VolumeService};
use nokvfs_object::{MemoryStore, ObjectStore};
use nokvfs_types::{Ack, Applied, BodyView, InodeId, Mutation, Name, NewNode};

use crate::child::{PATIENCE, context, request, serve, spec};

const DIR: &str = "NOKV_TEST_SERVER_DIR";
/// Files of each client.
const FILES: usize = 25;

/// The server: it does nothing unless the test below starts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn living_server() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let _serving = serve(Path::new(&dir), &objects).await;
    println!("\nready");
    std::future::pending::<()>().await;
}

/// A server that is started again whenever it ends.
struct Served {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    ends: Arc<AtomicU64>,
    keeper: Option<std::thread::JoinHandle<()>>,
}

fn start(dir: &Path, point: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "living::living_server", "--nocapture", "--test-threads=1"]).env(DIR, dir);
    if let Some(point) = point {
        command.env("NOKV_FAILPOINT", point);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("started")
}

/// Waits until the server is ready; `false` if it ended before.
fn ready(child: &mut Child) -> bool {
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    lines.map_while(Result::ok).any(|line| line == "ready")
}

impl Served {
    fn start(point: &str, visit: u64) -> Served {
        let dir = tempfile::tempdir().expect("a folder").keep();
        let (stop, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (point, home) = (format!("{point}:{visit}"), dir.clone());
        let (stopped, ended) = (Arc::clone(&stop), Arc::clone(&ends));
        let keeper = std::thread::spawn(move || {
            // The first ends at the point, the second at its second visit, the third lives.
            let mut points = [point.clone(), point].into_iter();
            loop {
                let mut child = start(&home, points.next().as_deref());
                ready(&mut child);
                loop {
                    if stopped.load(Ordering::Acquire) {
                        child.kill().and_then(|()| child.wait()).expect("ended");
                        return;
                    }
                    if child.try_wait().expect("a child").is_some() {
                        ended.fetch_add(1, Ordering::AcqRel);
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Served { dir, stop, ends, keeper: Some(keeper) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(keeper) = self.keeper.take() {
            keeper.join().expect("the keeper");
        }
        std::fs::remove_dir_all(&self.dir).expect("removed");
    }
}

/// A client that makes files, by turns answered early or not, writes every third, and moves every fifth.
async fn work(service: Arc<RemoteService>, objects: Arc<dyn ObjectStore>, client: usize) -> BTreeSet<String> {
    let meta = Arc::clone(&service) as Arc<dyn MetadataService>;
    let bodies = Bodies::new(meta, objects, BodyOptions::default()).expect("bodies");
    let name = |text: &str| Name::try_from(text).expect("a name");
    let mut names = BTreeSet::new();
    for number in 0..FILES {
        let text = format!("c{client}-{number}");
        let create = |ack| Mutation::Create {
            parent: InodeId::ROOT,
            name: name(&text),
            node: NewNode::File,
            mode: 0o644,
            open_existing: false,
            ack,
        };
        let ctx = context();
        let ack = if number % 2 == 0 { Ack::Early } else { Ack::Durable };
        let made = service.mutate(&ctx, create(ack)).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        let Applied::Entry { attr, created: true } = made else { panic!("{text}: {made:?}") };
        // As a mount does (RFC 2): what was answered early is made again if it was lost.
        let view = BodyView { attr: attr.clone(), extents: Vec::new(), complete_to: u64::MAX };
        let file = bodies.adopt(view);
        if ack == Ack::Early {
            file.answered_early(ctx.caller.clone(), create(Ack::Restore(attr.inode)));
        }
        if number % 3 == 0 {
            file.write(&context(), 0, text.clone().into()).await.expect("written");
        }
        file.sync(&context()).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        if number % 5 == 0 {
            let to = format!("{text}-moved");
            let mode = nokvfs_types::RenameMode::NoReplace;
            let (parent, new_parent) = (InodeId::ROOT, InodeId::ROOT);
            let moved = Mutation::Rename { parent, name: name(&text), new_parent, new_name: name(&to), mode };
            service.mutate(&context(), moved).await.unwrap_or_else(|error| panic!("{to}: {error}"));
            names.insert(to);
        } else {
            names.insert(text);
        }
    }
    names
}

async fn live_through(point: &str, visit: u64) -> u64 {
    let served = Served::start(point, visit);
    let endpoint: nokvfs_client::Endpoint =
        format!("unix:{}", served.dir.join("socket").display()).parse().expect("an endpoint");
    let deadline = std::time::Instant::now() + PATIENCE;
    let volumes = RemoteVolumes::connect(endpoint.clone(), None, deadline).await.expect("connected");
    let volume = volumes.create_volume(spec("v")).await.expect("a volume");
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let mut clients = Vec::new();
    for client in 0..3 {
        // A session that was opened unheard is not asked for again: that is the caller's.
        let service = loop {
            let options = RemoteOptions { open_timeout: PATIENCE };
            match RemoteService::open(endpoint.clone(), None, request(&volume), options).await {
                Ok(service) => break service,
                Err(error) => assert!(error.is_retryable() && std::time::Instant::now() < deadline, "{error}"),
            }
        };
        clients.push(tokio::spawn(work(service, Arc::clone(&objects), client)));
    }
    let mut expected = BTreeSet::new();
    for client in clients {
        expected.extend(client.await.expect("a client"));
    }
    let options = RemoteOptions { open_timeout: PATIENCE };
    let service = RemoteService::open(endpoint, None, request(&volume), options).await.expect("a session");
    let page = service.readdir(&context(), InodeId::ROOT, 0, 1000, false).await.expect("listed");
    let found: BTreeSet<_> = page.entries.iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(found, expected, "{point}:{visit}");
    served.ends.load(Ordering::Acquire)
}

#[test]
fn a_server_that_ends_anywhere_carries_each_request_out_once() {
    let points = [
        "commit.queued",
        "commit.planned",
        "commit.answered_early",
        "commit.writing",
        "commit.durable",
        "commit.answering",
        "commit.landed",
        "segment.appending",
        "checkpoint.done",
        "mutate.answer_kept",
        "mutate.done",
        "server.asked",
        "server.answering",
        "server.answered",
        "session.attaching",
    ];
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let begun = std::time::Instant::now();
    let mut ends = 0;
    for (number, point) in points.into_iter().enumerate() {
        let visit = if point == "session.attaching" { 1 } else { 20 + number as u64 };
        ends += runtime.block_on(live_through(point, visit));
    }
    println!("{ends} ends at {} points, each request took effect once, {:?}", points.len(), begun.elapsed());
    assert!(ends >= points.len() as u64, "{ends} ends");
}
