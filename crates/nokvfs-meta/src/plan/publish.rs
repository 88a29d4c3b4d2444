//! Uploaded bytes become content.

use nokvfs_failpoint::failpoint;
use nokvfs_types::{Applied, BLOCK_SIZE, Event, Extent, FileKind, MetaError, Publish};

use super::body::{SIZE_MAX, chunk_of};
use super::{Plan, allocator};
use crate::service::MetaResult;

/// Most extents of one publish: 16,384 of at most 65 bytes are a megabyte.
const MAX_EXTENTS: usize = 16_384;
/// The longest slice: what bounds the deletion of one.
const MAX_SLICE: u64 = 4096 * BLOCK_SIZE;

impl Plan<'_, '_> {
    pub(super) fn publish(&mut self, publish: &Publish) -> MetaResult<MetaResult<Applied>> {
        check(publish)?;
        self.check_granted(publish)?;
        self.check_packs(&publish.extents)?;
        let inode = publish.inode;
        let Some(mut record) = self.find_inode(inode)? else {
            self.abandon(&publish.extents)?;
            return Ok(Err(MetaError::NotFound));
        };
        if record.kind != FileKind::File {
            return Err(MetaError::Invalid(format!("inode {inode} is no regular file")));
        }
        if let Some(size) = publish.truncate.filter(|size| *size < record.size) {
            if !self.cut(inode, &mut record, size)? {
                self.put_inode(inode, &record)?;
                return Ok(Ok(Applied::Unit));
            }
            record.size = size;
        }
        let before = record.mapped;
        self.published.extend(publish.extents.iter().map(|extent| extent.slice).filter(|slice| !slice.is_pack()));
        self.lay(inode, &mut record, &publish.extents)?;
        failpoint!("plan.laid");
        self.charge_body(&record, record.mapped as i64 - before as i64)?;
        let end = publish.extents.last().map_or(0, Extent::end);
        record.size = record.size.max(publish.size).max(end);
        record.mtime = publish.written;
        record.ctime = record.ctime.max(publish.written);
        self.put_inode(inode, &record)?;
        self.emit(Event::BodyChanged(inode));
        Ok(Ok(self.answer(inode, &record, false)))
    }

    /// Refuses uploads that were never granted: their numbers would be granted later, for other bytes. Those of a volume
    /// that this one was made from are not its to publish.
    fn check_granted(&mut self, publish: &Publish) -> MetaResult<()> {
        let Some(greatest) = publish.extents.iter().map(|extent| extent.slice.upload).max() else { return Ok(()) };
        let next = allocator(self.txn, self.target.mount)?.next_upload;
        let owner = |extent: &Extent| self.target.lineage.owner(extent.slice.upload).0;
        match publish.extents.iter().find(|extent| owner(extent) != self.target.mount) {
            _ if greatest.0 >= next => Err(MetaError::Invalid(format!("upload {greatest} was never granted"))),
            Some(extent) => {
                Err(MetaError::Invalid(format!("{} is of another volume, or of an earlier time", extent.slice)))
            }
            None => Ok(()),
        }
    }
}

fn check(publish: &Publish) -> MetaResult<()> {
    let invalid = |what: &str| Err(MetaError::Invalid(format!("a publish of inode {}: {what}", publish.inode)));
    if publish.extents.len() > MAX_EXTENTS {
        return invalid("more extents than 16,384; publish in steps");
    }
    if publish.size > SIZE_MAX {
        return Err(MetaError::TooLarge);
    }
    let mut at = 0;
    for extent in &publish.extents {
        let Some(end) = extent.offset.checked_add(extent.len).filter(|end| *end <= SIZE_MAX) else {
            return Err(MetaError::TooLarge);
        };
        if extent.len == 0 || extent.offset < at {
            return invalid("extents that are empty, overlap or are not sorted");
        }
        let chunk = chunk_of(extent.offset);
        let own = extent.slice.chunk == chunk && extent.slice.inode == publish.inode;
        if chunk != chunk_of(end - 1) || !(own || extent.slice.is_pack()) {
            return invalid("an extent that crosses a chunk, or a slice of another chunk or inode");
        }
        let inside = extent.slice_offset.checked_add(extent.len).is_some_and(|end| end <= extent.slice_len);
        if !inside || extent.slice_len > MAX_SLICE {
            return invalid("an extent beyond its slice, or a slice of more than 16 GiB");
        }
        at = end;
    }
    Ok(())
}
