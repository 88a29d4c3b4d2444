//! The engine as its front ends use it, on a real store.
#![cfg(feature = "holt")]

mod bodies;
mod check;
mod early;
mod faults;
mod listing;
mod local;
mod locks;
mod packs;
mod restart;
mod sessions;
mod volumes;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nokvfs_meta::service::{MetadataService, RequestContext, VolumeService};
use nokvfs_meta::{Engine, EngineOptions, LocalService};
use nokvfs_object::{MemoryStore, ObjectStore};
use nokvfs_types::{
    Ack, Applied, Attr, Caller, InodeId, Mutation, Name, NewNode, OpId, SessionGrant, SessionRequest, Stamp, Token,
    VolumeInfo, VolumeSpec,
};

/// Nothing in these tests takes nearly so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// An engine with its folder and objects.
struct World {
    dir: tempfile::TempDir,
    objects: Arc<MemoryStore>,
    engine: Arc<Engine>,
}

fn options(dir: &Path) -> EngineOptions {
    let mut options = EngineOptions::new(dir.join("meta"));
    options.store.low_water = 0;
    options.store.memory_limit = 256 << 20;
    options.garbage_delay = Duration::ZERO;
    options.interval = Duration::from_millis(50);
    options
}

impl World {
    async fn new() -> World {
        World::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut EngineOptions)) -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let objects = Arc::new(MemoryStore::new());
        let mut options = options(dir.path());
        change(&mut options);
        let engine = Engine::open(options, objects.clone() as Arc<dyn ObjectStore>).await.expect("open");
        World { dir, objects, engine }
    }

    /// Closes the engine and opens it again.
    async fn restart(&mut self) {
        self.restart_with(|_| {}).await;
    }

    async fn restart_with(&mut self, change: impl FnOnce(&mut EngineOptions)) {
        self.engine.close().await.expect("close");
        let mut options = options(self.dir.path());
        change(&mut options);
        self.engine = Engine::open(options, self.objects.clone() as Arc<dyn ObjectStore>).await.expect("open again");
    }

    async fn volume(&self, name: &str) -> (VolumeInfo, Token) {
        self.engine.create_volume(spec(name)).await.expect("a volume")
    }

    async fn mount(&self, volume: &(VolumeInfo, Token)) -> Mounted {
        Mounted(LocalService::open(Arc::clone(&self.engine), request(volume)).await.expect("a session"))
    }
}

fn spec(name: &str) -> VolumeSpec {
    VolumeSpec { name: name.into(), quota_bytes: 0, quota_inodes: 0, root_mode: 0o755, root_uid: 7, root_gid: 8 }
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

fn name(text: &str) -> Name {
    Name::try_from(text).expect("a name")
}

fn caller() -> Caller {
    Caller { uid: 1000, gid: 1000, groups: Arc::from([]) }
}

fn context() -> RequestContext {
    static OP: AtomicU64 = AtomicU64::new(1);
    RequestContext {
        caller: caller(),
        op: OpId(OP.fetch_add(1, Ordering::Relaxed)),
        deadline: Instant::now() + PATIENCE,
    }
}

/// The stamp of one request of a session.
fn stamp(grant: &SessionGrant, slot: u16, sequence: u64, op: u64) -> Stamp {
    Stamp { session: grant.session, generation: grant.generation, slot, sequence, op: OpId(op) }
}

fn file(parent: InodeId, text: &str) -> Mutation {
    node(parent, text, NewNode::File)
}

fn node(parent: InodeId, text: &str, node: NewNode) -> Mutation {
    Mutation::Create { parent, name: name(text), node, mode: 0o644, open_existing: false, ack: Ack::Durable }
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

/// Asks again until it is so.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "{what}: not in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
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
    async fn apply(&self, mutation: Mutation) -> Applied {
        self.0.mutate(&context(), mutation).await.expect("applied")
    }

    async fn make(&self, mutation: Mutation) -> Attr {
        entry(self.apply(mutation).await)
    }
}
