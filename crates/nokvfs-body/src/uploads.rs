//! Upload ids: reserved in blocks ahead of need, so that a small file costs no extra request.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_failpoint::failpoint;
use nokvfs_meta::service::{MetadataService, RequestContext};
use nokvfs_types::{Applied, Caller, Mutation, OpId, UploadId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::BodyError;

/// Ids of one reservation.
const BLOCK: u32 = 1024;
/// With fewer left, the next block is reserved in the background.
const LOW: u64 = 256;
/// How long after a pack was settled the server is told, so that it can collect packs that nothing names.
const TELL: Duration = Duration::from_secs(5);
/// How long a request that no front end waits for may take.
pub(crate) const BACKGROUND: Duration = Duration::from_secs(30);

/// The context of a request that this crate makes on its own. The kernel never repeats one, so it has no op id.
pub(crate) fn background() -> RequestContext {
    let caller = Caller { uid: 0, gid: 0, groups: Arc::from([]) };
    RequestContext { caller, op: OpId(0), deadline: Instant::now() + BACKGROUND }
}

#[derive(Debug)]
pub(crate) struct UploadIds {
    service: Arc<dyn MetadataService>,
    ids: Mutex<Ids>,
    /// One reservation at a time.
    turn: Semaphore,
    runtime: tokio::runtime::Handle,
}

#[derive(Debug, Default)]
struct Ids {
    ready: VecDeque<Range<u64>>,
    /// Given out and neither published nor deleted.
    open: BTreeSet<u64>,
    /// The first id that was never given out.
    next: u64,
    refilling: bool,
    telling: bool,
}

impl Ids {
    fn left(&self) -> u64 {
        self.ready.iter().map(|range| range.end - range.start).sum()
    }

    fn pop(&mut self) -> Option<u64> {
        let range = self.ready.front_mut()?;
        let id = range.start;
        range.start += 1;
        if range.is_empty() {
            self.ready.pop_front();
        }
        self.open.insert(id);
        self.next = id + 1;
        Some(id)
    }

    fn settled(&self) -> UploadId {
        UploadId(self.open.first().copied().unwrap_or(self.next))
    }
}

impl UploadIds {
    pub fn new(service: Arc<dyn MetadataService>, runtime: tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(Self { service, ids: Mutex::default(), turn: Semaphore::new(1), runtime })
    }

    /// A fresh id. It counts as open until it is settled.
    pub async fn take(self: &Arc<Self>) -> Result<UploadId, BodyError> {
        if let Some(id) = self.pop() {
            return Ok(id);
        }
        let Ok(Ok(_turn)) = tokio::time::timeout(BACKGROUND, self.turn.acquire()).await else {
            return Err(BodyError::Deadline("waiting for upload ids"));
        };
        if let Some(id) = self.pop() {
            return Ok(id);
        }
        self.reserve(BLOCK).await?;
        self.pop().ok_or(BodyError::Protocol("ReserveUploads"))
    }

    /// The id's objects are published or deleted.
    pub fn settle(&self, id: UploadId) {
        self.ids.lock().open.remove(&id.0);
    }

    /// The pack's bodies are published, or its object is deleted. The server hears of it a little later, or by the next
    /// reservation.
    pub fn settle_pack(self: &Arc<Self>, id: UploadId) {
        let mut ids = self.ids.lock();
        ids.open.remove(&id.0);
        if std::mem::replace(&mut ids.telling, true) {
            return;
        }
        drop(ids);
        let this = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(TELL).await;
            this.ids.lock().telling = false;
            if let Err(error) = this.reserve(0).await {
                tracing::debug!(%error, "settled uploads are told with the next reservation");
            }
        });
    }

    fn pop(self: &Arc<Self>) -> Option<UploadId> {
        let mut ids = self.ids.lock();
        let id = ids.pop()?;
        if ids.left() < LOW && !ids.refilling {
            ids.refilling = true;
            let this = self.clone();
            tokio::spawn(async move {
                let result = match this.turn.acquire().await {
                    Ok(_turn) => this.reserve(BLOCK).await,
                    Err(_) => Ok(()),
                };
                this.ids.lock().refilling = false;
                if let Err(error) = result {
                    tracing::warn!(%error, "upload ids could not be reserved ahead; the next upload tries again");
                }
            });
        }
        Some(UploadId(id))
    }

    async fn reserve(&self, count: u32) -> Result<(), BodyError> {
        let settled = self.ids.lock().settled();
        failpoint!("uploads.reserving");
        match self.service.mutate(&background(), Mutation::ReserveUploads { count, settled }).await? {
            Applied::Uploads { first, count } => {
                failpoint!("uploads.reserved");
                if count > 0 {
                    self.ids.lock().ready.push_back(first.0..first.0 + u64::from(count));
                }
                Ok(())
            }
            _ => Err(BodyError::Protocol("ReserveUploads")),
        }
    }
}
