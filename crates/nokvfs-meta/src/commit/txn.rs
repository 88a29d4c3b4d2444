//! A command being planned.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use nokvfs_types::{Event, MetaError, MountId, Timestamp, Version};

use super::command::MetadataCommand;
use super::flight::Flight;
use super::overlay::{Overlay, Versioned, start};
use crate::layout::{Content, Family, HistoryRecord, Key, KeyPrefix, MAX_VALUE, Record, Tree, open_content, tree_of};
use crate::lineage::{Contents, Lineage, Stored};
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
    staged: BTreeMap<Vec<u8>, Option<Content>>,
    command: MetadataCommand,
    now: Timestamp,
    full: Option<&'a str>,
    scope: Option<Scope>,
}

/// The volume that a command works in.
#[derive(Debug)]
struct Scope {
    lineage: Arc<Lineage>,
    /// What was written up to here stays as history when it changes.
    pinned: Version,
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
        Txn { store, flight, overlay, staged: BTreeMap::new(), command, now, full, scope: None }
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

    /// From now on records of the lineage's volume are read through it, and kept as history where a pin up to `pinned`
    /// may need them.
    pub(crate) fn enter(&mut self, lineage: Arc<Lineage>, pinned: Version) {
        self.scope = Some(Scope { lineage, pinned });
    }

    /// A record and the commit that wrote it, which may be this one.
    ///
    /// # Errors
    /// As [`Txn::get`].
    pub fn get_versioned<R: Record>(&mut self, key: &Key) -> MetaResult<Option<(R, Version)>> {
        check_family::<R>(key)?;
        let bytes = key.encode();
        if let Some(lineage) = self.lineage(R::FAMILY, &bytes) {
            let shown = lineage.find(self, &bytes)?;
            return shown.map(|shown| Ok((R::decode(&shown.payload)?, shown.version))).transpose();
        }
        if let Some(staged) = self.staged.get(&bytes) {
            let version = self.command.version;
            let payload = staged.as_ref().and_then(Content::record);
            return payload.map(|payload| Ok((R::decode(payload)?, version))).transpose();
        }
        let stored = self.before(&bytes)?;
        let record = stored.and_then(|(version, content)| content.record().map(|payload| (payload, *version)));
        record.map(|(payload, version)| Ok((R::decode(payload)?, version))).transpose()
    }

    /// The lineage, if records of this family and volume show through one.
    fn lineage(&self, family: Family, key: &[u8]) -> Option<Arc<Lineage>> {
        let scope = self.scope.as_ref().filter(|scope| scope.lineage.has_base() && family.is_versioned())?;
        (key[1..9] == scope.lineage.mount().0.to_be_bytes()).then(|| Arc::clone(&scope.lineage))
    }

    /// What is under a key before this command. It is fenced from then on.
    pub(crate) fn before(&mut self, key: &[u8]) -> MetaResult<Option<&Versioned>> {
        // A record that the batch wrote without reading it needs no guard.
        if self.overlay.get(key).is_none() {
            let (base, value) = self.read(tree_of(key), key)?;
            self.overlay.remember(key.to_vec(), base, value);
        }
        Ok(self.overlay.get(key).and_then(|slot| slot.value.as_ref()))
    }

    /// A record as it will be when this batch is applied, and what may be demanded of it then.
    fn read(&self, tree: Tree, key: &[u8]) -> MetaResult<(Base, Option<Versioned>)> {
        match self.flight.and_then(|flight| flight.change(key)) {
            // The engine gives it a token when it applies it. No other batch comes in between.
            Some(Change { value: Some(value), .. }) => Ok((Base::Unread, Some(open_content(key, value)?))),
            Some(_) => Ok((Base::Absent, None)),
            None => match read_whole(self.store, tree, key)? {
                Some(stored) => Ok((Base::Token(stored.token), Some(open_content(key, &stored.value)?))),
                None => Ok((Base::Absent, None)),
            },
        }
    }

