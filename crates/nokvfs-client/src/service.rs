//! The metadata of a remote server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_meta::service::{GiveUp, MetaResult, MetadataService, RequestContext};
use nokvfs_meta::{OpenTable, Slots};
use nokvfs_protocol::{Answer, Call, SessionRef};
use nokvfs_types::{
    Applied, Attr, BodyView, DirPage, FsStat, Heartbeat, HeldLock, InodeId, Lock, MetaError, Mutation, Name,
    SessionGrant, SessionRequest, VolumeInfo,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::channel::{Attach, Channel, Peer};
use crate::connection::NoAnswer;
use crate::locks::{HeldLocks, RemoteLocks};
use crate::{Endpoint, TlsConfig, unexpected};

/// Heartbeats come at least so often.
const BEAT_MAX: Duration = Duration::from_secs(10);
/// So many heartbeats fit into the time after which a session ends.
const BEATS_PER_EXPIRY: u32 = 6;
/// The pause before the server is told that an orphan it asked about is closed here.
const BEAT_ANSWER: Duration = Duration::from_secs(1);
/// How long the end of a session may take.
const CLOSE: Duration = Duration::from_secs(10);

/// How a session is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteOptions {
    /// How long opening may take, retries included.
    pub open_timeout: Duration,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        RemoteOptions { open_timeout: Duration::from_secs(30) }
    }
}

/// [`MetadataService`] over a session on a remote server.
///
/// When the connection is lost a new one is made, the session attached to it, and every request that waits is sent
/// again with the stamp it had, until its own deadline. Once the server has declared the session dead, everything
/// answers so, and [`RemoteService::lost`] tells.
#[derive(Debug)]
pub struct RemoteService {
    grant: SessionGrant,
    channel: Arc<Channel>,
    slots: Slots,
    open: Arc<OpenTable>,
    locks: RemoteLocks,
    _beats: DropGuard,
}

impl RemoteService {
    /// Connects and opens (or takes over) a session.
    ///
    /// # Errors
    /// What the server answers; [`MetaError::Unavailable`] if it can't be reached in time; [`MetaError::Unauthorized`]
    /// if certificates or token are refused.
    pub async fn open(
        endpoint: Endpoint,
        tls: Option<TlsConfig>,
        request: SessionRequest,
        options: RemoteOptions,
    ) -> MetaResult<Arc<RemoteService>> {
        let deadline = Instant::now() + options.open_timeout;
        let peer = Peer::new(endpoint, tls.as_ref(), concat!("nokv-mount/", env!("CARGO_PKG_VERSION")))?;
        let connection = peer.connect_until(deadline).await?;
        let grant = match connection.request(&Call::OpenSession(request.clone()), deadline).await {
            Ok(Ok(Answer::Session(grant))) => grant,
            Ok(Ok(other)) => return Err(unexpected(&other)),
            Ok(Err(error)) => return Err(error),
            Err(NoAnswer::NotSent(error)) => return Err(error),
            // Not repeated: a session that was opened unheard would hold the volume until it expires.
            Err(NoAnswer::Lost) => return Err(connection.reason()),
            Err(NoAnswer::Deadline) => return Err(MetaError::Deadline("the session was not opened in time".into())),
        };
        let attach = SessionRequest { resume: Some((grant.session, grant.generation)), ..request };
        let locks = Arc::new(HeldLocks::default());
        let attach = Attach { request: attach, session: session_of(&grant), locks: Arc::clone(&locks) };
        let channel = Arc::new(Channel::keep(peer, connection, Some(attach)));
        let open = Arc::new(OpenTable::default());
        let stop = CancellationToken::new();
        let beats = Beats {
            channel: Arc::clone(&channel),
            open: Arc::clone(&open),
            session: session_of(&grant),
            expiry: Duration::from_millis(u64::from(grant.expires_ms)),
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(beats.run()));
        let slots = Slots::new(grant.session, grant.generation, grant.slots);
        let locks = RemoteLocks::new(Arc::clone(&channel), session_of(&grant), locks);
        Ok(Arc::new(RemoteService { grant, channel, slots, open, locks, _beats: stop.drop_guard() }))
    }

    /// The session.
    pub fn grant(&self) -> &SessionGrant {
        &self.grant
    }

    /// Waits until the session is gone for good; answers why. The mount must stop then: what it holds is lost.
    pub async fn lost(&self) -> MetaError {
        self.channel.lost().await
    }

    /// What keeps requests from being answered at the moment, if anything.
    pub fn trouble(&self) -> Option<MetaError> {
        self.channel.is_lost().or_else(|| self.channel.trouble())
    }

    fn session(&self) -> SessionRef {
        session_of(&self.grant)
    }

    async fn call(&self, ctx: &RequestContext, call: Call) -> MetaResult<Answer> {
        self.channel.call(&call, ctx.deadline).await
    }
}

fn session_of(grant: &SessionGrant) -> SessionRef {
    SessionRef { session: grant.session, generation: grant.generation }
}

/// Keeps the session alive.
struct Beats {
    channel: Arc<Channel>,
    open: Arc<OpenTable>,
    session: SessionRef,
    expiry: Duration,
}

