//! Inode numbers: reserved in blocks, so that a create does not write the allocator.

use std::collections::HashMap;
use std::ops::Range;

use nokvfs_types::{InodeId, MetaError, MountId, Version};
use parking_lot::Mutex;

use crate::commit::Txn;
use crate::layout::{AllocatorRecord, Key};
use crate::service::MetaResult;

/// Inodes that one write of the allocator reserves. A restart skips what is left of a block.
const BLOCK: u64 = 1024;

/// The block of each volume that is being given out. As many as volumes.
#[derive(Debug, Default)]
pub(crate) struct Allocators(Mutex<HashMap<MountId, Block>>);

/// Numbers to give out, and the commit that reserved them.
#[derive(Debug, Default)]
struct Block {
    numbers: Range<u64>,
    reserved_at: Version,
}

impl Allocators {
    /// A number that was never given out.
    pub(crate) fn inode(&self, txn: &mut Txn<'_>, mount: MountId) -> MetaResult<InodeId> {
        let mut record = allocator(txn, mount)?;
        let (inode, reserved) = {
            let mut blocks = self.0.lock();
            let block = blocks.entry(mount).or_default();
            // A block beyond the record is void: the command or the batch that reserved it failed, and all that used it.
            let reserve = block.numbers.is_empty() || record.next_inode < block.numbers.end;
            if reserve {
                let numbers = record.next_inode..record.next_inode + BLOCK;
                *block = Block { numbers, reserved_at: txn.version() };
            }
            let inode = InodeId(block.numbers.start);
            block.numbers.start += 1;
            (inode, reserve.then_some(block.numbers.end))
        };
        if let Some(end) = reserved {
            record.next_inode = end;
            txn.put(&Key::Allocator(mount), &record)?;
        }
        Ok(inode)
    }

    /// The commit that reserved the numbers that are being given out.
    pub(crate) fn reserved_at(&self, mount: MountId) -> Option<Version> {
        self.0.lock().get(&mount).map(|block| block.reserved_at)
    }

    /// Whether a number is among those that are still to be given out.
    pub(crate) fn may_give_out(&self, mount: MountId, inode: InodeId) -> bool {
        self.0.lock().get(&mount).is_some_and(|block| block.numbers.contains(&inode.0))
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
