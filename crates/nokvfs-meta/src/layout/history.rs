//! Records of what was: history, the pins that keep it, and how many records name a slice.

use nokvfs_types::{Timestamp, Version};

use super::codec::{Content, Reader, Record, put_bytes, put_time, put_u32, put_u64};
use super::key::Family;
use crate::service::MetaResult;

/// What was stored under a key until a commit; that one is in the record's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRecord {
    /// The commit that wrote it.
    pub version: Version,
    /// What it was.
    pub content: Content,
}

impl Record for HistoryRecord {
    const FAMILY: Family = Family::History;

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.version.0);
        match &self.content {
            Content::Record(payload) => {
                out.push(1);
                out.extend_from_slice(payload);
            }
            Content::Removed => out.push(2),
        }
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("history record", payload);
        let version = Version(from.u64()?);
        let content = match from.u8()? {
            1 => Content::Record(from.rest().to_vec()),
            2 => Content::Removed,
            _ => return Err(from.corrupt()),
        };
        from.finish(HistoryRecord { version, content })
    }
}

/// A snapshot that a pin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Name in the volume.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A moment of a volume that is kept: for a snapshot, for clones, or for both. Its commit is in its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinRecord {
    /// The snapshot, until it is deleted.
    pub snapshot: Option<SnapshotRecord>,
    /// Volumes whose nearest base it is.
    pub clones: u32,
    /// Mapped bytes of all that has a name.
    pub bytes: u64,
    /// Inodes that have a name.
    pub inodes: u64,
    /// The first inode number that was not given out.
    pub next_inode: u64,
    /// The first upload that was not granted.
    pub next_upload: u64,
}

impl Record for PinRecord {
    const FAMILY: Family = Family::Pin;

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.snapshot {
            None => out.push(0),
            Some(snapshot) => {
                out.push(1);
                put_bytes(out, snapshot.name.as_bytes());
                put_time(out, snapshot.created);
            }
        }
        put_u32(out, self.clones);
        for value in [self.bytes, self.inodes, self.next_inode, self.next_upload] {
            put_u64(out, value);
        }
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("pin record", payload);
        let snapshot = match from.bool()? {
            false => None,
            true => Some(SnapshotRecord { name: from.string()?, created: from.time()? }),
        };
        let record = PinRecord {
            snapshot,
            clones: from.u32()?,
            bytes: from.u64()?,
            inodes: from.u64()?,
            next_inode: from.u64()?,
            next_upload: from.u64()?,
        };
        from.finish(record)
    }
}

/// How many records name a slice. Made when a second one does, or the last of several no longer does; a slice that was
/// never shared has none, and is named by its own inode or chunk record alone, or by what one of the two was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceRecord {
    /// Inode, chunk and history records that name it. At 0 it is garbage, and this goes with its objects.
    pub named: u32,
    /// The longest that one of them ever made it, in bytes.
    pub len: u64,
}

impl Record for SliceRecord {
    const FAMILY: Family = Family::Slice;

    fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.named);
        put_u64(out, self.len);
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("slice record", payload);
        let record = SliceRecord { named: from.u32()?, len: from.u64()? };
        from.finish(record)
    }
}
