//! Sessions: who may change a volume, exactly once per request, and what is left when they end.
//!
//! Owns: generations, slots, granted uploads, expiry, advisory locks, and which orphans are open.
//! Must not: know what a mutation means.
//! Invariants: a mutation is planned only while its session has its generation in the store; its answer is kept in its
//! slot in the same command; a client that took a session over finds the answers of the one before it by operation.

mod lifecycle;
mod locking;
mod locks;
mod orphans;
mod stamp;
mod uploads;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_types::{MetaError, MountId, OpId, SessionId, Stamp, Version, VolumeId};
use parking_lot::RwLock;

pub(crate) use locks::{By, Table as LockTable};
pub(crate) use orphans::{Orphans, WINDOW};

use crate::commit::Txn;
use crate::layout::{Key, KeyPrefix, SessionByMountRecord, SessionRecord, SlotRecord, VolumeRecord};
use crate::lineage::Lineage;
use crate::service::MetaResult;
use crate::store::{RawReads, ReadRecords};

/// Slots of a session.
pub(crate) const SLOTS: u16 = 256;
/// Rows of slots: a client finds the answers of the three before it.
const ROWS: u16 = 4;
/// All slots of a session.
const ALL_SLOTS: usize = SLOTS as usize * ROWS as usize;
/// The generation of a session that ended and whose uploads are still to be swept.
pub(crate) const ENDED: u32 = u32::MAX;
/// Most sessions of a server. Each takes about a kilobyte, after take-overs up to 768 answers of 100 bytes more.
const SESSIONS: usize = 65_536;

/// A live session, as this process knows it.
#[derive(Debug)]
pub(crate) struct Live {
    pub session: SessionId,
    pub mount: MountId,
    pub volume: VolumeId,
    pub generation: u32,
    pub read_only: bool,
    /// What it sees.
    pub lineage: Lineage,
    /// Answers of the generations before, by operation.
    pub inherited: HashMap<OpId, Bytes>,
    /// When the client last showed that it lives, in milliseconds of [`Sessions::clock`]; ahead of it in a grace.
    seen: AtomicU64,
}

/// The live sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    live: RwLock<HashMap<SessionId, Arc<Live>>>,
    start: Instant,
    expiry: Duration,
}

impl Sessions {
    pub(crate) fn new(expiry: Duration) -> Self {
        Sessions { live: RwLock::default(), start: Instant::now(), expiry }
    }

    fn clock(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Adds a session, or the next generation of one. It counts as seen now, or later by `grace`.
    pub(crate) fn insert(&self, mut live: Live, grace: Duration) {
        *live.seen.get_mut() = self.clock() + grace.as_millis() as u64;
        let mut sessions = self.live.write();
        // What was read from the store may be older than what came in meanwhile.
        if sessions.get(&live.session).is_none_or(|known| known.generation < live.generation) {
            sessions.insert(live.session, Arc::new(live));
        }
    }

    /// The session, if this is its generation. Its client lives.
    pub(crate) fn check(&self, session: SessionId, generation: u32) -> MetaResult<Arc<Live>> {
        let live = self.live.read().get(&session).cloned().ok_or(MetaError::SessionExpired(session.0))?;
        if live.generation > generation {
            return Err(MetaError::Superseded(live.generation));
        }
        if live.generation < generation {
            return Err(MetaError::SessionExpired(session.0));
        }
        live.seen.fetch_max(self.clock(), Ordering::Relaxed);
        Ok(live)
    }

    /// Whether this generation or a later one is known.
    pub(crate) fn has(&self, session: SessionId, generation: u32) -> bool {
        self.live.read().get(&session).is_some_and(|live| live.generation >= generation)
    }

    /// Removes a generation of a session.
    pub(crate) fn remove(&self, session: SessionId, generation: u32) {
        let mut live = self.live.write();
        if live.get(&session).is_some_and(|live| live.generation == generation) {
            live.remove(&session);
        }
    }

    /// Those that were silent for too long.
    pub(crate) fn expired(&self) -> Vec<Arc<Live>> {
        let now = self.clock();
        let expiry = self.expiry.as_millis() as u64;
        let silent = |live: &&Arc<Live>| now.saturating_sub(live.seen.load(Ordering::Relaxed)) > expiry;
        self.live.read().values().filter(silent).cloned().collect()
    }

    /// The sessions of a volume.
    pub(crate) fn of(&self, mount: MountId) -> Vec<SessionId> {
        self.live.read().values().filter(|live| live.mount == mount).map(|live| live.session).collect()
    }

    /// Those that see it as it is, and may have its orphans open.
    pub(crate) fn of_now(&self, mount: MountId) -> Vec<SessionId> {
        let of_now = |live: &&Arc<Live>| live.mount == mount && live.lineage.at().is_none();
        self.live.read().values().filter(of_now).map(|live| live.session).collect()
    }

    /// How many sessions each volume has.
    pub(crate) fn counts(&self) -> HashMap<MountId, u32> {
        let mut counts = HashMap::new();
        for live in self.live.read().values() {
            *counts.entry(live.mount).or_insert(0) += 1;
        }
        counts
    }

    /// All of them, for the table of locks.
    pub(crate) fn all(&self) -> Vec<By> {
        self.live.read().values().map(|live| live.locker()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.live.read().len()
    }
}

impl Live {
    /// As the table of locks knows it.
    pub(crate) fn locker(&self) -> By {
        By { place: (self.mount, self.lineage.at()), session: self.session }
    }

    /// What a stored session is in memory. Reads the answers that it inherited.
    pub(crate) fn load(
        store: &dyn RawReads,
        session: SessionId,
        record: &SessionRecord,
        volume: &VolumeRecord,
    ) -> MetaResult<Live> {
        let mut inherited = HashMap::new();
        if record.generation > 1 {
            store.scan::<SlotRecord>(&KeyPrefix::slots(session), None, ALL_SLOTS, |_, slot, _| {
                // Operation 0 is no operation of a kernel: nobody asks for it again.
                if slot.generation < record.generation && slot.op != OpId(0) {
                    inherited.insert(slot.op, slot.reply);
                }
            })?;
        }
        Ok(Live {
            session,
            mount: record.mount,
            volume: volume.id,
            generation: record.generation,
            read_only: record.read_only,
            lineage: Lineage::new(record.mount, volume, record.pin),
            inherited,
            seen: AtomicU64::new(0),
        })
    }
}

/// How many sessions hold a volume at a pin, or as it is.
pub(crate) fn sessions_at(txn: &mut Txn<'_>, mount: MountId, pin: Option<Version>) -> MetaResult<usize> {
    let mut sessions = Vec::new();
    txn.scan::<SessionByMountRecord>(&KeyPrefix::sessions_of(mount), None, SESSIONS, |key, _| {
        if let Key::SessionByMount(_, session) = key {
            sessions.push(session);
        }
    })?;
    let mut count = 0;
    for session in sessions {
        let record = txn.get::<SessionRecord>(&Key::Session(session))?;
        count += usize::from(record.is_some_and(|record| record.pin == pin));
    }
    Ok(count)
}

/// Where a slot's answer is kept. Generations take turns with rows of slots, so that a client that takes a session over
/// does not overwrite answers that it, or the one after it, may still have to look up.
fn slot_key(stamp: &Stamp) -> Key {
    Key::Slot(stamp.session, row_of(stamp.generation) + stamp.slot)
}

fn row_of(generation: u32) -> u16 {
    (generation % u32::from(ROWS)) as u16 * SLOTS
}
