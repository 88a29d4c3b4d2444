//! Answers as slots keep them, and events as the journal keeps them.

use nokvfs_types::{Applied, Attr, Event, InodeId, MetaError, Name, UploadId, Version};

use super::codec::{Reader, put_bytes, put_kind, put_time, put_u16, put_u32, put_u64};
use crate::service::MetaResult;

/// Most bytes of an encoded answer.
pub const MAX_REPLY: usize = 1024;
/// Error texts are cut to this, so that an answer fits.
const MAX_TEXT: usize = 900;

/// Encodes the answer to a mutation.
pub fn encode_reply(reply: &MetaResult<Applied>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    match reply {
        Ok(Applied::Unit) => out.push(1),
        Ok(Applied::Entry { attr, created }) => {
            out.push(2);
            put_attr(&mut out, attr);
            out.push(u8::from(*created));
        }
        Ok(Applied::Removed { inode, nlink }) => {
            out.push(3);
            put_u64(&mut out, inode.0);
            put_u32(&mut out, *nlink);
        }
        Ok(Applied::Uploads { first, count }) => {
            out.push(4);
            put_u64(&mut out, first.0);
            put_u32(&mut out, *count);
        }
        Err(error) => {
            out.push(5);
            put_error(&mut out, error);
        }
    }
    out
}

/// Reads back what [`encode_reply`] wrote.
///
/// # Errors
/// The outer error is [`MetaError::Corrupt`]; the inner one is the answer.
pub fn decode_reply(bytes: &[u8]) -> MetaResult<MetaResult<Applied>> {
    let mut from = Reader::new("slot reply", bytes);
    let reply = match from.u8()? {
        1 => Ok(Applied::Unit),
        2 => Ok(Applied::Entry { attr: attr(&mut from)?, created: from.bool()? }),
        3 => Ok(Applied::Removed { inode: InodeId(from.u64()?), nlink: from.u32()? }),
        4 => Ok(Applied::Uploads { first: UploadId(from.u64()?), count: from.u32()? }),
        5 => Err(error(&mut from)?),
        _ => return Err(from.corrupt()),
    };
    from.finish(reply)
}

fn put_attr(out: &mut Vec<u8>, attr: &Attr) {
    put_u64(out, attr.inode.0);
    put_kind(out, attr.kind);
    put_u16(out, attr.mode);
    for value in [attr.uid, attr.gid, attr.nlink] {
        put_u32(out, value);
    }
    put_u64(out, attr.size);
    put_u64(out, attr.mapped);
    put_u32(out, attr.rdev);
    for time in [attr.atime, attr.mtime, attr.ctime, attr.btime] {
        put_time(out, time);
    }
    put_u64(out, attr.version.0);
}

fn attr(from: &mut Reader<'_>) -> MetaResult<Attr> {
    Ok(Attr {
        inode: InodeId(from.u64()?),
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
        version: Version(from.u64()?),
    })
}

fn put_error(out: &mut Vec<u8>, error: &MetaError) {
    let (code, number, text): (u8, u64, &str) = match error {
        MetaError::NotFound => (1, 0, ""),
        MetaError::Exists => (2, 0, ""),
        MetaError::NotDirectory => (3, 0, ""),
        MetaError::IsDirectory => (4, 0, ""),
        MetaError::NotEmpty => (5, 0, ""),
        MetaError::NameTooLong => (6, 0, ""),
        MetaError::Invalid(text) => (7, 0, text),
        MetaError::NotPermitted => (8, 0, ""),
        MetaError::TooManyLinks => (9, 0, ""),
        MetaError::NoAttribute => (10, 0, ""),
        MetaError::AttributeTooLarge => (11, 0, ""),
        MetaError::TooLarge => (12, 0, ""),
        MetaError::TooFragmented(chunk) => (13, u64::from(*chunk), ""),
        MetaError::NoSpace(text) => (14, 0, text),
        MetaError::QuotaExceeded(text) => (15, 0, text),
        MetaError::ReadOnly => (16, 0, ""),
        MetaError::SessionExpired(session) => (17, *session, ""),
        MetaError::Superseded(generation) => (18, u64::from(*generation), ""),
        MetaError::Unauthorized(text) => (19, 0, text),
        MetaError::Busy(text) => (20, 0, text),
        MetaError::Unavailable(text) => (21, 0, text),
        MetaError::Deadline(text) => (22, 0, text),
        MetaError::Corrupt(text) => (23, 0, text),
        MetaError::Internal(text) => (24, 0, text),
        MetaError::NotSupported(text) => (25, 0, text),
        MetaError::Locked => (30, 0, ""),
        MetaError::Deadlock => (31, 0, ""),
        MetaError::NoLocks(text) => (32, 0, text),
        MetaError::Interrupted => (33, 0, ""),
    };
    out.push(code);
    put_u64(out, number);
    put_bytes(out, &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)]);
}

