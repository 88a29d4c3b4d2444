//! Inode attributes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{InodeId, Version};

/// Kinds of inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A point in time: nanoseconds since 1970-01-01T00:00:00Z, before it negative. Reaches from 1677 to 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The wall clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Timestamp {
    /// A time beyond the representable range becomes the nearest end of it, as Linux clamps timestamps to a
    /// filesystem's limits.
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp(i64::try_from(after.as_nanos()).unwrap_or(i64::MAX)),
            Err(before) => Timestamp(i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos)),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let distance = Duration::from_nanos(time.0.unsigned_abs());
        if time.0 >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
    }
}

/// What stat(2) tells of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Number in the volume.
    pub inode: InodeId,
    /// Kind.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: the low 12 bits of `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links; of a directory 2 plus its subdirectories; 0 of an orphan.
    pub nlink: u32,
    /// Size in bytes; of a symbolic link its target's length; of a directory its number of entries.
    pub size: u64,
    /// Bytes that extents map: what the quota counts and `st_blocks` shows. At most `size`.
    pub mapped: u64,
    /// Device number of a device node (Linux `new_encode_dev`), else 0.
    pub rdev: u32,
    /// Last access. Set by utimens(2) and by creation only: reads don't write.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes or content.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// The commit that last wrote the inode record.
    pub version: Version,
}
