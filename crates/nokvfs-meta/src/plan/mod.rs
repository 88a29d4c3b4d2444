//! Planning: what each mutation reads, demands and writes.
//!
//! Owns: the semantics of the filesystem. Must not: wait, or touch anything but its transaction.
//! Invariants: a directory's size is the number of its entries and its nlink 2 plus its subdirectories; the volume's
//! counters are the sums over its inodes; an inode without links has an orphan record; a slice that no record names any
//! more gets a garbage record in the same command.

mod allocate;
mod body;
mod create;
mod link;
mod pack;
mod publish;
mod punch;
mod reclaim;
mod references;
mod rename;
mod setattr;
mod xattr;

use std::collections::BTreeSet;
use std::sync::Arc;

use nokvfs_types::{
    Applied, Attr, Caller, Event, FileKind, InodeId, MetaError, MountId, Mutation, Name, SliceId, Timestamp, Version,
    VolumeId,
};

pub(crate) use allocate::{Allocators, allocator};
pub(crate) use body::{SIZE_MAX, chunk_of};
pub(crate) use pack::Writer;
pub(crate) use references::{GARBAGE_RECORDS, named_in};
pub(crate) use xattr::check_xattr_name;

use crate::commit::Txn;
use crate::layout::{CountersRecord, DentryRecord, InodeRecord, Key, OrphanRecord, VolumeRecord, dentry_hash};
use crate::lineage::Lineage;
use crate::service::MetaResult;

/// What a planned mutation answers once it is durable.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The answer. Also a refusal that leaves something behind, unlike an error of planning.
    pub reply: MetaResult<Applied>,
    /// The inode that lost its last link.
    pub orphaned: Option<InodeId>,
    /// Objects are to be deleted.
    pub garbage: bool,
    /// Only a step was done, because all of it does not fit into a command: plan it again.
    pub more: bool,
    /// It may be answered as soon as this commit is durable, before its own.
    pub early_after: Option<Version>,
}

/// The volume that a plan works on.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub mount: MountId,
    pub id: VolumeId,
    pub quota_bytes: u64,
    pub quota_inodes: u64,
    pub pinned: Version,
    /// Some may be left that no pin needs any more.
    pub has_history: bool,
    pub lineage: Arc<Lineage>,
}

impl Target {
    pub(crate) fn new(mount: MountId, record: &VolumeRecord) -> Self {
        Target {
            mount,
            id: record.id,
            quota_bytes: record.spec.quota_bytes,
            quota_inodes: record.spec.quota_inodes,
            pinned: record.pinned,
            has_history: record.pinned.max(record.prune) > Version(0),
            lineage: Arc::new(Lineage::new(mount, record, None)),
        }
    }
}

/// One mutation being planned.
#[derive(Debug)]
pub(crate) struct Plan<'p, 'a> {
    txn: &'p mut Txn<'a>,
    target: Target,
    caller: &'p Caller,
    hash_secret: &'p [u8; 16],
    allocators: &'p Allocators,
    writer: Option<Writer<'p>>,
    orphaned: Option<InodeId>,
    /// Owner, slice and length of what nothing names any more.
    garbage: Vec<(MountId, VolumeId, SliceId, u64)>,
    /// Slices that are named for the first time, unless they were published before.
    published: BTreeSet<SliceId>,
    more: bool,
    /// Something was made that may be answered early.
    early: bool,
    /// The volume's own objects are deleted as a whole: only those of others are counted.
    whole: bool,
}

/// What stat(2) tells of a record.
pub(crate) fn attr_of(inode: InodeId, record: &InodeRecord, version: Version) -> Attr {
    Attr {
        inode,
        kind: record.kind,
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        nlink: record.nlink,
        size: record.size,
        mapped: record.mapped,
        rdev: record.rdev,
        atime: record.atime,
        mtime: record.mtime,
        ctime: record.ctime,
        btime: record.btime,
        version,
    }
}

impl<'p, 'a> Plan<'p, 'a> {
    pub(crate) fn new(
        txn: &'p mut Txn<'a>,
        target: Target,
        caller: &'p Caller,
        hash_secret: &'p [u8; 16],
        allocators: &'p Allocators,
    ) -> Self {
        txn.enter(Arc::clone(&target.lineage), target.pinned);
        Plan {
            txn,
            target,
            caller,
            hash_secret,
            allocators,
            writer: None,
            orphaned: None,
            garbage: Vec::new(),
            published: BTreeSet::new(),
            more: false,
            early: false,
            whole: false,
        }
    }