fn error(from: &mut Reader<'_>) -> MetaResult<MetaError> {
    let code = from.u8()?;
    let number = from.u64()?;
    let text = from.string()?;
    let narrow = |from: &Reader<'_>| u32::try_from(number).map_err(|_| from.corrupt());
    Ok(match code {
        1 => MetaError::NotFound,
        2 => MetaError::Exists,
        3 => MetaError::NotDirectory,
        4 => MetaError::IsDirectory,
        5 => MetaError::NotEmpty,
        6 => MetaError::NameTooLong,
        7 => MetaError::Invalid(text),
        8 => MetaError::NotPermitted,
        9 => MetaError::TooManyLinks,
        10 => MetaError::NoAttribute,
        11 => MetaError::AttributeTooLarge,
        12 => MetaError::TooLarge,
        13 => MetaError::TooFragmented(narrow(from)?),
        14 => MetaError::NoSpace(text),
        15 => MetaError::QuotaExceeded(text),
        16 => MetaError::ReadOnly,
        17 => MetaError::SessionExpired(number),
        18 => MetaError::Superseded(narrow(from)?),
        19 => MetaError::Unauthorized(text),
        20 => MetaError::Busy(text),
        21 => MetaError::Unavailable(text),
        22 => MetaError::Deadline(text),
        23 => MetaError::Corrupt(text),
        24 => MetaError::Internal(text),
        25 => MetaError::NotSupported(text),
        30 => MetaError::Locked,
        31 => MetaError::Deadlock,
        32 => MetaError::NoLocks(text),
        33 => MetaError::Interrupted,
        _ => return Err(from.corrupt()),
    })
}

pub(crate) fn encode_event(out: &mut Vec<u8>, event: &Event) {
    match event {
        Event::EntrySet { parent, name, inode } => {
            out.push(1);
            put_u64(out, parent.0);
            put_bytes(out, name.as_bytes());
            put_u64(out, inode.0);
        }
        Event::EntryRemoved { parent, name } => {
            out.push(2);
            put_u64(out, parent.0);
            put_bytes(out, name.as_bytes());
        }
        Event::AttrChanged(inode) => {
            out.push(3);
            put_u64(out, inode.0);
        }
        Event::BodyChanged(inode) => {
            out.push(4);
            put_u64(out, inode.0);
        }
        Event::Unlinked(inode) => {
            out.push(5);
            put_u64(out, inode.0);
        }
    }
}

pub(crate) fn decode_event(from: &mut Reader<'_>) -> MetaResult<Event> {
    let name = |from: &mut Reader<'_>| Name::new(from.bytes()?).map_err(|_| from.corrupt());
    Ok(match from.u8()? {
        1 => Event::EntrySet { parent: InodeId(from.u64()?), name: name(from)?, inode: InodeId(from.u64()?) },
        2 => Event::EntryRemoved { parent: InodeId(from.u64()?), name: name(from)? },
        3 => Event::AttrChanged(InodeId(from.u64()?)),
        4 => Event::BodyChanged(InodeId(from.u64()?)),
        5 => Event::Unlinked(InodeId(from.u64()?)),
        _ => return Err(from.corrupt()),
    })
}
