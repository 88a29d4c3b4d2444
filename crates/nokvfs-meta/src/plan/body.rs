//! Extents: cutting and laying over.

use std::collections::VecDeque;

use nokvfs_types::{CHUNK_SIZE, Extent, InodeId, MAX_CHUNK_EXTENTS, MetaError};

use super::Plan;
use super::references::slices;
use crate::layout::{Body, ChunkRecord, InodeRecord, Key, KeyPrefix};
use crate::service::MetaResult;

/// The longest file: chunk numbers have 32 bits.
pub(crate) const SIZE_MAX: u64 = CHUNK_SIZE << 32;
/// What the chunks that one command removes may cost, in bytes: two thirds of the most that a command may have.
pub(super) const REMOVE_COST: usize = 4 << 20;
/// What a removed chunk costs without its slices: key, guard and framing.
const CHUNK_COST: usize = 128;
/// What a slice costs in a garbage record.
const SLICE_COST: usize = 32;
/// What it costs besides where history keeps it: its extent, and the record that counts it.
const HISTORY_COST: usize = 160;
/// Chunk records of one scan.
pub(super) const SCAN: usize = 256;

/// The chunk of a file offset.
pub(crate) fn chunk_of(offset: u64) -> u32 {
    u32::try_from(offset / CHUNK_SIZE).unwrap_or(u32::MAX)
}

/// Bytes that extents map.
pub(super) fn mapped(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.len).sum()
}

/// What is left in front of `size`.
pub(super) fn cut(extents: &[Extent], size: u64) -> Vec<Extent> {
    extents.iter().filter_map(|extent| extent.clip(0, size)).collect()
}

/// Lays `fresh` over `old`. Both are sorted and without overlap; so is the result, with neighbours joined that go on
/// in the same slice.
pub(super) fn overlay(old: &[Extent], fresh: &[Extent]) -> Vec<Extent> {
    let mut pieces = Vec::with_capacity(old.len() + fresh.len());
    for extent in old {
        let mut at = extent.offset;
        let first = fresh.partition_point(|over| over.end() <= extent.offset);
        for over in fresh[first..].iter().take_while(|over| over.offset < extent.end()) {
            pieces.extend(extent.clip(at, over.offset));
            at = over.end();
        }
        pieces.extend(extent.clip(at, extent.end()));
    }
    pieces.extend_from_slice(fresh);
    pieces.sort_unstable_by_key(|extent| extent.offset);
    let lens = slices(old.iter().chain(fresh));
    let mut joined: Vec<Extent> = Vec::with_capacity(pieces.len());
    for mut extent in pieces {
        // A slice may have grown since an older extent of it was published; its whole blocks stayed what they were.
        extent.slice_len = lens.get(&extent.slice).copied().unwrap_or(extent.slice_len);
        match joined.last_mut() {
            Some(last)
                if last.end() == extent.offset
                    && last.slice == extent.slice
                    && last.slice_offset + last.len == extent.slice_offset =>
            {
                last.len += extent.len;
            }
            _ => joined.push(extent),
        }
    }
    joined
}

impl Plan<'_, '_> {
    /// Cuts a body to `size` and charges for it. If that takes more than one command allows, the end of the file is
    /// cut as far as possible, `size` and `more` tell so, and the answer is `false`.
    pub(super) fn cut(&mut self, inode: InodeId, record: &mut InodeRecord, size: u64) -> MetaResult<bool> {
        if size >= record.size {
            return Ok(true);
        }
        let before = record.mapped;
        let mut done = true;
        match std::mem::replace(&mut record.body, Body::None) {
            Body::Inline(old) => {
                let new = cut(&old, size);
                record.mapped = mapped(&new);
                record.body = Body::Inline(new);
            }
            Body::Chunked => {
                record.body = Body::Chunked;
                let reached = self.cut_chunks(inode, record, size)?;
                if reached > size {
                    record.size = reached;
                    self.more = true;
                    done = false;
                }
                if record.mapped == 0 {
                    record.body = Body::Inline(Vec::new());
                }
            }
            other => record.body = other,
        }
        self.charge_body(record, record.mapped as i64 - before as i64)?;
        Ok(done)
    }

