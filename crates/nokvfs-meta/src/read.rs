//! Reads of a session. What they show is durable when they answer.

use bytes::Bytes;
use nokvfs_types::{
    Attr, BodyView, CHUNK_SIZE, DirEntry, DirPage, FileKind, FsStat, InodeId, MetaError, Name, SessionId, Version,
};

use crate::engine::{Core, Engine};
use crate::layout::{
    Body, ChunkRecord, CountersRecord, DentryRecord, InodeRecord, Key, KeyPrefix, PinRecord, Record, VolumeRecord,
    XattrRecord, dentry_hash,
};
use crate::lineage::Lineage;
use crate::plan::{SIZE_MAX, attr_of, check_xattr_name, chunk_of};
use crate::service::MetaResult;
use crate::store::{RawReads, ReadRecords};

/// How often a lookup reads entry and inode one by one; between them a batch may be half applied. Then it takes a view,
/// which may wait for the batch.
const LOOKUPS: usize = 3;
/// Most entries of one page: with attributes some 350 bytes each, 1.4 MiB.
const PAGE_MAX: u32 = 4096;
/// Chunks of one body view: 4 GiB of file.
const BODY_CHUNKS: usize = 64;
/// A body view ends with the chunk that brings it to so many extents.
const BODY_EXTENTS: usize = 4096;
/// What an unlimited volume shows as its size: 1 PiB, or twice what it holds.
const UNLIMITED: u64 = 1 << 50;
/// Memory that a further file needs: its inode and entry, with what the engine adds.
const FILE_COST: u64 = 1200;

