//! A batch on its way into the store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::store::{Batch, Change, MetaStore};

/// How often a scan looks whether the batch is applied before it sleeps between two looks: applying takes some tens of
/// microseconds a command.
const SPINS: u32 = 100;
const SPIN_PAUSE: Duration = Duration::from_micros(50);

/// What is planned meanwhile builds on the batch's changes, whether the store shows them yet or not.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Its changes are in the order of their keys.
    pub batch: Batch,
    landed: AtomicBool,
}

impl Flight {
    pub(crate) fn new(batch: Batch) -> Self {
        debug_assert!(batch.changes.is_sorted_by_key(|change| &change.key));
        Flight { batch, landed: AtomicBool::new(false) }
    }

    /// It is written, or was not.
    pub(crate) fn land(&self) {
        self.landed.store(true, Ordering::Release);
    }

    /// What it does to a key.
    pub(crate) fn change(&self, key: &[u8]) -> Option<&Change> {
        let changes = &self.batch.changes;
        changes.binary_search_by(|change| change.key.as_slice().cmp(key)).ok().map(|at| &changes[at])
    }

    /// What it does to keys with this prefix after one.
    pub(crate) fn changes<'f>(&'f self, prefix: &'f [u8], after: Option<&[u8]>) -> impl Iterator<Item = &'f Change> {
        let changes = &self.batch.changes;
        let first = changes.partition_point(|change| {
            change.key.as_slice() < prefix || after.is_some_and(|after| change.key.as_slice() <= after)
        });
        changes[first..].iter().take_while(move |change| change.key.starts_with(prefix))
    }

    /// Waits until the store shows all of it: the engine moves records while it applies a batch, and a scan could miss
    /// some.
    pub(crate) fn wait_applied(&self, store: &dyn MetaStore) {
        let mut tries = 0;
        while !self.landed.load(Ordering::Acquire)
            // The engine's journal moves on when the batch is applied, before it is durable.
            && !store.journal().is_ok_and(|(_, tail)| tail.sequence >= self.batch.envelope.current.sequence)
        {
            tries += 1;
            if tries < SPINS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(SPIN_PAUSE);
            }
        }
    }
}
