//! Requests and replies, as types of the filesystem.

use std::time::Duration;

use bytes::Bytes;
use nokvfs_types::{
    Applied, Attr, BodyView, Caller, CheckSpec, CheckStep, CloneSpec, DirPage, FsStat, Heartbeat, HeartbeatReply,
    InodeId, Lock, LockPlace, LockReply, Mutation, Name, OpId, SessionGrant, SessionId, SessionRequest, SnapshotInfo,
    Stamp, Token, VolumeId, VolumeInfo, VolumeSpec,
};

/// The number of a session's connection: the first has 1, each further one a larger number.
pub type Incarnation = u64;

/// A wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// What is waited for.
    pub lock: Lock,
    /// The request that waits; one lock at a time.
    pub op: OpId,
    /// As the last answer told.
    pub place: Option<LockPlace>,
}

/// A session as its client holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionRef {
    /// The session.
    pub session: SessionId,
    /// The generation.
    pub generation: u32,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Is the server there? Answers `Unit`.
    Ping,
    /// Opens or takes over a session. Answers `Session`.
    OpenSession(SessionRequest),
    /// Binds the connection to a session that its client holds already. Answers `Session`.
    AttachSession(SessionRequest),
    /// A sign of life. Answers `Heartbeat`.
    Heartbeat(SessionRef, Heartbeat),
    /// Ends a session. Answers `Unit`.
    CloseSession(SessionRef),
    /// A name in a directory. Answers `Attr`.
    Lookup(SessionRef, InodeId, Name),
    /// Answers `Attr`.
    Getattr(SessionRef, InodeId),
    /// A part of a directory. Answers `Page`.
    Readdir {
        /// The session.
        session: SessionRef,
        /// The directory.
        inode: InodeId,
        /// Entries after this cookie.
        after: u64,
        /// About so many.
        limit: u32,
        /// With attributes.
        attrs: bool,
    },
    /// Answers `Data`.
    Readlink(SessionRef, InodeId),
    /// Answers `Data`.
    Getxattr(SessionRef, InodeId, Bytes),
    /// Answers `Names`.
    Listxattr(SessionRef, InodeId),
    /// A file's extents from an offset on. Answers `Body`.
    Body(SessionRef, InodeId, u64),
    /// Changes the volume. Answers `Applied`.
    Mutate(Stamp, Caller, Mutation),
    /// Answers `Stat`.
    Statfs(SessionRef),
    /// Answers `Created`.
    CreateVolume(VolumeSpec),
    /// Answers `Volume`.
    Volume(VolumeId),
    /// Answers `Volumes`.
    ListVolumes {
        /// Volumes after this name.
        after: Option<String>,
        /// At most so many, 1 to 1,000.
        limit: u32,
    },
    /// Answers `Volume`.
    SetQuota {
        /// The volume.
        id: VolumeId,
        /// Most mapped bytes; 0: no limit.
        bytes: u64,
        /// Most inodes; 0: no limit.
        inodes: u64,
    },
    /// Answers `Unit`.
    DeleteVolume(VolumeId),
    /// Keeps a volume as it is under a name. Answers `Snapshot`.
    CreateSnapshot(VolumeId, String),
    /// Answers `Snapshots`.
    ListSnapshots(VolumeId),
    /// Answers `Unit`.
    DeleteSnapshot(VolumeId, String),
    /// Answers `Created`.
    CloneVolume(CloneSpec),
    /// Makes a volume what it was at a snapshot. Answers `Volume`.
    RollbackVolume(VolumeId, String),
    /// Sets or gives back a lock without waiting. Answers `Lock`: done, held or recovering.
    SetLock(SessionRef, Incarnation, Lock),
    /// What is in the way of a lock. Answers `Lock`: done, held or recovering.
    TestLock(SessionRef, Lock),
    /// Waits a moment until a lock can be set. Answers `Lock`: done (set it now) or waiting.
    WaitLock(SessionRef, Incarnation, LockWait),
    /// A request waits for a lock of a file no more. Answers `Unit`.
    ForgetWait(SessionRef, InodeId, OpId),
    /// All locks that the session holds; what the server has beyond these is dropped, and requests of older connections
    /// are refused from then on. Answers `Unit`.
    SyncLocks(SessionRef, Incarnation, Vec<Lock>),
    /// Begins a check or goes on with it: the run, the step, what is to be checked. Answers `Check`.
    Check(u64, u32, CheckSpec),
}

