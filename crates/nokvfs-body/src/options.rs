//! Limits of one mount's bodies.

use std::path::PathBuf;

use nokvfs_types::BLOCK_SIZE;

use crate::BodyError;

/// Limits of one mount's bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyOptions {
    /// Bytes of unpublished writes that are staged and not yet in the object store, over the whole mount. A writer
    /// waits once they are used up.
    pub write_buffer: u64,
    /// Bytes of read frames that are kept, over the whole mount.
    pub read_buffer: u64,
    /// Objects uploaded at once.
    pub upload_parallelism: usize,
    /// Ranged GETs at once.
    pub read_parallelism: usize,
    /// The farthest that a sequential reader is read ahead.
    pub read_ahead_max: u64,
    /// Where the stage's file is made (it has no name and goes with the process). `None`: in memory (memfd).
    pub stage_dir: Option<PathBuf>,
}

impl Default for BodyOptions {
    fn default() -> Self {
        Self {
            write_buffer: 128 << 20,
            read_buffer: 128 << 20,
            upload_parallelism: 16,
            read_parallelism: 16,
            read_ahead_max: 32 << 20,
            stage_dir: None,
        }
    }
}

impl BodyOptions {
    /// Refuses limits that can't work.
    pub fn validate(&self) -> Result<(), BodyError> {
        let least = 2 * BLOCK_SIZE;
        let refuse = |what: &str| Err(BodyError::Options(what.to_owned()));
        if self.write_buffer < least {
            return refuse("write_buffer must hold at least two blocks: 8 MiB");
        }
        if self.write_buffer > 1 << 40 {
            return refuse("write_buffer is at most 1 TiB");
        }
        if self.read_buffer < least {
            return refuse("read_buffer must hold at least two blocks: 8 MiB");
        }
        if !(1..=1024).contains(&self.upload_parallelism) {
            return refuse("upload_parallelism is 1 to 1024");
        }
        if !(1..=1024).contains(&self.read_parallelism) {
            return refuse("read_parallelism is 1 to 1024");
        }
        if let Some(dir) = &self.stage_dir
            && !dir.is_dir()
        {
            return refuse(&format!("stage_dir {} is not a directory; create it", dir.display()));
        }
        Ok(())
    }
}
