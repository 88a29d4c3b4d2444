//! Which objects records name: counted from what a command changes, so that no plan has to think of it.
//!
//! Inode, chunk and history records name slices. A pack has a record that counts those that name it. Of other slices only
//! those are counted that more than one record names, or did once: one that was never shared is named by its own inode
//! or chunk record, or by what that one was, and by nothing else.

use std::collections::BTreeMap;

use nokvfs_types::{Extent, MetaError, MountId, SliceId, VolumeId};

use super::Plan;
use crate::layout::{
    Body, ChunkRecord, Content, Family, GarbageRecord, HistoryRecord, InodeRecord, Key, KeyPrefix, Record, SliceRecord,
    is_file,
};
use crate::service::MetaResult;

/// Slices of one garbage record.
const GARBAGE_SLICES: usize = 1024;
/// Garbage records of one command: their keys are its version times this, and a number below this.
pub(crate) const GARBAGE_RECORDS: u64 = 4096;

const INODE: u8 = Family::Inode as u8;
const CHUNK: u8 = Family::Chunk as u8;
const HISTORY: u8 = Family::History as u8;

/// The slices of extents, each with its greatest length.
pub(super) fn slices<'e>(extents: impl IntoIterator<Item = &'e Extent>) -> BTreeMap<SliceId, u64> {
    let mut slices = BTreeMap::new();
    for extent in extents {
        let len = slices.entry(extent.slice).or_insert(0);
        *len = extent.slice_len.max(*len);
    }
    slices
}

/// Whether records under such a key can name slices.
fn names_slices(key: &[u8]) -> bool {
    matches!(key, [INODE | CHUNK, ..] | [HISTORY, INODE | CHUNK, ..])
}

/// What is stored under a key names these slices.
pub(crate) fn named_in(key: &[u8], content: &Content) -> MetaResult<BTreeMap<SliceId, u64>> {
    let Content::Record(payload) = content else { return Ok(BTreeMap::new()) };
    match key.first() {
        Some(&HISTORY) => named_in(&key[1..], &HistoryRecord::decode(payload)?.content),
        Some(&CHUNK) => Ok(slices(&ChunkRecord::decode(payload)?.extents)),
        Some(&INODE) if is_file(payload) => match InodeRecord::decode(payload)?.body {
            Body::Inline(extents) => Ok(slices(&extents)),
            _ => Ok(BTreeMap::new()),
        },
        _ => Ok(BTreeMap::new()),
    }
}

impl Plan<'_, '_> {
    /// Counts what records name more, or less, after this command.
    pub(super) fn count_references(&mut self) -> MetaResult<()> {
        let mut net: BTreeMap<SliceId, (u64, i64)> = BTreeMap::new();
        for (key, before, after) in self.txn.changes(names_slices) {
            for (content, one) in [(before, -1), (after, 1)] {
                let Some(content) = content else { continue };
                for (slice, len) in named_in(key, content)? {
                    let (most, change) = net.entry(slice).or_insert((0, 0));
                    *most = len.max(*most);
                    *change += one;
                }
            }
        }
        let Plan { whole, target, published, .. } = &*self;
        net.retain(|slice, (_, change)| {
            // What is published may have become longer.
            let counts = *change != 0 || published.contains(slice);
            counts && !(*whole && target.lineage.owner(slice.upload).1 == target.id)
        });
        net.into_iter().try_for_each(|(slice, (len, change))| match slice.is_pack() {
            true => self.count_pack(slice, len, change),
            false => self.count_slice(slice, len, change),
        })
    }

    fn count_slice(&mut self, slice: SliceId, len: u64, change: i64) -> MetaResult<()> {
        let (mount, volume) = self.target.lineage.owner(slice.upload);
        let key = Key::Slice(mount, slice);
        let counted = self.txn.get::<SliceRecord>(&key)?;
        let before = match counted {
            Some(record) => record,
            None if change > 0 && self.published.contains(&slice) => self.named_in_history(&slice)?,
            None => SliceRecord { named: 1, len },
        };
        let named = u32::try_from(i64::from(before.named) + change)
            .map_err(|_| MetaError::Corrupt(format!("{slice} is named by {} records, then {change}", before.named)))?;
        let after = SliceRecord { named, len: len.max(before.len) };
        if after != before && (counted.is_some() || named > 1) {
            self.txn.put(&key, &after)?;
        }
        if named == 0 {
            self.garbage.push((mount, volume, slice, after.len));
        }
        Ok(())
    }

    /// How history names a slice that a client publishes and nothing counts: it did so before, and did not hear of it.
    fn named_in_history(&mut self, slice: &SliceId) -> MetaResult<SliceRecord> {
        let mut record = SliceRecord { named: 0, len: 0 };
        if !self.target.has_history {
            return Ok(record);
        }
        let mount = self.target.mount;
        for key in [Key::Inode(mount, slice.inode), Key::Chunk(mount, slice.inode, slice.chunk)] {
            let key = key.encode();
            let mut contents = Vec::new();
            let prefix = KeyPrefix::history_of_key(&key);
            // No more than pins.
            self.txn.scan::<HistoryRecord>(&prefix, None, usize::MAX, |_, was| contents.push(was.content))?;
            for content in contents {
                if let Some(len) = named_in(&key, &content)?.get(slice) {
                    record = SliceRecord { named: 1, len: record.len.max(*len) };
                }
            }
        }
        Ok(record)
    }

    /// The file of these uploads is gone, or not there yet: its mount may make it again and publish them then. If not, it
    /// deletes them, or the sweep of its session does; a pack goes by its record once it is settled.
    pub(super) fn abandon(&mut self, extents: &[Extent]) -> MetaResult<()> {
        slices(extents)
            .into_iter()
            .filter(|(slice, _)| slice.is_pack())
            .try_for_each(|(slice, len)| self.count_pack(slice, len, 0))
    }

    /// Stages what the garbage worker has to delete; answers whether there is any.
    pub(super) fn put_garbage(&mut self) -> MetaResult<bool> {
        let mut owners: BTreeMap<(MountId, VolumeId), Vec<(SliceId, u64)>> = BTreeMap::new();
        for (mount, volume, slice, len) in std::mem::take(&mut self.garbage) {
            owners.entry((mount, volume)).or_default().push((slice, len));
        }
        let mut number = 0;
        for ((mount, volume), slices) in &owners {
            for slices in slices.chunks(GARBAGE_SLICES) {
                let record = GarbageRecord { mount: *mount, volume: *volume, slices: slices.to_vec() };
                // Versions stay far below 2^52: at a million commits a second that takes a century.
                self.txn.put(&Key::Garbage(self.txn.version().0 * GARBAGE_RECORDS + number), &record)?;
                number += 1;
            }
        }
        Ok(number > 0)
    }
}
