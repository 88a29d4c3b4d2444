//! The store of an engine, until it is closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_types::MetaError;
use parking_lot::RwLock;

use crate::layout::Tree;
use crate::service::MetaResult;
use crate::store::{MetaStore, RawReads, Stored, Visitor};

/// How long closing waits for reads that are under way.
const READS: Duration = Duration::from_secs(5);

/// Reads of a store that can be closed under those who still hold the engine.
#[derive(Debug)]
pub(crate) struct EngineStore(RwLock<Option<Arc<dyn MetaStore>>>);

impl EngineStore {
    pub(crate) fn new(store: Arc<dyn MetaStore>) -> Self {
        EngineStore(RwLock::new(Some(store)))
    }

    fn open(&self) -> MetaResult<Arc<dyn MetaStore>> {
        let store = self.0.read().clone();
        store.ok_or_else(|| MetaError::Unavailable("the metadata server is stopping; try again".into()))
    }

    /// Runs reads that see one moment.
    pub(crate) fn view<T>(&self, read: impl FnMut(&dyn RawReads) -> MetaResult<T>) -> MetaResult<T> {
        self.open()?.view(read)
    }

    /// Lets the store go, so that it can be opened again. Blocks while somebody reads.
    pub(crate) fn close(&self) {
        let Some(store) = self.0.write().take() else { return };
        let end = Instant::now() + READS;
        while Arc::strong_count(&store) > 1 {
            if Instant::now() >= end {
                tracing::warn!("the metadata store stays open until its last reader is done");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl RawReads for EngineStore {
    fn get_raw(&self, tree: Tree, key: &[u8]) -> MetaResult<Option<Stored>> {
        self.open()?.get_raw(tree, key)
    }

    fn scan_raw(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        visit: &mut Visitor<'_>,
    ) -> MetaResult<()> {
        self.open()?.scan_raw(tree, prefix, after, limit, visit)
    }
}
