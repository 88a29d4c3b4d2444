//! Options of the store.

use std::path::PathBuf;

/// Where the metadata lives and what it may take.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Directory on a local disk. One server at a time holds it.
    pub dir: PathBuf,
    /// What the process may use, in bytes; the store takes 60 % of it for records.
    pub memory_limit: u64,
    /// Below so many free bytes of the disk nothing is written any more.
    pub low_water: u64,
    /// A checkpoint starts when the write-ahead log is longer. Bounds the time of a start: about 3 us per record.
    pub wal_limit: u64,
    /// Bytes of journal segments that are kept.
    pub journal_limit: u64,
}

/// One frame of the engine's pool.
pub(crate) const FRAME: u64 = 512 << 10;

impl StoreOptions {
    /// Defaults for a directory and a memory limit.
    pub fn new(dir: impl Into<PathBuf>, memory_limit: u64) -> Self {
        StoreOptions {
            dir: dir.into(),
            memory_limit,
            low_water: 256 << 20,
            wal_limit: 64 << 20,
            journal_limit: 256 << 20,
        }
    }

    /// Frames of the engine's pool. The rest of the memory is for frames that a checkpoint has not written yet, for
    /// queues and for everything else in the process.
    pub(crate) fn pool_frames(&self) -> usize {
        usize::try_from(self.memory_limit / 10 * 6 / FRAME).unwrap_or(usize::MAX).max(32)
    }

    /// Bytes that records may need: beyond the pool an update costs a hundred times as much.
    pub(crate) fn record_budget(&self) -> u64 {
        self.pool_frames() as u64 * FRAME / 10 * 9
    }
}
