//! What bodies can be.

use nokvfs_types::{CHUNK_SIZE, Extent, FileKind, INLINE_EXTENTS, InodeId, MAX_CHUNK_EXTENTS, PACK_SIZE};

use crate::layout::{Body, InodeRecord};
use crate::plan::{SIZE_MAX, chunk_of};

/// What is wrong with an inode record by itself.
pub(super) fn body_of_inode(inode: InodeId, record: &InodeRecord) -> Vec<String> {
    let fits = match record.kind {
        FileKind::File => matches!(record.body, Body::Inline(_) | Body::Chunked),
        FileKind::Symlink => matches!(record.body, Body::Symlink(_)),
        _ => record.body == Body::None,
    };
    if !fits {
        return vec![format!("is a {:?} with another kind's body", record.kind)];
    }
    let Body::Inline(extents) = &record.body else { return Vec::new() };
    let mut wrong = extents_of(inode, None, extents);
    if extents.len() > INLINE_EXTENTS {
        wrong.push(format!("holds {} extents, at most {INLINE_EXTENTS} fit", extents.len()));
    }
    if extents.last().is_some_and(|last| last.end() > record.size) {
        wrong.push(format!("maps bytes beyond its size of {}", record.size));
    }
    let mapped: u64 = extents.iter().map(|extent| extent.len).fold(0, u64::saturating_add);
    if mapped != record.mapped {
        wrong.push(format!("maps {mapped} bytes and says {}", record.mapped));
    }
    wrong
}

/// What is wrong with a chunk record by itself.
pub(super) fn body_of_chunk(inode: InodeId, chunk: u32, extents: &[Extent]) -> Vec<String> {
    let mut wrong = extents_of(inode, Some(chunk), extents);
    if extents.is_empty() || extents.len() > MAX_CHUNK_EXTENTS {
        wrong.push(format!("holds {} extents, 1 to {MAX_CHUNK_EXTENTS} are possible", extents.len()));
    }
    wrong
}

fn extents_of(inode: InodeId, chunk: Option<u32>, extents: &[Extent]) -> Vec<String> {
    let mut at = 0;
    for extent in extents {
        let end = extent.offset.checked_add(extent.len).filter(|end| *end <= SIZE_MAX);
        let Some(end) = end.filter(|end| *end > extent.offset && extent.offset >= at) else {
            return vec![format!("has extents that are empty, overlap or are not sorted at {}", extent.offset)];
        };
        at = end;
        let number = chunk_of(extent.offset);
        if number != chunk_of(end - 1) || chunk.is_some_and(|chunk| chunk != number) {
            return vec![format!(
                "has an extent at {} of {} bytes, outside its chunk of {CHUNK_SIZE}",
                extent.offset, extent.len
            )];
        }
        let own = extent.slice.inode == inode && extent.slice.chunk == number;
        let pack = extent.slice.is_pack() && extent.slice.chunk == 0 && extent.slice_len <= PACK_SIZE;
        if !(own || pack) {
            return vec![format!("names {}, which is another file's or chunk's", extent.slice)];
        }
        if extent.slice_offset.checked_add(extent.len).is_none_or(|end| end > extent.slice_len) {
            return vec![format!("names bytes of {} beyond its end", extent.slice)];
        }
    }
    Vec::new()
}