impl Engine {
    /// See [`crate::service::MetadataService::lookup`]; so are the other reads.
    ///
    /// # Errors
    /// See there.
    pub async fn lookup(&self, session: SessionId, generation: u32, parent: InodeId, name: &Name) -> MetaResult<Attr> {
        let core = self.core();
        let live = core.sessions.check(session, generation)?;
        let (mount, lineage) = (live.mount, &live.lineage);
        let key = Key::Dentry(mount, parent, dentry_hash(&core.server.hash_secret, name), name.clone());
        core.settled(core.committer.unsettled_name(mount, parent, name)).await?;
        for _ in 0..LOOKUPS {
            let Some((entry, seen)) = core.fetch::<DentryRecord>(lineage, &key)? else {
                let (dir, _) =
                    core.fetch::<InodeRecord>(lineage, &Key::Inode(mount, parent))?.ok_or(MetaError::NotFound)?;
                core.settled(core.committer.unsettled_name(mount, parent, name)).await?;
                return Err(if dir.kind == FileKind::Directory {
                    MetaError::NotFound
                } else {
                    MetaError::NotDirectory
                });
            };
            core.shown(seen).await?;
            match self.inode(lineage, entry.inode).await {
                Ok((record, version)) if record.nlink > 0 => return Ok(attr_of(entry.inode, &record, version)),
                // An inode without links left the entry between the two reads.
                Ok(_) | Err(MetaError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let found = core.store.view(|reads| {
            let Some((entry, seen)) = lineage.get::<DentryRecord>(reads, &key)? else { return Ok(None) };
            let Some((record, version)) = lineage.get::<InodeRecord>(reads, &Key::Inode(mount, entry.inode))? else {
                return Err(MetaError::Corrupt(format!(
                    "entry {name:?} of inode {parent} in volume number {mount} names inode {}, which has no record",
                    entry.inode
                )));
            };
            Ok(Some((attr_of(entry.inode, &record, version), version.max(seen))))
        })?;
        let (attr, seen) = found.ok_or(MetaError::NotFound)?;
        core.shown(seen).await?;
        Ok(attr)
    }

    /// Attributes.
    ///
    /// # Errors
    /// See [`crate::service::MetadataService::getattr`].
    pub async fn getattr(&self, session: SessionId, generation: u32, inode: InodeId) -> MetaResult<Attr> {
        let (record, version) = self.inode_of(session, generation, inode).await?;
        Ok(attr_of(inode, &record, version))
    }

    /// A part of a directory.
    ///
    /// # Errors
    /// See [`crate::service::MetadataService::readdir`].
    pub async fn readdir(
        &self,
        session: SessionId,
        generation: u32,
        dir: InodeId,
        after: u64,
        limit: u32,
        attrs: bool,
    ) -> MetaResult<DirPage> {
        let core = self.core();
        let live = core.sessions.check(session, generation)?;
        let mount = live.mount;
        let limit = limit.clamp(1, PAGE_MAX) as usize;
        core.settled(core.committer.unsettled_names(mount, dir)).await?;
        let (mut page, version) = core.store.view(|reads| page(reads, &live.lineage, dir, after, limit, attrs))?;
        core.shown(version).await?;
        if live.lineage.at().is_some() {
            return Ok(page);
        }
        for attr in page.entries.iter_mut().filter_map(|entry| entry.attr.as_mut()) {
            if attr.kind == FileKind::Directory
                && core.committer.unsettled_inode(mount, attr.inode).is_none()
                && let Some((record, version)) = core.committer.unsettled_dir(mount, attr.inode)
                && version > attr.version
            {
                *attr = attr_of(attr.inode, &record, version);
            }
        }
        Ok(page)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// See [`crate::service::MetadataService::readlink`].
    pub async fn readlink(&self, session: SessionId, generation: u32, inode: InodeId) -> MetaResult<Bytes> {
        match self.inode_of(session, generation, inode).await?.0.body {
            Body::Symlink(target) => Ok(target),
            _ => Err(MetaError::Invalid(format!("inode {inode} is no symbolic link"))),
        }
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// See [`crate::service::MetadataService::getxattr`].
    pub async fn getxattr(
        &self,
        session: SessionId,
        generation: u32,
        inode: InodeId,
        name: &[u8],
    ) -> MetaResult<Bytes> {
        check_xattr_name(name)?;
        // The inode changes with each attribute: read first, it makes absence durable and catches a missing inode.
        self.inode_of(session, generation, inode).await?;
        let core = self.core();
        let live = core.sessions.check(session, generation)?;
        let key = Key::Xattr(live.mount, inode, Bytes::copy_from_slice(name));
        let (record, version) = core.fetch::<XattrRecord>(&live.lineage, &key)?.ok_or(MetaError::NoAttribute)?;
        core.shown(version).await?;
        Ok(record.value)
    }

    /// Names of extended attributes.
    ///
    /// # Errors
    /// See [`crate::service::MetadataService::listxattr`].
    pub async fn listxattr(&self, session: SessionId, generation: u32, inode: InodeId) -> MetaResult<Vec<Bytes>> {
        if self.inode_of(session, generation, inode).await?.0.xattr_bytes == 0 {
            return Ok(Vec::new());
        }
        let core = self.core();
        let live = core.sessions.check(session, generation)?;
        let (names, version) = core.store.view(|reads| {
            let (mut names, mut newest) = (Vec::new(), Version(0));
            // The total of all names and values is bounded.
            let prefix = KeyPrefix::xattrs(live.mount, inode);
            live.lineage.list::<XattrRecord>(reads, &prefix, usize::MAX, |key, _, version| {
                if let Key::Xattr(_, _, name) = key {
                    names.push(name);
                    newest = newest.max(version);
                }
            })?;
            Ok((names, newest))
        })?;
        core.shown(version).await?;
        Ok(names)
    }

    /// A file's extents.
    ///
    /// # Errors
    /// See [`crate::service::MetadataService::body`].
    pub async fn body(&self, session: SessionId, generation: u32, inode: InodeId, from: u64) -> MetaResult<BodyView> {
        let core = self.core();
        let live = core.sessions.check(session, generation)?;
        let (mount, lineage) = (live.mount, &live.lineage);
        core.settled(core.committer.unsettled_inode(mount, inode)).await?;
        let found = core.fetch::<InodeRecord>(lineage, &Key::Inode(mount, inode))?;
        let (record, version) = found.ok_or(MetaError::NotFound)?;
        let (view, version) = match record {
            InodeRecord { body: Body::Chunked, .. } => {
                core.store.view(|reads| chunked_body(reads, lineage, inode, from))?
            }
            record => (body_of(inode, &record, version, from)?, version),
        };
        core.shown(version).await?;
        // Who asks for the body of an orphan is about to open it.
        if view.attr.nlink == 0 && !core.orphans.touch(mount, session, inode) {
            return Err(MetaError::NotFound);
        }
        Ok(view)
    }

    /// The volume's counters.
    ///
    /// # Errors
    /// See [`crate::service::MetadataService::statfs`].
    pub async fn statfs(&self, session: SessionId, generation: u32) -> MetaResult<FsStat> {
        let core = self.core();
        let live = core.sessions.check(session, generation)?;
        let mount = live.mount;
        if let Some(at) = live.lineage.at() {
            let (pin, _) = core.store.get::<PinRecord>(&Key::Pin(mount, at))?.ok_or(MetaError::NotFound)?;
            let (bytes, inodes) = (pin.bytes, pin.inodes);
            return Ok(FsStat { used_bytes: bytes, total_bytes: bytes, used_inodes: inodes, total_inodes: inodes });
        }
        let (volume, _) = core.store.get::<VolumeRecord>(&Key::Volume(mount))?.ok_or(MetaError::NotFound)?;
        let (counters, version) =
            core.store.get::<CountersRecord>(&Key::Counters(mount))?.ok_or(MetaError::NotFound)?;
        core.shown(version).await?;
        let usage = core.committer.health().usage;
        let room = usage.budget.saturating_sub(usage.needed) / FILE_COST;
        let or_limit = |quota: u64, capacity: u64| if quota == 0 { capacity } else { quota };
        Ok(FsStat {
            used_bytes: counters.bytes,
            total_bytes: or_limit(volume.spec.quota_bytes, UNLIMITED.max(counters.bytes.saturating_mul(2))),
            used_inodes: counters.inodes,
            total_inodes: or_limit(volume.spec.quota_inodes, counters.inodes + room),
        })
    }

    async fn inode_of(
        &self,
        session: SessionId,
        generation: u32,
        inode: InodeId,
    ) -> MetaResult<(InodeRecord, Version)> {
        let live = self.core().sessions.check(session, generation)?;
        self.inode(&live.lineage, inode).await
    }

    /// An inode as it can't be lost any more. Only times, size and links of a directory whose names change are shown as
    /// soon as that is planned: the kernel asks for them between any two creates, holding the directory's lock.
    async fn inode(&self, lineage: &Lineage, inode: InodeId) -> MetaResult<(InodeRecord, Version)> {
        let core = self.core();
        let mount = lineage.mount();
        core.settled(core.committer.unsettled_inode(mount, inode)).await?;
        // Asked before the store: what is settled in between shows there.
        let planned = core.committer.unsettled_dir(mount, inode).filter(|_| lineage.at().is_none());
        let found = core.fetch::<InodeRecord>(lineage, &Key::Inode(mount, inode))?;
        let (record, version) = found.ok_or(MetaError::NotFound)?;
        if record.kind != FileKind::Directory {
            core.shown(version).await?;
            return Ok((record, version));
        }
        core.settled(core.committer.unsettled_inode(mount, inode)).await?;
        Ok(match planned {
            Some(planned) if planned.1 > version => planned,
            _ => (record, version),
        })
    }
}

impl Core {
    /// A record that a volume shows.
    fn fetch<R: Record>(&self, lineage: &Lineage, key: &Key) -> MetaResult<Option<(R, Version)>> {
        match lineage.is_plain() {
            true => self.store.get::<R>(key),
            // The record may move between what is and what was, or a level may gain it, between two reads.
            false => self.store.view(|reads| lineage.get::<R>(reads, key)),
        }
    }
}

/// A page of a directory, and the newest version in it.
fn page(
    reads: &dyn RawReads,
    lineage: &Lineage,
    dir: InodeId,
    after: u64,
    limit: usize,
    attrs: bool,
) -> MetaResult<(DirPage, Version)> {
    let mount = lineage.mount();
    let found = lineage.get::<InodeRecord>(reads, &Key::Inode(mount, dir))?;
    let (record, mut newest) = found.ok_or(MetaError::NotFound)?;
    if record.kind != FileKind::Directory {
        return Err(MetaError::NotDirectory);
    }
    let prefix = KeyPrefix::entries_after(mount, dir, after);
    let mut wanted = limit;
    let (mut entries, end) = loop {
        let mut entries = Vec::with_capacity(wanted.min(1024) + 1);
        let count = lineage.list::<DentryRecord>(reads, &prefix, wanted + 1, |key, entry, version| {
            if let Key::Dentry(_, _, cookie, name) = key {
                newest = newest.max(version);
                entries.push(DirEntry { name, inode: entry.inode, kind: entry.kind, cookie, attr: None });
            }
        })?;
        if count <= wanted {
            break (entries, true);
        }
        // One more than asked for was read: the page ends in front of its cookie.
        let next = entries.last().map_or(0, |entry| entry.cookie);
        entries.retain(|entry| entry.cookie != next);
        if !entries.is_empty() {
            break (entries, false);
        }
        wanted *= 2;
    };
    if attrs {
        for entry in &mut entries {
            if let Some((record, version)) = lineage.get::<InodeRecord>(reads, &Key::Inode(mount, entry.inode))? {
                newest = newest.max(version);
                entry.attr = Some(attr_of(entry.inode, &record, version));
            }
        }
    }
    Ok((DirPage { entries, end, parent: record.parent }, newest))
}

/// The body of a file that has all its extents in its record.
fn body_of(inode: InodeId, record: &InodeRecord, version: Version, from: u64) -> MetaResult<BodyView> {
    let attr = attr_of(inode, record, version);
    match (&record.body, record.kind) {
        (Body::Inline(extents), _) => {
            let extents = extents.iter().filter(|extent| extent.end() > from).copied().collect();
            Ok(BodyView { attr, extents, complete_to: u64::MAX })
        }
        (_, FileKind::Directory) => Err(MetaError::IsDirectory),
        (_, kind) => Err(MetaError::Invalid(format!("inode {inode} is a {kind:?} and has no bytes"))),
    }
}

fn chunked_body(reads: &dyn RawReads, lineage: &Lineage, inode: InodeId, from: u64) -> MetaResult<(BodyView, Version)> {
    let mount = lineage.mount();
    let found = lineage.get::<InodeRecord>(reads, &Key::Inode(mount, inode))?;
    let (record, mut newest) = found.ok_or(MetaError::NotFound)?;
    if record.body != Body::Chunked {
        return Ok((body_of(inode, &record, newest, from)?, newest));
    }
    let attr = attr_of(inode, &record, newest);
    let mut extents = Vec::new();
    let mut complete_to = u64::MAX;
    if from < SIZE_MAX {
        let prefix = KeyPrefix::chunks_from(mount, inode, chunk_of(from));
        let mut chunks = Vec::new();
        let count = lineage.list::<ChunkRecord>(reads, &prefix, BODY_CHUNKS, |key, chunk, version| {
            if let Key::Chunk(_, _, number) = key {
                newest = newest.max(version);
                chunks.push((number, chunk.extents));
            }
        })?;
        let mut rest = count == BODY_CHUNKS;
        let last = chunks.len().saturating_sub(1);
        for (at, (number, chunk)) in chunks.into_iter().enumerate() {
            extents.extend(chunk.into_iter().filter(|extent| extent.end() > from));
            rest |= extents.len() >= BODY_EXTENTS && at < last;
            if rest && (extents.len() >= BODY_EXTENTS || at == last) {
                complete_to = (u64::from(number) + 1) * CHUNK_SIZE;
                break;
            }
        }
    }
    Ok((BodyView { attr, extents, complete_to }, newest))
}
