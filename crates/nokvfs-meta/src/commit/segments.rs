//! The journal beyond the engine's log: bounded files of finished entries.
//!
//! A segment is `<sequence before it, 20 digits>.journal`: magic, the position before its first entry, then frames of
//! length, position after the entry, payload, CRC32C over all of that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use nokvfs_failpoint::failpoint;
use nokvfs_types::MetaError;

use super::journal::{JournalBatch, verify};
use crate::service::MetaResult;
use crate::store::{Anchor, Base, Batch, Change, Envelope, MetaStore};

const MAGIC: &[u8; 8] = b"NOKVJNL1";
/// Magic, sequence, digest, CRC32C.
const HEADER: usize = 8 + 8 + 32 + 4;
/// Length, sequence, digest.
const FRAME_HEAD: usize = 4 + 8 + 32;
/// A segment is closed when it is longer; one batch may pass it.
const SEGMENT: u64 = 16 << 20;
/// No entry is longer: the engine's limit.
const MAX_PAYLOAD: usize = 16 << 20;

/// Writes segments.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    limit: u64,
    end: Anchor,
    file: Option<(File, u64)>,
}

fn failed(path: &Path, error: io::Error) -> MetaError {
    MetaError::Unavailable(format!("can't keep the journal in {}: {error}; check the disk", path.display()))
}

