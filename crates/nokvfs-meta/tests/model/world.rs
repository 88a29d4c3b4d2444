//! An engine with its folder and objects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_meta::service::RequestContext;
use nokvfs_meta::{Engine, EngineOptions};
use nokvfs_object::{MemoryStore, ObjectStore};
use nokvfs_types::{Caller, OpId};

pub const CALLER: (u32, u32) = (1000, 1001);
/// Nothing in these tests takes nearly so long.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub engine: Arc<Engine>,
    pub objects: Arc<MemoryStore>,
    dir: tempfile::TempDir,
}

impl World {
    pub async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let objects = Arc::new(MemoryStore::new());
        let engine = open(&dir, &objects).await;
        World { engine, objects, dir }
    }

    /// Closes the engine and opens it again.
    pub async fn restart(&mut self) {
        self.engine.close().await.unwrap();
        self.engine = open(&self.dir, &self.objects).await;
    }

    /// Closes the engine; answers how its store is opened.
    pub async fn close(&self) -> EngineOptions {
        self.engine.close().await.unwrap();
        options(&self.dir)
    }
}

fn options(dir: &tempfile::TempDir) -> EngineOptions {
    let mut options = EngineOptions::new(dir.path().join("meta"));
    options.store.low_water = 0;
    options.store.memory_limit = 128 << 20;
    options.garbage_delay = Duration::ZERO;
    options.interval = Duration::from_millis(20);
    options
}

async fn open(dir: &tempfile::TempDir, objects: &Arc<MemoryStore>) -> Arc<Engine> {
    Engine::open(options(dir), Arc::clone(objects) as Arc<dyn ObjectStore>).await.unwrap()
}

pub fn context() -> RequestContext {
    let caller = Caller { uid: CALLER.0, gid: CALLER.1, groups: Arc::from([]) };
    RequestContext { caller, op: OpId(0), deadline: Instant::now() + PATIENCE }
}
