//! The engine against what it must answer and leave behind, operation by operation, on a real store.
#![cfg(feature = "holt")]

mod concurrent;
mod content;
mod garbage;
mod namespace;
mod once;
mod tree;
mod versions;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nokvfs_meta::service::{MetaResult, MetadataService, RequestContext, VolumeService};
use nokvfs_meta::{Engine, EngineOptions, LocalService};
use nokvfs_object::{FaultStore, MemoryStore, ObjectStore};
use nokvfs_types::{
    Ack, Applied, Attr, Caller, InodeId, Mutation, Name, NewNode, OpId, SessionRequest, Token, UploadId, VolumeInfo,
    VolumeSpec,
};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Nothing in these tests takes nearly so long.
const PATIENCE: Duration = Duration::from_secs(20);
const ROOT: InodeId = InodeId::ROOT;

/// An engine with its folder and objects.
struct World {
    dir: tempfile::TempDir,
    memory: Arc<MemoryStore>,
    objects: Arc<FaultStore>,
    engine: Arc<Engine>,
    volumes: AtomicU64,
}

fn options(dir: &Path) -> EngineOptions {
    let mut options = EngineOptions::new(dir.join("meta"));
    options.store.low_water = 0;
    options.store.memory_limit = 256 << 20;
    options.garbage_delay = Duration::ZERO;
    options.interval = Duration::from_millis(50);
    // Clients are heard of, and asked for orphans, six times in it.
    options.session_expiry = Duration::from_secs(6);
    options
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let memory = Arc::new(MemoryStore::new());
        let objects = Arc::new(FaultStore::new(memory.clone()));
        let engine = Engine::open(options(dir.path()), objects.clone()).await.expect("open");
        World { dir, memory, objects, engine, volumes: AtomicU64::new(0) }
    }

    /// Closes the engine and opens it again.
    async fn restart(&mut self) {
        self.restart_with(|_| {}).await;
    }

    async fn restart_with(&mut self, change: impl FnOnce(&mut EngineOptions)) {
        self.engine.close().await.expect("close");
        let mut options = options(self.dir.path());
        change(&mut options);
        self.engine = Engine::open(options, self.objects.clone()).await.expect("open again");
    }

    /// A new volume without a quota.
    async fn volume(&self) -> (VolumeInfo, Token) {
        self.limited(0, 0).await
    }

    async fn limited(&self, quota_bytes: u64, quota_inodes: u64) -> (VolumeInfo, Token) {
        let name = format!("v{}", self.volumes.fetch_add(1, Ordering::Relaxed));
        let spec = VolumeSpec { name, quota_bytes, quota_inodes, root_mode: 0o755, root_uid: 7, root_gid: 8 };
        self.engine.create_volume(spec).await.expect("a volume")
    }

    async fn mount(&self, volume: &(VolumeInfo, Token)) -> Mounted {
        Mounted(LocalService::open(Arc::clone(&self.engine), request(volume)).await.expect("a session"))
    }

    async fn usage(&self, volume: &(VolumeInfo, Token)) -> (u64, u64) {
        let usage = self.engine.volume(volume.0.id).await.expect("volume").usage;
        (usage.bytes, usage.inodes)
    }

    /// Keys of a volume's objects.
    fn keys(&self, volume: &(VolumeInfo, Token)) -> Vec<String> {
        let prefix = nokvfs_types::volume_prefix(volume.0.id);
        self.memory.keys().into_iter().filter(|key| key.starts_with(&prefix)).collect()
    }

    async fn put(&self, key: &str) {
        self.memory.put(key, "bytes".into()).await.expect("put");
    }
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

fn caller() -> Caller {
    Caller { uid: 1000, gid: 1000, groups: Arc::from([]) }
}

fn context() -> RequestContext {
    static OP: AtomicU64 = AtomicU64::new(1);
    let op = OpId(OP.fetch_add(1, Ordering::Relaxed));
    RequestContext { caller: caller(), op, deadline: Instant::now() + PATIENCE }
}

fn name(text: &str) -> Name {
    Name::try_from(text).expect("a name")
}

fn create(parent: InodeId, text: &str, node: NewNode) -> Mutation {
    Mutation::Create { parent, name: name(text), node, mode: 0o644, open_existing: false, ack: Ack::Durable }
}

fn file(parent: InodeId, text: &str) -> Mutation {
    create(parent, text, NewNode::File)
}

fn dir(parent: InodeId, text: &str) -> Mutation {
    create(parent, text, NewNode::Directory)
}

fn unlink(parent: InodeId, text: &str) -> Mutation {
    Mutation::Unlink { parent, name: name(text) }
}

fn entry(applied: Applied) -> Attr {
    match applied {
        Applied::Entry { attr, .. } => attr,
        other => panic!("not an entry: {other:?}"),
    }
}

/// A session of this process with shorthands.
struct Mounted(Arc<LocalService>);

impl std::ops::Deref for Mounted {
    type Target = LocalService;

    fn deref(&self) -> &LocalService {
        &self.0
    }
}

impl Mounted {
    async fn try_apply(&self, mutation: Mutation) -> MetaResult<Applied> {
        self.0.mutate(&context(), mutation).await
    }

    async fn apply(&self, mutation: Mutation) -> Applied {
        self.try_apply(mutation).await.expect("applied")
    }

    async fn make(&self, mutation: Mutation) -> Attr {
        entry(self.apply(mutation).await)
    }

    async fn reserve(&self, count: u32) -> UploadId {
        match self.apply(Mutation::ReserveUploads { count, settled: UploadId(0) }).await {
            Applied::Uploads { first, .. } => first,
            other => panic!("no uploads: {other:?}"),
        }
    }
}

/// Asks again until it is so.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "{what}: not in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Checks the same cases every time; a failing one is made smaller first.
fn cases<S: Strategy>(count: u32, strategy: S, check: impl Fn(S::Value)) {
    let config = Config { cases: count, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&strategy, |value| {
        check(value);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
