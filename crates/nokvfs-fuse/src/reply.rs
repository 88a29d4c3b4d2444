//! Giving answers to the kernel.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle as HandleNumber, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr,
};
use nokvfs_types::{FsStat, HeldLock, LockType};

use crate::core::Core;
use crate::handles::FileHandle;
use crate::listing::Listing;

/// Inode numbers are never reused in a volume.
pub(crate) const GENERATION: Generation = Generation(0);
/// `f_frsize`.
const FRAGMENT: u32 = 4096;

/// A reply that waits for its value. Dropping a value that was not given undoes it.
pub(crate) trait Answer: Send + 'static {
    type Value: Send + 'static;
    fn give(self, value: Self::Value);
    fn refuse(self, errno: i32);
}

/// An inode and how long the kernel may keep what it is told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) attr: FileAttr,
    pub(crate) attr_ttl: Duration,
    pub(crate) entry_ttl: Duration,
}

/// A file that was opened. It gets its number when the kernel is told.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) core: Arc<Core>,
    pub(crate) handle: Arc<FileHandle>,
    pub(crate) flags: FopenFlags,
}

/// An extended attribute's value or the list of names; the kernel asks for its length with `size` 0.
#[derive(Debug)]
pub(crate) struct Sized {
    pub(crate) data: Bytes,
    pub(crate) size: u32,
}

macro_rules! refuse {
    () => {
        fn refuse(self, errno: i32) {
            self.error(Errno::from_i32(errno));
        }
    };
}

impl Answer for ReplyEmpty {
    type Value = ();
    fn give(self, (): ()) {
        self.ok();
    }
    refuse!();
}

impl Answer for ReplyEntry {
    type Value = Told;
    fn give(self, told: Told) {
        self.entry_with_ttls(&told.attr_ttl, &told.entry_ttl, &told.attr, GENERATION);
    }
    refuse!();
}

impl Answer for ReplyAttr {
    type Value = Told;
    fn give(self, told: Told) {
        self.attr(&told.attr_ttl, &told.attr);
    }
    refuse!();
}

impl Answer for ReplyData {
    type Value = Bytes;
    fn give(self, data: Bytes) {
        self.data(&data);
    }
    refuse!();
}

impl Answer for ReplyOpen {
    type Value = Opened;
    fn give(self, opened: Opened) {
        let number = opened.core.handles.add_file(opened.handle);
        self.opened(HandleNumber(number), opened.flags);
    }
    refuse!();
}

impl Answer for ReplyCreate {
    type Value = (Told, Opened);
    fn give(self, (told, opened): (Told, Opened)) {
        let number = opened.core.handles.add_file(opened.handle);
        self.created(&told.entry_ttl, &told.attr, GENERATION, HandleNumber(number), opened.flags);
    }
    refuse!();
}

impl Answer for ReplyWrite {
    type Value = u32;
    fn give(self, written: u32) {
        self.written(written);
    }
    refuse!();
}

impl Answer for ReplyStatfs {
    type Value = FsStat;
    fn give(self, stat: FsStat) {
        let unit = u64::from(FRAGMENT);
        let free = stat.total_bytes.saturating_sub(stat.used_bytes) / unit;
        let free_inodes = stat.total_inodes.saturating_sub(stat.used_inodes);
        let total = stat.used_bytes.div_ceil(unit) + free;
        let inodes = stat.used_inodes.saturating_add(free_inodes);
        self.statfs(total, free, free, inodes, free_inodes, FRAGMENT, nokvfs_types::MAX_NAME as u32, FRAGMENT);
    }
    refuse!();
}

impl Answer for ReplyXattr {
    type Value = Sized;
    fn give(self, answer: Sized) {
        let len = answer.data.len() as u32;
        match answer.size {
            0 => self.size(len),
            size if len > size => self.error(Errno::ERANGE),
            _ => self.data(&answer.data),
        }
    }
    refuse!();
}

impl Answer for ReplyLock {
    type Value = Option<HeldLock>;
    fn give(self, held: Option<HeldLock>) {
        match held {
            Some(HeldLock { range, lock_type, pid }) => {
                let number = if lock_type == LockType::Exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
                self.locked(range.start, range.end, number, pid.unwrap_or(0));
            }
            None => self.locked(0, 0, libc::F_UNLCK, 0),
        }
    }
    refuse!();
}

impl Answer for ReplyLseek {
    type Value = i64;
    fn give(self, offset: i64) {
        self.offset(offset);
    }
    refuse!();
}

impl Answer for ReplyDirectory {
    type Value = Listing;
    fn give(mut self, listing: Listing) {
        match listing.fill(&mut self) {
            Ok(()) => self.ok(),
            Err(errno) => self.error(Errno::from_i32(errno)),
        }
    }
    refuse!();
}

impl Answer for ReplyDirectoryPlus {
    type Value = Listing;
    fn give(mut self, listing: Listing) {
        match listing.fill(&mut self) {
            Ok(()) => self.ok(),
            Err(errno) => self.error(Errno::from_i32(errno)),
        }
    }
    refuse!();
}