impl Segments {
    /// Opens the directory. What a crash left half-written is cut off; it is still in the engine's log.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if the directory can't be used.
    pub fn open(dir: impl Into<PathBuf>, limit: u64) -> MetaResult<Segments> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(|error| failed(&dir, error))?;
        // Its own name; those of the segments are synced one by one.
        let named = dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all());
        named.map_err(|error| failed(&dir, error))?;
        let mut segments = Segments { end: Anchor { sequence: 0, digest: [0; 32] }, file: None, limit, dir };
        while let Some((_, path)) = list(&segments.dir)?.pop() {
            let Ok(mut reader) = SegmentReader::open(&path) else {
                fs::remove_file(&path).map_err(|error| failed(&path, error))?;
                continue;
            };
            while let Ok(Some(_)) = reader.next_envelope() {}
            let len = reader.valid;
            let file = OpenOptions::new().append(true).open(&path).map_err(|error| failed(&path, error))?;
            file.set_len(len).map_err(|error| failed(&path, error))?;
            segments.end = reader.end;
            segments.file = Some((file, len));
            break;
        }
        Ok(segments)
    }

    /// The position after the last entry.
    pub fn end(&self) -> Anchor {
        self.end
    }

    /// Gives the store what it lost. An entry comes here once it is durable in the store, so one that is beyond the store's
    /// end was there: its log was damaged, or it is an older copy.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] if the entries do not go on from where the store ends; what the store answers.
    pub fn restore(&self, store: &dyn MetaStore) -> MetaResult<()> {
        let (_, mut tail) = store.journal()?;
        if self.end.sequence <= tail.sequence {
            return Ok(());
        }
        tracing::error!(
            store = tail.sequence,
            journal = self.end.sequence,
            "the store lost commits; the journal has them"
        );
        for (number, path) in list(&self.dir)? {
            if number > tail.sequence {
                break;
            }
            let mut reader = SegmentReader::open(&path)?;
            while let Some(envelope) = reader.next_envelope()? {
                if envelope.previous == tail {
                    tail = envelope.current;
                    let batch = again(envelope)?;
                    store.commit(&batch).map_err(|error| MetaError::Unavailable(error.to_string()))?;
                }
            }
        }
        if tail == self.end {
            return Ok(());
        }
        Err(MetaError::Corrupt(format!(
            "the metadata store: it ends after batch {} and the journal in {} after {}, with a gap or another history \
             between them. Bring the right store back, or move that folder away to go on without what is lost",
            tail.sequence,
            self.dir.display(),
            self.end.sequence
        )))
    }

    /// Fetches what the engine's log has beyond the segments. After a gap (segments that were lost) it starts anew at
    /// the log's start.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if it can't be kept; what the store answers.
    pub fn catch_up(&mut self, store: &dyn MetaStore) -> MetaResult<()> {
        let (checkpoint, tail) = store.journal()?;
        if self.end.sequence < checkpoint.sequence || self.end.sequence > tail.sequence {
            tracing::warn!(
                segments = self.end.sequence,
                log = checkpoint.sequence,
                "the journal's segments do not reach the log; watchers start anew"
            );
            self.file = None;
            self.end = checkpoint;
            for (number, path) in list(&self.dir)? {
                if number >= checkpoint.sequence {
                    fs::remove_file(&path).map_err(|error| failed(&path, error))?;
                }
            }
        }
        while self.end.sequence < tail.sequence {
            let envelopes = store.envelopes_after(self.end)?;
            if envelopes.is_empty() {
                return Err(MetaError::Internal("the log ends before its tail; restart the server".into()));
            }
            for envelope in &envelopes {
                self.append(envelope)?;
            }
        }
        Ok(())
    }

    /// Adds an entry; durable after [`Segments::sync`]. One that does not follow the end is left to
    /// [`Segments::catch_up`].
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if it can't be written.
    pub fn append(&mut self, envelope: &Envelope) -> MetaResult<()> {
        if envelope.previous != self.end {
            return Ok(());
        }
        let outcome = self.write(envelope);
        if outcome.is_err() {
            // A half-written frame may be at the end: go on in a new file, which the reader of the old one finds.
            self.file = None;
        }
        outcome
    }

    fn write(&mut self, envelope: &Envelope) -> MetaResult<()> {
        if self.file.as_ref().is_none_or(|(_, len)| *len >= SEGMENT) {
            self.rotate()?;
        }
        let frame = frame(envelope);
        let dir = &self.dir;
        let Some((file, len)) = &mut self.file else {
            return Err(MetaError::Internal("the journal has no open segment".into()));
        };
        failpoint!("segment.appending");
        file.write_all(&frame).map_err(|error| failed(dir, error))?;
        failpoint!("segment.appended");
        *len += frame.len() as u64;
        self.end = envelope.current;
        Ok(())
    }

    /// Makes all entries durable.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if the disk fails.
    pub fn sync(&mut self) -> MetaResult<()> {
        failpoint!("segment.syncing");
        if let Some((file, _)) = &self.file
            && let Err(error) = file.sync_data()
        {
            // After a failed fsync nobody knows what the file has: write the entries again elsewhere.
            self.file = None;
            self.end = Anchor { sequence: 0, digest: [0; 32] };
            return Err(failed(&self.dir, error));
        }
        Ok(())
    }

    fn rotate(&mut self) -> MetaResult<()> {
        self.sync()?;
        let path = self.dir.join(format!("{:020}.journal", self.end.sequence));
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&self.end.sequence.to_le_bytes());
        header.extend_from_slice(&self.end.digest);
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        let start = || -> io::Result<File> {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
            failpoint!("segment.made");
            file.write_all(&header)?;
            failpoint!("segment.begun");
            file.sync_data()?;
            File::open(&self.dir)?.sync_all()?;
            Ok(file)
        };
        self.file = Some((start().map_err(|error| failed(&path, error))?, HEADER as u64));
        self.drop_oldest()
    }

    fn drop_oldest(&self) -> MetaResult<()> {
        failpoint!("segment.rotated");
        let mut files = Vec::new();
        for (_, path) in list(&self.dir)? {
            let len = fs::metadata(&path).map_err(|error| failed(&path, error))?.len();
            files.push((path, len));
        }
        let mut total: u64 = files.iter().map(|(_, len)| len).sum();
        files.pop();
        for (path, len) in files {
            if total <= self.limit {
                break;
            }
            fs::remove_file(&path).map_err(|error| failed(&path, error))?;
            total -= len;
        }
        Ok(())
    }
}

