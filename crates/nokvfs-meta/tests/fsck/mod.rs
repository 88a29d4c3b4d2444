//! What must hold between the records of a store, and between them and the objects. Used by tests of several crates.

use std::collections::{BTreeMap, BTreeSet};

use nokvfs_meta::layout::{
    Body, ChunkRecord, CountersRecord, DentryRecord, Family, InodeRecord, Key, KeyPrefix, OrphanRecord, PackRecord,
    SessionRecord, VolumeRecord,
};
use nokvfs_meta::service::MetaResult;
use nokvfs_meta::store::{MetaStore, ReadRecords};
use nokvfs_types::{Extent, FileKind, InodeId, MountId, SliceId, VolumeId, owner_key};

/// All records that refer to each other.
#[derive(Default)]
pub struct Found {
    volumes: BTreeMap<MountId, VolumeId>,
    inodes: BTreeMap<(MountId, InodeId), InodeRecord>,
    entries: BTreeMap<(MountId, InodeId), Vec<DentryRecord>>,
    chunks: BTreeMap<(MountId, InodeId), Vec<Extent>>,
    pub orphans: BTreeSet<(MountId, InodeId)>,
    packs: BTreeMap<(MountId, SliceId), PackRecord>,
    counters: BTreeMap<MountId, CountersRecord>,
    /// By pack, in how many records it is named.
    naming: BTreeMap<(MountId, SliceId), u32>,
    /// Sessions that are not quite gone.
    pub sessions: usize,
}

pub fn read(store: &dyn MetaStore) -> MetaResult<Found> {
    let mut found = Found::default();
    store.scan::<VolumeRecord>(&KeyPrefix::volumes(), None, usize::MAX, |key, record, _| {
        let Key::Volume(mount) = key else { panic!("{key:?}") };
        found.volumes.insert(mount, record.id);
    })?;
    let mut naming = Vec::new();
    store.scan::<InodeRecord>(&KeyPrefix::all(Family::Inode), None, usize::MAX, |key, record, _| {
        let Key::Inode(mount, inode) = key else { panic!("{key:?}") };
        if let Body::Inline(extents) = &record.body {
            naming.push((mount, extents.clone()));
        }
        found.inodes.insert((mount, inode), record);
    })?;
    store.scan::<ChunkRecord>(&KeyPrefix::all(Family::Chunk), None, usize::MAX, |key, record, _| {
        let Key::Chunk(mount, inode, _) = key else { panic!("{key:?}") };
        naming.push((mount, record.extents.clone()));
        found.chunks.entry((mount, inode)).or_default().extend(record.extents);
    })?;
    for (mount, extents) in naming {
        let packs: BTreeSet<_> = extents.iter().map(|extent| extent.slice).filter(SliceId::is_pack).collect();
        packs.into_iter().for_each(|pack| *found.naming.entry((mount, pack)).or_default() += 1);
    }
    store.scan::<DentryRecord>(&KeyPrefix::all(Family::Dentry), None, usize::MAX, |key, record, _| {
        let Key::Dentry(mount, parent, ..) = key else { panic!("{key:?}") };
        found.entries.entry((mount, parent)).or_default().push(record);
    })?;
    store.scan::<OrphanRecord>(&KeyPrefix::all(Family::Orphan), None, usize::MAX, |key, _, _| {
        let Key::Orphan(mount, inode) = key else { panic!("{key:?}") };
        found.orphans.insert((mount, inode));
    })?;
    store.scan::<PackRecord>(&KeyPrefix::all(Family::Pack), None, usize::MAX, |key, record, _| {
        let Key::Pack(mount, upload) = key else { panic!("{key:?}") };
        found.packs.insert((mount, SliceId::pack(upload)), record);
    })?;
    store.scan::<CountersRecord>(&KeyPrefix::all(Family::Counters), None, usize::MAX, |key, record, _| {
        let Key::Counters(mount) = key else { panic!("{key:?}") };
        found.counters.insert(mount, record);
    })?;
    found.sessions = store.scan::<SessionRecord>(&KeyPrefix::sessions(), None, usize::MAX, |_, _, _| ())?;
    Ok(found)
}

