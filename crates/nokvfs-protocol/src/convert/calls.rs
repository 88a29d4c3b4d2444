//! Calls and answers.

use nokvfs_types::{FsStat, InodeId, MAX_SNAPSHOTS, MAX_SYMLINK, MAX_XATTR_VALUE, Name, OpId};

use super::attr::{attr_from_wire, attr_to_wire, body_from_wire, body_to_wire, page_from_wire, page_to_wire};
use super::check::{check_call, check_spec, step_from_wire, step_to_wire};
use super::lock::{
    lock_call, lock_from_wire, lock_reply_from_wire, lock_reply_to_wire, lock_to_wire, wait_from_wire, wait_to_wire,
    wanted_lock, wanted_locks,
};
use super::mutation::{applied_from_wire, applied_to_wire, mutate_from_wire, mutate_to_wire, xattr_name};
use super::volume::{
    beat_reply_from_wire, beat_reply_to_wire, clone_from_wire, clone_to_wire, grant_from_wire, grant_to_wire,
    heartbeat_from_wire, heartbeat_to_wire, id_from_wire, id_to_wire, info_from_wire, info_of_snapshot, info_to_wire,
    request_from_wire, request_to_wire, session_from_wire, session_to_wire, snapshot_call, snapshot_call_from_wire,
    snapshot_to_wire, spec_from_wire, spec_to_wire, token_from_wire, token_to_wire,
};
use super::{Checked, error_from_wire, inode, invalid, required};
use crate::call::{Answer, Call, SessionRef};
use crate::wire::{self, reply::Answer as WireAnswer, request::Call as WireCall};

fn inode_call(session: SessionRef, inode: InodeId) -> wire::InodeCall {
    wire::InodeCall { session: session_to_wire(session), inode: inode.0 }
}

pub(crate) fn call_to_wire(call: &Call) -> WireCall {
    match call {
        Call::Ping => WireCall::Ping(wire::Ping {}),
        Call::OpenSession(request) => WireCall::OpenSession(request_to_wire(request)),
        Call::AttachSession(request) => WireCall::AttachSession(request_to_wire(request)),
        Call::Heartbeat(session, beat) => WireCall::Heartbeat(heartbeat_to_wire(*session, beat)),
        Call::CloseSession(session) => {
            WireCall::CloseSession(wire::CloseSessionCall { session: session_to_wire(*session) })
        }
        Call::Lookup(session, parent, name) => WireCall::Lookup(wire::LookupCall {
            session: session_to_wire(*session),
            parent: parent.0,
            name: name.to_bytes(),
        }),
        Call::Getattr(session, inode) => WireCall::Getattr(inode_call(*session, *inode)),
        Call::Readdir { session, inode, after, limit, attrs } => WireCall::Readdir(wire::ReaddirCall {
            session: session_to_wire(*session),
            inode: inode.0,
            after: *after,
            limit: *limit,
            attrs: *attrs,
        }),
        Call::Readlink(session, inode) => WireCall::Readlink(inode_call(*session, *inode)),
        Call::Getxattr(session, inode, name) => WireCall::Getxattr(wire::GetXattrCall {
            session: session_to_wire(*session),
            inode: inode.0,
            name: name.clone(),
        }),
        Call::Listxattr(session, inode) => WireCall::Listxattr(inode_call(*session, *inode)),
        Call::Body(session, inode, from) => {
            WireCall::Body(wire::BodyCall { session: session_to_wire(*session), inode: inode.0, from: *from })
        }
        Call::Mutate(stamp, caller, mutation) => WireCall::Mutate(mutate_to_wire(stamp, caller, mutation)),
        Call::Statfs(session) => WireCall::Statfs(wire::StatfsCall { session: session_to_wire(*session) }),
        Call::CreateVolume(spec) => WireCall::CreateVolume(spec_to_wire(spec)),
        Call::Volume(id) => WireCall::Volume(wire::VolumeCall { id: id_to_wire(*id) }),
        Call::ListVolumes { after, limit } => {
            WireCall::ListVolumes(wire::ListVolumesCall { after: after.clone(), limit: *limit })
        }
        Call::SetQuota { id, bytes, inodes } => {
            WireCall::SetQuota(wire::SetQuotaCall { id: id_to_wire(*id), bytes: *bytes, inodes: *inodes })
        }
        Call::DeleteVolume(id) => WireCall::DeleteVolume(wire::VolumeCall { id: id_to_wire(*id) }),
        Call::CreateSnapshot(volume, name) => WireCall::CreateSnapshot(snapshot_call(*volume, name)),
        Call::ListSnapshots(id) => WireCall::ListSnapshots(wire::VolumeCall { id: id_to_wire(*id) }),
        Call::DeleteSnapshot(volume, name) => WireCall::DeleteSnapshot(snapshot_call(*volume, name)),
        Call::CloneVolume(spec) => WireCall::CloneVolume(clone_to_wire(spec)),
        Call::RollbackVolume(volume, name) => WireCall::RollbackVolume(snapshot_call(*volume, name)),
        Call::SetLock(session, incarnation, lock) => WireCall::SetLock(lock_call(*session, *incarnation, lock)),
        Call::TestLock(session, lock) => WireCall::TestLock(lock_call(*session, 0, lock)),
        Call::WaitLock(session, incarnation, wait) => WireCall::WaitLock(wait_to_wire(*session, *incarnation, wait)),
        Call::ForgetWait(session, inode, op) => {
            WireCall::ForgetWait(wire::ForgetWaitCall { session: session_to_wire(*session), inode: inode.0, op: op.0 })
        }
        Call::SyncLocks(session, incarnation, locks) => WireCall::SyncLocks(wire::SyncLocksCall {
            session: session_to_wire(*session),
            incarnation: *incarnation,
            locks: locks.iter().map(lock_to_wire).collect(),
        }),
        Call::Check(run, step, spec) => WireCall::Check(check_call(*run, *step, spec)),
    }
}

