//! The end of the engine's log after a power cut.
//!
//! A disk may have the length of a write and not all of its sectors. The engine takes such a record for damage and never
//! opens again. It was not acknowledged: the engine has one record under way at a time, and acknowledges after fsync. So
//! a bad record that no good one follows goes. What was acknowledged and is damaged at the end of the log is in the
//! journal's segments, which the committer compares with the store.
//!
//! The layout is that of the pinned release: a header of 4,096 bytes, then records of magic, length of the body, sequence,
//! kind, body, CRC-32 over all of that, little-endian.

use std::fs::{self, File};
use std::io;
use std::path::Path;

const HEADER: usize = 4096;
const MAGIC: [u8; 4] = 0x5243_4552_u32.to_le_bytes();
/// Magic, length, sequence, kind.
const HEAD: usize = 4 + 4 + 8 + 1;
const SUM: usize = 4;

/// Cuts off a last record that is not whole. Answers whether there was one.
pub(super) fn cut_torn_tail(wal: &Path) -> io::Result<bool> {
    let bytes = fs::read(wal)?;
    let mut at = HEADER;
    while let Some(len) = bytes.get(at..).and_then(whole_record) {
        at += len;
    }
    let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(false) };
    let starts = rest.windows(MAGIC.len()).enumerate().filter(|(_, start)| *start == MAGIC);
    if starts.skip_while(|(start, _)| *start == 0).any(|(start, _)| whole_record(&rest[start..]).is_some()) {
        // Something good follows: this is damage.
        return Ok(false);
    }
    tracing::warn!(bytes = rest.len(), "the log's last record was never finished and goes");
    let file = File::options().write(true).open(wal)?;
    file.set_len(at as u64)?;
    file.sync_all()?;
    Ok(true)
}

/// The length of the record that the bytes begin with, if that is whole.
fn whole_record(bytes: &[u8]) -> Option<usize> {
    let len = bytes.strip_prefix(&MAGIC)?.first_chunk::<4>()?;
    let body = HEAD.checked_add(u32::from_le_bytes(*len) as usize)?;
    let sum = bytes.get(body..)?.first_chunk::<SUM>()?;
    (crc32fast::hash(&bytes[..body]) == u32::from_le_bytes(*sum)).then_some(body + SUM)
}
