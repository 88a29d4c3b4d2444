//! The storage-neutral model of a NoKV filesystem: ids, names, attributes, body descriptors, operations, errors.
//!
//! Owns: the words that every other package speaks.
//! Must not: know how records are laid out, how requests travel, or where bytes are kept.
//! Invariants: every type here can be sent over the wire and stored; names are bytes, never strings.

mod attr;
mod body;
mod check;
mod errors;
mod event;
mod ids;
mod lock;
mod name;
mod ops;
mod volume;

pub use attr::{Attr, FileKind, Timestamp};
pub use body::{
    BLOCK_SIZE, BodyView, CHUNK_SIZE, Extent, INLINE_EXTENTS, MAX_CHUNK_EXTENTS, PACK_SIZE, SliceId, owner_key,
    slice_prefix, upload_prefix, volume_prefix,
};
pub use check::{CheckSpec, CheckStep, Finding, MAX_FINDINGS, Severity};
pub use errors::MetaError;
pub use event::{Event, RecordFamily};
pub use ids::{InodeId, MountId, OpId, SessionId, UploadId, Version, VolumeId};
pub use lock::{HeldLock, Lock, LockKind, LockOwner, LockPlace, LockRange, LockReply, LockType};
pub use name::{MAX_NAME, MAX_SYMLINK, MAX_XATTR_NAME, MAX_XATTR_TOTAL, MAX_XATTR_VALUE, Name};
pub use ops::{
    Ack, Applied, Caller, DirEntry, DirPage, Fallocate, FsStat, Mutation, NewNode, Publish, RenameMode, SetAttr,
    SetTime, Stamp, XattrMode,
};
pub use volume::{
    CloneSpec, Heartbeat, HeartbeatReply, MAX_BASES, MAX_SNAPSHOTS, Origin, SessionGrant, SessionRequest, SnapshotInfo,
    Token, VolumeInfo, VolumeSpec, VolumeState, VolumeUsage,
};