    /// Stages a record.
    ///
    /// # Errors
    /// [`MetaError::Internal`] if it is larger than a record can be; as [`Txn::get`] where history is kept.
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
        let bytes = key.encode();
        if matches!(R::FAMILY, Family::Inode | Family::Chunk) {
            // What it named counts less from now on, also where it was only seen in a scan.
            self.before(&bytes)?;
        }
        self.keep(R::FAMILY, &bytes)?;
        self.staged.insert(bytes, Some(Content::Record(payload)));
        Ok(())
    }

    /// Stages a record's removal; it need not exist.
    ///
    /// # Errors
    /// As [`Txn::get`]: the record is read, so that a batch never removes what is not there.
    pub fn delete(&mut self, key: &Key) -> MetaResult<()> {
        let bytes = key.encode();
        self.before(&bytes)?;
        self.keep(key.family(), &bytes)?;
        let hidden = match self.lineage(key.family(), &bytes) {
            Some(lineage) => lineage.find_below(self, &bytes)?.is_some(),
            None => false,
        };
        self.staged.insert(bytes, hidden.then_some(Content::Removed));
        Ok(())
    }

    /// Stages the removal of what is under a key, without a trace. For records that nothing can show any more.
    ///
    /// # Errors
    /// As [`Txn::delete`].
    pub(crate) fn purge(&mut self, key: Vec<u8>) -> MetaResult<()> {
        self.before(&key)?;
        self.staged.insert(key, None);
        Ok(())
    }

    /// Stages history of a record that this command changes for the first time, if a pin may need it.
    fn keep(&mut self, family: Family, key: &[u8]) -> MetaResult<()> {
        let Some(Scope { lineage, pinned }) = &self.scope else { return Ok(()) };
        let (mount, pinned) = (lineage.mount(), *pinned);
        if pinned == Version(0)
            || !family.is_versioned()
            || key[1..9] != mount.0.to_be_bytes()
            || self.staged.contains_key(key)
        {
            return Ok(());
        }
        let version = self.command.version;
        let Some((was, content)) = self.before(key)?.filter(|(was, _)| *was <= pinned) else { return Ok(()) };
        let history = HistoryRecord { version: *was, content: content.clone() };
        let mut payload = Vec::with_capacity(128);
        history.encode(&mut payload);
        self.staged.insert(Key::History(key.to_vec(), version).encode(), Some(Content::Record(payload)));
        Ok(())
    }

    /// What this command has staged for keys of some kind, with what was there before as far as it was read.
    pub(crate) fn changes<'t>(
        &'t self,
        which: impl Fn(&[u8]) -> bool + 't,
    ) -> impl Iterator<Item = (&'t [u8], Option<&'t Content>, Option<&'t Content>)> {
        self.staged.iter().filter(move |(key, _)| which(key)).map(|(key, after)| {
            let before = self.overlay.get(key).and_then(|slot| slot.value.as_ref()).map(|(_, content)| content);
            (key.as_slice(), before, after.as_ref())
        })
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
        if let Some(lineage) = self.lineage(R::FAMILY, prefix.bytes()) {
            return lineage.scan::<R>(self, prefix, after.as_ref(), limit, |key, record, _| visit(key, record));
        }
        let after = prefix.start_after(after.as_ref());
        let found = self.contents(prefix.bytes(), after.as_deref(), limit)?;
        let count = found.len();
        for (key, _, content) in found {
            if let Content::Record(payload) = content {
                visit(Key::decode(&key)?, R::decode(&payload)?);
            }
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

    /// What the batch before, this one and this command wrote in a range; `None` where they deleted.
    fn own(&self, prefix: &[u8], after: Option<&[u8]>) -> MetaResult<BTreeMap<Vec<u8>, Option<Versioned>>> {
        let mut own = BTreeMap::new();
        for change in self.flight.iter().flat_map(|flight| flight.changes(prefix, after)) {
            let open = |value: &Vec<u8>| open_content(&change.key, value);
            own.insert(change.key.clone(), change.value.as_ref().map(open).transpose()?);
        }
        own.extend(
            self.overlay
                .range(prefix, after)
                .filter(|(_, slot)| slot.written)
                .map(|(key, slot)| (key.clone(), slot.value.clone())),
        );
        let staged = self.staged.range::<[u8], _>((start(prefix, after), Bound::Unbounded));
        let version = self.command.version;
        own.extend(
            staged
                .take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, content)| (key.clone(), content.clone().map(|content| (version, content)))),
        );
        Ok(own)
    }

    /// The command.
    pub(crate) fn finish(mut self) -> MetadataCommand {
        self.command.mutations = self.staged.into_iter().collect();
        self.command
    }
}

impl Contents for Txn<'_> {
    fn content(&mut self, key: &[u8]) -> MetaResult<Option<Versioned>> {
        if let Some(staged) = self.staged.get(key) {
            return Ok(staged.clone().map(|content| (self.command.version, content)));
        }
        self.before(key).map(Option::<&_>::cloned)
    }

    fn contents(&mut self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> MetaResult<Vec<Stored>> {
        let own = self.own(prefix, after)?;
        self.settle_store();
        // Each own record hides at most one of the store's: so many suffice to find `limit` live ones.
        let need = limit.saturating_add(own.len());
        let mut merged: BTreeMap<Vec<u8>, Option<Versioned>> = BTreeMap::new();
        self.store.scan_raw(tree_of(prefix), prefix, after, need, &mut |key, value, _| {
            if !own.contains_key(key) {
                merged.insert(key.to_vec(), Some(open_content(key, value)?));
            }
            Ok(true)
        })?;
        merged.extend(own);
        let live = merged.into_iter().filter_map(|(key, stored)| stored.map(|(at, content)| (key, at, content)));
        Ok(live.take(limit).collect())
    }
}
