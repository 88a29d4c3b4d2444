//! A command being planned.

use std::collections::BTreeMap;
use std::ops::Bound;

use nokvfs_types::{Event, MetaError, MountId, Timestamp, Version};

use super::command::MetadataCommand;
use super::overlay::{Overlay, start};
use crate::layout::{Key, KeyPrefix, MAX_VALUE, Record, open_value};
use crate::service::MetaResult;
use crate::store::{Base, MetaStore, check_family, check_prefix, read_whole};

/// Sealing adds so many bytes to a payload.
const SEAL: usize = 13;

/// Reads the store as the commands before it in the batch leave it, and its own writes; stages writes. What it read
/// is fenced: the batch is applied only to a store that still has it. If planning ends with an error, nothing of it
/// stays.
#[derive(Debug)]
pub struct Txn<'a> {
    store: &'a dyn MetaStore,
    overlay: &'a mut Overlay,
    staged: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    command: MetadataCommand,
    now: Timestamp,
    full: Option<&'a str>,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(
        store: &'a dyn MetaStore,
        overlay: &'a mut Overlay,
        version: Version,
        now: Timestamp,
        full: Option<&'a str>,
    ) -> Self {
        let command = MetadataCommand { version, ..MetadataCommand::default() };
        Txn { store, overlay, staged: BTreeMap::new(), command, now, full }
    }

    /// The commit that this becomes. Greater than that of every command before it.
    pub fn version(&self) -> Version {
        self.command.version
    }

    /// The server's clock, the same throughout the command.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// To be asked before records are added that stay.
    ///
    /// # Errors
    /// [`MetaError::NoSpace`] names the limit to raise.
    pub fn check_room(&self) -> MetaResult<()> {
        match self.full {
            None => Ok(()),
            Some(reason) => Err(MetaError::NoSpace(reason.to_owned())),
        }
    }

    /// A record.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] if it is damaged; what the store answers.
    pub fn get<R: Record>(&mut self, key: &Key) -> MetaResult<Option<R>> {
        Ok(self.get_versioned(key)?.map(|(record, _)| record))
    }

    /// A record and the commit that wrote it, which may be this one.
    ///
    /// # Errors
    /// As [`Txn::get`].
    pub fn get_versioned<R: Record>(&mut self, key: &Key) -> MetaResult<Option<(R, Version)>> {
        check_family::<R>(key)?;
        let bytes = key.encode();
        if let Some(staged) = self.staged.get(&bytes) {
            let version = self.command.version;
            return staged.as_deref().map(|payload| Ok((R::decode(payload)?, version))).transpose();
        }
        // A record that the batch wrote without reading it needs no guard.
        if let Some(slot) = self.overlay.get(&bytes) {
            return slot.value.as_ref().map(|(version, payload)| Ok((R::decode(payload)?, *version))).transpose();
        }
        let Some(stored) = read_whole(self.store, R::FAMILY.tree(), &bytes)? else {
            self.overlay.remember(bytes, Base::Absent, None);
            return Ok(None);
        };
        let (version, payload) = open_value(&bytes, &stored.value)?;
        let record = R::decode(payload)?;
        let value = Some((version, payload.to_vec()));
        self.overlay.remember(bytes, Base::Token(stored.token), value);
        Ok(Some((record, version)))
    }

    /// Stages a record.
    ///
    /// # Errors
    /// [`MetaError::Internal`] if it is larger than a record can be.
    pub fn put<R: Record>(&mut self, key: &Key, record: &R) -> MetaResult<()> {
        check_family::<R>(key)?;
        let mut payload = Vec::with_capacity(128);
        record.encode(&mut payload);
        if payload.len() + SEAL > MAX_VALUE {
            return Err(MetaError::Internal(format!(
                "{key:?} would be {} bytes, a record holds {}; this is a bug, report it",
                payload.len(),
                MAX_VALUE - SEAL
            )));
        }
        self.staged.insert(key.encode(), Some(payload));
        Ok(())
    }

    /// Stages a record's removal; it need not exist.
    ///
    /// # Errors
    /// As [`Txn::get`]: the record is read, so that a batch never removes what is not there.
    pub fn delete(&mut self, key: &Key) -> MetaResult<()> {
        let bytes = key.encode();
        if self.overlay.get(&bytes).is_none() {
            let stored = read_whole(self.store, key.family().tree(), &bytes)?;
            let (base, value) = match &stored {
                None => (Base::Absent, None),
                Some(stored) => {
                    let (version, payload) = open_value(&bytes, &stored.value)?;
                    (Base::Token(stored.token), Some((version, payload.to_vec())))
                }
            };
            self.overlay.remember(bytes.clone(), base, value);
        }
        self.staged.insert(bytes, None);
        Ok(())
    }

    /// Tells watchers, once the command is durable.
    pub fn emit(&mut self, mount: MountId, event: Event) {
        self.command.events.push((mount, event));
    }

    /// Visits at most `limit` records of a prefix after a key, in order, and answers how many there were; fewer than
    /// `limit`: there are no more. The records are not fenced, only those that are read or emptiness that is asked for.
    ///
    /// # Errors
    /// As [`Txn::get`].
    pub fn scan<R: Record>(
        &mut self,
        prefix: &KeyPrefix,
        after: Option<Key>,
        limit: usize,
        mut visit: impl FnMut(Key, R),
    ) -> MetaResult<usize> {
        check_prefix::<R>(prefix)?;
        let after = prefix.start_after(after.as_ref());
        let own = self.own(prefix.bytes(), after.as_deref());
        // Each own record hides at most one of the store's: so many suffice to find `limit` live ones.
        let need = limit.saturating_add(own.len());
        let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        self.store.scan_raw(R::FAMILY.tree(), prefix.bytes(), after.as_deref(), need, &mut |key, value, _| {
            if !own.contains_key(key) {
                let (_, payload) = open_value(key, value)?;
                merged.insert(key.to_vec(), Some(payload.to_vec()));
            }
            Ok(true)
        })?;
        merged.extend(own);
        let mut count = 0;
        for (key, payload) in
            merged.iter().filter_map(|(key, payload)| payload.as_ref().map(|payload| (key, payload))).take(limit)
        {
            visit(Key::decode(key)?, R::decode(payload)?);
            count += 1;
        }
        Ok(count)
    }

    /// Whether nothing has this prefix. If so it is fenced.
    ///
    /// # Errors
    /// As [`Txn::get`].
    pub fn is_empty(&mut self, prefix: &KeyPrefix) -> MetaResult<bool> {
        let after = prefix.start_after(None);
        let own = self.own(prefix.bytes(), after.as_deref());
        if own.values().any(Option::is_some) {
            return Ok(false);
        }
        let tree = prefix.family().tree();
        let (mut any, mut live) = (false, false);
        self.store.scan_raw(tree, prefix.bytes(), after.as_deref(), own.len() + 1, &mut |key, _, _| {
            any = true;
            live |= !own.contains_key(key);
            Ok(!live)
        })?;
        if !any && after.is_none() {
            self.command.empty.push((tree, prefix.bytes().to_vec()));
        }
        Ok(!live)
    }

    /// What the batch and this command wrote in a range: payloads, `None` where they deleted.
    fn own(&self, prefix: &[u8], after: Option<&[u8]>) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let mut own: BTreeMap<_, _> = self
            .overlay
            .range(prefix, after)
            .filter(|(_, slot)| slot.written)
            .map(|(key, slot)| (key.clone(), slot.value.as_ref().map(|(_, payload)| payload.clone())))
            .collect();
        let staged = self.staged.range::<[u8], _>((start(prefix, after), Bound::Unbounded));
        own.extend(
            staged.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, payload)| (key.clone(), payload.clone())),
        );
        own
    }

    /// The command.
    pub(crate) fn finish(mut self) -> MetadataCommand {
        self.command.mutations = self.staged.into_iter().collect();
        self.command
    }
}