/// The batch of an entry, for a store that is as it was before it.
fn again(envelope: Envelope) -> MetaResult<Batch> {
    let changes = JournalBatch::decode(&envelope.payload)?.changes;
    let change = |(tree, key, value)| Change { tree, key, base: Base::Unread, value };
    Ok(Batch { guards: Vec::new(), changes: changes.into_iter().map(change).collect(), envelope })
}

fn frame(envelope: &Envelope) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_HEAD + envelope.payload.len() + 4);
    frame.extend_from_slice(&(envelope.payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(&envelope.current.sequence.to_le_bytes());
    frame.extend_from_slice(&envelope.current.digest);
    frame.extend_from_slice(&envelope.payload);
    frame.extend_from_slice(&crc32c::crc32c(&frame).to_le_bytes());
    frame
}

/// Segments by the sequence before their first entry.
fn list(dir: &Path) -> MetaResult<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| failed(dir, error))? {
        let path = entry.map_err(|error| failed(dir, error))?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".journal"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads one segment.
#[derive(Debug)]
pub struct SegmentReader {
    file: BufReader<File>,
    path: PathBuf,
    end: Anchor,
    valid: u64,
}

impl SegmentReader {
    /// The segments of a directory in order, each by the sequence before its first entry.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if the directory can't be read.
    pub fn list(dir: &Path) -> MetaResult<Vec<(u64, PathBuf)>> {
        list(dir)
    }

    /// Opens a segment.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] if its header is damaged.
    pub fn open(path: &Path) -> MetaResult<SegmentReader> {
        let corrupt = || MetaError::Corrupt(format!("the header of journal segment {}", path.display()));
        let mut file = BufReader::new(File::open(path).map_err(|error| failed(path, error))?);
        let mut header = [0; HEADER];
        file.read_exact(&mut header).map_err(|_| corrupt())?;
        let (body, sum) = header.split_last_chunk::<4>().ok_or_else(corrupt)?;
        if !body.starts_with(MAGIC) || crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
            return Err(corrupt());
        }
        let (sequence, digest) = position(&body[8..]).ok_or_else(corrupt)?;
        Ok(SegmentReader { file, path: path.to_owned(), end: Anchor { sequence, digest }, valid: HEADER as u64 })
    }

    /// The next entry; `None` at the end of the file.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] if it is damaged or was never finished.
    pub fn next_envelope(&mut self) -> MetaResult<Option<Envelope>> {
        let corrupt = |reader: &Self| {
            MetaError::Corrupt(format!("journal segment {} after entry {}", reader.path.display(), reader.end.sequence))
        };
        let mut head = [0; FRAME_HEAD];
        if self.file.fill_buf().map_err(|error| failed(&self.path, error))?.is_empty() {
            return Ok(None);
        }
        self.file.read_exact(&mut head).map_err(|_| corrupt(self))?;
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if len > MAX_PAYLOAD {
            return Err(corrupt(self));
        }
        let mut rest = vec![0; len + 4];
        self.file.read_exact(&mut rest).map_err(|_| corrupt(self))?;
        let sum = rest.split_off(len);
        if crc32c::crc32c_append(crc32c::crc32c(&head), &rest).to_le_bytes() != sum[..] {
            return Err(corrupt(self));
        }
        let (sequence, digest) = position(&head[4..]).ok_or_else(|| corrupt(self))?;
        let envelope = Envelope { previous: self.end, current: Anchor { sequence, digest }, payload: rest };
        verify(&envelope)?;
        self.end = envelope.current;
        self.valid += (FRAME_HEAD + len + 4) as u64;
        Ok(Some(envelope))
    }
}

fn position(bytes: &[u8]) -> Option<(u64, [u8; 32])> {
    let (sequence, rest) = bytes.split_first_chunk::<8>()?;
    let (digest, _) = rest.split_first_chunk::<32>()?;
    Some((u64::from_le_bytes(*sequence), *digest))
}
