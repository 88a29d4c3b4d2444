//! One request of an owner at a time: their order is that of the server's answers.

use std::collections::HashMap;
use std::sync::Arc;

use nokvfs_types::Lock;
use parking_lot::Mutex;
use tokio::sync::MutexGuard;

use super::held::{Holder, holder};

type Queue = (Arc<tokio::sync::Mutex<()>>, usize);

/// Owners that have a request under way, or wait for their own.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Holder, Queue>>);

impl Turns {
    pub(super) fn is_idle(&self, lock: &Lock) -> bool {
        !self.0.lock().contains_key(&holder(lock))
    }

    pub(super) fn enter(&self, lock: &Lock) -> Entered<'_> {
        let holder = holder(lock);
        let mut all = self.0.lock();
        let (queue, inside) = all.entry(holder).or_default();
        *inside += 1;
        Entered { turns: self, holder, queue: Arc::clone(queue) }
    }
}

/// A place in an owner's queue.
pub(super) struct Entered<'t> {
    turns: &'t Turns,
    holder: Holder,
    queue: Arc<tokio::sync::Mutex<()>>,
}

impl Entered<'_> {
    /// Waits for the owner's requests before this one.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.queue.lock().await
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut all = self.turns.0.lock();
        if let Some((_, inside)) = all.get_mut(&self.holder) {
            *inside -= 1;
            if *inside == 0 {
                all.remove(&self.holder);
            }
        }
    }
}
