//! What a volume shows: its own records and, below them, those of the volumes that it builds on.

use nokvfs_types::{FileKind, InodeId, MountId, Version, VolumeId, VolumeState};

use super::links::Links;
use super::{Checker, PAGE, Problem, SMALL, WINDOW};
use crate::layout::{
    Body, ChunkRecord, CountersRecord, DentryRecord, Family, InodeRecord, Key, KeyPrefix, OrphanRecord, ParentRecord,
    PinRecord, VolumeRecord, XattrRecord, dentry_hash,
};
use crate::lineage::Lineage;
use crate::service::MetaResult;
use crate::store::{RawReads, ReadRecords};

/// How often links of inodes that change are counted again.
const ROUNDS: usize = 3;

/// A volume, or a snapshot of it.
struct Tree<'c> {
    check: &'c Checker,
    lineage: &'c Lineage,
    mount: MountId,
    id: VolumeId,
    /// The moment at which it was made from another: what was written up to here is that one's.
    below: Version,
    /// The inodes that it has, at about this moment.
    size: u64,
}

/// Counters, and what they should be.
#[derive(Clone, Copy, Default)]
struct Sums {
    seen: CountersRecord,
    /// The commit that wrote the counters, before and after.
    written: (Option<Version>, Option<Version>),
}

impl Checker {
    /// Checks what a volume shows now, or at a pin. With `sound` sums and links are compared.
    pub(super) fn tree(
        &self,
        lineage: &Lineage,
        volume: &VolumeRecord,
        pin: Option<&PinRecord>,
        sound: bool,
    ) -> MetaResult<()> {
        let mount = lineage.mount();
        let of = match lineage.at() {
            Some(at) => format!("volume {} at {at}", volume.spec.name),
            None => format!("volume {}", volume.spec.name),
        };
        let counted = self.page(|reads| reads.get::<CountersRecord>(&Key::Counters(mount)))?;
        let size = pin.map_or(counted.map_or(u64::MAX, |(counters, _)| counters.inodes), |pin| pin.inodes);
        let below = volume.bases.first().map_or(Version(0), |base| base.version);
        let tree = Tree { check: self, lineage, mount, id: volume.id, below, size };
        self.sink.phase(format!("inodes of {of}"));
        let (sums, windows) = tree.inodes(sound)?;
        self.sink.phase(format!("entries of {of}"));
        tree.entries()?;
        if sound {
            self.sink.phase(format!("links of {of}"));
            tree.links(windows)?;
            tree.counters(sums, pin)?;
        }
        self.sink.phase(format!("attributes and bodies of {of}"));
        tree.strays()
    }
}

