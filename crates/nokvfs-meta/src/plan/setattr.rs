//! Attributes.

use nokvfs_types::{Applied, Event, FileKind, InodeId, MetaError, SetAttr, SetTime, Timestamp};

use super::Plan;
use super::body::SIZE_MAX;
use crate::service::MetaResult;

impl Plan<'_, '_> {
    pub(super) fn set_attr(&mut self, inode: InodeId, set: &SetAttr) -> MetaResult<Applied> {
        let mut record = self.inode(inode)?;
        let now = self.now();
        if let Some(size) = set.size {
            match record.kind {
                FileKind::File if size > SIZE_MAX => return Err(MetaError::TooLarge),
                FileKind::File => {}
                FileKind::Directory => return Err(MetaError::IsDirectory),
                kind => return Err(MetaError::Invalid(format!("{kind:?} has no size to set"))),
            }
            if !self.cut(inode, &mut record, size)? {
                self.put_inode(inode, &record)?;
                return Ok(Applied::Unit);
            }
            record.size = size;
            record.mtime = now;
            self.emit(Event::BodyChanged(inode));
        }
        if let Some(mode) = set.mode {
            record.mode = mode & 0o7777;
        }
        record.uid = set.uid.unwrap_or(record.uid);
        record.gid = set.gid.unwrap_or(record.gid);
        record.atime = set.atime.map_or(record.atime, |time| at(time, now));
        record.mtime = set.mtime.map_or(record.mtime, |time| at(time, now));
        record.ctime = set.ctime.unwrap_or(now);
        self.put_inode(inode, &record)?;
        self.emit(Event::AttrChanged(inode));
        Ok(self.answer(inode, &record, false))
    }
}

fn at(time: SetTime, now: Timestamp) -> Timestamp {
    match time {
        SetTime::Now => now,
        SetTime::At(time) => time,
    }
}
