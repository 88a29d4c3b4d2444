//! The codec of values: fixed layouts, little-endian, written by hand so that nobody else's release changes the disk.

use bytes::Bytes;
use nokvfs_types::{Extent, FileKind, InodeId, MetaError, SliceId, Timestamp, UploadId, Version};

use super::key::{Family, Key};
use crate::service::MetaResult;

/// Most bytes of a sealed value: the store's limit.
pub const MAX_VALUE: usize = 65_535;
/// The layout of records that this code writes.
const FORMAT: u8 = 1;
/// A record's place that says it was removed, where one of an earlier volume would show otherwise.
const REMOVED: u8 = 2;
/// Format byte and commit version.
const HEAD: usize = 9;
/// CRC32C.
const TAIL: usize = 4;

/// A kind of record.
pub trait Record: Sized {
    /// Whose keys it is stored under.
    const FAMILY: Family;

    /// Appends its payload.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads a whole payload.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] if the bytes are not such a payload.
    fn decode(payload: &[u8]) -> MetaResult<Self>;
}

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A record's payload.
    Record(Vec<u8>),
    /// The record of the same key in a volume that this one was cloned from shows no more.
    Removed,
}

impl Content {
    /// The payload, if there is a record.
    pub fn record(&self) -> Option<&[u8]> {
        match self {
            Content::Record(payload) => Some(payload),
            Content::Removed => None,
        }
    }
}

/// Makes the stored value: format, commit version, payload, CRC32C over key and value.
pub fn seal_value(key: &[u8], version: Version, content: &Content) -> Vec<u8> {
    let (format, payload): (u8, &[u8]) = match content {
        Content::Record(payload) => (FORMAT, payload),
        Content::Removed => (REMOVED, &[]),
    };
    let mut value = Vec::with_capacity(HEAD + payload.len() + TAIL);
    value.push(format);
    value.extend_from_slice(&version.0.to_le_bytes());
    value.extend_from_slice(payload);
    let sum = crc32c::crc32c_append(crc32c::crc32c(key), &value);
    value.extend_from_slice(&sum.to_le_bytes());
    value
}

/// Checks a stored value and answers its commit version and payload; no payload where it says that a record was removed.
///
/// # Errors
/// [`MetaError::Corrupt`] names the key.
pub fn open_value<'v>(key: &[u8], value: &'v [u8]) -> MetaResult<(Version, Option<&'v [u8]>)> {
    let Some((body, sum)) = value.split_last_chunk::<TAIL>().filter(|(body, _)| body.len() >= HEAD) else {
        return Err(damaged(key, "is too short"));
    };
    if crc32c::crc32c_append(crc32c::crc32c(key), body) != u32::from_le_bytes(*sum) {
        return Err(damaged(key, "fails its checksum"));
    }
    let mut version = [0; 8];
    version.copy_from_slice(&body[1..HEAD]);
    let payload = match body[0] {
        FORMAT => Some(&body[HEAD..]),
        REMOVED => None,
        other => return Err(damaged(key, &format!("has format {other}, which a newer release wrote"))),
    };
    Ok((Version(u64::from_le_bytes(version)), payload))
}

/// The same, to keep.
pub(crate) fn open_content(key: &[u8], value: &[u8]) -> MetaResult<(Version, Content)> {
    let (version, payload) = open_value(key, value)?;
    Ok((version, payload.map_or(Content::Removed, |payload| Content::Record(payload.to_vec()))))
}

fn damaged(key: &[u8], what: &str) -> MetaError {
    match Key::decode(key) {
        Ok(key) => MetaError::Corrupt(format!("the value of {key:?} {what}")),
        Err(_) => MetaError::Corrupt(format!("the value of key {} {what}", hex::encode(key))),
    }
}

/// Reads a payload from front to back.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, payload: &'a [u8]) -> Self {
        Reader { rest: payload, what }
    }

    pub(crate) fn corrupt(&self) -> MetaError {
        MetaError::Corrupt(format!("{} with an unknown layout", self.what))
    }

    pub(crate) fn take(&mut self, len: usize) -> MetaResult<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.corrupt())?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> MetaResult<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.corrupt())?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> MetaResult<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> MetaResult<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> MetaResult<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> MetaResult<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn bool(&mut self) -> MetaResult<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.corrupt()),
        }
    }

    pub(crate) fn time(&mut self) -> MetaResult<Timestamp> {
        self.array().map(i64::from_le_bytes).map(Timestamp)
    }

    pub(crate) fn bytes(&mut self) -> MetaResult<Bytes> {
        let len = self.u32()? as usize;
        self.take(len).map(Bytes::copy_from_slice)
    }

    pub(crate) fn string(&mut self) -> MetaResult<String> {
        let len = self.u32()? as usize;
        let bytes = self.take(len)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.corrupt())
    }

    pub(crate) fn varint(&mut self) -> MetaResult<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.corrupt())
    }

    pub(crate) fn kind(&mut self) -> MetaResult<FileKind> {
        Ok(match self.u8()? {
            1 => FileKind::File,
            2 => FileKind::Directory,
            3 => FileKind::Symlink,
            4 => FileKind::Fifo,
            5 => FileKind::Socket,
            6 => FileKind::CharDevice,
            7 => FileKind::BlockDevice,
            _ => return Err(self.corrupt()),
        })
    }

    pub(crate) fn slice(&mut self) -> MetaResult<SliceId> {
        Ok(SliceId {
            upload: UploadId(self.varint()?),
            inode: InodeId(self.varint()?),
            chunk: u32::try_from(self.varint()?).map_err(|_| self.corrupt())?,
        })
    }

    pub(crate) fn extents(&mut self) -> MetaResult<Vec<Extent>> {
        let count = usize::from(self.u16()?);
        // An extent takes at least 7 bytes: a damaged count can't ask for more memory than the record has.
        let mut extents = Vec::with_capacity(count.min(self.rest.len() / 7));
        for _ in 0..count {
            extents.push(Extent {
                offset: self.varint()?,
                len: self.varint()?,
                slice: self.slice()?,
                slice_offset: self.varint()?,
                slice_len: self.varint()?,
            });
        }
        Ok(extents)
    }

    /// Nothing is left.
    pub(crate) fn is_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn finish<T>(self, value: T) -> MetaResult<T> {
        if self.rest.is_empty() { Ok(value) } else { Err(self.corrupt()) }
    }
}

pub(crate) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    out.extend_from_slice(&time.0.to_le_bytes());
}

/// Length and bytes. Longer ones than 4 GiB never get this far: [`MAX_VALUE`] is checked on every write.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_kind(out: &mut Vec<u8>, kind: FileKind) {
    out.push(match kind {
        FileKind::File => 1,
        FileKind::Directory => 2,
        FileKind::Symlink => 3,
        FileKind::Fifo => 4,
        FileKind::Socket => 5,
        FileKind::CharDevice => 6,
        FileKind::BlockDevice => 7,
    });
}

pub(crate) fn put_slice(out: &mut Vec<u8>, slice: &SliceId) {
    put_varint(out, slice.upload.0);
    put_varint(out, slice.inode.0);
    put_varint(out, u64::from(slice.chunk));
}

/// A list of extents: at most 65 bytes each, about 22 in practice.
pub(crate) fn put_extents(out: &mut Vec<u8>, extents: &[Extent]) {
    put_u16(out, extents.len() as u16);
    for extent in extents {
        put_varint(out, extent.offset);
        put_varint(out, extent.len);
        put_slice(out, &extent.slice);
        put_varint(out, extent.slice_offset);
        put_varint(out, extent.slice_len);
    }
}
