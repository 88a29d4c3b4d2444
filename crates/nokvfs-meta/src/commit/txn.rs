//! A command being planned.

use std::collections::BTreeMap;
use std::ops::Bound;

use nokvfs_types::{Event, MetaError, MountId, Timestamp, Version};

use super::command::MetadataCommand;
use super::flight::Flight;
use super::overlay::{Overlay, Versioned, start};
use crate::layout::{Key, KeyPrefix, MAX_VALUE, Record, Tree, open_value};
use crate::service::MetaResult;
use crate::store::{Base, Change, MetaStore, check_family, check_prefix, read_whole};

/// Sealing adds so many bytes to a payload.
const SEAL: usize = 13;

/// Reads the store as the batch that is being written and the commands before it in its own leave it, and its own writes; stages writes. What it read
/// is fenced: the batch is applied only to a store that still has it. If planning ends with an error, nothing of it
/// stays.
#[derive(Debug)]
pub struct Txn<'a> {
    store: &'a dyn MetaStore,
    flight: Option<&'a Flight>,
    overlay: &'a mut Overlay,
    staged: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    command: MetadataCommand,
    now: Timestamp,
    full: Option<&'a str>,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(
        store: &'a dyn MetaStore,
        flight: Option<&'a Flight>,
        overlay: &'a mut Overlay,
        version: Version,
        now: Timestamp,
        full: Option<&'a str>,
    ) -> Self {
        let command = MetadataCommand { version, ..MetadataCommand::default() };
        Txn { store, flight, overlay, staged: BTreeMap::new(), command, now, full }
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
        let (base, value) = self.read(R::FAMILY.tree(), &bytes)?;
        let record = value.as_ref().map(|(version, payload)| Ok((R::decode(payload)?, *version))).transpose()?;
        self.overlay.remember(bytes, base, value);
        Ok(record)
    }

    /// A record as it will be when this batch is applied, and what may be demanded of it then.
    fn read(&self, tree: Tree, key: &[u8]) -> MetaResult<(Base, Option<Versioned>)> {
        let open = |value: &[u8]| open_value(key, value).map(|(version, payload)| (version, payload.to_vec()));
        match self.flight.and_then(|flight| flight.change(key)) {
            // The engine gives it a token when it applies it. No other batch comes in between.
            Some(Change { value: Some(value), .. }) => Ok((Base::Unread, Some(open(value)?))),
            Some(_) => Ok((Base::Absent, None)),
            None => match read_whole(self.store, tree, key)? {
                Some(stored) => Ok((Base::Token(stored.token), Some(open(&stored.value)?))),
                None => Ok((Base::Absent, None)),
            },
        }
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
            let (base, value) = self.read(key.family().tree(), &bytes)?;
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
        let own = self.own(prefix.bytes(), after.as_deref())?;
        self.settle_store();
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
        let own = self.own(prefix.bytes(), after.as_deref())?;
        self.settle_store();
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

    fn settle_store(&self) {
        if let Some(flight) = self.flight {
            flight.wait_applied(self.store);
        }
    }

    /// What the batch before, this one and this command wrote in a range: payloads, `None` where they deleted.
    fn own(&self, prefix: &[u8], after: Option<&[u8]>) -> MetaResult<BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        let mut own = BTreeMap::new();
        for change in self.flight.iter().flat_map(|flight| flight.changes(prefix, after)) {
            let open = |value: &Vec<u8>| open_value(&change.key, value).map(|(_, payload)| payload.to_vec());
            own.insert(change.key.clone(), change.value.as_ref().map(open).transpose()?);
        }
        own.extend(
            self.overlay
                .range(prefix, after)
                .filter(|(_, slot)| slot.written)
                .map(|(key, slot)| (key.clone(), slot.value.as_ref().map(|(_, payload)| payload.clone()))),
        );
        let staged = self.staged.range::<[u8], _>((start(prefix, after), Bound::Unbounded));
        own.extend(
            staged.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, payload)| (key.clone(), payload.clone())),
        );
        Ok(own)
    }

    /// The command.
    pub(crate) fn finish(mut self) -> MetadataCommand {
        self.command.mutations = self.staged.into_iter().collect();
        self.command
    }
}
