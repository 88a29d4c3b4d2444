//! The service of locks.

use std::time::{Duration, Instant};

use nokvfs_types::{InodeId, Lock, LockPlace, LockReply, OpId, SessionId};

use super::locks::{By, FileKey, Waiting};
use crate::engine::{Core, Engine};
use crate::service::{LockService, MetaResult};

#[async_trait::async_trait]
impl LockService for Engine {
    async fn set_lock(
        &self,
        session: SessionId,
        generation: u32,
        incarnation: u64,
        lock: Lock,
    ) -> MetaResult<LockReply> {
        let core = self.core();
        // Checked with the table in hand: a session that ends takes its locks along after it is gone from the sessions.
        let mut table = core.locks.lock();
        let by = core.locker(session, generation)?;
        table.set(by, incarnation, &lock, Instant::now())
    }

    async fn test_lock(&self, session: SessionId, generation: u32, lock: Lock) -> MetaResult<LockReply> {
        let core = self.core();
        let by = core.locker(session, generation)?;
        Ok(core.locks.lock().test(by, &lock))
    }

    async fn wait_lock(
        &self,
        session: SessionId,
        generation: u32,
        incarnation: u64,
        (lock, op): (Lock, OpId),
        place: Option<LockPlace>,
        patience: Duration,
    ) -> MetaResult<LockReply> {
        let core = self.core();
        let until = Instant::now() + patience;
        let (waiting, key) = {
            let mut table = core.locks.lock();
            let by = core.locker(session, generation)?;
            (table.wait(by, incarnation, (&lock, op), place, Instant::now())?, (by.place, lock.inode))
        };
        let Waiting { id, place, mut told } = waiting;
        let mut leaving = Leaving { core, key, id, heard: false };
        loop {
            let claim_ends = core.locks.lock().next_claim_end(key);
            tokio::select! {
                biased;
                reply = &mut told => {
                    leaving.heard = reply.is_ok();
                    // Dropped with its session, or because another connection told the locks.
                    return Ok(reply.unwrap_or(LockReply::Waiting(place)));
                }
                () = tokio::time::sleep_until(claim_ends.map_or(until, |ends| ends.min(until)).into()) => {}
            }
            let now = Instant::now();
            if now >= until {
                return Ok(LockReply::Waiting(place));
            }
            core.locks.lock().tell(key, now);
        }
    }

    async fn forget_wait(&self, session: SessionId, generation: u32, inode: InodeId, op: OpId) -> MetaResult<()> {
        let core = self.core();
        let by = core.locker(session, generation)?;
        core.locks.lock().forget(by, inode, op, Instant::now());
        Ok(())
    }

    async fn sync_locks(
        &self,
        session: SessionId,
        generation: u32,
        incarnation: u64,
        locks: Vec<Lock>,
    ) -> MetaResult<()> {
        let core = self.core();
        let mut table = core.locks.lock();
        let by = core.locker(session, generation)?;
        let told = table.sync(by, incarnation, &locks, Instant::now());
        if let Err(error) = &told {
            tracing::warn!(%session, incarnation, locks = locks.len(), %error, "a session's locks were refused");
        }
        told
    }
}

impl Core {
    fn locker(&self, session: SessionId, generation: u32) -> MetaResult<By> {
        let live = self.sessions.check(session, generation)?;
        Ok(live.locker())
    }
}

/// Takes a waiter out, and its claim unless it heard of it.
struct Leaving<'c> {
    core: &'c Core,
    key: FileKey,
    id: u64,
    heard: bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if !self.heard {
            self.core.locks.lock().leave(self.key, self.id, Instant::now());
        }
    }
}
