//! From a path to an inode.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use nokvfs_types::{Attr, FileKind, InodeId, MetaError, Name};

use super::{Fs, FsFailure, META, Tried};

/// Symbolic links that are followed on the way (Linux `MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

impl Fs {
    /// The inode that a path names.
    pub(super) async fn resolve(&self, path: &Path, follow: bool) -> Tried<Attr> {
        self.walk(components(path.as_os_str().as_bytes()), follow).await
    }

    /// The directory that holds a path's last name, and that name.
    pub(super) async fn resolve_parent(&self, path: &Path) -> Tried<(InodeId, Name)> {
        let mut names = components(path.as_os_str().as_bytes());
        // The last name is the first of the list.
        if names.is_empty() {
            return Err(MetaError::Invalid("the volume's root can't be changed".into()).into());
        }
        let last = Name::new(names.remove(0))?;
        let parent = self.walk(names, true).await?;
        if parent.kind != FileKind::Directory {
            return Err(MetaError::NotDirectory.into());
        }
        Ok((parent.inode, last))
    }

    /// Follows names, the last of the list first. `..` goes back the way that was come, as links are resolved already.
    async fn walk(&self, mut names: Vec<Bytes>, follow: bool) -> Tried<Attr> {
        let root = self.inner.service.getattr(&self.ctx(META), InodeId::ROOT).await?;
        let mut way = Vec::new();
        let mut here = root.clone();
        let mut links = 0;
        while let Some(name) = names.pop() {
            if here.kind != FileKind::Directory {
                return Err(MetaError::NotDirectory.into());
            }
            if name.as_ref() == b".." {
                here = way.pop().unwrap_or_else(|| root.clone());
                continue;
            }
            let found = self.inner.service.lookup(&self.ctx(META), here.inode, &Name::new(name)?).await?;
            if found.kind != FileKind::Symlink || (names.is_empty() && !follow) {
                way.push(std::mem::replace(&mut here, found));
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(FsFailure::Loop);
            }
            let target = self.inner.service.readlink(&self.ctx(META), found.inode).await?;
            if target.starts_with(b"/") {
                way.clear();
                here = root.clone();
            }
            names.extend(components(&target));
        }
        Ok(here)
    }
}

/// A path's names, the last first; without empty ones and `.`.
fn components(path: &[u8]) -> Vec<Bytes> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(Bytes::copy_from_slice).collect()
}
