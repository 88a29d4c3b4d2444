//! Granting upload ids.

use nokvfs_failpoint::failpoint;
use nokvfs_types::{Applied, MetaError, SessionId, UploadId};

use crate::commit::Txn;
use crate::layout::{Key, SessionRecord};
use crate::plan::allocator;
use crate::service::MetaResult;

/// Most ids of one request.
const MAX_COUNT: u32 = 65_536;
/// Most ranges of unsettled ids of a session: 32 KiB of its record.
const MAX_RANGES: usize = 2048;

/// Grants ids (or none) and drops those that are settled. A range that is dropped is never swept.
pub(super) fn reserve(
    txn: &mut Txn<'_>,
    session: SessionId,
    record: &mut SessionRecord,
    count: u32,
    settled: UploadId,
) -> MetaResult<Applied> {
    if count > MAX_COUNT {
        return Err(MetaError::Invalid(format!("{count} upload ids, at most {MAX_COUNT} are granted at once")));
    }
    let mut allocator = allocator(txn, record.mount)?;
    let first = UploadId(allocator.next_upload);
    allocator.next_upload += u64::from(count);
    let end = UploadId(allocator.next_upload);
    txn.put(&Key::Allocator(record.mount), &allocator)?;
    record.uploads.retain(|(_, end)| *end > settled);
    if let Some((start, _)) = record.uploads.first_mut() {
        *start = settled.max(*start);
    }
    match record.uploads.last_mut() {
        // Nobody else was granted any in between.
        Some((_, last)) if *last == first => *last = end,
        _ if count > 0 => record.uploads.push((first, end)),
        _ => {}
    }
    if record.uploads.len() > MAX_RANGES {
        return Err(MetaError::Busy(
            "too many uploads are unsettled; close or sync files that are open for long".into(),
        ));
    }
    failpoint!("uploads.granted");
    txn.put(&Key::Session(session), record)?;
    Ok(Applied::Uploads { first, count })
}
