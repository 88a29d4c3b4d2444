//! Files: reading, and writing whole ones atomically.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nokvfs_body::{OpenFile, ReadStream};
use nokvfs_types::{Ack, Applied, Attr, BodyView, FileKind, InodeId, MetaError, Mutation, Name, NewNode, RenameMode};

use super::{DATA, Fs, FsResult, META, Tried, at};

/// Bytes per step of [`FileReader::next`].
const STEP: u32 = 1 << 20;

/// Keeps an inode counted as open.
#[derive(Debug)]
struct Opened {
    fs: Fs,
    inode: InodeId,
}

impl Opened {
    fn new(fs: &Fs, inode: InodeId) -> Self {
        fs.inner.service.opened(inode);
        Opened { fs: fs.clone(), inode }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.fs.inner.service.closed(self.inode);
    }
}

/// A file open for reading.
#[derive(Debug)]
pub struct FileReader {
    opened: Opened,
    path: PathBuf,
    file: Arc<OpenFile>,
    stream: ReadStream,
    position: u64,
}

impl Fs {
    /// Opens a file for reading.
    pub async fn open(&self, path: impl AsRef<Path>) -> FsResult<FileReader> {
        let path = path.as_ref();
        let open = async {
            let attr = self.resolve(path, true).await?;
            match attr.kind {
                FileKind::File => {}
                FileKind::Directory => return Err(MetaError::IsDirectory.into()),
                _ => return Err(MetaError::Invalid("not a regular file".into()).into()),
            }
            let opened = Opened::new(self, attr.inode);
            let file = self.inner.bodies.open(&self.ctx(META), attr.inode).await?;
            Ok(FileReader { opened, path: path.to_owned(), file, stream: ReadStream::new(), position: 0 })
        };
        open.await.map_err(at(path))
    }

    /// Reads at most `len` bytes of a file from `offset` on; fewer only at its end.
    pub async fn read(&self, path: impl AsRef<Path>, offset: u64, len: u32) -> FsResult<Bytes> {
        self.open(path).await?.read_at(offset, len).await
    }

    /// Starts writing a file that takes the place of `path` at once when it is committed; until then nobody sees it.
    pub async fn create(&self, path: impl AsRef<Path>, mode: u16) -> FsResult<FileWriter> {
        let path = path.as_ref();
        self.start_file(path, mode).await.map_err(at(path))
    }

    /// Writes a whole file atomically.
    pub async fn write(&self, path: impl AsRef<Path>, content: Bytes, mode: u16) -> FsResult<Attr> {
        let mut writer = self.create(path, mode).await?;
        writer.write(content).await?;
        writer.commit().await
    }

    async fn start_file(&self, path: &Path, mode: u16) -> Tried<FileWriter> {
        let (parent, name) = self.resolve_parent(path).await?;
        // Random, so that it meets no other writer's; also in the same directory, so that the rename stays inside it.
        let temporary = Name::new(format!(".nokv-{}", uuid::Uuid::new_v4().simple()))?;
        let create = Mutation::Create {
            parent,
            name: temporary.clone(),
            node: NewNode::File,
            mode,
            open_existing: false,
            ack: Ack::Durable,
        };
        let attr = match self.mutate(create).await? {
            Applied::Entry { attr, .. } => attr,
            other => return Err(MetaError::Internal(format!("the server answered {other:?} to a create")).into()),
        };
        let opened = Opened::new(self, attr.inode);
        let file = self.inner.bodies.adopt(BodyView { attr, extents: Vec::new(), complete_to: u64::MAX });
        Ok(FileWriter { opened, path: path.to_owned(), file, parent, temporary, name, offset: 0, done: false })
    }
}

impl FileReader {
    /// Attributes as of the opening.
    pub fn attr(&self) -> Attr {
        self.file.attr()
    }

    /// Reads at most `len` bytes from `offset` on; fewer only at the end of the file.
    pub async fn read_at(&self, offset: u64, len: u32) -> FsResult<Bytes> {
        let ctx = self.opened.fs.ctx(DATA);
        let read = self.file.read(&ctx, &self.stream, offset, len).await;
        read.map_err(|error| at(&self.path)(error.into()))
    }

    /// The next bytes, about 1 MiB; empty at the end. Reads ahead.
    pub async fn next(&mut self) -> FsResult<Bytes> {
        let bytes = self.read_at(self.position, STEP).await?;
        self.position += bytes.len() as u64;
        Ok(bytes)
    }
}

/// A file being written under a temporary name. Dropped without [`FileWriter::commit`] it is removed.
#[derive(Debug)]
pub struct FileWriter {
    opened: Opened,
    path: PathBuf,
    file: Arc<OpenFile>,
    parent: InodeId,
    temporary: Name,
    name: Name,
    offset: u64,
    done: bool,
}

impl FileWriter {
    /// Appends bytes; waits while the write buffer is full.
    pub async fn write(&mut self, bytes: Bytes) -> FsResult<()> {
        let len = bytes.len() as u64;
        let ctx = self.opened.fs.ctx(DATA);
        let written = self.file.write(&ctx, self.offset, bytes).await;
        written.map_err(|error| at(&self.path)(error.into()))?;
        self.offset += len;
        Ok(())
    }

    /// Makes the bytes durable and gives the file its name; one of that name is replaced.
    pub async fn commit(mut self) -> FsResult<Attr> {
        let commit = async {
            let fs = &self.opened.fs;
            let attr = self.file.sync(&fs.ctx(DATA)).await?;
            let (name, new_name) = (self.temporary.clone(), self.name.clone());
            let mode = RenameMode::Replace;
            fs.mutate(Mutation::Rename { parent: self.parent, name, new_parent: self.parent, new_name, mode }).await?;
            Ok(attr)
        };
        let attr = commit.await.map_err(at(&self.path))?;
        self.done = true;
        Ok(attr)
    }

    /// Removes what was written.
    pub async fn abort(mut self) -> FsResult<()> {
        self.done = true;
        self.file.discard();
        let (parent, name) = (self.parent, self.temporary.clone());
        self.opened.fs.mutate(Mutation::Unlink { parent, name }).await.map_err(at(&self.path))?;
        Ok(())
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.file.discard();
        let (fs, parent, name) = (self.opened.fs.clone(), self.parent, self.temporary.clone());
        let path = self.path.clone();
        let remove = async move {
            if let Err(error) = fs.mutate(Mutation::Unlink { parent, name: name.clone() }).await {
                tracing::warn!(path = %path.display(), %name, %error, "a temporary file stays; remove it");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(remove)),
            Err(_) => {
                tracing::warn!(path = %self.path.display(), name = %self.temporary, "a temporary file stays; remove it")
            }
        }
    }
}
