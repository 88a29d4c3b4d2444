//! Descriptors of file bodies: which bytes of which objects are a file's content.
//!
//! A body is a sorted list of non-overlapping extents; what no extent covers reads as zeros. An extent names a range of
//! a *slice*: the bytes that one upload wrote for one chunk of a file, kept as blocks of [`BLOCK_SIZE`] in the object
//! store. Objects are immutable.

use std::fmt;

use crate::{Attr, InodeId, UploadId, VolumeId};

/// File bytes per chunk: 64 MiB. No extent crosses a chunk's boundary.
pub const CHUNK_SIZE: u64 = 64 << 20;
/// Slice bytes per object: 4 MiB; the last block of a slice may hold fewer.
pub const BLOCK_SIZE: u64 = 4 << 20;
/// A body of at most so many extents lives in the inode record; a longer one in chunk records.
pub const INLINE_EXTENTS: usize = 8;
/// Most extents of one chunk. A publish that would pass it is refused with [`crate::MetaError::TooFragmented`], and the
/// writer rewrites the chunk first.
pub const MAX_CHUNK_EXTENTS: usize = 512;

/// Most bytes of a pack: an object that holds small bodies of several files.
pub const PACK_SIZE: u64 = 1 << 20;

/// One upload's bytes for one chunk of one file, or for several files (a *pack*: inode and chunk 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceId {
    /// The upload; unique in the volume.
    pub upload: UploadId,
    /// The file that the upload was made for.
    pub inode: InodeId,
    /// The chunk: file offset divided by [`CHUNK_SIZE`].
    pub chunk: u32,
}

impl SliceId {
    /// The slice of an upload that several files share.
    pub const fn pack(upload: UploadId) -> SliceId {
        SliceId { upload, inode: InodeId(0), chunk: 0 }
    }

    /// Whether several files share the slice.
    pub fn is_pack(&self) -> bool {
        self.inode == InodeId(0)
    }

    /// The key of one of the slice's objects.
    pub fn object_key(&self, volume: VolumeId, block: u32) -> String {
        format!("{}{}", slice_prefix(volume, self), block)
    }

    /// How many objects a slice of `len` bytes has.
    pub fn blocks(len: u64) -> u32 {
        u32::try_from(len.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_pack() {
            return write!(f, "pack {}", self.upload);
        }
        write!(f, "upload {} of inode {}, chunk {}", self.upload, self.inode, self.chunk)
    }
}

/// Where all objects of a volume are: `blocks/<volume uuid>/`.
pub fn volume_prefix(volume: VolumeId) -> String {
    format!("blocks/{volume}/")
}

/// Where the objects of one upload are: `blocks/<volume uuid>/<hash>/<upload>/`. The hash (two hex digits of the
/// upload's xxh3) spreads uploads over the key ranges by which S3 partitions a bucket.
pub fn upload_prefix(volume: VolumeId, upload: UploadId) -> String {
    let hash = xxhash_rust::xxh3::xxh3_64(&upload.0.to_be_bytes()) as u8;
    format!("blocks/{volume}/{hash:02x}/{upload}/")
}

/// Where the objects of one slice are: `<upload prefix><inode>/<chunk>/`; a block's number follows.
pub fn slice_prefix(volume: VolumeId, slice: &SliceId) -> String {
    format!("{}{}/{}/", upload_prefix(volume, slice.upload), slice.inode, slice.chunk)
}

/// The key of the marker object that names the server to which a volume's objects belong.
pub fn owner_key(volume: VolumeId) -> String {
    format!("owners/{volume}")
}

/// A range of a file and the slice bytes that are its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes, at least 1.
    pub len: u64,
    /// The slice.
    pub slice: SliceId,
    /// First byte in the slice.
    pub slice_offset: u64,
    /// All bytes of the slice, so that a reader knows how long each object must be.
    pub slice_len: u64,
}

impl Extent {
    /// The first file byte after the extent.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// The part of the extent inside `from..to`, if there is one.
    pub fn clip(&self, from: u64, to: u64) -> Option<Extent> {
        let start = self.offset.max(from);
        let end = self.end().min(to);
        (start < end).then(|| Extent {
            offset: start,
            len: end - start,
            slice_offset: self.slice_offset + (start - self.offset),
            ..*self
        })
    }
}

/// A file's attributes and the extents of a range of it, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyView {
    /// Attributes at that moment.
    pub attr: Attr,
    /// Extents in file order that touch the range, whole.
    pub extents: Vec<Extent>,
    /// The extents are complete from the range's start up to this file offset (`u64::MAX`: to the end of the file).
    pub complete_to: u64,
}