impl Tree<'_> {
    fn problem(&self, rule: &'static str, place: String, what: String) -> Problem {
        let place = match self.lineage.at() {
            Some(at) => format!("{place} in the snapshot at {at}"),
            None => place,
        };
        Problem::error(rule, self.id, place, what)
    }

    /// Whether it is still there: what was seen before this is not what its removal left.
    fn is_there(&self) -> MetaResult<bool> {
        self.check.page(|reads| {
            let volume = reads.get::<VolumeRecord>(&Key::Volume(self.mount))?.map(|(volume, _)| volume.state);
            Ok(match self.lineage.at() {
                None => volume == Some(VolumeState::Active),
                Some(at) => {
                    let pin = reads.get::<PinRecord>(&Key::Pin(self.mount, at))?;
                    pin.is_some() && volume.is_some_and(|state| state != VolumeState::Deleting)
                }
            })
        })
    }

    fn report(&self, problem: &Problem) -> MetaResult<()> {
        if self.is_there()? { self.check.sink.report(problem) } else { Ok(()) }
    }

    fn confirm(&self, look: impl FnMut() -> MetaResult<Vec<Problem>>) -> MetaResult<()> {
        self.check.twice(look)?.iter().try_for_each(|problem| self.report(problem))
    }

    fn inode(&self, reads: &dyn RawReads, inode: InodeId) -> MetaResult<Option<(InodeRecord, Version)>> {
        self.lineage.get(reads, &Key::Inode(self.mount, inode))
    }

    /// Orphans of what it was made from are no more.
    fn counts(&self, record: &InodeRecord, version: Version) -> bool {
        record.nlink > 0 || (self.lineage.at().is_none() && version > self.below)
    }

    /// Walks over all inodes; answers the sums, and the first inode of each window.
    fn inodes(&self, sound: bool) -> MetaResult<(Sums, Vec<InodeId>)> {
        let counters = Key::Counters(self.mount);
        let written = || self.check.page(|reads| Ok(reads.get::<CountersRecord>(&counters)?.map(|(_, at)| at)));
        let mut sums = Sums { written: (written()?, None), ..Sums::default() };
        let (mut after, mut count, mut windows) = (None, 0, vec![InodeId(0)]);
        loop {
            let (page, suspects) = self.check.page(|reads| {
                let page = self.inode_page(reads, after.as_ref())?;
                let mut suspects = Vec::new();
                for (inode, record, version) in &page {
                    if !self.inode_problems(reads, *inode, record, *version, sound)?.is_empty() {
                        suspects.push(*inode);
                    }
                }
                Ok((page, suspects))
            })?;
            self.check.sink.looked(page.len());
            for (inode, record, version) in &page {
                add(&mut sums.seen, record, self.counts(record, *version));
                count += 1;
                if count % WINDOW == 0 {
                    windows.push(*inode);
                }
            }
            for inode in suspects {
                self.confirm(|| {
                    self.check.page(|reads| match self.inode(reads, inode)? {
                        Some((record, version)) => self.inode_problems(reads, inode, &record, version, sound),
                        None => Ok(Vec::new()),
                    })
                })?;
            }
            let Some((last, ..)) = page.last().filter(|_| page.len() == PAGE) else { break };
            after = Some(Key::Inode(self.mount, *last));
        }
        sums.written.1 = written()?;
        Ok((sums, windows))
    }

    fn inode_page(
        &self,
        reads: &dyn RawReads,
        after: Option<&Key>,
    ) -> MetaResult<Vec<(InodeId, InodeRecord, Version)>> {
        let (mut page, prefix) = (Vec::new(), KeyPrefix::of_mount(Family::Inode, self.mount));
        self.lineage.list_after::<InodeRecord>(reads, &prefix, after, PAGE, |key, record, version| {
            if let Key::Inode(_, inode) = key {
                page.push((inode, record, version));
            }
        })?;
        Ok(page)
    }

    /// What is wrong with an inode and what hangs on it, but for its links.
    fn inode_problems(
        &self,
        reads: &dyn RawReads,
        inode: InodeId,
        record: &InodeRecord,
        version: Version,
        sound: bool,
    ) -> MetaResult<Vec<Problem>> {
        let mut wrong = Vec::new();
        let mut add = |rule, what| wrong.push(self.problem(rule, format!("inode {inode}"), what));
        if self.lineage.at().is_none() {
            let orphan = reads.get::<OrphanRecord>(&Key::Orphan(self.mount, inode))?.is_some();
            if record.nlink == 0 && version > self.below && !orphan {
                add("orphan", "has no links and is not among the orphans: it would never go".into());
            }
            if record.nlink > 0 && orphan {
                add("orphan", format!("has {} links and is among the orphans: it could be removed", record.nlink));
            }
        }
        if record.kind == FileKind::Directory && (record.nlink == 1 || record.size == 0 && record.nlink > 2) {
            add("dir-nlink", format!("is a directory of {} entries with {} links", record.size, record.nlink));
        }
        if !sound {
            return Ok(wrong);
        }
        if record.body == Body::Chunked {
            let (mapped, end) = self.chunks(reads, inode)?;
            if mapped != record.mapped || end > record.size {
                add(
                    "mapped",
                    format!("maps {mapped} bytes up to {end}, and says {} of {}", record.mapped, record.size),
                );
            }
        }
        if record.xattr_bytes > 0 {
            let mut bytes = 0;
            let prefix = KeyPrefix::xattrs(self.mount, inode);
            self.lineage.list::<XattrRecord>(reads, &prefix, usize::MAX, |key, xattr, _| {
                if let Key::Xattr(_, _, name) = key {
                    bytes += name.len() + xattr.value.len();
                }
            })?;
            // While an orphan is removed, its attributes go in steps.
            if bytes != record.xattr_bytes as usize && record.nlink > 0 {
                add("xattr-bytes", format!("has {bytes} bytes of attributes and says {}", record.xattr_bytes));
            }
        }
        if record.kind != FileKind::Directory && record.nlink > 1 {
            let parents = KeyPrefix::parents(self.mount, inode);
            let count = self.lineage.list::<ParentRecord>(reads, &parents, usize::MAX, |_, _, _| ())?;
            if count > record.nlink as usize || count + 1 < record.nlink as usize {
                add("parents", format!("has {} links and {count} of them recorded", record.nlink));
            }
        }
        Ok(wrong)
    }

    /// Bytes that chunks map, and where they end.
    fn chunks(&self, reads: &dyn RawReads, inode: InodeId) -> MetaResult<(u64, u64)> {
        let (mut mapped, mut end) = (0u64, 0);
        self.lineage.list::<ChunkRecord>(reads, &KeyPrefix::chunks(self.mount, inode), usize::MAX, |_, chunk, _| {
            for extent in &chunk.extents {
                mapped = mapped.saturating_add(extent.len);
                end = end.max(extent.end());
            }
        })?;
        Ok((mapped, end))
    }

    /// Walks over all entries: each by itself, and how many a directory has.
    fn entries(&self) -> MetaResult<()> {
        let (mut after, mut dir): (Option<Key>, Option<InodeId>) = (None, None);
        loop {
            let (page, suspects, dirs) = self.check.page(|reads| {
                let page = self.entry_page(reads, after.as_ref())?;
                let (mut suspects, mut dirs) = (Vec::new(), Vec::new());
                for (key, entry) in &page {
                    if !self.entry_problems(reads, key, entry)?.is_empty() {
                        suspects.push(key.clone());
                    }
                    if let Key::Dentry(_, parent, ..) = key
                        && dirs.last().or(dir.as_ref()) != Some(parent)
                    {
                        dirs.push(*parent);
                    }
                }
                Ok((page, suspects, dirs))
            })?;
            self.check.sink.looked(page.len());
            for key in suspects {
                self.confirm(|| {
                    self.check.page(|reads| match self.lineage.get::<DentryRecord>(reads, &key)? {
                        Some((entry, _)) => self.entry_problems(reads, &key, &entry),
                        None => Ok(Vec::new()),
                    })
                })?;
            }
            dir = dirs.last().copied().or(dir);
            dirs.into_iter().try_for_each(|dir| self.directory(dir))?;
            let Some((last, _)) = page.last().filter(|_| page.len() == PAGE) else { return Ok(()) };
            after = Some(last.clone());
        }
    }

    fn entry_page(&self, reads: &dyn RawReads, after: Option<&Key>) -> MetaResult<Vec<(Key, DentryRecord)>> {
        let (mut page, prefix) = (Vec::new(), KeyPrefix::of_mount(Family::Dentry, self.mount));
        let visit = |key, entry, _| page.push((key, entry));
        self.lineage.list_after::<DentryRecord>(reads, &prefix, after, PAGE, visit)?;
        Ok(page)
    }

    fn entry_problems(&self, reads: &dyn RawReads, key: &Key, entry: &DentryRecord) -> MetaResult<Vec<Problem>> {
        let Key::Dentry(_, parent, hash, name) = key else { return Ok(Vec::new()) };
        let mut wrong = Vec::new();
        let mut add = |what| wrong.push(self.problem("entry", format!("entry {name:?} of directory {parent}"), what));
        if *hash != dentry_hash(&self.check.core.server.hash_secret, name) {
            add("is not found by its name: its hash is another".into());
        }
        let is_hidden = |inode| self.check.damaged.contains(&Key::Inode(self.mount, inode).encode());
        match self.inode(reads, entry.inode)? {
            None if is_hidden(entry.inode) => {}
            None => add(format!("names inode {}, which is not there", entry.inode)),
            Some((record, _)) if record.kind != entry.kind => {
                add(format!("names inode {} as {:?}, which is a {:?}", entry.inode, entry.kind, record.kind));
            }
            Some((record, _)) if record.nlink == 0 => add(format!("names inode {}, which has no links", entry.inode)),
            Some((record, _)) if record.kind == FileKind::Directory && record.parent != *parent => {
                add(format!("names directory {}, whose parent is {}", entry.inode, record.parent));
            }
            Some(_) => {}
        }
        Ok(wrong)
    }

    /// Compares a directory with its entries, if it stays as it is meanwhile.
    fn directory(&self, dir: InodeId) -> MetaResult<()> {
        for _ in 0..ROUNDS {
            let before = self.check.page(|reads| self.inode(reads, dir))?;
            let (mut entries, mut subdirs, mut after) = (0, 0, None);
            loop {
                let (count, last) = self.check.page(|reads| {
                    let (mut counted, mut last) = ((0u64, 0u32), None);
                    let visit = |key, entry: DentryRecord, _| {
                        counted.0 += 1;
                        counted.1 += u32::from(entry.kind == FileKind::Directory);
                        last = Some(key);
                    };
                    let prefix = KeyPrefix::entries(self.mount, dir);
                    self.lineage.list_after::<DentryRecord>(reads, &prefix, after.as_ref(), PAGE, visit)?;
                    Ok((counted, last))
                })?;
                entries += count.0;
                subdirs += count.1;
                if count.0 < PAGE as u64 {
                    break;
                }
                after = last;
            }
            let now = self.check.page(|reads| self.inode(reads, dir))?;
            if before.as_ref().map(|(_, at)| at) != now.as_ref().map(|(_, at)| at) {
                continue;
            }
            return self.compare(dir, now.map(|(record, _)| record), entries, subdirs);
        }
        self.check.sink.unsettled(1);
        Ok(())
    }

    fn compare(&self, dir: InodeId, record: Option<InodeRecord>, entries: u64, subdirs: u32) -> MetaResult<()> {
        let place = format!("directory {dir}");
        let problem = match record {
            // Its removal came between.
            None if entries == 0 => return Ok(()),
            None if self.check.damaged.contains(&Key::Inode(self.mount, dir).encode()) => return Ok(()),
            None => self.problem("entry", place, format!("has {entries} entries and is not there")),
            Some(record) if record.kind != FileKind::Directory => {
                self.problem("entry", place, format!("has {entries} entries and is a {:?}", record.kind))
            }
            Some(record) if record.size != entries => {
                self.problem("dir-size", place, format!("has {entries} entries and says {}", record.size))
            }
            // It was removed since its entries were met.
            Some(record) if record.nlink == 0 && entries == 0 => return Ok(()),
            Some(record) if record.nlink != subdirs + 2 => {
                self.problem("dir-nlink", place, format!("has {subdirs} subdirectories and {} links", record.nlink))
            }
            Some(_) => return Ok(()),
        };
        self.report(&problem)
    }

    /// Compares links with the entries that there are, window by window.
    fn links(&self, windows: Vec<InodeId>) -> MetaResult<()> {
        let mut again = Vec::new();
        for (at, first) in windows.iter().enumerate() {
            let end = windows.get(at + 1).copied().unwrap_or(InodeId(u64::MAX));
            again.extend(self.window(*first, end)?);
            self.check.sink.unsettled(again.len().saturating_sub(WINDOW));
            again.truncate(WINDOW);
        }
        if again.is_empty() {
            return Ok(());
        }
        if self.size <= SMALL {
            return self.confirm(|| self.check.page(|reads| self.all_links(reads, &again)));
        }
        self.check.sink.unsettled(again.len());
        Ok(())
    }

    /// Counts the links of inodes after `first` up to `end`; answers those that other entries name than should, and that
    /// were written since.
    fn window(&self, first: InodeId, end: InodeId) -> MetaResult<Vec<InodeId>> {
        let start = self.check.core.committer.durable_version();
        let (mut links, mut after) = (Links::default(), Some(Key::Inode(self.mount, first)));
        while links.len() < 2 * WINDOW {
            let page = self.check.page(|reads| self.inode_page(reads, after.as_ref()))?;
            for (inode, record, _) in page.iter().filter(|(inode, ..)| *inode <= end) {
                expect(&mut links, *inode, record);
            }
            match page.last() {
                Some((last, ..)) if page.len() == PAGE && *last < end => after = Some(Key::Inode(self.mount, *last)),
                _ => break,
            }
        }
        let mut after = None;
        loop {
            let page = self.check.page(|reads| self.entry_page(reads, after.as_ref()))?;
            self.check.sink.looked(page.len());
            page.iter().for_each(|(_, entry)| links.count(entry.inode));
            let Some((last, _)) = page.last().filter(|_| page.len() == PAGE) else { break };
            after = Some(last.clone());
        }
        let mut again = Vec::new();
        for (inode, expected, found) in links.wrong() {
            match self.check.page(|reads| self.inode(reads, inode))? {
                Some((_, version)) if version <= start => {
                    self.report(&self.wrong_links(inode, expected, found))?;
                }
                _ => again.push(inode),
            }
        }
        Ok(again)
    }

    fn wrong_links(&self, inode: InodeId, expected: u32, found: u32) -> Problem {
        let what = match (expected, found) {
            (expected, 0) => format!("has no entry, and {expected} should name it: it can't be reached"),
            (expected, found) => format!("is named by {found} entries, and {expected} should"),
        };
        self.problem("nlink", format!("inode {inode}"), what)
    }

    /// Counts links in one view.
    fn all_links(&self, reads: &dyn RawReads, inodes: &[InodeId]) -> MetaResult<Vec<Problem>> {
        let mut links = Links::default();
        for inode in inodes {
            if let Some((record, _)) = self.inode(reads, *inode)? {
                expect(&mut links, *inode, &record);
            }
        }
        let prefix = KeyPrefix::of_mount(Family::Dentry, self.mount);
        self.lineage.list::<DentryRecord>(reads, &prefix, usize::MAX, |_, entry, _| links.count(entry.inode))?;
        Ok(links.wrong().map(|(inode, expected, found)| self.wrong_links(inode, expected, found)).collect())
    }

    fn counters(&self, sums: Sums, pin: Option<&PinRecord>) -> MetaResult<()> {
        if let Some(pin) = pin {
            let wrong = (sums.seen.inodes, sums.seen.bytes) != (pin.inodes, pin.bytes);
            let what = format!(
                "counts {} inodes and {} bytes, and has {} and {}",
                pin.inodes, pin.bytes, sums.seen.inodes, sums.seen.bytes
            );
            let problem = self.problem("counters", "the pin".into(), what);
            return if wrong { self.report(&problem) } else { Ok(()) };
        }
        let key = Key::Counters(self.mount);
        if sums.written.0 == sums.written.1 {
            let now = self.check.page(|reads| reads.get::<CountersRecord>(&key))?;
            let same = now.filter(|(_, at)| Some(*at) == sums.written.0);
            if let Some((counters, _)) = same {
                return match self.wrong_counters(&counters, &sums.seen) {
                    Some(problem) => self.report(&problem),
                    None => Ok(()),
                };
            }
        }
        if self.size > SMALL {
            self.check.sink.unsettled(1);
            return Ok(());
        }
        self.confirm(|| {
            self.check.page(|reads| {
                let Some((counters, _)) = reads.get::<CountersRecord>(&key)? else { return Ok(Vec::new()) };
                let (mut seen, prefix) = (CountersRecord::default(), KeyPrefix::of_mount(Family::Inode, self.mount));
                self.lineage.list::<InodeRecord>(reads, &prefix, usize::MAX, |_, record, version| {
                    add(&mut seen, &record, self.counts(&record, version));
                })?;
                Ok(self.wrong_counters(&counters, &seen).into_iter().collect())
            })
        })
    }

    fn wrong_counters(&self, counters: &CountersRecord, seen: &CountersRecord) -> Option<Problem> {
        let what = format!("are {counters:?}, and the sums are {seen:?}");
        (counters != seen).then(|| self.problem("counters", "the counters".into(), what))
    }

    /// Records that hang on nothing.
    fn strays(&self) -> MetaResult<()> {
        self.each::<XattrRecord>(Family::Xattr, |reads, key| {
            let Key::Xattr(_, inode, _) = key else { return Ok(None) };
            let record = self.inode(reads, *inode)?;
            Ok(record.is_none_or(|(record, _)| record.xattr_bytes == 0).then_some("is of an inode that has none"))
        })?;
        self.each::<ParentRecord>(Family::Parent, |reads, key| {
            let Key::Parent(_, inode, parent, hash, name) = key else { return Ok(None) };
            let entry = Key::Dentry(self.mount, *parent, *hash, name.clone());
            let names =
                self.lineage.get::<DentryRecord>(reads, &entry)?.is_some_and(|(entry, _)| entry.inode == *inode);
            let linked = self.inode(reads, *inode)?.is_some_and(|(record, _)| record.nlink > 1);
            Ok(match (names, linked) {
                (true, true) => None,
                (false, _) => Some("is of an entry that does not name the inode"),
                (true, false) => Some("is of an inode that is not hard-linked"),
            })
        })?;
        self.each::<ChunkRecord>(Family::Chunk, |reads, key| {
            let Key::Chunk(_, inode, _) = key else { return Ok(None) };
            let chunked = self.inode(reads, *inode)?.is_some_and(|(record, _)| record.body == Body::Chunked);
            Ok((!chunked).then_some("is of an inode without chunks"))
        })?;
        if self.lineage.at().is_some() {
            return Ok(());
        }
        self.each::<OrphanRecord>(Family::Orphan, |reads, key| {
            let Key::Orphan(_, inode) = key else { return Ok(None) };
            Ok(self.inode(reads, *inode)?.is_none().then_some("is of an inode that is not there"))
        })
    }

    fn each<R: crate::layout::Record>(
        &self,
        family: Family,
        look: impl Fn(&dyn RawReads, &Key) -> MetaResult<Option<&'static str>>,
    ) -> MetaResult<()> {
        // Orphans show through nothing.
        let lineage = (family != Family::Orphan).then_some(self.lineage);
        let (mut after, prefix): (Option<Key>, _) = (None, KeyPrefix::of_mount(family, self.mount));
        loop {
            let (count, last, suspects) = self.check.page(|reads| {
                let mut keys = Vec::new();
                let visit = |key, _: R, _| keys.push(key);
                match lineage {
                    Some(lineage) => lineage.list_after(reads, &prefix, after.as_ref(), PAGE, visit)?,
                    None => reads.scan(&prefix, after.as_ref(), PAGE, visit)?,
                };
                let mut suspects = Vec::new();
                for key in &keys {
                    if look(reads, key)?.is_some() {
                        suspects.push(key.clone());
                    }
                }
                Ok((keys.len(), keys.pop(), suspects))
            })?;
            self.check.sink.looked(count);
            for key in suspects {
                self.confirm(|| {
                    self.check.page(|reads| {
                        let there = match lineage {
                            Some(lineage) => lineage.get::<R>(reads, &key)?.is_some(),
                            None => reads.get::<R>(&key)?.is_some(),
                        };
                        let what = if there { look(reads, &key)? } else { None };
                        let what = what.filter(|_| !self.is_owner_damaged(&key));
                        Ok(what
                            .map(|what| self.problem("stray", format!("{key:?}"), what.into()))
                            .into_iter()
                            .collect())
                    })
                })?;
            }
            if count < PAGE {
                return Ok(());
            }
            after = last;
        }
    }

    /// Whether the inode that a record hangs on is there and can't be read.
    fn is_owner_damaged(&self, key: &Key) -> bool {
        let inode = match key {
            Key::Xattr(_, inode, _) | Key::Parent(_, inode, ..) | Key::Chunk(_, inode, _) | Key::Orphan(_, inode) => {
                *inode
            }
            _ => return false,
        };
        self.check.damaged.contains(&Key::Inode(self.mount, inode).encode())
    }
}

fn expect(links: &mut Links, inode: InodeId, record: &InodeRecord) {
    if inode != InodeId::ROOT {
        let one = u32::from(record.nlink > 0);
        links.expect(inode, if record.kind == FileKind::Directory { one } else { record.nlink });
    }
}

fn add(sums: &mut CountersRecord, record: &InodeRecord, counts: bool) {
    if !counts {
        return;
    }
    sums.inodes += 1;
    sums.bytes = sums.bytes.saturating_add(record.mapped);
    if record.nlink == 0 {
        sums.orphan_inodes += 1;
        sums.orphan_bytes = sums.orphan_bytes.saturating_add(record.mapped);
    }
}
