//! Mutations and their results.

use bytes::Bytes;
use nokvfs_types::{
    Ack, Applied, Caller, Fallocate, FileKind, InodeId, MAX_SYMLINK, MAX_XATTR_NAME, MAX_XATTR_VALUE, MetaError,
    Mutation, Name, NewNode, OpId, Publish, RenameMode, SetAttr, SetTime, Stamp, Timestamp, UploadId, XattrMode,
};

use super::attr::{attr_from_wire, attr_to_wire, extents_from_wire, extents_to_wire, kind_from_wire, kind_to_wire};
use super::volume::{session_from_wire, session_to_wire};
use super::{Checked, inode, invalid, mode, required};
use crate::call::SessionRef;
use crate::wire::{self, mutate_call::Mutation as WireMutation};

/// Most supplementary groups of a caller (Linux `NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;
/// Most upload ids in one grant.
const MAX_UPLOADS: u32 = 65_536;
/// Slots are below this.
const SLOTS: u32 = 256;

pub(super) fn mutate_to_wire(stamp: &Stamp, caller: &Caller, mutation: &Mutation) -> wire::MutateCall {
    wire::MutateCall {
        session: session_to_wire(SessionRef { session: stamp.session, generation: stamp.generation }),
        slot: u32::from(stamp.slot),
        sequence: stamp.sequence,
        op: stamp.op.0,
        caller: Some(wire::Caller { uid: caller.uid, gid: caller.gid, groups: caller.groups.to_vec() }),
        mutation: Some(mutation_to_wire(mutation)),
    }
}

pub(super) fn mutate_from_wire(call: wire::MutateCall) -> Checked<(Stamp, Caller, Mutation)> {
    let session = session_from_wire(call.session)?;
    if call.slot >= SLOTS {
        return invalid(format!("slot {}; they end at {}", call.slot, SLOTS - 1));
    }
    let stamp = Stamp {
        session: session.session,
        generation: session.generation,
        slot: call.slot as u16,
        sequence: call.sequence,
        op: OpId(call.op),
    };
    let caller = required(call.caller, "the caller")?;
    if caller.groups.len() > MAX_GROUPS {
        return invalid(format!("{} groups, at most {MAX_GROUPS}", caller.groups.len()));
    }
    let caller = Caller { uid: caller.uid, gid: caller.gid, groups: caller.groups.into() };
    Ok((stamp, caller, mutation_from_wire(required(call.mutation, "a mutation that this server knows")?)?))
}

fn mutation_to_wire(mutation: &Mutation) -> WireMutation {
    match mutation {
        Mutation::Create { parent, name, node, mode, open_existing, ack } => {
            let (kind, target, rdev) = match node {
                NewNode::File => (FileKind::File, Bytes::new(), 0),
                NewNode::Directory => (FileKind::Directory, Bytes::new(), 0),
                NewNode::Symlink(target) => (FileKind::Symlink, target.clone(), 0),
                NewNode::Special { kind, rdev } => (*kind, Bytes::new(), *rdev),
            };
            WireMutation::Create(wire::Create {
                parent: parent.0,
                name: name.to_bytes(),
                kind: kind_to_wire(kind),
                mode: u32::from(*mode),
                open_existing: *open_existing,
                early: *ack == Ack::Early,
                restore: if let Ack::Restore(inode) = ack { inode.0 } else { 0 },
                target,
                rdev,
            })
        }
        Mutation::Link { inode, parent, name } => {
            WireMutation::Link(wire::Link { inode: inode.0, parent: parent.0, name: name.to_bytes() })
        }
        Mutation::Unlink { parent, name } => {
            WireMutation::Unlink(wire::Remove { parent: parent.0, name: name.to_bytes() })
        }
        Mutation::Rmdir { parent, name } => {
            WireMutation::Rmdir(wire::Remove { parent: parent.0, name: name.to_bytes() })
        }
        Mutation::Rename { parent, name, new_parent, new_name, mode } => WireMutation::Rename(wire::Rename {
            parent: parent.0,
            name: name.to_bytes(),
            new_parent: new_parent.0,
            new_name: new_name.to_bytes(),
            mode: rename_mode_to_wire(*mode),
        }),
        Mutation::SetAttr { inode, set } => WireMutation::SetAttr(set_attr_to_wire(inode.0, set)),
        Mutation::SetXattr { inode, name, value, mode } => WireMutation::SetXattr(wire::SetXattr {
            inode: inode.0,
            name: name.clone(),
            value: value.clone(),
            mode: xattr_mode_to_wire(*mode),
        }),
        Mutation::RemoveXattr { inode, name } => {
            WireMutation::RemoveXattr(wire::RemoveXattr { inode: inode.0, name: name.clone() })
        }
        Mutation::Publish(publish) => WireMutation::Publish(wire::Publish {
            inode: publish.inode.0,
            truncate: publish.truncate,
            size: publish.size,
            written: publish.written.0,
            extents: extents_to_wire(&publish.extents),
        }),
        Mutation::Fallocate(Fallocate { inode, offset, len, unmap, size }) => {
            WireMutation::Fallocate(wire::Fallocate {
                inode: inode.0,
                offset: *offset,
                len: *len,
                unmap: *unmap,
                size: *size,
            })
        }
        Mutation::ReserveUploads { count, settled } => {
            WireMutation::ReserveUploads(wire::ReserveUploads { count: *count, settled: settled.0 })
        }
    }
}