    /// Cuts the chunks after `size`, from the end as many as one command can; answers the size that was reached.
    fn cut_chunks(&mut self, inode: InodeId, record: &mut InodeRecord, size: u64) -> MetaResult<u64> {
        let mount = self.target.mount;
        let prefix = KeyPrefix::chunks_from(mount, inode, chunk_of(size));
        let mut last: VecDeque<(u32, ChunkRecord)> = VecDeque::new();
        let (mut cost, mut complete) = (0, true);
        let mut after = None;
        loop {
            let mut page = Vec::new();
            let count =
                self.txn.scan::<ChunkRecord>(&prefix, after.clone(), SCAN, |key, chunk| page.push((key, chunk)))?;
            after = page.last().map(|(key, _)| key.clone());
            for (key, chunk) in page {
                let Key::Chunk(_, _, number) = key else { continue };
                cost += self.chunk_cost(&chunk);
                last.push_back((number, chunk));
                while cost > REMOVE_COST && last.len() > 1 {
                    if let Some((_, dropped)) = last.pop_front() {
                        cost -= self.chunk_cost(&dropped);
                        complete = false;
                    }
                }
            }
            if count < SCAN {
                break;
            }
        }
        let reached = match last.front() {
            Some((number, _)) if !complete => u64::from(*number) * CHUNK_SIZE,
            _ => size,
        };
        for (number, chunk) in last {
            let key = Key::Chunk(mount, inode, number);
            let new = cut(&chunk.extents, reached);
            record.mapped = record.mapped.saturating_sub(mapped(&chunk.extents) - mapped(&new));
            if new.is_empty() {
                self.txn.delete(&key)?;
            } else {
                self.txn.put(&key, &ChunkRecord { extents: new })?;
            }
        }
        Ok(reached)
    }

    /// Lays extents over a body, which moves to chunk records when it gets too long.
    pub(super) fn lay(&mut self, inode: InodeId, record: &mut InodeRecord, fresh: &[Extent]) -> MetaResult<()> {
        if fresh.is_empty() {
            return Ok(());
        }
        match std::mem::replace(&mut record.body, Body::Chunked) {
            Body::Inline(old) => {
                let new = overlay(&old, fresh);
                record.mapped = mapped(&new);
                if new.len() <= nokvfs_types::INLINE_EXTENTS {
                    record.body = Body::Inline(new);
                } else {
                    for chunk in new.chunk_by(|a, b| chunk_of(a.offset) == chunk_of(b.offset)) {
                        self.put_chunk(inode, chunk.to_vec())?;
                    }
                }
            }
            _ => {
                for fresh in fresh.chunk_by(|a, b| chunk_of(a.offset) == chunk_of(b.offset)) {
                    let key = Key::Chunk(self.target.mount, inode, chunk_of(fresh[0].offset));
                    let old = self.txn.get::<ChunkRecord>(&key)?.map_or_else(Vec::new, |chunk| chunk.extents);
                    let new = overlay(&old, fresh);
                    record.mapped = (record.mapped + mapped(&new)).saturating_sub(mapped(&old));
                    self.put_chunk(inode, new)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn put_chunk(&mut self, inode: InodeId, extents: Vec<Extent>) -> MetaResult<()> {
        let Some(first) = extents.first() else { return Ok(()) };
        let chunk = chunk_of(first.offset);
        if extents.len() > MAX_CHUNK_EXTENTS {
            return Err(MetaError::TooFragmented(chunk));
        }
        self.txn.put(&Key::Chunk(self.target.mount, inode, chunk), &ChunkRecord { extents })
    }

    /// What a command may grow by when it changes a chunk.
    pub(super) fn chunk_cost(&self, chunk: &ChunkRecord) -> usize {
        let shared = self.target.pinned.0 > 0 || self.target.lineage.has_base();
        let each = if shared { SLICE_COST + HISTORY_COST } else { SLICE_COST };
        CHUNK_COST + chunk.extents.len() * each
    }

    /// Removes chunks from the front, as many as one command can; answers the mapped bytes that went and whether none
    /// are left. For bodies that nobody can read any more.
    pub(super) fn remove_chunks(&mut self, inode: InodeId) -> MetaResult<(u64, bool)> {
        let prefix = KeyPrefix::chunks(self.target.mount, inode);
        let (mut cost, mut removed) = (0, 0);
        let mut after = None;
        while cost < REMOVE_COST {
            let mut page = Vec::new();
            // Those that are staged to go need not be passed again and again.
            self.txn.scan::<ChunkRecord>(&prefix, after, SCAN, |key, chunk| page.push((key, chunk)))?;
            after = page.last().map(|(key, _)| key.clone());
            if page.is_empty() {
                return Ok((removed, true));
            }
            for (key, chunk) in page {
                if cost >= REMOVE_COST {
                    break;
                }
                cost += self.chunk_cost(&chunk);
                removed += mapped(&chunk.extents);
                self.txn.delete(&key)?;
            }
        }
        Ok((removed, false))
    }
}
