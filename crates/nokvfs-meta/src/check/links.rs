//! Counting how many entries name each inode.

use nokvfs_types::InodeId;

/// Inodes in ascending order, each with the entries that should name it and those that do: 16 bytes each.
#[derive(Default)]
pub(super) struct Links(Vec<(InodeId, u32, u32)>);

impl Links {
    /// Adds an inode greater than all before it.
    pub(super) fn expect(&mut self, inode: InodeId, links: u32) {
        debug_assert!(self.0.last().is_none_or(|(last, ..)| *last < inode));
        self.0.push((inode, links, 0));
    }

    /// An entry names an inode.
    pub(super) fn count(&mut self, inode: InodeId) {
        if let Ok(at) = self.0.binary_search_by_key(&inode, |(inode, ..)| *inode) {
            self.0[at].2 = self.0[at].2.saturating_add(1);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Inodes that other than expected name, with both numbers.
    pub(super) fn wrong(&self) -> impl Iterator<Item = (InodeId, u32, u32)> {
        self.0.iter().copied().filter(|(_, expected, found)| expected != found)
    }
}
