//! What the server asks of the metadata.

use bytes::Bytes;
use nokvfs_meta::service::{CheckService, LockService, MetaResult, SessionService, SnapshotService, VolumeService};
use nokvfs_protocol::SessionRef;
use nokvfs_types::{Applied, Attr, BodyView, Caller, DirPage, FsStat, InodeId, Mutation, Name, Stamp};

/// Figures of the metadata, for `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Live sessions.
    pub sessions: u64,
    /// Batches that the committer made durable.
    pub batches: u64,
    /// Commands in them.
    pub commands: u64,
    /// Commands that wait for the committer.
    pub queued: u64,
    /// Records of objects that wait for deletion.
    pub garbage: u64,
    /// Unlinked inodes that are not removed yet.
    pub orphans: u64,
}

/// Metadata of all volumes, by session. Cheap reads answer without waiting.
#[async_trait::async_trait]
pub trait Backend: SessionService + VolumeService + SnapshotService + LockService + CheckService {
    /// See [`MetadataService::lookup`](nokvfs_meta::service::MetadataService::lookup); so are the other reads.
    async fn lookup(&self, session: SessionRef, parent: InodeId, name: &Name) -> MetaResult<Attr>;

    /// Attributes.
    async fn getattr(&self, session: SessionRef, inode: InodeId) -> MetaResult<Attr>;

    /// A part of a directory.
    async fn readdir(
        &self,
        session: SessionRef,
        dir: InodeId,
        after: u64,
        limit: u32,
        attrs: bool,
    ) -> MetaResult<DirPage>;

    /// A link's target.
    async fn readlink(&self, session: SessionRef, inode: InodeId) -> MetaResult<Bytes>;

    /// The value of an extended attribute.
    async fn getxattr(&self, session: SessionRef, inode: InodeId, name: &[u8]) -> MetaResult<Bytes>;

    /// Names of extended attributes.
    async fn listxattr(&self, session: SessionRef, inode: InodeId) -> MetaResult<Vec<Bytes>>;

    /// A file's extents.
    async fn body(&self, session: SessionRef, inode: InodeId, from: u64) -> MetaResult<BodyView>;

    /// Counters of the volume.
    async fn statfs(&self, session: SessionRef) -> MetaResult<FsStat>;

    /// Carries a mutation out, exactly once per stamp.
    async fn mutate(&self, stamp: Stamp, caller: Caller, mutation: Mutation) -> MetaResult<Applied>;

    /// Whether requests can be served: the store is open and its committer works.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    fn health(&self) -> Result<(), String>;

    /// Figures of now.
    fn figures(&self) -> Figures;

    /// Makes everything durable and stops. Requests are answered with `Unavailable` from then on.
    async fn shutdown(&self) -> MetaResult<()>;
}
