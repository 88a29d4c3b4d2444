//! New inodes.

use nokvfs_types::{Ack, Applied, FileKind, InodeId, MAX_SYMLINK, MetaError, Name, NewNode};

use super::{Plan, allocator, attr_of};
use crate::layout::{Body, InodeRecord};
use crate::service::MetaResult;

const S_ISGID: u16 = 0o2000;
const S_IXGRP: u16 = 0o0010;

impl Plan<'_, '_> {
    pub(super) fn create(
        &mut self,
        parent: InodeId,
        name: &Name,
        node: &NewNode,
        mode: u16,
        open_existing: bool,
        ack: Ack,
    ) -> MetaResult<Applied> {
        let (kind, rdev, body) = shape(node)?;
        let dir = self.dir(parent)?;
        if let Some(entry) = self.entry(parent, name)? {
            if !open_existing || entry.kind != FileKind::File || kind != FileKind::File {
                return Err(MetaError::Exists);
            }
            // Says so if its record is missing.
            let record = self.named_inode(entry.inode)?;
            let key = self.inode_key(entry.inode);
            let version = self.txn.get_versioned::<InodeRecord>(&key)?.map_or(self.txn.version(), |(_, at)| at);
            return Ok(Applied::Entry { attr: attr_of(entry.inode, &record, version), created: false });
        }
        self.txn.check_room()?;
        self.charge(0, 1)?;
        let inode = match ack {
            Ack::Restore(inode) => self.lost(inode)?,
            _ => self.allocators.inode(self.txn, self.target.mount)?,
        };
        let now = self.now();
        let (mode, gid) = self.inherit(kind, mode, &dir);
        let is_dir = kind == FileKind::Directory;
        let record = InodeRecord {
            kind,
            mode,
            uid: self.caller.uid,
            gid,
            nlink: if is_dir { 2 } else { 1 },
            size: if let Body::Symlink(target) = &body { target.len() as u64 } else { 0 },
            mapped: 0,
            rdev,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: if is_dir { parent } else { InodeId(0) },
            xattr_bytes: 0,
            body,
        };
        self.put_inode(inode, &record)?;
        self.put_entry(parent, name, inode, kind)?;
        self.change_dir(parent, 1, i32::from(is_dir))?;
        self.early = ack == Ack::Early && kind == FileKind::File;
        Ok(self.answer(inode, &record, true))
    }

    /// Checks that a number was given out and is nobody's: a restart never gives out the rest of a reserved block.
    fn lost(&mut self, inode: InodeId) -> MetaResult<InodeId> {
        let next = allocator(self.txn, self.target.mount)?.next_inode;
        if inode.0 >= next || self.allocators.may_give_out(self.target.mount, inode) {
            return Err(MetaError::Invalid(format!("inode {inode} was never told to anybody")));
        }
        match self.find_inode(inode)? {
            Some(_) => Err(MetaError::Exists),
            None => Ok(inode),
        }
    }

    /// Mode and group of a new inode: a set-group-id directory passes its group on, and itself to directories. Someone
    /// outside that group can't make a set-group-id program of it.
    fn inherit(&self, kind: FileKind, mode: u16, dir: &InodeRecord) -> (u16, u32) {
        let mut mode = mode & 0o7777;
        if dir.mode & S_ISGID == 0 {
            return (mode, self.caller.gid);
        }
        let member = self.caller.uid == 0 || self.caller.gid == dir.gid || self.caller.groups.contains(&dir.gid);
        if kind == FileKind::Directory {
            mode |= S_ISGID;
        } else if mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP && !member {
            mode &= !S_ISGID;
        }
        (mode, dir.gid)
    }
}

fn shape(node: &NewNode) -> MetaResult<(FileKind, u32, Body)> {
    Ok(match node {
        NewNode::File => (FileKind::File, 0, Body::Inline(Vec::new())),
        NewNode::Directory => (FileKind::Directory, 0, Body::None),
        NewNode::Symlink(target) if target.is_empty() => {
            return Err(MetaError::Invalid("the target of a symbolic link is empty".into()));
        }
        NewNode::Symlink(target) if target.len() > MAX_SYMLINK => return Err(MetaError::NameTooLong),
        NewNode::Symlink(target) => (FileKind::Symlink, 0, Body::Symlink(target.clone())),
        NewNode::Special { kind: kind @ (FileKind::Fifo | FileKind::Socket), .. } => (*kind, 0, Body::None),
        NewNode::Special { kind: kind @ (FileKind::CharDevice | FileKind::BlockDevice), rdev } => {
            (*kind, *rdev, Body::None)
        }
        NewNode::Special { kind, .. } => {
            return Err(MetaError::Invalid(format!("mknod makes fifos, sockets and devices, not {kind:?}")));
        }
    })
}