impl Beats {
    async fn run(self) {
        let pause = (self.expiry / BEATS_PER_EXPIRY).min(BEAT_MAX);
        let mut beat = Heartbeat::default();
        let mut next = pause;
        loop {
            tokio::time::sleep(next).await;
            next = pause;
            let call = Call::Heartbeat(self.session, std::mem::take(&mut beat));
            match self.channel.call(&call, Instant::now() + self.expiry).await {
                Ok(Answer::Heartbeat(reply)) => {
                    beat = self.open.answer(&reply);
                    if !beat.closed.is_empty() {
                        next = BEAT_ANSWER.min(pause);
                    }
                }
                Ok(other) => tracing::error!(error = %unexpected(&other), "heartbeat"),
                Err(error) => {
                    if self.channel.is_lost().is_some() {
                        return;
                    }
                    tracing::warn!(%error, "heartbeat failed; the session ends unless the server is reached again");
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl MetadataService for RemoteService {
    fn volume(&self) -> &VolumeInfo {
        &self.grant.volume
    }

    async fn lookup(&self, ctx: &RequestContext, parent: InodeId, name: &Name) -> MetaResult<Attr> {
        attr(self.call(ctx, Call::Lookup(self.session(), parent, name.clone())).await?)
    }

    async fn getattr(&self, ctx: &RequestContext, inode: InodeId) -> MetaResult<Attr> {
        attr(self.call(ctx, Call::Getattr(self.session(), inode)).await?)
    }

    async fn readdir(
        &self,
        ctx: &RequestContext,
        dir: InodeId,
        after: u64,
        limit: u32,
        attrs: bool,
    ) -> MetaResult<DirPage> {
        let call = Call::Readdir { session: self.session(), inode: dir, after, limit, attrs };
        match self.call(ctx, call).await? {
            Answer::Page(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    async fn readlink(&self, ctx: &RequestContext, inode: InodeId) -> MetaResult<Bytes> {
        data(self.call(ctx, Call::Readlink(self.session(), inode)).await?)
    }

    async fn getxattr(&self, ctx: &RequestContext, inode: InodeId, name: &[u8]) -> MetaResult<Bytes> {
        data(self.call(ctx, Call::Getxattr(self.session(), inode, Bytes::copy_from_slice(name))).await?)
    }

    async fn listxattr(&self, ctx: &RequestContext, inode: InodeId) -> MetaResult<Vec<Bytes>> {
        match self.call(ctx, Call::Listxattr(self.session(), inode)).await? {
            Answer::Names(names) => Ok(names),
            other => Err(unexpected(&other)),
        }
    }

    async fn body(&self, ctx: &RequestContext, inode: InodeId, from: u64) -> MetaResult<BodyView> {
        match self.call(ctx, Call::Body(self.session(), inode, from)).await? {
            Answer::Body(body) => Ok(body),
            other => Err(unexpected(&other)),
        }
    }

    async fn mutate(&self, ctx: &RequestContext, mutation: Mutation) -> MetaResult<Applied> {
        let slot = self.slots.take(ctx.deadline).await?;
        let call = Call::Mutate(slot.stamp(ctx.op), ctx.caller.clone(), mutation);
        match self.call(ctx, call).await? {
            Answer::Applied(applied) => Ok(applied),
            other => Err(unexpected(&other)),
        }
    }

    async fn statfs(&self, ctx: &RequestContext) -> MetaResult<FsStat> {
        match self.call(ctx, Call::Statfs(self.session())).await? {
            Answer::Stat(stat) => Ok(stat),
            other => Err(unexpected(&other)),
        }
    }

    async fn lock(&self, ctx: &RequestContext, lock: Lock, give_up: Option<GiveUp>) -> MetaResult<()> {
        self.locks.lock(ctx, lock, give_up).await
    }

    async fn test_lock(&self, ctx: &RequestContext, lock: Lock) -> MetaResult<Option<HeldLock>> {
        self.locks.test(ctx, lock).await
    }

    fn opened(&self, inode: InodeId) {
        self.open.opened(inode);
    }

    fn closed(&self, inode: InodeId) {
        self.open.closed(inode);
    }

    async fn close(&self) -> MetaResult<()> {
        let result = self.channel.call(&Call::CloseSession(self.session()), Instant::now() + CLOSE).await;
        let ended = MetaError::SessionExpired(self.grant.session.0);
        match result {
            // Repeated after a lost answer, the call finds the session gone: that is what was asked for.
            Ok(Answer::Unit) | Err(MetaError::SessionExpired(_)) => {
                self.channel.lose(&ended);
                Ok(())
            }
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(error),
        }
    }
}

fn attr(answer: Answer) -> MetaResult<Attr> {
    match answer {
        Answer::Attr(attr) => Ok(attr),
        other => Err(unexpected(&other)),
    }
}

fn data(answer: Answer) -> MetaResult<Bytes> {
    match answer {
        Answer::Data(data) => Ok(data),
        other => Err(unexpected(&other)),
    }
}
