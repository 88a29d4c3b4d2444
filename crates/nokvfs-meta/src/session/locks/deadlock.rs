//! Finding circles of owners that would wait for each other.

use std::collections::HashSet;

use nokvfs_types::{Lock, LockKind};

use super::{FileKey, Owner, Table};

/// Most owners that are looked at for one request; a longer circle is not found, and those in it wait.
const OWNERS: usize = 256;

impl Table {
    /// Whether an owner that waits for a POSIX lock would wait for itself, over those who hold it and wait in turn. As
    /// in Linux, an owner counts as waiting if any of its threads does.
    pub(super) fn is_deadlock(&self, key: FileKey, owner: Owner, lock: &Lock) -> bool {
        if lock.kind != LockKind::Posix {
            return false;
        }
        let mut seen = HashSet::new();
        let mut next = self.holders(key, owner, lock);
        while let Some(holder) = next.pop() {
            if holder == owner {
                return true;
            }
            if seen.len() == OWNERS {
                return false;
            }
            if !seen.insert(holder) {
                continue;
            }
            for key in self.waiting.get(&holder).into_iter().flatten() {
                let Some(file) = self.files.get(key) else { continue };
                let waits =
                    file.waiting.iter().filter(|waiter| waiter.owner == holder && waiter.lock.kind == LockKind::Posix);
                next.extend(waits.flat_map(|waiter| self.holders(*key, holder, &waiter.lock)));
            }
        }
        false
    }

    /// Who holds what keeps an owner from a lock.
    fn holders(&self, key: FileKey, owner: Owner, lock: &Lock) -> Vec<Owner> {
        let held = self.files.get(&key).into_iter().flat_map(|file| &file.held);
        let others = held.filter(|((kind, other), _)| *kind == lock.kind && *other != owner);
        others
            .filter(|(_, ranges)| ranges.conflict(&lock.range, lock.lock_type).is_some())
            .map(|((_, other), _)| *other)
            .collect()
    }
}
