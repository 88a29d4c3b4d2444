//! The operations of a volume: what changes it, and what reads of it answer.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Attr, Extent, FileKind, InodeId, Name, OpId, SessionId, Timestamp, UploadId};

/// Who asks, as the kernel told the mount: decides ownership of what is created. Permission bits are the kernel's to
/// check (`default_permissions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Supplementary groups, where known.
    pub groups: Arc<[u32]>,
}

/// Identifies one mutating request for exactly-once execution: the same stamp sent again is answered from its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The session.
    pub session: SessionId,
    /// Grows by one with each client process that takes the session over; older ones are refused from then on.
    pub generation: u32,
    /// The slot, below 256: one request at a time is outstanding in it.
    pub slot: u16,
    /// Grows by one with each new request of the slot. The last one may be repeated.
    pub sequence: u64,
    /// Finds the reply again after a take-over, when slots and sequences are no longer known.
    pub op: OpId,
}

/// When the creation of a regular file is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// Once it is durable.
    #[default]
    Durable,
    /// Once it has its place in the order of commits, a moment before it is durable. It is lost if the server fails in
    /// that moment; a request for its attributes waits until it is durable and tells.
    Early,
    /// Once it is durable; with the number that an early answer told and that was lost with its server. Refused with
    /// `Exists` if the name is taken, or the number.
    Restore(InodeId),
}

/// A change of a volume. Each is carried out as a whole, exactly once, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Makes an inode and its entry. Answers [`Applied::Entry`].
    Create {
        /// The directory.
        parent: InodeId,
        /// The new entry's name.
        name: Name,
        /// What to make.
        node: NewNode,
        /// Permission bits, umask applied (low 12 bits).
        mode: u16,
        /// Where the name is taken by a regular file and a regular file is asked for: answer that one (open with
        /// `O_CREAT` without `O_EXCL`) instead of refusing with `Exists`.
        open_existing: bool,
        /// When to answer.
        ack: Ack,
    },
    /// Makes a further entry of an inode that is no directory. Answers [`Applied::Entry`].
    Link {
        /// The inode.
        inode: InodeId,
        /// The directory.
        parent: InodeId,
        /// The new entry's name.
        name: Name,
    },
    /// Removes an entry that is no directory. Answers [`Applied::Removed`].
    Unlink {
        /// The directory.
        parent: InodeId,
        /// The entry.
        name: Name,
    },
    /// Removes an empty directory. Answers [`Applied::Removed`].
    Rmdir {
        /// The directory that holds it.
        parent: InodeId,
        /// The entry.
        name: Name,
    },
    /// Moves an entry (rename(2)). Answers [`Applied::Unit`].
    Rename {
        /// Directory to move from.
        parent: InodeId,
        /// Entry to move.
        name: Name,
        /// Directory to move to.
        new_parent: InodeId,
        /// Name there.
        new_name: Name,
        /// What to do with an entry that is there.
        mode: RenameMode,
    },
    /// Changes attributes (chmod, chown, truncate, utimens). Answers [`Applied::Entry`].
    SetAttr {
        /// The inode.
        inode: InodeId,
        /// The changes.
        set: SetAttr,
    },
    /// Sets an extended attribute. Answers [`Applied::Unit`].
    SetXattr {
        /// The inode.
        inode: InodeId,
        /// Full name with its namespace, for example `user.label`.
        name: Bytes,
        /// At most [`crate::MAX_XATTR_VALUE`] bytes.
        value: Bytes,
        /// Whether it must or must not exist.
        mode: XattrMode,
    },
    /// Removes an extended attribute. Answers [`Applied::Unit`].
    RemoveXattr {
        /// The inode.
        inode: InodeId,
        /// Full name.
        name: Bytes,
    },
    /// Makes uploaded bytes a file's content. Answers [`Applied::Entry`].
    Publish(Publish),
    /// Allocates or unmaps a range of a regular file (fallocate(2)). Answers [`Applied::Entry`].
    Fallocate(Fallocate),
    /// Grants upload ids to the session. Answers [`Applied::Uploads`]. A session that ends leaves its unsettled ids to
    /// the sweep, which deletes those objects that no body names.
    ReserveUploads {
        /// How many, 1 to 65,536.
        count: u32,
        /// Every id of this session below this one is published, or its objects are deleted.
        settled: UploadId,
    },
}

