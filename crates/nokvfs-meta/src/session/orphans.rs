//! Which orphans may be open: soft state, asked of every session of the volume.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use nokvfs_types::{Heartbeat, InodeId, MountId, SessionId};
use parking_lot::Mutex;

/// Orphans of a volume that are worked on at a time, about 100 bytes each; more wait in the store.
pub(crate) const WINDOW: usize = 16_384;
/// Most of one question.
const ASK: usize = 1024;

/// The orphans of all volumes.
#[derive(Debug, Default)]
pub(crate) struct Orphans(Mutex<HashMap<MountId, Volume>>);

#[derive(Debug, Default)]
struct Volume {
    orphans: BTreeMap<InodeId, Orphan>,
    /// How far each session was asked.
    asked: HashMap<SessionId, InodeId>,
    /// The store has more than the window.
    more: bool,
}

#[derive(Debug, Default)]
struct Orphan {
    /// Sessions that answered that they do not have it open.
    closed: BTreeSet<SessionId>,
    reclaiming: bool,
}

impl Orphans {
    /// An inode lost its last link.
    pub(crate) fn add(&self, mount: MountId, inode: InodeId) {
        let mut volumes = self.0.lock();
        let volume = volumes.entry(mount).or_default();
        if volume.orphans.len() >= WINDOW && !volume.orphans.contains_key(&inode) {
            volume.more = true;
        } else {
            volume.orphans.entry(inode).or_default();
        }
    }

    /// A session's answers.
    pub(crate) fn answer(&self, mount: MountId, session: SessionId, beat: &Heartbeat) {
        let mut volumes = self.0.lock();
        let Some(volume) = volumes.get_mut(&mount) else { return };
        for inode in &beat.closed {
            if let Some(orphan) = volume.orphans.get_mut(inode) {
                orphan.closed.insert(session);
            }
        }
        for inode in &beat.open {
            if let Some(orphan) = volume.orphans.get_mut(inode) {
                orphan.closed.remove(&session);
            }
        }
    }

    /// What to ask a session: those that it did not answer to be closed, in turn.
    pub(crate) fn ask(&self, mount: MountId, session: SessionId) -> Vec<InodeId> {
        let mut volumes = self.0.lock();
        let Some(volume) = volumes.get_mut(&mount) else { return Vec::new() };
        let from = volume.asked.get(&session).copied().unwrap_or_default();
        let after = volume.orphans.range((Bound::Excluded(from), Bound::Unbounded));
        let before = volume.orphans.range(..=from);
        let asked: Vec<_> = after
            .chain(before)
            .filter(|(_, orphan)| !orphan.reclaiming && !orphan.closed.contains(&session))
            .map(|(inode, _)| *inode)
            .take(ASK)
            .collect();
        match asked.last() {
            Some(last) => volume.asked.insert(session, *last),
            None => volume.asked.remove(&session),
        };
        asked
    }

    /// A session may be about to open an orphan, whatever it answered. `false`: too late, it is being removed.
    pub(crate) fn touch(&self, mount: MountId, session: SessionId, inode: InodeId) -> bool {
        let mut volumes = self.0.lock();
        match volumes.get_mut(&mount).and_then(|volume| volume.orphans.get_mut(&inode)) {
            Some(orphan) if orphan.reclaiming => false,
            Some(orphan) => {
                orphan.closed.remove(&session);
                true
            }
            None => true,
        }
    }

    /// A session ended, or another client took it over: what it answered holds no more.
    pub(crate) fn forget_session(&self, mount: MountId, session: SessionId) {
        let mut volumes = self.0.lock();
        let Some(volume) = volumes.get_mut(&mount) else { return };
        volume.asked.remove(&session);
        for orphan in volume.orphans.values_mut() {
            orphan.closed.remove(&session);
        }
    }

    /// At most `limit` orphans that none of the sessions has open. They count as being removed from now on.
    pub(crate) fn take_closed(&self, mount: MountId, sessions: &[SessionId], limit: usize) -> Vec<InodeId> {
        let mut volumes = self.0.lock();
        let Some(volume) = volumes.get_mut(&mount) else { return Vec::new() };
        let closed = volume
            .orphans
            .iter_mut()
            .filter(|(_, orphan)| !orphan.reclaiming && sessions.iter().all(|session| orphan.closed.contains(session)));
        closed
            .take(limit)
            .map(|(inode, orphan)| {
                orphan.reclaiming = true;
                *inode
            })
            .collect()
    }

    /// A removal ended; an orphan that is still there is asked for again.
    pub(crate) fn reclaimed(&self, mount: MountId, inode: InodeId, gone: bool) {
        let mut volumes = self.0.lock();
        let Some(volume) = volumes.get_mut(&mount) else { return };
        if gone {
            volume.orphans.remove(&inode);
        } else if let Some(orphan) = volume.orphans.get_mut(&inode) {
            orphan.reclaiming = false;
        }
    }

    /// An inode may have lost its last link and nobody heard of it: the store is to be asked.
    pub(crate) fn missed(&self, mount: MountId) {
        self.0.lock().entry(mount).or_default().more = true;
    }

    /// Volumes that have some.
    pub(crate) fn volumes(&self) -> Vec<MountId> {
        self.0
            .lock()
            .iter()
            .filter(|(_, volume)| volume.more || !volume.orphans.is_empty())
            .map(|(mount, _)| *mount)
            .collect()
    }

    /// Whether the store has more of a volume and the window has room. Taken back by asking.
    pub(crate) fn take_more(&self, mount: MountId) -> bool {
        let mut volumes = self.0.lock();
        let Some(volume) = volumes.get_mut(&mount) else { return false };
        volume.more && volume.orphans.len() <= WINDOW / 2 && std::mem::take(&mut volume.more)
    }

    /// Forgets a deleted volume.
    pub(crate) fn forget(&self, mount: MountId) {
        self.0.lock().remove(&mount);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().values().map(|volume| volume.orphans.len()).sum()
    }
}
