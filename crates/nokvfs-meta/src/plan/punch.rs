//! Ranges that are allocated or unmapped (fallocate(2)).

use nokvfs_types::{Applied, CHUNK_SIZE, Event, Extent, Fallocate, FileKind, INLINE_EXTENTS, InodeId, MetaError};

use super::Plan;
use super::body::{REMOVE_COST, SCAN, SIZE_MAX, chunk_of, mapped};
use crate::layout::{Body, ChunkRecord, InodeRecord, Key, KeyPrefix};
use crate::service::MetaResult;

impl Plan<'_, '_> {
    pub(super) fn fallocate(&mut self, wanted: &Fallocate) -> MetaResult<Applied> {
        let Fallocate { inode, offset, len, unmap, size } = *wanted;
        let mut record = self.inode(inode)?;
        if record.kind != FileKind::File {
            return Err(MetaError::Invalid(format!("inode {inode} is no regular file")));
        }
        if len == 0 {
            return Err(MetaError::Invalid("an empty range to allocate; give at least one byte".into()));
        }
        let end = offset.checked_add(len).filter(|end| *end.max(&size) <= SIZE_MAX).ok_or(MetaError::TooLarge)?;
        if !unmap {
            // What the file maps elsewhere counts for the range: it is refused only where it can't fit.
            let missing = len.saturating_sub(record.mapped) as i64;
            self.charge(missing, 0)?;
            self.charge(-missing, 0)?;
        } else if !self.unmap(inode, &mut record, offset, end)? {
            self.put_inode(inode, &record)?;
            self.more = true;
            return Ok(Applied::Unit);
        }
        record.size = record.size.max(size);
        record.mtime = self.now();
        record.ctime = record.mtime;
        self.put_inode(inode, &record)?;
        self.emit(Event::BodyChanged(inode));
        Ok(self.answer(inode, &record, false))
    }

    /// Makes a range a hole and gives back what it was charged. If that takes more than one command allows, the front
    /// of the range is unmapped as far as possible and the answer is `false`.
    fn unmap(&mut self, inode: InodeId, record: &mut InodeRecord, from: u64, to: u64) -> MetaResult<bool> {
        let before = record.mapped;
        let mut done = true;
        match std::mem::replace(&mut record.body, Body::None) {
            Body::Inline(old) => {
                let new = without(&old, from, to);
                record.mapped = mapped(&new);
                if new.len() <= INLINE_EXTENTS {
                    record.body = Body::Inline(new);
                } else {
                    let mut chunks = new.chunk_by(|a, b| chunk_of(a.offset) == chunk_of(b.offset));
                    chunks.try_for_each(|chunk| self.put_chunk(inode, chunk.to_vec()))?;
                    record.body = Body::Chunked;
                }
            }
            Body::Chunked => {
                done = self.unmap_chunks(inode, record, from, to)?;
                record.body = if record.mapped == 0 { Body::Inline(Vec::new()) } else { Body::Chunked };
            }
            other => record.body = other,
        }
        self.charge_body(record, record.mapped as i64 - before as i64)?;
        Ok(done)
    }

    /// Unmaps a range of chunk records, from its front as many as one command can; answers whether that was all.
    fn unmap_chunks(&mut self, inode: InodeId, record: &mut InodeRecord, from: u64, to: u64) -> MetaResult<bool> {
        let mount = self.target.mount;
        let prefix = KeyPrefix::chunks_from(mount, inode, chunk_of(from));
        let mut cost = 0;
        let mut after = None;
        loop {
            let mut page = Vec::new();
            let count =
                self.txn.scan::<ChunkRecord>(&prefix, after.clone(), SCAN, |key, chunk| page.push((key, chunk)))?;
            after = page.last().map(|(key, _)| key.clone());
            for (key, chunk) in page {
                let Key::Chunk(_, _, number) = key else { continue };
                if u64::from(number) * CHUNK_SIZE >= to {
                    return Ok(true);
                }
                let new = without(&chunk.extents, from, to);
                let freed = mapped(&chunk.extents) - mapped(&new);
                if freed == 0 {
                    continue;
                }
                if cost > REMOVE_COST {
                    return Ok(false);
                }
                cost += self.chunk_cost(&chunk);
                record.mapped = record.mapped.saturating_sub(freed);
                if new.is_empty() {
                    self.txn.delete(&key)?;
                } else {
                    self.put_chunk(inode, new)?;
                }
            }
            if count < SCAN {
                return Ok(true);
            }
        }
    }
}

/// What is left of extents outside a range.
fn without(extents: &[Extent], from: u64, to: u64) -> Vec<Extent> {
    extents.iter().flat_map(|extent| [extent.clip(0, from), extent.clip(to, u64::MAX)]).flatten().collect()
}
