//! Slots of a session, as its client gives them out: each carries one mutation at a time.

use std::time::Instant;

use nokvfs_types::{MetaError, OpId, SessionId, Stamp};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::service::MetaResult;

/// The slots that a client may use.
#[derive(Debug)]
pub struct Slots {
    session: SessionId,
    generation: u32,
    free: Mutex<Vec<(u16, u64)>>,
    permits: Semaphore,
}

/// A slot in use; free again, with the next sequence, once dropped. That is right for a request without an answer too:
/// the next one in the slot has a newer sequence, after which the server refuses the old one.
#[derive(Debug)]
pub struct Slot<'a> {
    slots: &'a Slots,
    number: u16,
    sequence: u64,
    _permit: SemaphorePermit<'a>,
}

impl Slots {
    /// The slots of a session that was granted `count` of them.
    pub fn new(session: SessionId, generation: u32, count: u16) -> Self {
        Slots {
            session,
            generation,
            free: Mutex::new((0..count).rev().map(|number| (number, 1)).collect()),
            permits: Semaphore::new(usize::from(count)),
        }
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// [`MetaError::Deadline`] if none is free until then.
    pub async fn take(&self, deadline: Instant) -> MetaResult<Slot<'_>> {
        let busy = || MetaError::Deadline("all slots of the session are in use".into());
        let permit = tokio::time::timeout_at(deadline.into(), self.permits.acquire()).await.map_err(|_| busy())?;
        let permit = permit.map_err(|_| busy())?;
        let (number, sequence) = self.free.lock().pop().ok_or_else(busy)?;
        Ok(Slot { slots: self, number, sequence, _permit: permit })
    }
}

impl Slot<'_> {
    /// The stamp of the slot's request.
    pub fn stamp(&self, op: OpId) -> Stamp {
        Stamp {
            session: self.slots.session,
            generation: self.slots.generation,
            slot: self.number,
            sequence: self.sequence,
            op,
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // Before the permit goes, which is dropped after this.
        self.slots.free.lock().push((self.number, self.sequence + 1));
    }
}