impl Found {
    fn extents(&self, at: &(MountId, InodeId), inode: &InodeRecord) -> Vec<Extent> {
        match &inode.body {
            Body::Inline(extents) => extents.clone(),
            Body::Chunked => self.chunks.get(at).cloned().unwrap_or_default(),
            Body::None | Body::Symlink(_) => Vec::new(),
        }
    }

    /// What is wrong among the records.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut links: BTreeMap<(MountId, InodeId), u32> = BTreeMap::new();
        for (dir, entries) in &self.entries {
            for entry in entries {
                *links.entry((dir.0, entry.inode)).or_default() += 1;
                match self.inodes.get(&(dir.0, entry.inode)) {
                    Some(inode) if inode.kind == entry.kind => {}
                    other => wrong.push(format!("an entry of {dir:?} is {entry:?}, the inode {other:?}")),
                }
            }
            if !self.inodes.contains_key(dir) {
                wrong.push(format!("{dir:?} has entries and is not there"));
            }
        }
        for (at, inode) in &self.inodes {
            let entries = self.entries.get(at).map_or(&[][..], Vec::as_slice);
            let mut links = links.get(at).copied().unwrap_or(0);
            if inode.kind == FileKind::Directory {
                let subdirs = entries.iter().filter(|entry| entry.kind == FileKind::Directory).count() as u32;
                let named = links == 1 || at.1 == InodeId::ROOT;
                links = if named { 2 + subdirs } else { 0 };
                if inode.size != entries.len() as u64 {
                    wrong.push(format!("{at:?} has {} entries and says {}", entries.len(), inode.size));
                }
            }
            if inode.nlink != links || (links == 0) != self.orphans.contains(at) {
                wrong.push(format!("{at:?} has {links} links, says {}, and is an orphan or not", inode.nlink));
            }
            let mapped: u64 = self.extents(at, inode).iter().map(|extent| extent.len).sum();
            if mapped != inode.mapped {
                wrong.push(format!("{at:?} maps {mapped} bytes and says {}", inode.mapped));
            }
        }
        for (mount, counters) in &self.counters {
            let of = || self.inodes.iter().filter(|((of, _), _)| of == mount);
            let orphans = || of().filter(|(_, inode)| inode.nlink == 0);
            let sums = CountersRecord {
                inodes: of().count() as u64,
                bytes: of().map(|(_, inode)| inode.mapped).sum(),
                orphan_inodes: orphans().count() as u64,
                orphan_bytes: orphans().map(|(_, inode)| inode.mapped).sum(),
            };
            if sums != *counters {
                wrong.push(format!("volume {mount} counts {counters:?} and has {sums:?}"));
            }
        }
        for (pack, record) in &self.packs {
            let named = self.naming.get(pack).copied().unwrap_or(0);
            if named != record.named {
                wrong.push(format!("{pack:?} is named by {named} records and says {}", record.named));
            }
        }
        wrong.extend(
            self.naming
                .keys()
                .filter(|pack| !self.packs.contains_key(pack))
                .map(|pack| format!("{pack:?} is named and has no record")),
        );
        wrong
    }

    /// The keys of all objects that are named, markers of volumes too.
    pub fn named(&self) -> BTreeSet<String> {
        let mut named: BTreeSet<_> = self.volumes.values().map(|volume| owner_key(*volume)).collect();
        for (at, inode) in &self.inodes {
            let Some(volume) = self.volumes.get(&at.0) else { continue };
            for extent in self.extents(at, inode) {
                let blocks = 0..SliceId::blocks(extent.slice_len);
                named.extend(blocks.map(|block| extent.slice.object_key(*volume, block)));
            }
        }
        named
    }
}