    /// Plans the end of a volume whose own objects are deleted as a whole.
    pub(crate) fn whole(self) -> Self {
        Plan { whole: true, ..self }
    }

    /// Plans for a session, which may publish packs.
    pub(crate) fn writer(self, writer: Writer<'p>) -> Self {
        Plan { writer: Some(writer), ..self }
    }

    pub(crate) fn txn(&mut self) -> &mut Txn<'a> {
        self.txn
    }

    /// Plans a mutation. `ReserveUploads` is the session's.
    pub(crate) fn run(mut self, mutation: &Mutation) -> MetaResult<Outcome> {
        let reply = match mutation {
            Mutation::Create { parent, name, node, mode, open_existing, ack } => {
                Ok(self.create(*parent, name, node, *mode, *open_existing, *ack)?)
            }
            Mutation::Link { inode, parent, name } => Ok(self.link(*inode, *parent, name)?),
            Mutation::Unlink { parent, name } => Ok(self.unlink(*parent, name)?),
            Mutation::Rmdir { parent, name } => Ok(self.rmdir(*parent, name)?),
            Mutation::Rename { parent, name, new_parent, new_name, mode } => {
                Ok(self.rename((*parent, name), (*new_parent, new_name), *mode)?)
            }
            Mutation::SetAttr { inode, set } => Ok(self.set_attr(*inode, set)?),
            Mutation::SetXattr { inode, name, value, mode } => Ok(self.set_xattr(*inode, name, value, *mode)?),
            Mutation::RemoveXattr { inode, name } => Ok(self.remove_xattr(*inode, name)?),
            Mutation::Publish(publish) => self.publish(publish)?,
            Mutation::Fallocate(wanted) => Ok(self.fallocate(wanted)?),
            Mutation::ReserveUploads { .. } => {
                return Err(MetaError::Internal("uploads were planned as a change of files; report it".into()));
            }
        };
        self.finish(reply)
    }

    pub(crate) fn finish(mut self, reply: MetaResult<Applied>) -> MetaResult<Outcome> {
        self.count_references()?;
        let garbage = self.put_garbage()?;
        // A number that is given out before it is durable must never be given out again.
        let early_after = self.early.then(|| self.allocators.reserved_at(self.target.mount)).flatten();
        Ok(Outcome { reply, orphaned: self.orphaned, garbage, more: self.more, early_after })
    }

    fn now(&self) -> Timestamp {
        self.txn.now()
    }

    fn inode_key(&self, inode: InodeId) -> Key {
        Key::Inode(self.target.mount, inode)
    }

    fn find_inode(&mut self, inode: InodeId) -> MetaResult<Option<InodeRecord>> {
        let key = self.inode_key(inode);
        self.txn.get(&key)
    }

    fn inode(&mut self, inode: InodeId) -> MetaResult<InodeRecord> {
        self.find_inode(inode)?.ok_or(MetaError::NotFound)
    }

    /// An inode that an entry names.
    fn named_inode(&mut self, inode: InodeId) -> MetaResult<InodeRecord> {
        let volume = self.target.id;
        self.find_inode(inode)?.ok_or_else(|| {
            MetaError::Corrupt(format!("an entry of volume {volume} names inode {inode}, which has no record"))
        })
    }

    fn put_inode(&mut self, inode: InodeId, record: &InodeRecord) -> MetaResult<()> {
        let key = self.inode_key(inode);
        self.txn.put(&key, record)
    }

    /// A directory that can have entries: one that was removed under its opener can't.
    fn dir(&mut self, inode: InodeId) -> MetaResult<InodeRecord> {
        let record = self.inode(inode)?;
        match record.kind {
            FileKind::Directory if record.nlink > 0 => Ok(record),
            FileKind::Directory => Err(MetaError::NotFound),
            _ => Err(MetaError::NotDirectory),
        }
    }

    fn entry_key(&self, parent: InodeId, name: &Name) -> Key {
        Key::Dentry(self.target.mount, parent, dentry_hash(self.hash_secret, name), name.clone())
    }

    fn parent_key(&self, inode: InodeId, parent: InodeId, name: &Name) -> Key {
        Key::Parent(self.target.mount, inode, parent, dentry_hash(self.hash_secret, name), name.clone())
    }

    fn entry(&mut self, parent: InodeId, name: &Name) -> MetaResult<Option<DentryRecord>> {
        let key = self.entry_key(parent, name);
        self.txn.get(&key)
    }

    fn put_entry(&mut self, parent: InodeId, name: &Name, inode: InodeId, kind: FileKind) -> MetaResult<()> {
        let key = self.entry_key(parent, name);
        self.txn.put(&key, &DentryRecord { inode, kind })?;
        self.emit(Event::EntrySet { parent, name: name.clone(), inode });
        Ok(())
    }

    fn remove_entry(&mut self, parent: InodeId, name: &Name) -> MetaResult<()> {
        let key = self.entry_key(parent, name);
        self.txn.delete(&key)?;
        self.emit(Event::EntryRemoved { parent, name: name.clone() });
        Ok(())
    }

    fn emit(&mut self, event: Event) {
        self.txn.emit(self.target.mount, event);
    }

    /// The answer that shows an inode as this command leaves it.
    fn answer(&self, inode: InodeId, record: &InodeRecord, created: bool) -> Applied {
        Applied::Entry { attr: attr_of(inode, record, self.txn.version()), created }
    }

    /// Counts entries and subdirectories of a directory that changes now.
    fn change_dir(&mut self, dir: InodeId, entries: i64, subdirs: i32) -> MetaResult<()> {
        let mut record = self.dir(dir)?;
        record.size = record.size.saturating_add_signed(entries);
        record.nlink = record.nlink.saturating_add_signed(subdirs);
        record.mtime = self.now();
        record.ctime = record.mtime;
        self.put_inode(dir, &record)
    }

    /// Makes an inode that just lost its last link an orphan.
    fn orphan(&mut self, inode: InodeId, record: &InodeRecord) -> MetaResult<()> {
        let since = self.now();
        self.txn.put(&Key::Orphan(self.target.mount, inode), &OrphanRecord { since })?;
        let mut counters = self.counters()?;
        counters.orphan_bytes += record.mapped;
        counters.orphan_inodes += 1;
        self.put_counters(&counters)?;
        self.emit(Event::Unlinked(inode));
        self.orphaned = Some(inode);
        Ok(())
    }

    fn counters(&mut self) -> MetaResult<CountersRecord> {
        self.txn
            .get(&Key::Counters(self.target.mount))?
            .ok_or_else(|| MetaError::Corrupt(format!("volume {} has no counters", self.target.id)))
    }

    fn put_counters(&mut self, counters: &CountersRecord) -> MetaResult<()> {
        self.txn.put(&Key::Counters(self.target.mount), counters)
    }

    /// Counts bytes that an inode maps more, or less.
    fn charge_body(&mut self, record: &InodeRecord, bytes: i64) -> MetaResult<()> {
        self.charge(bytes, 0)?;
        if record.nlink == 0 && bytes != 0 {
            let mut counters = self.counters()?;
            counters.orphan_bytes = counters.orphan_bytes.saturating_add_signed(bytes);
            self.put_counters(&counters)?;
        }
        Ok(())
    }

    /// Counts an orphan that is gone.
    fn drop_orphan(&mut self) -> MetaResult<()> {
        self.charge(0, -1)?;
        let mut counters = self.counters()?;
        counters.orphan_inodes = counters.orphan_inodes.saturating_sub(1);
        self.put_counters(&counters)
    }

    /// Counts what the volume uses. Growth is refused beyond the quota, shrinking never.
    fn charge(&mut self, bytes: i64, inodes: i64) -> MetaResult<()> {
        if bytes == 0 && inodes == 0 {
            return Ok(());
        }
        let counters = self.counters()?;
        let next = CountersRecord {
            bytes: counters.bytes.saturating_add_signed(bytes),
            inodes: counters.inodes.saturating_add_signed(inodes),
            ..counters
        };
        let Target { quota_bytes, quota_inodes, .. } = self.target;
        if bytes > 0 && quota_bytes > 0 && next.bytes > quota_bytes {
            return Err(MetaError::QuotaExceeded(format!(
                "{} of {quota_bytes} bytes are used; delete files or enlarge the volume",
                counters.bytes
            )));
        }
        if inodes > 0 && quota_inodes > 0 && next.inodes > quota_inodes {
            return Err(MetaError::QuotaExceeded(format!(
                "{} of {quota_inodes} inodes are used; delete files or raise the volume's inode quota",
                counters.inodes
            )));
        }
        self.put_counters(&next)
    }
}
