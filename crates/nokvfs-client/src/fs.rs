//! The SDK: a volume by paths, for tools and programs that don't mount it.

mod file;
mod list;
mod path;
mod remove;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_body::{Bodies, BodyError};
use nokvfs_meta::service::{MetadataService, RequestContext};
use nokvfs_types::{
    Ack, Applied, Attr, Caller, FileKind, FsStat, InodeId, MetaError, Mutation, Name, NewNode, OpId, RenameMode,
    SetAttr,
};

pub use file::{FileReader, FileWriter};
pub use list::Listing;

/// An operation on a path that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct FsError {
    /// The path that the caller gave.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: FsFailure,
}

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FsFailure {
    /// The metadata or the body's bytes.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// More than 40 symbolic links on the way.
    #[error("too many symbolic links; is there a loop?")]
    Loop,
}

impl From<MetaError> for FsFailure {
    fn from(error: MetaError) -> Self {
        FsFailure::Body(error.into())
    }
}

impl FsError {
    /// The errno that a system call would answer with (Linux numbers).
    pub fn errno(&self) -> i32 {
        match &self.source {
            FsFailure::Body(error) => error.errno(),
            FsFailure::Loop => libc::ELOOP,
        }
    }

    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        self.errno() == libc::ENOENT
    }
}

/// Result of an operation on a path.
pub type FsResult<T> = Result<T, FsError>;
type Tried<T> = Result<T, FsFailure>;

/// A volume by paths. All paths start at the volume's root, with or without a leading `/`. Symbolic links are followed
/// inside the volume. Clones share the session.
#[derive(Clone, Debug)]
pub struct Fs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    service: Arc<dyn MetadataService>,
    bodies: Arc<Bodies>,
    caller: Caller,
    ops: AtomicU64,
}

/// How long one operation on metadata may take.
const META: Duration = Duration::from_secs(30);
/// How long one step of reading or writing bytes may take: the write buffer may have to drain first.
const DATA: Duration = Duration::from_secs(120);

impl Fs {
    /// Over a session and its bodies; what is created belongs to `caller`.
    pub fn new(service: Arc<dyn MetadataService>, bodies: Arc<Bodies>, caller: Caller) -> Self {
        Fs { inner: Arc::new(Inner { service, bodies, caller, ops: AtomicU64::new(1) }) }
    }

    /// The session's metadata.
    pub fn service(&self) -> &Arc<dyn MetadataService> {
        &self.inner.service
    }

    /// Attributes; a symbolic link at the end is followed.
    pub async fn stat(&self, path: impl AsRef<Path>) -> FsResult<Attr> {
        let path = path.as_ref();
        self.resolve(path, true).await.map_err(at(path))
    }

    /// Attributes; of a symbolic link itself.
    pub async fn lstat(&self, path: impl AsRef<Path>) -> FsResult<Attr> {
        let path = path.as_ref();
        self.resolve(path, false).await.map_err(at(path))
    }

    /// The target of a symbolic link.
    pub async fn readlink(&self, path: impl AsRef<Path>) -> FsResult<Bytes> {
        let path = path.as_ref();
        let read = async {
            let attr = self.resolve(path, false).await?;
            if attr.kind != FileKind::Symlink {
                return Err(MetaError::Invalid("not a symbolic link".into()).into());
            }
            Ok(self.inner.service.readlink(&self.ctx(META), attr.inode).await?)
        };
        read.await.map_err(at(path))
    }

    /// Counters of the volume.
    pub async fn statfs(&self) -> FsResult<FsStat> {
        let stat = self.inner.service.statfs(&self.ctx(META)).await;
        stat.map_err(|error| at(Path::new("/"))(error.into()))
    }

    /// Makes a directory.
    pub async fn mkdir(&self, path: impl AsRef<Path>, mode: u16) -> FsResult<Attr> {
        let path = path.as_ref();
        self.make(path, NewNode::Directory, mode).await.map_err(at(path))
    }

