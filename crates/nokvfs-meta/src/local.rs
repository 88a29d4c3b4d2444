//! The metadata service of a front end in the engine's own process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_types::{
    Applied, Attr, BodyView, DirPage, FsStat, Heartbeat, HeldLock, InodeId, Lock, MetaError, Mutation, Name,
    SessionGrant, SessionRequest, VolumeInfo,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::engine::Engine;
use crate::local_locks::LocalLocks;
use crate::open_table::OpenTable;
use crate::service::{GiveUp, MetaResult, MetadataService, RequestContext, SessionService};
use crate::slots::Slots;

/// Heartbeats come at least so often, and so many of them fit into the time after which a session ends.
const BEAT_MAX: Duration = Duration::from_secs(10);
const BEATS_PER_EXPIRY: u32 = 6;
/// The pause between the last link of an inode and the question whether it is open.
const ORPHAN_PAUSE: Duration = Duration::from_millis(200);
/// How long the end of a session may take.
const CLOSE: Duration = Duration::from_secs(10);
/// Between two tries of a mutation while the store is being opened again.
const RETRY: Duration = Duration::from_millis(50);

/// [`MetadataService`] over an [`Engine`] in this process, with a session of its own.
#[derive(Debug)]
pub struct LocalService {
    engine: Arc<Engine>,
    grant: SessionGrant,
    slots: Slots,
    open: Arc<OpenTable>,
    orphaned: Arc<Notify>,
    beats: Mutex<Option<JoinHandle<()>>>,
}

impl LocalService {
    /// Opens a session.
    ///
    /// # Errors
    /// What [`SessionService::open_session`] answers.
    pub async fn open(engine: Arc<Engine>, request: SessionRequest) -> MetaResult<Arc<LocalService>> {
        let grant = engine.open_session(request).await?;
        let open = Arc::new(OpenTable::default());
        let orphaned = Arc::new(Notify::new());
        let beats = Beats {
            engine: Arc::clone(&engine),
            open: Arc::clone(&open),
            orphaned: Arc::clone(&orphaned),
            grant: grant.clone(),
        };
        let beats = Mutex::new(Some(tokio::spawn(beats.run())));
        let slots = Slots::new(grant.session, grant.generation, grant.slots);
        Ok(Arc::new(LocalService { engine, grant, slots, open, orphaned, beats }))
    }

    /// The session.
    pub fn grant(&self) -> &SessionGrant {
        &self.grant
    }

    async fn within<T>(ctx: &RequestContext, call: impl Future<Output = MetaResult<T>>) -> MetaResult<T> {
        let late = || Err(MetaError::Deadline("the metadata store did not answer in time".into()));
        if Instant::now() >= ctx.deadline {
            return late();
        }
        tokio::time::timeout_at(ctx.deadline.into(), call).await.unwrap_or_else(|_| late())
    }
}

impl Drop for LocalService {
    fn drop(&mut self) {
        // A session that is not closed ends by silence.
        if let Some(beats) = self.beats.lock().take() {
            beats.abort();
        }
    }
}

/// Keeps the session alive.
struct Beats {
    engine: Arc<Engine>,
    open: Arc<OpenTable>,
    orphaned: Arc<Notify>,
    grant: SessionGrant,
}

impl Beats {
    async fn run(self) {
        let pause = (Duration::from_millis(u64::from(self.grant.expires_ms)) / BEATS_PER_EXPIRY).min(BEAT_MAX);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.orphaned.notified() => tokio::time::sleep(ORPHAN_PAUSE.min(pause)).await,
            }
            if let Err(error) = self.beat().await {
                tracing::warn!(%error, "heartbeat failed");
                if matches!(error, MetaError::SessionExpired(_) | MetaError::Superseded(_)) {
                    return;
                }
            }
        }
    }

    /// Answers until nothing is asked that was not answered to be open.
    async fn beat(&self) -> MetaResult<()> {
        let mut beat = Heartbeat::default();
        loop {
            let reply = self.engine.heartbeat(self.grant.session, self.grant.generation, beat).await?;
            beat = self.open.answer(&reply);
            if beat.closed.is_empty() {
                return Ok(());
            }
        }
    }
}

#[async_trait::async_trait]
impl MetadataService for LocalService {
    fn volume(&self) -> &VolumeInfo {
        &self.grant.volume
    }

