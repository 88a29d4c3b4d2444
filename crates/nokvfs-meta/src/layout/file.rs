//! Records of files and directories.

use bytes::Bytes;
use nokvfs_types::{Extent, FileKind, InodeId, Timestamp};

use super::codec::{Reader, Record, put_bytes, put_extents, put_kind, put_time, put_u16, put_u32, put_u64};
use super::key::Family;
use crate::service::MetaResult;

/// Where an inode's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// It has none.
    None,
    /// Extents of a short regular file, at most [`nokvfs_types::INLINE_EXTENTS`].
    Inline(Vec<Extent>),
    /// In chunk records.
    Chunked,
    /// A symbolic link's target.
    Symlink(Bytes),
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeRecord {
    /// Kind.
    pub kind: FileKind,
    /// Low 12 bits of the mode.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Size as stat(2) tells it; of a directory the number of entries.
    pub size: u64,
    /// Bytes that extents map.
    pub mapped: u64,
    /// Device number.
    pub rdev: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// The parent of a directory (of the root: the root); 0 of anything else.
    pub parent: InodeId,
    /// Names and values of all extended attributes together, in bytes.
    pub xattr_bytes: u32,
    /// Content.
    pub body: Body,
}

impl Record for InodeRecord {
    const FAMILY: Family = Family::Inode;

    fn encode(&self, out: &mut Vec<u8>) {
        put_kind(out, self.kind);
        put_u16(out, self.mode);
        for value in [self.uid, self.gid, self.nlink] {
            put_u32(out, value);
        }
        put_u64(out, self.size);
        put_u64(out, self.mapped);
        put_u32(out, self.rdev);
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            put_time(out, time);
        }
        put_u64(out, self.parent.0);
        put_u32(out, self.xattr_bytes);
        match &self.body {
            Body::None => out.push(0),
            Body::Inline(extents) => {
                out.push(1);
                put_extents(out, extents);
            }
            Body::Chunked => out.push(2),
            Body::Symlink(target) => {
                out.push(3);
                put_bytes(out, target);
            }
        }
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("inode record", payload);
        let record = InodeRecord {
            kind: from.kind()?,
            mode: from.u16()?,
            uid: from.u32()?,
            gid: from.u32()?,
            nlink: from.u32()?,
            size: from.u64()?,
            mapped: from.u64()?,
            rdev: from.u32()?,
            atime: from.time()?,
            mtime: from.time()?,
            ctime: from.time()?,
            btime: from.time()?,
            parent: InodeId(from.u64()?),
            xattr_bytes: from.u32()?,
            body: match from.u8()? {
                0 => Body::None,
                1 => Body::Inline(from.extents()?),
                2 => Body::Chunked,
                3 => Body::Symlink(from.bytes()?),
                _ => return Err(from.corrupt()),
            },
        };
        from.finish(record)
    }
}

/// Whether the payload of an inode record is a regular file's. Reads no more of it.
pub(crate) fn is_file(payload: &[u8]) -> bool {
    let mut kind = Vec::with_capacity(1);
    put_kind(&mut kind, FileKind::File);
    payload.starts_with(&kind)
}

/// A directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DentryRecord {
    /// What it names.
    pub inode: InodeId,
    /// Its kind, which never changes.
    pub kind: FileKind,
}

impl Record for DentryRecord {
    const FAMILY: Family = Family::Dentry;

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.inode.0);
        put_kind(out, self.kind);
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("entry record", payload);
        let record = DentryRecord { inode: InodeId(from.u64()?), kind: from.kind()? };
        from.finish(record)
    }
}

/// The extents of one chunk, sorted, at most [`nokvfs_types::MAX_CHUNK_EXTENTS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Extents.
    pub extents: Vec<Extent>,
}

impl Record for ChunkRecord {
    const FAMILY: Family = Family::Chunk;

    fn encode(&self, out: &mut Vec<u8>) {
        put_extents(out, &self.extents);
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("chunk record", payload);
        let record = ChunkRecord { extents: from.extents()? };
        from.finish(record)
    }
}

/// An extended attribute's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrRecord {
    /// Value.
    pub value: Bytes,
}

impl Record for XattrRecord {
    const FAMILY: Family = Family::Xattr;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.value);
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        Ok(XattrRecord { value: Bytes::copy_from_slice(payload) })
    }
}

/// Says that the entry in its key names the inode in its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParentRecord;

impl Record for ParentRecord {
    const FAMILY: Family = Family::Parent;

    fn encode(&self, _out: &mut Vec<u8>) {}

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        Reader::new("parent record", payload).finish(ParentRecord)
    }
}

/// An inode whose last link went; its inode record stays until nobody has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrphanRecord {
    /// When the last link went.
    pub since: Timestamp,
}

impl Record for OrphanRecord {
    const FAMILY: Family = Family::Orphan;

    fn encode(&self, out: &mut Vec<u8>) {
        put_time(out, self.since);
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("orphan record", payload);
        let record = OrphanRecord { since: from.time()? };
        from.finish(record)
    }
}