    /// Makes a directory and those on the way that are not there. One that is there is fine.
    pub async fn mkdir_all(&self, path: impl AsRef<Path>, mode: u16) -> FsResult<Attr> {
        let path = path.as_ref();
        let make = async {
            let mut missing: Vec<&Path> = Vec::new();
            let mut here = path;
            let mut attr = loop {
                match self.resolve(here, true).await {
                    Ok(attr) => break attr,
                    Err(FsFailure::Body(BodyError::Meta(MetaError::NotFound))) if here.parent().is_some() => {
                        missing.push(here);
                        here = here.parent().unwrap_or(here);
                    }
                    Err(error) => return Err(error),
                }
            };
            for dir in missing.into_iter().rev() {
                attr = match self.make(dir, NewNode::Directory, mode).await {
                    // Someone else was faster.
                    Err(FsFailure::Body(BodyError::Meta(MetaError::Exists))) => self.resolve(dir, true).await?,
                    made => made?,
                };
            }
            if attr.kind == FileKind::Directory { Ok(attr) } else { Err(MetaError::Exists.into()) }
        };
        make.await.map_err(at(path))
    }

    /// Makes a symbolic link.
    pub async fn symlink(&self, target: impl Into<Bytes>, path: impl AsRef<Path>) -> FsResult<Attr> {
        let path = path.as_ref();
        self.make(path, NewNode::Symlink(target.into()), 0o777).await.map_err(at(path))
    }

    /// Changes attributes; a symbolic link at the end is followed.
    pub async fn set_attr(&self, path: impl AsRef<Path>, set: SetAttr) -> FsResult<Attr> {
        let path = path.as_ref();
        let change = async {
            let inode = self.resolve(path, true).await?.inode;
            self.entry(Mutation::SetAttr { inode, set }).await
        };
        change.await.map_err(at(path))
    }

    /// Moves an entry. With [`RenameMode::Replace`] a file at the new place is replaced atomically.
    pub async fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>, mode: RenameMode) -> FsResult<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let (parent, name) = self.resolve_parent(from).await.map_err(at(from))?;
        let (new_parent, new_name) = self.resolve_parent(to).await.map_err(at(to))?;
        self.mutate(Mutation::Rename { parent, name, new_parent, new_name, mode }).await.map_err(at(from))?;
        Ok(())
    }

    /// Removes an entry; a directory must be empty.
    pub async fn remove(&self, path: impl AsRef<Path>) -> FsResult<()> {
        let path = path.as_ref();
        let remove = async {
            let (parent, name) = self.resolve_parent(path).await?;
            let kind = self.inner.service.lookup(&self.ctx(META), parent, &name).await?.kind;
            self.remove_entry(parent, name, kind).await
        };
        remove.await.map_err(at(path))
    }

    async fn remove_entry(&self, parent: InodeId, name: Name, kind: FileKind) -> Tried<()> {
        let mutation = match kind {
            FileKind::Directory => Mutation::Rmdir { parent, name },
            _ => Mutation::Unlink { parent, name },
        };
        self.mutate(mutation).await.map(|_| ())
    }

    async fn make(&self, path: &Path, node: NewNode, mode: u16) -> Tried<Attr> {
        let (parent, name) = self.resolve_parent(path).await?;
        self.entry(Mutation::Create { parent, name, node, mode, open_existing: false, ack: Ack::Durable }).await
    }

    async fn entry(&self, mutation: Mutation) -> Tried<Attr> {
        match self.mutate(mutation).await? {
            Applied::Entry { attr, .. } => Ok(attr),
            other => Err(MetaError::Internal(format!("the server answered {other:?} to a change of an inode")).into()),
        }
    }

    async fn mutate(&self, mutation: Mutation) -> Tried<Applied> {
        Ok(self.inner.service.mutate(&self.ctx(META), mutation).await?)
    }

    fn ctx(&self, timeout: Duration) -> RequestContext {
        RequestContext {
            caller: self.inner.caller.clone(),
            op: OpId(self.inner.ops.fetch_add(1, Ordering::Relaxed)),
            deadline: Instant::now() + timeout,
        }
    }
}

/// Says which path it was about.
fn at(path: &Path) -> impl FnOnce(FsFailure) -> FsError + '_ {
    move |source| FsError { path: path.to_owned(), source }
}
