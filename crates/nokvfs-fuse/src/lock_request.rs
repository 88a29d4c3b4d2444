//! What the kernel asks for with FUSE_GETLK, FUSE_SETLK and FUSE_SETLKW.

use fuser::Request;
use nokvfs_types::{InodeId, Lock, LockKind, LockOwner, LockRange, LockType};

use crate::errors::{OpResult, Refusal};

/// `FUSE_LK_FLOCK` of linux/fuse.h: the request is flock(2)'s.
const LK_FLOCK: u32 = 1;
/// Bytes of `struct fuse_in_header` and of `struct fuse_lk_in` behind it.
const HEADER: usize = 40;
const LK_IN: usize = 48;

/// The arguments of a request as fuser hands them over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) handle: u64,
    pub(crate) owner: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) typ: i32,
    pub(crate) pid: u32,
}

/// The lock of an fcntl(2) request.
pub(crate) fn posix_lock(inode: InodeId, owner: u64, bytes: (u64, u64), typ: i32, pid: u32) -> OpResult<Lock> {
    let refused = Refusal::Errno(libc::EINVAL);
    let lock_type = match typ {
        libc::F_RDLCK => LockType::Shared,
        libc::F_WRLCK => LockType::Exclusive,
        libc::F_UNLCK => LockType::Unlock,
        _ => return Err(refused),
    };
    let range = LockRange::new(bytes.0, bytes.1).ok_or(refused)?;
    Ok(Lock { inode, owner: LockOwner(owner), kind: LockKind::Posix, range, lock_type, pid })
}

/// The lock of an fcntl(2) or flock(2) request.
pub(crate) fn wanted_lock(request: &Request, inode: InodeId, given: &Given) -> OpResult<Lock> {
    let lock = posix_lock(inode, given.owner, (given.start, given.end), given.typ, given.pid)?;
    match is_flock(request, given) {
        Some(false) => Ok(lock),
        Some(true) => Ok(Lock { kind: LockKind::Flock, range: LockRange::WHOLE, ..lock }),
        None => {
            tracing::error!("the flags of a lock request are not where fuser 0.18 keeps them; the lock is refused");
            Err(Refusal::Errno(libc::ENOLCK))
        }
    }
}

/// Whether a request is flock(2)'s. fuser 0.18 hands everything of `struct fuse_lk_in` over but `lk_flags`, and without
/// them flock(2) can't be told from fcntl(2) on the whole file, which must not see each other. The field is read where
/// fuser read the others: from its receive buffer, in which a [`Request`] is the header itself. `None` unless the
/// bytes there are this request's.
fn is_flock(request: &Request, given: &Given) -> Option<bool> {
    let start = std::ptr::from_ref(request).cast::<u8>();
    // SAFETY: in fuser 0.18 (pinned by the workspace) a `Request` is `repr(transparent)` over the `fuse_in_header` that
    // lies at the start of the receive buffer of its thread. The buffer holds the largest write, and it is not written
    // before the call that got the `Request` returns. Any bytes are valid for an array of them.
    let bytes = unsafe { start.cast::<[u8; HEADER + LK_IN]>().read() };
    let u32_at = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    let u64_at = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    let there = Given {
        handle: u64_at(HEADER),
        owner: u64_at(HEADER + 8),
        start: u64_at(HEADER + 16),
        end: u64_at(HEADER + 24),
        typ: u32_at(HEADER + 32) as i32,
        pid: u32_at(HEADER + 36),
    };
    let is_this = u32_at(0) as usize == HEADER + LK_IN && u64_at(8) == request.unique().0 && there == *given;
    is_this.then(|| u32_at(HEADER + 40) & LK_FLOCK != 0)
}
