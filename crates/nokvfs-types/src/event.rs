//! What a commit tells those who watch a volume.

use crate::{InodeId, Name};

/// Families of records. Each has its own key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordFamily {
    /// Attributes and short bodies.
    Inode,
    /// Directory entries.
    Dentry,
    /// Extents of long bodies.
    Chunk,
    /// Extended attributes.
    Xattr,
    /// Parents of hard-linked files.
    Parent,
    /// Unlinked inodes that may be open.
    Orphan,
    /// Objects to delete.
    Garbage,
    /// Volumes and their counters.
    Volume,
    /// Sessions and their slots.
    Session,
}

/// A change, as watchers see it: enough to drop what they cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The entry now names this inode.
    EntrySet {
        /// The directory.
        parent: InodeId,
        /// The entry.
        name: Name,
        /// What it names.
        inode: InodeId,
    },
    /// The entry is gone.
    EntryRemoved {
        /// The directory.
        parent: InodeId,
        /// The entry.
        name: Name,
    },
    /// Attributes or extended attributes changed.
    AttrChanged(InodeId),
    /// Content changed.
    BodyChanged(InodeId),
    /// The inode's last link went.
    Unlinked(InodeId),
}
