//! What a volume shows: its own records, and below them those of the volumes that it was cloned from, each as it was at
//! the moment of the clone.
//!
//! A record at a moment is the current one if it is not newer, else the first that was superseded after the moment if
//! that one is not newer. Where a level has nothing, the next one down shows; a [`Content::Removed`] hides it.

use std::collections::VecDeque;

use nokvfs_types::{MountId, Origin, UploadId, Version, VolumeId};

use crate::layout::{Content, HistoryRecord, Key, KeyPrefix, Record, VolumeRecord, open_content, tree_of};
use crate::service::MetaResult;
use crate::store::{RawReads, ReadRecords, read_whole};

/// Records that one source of a scan reads at a time.
const PAGE: usize = 256;

/// Reads contents by the bytes of their keys: a store, a view, or a command that is being planned.
pub(crate) trait Contents {
    /// What is stored under a key.
    fn content(&mut self, key: &[u8]) -> MetaResult<Option<(Version, Content)>>;

    /// At most `limit` keys with a prefix after one, in order.
    fn contents(&mut self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> MetaResult<Vec<Stored>>;
}

/// A key and what is stored under it.
pub(crate) type Stored = (Vec<u8>, Version, Content);

/// Any store.
struct Plain<'r>(&'r dyn RawReads);

impl Contents for Plain<'_> {
    fn content(&mut self, key: &[u8]) -> MetaResult<Option<(Version, Content)>> {
        read_whole(self.0, tree_of(key), key)?.map(|stored| open_content(key, &stored.value)).transpose()
    }

    fn contents(&mut self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> MetaResult<Vec<Stored>> {
        let mut found = Vec::new();
        self.0.scan_raw(tree_of(prefix), prefix, after, limit, &mut |key, value, _| {
            let (version, content) = open_content(key, value)?;
            found.push((key.to_vec(), version, content));
            Ok(true)
        })?;
        Ok(found)
    }
}

/// A volume and what it builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// The volume first; at most [`nokvfs_types::MAX_BASES`] below.
    levels: Vec<Level>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    mount: MountId,
    /// Only what was there then; `None`: what is.
    at: Option<Version>,
    first_upload: UploadId,
    volume: VolumeId,
}

/// A record that shows.
pub(crate) struct Shown {
    pub version: Version,
    pub payload: Vec<u8>,
}

impl Lineage {
    /// What a volume shows, now or at a pin of it.
    pub(crate) fn new(mount: MountId, record: &VolumeRecord, at: Option<Version>) -> Self {
        let own = Level { mount, at, first_upload: record.first_upload, volume: record.id };
        let bases = record.bases.iter().map(|base| Level {
            mount: base.mount,
            at: Some(base.version),
            first_upload: base.first_upload,
            volume: base.volume,
        });
        Lineage { levels: std::iter::once(own).chain(bases).collect() }
    }

    /// The volume.
    pub(crate) fn mount(&self) -> MountId {
        self.levels[0].mount
    }

    /// The moment; `None`: now.
    pub(crate) fn at(&self) -> Option<Version> {
        self.levels[0].at
    }

    /// Whether the current records of the volume are all there is.
    pub(crate) fn is_plain(&self) -> bool {
        self.levels.len() == 1 && self.at().is_none()
    }

    /// Whether it builds on another.
    pub(crate) fn has_base(&self) -> bool {
        self.levels.len() > 1
    }

    /// The volume whose object an upload is.
    pub(crate) fn owner(&self, upload: UploadId) -> (MountId, VolumeId) {
        let level = self.levels.iter().find(|level| upload >= level.first_upload).unwrap_or(&self.levels[0]);
        (level.mount, level.volume)
    }

    /// The same for front ends.
    pub(crate) fn origins(&self) -> Vec<Origin> {
        self.levels.iter().map(|level| Origin { first: level.first_upload, volume: level.volume }).collect()
    }

    /// What the volume shows under a key of its own.
    pub(crate) fn find(&self, from: &mut dyn Contents, key: &[u8]) -> MetaResult<Option<Shown>> {
        find(&self.levels, from, key)
    }

    /// What it would show without a record of its own.
    pub(crate) fn find_below(&self, from: &mut dyn Contents, key: &[u8]) -> MetaResult<Option<Shown>> {
        find(&self.levels[1..], from, key)
    }

    /// A record and the commit that wrote it. Reads that must agree need a view.
    pub(crate) fn get<R: Record>(&self, reads: &dyn RawReads, key: &Key) -> MetaResult<Option<(R, Version)>> {
        if self.is_plain() {
            return reads.get(key);
        }
        let shown = self.find(&mut Plain(reads), &key.encode())?;
        shown.map(|shown| Ok((R::decode(&shown.payload)?, shown.version))).transpose()
    }

    /// Visits at most `limit` records of a prefix, in order, and answers how many there were; fewer than `limit`: there
    /// are no more.
    pub(crate) fn list<R: Record>(
        &self,
        reads: &dyn RawReads,
        prefix: &KeyPrefix,
        limit: usize,
        visit: impl FnMut(Key, R, Version),
    ) -> MetaResult<usize> {
        self.list_after(reads, prefix, None, limit, visit)
    }

    /// The same after a key.
    pub(crate) fn list_after<R: Record>(
        &self,
        reads: &dyn RawReads,
        prefix: &KeyPrefix,
        after: Option<&Key>,
        limit: usize,
        visit: impl FnMut(Key, R, Version),
    ) -> MetaResult<usize> {
        match self.is_plain() {
            true => reads.scan::<R>(prefix, after, limit, visit),
            false => self.scan(&mut Plain(reads), prefix, after, limit, visit),
        }
    }

