//! Who may hold locks through which handle, so that they go with it.

use std::collections::{HashMap, HashSet};

use nokvfs_types::{InodeId, LockOwner};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Owners of POSIX locks by the handle they used, and files whose locks are being given back. Bounded by the open files
/// of the mount's users.
///
/// The kernel gives POSIX locks back at each close of a process, with a flush that names the owner. What is left when a
/// handle goes is of `F_OFD_SETLK`, whose owner no flush names, or of a request that a close overtook.
#[derive(Debug, Default)]
pub(crate) struct Lockers {
    owners: Mutex<HashMap<InodeId, HashSet<(u64, LockOwner)>>>,
    leaving: Mutex<HashMap<InodeId, usize>>,
    left: Notify,
}

impl Lockers {
    /// An owner is about to lock something through a handle.
    pub(crate) fn add(&self, inode: InodeId, handle: u64, owner: LockOwner) {
        self.owners.lock().entry(inode).or_default().insert((handle, owner));
    }

    /// An owner has nothing locked in a file any more.
    pub(crate) fn forget(&self, inode: InodeId, owner: LockOwner) {
        self.retain(inode, |(_, other)| *other != owner);
    }

    /// Owners that may have something locked through a handle that goes.
    pub(crate) fn take(&self, inode: InodeId, handle: u64) -> Vec<LockOwner> {
        let mut taken = Vec::new();
        self.retain(inode, |(other, owner)| {
            if *other == handle {
                taken.push(*owner);
            }
            *other != handle
        });
        taken
    }

    fn retain(&self, inode: InodeId, which: impl FnMut(&(u64, LockOwner)) -> bool) {
        let mut all = self.owners.lock();
        if let Some(owners) = all.get_mut(&inode) {
            owners.retain(which);
            if owners.is_empty() {
                all.remove(&inode);
            }
        }
    }

    /// Locks of a file are being given back, until [`Lockers::has_left`].
    pub(crate) fn leaves(&self, inode: InodeId) {
        *self.leaving.lock().entry(inode).or_default() += 1;
    }

    /// They are.
    pub(crate) fn has_left(&self, inode: InodeId) {
        let mut leaving = self.leaving.lock();
        if let Some(count) = leaving.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                leaving.remove(&inode);
            }
        }
        drop(leaving);
        self.left.notify_waiters();
    }

    /// Waits until no locks of a file are being given back: close(2) returns before the handle is released, and whoever
    /// asks for a lock after it must not find that of the closed one.
    pub(crate) async fn settled(&self, inode: InodeId) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if !self.leaving.lock().contains_key(&inode) {
                return;
            }
            left.await;
        }
    }
}