    async fn lookup(&self, ctx: &RequestContext, parent: InodeId, name: &Name) -> MetaResult<Attr> {
        Self::within(ctx, self.engine.lookup(self.grant.session, self.grant.generation, parent, name)).await
    }

    async fn getattr(&self, ctx: &RequestContext, inode: InodeId) -> MetaResult<Attr> {
        Self::within(ctx, self.engine.getattr(self.grant.session, self.grant.generation, inode)).await
    }

    async fn readdir(
        &self,
        ctx: &RequestContext,
        dir: InodeId,
        after: u64,
        limit: u32,
        attrs: bool,
    ) -> MetaResult<DirPage> {
        let SessionGrant { session, generation, .. } = self.grant;
        Self::within(ctx, self.engine.readdir(session, generation, dir, after, limit, attrs)).await
    }

    async fn readlink(&self, ctx: &RequestContext, inode: InodeId) -> MetaResult<Bytes> {
        Self::within(ctx, self.engine.readlink(self.grant.session, self.grant.generation, inode)).await
    }

    async fn getxattr(&self, ctx: &RequestContext, inode: InodeId, name: &[u8]) -> MetaResult<Bytes> {
        Self::within(ctx, self.engine.getxattr(self.grant.session, self.grant.generation, inode, name)).await
    }

    async fn listxattr(&self, ctx: &RequestContext, inode: InodeId) -> MetaResult<Vec<Bytes>> {
        Self::within(ctx, self.engine.listxattr(self.grant.session, self.grant.generation, inode)).await
    }

    async fn body(&self, ctx: &RequestContext, inode: InodeId, from: u64) -> MetaResult<BodyView> {
        Self::within(ctx, self.engine.body(self.grant.session, self.grant.generation, inode, from)).await
    }

    async fn mutate(&self, ctx: &RequestContext, mutation: Mutation) -> MetaResult<Applied> {
        let slot = self.slots.take(ctx.deadline).await?;
        let stamp = slot.stamp(ctx.op);
        let may_orphan = matches!(mutation, Mutation::Unlink { .. } | Mutation::Rmdir { .. } | Mutation::Rename { .. });
        let repeated = async {
            loop {
                match self.engine.mutate(stamp, ctx.caller.clone(), mutation.clone()).await {
                    // The same stamp again: it takes effect once.
                    Err(error) if error.is_retryable() && Instant::now() + RETRY < ctx.deadline => {
                        tokio::time::sleep(RETRY).await;
                    }
                    answer => return answer,
                }
            }
        };
        let answer = Self::within(ctx, repeated).await;
        if may_orphan && answer.is_ok() {
            self.orphaned.notify_one();
        }
        answer
    }

    async fn statfs(&self, ctx: &RequestContext) -> MetaResult<FsStat> {
        Self::within(ctx, self.engine.statfs(self.grant.session, self.grant.generation)).await
    }

    async fn lock(&self, ctx: &RequestContext, lock: Lock, give_up: Option<GiveUp>) -> MetaResult<()> {
        LocalLocks { engine: &self.engine, grant: &self.grant }.lock(ctx, lock, give_up).await
    }

    async fn test_lock(&self, ctx: &RequestContext, lock: Lock) -> MetaResult<Option<HeldLock>> {
        LocalLocks { engine: &self.engine, grant: &self.grant }.test(ctx, lock).await
    }

    fn opened(&self, inode: InodeId) {
        self.open.opened(inode);
    }

    fn closed(&self, inode: InodeId) {
        self.open.closed(inode);
        // It may be the last thing that an orphan waited for.
        self.orphaned.notify_one();
    }

    async fn close(&self) -> MetaResult<()> {
        if let Some(beats) = self.beats.lock().take() {
            beats.abort();
        }
        let closed = self.engine.close_session(self.grant.session, self.grant.generation);
        let closed = tokio::time::timeout(CLOSE, closed).await.unwrap_or_else(|_| {
            Err(MetaError::Deadline("the end of the session was not durable in time; it ends by silence".into()))
        });
        match closed {
            // Closed before, or expired: it is over.
            Err(MetaError::SessionExpired(_)) => Ok(()),
            answer => answer,
        }
    }
}