pub(crate) fn call_from_wire(call: WireCall) -> Checked<Call> {
    Ok(match call {
        WireCall::Ping(_) => Call::Ping,
        WireCall::OpenSession(request) => Call::OpenSession(request_from_wire(request)?),
        WireCall::AttachSession(request) => {
            if request.resume.is_none() {
                return invalid("attach names no session");
            }
            Call::AttachSession(request_from_wire(request)?)
        }
        WireCall::Heartbeat(call) => {
            let (session, beat) = heartbeat_from_wire(call)?;
            Call::Heartbeat(session, beat)
        }
        WireCall::CloseSession(call) => Call::CloseSession(session_from_wire(call.session)?),
        WireCall::Lookup(call) => {
            Call::Lookup(session_from_wire(call.session)?, inode(call.parent)?, Name::new(call.name)?)
        }
        WireCall::Getattr(call) => Call::Getattr(session_from_wire(call.session)?, inode(call.inode)?),
        WireCall::Readdir(call) => {
            if call.limit == 0 {
                return invalid("a listing of at most 0 entries");
            }
            let session = session_from_wire(call.session)?;
            Call::Readdir {
                session,
                inode: inode(call.inode)?,
                after: call.after,
                limit: call.limit,
                attrs: call.attrs,
            }
        }
        WireCall::Readlink(call) => Call::Readlink(session_from_wire(call.session)?, inode(call.inode)?),
        WireCall::Getxattr(call) => {
            Call::Getxattr(session_from_wire(call.session)?, inode(call.inode)?, xattr_name(call.name)?)
        }
        WireCall::Listxattr(call) => Call::Listxattr(session_from_wire(call.session)?, inode(call.inode)?),
        WireCall::Body(call) => Call::Body(session_from_wire(call.session)?, inode(call.inode)?, call.from),
        WireCall::Mutate(call) => {
            let (stamp, caller, mutation) = mutate_from_wire(call)?;
            Call::Mutate(stamp, caller, mutation)
        }
        WireCall::Statfs(call) => Call::Statfs(session_from_wire(call.session)?),
        WireCall::CreateVolume(spec) => Call::CreateVolume(spec_from_wire(spec)?),
        WireCall::Volume(call) => Call::Volume(id_from_wire(&call.id)?),
        WireCall::ListVolumes(call) => {
            if !(1..=1000).contains(&call.limit) {
                return invalid(format!("a list of {} volumes; ask for 1 to 1,000", call.limit));
            }
            Call::ListVolumes { after: call.after, limit: call.limit }
        }
        WireCall::SetQuota(call) => {
            Call::SetQuota { id: id_from_wire(&call.id)?, bytes: call.bytes, inodes: call.inodes }
        }
        WireCall::DeleteVolume(call) => Call::DeleteVolume(id_from_wire(&call.id)?),
        WireCall::CreateSnapshot(call) => {
            let (volume, name) = snapshot_call_from_wire(call)?;
            Call::CreateSnapshot(volume, name)
        }
        WireCall::ListSnapshots(call) => Call::ListSnapshots(id_from_wire(&call.id)?),
        WireCall::DeleteSnapshot(call) => {
            let (volume, name) = snapshot_call_from_wire(call)?;
            Call::DeleteSnapshot(volume, name)
        }
        WireCall::CloneVolume(call) => Call::CloneVolume(clone_from_wire(call)?),
        WireCall::RollbackVolume(call) => {
            let (volume, name) = snapshot_call_from_wire(call)?;
            Call::RollbackVolume(volume, name)
        }
        WireCall::SetLock(call) => {
            Call::SetLock(session_from_wire(call.session)?, call.incarnation, lock_from_wire(call.lock)?)
        }
        WireCall::TestLock(call) => Call::TestLock(session_from_wire(call.session)?, wanted_lock(call.lock)?),
        WireCall::WaitLock(call) => {
            Call::WaitLock(session_from_wire(call.session)?, call.incarnation, wait_from_wire(&call)?)
        }
        WireCall::ForgetWait(call) => {
            Call::ForgetWait(session_from_wire(call.session)?, inode(call.inode)?, OpId(call.op))
        }
        WireCall::SyncLocks(call) => {
            Call::SyncLocks(session_from_wire(call.session)?, call.incarnation, wanted_locks(call.locks)?)
        }
        WireCall::Check(call) => Call::Check(call.run, call.step, check_spec(&call)?),
    })
}

