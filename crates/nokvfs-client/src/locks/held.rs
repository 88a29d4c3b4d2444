//! The locks that a session holds, as its client knows them.

use std::collections::HashMap;

use nokvfs_meta::{LockPiece, LockRanges};
use nokvfs_types::{InodeId, Lock, LockKind, LockOwner, LockRange, LockReply, LockType};
use parking_lot::Mutex;

pub(super) type Holder = (InodeId, LockKind, LockOwner);

/// What a session holds. As large as the server lets a session's locks be.
#[derive(Debug)]
pub(crate) struct HeldLocks(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The connection that these were told on, or are about to be.
    incarnation: u64,
    held: HashMap<Holder, LockRanges>,
}

impl Default for HeldLocks {
    fn default() -> Self {
        HeldLocks(Mutex::new(State { incarnation: 1, held: HashMap::new() }))
    }
}

impl HeldLocks {
    /// For a new connection: its number, and what is to be told on it. Answers of older connections that are not heard
    /// yet count no more.
    pub(crate) fn renew(&self) -> (u64, Vec<Lock>) {
        let mut state = self.0.lock();
        state.incarnation += 1;
        let all = state.held.iter().flat_map(|((inode, kind, owner), ranges)| {
            ranges.pieces().iter().map(|piece| Lock {
                inode: *inode,
                owner: *owner,
                kind: *kind,
                range: piece.range,
                lock_type: piece.lock_type,
                pid: piece.pid,
            })
        });
        (state.incarnation, all.collect())
    }

    /// The server's answer to a lock that was to be set. `false`: a newer connection told that it is not held.
    pub(crate) fn heard(&self, incarnation: u64, lock: &Lock, reply: &LockReply) -> bool {
        let mut state = self.0.lock();
        if state.incarnation != incarnation {
            return false;
        }
        match (reply, lock.kind) {
            (LockReply::Done, _) => state.put(lock),
            // A lock of flock(2) that can't be converted is gone.
            (LockReply::Held(_), LockKind::Flock) => state.put(&Lock { lock_type: LockType::Unlock, ..*lock }),
            _ => {}
        }
        true
    }

    /// Whether its owner holds anything of its kind in the file.
    pub(crate) fn has(&self, lock: &Lock) -> bool {
        self.0.lock().held.contains_key(&holder(lock))
    }

    /// Takes a range out, before the server is told. Answers the connection that has told of it, and what was there;
    /// `None` if nothing was.
    pub(crate) fn release(&self, lock: &Lock) -> Option<(u64, LockRanges)> {
        let mut state = self.0.lock();
        let before = state.held.get(&holder(lock)).cloned()?;
        state.put(lock);
        Some((state.incarnation, before))
    }

    /// Puts back what the server did not release. `false`: a newer connection told that it is released.
    pub(crate) fn restore(&self, incarnation: u64, lock: &Lock, before: LockRanges) -> bool {
        let mut state = self.0.lock();
        let same = state.incarnation == incarnation;
        if same {
            state.held.insert(holder(lock), before);
        }
        same
    }
}

impl State {
    fn put(&mut self, lock: &Lock) {
        let ranges = self.held.entry(holder(lock)).or_default();
        *ranges = ranges.with(LockPiece { range: lock.range, lock_type: lock.lock_type, pid: lock.pid });
        if ranges.is_empty() {
            self.held.remove(&holder(lock));
        }
    }
}

pub(super) fn holder(lock: &Lock) -> Holder {
    debug_assert!(lock.kind == LockKind::Posix || lock.range == LockRange::WHOLE);
    (lock.inode, lock.kind, lock.owner)
}
