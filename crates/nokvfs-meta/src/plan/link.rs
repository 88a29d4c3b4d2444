//! Further links, and the end of links.

use nokvfs_types::{Applied, Event, FileKind, InodeId, MetaError, Name};

use super::Plan;
use crate::layout::{InodeRecord, KeyPrefix, ParentRecord};
use crate::service::MetaResult;

/// Most links of an inode that is no directory, as ext4 has it.
pub(super) const MAX_LINKS: u32 = 65_000;

impl Plan<'_, '_> {
    pub(super) fn link(&mut self, inode: InodeId, parent: InodeId, name: &Name) -> MetaResult<Applied> {
        self.dir(parent)?;
        let mut record = self.inode(inode)?;
        if record.kind == FileKind::Directory {
            return Err(MetaError::NotPermitted);
        }
        if self.entry(parent, name)?.is_some() {
            return Err(MetaError::Exists);
        }
        if record.nlink == 0 {
            return Err(MetaError::NotFound);
        }
        if record.nlink >= MAX_LINKS {
            return Err(MetaError::TooManyLinks);
        }
        self.txn.check_room()?;
        record.nlink += 1;
        record.ctime = self.now();
        self.put_inode(inode, &record)?;
        let recorded = self.parent_key(inode, parent, name);
        self.txn.put(&recorded, &ParentRecord)?;
        self.put_entry(parent, name, inode, record.kind)?;
        self.change_dir(parent, 1, 0)?;
        self.emit(Event::AttrChanged(inode));
        Ok(self.answer(inode, &record, false))
    }

    pub(super) fn unlink(&mut self, parent: InodeId, name: &Name) -> MetaResult<Applied> {
        self.dir(parent)?;
        let entry = self.entry(parent, name)?.ok_or(MetaError::NotFound)?;
        if entry.kind == FileKind::Directory {
            return Err(MetaError::IsDirectory);
        }
        self.remove_entry(parent, name)?;
        self.change_dir(parent, -1, 0)?;
        let nlink = self.drop_link(entry.inode, parent, name)?;
        Ok(Applied::Removed { inode: entry.inode, nlink })
    }

    pub(super) fn rmdir(&mut self, parent: InodeId, name: &Name) -> MetaResult<Applied> {
        self.dir(parent)?;
        let entry = self.entry(parent, name)?.ok_or(MetaError::NotFound)?;
        if entry.kind != FileKind::Directory {
            return Err(MetaError::NotDirectory);
        }
        let dir = self.named_inode(entry.inode)?;
        if dir.size > 0 {
            return Err(MetaError::NotEmpty);
        }
        self.remove_entry(parent, name)?;
        self.change_dir(parent, -1, -1)?;
        self.drop_dir(entry.inode, dir)?;
        Ok(Applied::Removed { inode: entry.inode, nlink: 0 })
    }

    /// Takes the entry's link from an inode that is no directory; answers how many are left.
    pub(super) fn drop_link(&mut self, inode: InodeId, parent: InodeId, name: &Name) -> MetaResult<u32> {
        let mut record = self.named_inode(inode)?;
        record.nlink = record.nlink.checked_sub(1).ok_or_else(|| {
            MetaError::Corrupt(format!("inode {inode} of volume {} has an entry but no links", self.target.id))
        })?;
        record.ctime = self.now();
        self.put_inode(inode, &record)?;
        match record.nlink {
            0 => self.orphan(inode, &record)?,
            1 => {
                // No longer hard-linked: what is recorded of its entries goes.
                let mut recorded = Vec::new();
                let parents = KeyPrefix::parents(self.target.mount, inode);
                self.txn.scan::<ParentRecord>(&parents, None, 2, |key, _| recorded.push(key))?;
                for key in recorded {
                    self.txn.delete(&key)?;
                }
                self.emit(Event::AttrChanged(inode));
            }
            _ => {
                let recorded = self.parent_key(inode, parent, name);
                self.txn.delete(&recorded)?;
                self.emit(Event::AttrChanged(inode));
            }
        }
        Ok(record.nlink)
    }

    /// Ends a directory whose entry is gone.
    pub(super) fn drop_dir(&mut self, inode: InodeId, mut record: InodeRecord) -> MetaResult<()> {
        record.nlink = 0;
        record.ctime = self.now();
        self.put_inode(inode, &record)?;
        self.orphan(inode, &record)
    }
}
