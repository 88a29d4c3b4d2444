//! The store as a sorted map in memory: says what Holt's facade must do, and serves tests that need no disk.

use std::collections::BTreeMap;
use std::ops::Bound;

use nokvfs_types::MetaError;
use parking_lot::Mutex;

use super::{Anchor, Base, Batch, CommitError, Envelope, Guard, MetaStore, RawReads, Stored, Usage, Visitor};
use crate::layout::Tree;
use crate::service::MetaResult;

/// The model. Nothing of it survives the process.
#[derive(Debug)]
pub struct ModelStore {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    trees: [BTreeMap<Vec<u8>, Stored>; Tree::ALL.len()],
    writes: u64,
    checkpoint: Anchor,
    tail: Anchor,
    envelopes: Vec<Envelope>,
}

impl Default for ModelStore {
    fn default() -> Self {
        let start = Anchor { sequence: 0, digest: [0; 32] };
        let state =
            State { trees: Default::default(), writes: 0, checkpoint: start, tail: start, envelopes: Vec::new() };
        ModelStore { state: Mutex::new(state) }
    }
}

impl State {
    fn holds(&self, tree: Tree, key: &[u8], base: Base) -> bool {
        let found = self.trees[tree as usize].get(key);
        match base {
            Base::Unread => true,
            Base::Absent => found.is_none(),
            Base::Token(token) => found.is_some_and(|stored| stored.token == token),
        }
    }

    fn has_prefix(&self, tree: Tree, prefix: &[u8]) -> bool {
        let mut range = self.trees[tree as usize].range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        range.next().is_some_and(|(key, _)| key.starts_with(prefix))
    }
}

impl RawReads for State {
    fn get_raw(&self, tree: Tree, key: &[u8]) -> MetaResult<Option<Stored>> {
        Ok(self.trees[tree as usize].get(key).cloned())
    }

    fn scan_raw(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        visit: &mut Visitor<'_>,
    ) -> MetaResult<()> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = self.trees[tree as usize].range::<[u8], _>((start, Bound::Unbounded));
        for (key, stored) in range.take_while(|(key, _)| key.starts_with(prefix)).take(limit) {
            if !visit(key, &stored.value, stored.token)? {
                break;
            }
        }
        Ok(())
    }
}

impl RawReads for ModelStore {
    fn get_raw(&self, tree: Tree, key: &[u8]) -> MetaResult<Option<Stored>> {
        self.state.lock().get_raw(tree, key)
    }

    fn scan_raw(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        visit: &mut Visitor<'_>,
    ) -> MetaResult<()> {
        self.state.lock().scan_raw(tree, prefix, after, limit, visit)
    }
}

impl MetaStore for ModelStore {
    fn view_raw(&self, read: &mut dyn FnMut(&dyn RawReads) -> MetaResult<()>) -> MetaResult<()> {
        read(&*self.state.lock())
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        let mut state = self.state.lock();
        if batch.changes.is_empty() {
            return Err(CommitError::Refused("a batch without changes".into()));
        }
        if batch.envelope.previous != state.tail || batch.envelope.current.sequence != state.tail.sequence + 1 {
            return Err(CommitError::Refused("the envelope does not follow the journal's end".into()));
        }
        let guarded = batch.guards.iter().all(|guard| match guard {
            Guard::Record { tree, key, base } => state.holds(*tree, key, *base),
            Guard::PrefixEmpty { tree, prefix } => !state.has_prefix(*tree, prefix),
        });
        if !guarded || !batch.changes.iter().all(|change| state.holds(change.tree, &change.key, change.base)) {
            return Err(CommitError::Guard);
        }
        for change in &batch.changes {
            state.writes += 1;
            let token = state.writes;
            let tree = &mut state.trees[change.tree as usize];
            match &change.value {
                Some(value) => tree.insert(change.key.clone(), Stored { value: value.clone(), token }),
                None => tree.remove(&change.key),
            };
        }
        state.tail = batch.envelope.current;
        state.envelopes.push(batch.envelope.clone());
        Ok(())
    }

    fn checkpoint(&self) -> MetaResult<()> {
        let mut state = self.state.lock();
        state.checkpoint = state.tail;
        state.envelopes.clear();
        Ok(())
    }

    fn reopen(&self) -> MetaResult<()> {
        self.checkpoint()
    }

    fn journal(&self) -> MetaResult<(Anchor, Anchor)> {
        let state = self.state.lock();
        Ok((state.checkpoint, state.tail))
    }

    fn envelopes_after(&self, anchor: Anchor) -> MetaResult<Vec<Envelope>> {
        let state = self.state.lock();
        if anchor.sequence < state.checkpoint.sequence {
            return Err(MetaError::Internal("the journal position is before the last checkpoint".into()));
        }
        Ok(state.envelopes.iter().filter(|envelope| envelope.previous.sequence >= anchor.sequence).cloned().collect())
    }

    fn usage(&self) -> MetaResult<Usage> {
        Ok(Usage { needed: 0, dirty: 0, budget: u64::MAX, disk_free: u64::MAX, wal: 0 })
    }
}