/// What [`Mutation::Create`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewNode {
    /// An empty regular file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link to a target of 1 to 4,095 bytes.
    Symlink(Bytes),
    /// A fifo, socket or device node.
    Special {
        /// [`FileKind::Fifo`], `Socket`, `CharDevice` or `BlockDevice`.
        kind: FileKind,
        /// Device number, 0 for fifo and socket.
        rdev: u32,
    },
}

/// What rename does with an entry at the new place (renameat2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Refuse with `Exists`.
    NoReplace,
    /// Exchange the two; both must exist.
    Exchange,
}

/// A new timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The server's clock.
    Now,
    /// As given.
    At(Timestamp),
}

/// Attribute changes; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Low 12 bits of the mode.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// New size of a regular file: cuts the body or lets it end in a hole.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Change time; `None` means now, as every change of attributes does.
    pub ctime: Option<Timestamp>,
}

/// Uploaded bytes that become a file's content. Applied in this order: cut to `truncate`, lay `extents` over what is
/// there (newest wins), grow to at least `size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The file.
    pub inode: InodeId,
    /// The smallest size that the writer gave the file since it last published, if it cut it.
    pub truncate: Option<u64>,
    /// The file is at least this long afterwards.
    pub size: u64,
    /// When the last byte was written: becomes mtime, and ctime unless that is later already.
    pub written: Timestamp,
    /// New extents, sorted, not overlapping, none crossing a chunk. Their slices hold durable objects already.
    pub extents: Vec<Extent>,
}

/// A range of a file that is allocated or unmapped. Every one sets mtime and ctime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallocate {
    /// The file.
    pub inode: InodeId,
    /// The range's first byte.
    pub offset: u64,
    /// Its bytes, at least 1.
    pub len: u64,
    /// Make the range a hole. Otherwise nothing is reserved, an object store has no such thing: the request is only
    /// refused with `QuotaExceeded` where the quota has no room for what the range lacks.
    pub unmap: bool,
    /// The file is at least this long afterwards.
    pub size: u64,
}

/// Whether an extended attribute must exist (setxattr(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Set it either way.
    Set,
    /// `XATTR_CREATE`: refuse with `Exists`.
    Create,
    /// `XATTR_REPLACE`: refuse with `NoAttribute`.
    Replace,
}

/// The answer to a [`Mutation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing to tell.
    Unit,
    /// The inode as it is now.
    Entry {
        /// Its attributes.
        attr: Attr,
        /// Whether this request made it.
        created: bool,
    },
    /// An entry was removed.
    Removed {
        /// The inode it named.
        inode: InodeId,
        /// Links that are left; at 0 the inode is an orphan until nobody has it open.
        nlink: u32,
    },
    /// Upload ids `first..first + count` are this session's.
    Uploads {
        /// The first.
        first: UploadId,
        /// How many.
        count: u32,
    },
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name.
    pub name: Name,
    /// The inode it names.
    pub inode: InodeId,
    /// Its kind.
    pub kind: FileKind,
    /// Position for the next request: 4 to 2^63-1. Entries of one directory may share a cookie; they come together.
    pub cookie: u64,
    /// Attributes, where asked for.
    pub attr: Option<Attr>,
}

/// A part of a directory's listing, in cookie order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirPage {
    /// Entries after the asked position. Never ends between two that share a cookie.
    pub entries: Vec<DirEntry>,
    /// Nothing follows.
    pub end: bool,
    /// The directory's parent (of the root: the root).
    pub parent: InodeId,
}

/// What statfs(2) tells of a volume, from counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsStat {
    /// Mapped bytes.
    pub used_bytes: u64,
    /// Quota, or what the server can hold.
    pub total_bytes: u64,
    /// Inodes.
    pub used_inodes: u64,
    /// Quota, or what the server can hold.
    pub total_inodes: u64,
}
