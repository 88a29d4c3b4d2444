//! Directory listings: pages of the service into buffers of the kernel.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fuser::{FileAttr, FileType, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use nokvfs_meta::service::RequestContext;
use nokvfs_types::{DirEntry, InodeId};

use crate::attrs::file_type;
use crate::core::Core;
use crate::errors::OpResult;
use crate::handles::{DirHandle, Leftover};
use crate::reply::GENERATION;

/// Entries asked for at once: what a 32 KiB buffer (glibc's) holds, with attributes and without.
const PAGE_WITH_ATTRS: u32 = 256;
const PAGE: u32 = 1024;
/// The kernel's buffer is at least a page.
const LEAST_BUFFER: usize = 4096;
/// Positions of `.` and `..`; those of entries are above.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// The next entries of a directory.
#[derive(Debug)]
pub(crate) struct Listing {
    core: Arc<Core>,
    handle: Arc<DirHandle>,
    inode: InodeId,
    /// The position that the kernel asked from.
    from: u64,
    page: Leftover,
}

/// A buffer of the kernel.
pub(crate) trait Buffer {
    /// Bytes that an entry with a name of that length takes.
    fn entry_len(name: usize) -> usize;
    /// Adds an entry; whether it did not fit.
    fn is_full_with(&mut self, core: &Core, item: &Item<'_>) -> bool;
}

/// One line of a listing.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    inode: InodeId,
    kind: FileType,
    cookie: u64,
    name: &'a [u8],
    entry: Option<&'a DirEntry>,
}

impl Buffer for ReplyDirectory {
    fn entry_len(name: usize) -> usize {
        (24 + name).next_multiple_of(8)
    }

    fn is_full_with(&mut self, _core: &Core, item: &Item<'_>) -> bool {
        self.add(INodeNo(item.inode.0), item.cookie, item.kind, OsStr::from_bytes(item.name))
    }
}

impl Buffer for ReplyDirectoryPlus {
    fn entry_len(name: usize) -> usize {
        (152 + name).next_multiple_of(8)
    }

    fn is_full_with(&mut self, core: &Core, item: &Item<'_>) -> bool {
        let (attr, ttl) = match item.entry.and_then(|entry| entry.attr.clone()) {
            Some(attr) => (core.tell(attr).attr, core.options.entry_ttl.min(core.options.attr_ttl)),
            // The kernel takes nothing but the number from these.
            None => (bare(item.inode, item.kind), Duration::ZERO),
        };
        self.add(INodeNo(item.inode.0), item.cookie, OsStr::from_bytes(item.name), &ttl, &attr, GENERATION)
    }
}

fn bare(inode: InodeId, kind: FileType) -> FileAttr {
    let zero = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(inode.0),
        size: 0,
        blocks: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
        crtime: zero,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

impl Core {
    /// The entries after a position, from what the last request left or from the service.
    pub(crate) async fn list(
        self: Arc<Self>,
        ctx: RequestContext,
        inode: InodeId,
        number: u64,
        from: u64,
        attrs: bool,
    ) -> OpResult<Listing> {
        let handle = self.handles.dir(number);
        let after = if from <= DOT_DOT { 0 } else { from };
        let kept = handle.0.lock().take().filter(|left| {
            left.after == after && (left.attrs || !attrs) && left.read_at.elapsed() < self.options.entry_ttl
        });
        let page = match kept {
            Some(left) => left,
            None => {
                let read_at = Instant::now();
                let limit = if attrs { PAGE_WITH_ATTRS } else { PAGE };
                let page = self.service.readdir(&ctx, inode, after, limit, attrs).await?;
                Leftover { after, entries: page.entries, end: page.end, parent: page.parent, attrs, read_at }
            }
        };
        Ok(Listing { core: self, handle, inode, from, page })
    }
}

impl Core {
    /// fsync(2) of a directory: files in it whose creation was answered early are durable afterwards, everything else
    /// is. Any listing waits for that.
    pub(crate) async fn sync_dir(self: Arc<Self>, ctx: RequestContext, inode: InodeId) -> OpResult<()> {
        self.bodies.settle_in(&ctx, inode).await?;
        self.service.readdir(&ctx, inode, 0, 1, false).await?;
        Ok(())
    }
}

impl Listing {
    /// Puts as much into the kernel's buffer as fits, and keeps the rest for the next request.
    pub(crate) fn fill<B: Buffer>(self, buffer: &mut B) -> Result<(), i32> {
        let dots = [(DOT, self.inode, b".".as_slice()), (DOT_DOT, self.page.parent, b"..")];
        let mut used = 0;
        for (cookie, inode, name) in dots.into_iter().filter(|dot| dot.0 > self.from) {
            let item = Item { inode, kind: FileType::Directory, cookie, name, entry: None };
            if buffer.is_full_with(&self.core, &item) {
                return Ok(());
            }
            used += B::entry_len(name.len());
        }
        let mut given = 0;
        for group in self.page.entries.chunk_by(|a, b| a.cookie == b.cookie) {
            let len: usize = group.iter().map(|entry| B::entry_len(entry.name.as_bytes().len())).sum();
            // Whether all of them fit is only known for sure within the least buffer; one alone may be tried.
            if group.len() > 1 && used + len > LEAST_BUFFER {
                if used == 0 {
                    tracing::error!(inode = self.inode.0, entries = group.len(), "too many entries share one position");
                    return Err(libc::EIO);
                }
                break;
            }
            let full = group.iter().any(|entry| {
                let (kind, name) = (file_type(entry.kind), entry.name.as_bytes());
                let item = Item { inode: entry.inode, kind, cookie: entry.cookie, name, entry: Some(entry) };
                buffer.is_full_with(&self.core, &item)
            });
            if full {
                break;
            }
            used += len;
            given += group.len();
        }
        self.keep_rest(given);
        Ok(())
    }

    fn keep_rest(mut self, given: usize) {
        if given == self.page.entries.len() && !self.page.end {
            return;
        }
        if let Some(last) = given.checked_sub(1) {
            self.page.after = self.page.entries[last].cookie;
            self.page.entries.drain(..given);
        }
        *self.handle.0.lock() = Some(self.page);
    }
}
