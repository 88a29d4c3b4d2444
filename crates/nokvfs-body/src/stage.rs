//! Where written bytes wait for their upload: a nameless file (memfd, or in a directory) cut into blocks, of which only
//! the pages that hold something count and take room.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nokvfs_types::BLOCK_SIZE;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{BodyError, BodyOptions};

/// Room is given out in pages of 64 KiB: 64 in a block, one bit each of a u64.
const PAGE: u64 = BLOCK_SIZE / 64;

/// Room for unpublished writes, bounded over the mount.
#[derive(Debug)]
pub(crate) struct Stage {
    file: File,
    room: Arc<Semaphore>,
    pages: u64,
    waiting: AtomicUsize,
    slots: Mutex<Slots>,
}

/// Each block has at least one page, so there are never more slots than pages.
#[derive(Debug, Default)]
struct Slots {
    free: Vec<u32>,
    next: u32,
}

impl Stage {
    pub fn new(options: &BodyOptions) -> Result<Arc<Stage>, BodyError> {
        let file = match &options.stage_dir {
            None => rustix::fs::memfd_create("nokv-stage", MemfdFlags::CLOEXEC),
            Some(dir) => {
                rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            }
        };
        let file = File::from(file.map_err(|error| BodyError::Stage(format!("cannot be made: {error}")))?);
        let pages = options.write_buffer / PAGE;
        let room = Arc::new(Semaphore::new(pages as usize));
        Ok(Arc::new(Stage { file, room, pages, waiting: AtomicUsize::new(0), slots: Mutex::default() }))
    }

    /// Bytes of all pages.
    pub fn capacity(&self) -> u64 {
        self.pages * PAGE
    }

    /// Bytes of pages that are in use.
    #[cfg(test)]
    pub fn used(&self) -> u64 {
        self.capacity() - self.room.available_permits() as u64 * PAGE
    }

    /// Whether a writer waits for room.
    pub fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Takes room if there is some and nobody waits for it.
    pub fn try_reserve(&self, pages: u32) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_many_owned(pages).ok()
    }

    /// Waits for room, first come, first served.
    pub async fn reserve(&self, pages: u32, deadline: Instant) -> Result<OwnedSemaphorePermit, BodyError> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let permit = self.room.clone().acquire_many_owned(pages);
        match tokio::time::timeout_at(deadline.into(), permit).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(BodyError::Stage("closed".to_owned())),
            Err(_) => Err(BodyError::Deadline("waiting for uploads to make room for writes")),
        }
    }

    /// An empty block.
    pub fn block(self: &Arc<Self>) -> StageBlock {
        let mut slots = self.slots.lock();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.next += 1;
            slots.next - 1
        });
        StageBlock { stage: self.clone(), slot, held: Mutex::default() }
    }
}

/// Pages that a write of `len` bytes at `at` in a block touches, one bit each.
fn pages(at: u64, len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    let (first, last) = (at / PAGE, (at + len - 1) / PAGE);
    (u64::MAX >> (63 - (last - first))) << first
}

/// How many pages a write into a new block takes.
pub(crate) fn pages_of_new(at: u64, len: u64) -> u32 {
    pages(at, len).count_ones()
}

/// One block of a file's unpublished bytes. Its room is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct StageBlock {
    stage: Arc<Stage>,
    slot: u32,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    pages: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl StageBlock {
    /// How many pages more a write takes.
    pub fn missing(&self, at: u64, len: u64) -> u32 {
        (pages(at, len) & !self.held.lock().pages).count_ones()
    }

    /// Writes; the room comes out of `permit`, which has enough. The stage is memory or page cache, so this is a copy.
    pub fn write(&self, at: u64, data: &[u8], permit: &mut OwnedSemaphorePermit) -> Result<(), BodyError> {
        let mut held = self.held.lock();
        let touched = pages(at, data.len() as u64);
        let missing = (touched & !held.pages).count_ones();
        self.stage.file.write_all_at(data, u64::from(self.slot) * BLOCK_SIZE + at).map_err(|error| {
            match error.kind() {
                ErrorKind::StorageFull => BodyError::StageFull,
                _ => BodyError::Stage(format!("cannot be written: {error}")),
            }
        })?;
        let taken = permit.split(missing as usize).expect("the caller reserved what was missing");
        match &mut held.permit {
            Some(all) => all.merge(taken),
            none => *none = Some(taken),
        }
        held.pages |= touched;
        Ok(())
    }

    /// Reads bytes that were written.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<(), BodyError> {
        self.stage
            .file
            .read_exact_at(out, u64::from(self.slot) * BLOCK_SIZE + at)
            .map_err(|error| BodyError::Stage(format!("cannot be read: {error}")))
    }
}

impl Drop for StageBlock {
    fn drop(&mut self) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let start = u64::from(self.slot) * BLOCK_SIZE;
        if let Err(error) = rustix::fs::fallocate(&self.stage.file, flags, start, BLOCK_SIZE) {
            tracing::warn!(%error, "a stage block's room cannot be given back; it is used again by the next block");
        }
        self.stage.slots.lock().free.push(self.slot);
    }
}