fn mutation_from_wire(mutation: WireMutation) -> Checked<Mutation> {
    Ok(match mutation {
        WireMutation::Create(create) => create_from_wire(create)?,
        WireMutation::Link(link) => {
            Mutation::Link { inode: inode(link.inode)?, parent: inode(link.parent)?, name: Name::new(link.name)? }
        }
        WireMutation::Unlink(remove) => {
            Mutation::Unlink { parent: inode(remove.parent)?, name: Name::new(remove.name)? }
        }
        WireMutation::Rmdir(remove) => Mutation::Rmdir { parent: inode(remove.parent)?, name: Name::new(remove.name)? },
        WireMutation::Rename(rename) => Mutation::Rename {
            parent: inode(rename.parent)?,
            name: Name::new(rename.name)?,
            new_parent: inode(rename.new_parent)?,
            new_name: Name::new(rename.new_name)?,
            mode: rename_mode_from_wire(rename.mode)?,
        },
        WireMutation::SetAttr(set) => set_attr_from_wire(set)?,
        WireMutation::SetXattr(set) => {
            if set.value.len() > MAX_XATTR_VALUE {
                return Err(MetaError::AttributeTooLarge);
            }
            let mode = xattr_mode_from_wire(set.mode)?;
            Mutation::SetXattr { inode: inode(set.inode)?, name: xattr_name(set.name)?, value: set.value, mode }
        }
        WireMutation::RemoveXattr(remove) => {
            Mutation::RemoveXattr { inode: inode(remove.inode)?, name: xattr_name(remove.name)? }
        }
        WireMutation::Publish(publish) => Mutation::Publish(Publish {
            inode: inode(publish.inode)?,
            truncate: publish.truncate,
            size: publish.size,
            written: Timestamp(publish.written),
            extents: extents_from_wire(publish.extents)?,
        }),
        WireMutation::Fallocate(wire::Fallocate { inode: number, offset, len, unmap, size }) => {
            Mutation::Fallocate(Fallocate { inode: inode(number)?, offset, len, unmap, size })
        }
        WireMutation::ReserveUploads(reserve) => {
            if !(1..=MAX_UPLOADS).contains(&reserve.count) {
                return invalid(format!("{} upload ids; ask for 1 to {MAX_UPLOADS}", reserve.count));
            }
            Mutation::ReserveUploads { count: reserve.count, settled: UploadId(reserve.settled) }
        }
    })
}

fn create_from_wire(create: wire::Create) -> Checked<Mutation> {
    let kind = kind_from_wire(create.kind)?;
    if kind != FileKind::Symlink && !create.target.is_empty() {
        return invalid("only a symbolic link has a target");
    }
    if !matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) && create.rdev != 0 {
        return invalid("only a device node has a device number");
    }
    let node = match kind {
        FileKind::File => NewNode::File,
        FileKind::Directory => NewNode::Directory,
        FileKind::Symlink if create.target.is_empty() => return Err(MetaError::NotFound),
        FileKind::Symlink if create.target.len() > MAX_SYMLINK => return Err(MetaError::NameTooLong),
        FileKind::Symlink => NewNode::Symlink(create.target),
        kind => NewNode::Special { kind, rdev: create.rdev },
    };
    Ok(Mutation::Create {
        parent: inode(create.parent)?,
        name: Name::new(create.name)?,
        node,
        mode: mode(create.mode)?,
        open_existing: create.open_existing,
        ack: match (create.early, create.restore) {
            (false, 0) => Ack::Durable,
            (true, 0) => Ack::Early,
            (false, number) => Ack::Restore(InodeId(number)),
            (true, _) => return invalid("a file that is restored is not answered early"),
        },
    })
}

