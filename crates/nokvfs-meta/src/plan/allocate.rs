//! Inode numbers: reserved in blocks, so that a create does not write the allocator.

use std::collections::HashMap;
use std::ops::Range;

use nokvfs_types::{InodeId, MetaError, MountId};
use parking_lot::Mutex;

use crate::commit::Txn;
use crate::layout::{AllocatorRecord, Key};
use crate::service::MetaResult;

/// Inodes that one write of the allocator reserves. A restart skips what is left of a block.
const BLOCK: u64 = 1024;

/// The block of each volume that is being given out. As many as volumes.
#[derive(Debug, Default)]
pub(crate) struct Allocators(Mutex<HashMap<MountId, Range<u64>>>);

impl Allocators {
    /// A number that was never given out.
    pub(crate) fn inode(&self, txn: &mut Txn<'_>, mount: MountId) -> MetaResult<InodeId> {
        let mut record = allocator(txn, mount)?;
        let (inode, reserved) = {
            let mut blocks = self.0.lock();
            let block = blocks.entry(mount).or_default();
            // A block beyond the record is void: the command or the batch that reserved it failed, and all that used it.
            let reserve = block.is_empty() || record.next_inode < block.end;
            if reserve {
                *block = record.next_inode..record.next_inode + BLOCK;
            }
            let inode = InodeId(block.start);
            block.start += 1;
            (inode, reserve.then_some(block.end))
        };
        if let Some(end) = reserved {
            record.next_inode = end;
            txn.put(&Key::Allocator(mount), &record)?;
        }
        Ok(inode)
    }

    /// Forgets a deleted volume.
    pub(crate) fn forget(&self, mount: MountId) {
        self.0.lock().remove(&mount);
    }
}

/// The allocator of a volume.
pub(crate) fn allocator(txn: &mut Txn<'_>, mount: MountId) -> MetaResult<AllocatorRecord> {
    txn.get(&Key::Allocator(mount))?
        .ok_or_else(|| MetaError::Corrupt(format!("volume number {mount} has no allocator record")))
}
