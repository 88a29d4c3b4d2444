//! The boundary between front ends (FUSE, SDK, bodies) and whoever holds the metadata: the process itself or a server.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use nokvfs_types::{
    Applied, Attr, BodyView, Caller, CheckSpec, CheckStep, CloneSpec, DirPage, FsStat, Heartbeat, HeartbeatReply,
    HeldLock, InodeId, Lock, LockPlace, LockReply, MetaError, Mutation, Name, OpId, SessionGrant, SessionId,
    SessionRequest, SnapshotInfo, Token, VolumeId, VolumeInfo, VolumeSpec,
};

/// Answer of every call.
pub type MetaResult<T> = Result<T, MetaError>;

/// Ends when a request stops waiting for a lock.
pub type GiveUp = BoxFuture<'static, ()>;

/// How long a server lets one request wait for a lock; whoever still wants it asks again.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Comes with every request of a front end.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Who asks.
    pub caller: Caller,
    /// Makes the request recognisable after a take-over.
    pub op: OpId,
    /// When the front end stops waiting. No call outlives it by more than a second.
    pub deadline: Instant,
}

/// One session on one volume: everything a front end needs of the metadata. Implementations stamp mutations
/// (slot, sequence) and repeat them after a lost connection, so that each takes effect exactly once.
#[async_trait::async_trait]
pub trait MetadataService: fmt::Debug + Send + Sync + 'static {
    /// The volume, as it was when the session was opened.
    fn volume(&self) -> &VolumeInfo;

    /// Resolves a name. `NotFound` if there is none.
    async fn lookup(&self, ctx: &RequestContext, parent: InodeId, name: &Name) -> MetaResult<Attr>;

    /// Attributes of an inode; also of an orphan.
    async fn getattr(&self, ctx: &RequestContext, inode: InodeId) -> MetaResult<Attr>;

    /// Lists at least one and at most about `limit` entries after the cookie `after` (0: from the start); the limit is
    /// passed only to keep entries together that share a cookie. With `attrs`, attributes are of the same moment.
    async fn readdir(
        &self,
        ctx: &RequestContext,
        dir: InodeId,
        after: u64,
        limit: u32,
        attrs: bool,
    ) -> MetaResult<DirPage>;

    /// The target of a symbolic link.
    async fn readlink(&self, ctx: &RequestContext, inode: InodeId) -> MetaResult<Bytes>;

    /// The value of an extended attribute.
    async fn getxattr(&self, ctx: &RequestContext, inode: InodeId, name: &[u8]) -> MetaResult<Bytes>;

    /// Names of all extended attributes.
    async fn listxattr(&self, ctx: &RequestContext, inode: InodeId) -> MetaResult<Vec<Bytes>>;

    /// Attributes and extents of a regular file from `from` on, for at least the extents of one chunk. Ask again from
    /// [`BodyView::complete_to`] for more.
    async fn body(&self, ctx: &RequestContext, inode: InodeId, from: u64) -> MetaResult<BodyView>;

    /// Changes the volume.
    async fn mutate(&self, ctx: &RequestContext, mutation: Mutation) -> MetaResult<Applied>;

    /// The volume's counters.
    async fn statfs(&self, ctx: &RequestContext) -> MetaResult<FsStat>;

    /// Sets a lock, or gives one back. Where someone else's is in the way: waits until `give_up` ends, whatever the
    /// deadline is, and then answers `Interrupted`; without it `Locked`. With one that is answered so, nothing of what
    /// was asked for is held. After a restart of the server nobody gets a new lock until all sessions have told theirs.
    ///
    /// `Deadlock` for a POSIX lock whose holder waits for this owner; `NoLocks` beyond a limit.
    async fn lock(&self, ctx: &RequestContext, lock: Lock, give_up: Option<GiveUp>) -> MetaResult<()>;

    /// The first lock that is in the way of one (`F_GETLK`).
    async fn test_lock(&self, ctx: &RequestContext, lock: Lock) -> MetaResult<Option<HeldLock>>;

    /// Counts one more open of the inode in this client, so that an orphan among them is kept. Soft state, no request.
    fn opened(&self, inode: InodeId);

    /// Takes one [`MetadataService::opened`] back.
    fn closed(&self, inode: InodeId);

    /// Ends the session, after everything acknowledged is durable. The service answers `SessionExpired` afterwards.
    async fn close(&self) -> MetaResult<()>;
}

/// Sessions on a server, as its clients open and keep them.
#[async_trait::async_trait]
pub trait SessionService: fmt::Debug + Send + Sync + 'static {
    /// Opens or resumes a session.
    async fn open_session(&self, request: SessionRequest) -> MetaResult<SessionGrant>;

    /// Answers the grant of a live session again, to the client that holds it and whose connection was lost. The token is
    /// checked as by [`SessionService::open_session`]; `resume` names the session and its present generation, and both
    /// stay as they are. `SessionExpired`, `Superseded` or `Unauthorized` (a session of another volume too) if it is not
    /// that client's any more. Counts as a heartbeat.
    async fn attach_session(&self, request: SessionRequest) -> MetaResult<SessionGrant>;

    /// Shows that the client lives and answers which orphans it has open.
    async fn heartbeat(
        &self,
        session: nokvfs_types::SessionId,
        generation: u32,
        beat: Heartbeat,
    ) -> MetaResult<HeartbeatReply>;

    /// Ends a session.
    async fn close_session(&self, session: nokvfs_types::SessionId, generation: u32) -> MetaResult<()>;
}