pub(crate) fn answer_to_wire(answer: &Answer) -> WireAnswer {
    match answer {
        Answer::Unit => WireAnswer::Unit(wire::Unit {}),
        Answer::Session(grant) => WireAnswer::Session(grant_to_wire(grant)),
        Answer::Heartbeat(reply) => WireAnswer::Heartbeat(beat_reply_to_wire(reply)),
        Answer::Attr(attr) => WireAnswer::Attr(attr_to_wire(attr)),
        Answer::Page(page) => WireAnswer::Page(page_to_wire(page)),
        Answer::Data(data) => WireAnswer::Data(data.clone()),
        Answer::Names(names) => WireAnswer::Names(wire::Names { names: names.clone() }),
        Answer::Body(body) => WireAnswer::Body(body_to_wire(body)),
        Answer::Applied(applied) => WireAnswer::Applied(applied_to_wire(applied)),
        Answer::Stat(stat) => WireAnswer::Stat(wire::FsStat {
            used_bytes: stat.used_bytes,
            total_bytes: stat.total_bytes,
            used_inodes: stat.used_inodes,
            total_inodes: stat.total_inodes,
        }),
        Answer::Volume(info) => WireAnswer::Volume(info_to_wire(info)),
        Answer::Created(info, token) => {
            WireAnswer::Created(wire::CreatedVolume { volume: Some(info_to_wire(info)), token: token_to_wire(*token) })
        }
        Answer::Volumes(volumes) => {
            WireAnswer::Volumes(wire::VolumeList { volumes: volumes.iter().map(info_to_wire).collect() })
        }
        Answer::Snapshot(info) => WireAnswer::Snapshot(snapshot_to_wire(info)),
        Answer::Snapshots(infos) => {
            WireAnswer::Snapshots(wire::SnapshotList { snapshots: infos.iter().map(snapshot_to_wire).collect() })
        }
        Answer::Lock(reply) => WireAnswer::Lock(lock_reply_to_wire(reply)),
        Answer::Check(step) => WireAnswer::Check(step_to_wire(step)),
    }
}

pub(crate) fn answer_from_wire(answer: WireAnswer) -> Checked<Answer> {
    Ok(match answer {
        WireAnswer::Error(error) => return Err(error_from_wire(error)?),
        WireAnswer::Unit(_) => Answer::Unit,
        WireAnswer::Session(grant) => Answer::Session(grant_from_wire(grant)?),
        WireAnswer::Heartbeat(reply) => Answer::Heartbeat(beat_reply_from_wire(reply)?),
        WireAnswer::Attr(attr) => Answer::Attr(attr_from_wire(attr)?),
        WireAnswer::Page(page) => Answer::Page(page_from_wire(page)?),
        WireAnswer::Data(data) => {
            if data.len() > MAX_XATTR_VALUE.max(MAX_SYMLINK) {
                return invalid(format!("a value of {} bytes", data.len()));
            }
            Answer::Data(data)
        }
        WireAnswer::Names(names) => {
            Answer::Names(names.names.into_iter().map(xattr_name).collect::<Checked<Vec<_>>>()?)
        }
        WireAnswer::Body(body) => Answer::Body(body_from_wire(body)?),
        WireAnswer::Applied(applied) => Answer::Applied(applied_from_wire(applied)?),
        WireAnswer::Stat(stat) => Answer::Stat(FsStat {
            used_bytes: stat.used_bytes,
            total_bytes: stat.total_bytes,
            used_inodes: stat.used_inodes,
            total_inodes: stat.total_inodes,
        }),
        WireAnswer::Volume(info) => Answer::Volume(info_from_wire(info)?),
        WireAnswer::Created(created) => {
            let info = info_from_wire(required(created.volume, "the volume")?)?;
            Answer::Created(info, token_from_wire(&created.token)?)
        }
        WireAnswer::Volumes(list) => {
            Answer::Volumes(list.volumes.into_iter().map(info_from_wire).collect::<Checked<Vec<_>>>()?)
        }
        WireAnswer::Snapshot(info) => Answer::Snapshot(info_of_snapshot(info)?),
        WireAnswer::Snapshots(list) => {
            if list.snapshots.len() > MAX_SNAPSHOTS {
                return invalid(format!("{} snapshots of one volume, at most {MAX_SNAPSHOTS}", list.snapshots.len()));
            }
            Answer::Snapshots(list.snapshots.into_iter().map(info_of_snapshot).collect::<Checked<Vec<_>>>()?)
        }
        WireAnswer::Lock(reply) => Answer::Lock(lock_reply_from_wire(reply)?),
        WireAnswer::Check(step) => Answer::Check(step_from_wire(step)?),
    })
}
