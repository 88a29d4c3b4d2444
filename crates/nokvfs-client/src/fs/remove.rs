//! Removing a tree.

use std::path::Path;

use futures::{StreamExt, TryStreamExt};
use nokvfs_body::BodyError;
use nokvfs_types::{DirEntry, FileKind, InodeId, MetaError, Name};

use super::list::Pages;
use super::{Fs, FsFailure, FsResult, META, Tried, at};

/// Entries removed at once.
const PARALLEL: usize = 32;
/// How often a directory is emptied again that others fill meanwhile.
const AGAIN_MAX: u32 = 8;

/// A directory on the way down. Memory is one page of directories per level.
struct Level {
    parent: InodeId,
    name: Name,
    pages: Pages,
    directories: Vec<DirEntry>,
    again: u32,
}

impl Level {
    fn new(parent: InodeId, name: Name, dir: InodeId) -> Self {
        Level { parent, name, pages: Pages::new(dir, false), directories: Vec::new(), again: 0 }
    }
}

impl Fs {
    /// Removes an entry and all below it; answers how many entries went. Symbolic links are removed, not followed. One
    /// that is not there is fine.
    pub async fn remove_all(&self, path: impl AsRef<Path>) -> FsResult<u64> {
        let path = path.as_ref();
        self.remove_tree(path).await.map_err(at(path))
    }

    async fn remove_tree(&self, path: &Path) -> Tried<u64> {
        let found = async {
            let (parent, name) = self.resolve_parent(path).await?;
            let attr = self.inner.service.lookup(&self.ctx(META), parent, &name).await?;
            Ok::<_, FsFailure>((parent, name, attr))
        };
        let (parent, name, attr) = match found.await {
            Err(error) if is(&error, &MetaError::NotFound) => return Ok(0),
            found => found?,
        };
        if attr.kind != FileKind::Directory {
            return self.remove_if_there(parent, name, attr.kind).await;
        }
        let mut removed = 0;
        let mut levels = vec![Level::new(parent, name, attr.inode)];
        while let Some(level) = levels.last_mut() {
            if let Some(next) = level.directories.pop() {
                let dir = level.pages.dir;
                levels.push(Level::new(dir, next.name, next.inode));
                continue;
            }
            if !level.pages.end {
                removed += self.remove_page(level).await?;
                continue;
            }
            match self.remove_if_there(level.parent, level.name.clone(), FileKind::Directory).await {
                Ok(count) => {
                    removed += count;
                    levels.pop();
                }
                Err(error) if is(&error, &MetaError::NotEmpty) && level.again < AGAIN_MAX => {
                    level.again += 1;
                    level.pages = Pages::new(level.pages.dir, false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Removes a page's files; its directories are kept for later.
    async fn remove_page(&self, level: &mut Level) -> Tried<u64> {
        let dir = level.pages.dir;
        let entries = match level.pages.next(self).await {
            Err(error) if is(&error, &MetaError::NotFound) => {
                level.pages.end = true;
                return Ok(0);
            }
            entries => entries?,
        };
        let (directories, files): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.kind == FileKind::Directory);
        level.directories = directories;
        let removing = files.into_iter().map(|entry| self.remove_if_there(dir, entry.name, entry.kind));
        futures::stream::iter(removing).buffer_unordered(PARALLEL).try_fold(0, async |sum, count| Ok(sum + count)).await
    }

    async fn remove_if_there(&self, parent: InodeId, name: Name, kind: FileKind) -> Tried<u64> {
        match self.remove_entry(parent, name, kind).await {
            Ok(()) => Ok(1),
            Err(error) if is(&error, &MetaError::NotFound) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

fn is(failure: &FsFailure, error: &MetaError) -> bool {
    matches!(failure, FsFailure::Body(BodyError::Meta(found)) if found == error)
}
