//! Locks of a front end in the engine's own process.

use std::time::Instant;

use nokvfs_types::{HeldLock, Lock, LockPlace, LockReply, MetaError, OpId, SessionGrant};

use crate::engine::Engine;
use crate::service::{GiveUp, LOCK_PATIENCE, LockService, MetaResult, RequestContext};

/// A session has one connection to the engine of its own process.
const INCARNATION: u64 = 1;

/// The locks of a session in the engine's process. The engine's table is all that there is.
#[derive(Debug)]
pub(crate) struct LocalLocks<'s> {
    pub engine: &'s Engine,
    pub grant: &'s SessionGrant,
}

impl LocalLocks<'_> {
    /// See [`crate::service::MetadataService::lock`].
    pub(crate) async fn lock(&self, ctx: &RequestContext, lock: Lock, give_up: Option<GiveUp>) -> MetaResult<()> {
        let SessionGrant { session, generation, .. } = *self.grant;
        let waits = give_up.is_some();
        let given_up = async move {
            match give_up {
                Some(give_up) => give_up.await,
                None => tokio::time::sleep_until(ctx.deadline.into()).await,
            }
        };
        tokio::pin!(given_up);
        let mut place = None;
        loop {
            match self.engine.set_lock(session, generation, INCARNATION, lock).await? {
                LockReply::Done => return Ok(()),
                LockReply::Held(_) if !waits => return Err(MetaError::Locked),
                LockReply::Held(_) | LockReply::Waiting(_) | LockReply::Recovering => {}
            }
            tokio::select! {
                reply = self.wait(lock, ctx.op, place) => place = reply?,
                () = &mut given_up => return Err(if waits { MetaError::Interrupted } else { MetaError::Locked }),
            }
        }
    }

    /// The first lock that is in the way.
    pub(crate) async fn test(&self, ctx: &RequestContext, lock: Lock) -> MetaResult<Option<HeldLock>> {
        let SessionGrant { session, generation, .. } = *self.grant;
        let mut place = None;
        loop {
            match self.engine.test_lock(session, generation, lock).await? {
                LockReply::Done => return Ok(None),
                LockReply::Held(held) => return Ok(Some(held)),
                LockReply::Waiting(_) | LockReply::Recovering if Instant::now() < ctx.deadline => {}
                LockReply::Waiting(_) | LockReply::Recovering => {
                    return Err(MetaError::Deadline("not every session has told its locks since the restart".into()));
                }
            }
            place = self.wait(lock, ctx.op, place).await?;
            // Nothing is to be set.
            self.engine.forget_wait(session, generation, lock.inode, ctx.op).await?;
        }
    }

    /// Waits a while; dropped, it leaves nothing behind.
    async fn wait(&self, lock: Lock, op: OpId, place: Option<LockPlace>) -> MetaResult<Option<LockPlace>> {
        let SessionGrant { session, generation, .. } = *self.grant;
        let waited = self.engine.wait_lock(session, generation, INCARNATION, (lock, op), place, LOCK_PATIENCE);
        Ok(match waited.await? {
            LockReply::Waiting(place) => Some(place),
            LockReply::Done | LockReply::Held(_) | LockReply::Recovering => place,
        })
    }
}
