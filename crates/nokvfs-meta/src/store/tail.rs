//! The end of the engine's log after a power cut.
//!
//! A disk may have the length of a write and not all of its sectors. The engine takes such a record for damage and never
//! opens again. It was not acknowledged: the engine has one record under way at a time, and acknowledges after fsync. So
//! a bad record that no good one follows goes. What was acknowledged and is damaged at the end of the log is in the
//! journal's segments, which the committer compares with the store.
//!
//! Likewise a log whose header never arrived, in a store that was about to be made: it goes as a whole.
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
const MAP_MAGIC: [u8; 4] = *b"MLG1";
/// Magic, length, kind.
const MAP_HEAD: usize = 4 + 4 + 1;
/// What a disk writes as a whole at least.
const SECTOR: usize = 512;

/// Makes the log whole again, where a power cut left it so. Answers whether that was it.
pub(super) fn mend_log(dir: &Path) -> io::Result<bool> {
    let wal = dir.join("journal.wal");
    let bytes = fs::read(&wal)?;
    if bytes.len() <= HEADER && !has_map(dir)? {
        tracing::warn!("a store whose making was cut off is made again");
        fs::remove_file(&wal)?;
        return File::open(dir)?.sync_all().map(|()| true);
    }
    cut_torn_tail(&wal, &bytes)
}

/// Cuts the log of the engine's map where a sector of its last write never arrived: it is all zeros. Any other damage stays,
/// and is refused. Answers whether there was such a hole.
///
/// Its records are magic, length of the body, kind, body, CRC-32 over all of that.
pub(super) fn mend_map(dir: &Path) -> io::Result<bool> {
    let map = dir.join("manifest.log");
    if !map.try_exists()? {
        return Ok(false);
    }
    let bytes = fs::read(&map)?;
    let mut at = 0;
    while let Some(len) = bytes.get(at..).and_then(|rest| whole(rest, &MAP_MAGIC, MAP_HEAD)) {
        at += len;
    }
    let sector = at.next_multiple_of(SECTOR).min(bytes.len());
    let end = (sector + SECTOR).min(bytes.len());
    let is_hole = |hole: &[u8]| !hole.is_empty() && hole.iter().all(|byte| *byte == 0);
    if !is_hole(&bytes[at..sector]) && !is_hole(&bytes[sector..end]) {
        return Ok(false);
    }
    tracing::warn!(bytes = bytes.len() - at, "the map's last records were never finished and go");
    let file = File::options().write(true).open(map)?;
    file.set_len(at as u64)?;
    file.sync_all()?;
    Ok(true)
}

/// Whether the store has a map of its frames: it has held something, or its log does.
fn has_map(dir: &Path) -> io::Result<bool> {
    for name in ["manifest.bin", "manifest.log"] {
        match fs::metadata(dir.join(name)) {
            Ok(map) if map.len() > 0 => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// Cuts off a last record that is not whole. Answers whether there was one.
fn cut_torn_tail(wal: &Path, bytes: &[u8]) -> io::Result<bool> {
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

fn whole_record(bytes: &[u8]) -> Option<usize> {
    whole(bytes, &MAGIC, HEAD)
}

/// The length of the record that the bytes begin with, if that is whole.
fn whole(bytes: &[u8], magic: &[u8; 4], head: usize) -> Option<usize> {
    let len = bytes.strip_prefix(magic)?.first_chunk::<4>()?;
    let body = head.checked_add(u32::from_le_bytes(*len) as usize)?;
    let sum = bytes.get(body..)?.first_chunk::<SUM>()?;
    (crc32fast::hash(&bytes[..body]) == u32::from_le_bytes(*sum)).then_some(body + SUM)
}