impl Call {
    /// A short name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Call::Ping => "ping",
            Call::OpenSession(_) => "open_session",
            Call::AttachSession(_) => "attach_session",
            Call::Heartbeat(..) => "heartbeat",
            Call::CloseSession(_) => "close_session",
            Call::Lookup(..) => "lookup",
            Call::Getattr(..) => "getattr",
            Call::Readdir { .. } => "readdir",
            Call::Readlink(..) => "readlink",
            Call::Getxattr(..) => "getxattr",
            Call::Listxattr(..) => "listxattr",
            Call::Body(..) => "body",
            Call::Mutate(_, _, mutation) => mutation_name(mutation),
            Call::Statfs(_) => "statfs",
            Call::CreateVolume(_) => "create_volume",
            Call::Volume(_) => "volume",
            Call::ListVolumes { .. } => "list_volumes",
            Call::SetQuota { .. } => "set_quota",
            Call::DeleteVolume(_) => "delete_volume",
            Call::CreateSnapshot(..) => "create_snapshot",
            Call::ListSnapshots(_) => "list_snapshots",
            Call::DeleteSnapshot(..) => "delete_snapshot",
            Call::CloneVolume(_) => "clone_volume",
            Call::RollbackVolume(..) => "rollback_volume",
            Call::SetLock(..) => "set_lock",
            Call::TestLock(..) => "test_lock",
            Call::WaitLock(..) => "wait_lock",
            Call::ForgetWait(..) => "forget_wait",
            Call::SyncLocks(..) => "sync_locks",
            Call::Check(..) => "check",
        }
    }

    /// The session that the call is made in, if it is made in one.
    pub fn session(&self) -> Option<SessionRef> {
        match self {
            Call::Heartbeat(session, _)
            | Call::CloseSession(session)
            | Call::Lookup(session, ..)
            | Call::Getattr(session, _)
            | Call::Readdir { session, .. }
            | Call::Readlink(session, _)
            | Call::Getxattr(session, ..)
            | Call::Listxattr(session, _)
            | Call::Body(session, ..)
            | Call::Statfs(session)
            | Call::SetLock(session, ..)
            | Call::TestLock(session, _)
            | Call::WaitLock(session, ..)
            | Call::ForgetWait(session, ..)
            | Call::SyncLocks(session, ..) => Some(*session),
            Call::Mutate(stamp, ..) => Some(SessionRef { session: stamp.session, generation: stamp.generation }),
            Call::Ping
            | Call::OpenSession(_)
            | Call::AttachSession(_)
            | Call::CreateVolume(_)
            | Call::Volume(_)
            | Call::ListVolumes { .. }
            | Call::SetQuota { .. }
            | Call::DeleteVolume(_)
            | Call::CreateSnapshot(..)
            | Call::ListSnapshots(_)
            | Call::DeleteSnapshot(..)
            | Call::CloneVolume(_)
            | Call::RollbackVolume(..)
            | Call::Check(..) => None,
        }
    }
}

fn mutation_name(mutation: &Mutation) -> &'static str {
    match mutation {
        Mutation::Create { .. } => "create",
        Mutation::Link { .. } => "link",
        Mutation::Unlink { .. } => "unlink",
        Mutation::Rmdir { .. } => "rmdir",
        Mutation::Rename { .. } => "rename",
        Mutation::SetAttr { .. } => "setattr",
        Mutation::SetXattr { .. } => "setxattr",
        Mutation::RemoveXattr { .. } => "removexattr",
        Mutation::Publish(_) => "publish",
        Mutation::Fallocate(_) => "fallocate",
        Mutation::ReserveUploads { .. } => "reserve_uploads",
    }
}

/// A request as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// How long the client still waits.
    pub timeout: Duration,
    /// What it asks for.
    pub call: Call,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Unit,
    /// A session.
    Session(SessionGrant),
    /// Orphans to look for.
    Heartbeat(HeartbeatReply),
    /// Attributes.
    Attr(Attr),
    /// A part of a directory.
    Page(DirPage),
    /// A link's target or an attribute's value.
    Data(Bytes),
    /// Names of extended attributes.
    Names(Vec<Bytes>),
    /// A file's extents.
    Body(BodyView),
    /// A mutation's result.
    Applied(Applied),
    /// Counters.
    Stat(FsStat),
    /// A volume.
    Volume(VolumeInfo),
    /// A volume and its token.
    Created(VolumeInfo, Token),
    /// Volumes.
    Volumes(Vec<VolumeInfo>),
    /// A snapshot.
    Snapshot(SnapshotInfo),
    /// Snapshots of a volume.
    Snapshots(Vec<SnapshotInfo>),
    /// How a lock stands.
    Lock(LockReply),
    /// How far a check is.
    Check(CheckStep),
}

impl Answer {
    /// A short name, for messages. Never the content, which may be secret.
    pub fn name(&self) -> &'static str {
        match self {
            Answer::Unit => "unit",
            Answer::Session(_) => "session",
            Answer::Heartbeat(_) => "heartbeat",
            Answer::Attr(_) => "attributes",
            Answer::Page(_) => "page",
            Answer::Data(_) => "data",
            Answer::Names(_) => "names",
            Answer::Body(_) => "body",
            Answer::Applied(_) => "applied",
            Answer::Stat(_) => "counters",
            Answer::Volume(_) => "volume",
            Answer::Created(..) => "created volume",
            Answer::Volumes(_) => "volumes",
            Answer::Snapshot(_) => "snapshot",
            Answer::Snapshots(_) => "snapshots",
            Answer::Lock(_) => "lock",
            Answer::Check(_) => "check",
        }
    }
}
