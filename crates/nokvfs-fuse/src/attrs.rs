//! Conversions between the model's attributes and the kernel's.

use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use nokvfs_types::{Attr, FileKind, SetTime, Timestamp};

/// `st_blksize`: what programs read and write at once. One frame of an object.
const BLKSIZE: u32 = nokvfs_body::FRAME_PAYLOAD as u32;

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.inode.0),
        size: attr.size,
        blocks: attr.mapped.div_ceil(512),
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.btime.into(),
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLKSIZE,
        flags: 0,
    }
}

/// A time as the kernel sent it. fuser turns (-2 s, +0.3 s) into 2.3 s before the epoch instead of 1.7 s: undo that.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(_) => time.into(),
        Err(before) => {
            let distance = before.duration();
            let nanos = i128::from(distance.subsec_nanos()) - i128::from(distance.as_secs()) * 1_000_000_000;
            Timestamp(i64::try_from(nanos).unwrap_or(i64::MIN))
        }
    }
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
        TimeOrNow::Now => SetTime::Now,
    }
}

/// The mode that is left when a write or a truncation takes set-id bits away; `None` if it has none. Set-group-id without
/// group execution means mandatory locking and stays, as in the kernel.
pub(crate) fn without_set_id(mode: u16) -> Option<u16> {
    const SUID: u16 = libc::S_ISUID as u16;
    const SGID: u16 = libc::S_ISGID as u16;
    const GROUP_EXEC: u16 = libc::S_IXGRP as u16;
    let mut left = mode & !SUID;
    if mode & GROUP_EXEC != 0 {
        left &= !SGID;
    }
    (left != mode).then_some(left)
}
