//! From a request to its answer: who may ask, and whom to ask.

use std::collections::HashMap;
use std::sync::Arc;

use nokvfs_meta::service::LOCK_PATIENCE;
use nokvfs_protocol::{Answer, Call, LockWait, SessionRef};
use nokvfs_types::{MetaError, SessionGrant, SessionId, SessionRequest};
use parking_lot::Mutex;

use crate::backend::Backend;
use crate::peer::Role;

/// Most entries of one page: with attributes some 350 bytes each, 1.4 MiB.
const PAGE_MAX: u32 = 4096;

/// One peer: its role, and the sessions that it opened or attached on this connection.
#[derive(Debug)]
pub(crate) struct Peer {
    role: Role,
    held: Mutex<HashMap<SessionId, u32>>,
    held_max: usize,
}

impl Peer {
    pub(crate) fn new(role: Role, held_max: usize) -> Self {
        Peer { role, held: Mutex::new(HashMap::new()), held_max }
    }

    /// A session's number alone opens nothing: it is small and can be guessed.
    fn check(&self, call: &Call) -> Result<(), MetaError> {
        if let Some(SessionRef { session, generation }) = call.session() {
            if self.held.lock().get(&session) == Some(&generation) {
                return Ok(());
            }
            return Err(MetaError::Unauthorized(format!("session {session} was not opened on this connection")));
        }
        match call {
            Call::OpenSession(_) | Call::AttachSession(_) if self.held.lock().len() >= self.held_max => {
                Err(MetaError::Busy(format!("the connection holds {} sessions; use another", self.held_max)))
            }
            Call::CreateVolume(_)
            | Call::Volume(_)
            | Call::ListVolumes { .. }
            | Call::SetQuota { .. }
            | Call::DeleteVolume(_)
            | Call::CreateSnapshot(..)
            | Call::ListSnapshots(_)
            | Call::DeleteSnapshot(..)
            | Call::CloneVolume(_)
            | Call::RollbackVolume(..)
            | Call::Check(..)
                if self.role != Role::Control =>
            {
                Err(MetaError::Unauthorized("volumes are for the role nokv-control".into()))
            }
            _ => Ok(()),
        }
    }

    fn hold(&self, grant: &SessionGrant) {
        self.held.lock().insert(grant.session, grant.generation);
    }

    async fn session(&self, backend: &dyn Backend, request: SessionRequest, attach: bool) -> Result<Answer, MetaError> {
        let opened = if attach { backend.attach_session(request).await } else { backend.open_session(request).await };
        opened.map(|grant| {
            self.hold(&grant);
            Answer::Session(grant)
        })
    }
}

/// Answers a request.
pub(crate) async fn answer(backend: Arc<dyn Backend>, peer: Arc<Peer>, call: Call) -> Result<Answer, MetaError> {
    peer.check(&call)?;
    Ok(match call {
        Call::Ping => Answer::Unit,
        Call::OpenSession(request) => peer.session(&*backend, request, false).await?,
        Call::AttachSession(request) => peer.session(&*backend, request, true).await?,
        Call::Heartbeat(session, beat) => {
            Answer::Heartbeat(backend.heartbeat(session.session, session.generation, beat).await?)
        }
        Call::CloseSession(session) => {
            backend.close_session(session.session, session.generation).await?;
            peer.held.lock().remove(&session.session);
            Answer::Unit
        }
        Call::Lookup(session, parent, name) => Answer::Attr(backend.lookup(session, parent, &name).await?),
        Call::Getattr(session, inode) => Answer::Attr(backend.getattr(session, inode).await?),
        Call::Readdir { session, inode, after, limit, attrs } => {
            Answer::Page(backend.readdir(session, inode, after, limit.min(PAGE_MAX), attrs).await?)
        }
        Call::Readlink(session, inode) => Answer::Data(backend.readlink(session, inode).await?),
        Call::Getxattr(session, inode, name) => Answer::Data(backend.getxattr(session, inode, &name).await?),
        Call::Listxattr(session, inode) => Answer::Names(backend.listxattr(session, inode).await?),
        Call::Body(session, inode, from) => Answer::Body(backend.body(session, inode, from).await?),
        Call::Mutate(stamp, caller, mutation) => Answer::Applied(backend.mutate(stamp, caller, mutation).await?),
        Call::Statfs(session) => Answer::Stat(backend.statfs(session).await?),
        Call::CreateVolume(spec) => {
            let (info, token) = backend.create_volume(spec).await?;
            Answer::Created(info, token)
        }
        Call::Volume(id) => Answer::Volume(backend.volume(id).await?),
        Call::ListVolumes { after, limit } => Answer::Volumes(backend.list_volumes(after.as_deref(), limit).await?),
        Call::SetQuota { id, bytes, inodes } => Answer::Volume(backend.set_quota(id, bytes, inodes).await?),
        Call::DeleteVolume(id) => {
            backend.delete_volume(id).await?;
            Answer::Unit
        }
        Call::CreateSnapshot(volume, name) => Answer::Snapshot(backend.create_snapshot(volume, &name).await?),
        Call::ListSnapshots(volume) => Answer::Snapshots(backend.list_snapshots(volume).await?),
        Call::DeleteSnapshot(volume, name) => {
            backend.delete_snapshot(volume, &name).await?;
            Answer::Unit
        }
        Call::CloneVolume(spec) => {
            let (info, token) = backend.clone_volume(spec).await?;
            Answer::Created(info, token)
        }
        Call::RollbackVolume(volume, snapshot) => Answer::Volume(backend.rollback_volume(volume, &snapshot).await?),
        Call::Check(run, step, spec) => Answer::Check(backend.check(run, step, spec).await?),
        Call::SetLock(session, incarnation, lock) => {
            Answer::Lock(backend.set_lock(session.session, session.generation, incarnation, lock).await?)
        }
        Call::TestLock(session, lock) => {
            Answer::Lock(backend.test_lock(session.session, session.generation, lock).await?)
        }
        Call::WaitLock(SessionRef { session, generation }, incarnation, LockWait { lock, op, place }) => {
            let waited = backend.wait_lock(session, generation, incarnation, (lock, op), place, LOCK_PATIENCE);
            Answer::Lock(waited.await?)
        }
        Call::ForgetWait(session, inode, op) => {
            backend.forget_wait(session.session, session.generation, inode, op).await?;
            Answer::Unit
        }
        Call::SyncLocks(session, incarnation, locks) => {
            backend.sync_locks(session.session, session.generation, incarnation, locks).await?;
            Answer::Unit
        }
    })
}