/// Locks on a server, as its clients set and keep them. They are soft state of the session and end with it; after a
/// restart of the server each client tells its own again.
///
/// `incarnation` counts the connections of the client's session, from 1 on. Requests that carry another number than the
/// last [`LockService::sync_locks`] are answered with `Unavailable`.
#[async_trait::async_trait]
pub trait LockService: fmt::Debug + Send + Sync + 'static {
    /// Sets a lock or gives one back, at once or not at all: `Done`, `Held` or `Recovering`. `NoLocks` beyond a limit.
    async fn set_lock(
        &self,
        session: SessionId,
        generation: u32,
        incarnation: u64,
        lock: Lock,
    ) -> MetaResult<LockReply>;

    /// What is in the way of a lock: `Done`, `Held` or `Recovering`.
    async fn test_lock(&self, session: SessionId, generation: u32, lock: Lock) -> MetaResult<LockReply>;

    /// Waits, at most for `patience`, until a lock can be set. Sets nothing. `Done`: set it now, nobody else can for
    /// 3 s. `Waiting`: ask again, with the place it tells. `Deadlock` as [`MetadataService::lock`].
    async fn wait_lock(
        &self,
        session: SessionId,
        generation: u32,
        incarnation: u64,
        wait: (Lock, OpId),
        place: Option<LockPlace>,
        patience: Duration,
    ) -> MetaResult<LockReply>;

    /// A request waits for a lock of a file no more.
    async fn forget_wait(&self, session: SessionId, generation: u32, inode: InodeId, op: OpId) -> MetaResult<()>;

    /// Tells everything that the session holds, on a new connection: what the server has beyond it is dropped.
    /// `SessionExpired` if a lock is someone else's by now.
    async fn sync_locks(
        &self,
        session: SessionId,
        generation: u32,
        incarnation: u64,
        locks: Vec<Lock>,
    ) -> MetaResult<()>;
}

/// Volumes of a server. For operators: not reachable with a volume's token.
#[async_trait::async_trait]
pub trait VolumeService: fmt::Debug + Send + Sync + 'static {
    /// Makes a volume and its token, or answers the one of that name if its spec is the same; `Exists` if it differs
    /// in more than the quota; `Busy` while one of that name is being deleted.
    async fn create_volume(&self, spec: VolumeSpec) -> MetaResult<(VolumeInfo, Token)>;

    /// A volume by its identity.
    async fn volume(&self, id: VolumeId) -> MetaResult<VolumeInfo>;

    /// Volumes in name order after the name `after`, at most `limit` (1 to 1,000).
    async fn list_volumes(&self, after: Option<&str>, limit: u32) -> MetaResult<Vec<VolumeInfo>>;

    /// Changes the quota; 0 means no limit. Below what is used it stops growth only.
    async fn set_quota(&self, id: VolumeId, bytes: u64, inodes: u64) -> MetaResult<VolumeInfo>;

    /// Starts a volume's deletion: no session can be opened from then on, and records and objects go in the background,
    /// once no snapshot of it and no volume made from it is left. Its name is free at once in that case, else when it is
    /// gone. `Busy` while a session holds it. Unknown and deleted volumes are fine.
    async fn delete_volume(&self, id: VolumeId) -> MetaResult<()>;
}

/// Snapshots of a server's volumes, and volumes made from them. For operators, as [`VolumeService`].
#[async_trait::async_trait]
pub trait SnapshotService: fmt::Debug + Send + Sync + 'static {
    /// Keeps the volume as it is now under a name, or answers the snapshot that has the name. Costs one record, however
    /// many files there are. `Busy` at [`nokvfs_types::MAX_SNAPSHOTS`].
    async fn create_snapshot(&self, volume: VolumeId, name: &str) -> MetaResult<SnapshotInfo>;

    /// The snapshots of a volume, oldest first; of a deleted one too.
    async fn list_snapshots(&self, volume: VolumeId) -> MetaResult<Vec<SnapshotInfo>>;

    /// Deletes a snapshot; what only it kept goes in the background. Volumes made from it stay as they are. `Busy` while a
    /// session reads it. An unknown one is fine.
    async fn delete_snapshot(&self, volume: VolumeId, name: &str) -> MetaResult<()>;

    /// Makes a writable volume that shows what its source does, and its token; or answers the one of that name if it was
    /// made from the same. Costs a few records, however many files there are. `Busy` where the source is itself
    /// [`nokvfs_types::MAX_BASES`] clones deep.
    async fn clone_volume(&self, spec: CloneSpec) -> MetaResult<(VolumeInfo, Token)>;

    /// Makes a volume what it was at a snapshot. Its snapshots stay, those made later too. `Busy` while a session holds
    /// it.
    async fn rollback_volume(&self, volume: VolumeId, snapshot: &str) -> MetaResult<VolumeInfo>;
}

/// Looks for contradictions in what a server stores, while it goes on. For operators, as [`VolumeService`].
#[async_trait::async_trait]
pub trait CheckService: fmt::Debug + Send + Sync + 'static {
    /// Begins a check (`step` 0) or goes on with it (the number after the last step). The caller chooses `run`, a number
    /// that no check had before. Answers within some seconds, with what was found meanwhile; the same step asked again is
    /// answered the same. A check that nobody asks for ends after a minute.
    ///
    /// `Busy` while another check runs; `NotFound` if the run is not known any more: begin a new one.
    async fn check(&self, run: u64, step: u32, spec: CheckSpec) -> MetaResult<CheckStep>;
}
