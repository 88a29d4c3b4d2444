//! Directories, a page at a time.

use std::path::{Path, PathBuf};

use nokvfs_types::{DirEntry, FileKind, InodeId, MetaError};

use super::{Fs, FsResult, META, Tried, at};

/// Entries per request.
const PAGE: u32 = 1000;

/// A directory being listed. Holds one page.
#[derive(Debug)]
pub struct Listing {
    fs: Fs,
    path: PathBuf,
    pages: Pages,
    ready: std::vec::IntoIter<DirEntry>,
}

/// Where a listing is.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) dir: InodeId,
    after: u64,
    pub(super) end: bool,
    attrs: bool,
}

impl Pages {
    pub(super) fn new(dir: InodeId, attrs: bool) -> Self {
        Pages { dir, after: 0, end: false, attrs }
    }

    /// The next entries; none at the end.
    pub(super) async fn next(&mut self, fs: &Fs) -> Tried<Vec<DirEntry>> {
        if self.end {
            return Ok(Vec::new());
        }
        let ctx = fs.ctx(META);
        let page = fs.inner.service.readdir(&ctx, self.dir, self.after, PAGE, self.attrs).await?;
        match page.entries.last() {
            Some(last) => self.after = last.cookie,
            None if !page.end => {
                return Err(MetaError::Internal("a listing stands still".into()).into());
            }
            None => {}
        }
        self.end = page.end;
        Ok(page.entries)
    }
}

impl Fs {
    /// Lists a directory, with attributes. Entries come in the order of their cookies, not of names.
    pub async fn list(&self, path: impl AsRef<Path>) -> FsResult<Listing> {
        let path = path.as_ref();
        let attr = self.stat(path).await?;
        if attr.kind != FileKind::Directory {
            return Err(at(path)(MetaError::NotDirectory.into()));
        }
        let pages = Pages::new(attr.inode, true);
        Ok(Listing { fs: self.clone(), path: path.to_owned(), pages, ready: Vec::new().into_iter() })
    }
}

impl Listing {
    /// The next entry.
    pub async fn next(&mut self) -> FsResult<Option<DirEntry>> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Ok(Some(entry));
            }
            if self.pages.end {
                return Ok(None);
            }
            self.ready = self.pages.next(&self.fs).await.map_err(at(&self.path))?.into_iter();
        }
    }
}
