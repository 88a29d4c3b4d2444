//! The end of inodes that nobody has open.

use nokvfs_types::{Applied, InodeId};

use super::{Outcome, Plan};
use crate::layout::{Body, Key, KeyPrefix, OrphanRecord, XattrRecord};
use crate::service::MetaResult;

/// Extended attributes that one command removes: with their total bounded, less than a third of what it may have.
const XATTRS: usize = 4096;

impl Plan<'_, '_> {
    /// Removes an orphan, or a part of it if `more` is set in the outcome.
    pub(crate) fn reclaim(mut self, inode: InodeId) -> MetaResult<Outcome> {
        let orphan = Key::Orphan(self.target.mount, inode);
        if self.txn.get::<OrphanRecord>(&orphan)?.is_none() {
            return self.finish(Ok(Applied::Unit));
        }
        if let Some(mut record) = self.find_inode(inode)? {
            let mut freed = record.mapped;
            let mut done = true;
            match std::mem::replace(&mut record.body, Body::None) {
                Body::Chunked => {
                    record.body = Body::Chunked;
                    let (removed, empty) = self.remove_chunks(inode)?;
                    done = empty;
                    if !empty {
                        freed = removed.min(record.mapped);
                    }
                }
                Body::None | Body::Inline(_) | Body::Symlink(_) => {}
            }
            done &= self.remove_xattrs(inode)?;
            if !done {
                record.mapped -= freed;
                self.put_inode(inode, &record)?;
                self.charge_body(&record, -(freed as i64))?;
                self.more = true;
                return self.finish(Ok(Applied::Unit));
            }
            let key = self.inode_key(inode);
            self.txn.delete(&key)?;
            self.charge_body(&record, -(freed as i64))?;
            self.drop_orphan()?;
        }
        self.txn.delete(&orphan)?;
        self.finish(Ok(Applied::Unit))
    }

    /// Removes extended attributes; answers whether none are left.
    fn remove_xattrs(&mut self, inode: InodeId) -> MetaResult<bool> {
        let mut keys = Vec::new();
        let prefix = KeyPrefix::xattrs(self.target.mount, inode);
        let count = self.txn.scan::<XattrRecord>(&prefix, None, XATTRS, |key, _| keys.push(key))?;
        for key in keys {
            self.txn.delete(&key)?;
        }
        Ok(count < XATTRS)
    }
}