/// A full name of an extended attribute: 1 to 255 bytes without NUL.
pub(super) fn xattr_name(name: Bytes) -> Checked<Bytes> {
    if name.len() > MAX_XATTR_NAME {
        return Err(MetaError::NameTooLong);
    }
    if name.is_empty() || name.contains(&0) {
        return invalid("a name of an extended attribute has 1 to 255 bytes without NUL");
    }
    Ok(name)
}

fn rename_mode_to_wire(mode: RenameMode) -> i32 {
    match mode {
        RenameMode::Replace => wire::RenameMode::ReplaceTarget,
        RenameMode::NoReplace => wire::RenameMode::NoReplace,
        RenameMode::Exchange => wire::RenameMode::Exchange,
    }
    .into()
}

fn rename_mode_from_wire(mode: i32) -> Checked<RenameMode> {
    match wire::RenameMode::try_from(mode) {
        Ok(wire::RenameMode::ReplaceTarget) => Ok(RenameMode::Replace),
        Ok(wire::RenameMode::NoReplace) => Ok(RenameMode::NoReplace),
        Ok(wire::RenameMode::Exchange) => Ok(RenameMode::Exchange),
        Ok(wire::RenameMode::Unspecified) | Err(_) => invalid(format!("rename mode {mode}")),
    }
}

fn xattr_mode_to_wire(mode: XattrMode) -> i32 {
    match mode {
        XattrMode::Set => wire::XattrMode::XattrSet,
        XattrMode::Create => wire::XattrMode::XattrCreate,
        XattrMode::Replace => wire::XattrMode::XattrReplace,
    }
    .into()
}

fn xattr_mode_from_wire(mode: i32) -> Checked<XattrMode> {
    match wire::XattrMode::try_from(mode) {
        Ok(wire::XattrMode::XattrSet) => Ok(XattrMode::Set),
        Ok(wire::XattrMode::XattrCreate) => Ok(XattrMode::Create),
        Ok(wire::XattrMode::XattrReplace) => Ok(XattrMode::Replace),
        Ok(wire::XattrMode::Unspecified) | Err(_) => invalid(format!("mode of setting an attribute {mode}")),
    }
}

fn set_attr_to_wire(inode: u64, set: &SetAttr) -> wire::SetAttr {
    let time = |time: SetTime| match time {
        SetTime::Now => wire::SetTime { now: true, at: 0 },
        SetTime::At(at) => wire::SetTime { now: false, at: at.0 },
    };
    wire::SetAttr {
        inode,
        mode: set.mode.map(u32::from),
        uid: set.uid,
        gid: set.gid,
        size: set.size,
        atime: set.atime.map(time),
        mtime: set.mtime.map(time),
        ctime: set.ctime.map(|at| at.0),
    }
}

fn set_attr_from_wire(set: wire::SetAttr) -> Checked<Mutation> {
    let time = |time: wire::SetTime| if time.now { SetTime::Now } else { SetTime::At(Timestamp(time.at)) };
    let changes = SetAttr {
        mode: set.mode.map(mode).transpose()?,
        uid: set.uid,
        gid: set.gid,
        size: set.size,
        atime: set.atime.map(time),
        mtime: set.mtime.map(time),
        ctime: set.ctime.map(Timestamp),
    };
    Ok(Mutation::SetAttr { inode: inode(set.inode)?, set: changes })
}

pub(super) fn applied_to_wire(applied: &Applied) -> wire::Applied {
    use wire::applied::Result as Wire;
    let result = match applied {
        Applied::Unit => Wire::Unit(wire::Unit {}),
        Applied::Entry { attr, created } => {
            Wire::Entry(wire::Entry { attr: Some(attr_to_wire(attr)), created: *created })
        }
        Applied::Removed { inode, nlink } => Wire::Removed(wire::Removed { inode: inode.0, nlink: *nlink }),
        Applied::Uploads { first, count } => Wire::Uploads(wire::Uploads { first: first.0, count: *count }),
    };
    wire::Applied { result: Some(result) }
}

pub(super) fn applied_from_wire(applied: wire::Applied) -> Checked<Applied> {
    use wire::applied::Result as Wire;
    Ok(match required(applied.result, "a mutation's result")? {
        Wire::Unit(_) => Applied::Unit,
        Wire::Entry(entry) => Applied::Entry {
            attr: attr_from_wire(required(entry.attr, "the entry's attributes")?)?,
            created: entry.created,
        },
        Wire::Removed(removed) => Applied::Removed { inode: inode(removed.inode)?, nlink: removed.nlink },
        Wire::Uploads(uploads) => {
            if uploads.first.checked_add(u64::from(uploads.count)).is_none() {
                return invalid("upload ids beyond the last");
            }
            Applied::Uploads { first: UploadId(uploads.first), count: uploads.count }
        }
    })
}
