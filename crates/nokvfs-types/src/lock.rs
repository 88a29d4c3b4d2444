//! Advisory locks: fcntl(2) record locks and flock(2).

use crate::InodeId;

/// Who holds a lock, as the client numbers its lockers: the kernel's lock owner (a process's table of open files for
/// fcntl(2), an open file description for flock(2) and for `F_OFD_SETLK`). Unique within a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockOwner(pub u64);

/// The two families of locks. They do not see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockKind {
    /// fcntl(2): ranges, split and merged per owner.
    Posix,
    /// flock(2): the whole file, whatever the range says.
    Flock,
}

/// What is asked for, or held (`l_type` of fcntl(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockType {
    /// Many may hold it.
    Shared,
    /// One alone holds it.
    Exclusive,
    /// Gives back; never held.
    Unlock,
}

/// Bytes `start..=end` of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockRange {
    /// The first byte.
    pub start: u64,
    /// The last byte; [`LockRange::MAX`] means to the end, however far that goes.
    pub end: u64,
}

impl LockRange {
    /// The largest offset (`OFFSET_MAX` of Linux).
    pub const MAX: u64 = i64::MAX as u64;
    /// The whole file.
    pub const WHOLE: LockRange = LockRange { start: 0, end: LockRange::MAX };

    /// Bytes `start..=end`; `None` if there are none, or offsets beyond [`LockRange::MAX`].
    pub fn new(start: u64, end: u64) -> Option<LockRange> {
        (start <= end && end <= LockRange::MAX).then_some(LockRange { start, end })
    }

    /// Whether a byte is in both.
    pub fn overlaps(&self, other: &LockRange) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// A lock that is held or asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The file.
    pub inode: InodeId,
    /// Who.
    pub owner: LockOwner,
    /// Which family.
    pub kind: LockKind,
    /// Which bytes; of [`LockKind::Flock`] always [`LockRange::WHOLE`].
    pub range: LockRange,
    /// What.
    pub lock_type: LockType,
    /// The process, in the pid namespace of its mount; 0 if it has none there.
    pub pid: u32,
}

/// A lock of someone else that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// Which bytes.
    pub range: LockRange,
    /// `Shared` or `Exclusive`.
    pub lock_type: LockType,
    /// The process, if it is of the session that asks: elsewhere its number names another process, or none.
    pub pid: Option<u32>,
}

/// How far a wait for a lock has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockPlace(pub u64);

/// What a server answers to a request for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockReply {
    /// It was set; or nothing is in the way.
    Done,
    /// This is in the way.
    Held(HeldLock),
    /// Still in the way; ask again with this place, which keeps the order of those that wait.
    Waiting(LockPlace),
    /// The server started anew and not every session has told its locks yet: wait, and ask again.
    Recovering,
}
