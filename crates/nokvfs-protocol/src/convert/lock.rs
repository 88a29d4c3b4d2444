//! Locks.

use nokvfs_types::{HeldLock, Lock, LockKind, LockOwner, LockPlace, LockRange, LockReply, LockType, OpId};

use super::volume::session_to_wire;
use super::{Checked, inode, invalid, required};
use crate::call::{Incarnation, LockWait, SessionRef};
use crate::wire::{self, lock_reply::Reply};

pub(super) fn lock_to_wire(lock: &Lock) -> wire::Lock {
    let kind = match lock.kind {
        LockKind::Posix => wire::LockKind::Posix,
        LockKind::Flock => wire::LockKind::Flock,
        LockKind::Append => wire::LockKind::Append,
    };
    wire::Lock {
        inode: lock.inode.0,
        owner: lock.owner.0,
        kind: kind.into(),
        r#type: type_to_wire(lock.lock_type).into(),
        start: lock.range.start,
        end: lock.range.end,
        pid: lock.pid,
    }
}

pub(super) fn lock_from_wire(lock: Option<wire::Lock>) -> Checked<Lock> {
    let lock = required(lock, "the lock")?;
    let kind = match wire::LockKind::try_from(lock.kind) {
        Ok(wire::LockKind::Posix) => LockKind::Posix,
        Ok(wire::LockKind::Flock) => LockKind::Flock,
        Ok(wire::LockKind::Append) => LockKind::Append,
        Ok(wire::LockKind::Unspecified) | Err(_) => return invalid(format!("lock kind {}", lock.kind)),
    };
    let range = range(lock.start, lock.end)?;
    if kind != LockKind::Posix && range != LockRange::WHOLE {
        return invalid("a lock of a part of a file that is of the whole");
    }
    Ok(Lock {
        inode: inode(lock.inode)?,
        owner: LockOwner(lock.owner),
        kind,
        range,
        lock_type: type_from_wire(lock.r#type)?,
        pid: lock.pid,
    })
}

/// A lock that can be held.
pub(super) fn wanted_lock(lock: Option<wire::Lock>) -> Checked<Lock> {
    let lock = lock_from_wire(lock)?;
    if lock.lock_type == LockType::Unlock { invalid("no lock can be unlocked and held") } else { Ok(lock) }
}

/// All locks of a session.
pub(super) fn wanted_locks(locks: Vec<wire::Lock>) -> Checked<Vec<Lock>> {
    locks.into_iter().map(|lock| wanted_lock(Some(lock))).collect()
}

pub(super) fn lock_call(session: SessionRef, incarnation: Incarnation, lock: &Lock) -> wire::LockCall {
    wire::LockCall { session: session_to_wire(session), incarnation, lock: Some(lock_to_wire(lock)) }
}

pub(super) fn wait_to_wire(session: SessionRef, incarnation: Incarnation, wait: &LockWait) -> wire::WaitLockCall {
    wire::WaitLockCall {
        session: session_to_wire(session),
        incarnation,
        lock: Some(lock_to_wire(&wait.lock)),
        op: wait.op.0,
        place: wait.place.map_or(0, |place| place.0),
    }
}

pub(super) fn wait_from_wire(call: &wire::WaitLockCall) -> Checked<LockWait> {
    let place = (call.place != 0).then_some(LockPlace(call.place));
    Ok(LockWait { lock: wanted_lock(call.lock)?, op: OpId(call.op), place })
}

pub(super) fn lock_reply_to_wire(reply: &LockReply) -> wire::LockReply {
    let reply = match reply {
        LockReply::Done => Reply::Done(wire::Unit {}),
        LockReply::Held(held) => Reply::Held(wire::HeldLock {
            r#type: type_to_wire(held.lock_type).into(),
            start: held.range.start,
            end: held.range.end,
            pid: held.pid,
        }),
        LockReply::Waiting(place) => Reply::Waiting(place.0),
        LockReply::Recovering => Reply::Recovering(wire::Unit {}),
    };
    wire::LockReply { reply: Some(reply) }
}

pub(super) fn lock_reply_from_wire(reply: wire::LockReply) -> Checked<LockReply> {
    Ok(match required(reply.reply, "how the lock stands")? {
        Reply::Done(_) => LockReply::Done,
        Reply::Held(held) => LockReply::Held(HeldLock {
            range: range(held.start, held.end)?,
            lock_type: type_from_wire(held.r#type)?,
            pid: held.pid,
        }),
        Reply::Waiting(place) => LockReply::Waiting(LockPlace(place)),
        Reply::Recovering(_) => LockReply::Recovering,
    })
}

fn range(start: u64, end: u64) -> Checked<LockRange> {
    match LockRange::new(start, end) {
        Some(range) => Ok(range),
        None => invalid(format!("a lock of bytes {start} to {end}")),
    }
}

fn type_to_wire(lock_type: LockType) -> wire::LockType {
    match lock_type {
        LockType::Shared => wire::LockType::Shared,
        LockType::Exclusive => wire::LockType::Exclusive,
        LockType::Unlock => wire::LockType::Unlock,
    }
}

fn type_from_wire(number: i32) -> Checked<LockType> {
    match wire::LockType::try_from(number) {
        Ok(wire::LockType::Shared) => Ok(LockType::Shared),
        Ok(wire::LockType::Exclusive) => Ok(LockType::Exclusive),
        Ok(wire::LockType::Unlock) => Ok(LockType::Unlock),
        Ok(wire::LockType::Unspecified) | Err(_) => invalid(format!("lock type {number}")),
    }
}