    /// The same from wherever records are read.
    pub(crate) fn scan<R: Record>(
        &self,
        from: &mut dyn Contents,
        prefix: &KeyPrefix,
        after: Option<&Key>,
        limit: usize,
        mut visit: impl FnMut(Key, R, Version),
    ) -> MetaResult<usize> {
        let after = prefix.start_after(after);
        let mut sources = Vec::with_capacity(2 * self.levels.len());
        for level in &self.levels {
            sources.push(Source::new(*level, prefix, after.as_deref(), false));
            if level.at.is_some() {
                sources.push(Source::new(*level, prefix, after.as_deref(), true));
            }
        }
        let mut count = 0;
        while count < limit {
            let mut first: Option<(usize, Vec<u8>)> = None;
            for (at, source) in sources.iter_mut().enumerate() {
                if let Some(tail) = source.peek(from)?
                    && first.as_ref().is_none_or(|(_, least)| tail < least.as_slice())
                {
                    first = Some((at, tail.to_vec()));
                }
            }
            let Some((at, tail)) = first else { break };
            let shown = sources[at].take();
            for source in &mut sources[at + 1..] {
                if source.peek(from)? == Some(&tail) {
                    source.take();
                }
            }
            if let Some((version, Content::Record(payload))) = shown {
                let mut key = vec![prefix.family() as u8];
                key.extend_from_slice(&self.mount().0.to_be_bytes());
                key.extend_from_slice(&tail);
                visit(Key::decode(&key)?, R::decode(&payload)?, version);
                count += 1;
            }
        }
        Ok(count)
    }
}

fn find(levels: &[Level], from: &mut dyn Contents, key: &[u8]) -> MetaResult<Option<Shown>> {
    for level in levels {
        if let Some((version, content)) = level.content(from, key)? {
            return Ok(content.record().map(|payload| Shown { version, payload: payload.to_vec() }));
        }
    }
    Ok(None)
}

/// The same key or prefix in another volume: after the family comes the volume.
fn in_mount(mount: MountId, key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    key[1..9].copy_from_slice(&mount.0.to_be_bytes());
    key
}

impl Level {
    fn content(&self, from: &mut dyn Contents, key: &[u8]) -> MetaResult<Option<(Version, Content)>> {
        let key = in_mount(self.mount, key);
        let current = from.content(&key)?;
        let Some(at) = self.at else { return Ok(current) };
        if let Some((version, _)) = &current
            && *version <= at
        {
            return Ok(current);
        }
        let prefix = KeyPrefix::history_of_key(&key);
        let after = Key::History(key, at).encode();
        let next = from.contents(prefix.bytes(), Some(&after), 1)?;
        let Some((_, _, Content::Record(payload))) = next.into_iter().next() else { return Ok(None) };
        let was = HistoryRecord::decode(&payload)?;
        Ok((was.version <= at).then_some((was.version, was.content)))
    }
}

/// The records of one level, current ones or history, in the order of their keys.
struct Source {
    level: Level,
    history: bool,
    prefix: Vec<u8>,
    after: Option<Vec<u8>>,
    page: VecDeque<(Vec<u8>, Version, Content)>,
    /// The last key of history whose version at the moment is known.
    decided: Option<Vec<u8>>,
    end: bool,
}

impl Source {
    fn new(level: Level, prefix: &KeyPrefix, after: Option<&[u8]>, history: bool) -> Self {
        let own = in_mount(level.mount, prefix.bytes());
        let after = after.map(|after| in_mount(level.mount, after));
        let (prefix, after) = match history {
            false => (own, after),
            true => {
                let under = |key: &[u8]| [&[crate::layout::Family::History as u8], key].concat();
                // All that the key was lies between these two.
                let after = after.map(|after| [under(&after).as_slice(), &[0], &[0xff; 8]].concat());
                (under(&own), after)
            }
        };
        Source { level, history, prefix, after, page: VecDeque::new(), decided: None, end: false }
    }

    /// The key of the next record, without family and volume.
    fn peek(&mut self, from: &mut dyn Contents) -> MetaResult<Option<&[u8]>> {
        while self.page.is_empty() && !self.end {
            let found = from.contents(&self.prefix, self.after.as_deref(), PAGE)?;
            self.end = found.len() < PAGE;
            self.after = found.last().map(|(key, ..)| key.clone()).or(self.after.take());
            for stored in found {
                self.keep(stored)?;
            }
        }
        Ok(self.page.front().map(|(tail, ..)| tail.as_slice()))
    }

    fn keep(&mut self, (key, version, content): Stored) -> MetaResult<()> {
        let at = self.level.at;
        if !self.history {
            if at.is_none_or(|at| version <= at) {
                self.page.push_back((key[9..].to_vec(), version, content));
            }
            return Ok(());
        }
        let Key::History(key, until) = Key::decode(&key)? else { return Ok(()) };
        if at.is_some_and(|at| until <= at) || self.decided.as_ref() == Some(&key) {
            return Ok(());
        }
        if let Content::Record(payload) = content {
            let was = HistoryRecord::decode(&payload)?;
            if at.is_some_and(|at| was.version <= at) {
                self.page.push_back((key[9..].to_vec(), was.version, was.content));
            }
        }
        self.decided = Some(key);
        Ok(())
    }

    fn take(&mut self) -> Option<(Version, Content)> {
        self.page.pop_front().map(|(_, version, content)| (version, content))
    }
}
