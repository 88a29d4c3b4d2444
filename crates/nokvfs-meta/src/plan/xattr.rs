//! Extended attributes.

use bytes::Bytes;
use nokvfs_types::{Applied, Event, InodeId, MAX_XATTR_NAME, MAX_XATTR_TOTAL, MAX_XATTR_VALUE, MetaError, XattrMode};

use super::Plan;
use crate::layout::{Key, XattrRecord};
use crate::service::MetaResult;

/// Namespaces that are kept. POSIX ACLs (`system.`) would be kept and not obeyed, so they are refused.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Refuses names that no attribute can have.
pub(crate) fn check_xattr_name(name: &[u8]) -> MetaResult<()> {
    if name.len() > MAX_XATTR_NAME {
        return Err(MetaError::NameTooLong);
    }
    let Some(namespace) = NAMESPACES.into_iter().find(|namespace| name.starts_with(namespace)) else {
        return Err(MetaError::NotSupported(
            "extended attributes are kept in user., trusted. and security. only; POSIX ACLs are not".into(),
        ));
    };
    if name.len() == namespace.len() || name.contains(&0) {
        return Err(MetaError::Invalid("the name of an extended attribute is empty or holds a zero byte".into()));
    }
    Ok(())
}

impl Plan<'_, '_> {
    pub(super) fn set_xattr(
        &mut self,
        inode: InodeId,
        name: &Bytes,
        value: &Bytes,
        mode: XattrMode,
    ) -> MetaResult<Applied> {
        check_xattr_name(name)?;
        if value.len() > MAX_XATTR_VALUE {
            return Err(MetaError::AttributeTooLarge);
        }
        let mut record = self.inode(inode)?;
        let key = Key::Xattr(self.target.mount, inode, name.clone());
        let old: Option<XattrRecord> = self.txn.get(&key)?;
        match (mode, &old) {
            (XattrMode::Create, Some(_)) => return Err(MetaError::Exists),
            (XattrMode::Replace, None) => return Err(MetaError::NoAttribute),
            _ => {}
        }
        let before = old.map_or(0, |old| cost(name, &old.value));
        let total = u64::from(record.xattr_bytes).saturating_sub(before) + cost(name, value);
        if total > MAX_XATTR_TOTAL as u64 {
            return Err(MetaError::AttributeTooLarge);
        }
        self.txn.check_room()?;
        self.txn.put(&key, &XattrRecord { value: value.clone() })?;
        record.xattr_bytes = total as u32;
        record.ctime = self.now();
        self.put_inode(inode, &record)?;
        self.emit(Event::AttrChanged(inode));
        Ok(Applied::Unit)
    }

    pub(super) fn remove_xattr(&mut self, inode: InodeId, name: &Bytes) -> MetaResult<Applied> {
        check_xattr_name(name)?;
        let mut record = self.inode(inode)?;
        let key = Key::Xattr(self.target.mount, inode, name.clone());
        let old: XattrRecord = self.txn.get(&key)?.ok_or(MetaError::NoAttribute)?;
        self.txn.delete(&key)?;
        record.xattr_bytes = u64::from(record.xattr_bytes).saturating_sub(cost(name, &old.value)) as u32;
        record.ctime = self.now();
        self.put_inode(inode, &record)?;
        self.emit(Event::AttrChanged(inode));
        Ok(Applied::Unit)
    }
}

fn cost(name: &[u8], value: &[u8]) -> u64 {
    (name.len() + value.len()) as u64
}
