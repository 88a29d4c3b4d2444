//! What the batch being built has read and written.

use std::collections::BTreeMap;
use std::ops::Bound;

use nokvfs_types::{Event, MountId, Version};

use super::command::MetadataCommand;
use crate::layout::{Content, Tree, seal_value, tree_of};
use crate::store::{Base, Change, Guard};

/// What a commit left under a key.
pub(crate) type Versioned = (Version, Content);

/// A record in the overlay.
#[derive(Debug)]
pub(crate) struct Slot {
    /// As the store has it.
    pub base: Base,
    /// As the batch has it.
    pub value: Option<Versioned>,
    /// The batch changed it.
    pub written: bool,
}

/// Records by key; the key's first byte tells the tree.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    slots: BTreeMap<Vec<u8>, Slot>,
    empty: Vec<(Tree, Vec<u8>)>,
    events: Vec<(Version, MountId, Event)>,
    cost: usize,
}

impl Overlay {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.slots.get(key)
    }

    /// Keeps what the store has.
    pub(crate) fn remember(&mut self, key: Vec<u8>, base: Base, value: Option<Versioned>) {
        self.slots.insert(key, Slot { base, value, written: false });
    }

    /// Records with this prefix after a key, in order.
    pub(crate) fn range<'o>(
        &'o self,
        prefix: &'o [u8],
        after: Option<&'o [u8]>,
    ) -> impl Iterator<Item = (&'o Vec<u8>, &'o Slot)> {
        self.slots
            .range::<[u8], _>((start(prefix, after), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Takes a command's writes over.
    pub(crate) fn absorb(&mut self, command: MetadataCommand) {
        self.cost += command.cost();
        for (key, content) in command.mutations {
            let value = content.map(|content| (command.version, content));
            match self.slots.get_mut(&key) {
                Some(slot) => {
                    slot.value = value;
                    slot.written = true;
                }
                None => {
                    self.slots.insert(key, Slot { base: Base::Unread, value, written: true });
                }
            }
        }
        self.empty.extend(command.empty);
        self.events.extend(command.events.into_iter().map(|(mount, event)| (command.version, mount, event)));
    }

    /// Bytes of all commands that it took. Rewrites of a record count each time: an upper bound.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    /// The batch: guards on all that was read, one change per changed record, the events.
    pub(crate) fn finish(self) -> Finished {
        let mut guards: Vec<Guard> =
            self.empty.into_iter().map(|(tree, prefix)| Guard::PrefixEmpty { tree, prefix }).collect();
        let mut changes = Vec::with_capacity(self.slots.len());
        for (key, slot) in self.slots {
            let tree = tree_of(&key);
            if !slot.written || (slot.value.is_none() && slot.base == Base::Absent) {
                guards.push(Guard::Record { tree, key, base: slot.base });
                continue;
            }
            let value = slot.value.map(|(version, content)| seal_value(&key, version, &content));
            changes.push(Change { tree, key, base: slot.base, value });
        }
        Finished { guards, changes, events: self.events }
    }
}

/// A finished overlay.
pub(crate) struct Finished {
    pub guards: Vec<Guard>,
    pub changes: Vec<Change>,
    pub events: Vec<(Version, MountId, Event)>,
}

/// The lower bound of a scan.
pub(crate) fn start<'a>(prefix: &'a [u8], after: Option<&'a [u8]>) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}
