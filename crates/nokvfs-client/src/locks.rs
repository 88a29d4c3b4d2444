//! Locks on a remote server.
//!
//! The server's table and the client's [`HeldLocks`] agree at each moment at which nothing is under way: an owner's
//! requests go one after the other, and a request whose answer does not come ends the connection. On the next one the
//! client tells all that it holds, and the server drops the rest. That is how locks come back after a restart of the
//! server, too. Waiting sets nothing, so it may end at any moment.

mod held;
mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_meta::service::{GiveUp, LOCK_PATIENCE, MetaResult, RequestContext};
use nokvfs_protocol::{Answer, Call, LockWait, SessionRef};
use nokvfs_types::{HeldLock, Lock, LockPlace, LockReply, LockType, MetaError, OpId};

use crate::channel::{Backoff, Channel};
use crate::connection::{Connection, NoAnswer};
use crate::unexpected;
pub(crate) use held::HeldLocks;
use turns::Turns;

/// How long one try of a request that has no deadline may take.
const TRY: Duration = Duration::from_secs(60);
/// How long a request that is under way is still waited for when its caller gives up.
const LAST: Duration = Duration::from_secs(1);
/// How long the server has to hear that a request waits no more.
const FORGET: Duration = Duration::from_secs(5);

/// The locks of a session on a remote server.
#[derive(Debug)]
pub(crate) struct RemoteLocks {
    channel: Arc<Channel>,
    session: SessionRef,
    held: Arc<HeldLocks>,
    turns: Turns,
}

impl RemoteLocks {
    pub(crate) fn new(channel: Arc<Channel>, session: SessionRef, held: Arc<HeldLocks>) -> Self {
        RemoteLocks { channel, session, held, turns: Turns::default() }
    }

    /// See [`nokvfs_meta::service::MetadataService::lock`].
    pub(crate) async fn lock(&self, ctx: &RequestContext, lock: Lock, give_up: Option<GiveUp>) -> MetaResult<()> {
        if lock.lock_type == LockType::Unlock {
            return self.unlock(&lock, ctx.deadline).await;
        }
        let Some(mut give_up) = give_up else { return self.try_lock(ctx, lock).await };
        let mut place = None;
        loop {
            let (set, gave_up) = until_last(self.set(&lock, Instant::now() + TRY), &mut give_up).await;
            match set {
                Some(Ok(LockReply::Done)) => return Ok(()),
                _ if gave_up => return Err(MetaError::Interrupted),
                // Its deadline is not the caller's.
                Some(Ok(_) | Err(MetaError::Deadline(_) | MetaError::Unavailable(_))) | None => {}
                Some(Err(error)) => return Err(error),
            }
            tokio::select! {
                waited = self.wait(&lock, ctx.op, place) => place = waited?,
                () = &mut give_up => {
                    self.forget(&lock, ctx.op);
                    return Err(MetaError::Interrupted);
                }
            }
        }
    }

    /// Sets a lock if nothing is in its way.
    async fn try_lock(&self, ctx: &RequestContext, lock: Lock) -> MetaResult<()> {
        loop {
            match self.set(&lock, ctx.deadline).await? {
                LockReply::Done => return Ok(()),
                LockReply::Recovering => match self.until_recovered(ctx, &lock).await {
                    // It may be held, for all that is known.
                    Err(MetaError::Deadline(_)) => return Err(MetaError::Locked),
                    waited => waited?,
                },
                LockReply::Held(_) | LockReply::Waiting(_) => return Err(MetaError::Locked),
            }
        }
    }

    /// The first lock that is in the way.
    pub(crate) async fn test(&self, ctx: &RequestContext, lock: Lock) -> MetaResult<Option<HeldLock>> {
        loop {
            match self.channel.call(&Call::TestLock(self.session, lock), ctx.deadline).await? {
                Answer::Lock(LockReply::Done) => return Ok(None),
                Answer::Lock(LockReply::Held(held)) => return Ok(Some(held)),
                Answer::Lock(_) => self.until_recovered(ctx, &lock).await?,
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Waits, as if for a lock, while other sessions tell theirs after a restart of the server.
    async fn until_recovered(&self, ctx: &RequestContext, lock: &Lock) -> MetaResult<()> {
        let waited = tokio::time::timeout_at(ctx.deadline.into(), self.wait(lock, ctx.op, None)).await;
        // Nothing may be set: others need not wait for it.
        self.forget(lock, ctx.op);
        let late = |_| MetaError::Deadline("not every session has told its locks since the server's restart".into());
        waited.map_err(late)?.map(drop)
    }

    /// Sets a lock; whatever it answers, server and [`HeldLocks`] agree.
    async fn set(&self, lock: &Lock, deadline: Instant) -> MetaResult<LockReply> {
        let mut backoff = Backoff::new();
        loop {
            let connection = self.channel.connection(deadline, false).await?;
            let incarnation = connection.incarnation();
            let answer = {
                let late = |_| MetaError::Deadline("an earlier request for a lock is not answered yet".into());
                let queue = self.turns.enter(lock);
                let turn = tokio::time::timeout_at(deadline.into(), queue.turn());
                let _turn = turn.await.map_err(late)?;
                let answer = self.send(&connection, &Call::SetLock(self.session, incarnation, *lock), deadline).await;
                match answer {
                    Ok(Answer::Lock(reply)) if self.held.heard(incarnation, lock, &reply) => return Ok(reply),
                    answer => answer,
                }
            };
            match answer {
                // A newer connection told that it is not held.
                Ok(Answer::Lock(_)) => {}
                Ok(other) => return Err(unexpected(&other)),
                Err(error) if error.is_retryable() => {
                    let pause = backoff.next();
                    if Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives a range back. What the server does not hear now it hears when the locks are told again.
    async fn unlock(&self, lock: &Lock, deadline: Instant) -> MetaResult<()> {
        if self.turns.is_idle(lock) && !self.held.has(lock) {
            return Ok(());
        }
        let queue = self.turns.enter(lock);
        let _turn = match tokio::time::timeout_at(deadline.into(), queue.turn()).await {
            Ok(turn) => turn,
            Err(_) => {
                // What is before it gets no answer. Without a connection that ends, and a lock must not stay.
                if let Ok(connection) = self.channel.connection(Instant::now(), false).await {
                    connection.end("a request for a lock got no answer");
                }
                queue.turn().await
            }
        };
        let Some((incarnation, before)) = self.held.release(lock) else { return Ok(()) };
        let mut backoff = Backoff::new();
        loop {
            let connection = match self.channel.connection(deadline, true).await {
                Ok(connection) => connection,
                // Until there is one again nobody else can be told that the lock is free.
                Err(MetaError::Deadline(_) | MetaError::Unavailable(_)) => return Ok(()),
                Err(error) => return Err(error),
            };
            if connection.incarnation() != incarnation {
                return Ok(());
            }
            match self.send(&connection, &Call::SetLock(self.session, incarnation, *lock), deadline).await {
                Ok(_) => return Ok(()),
                Err(MetaError::Deadline(_)) => return Ok(()),
                Err(error) if error.is_retryable() => {
                    let pause = backoff.next();
                    if Instant::now() + pause >= deadline {
                        connection.end("a lock could not be given back");
                        return Ok(());
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(error) if self.held.restore(incarnation, lock, before.clone()) => return Err(error),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Waits until the lock may be free; answers the place that the next wait has.
    async fn wait(&self, lock: &Lock, op: OpId, place: Option<LockPlace>) -> MetaResult<Option<LockPlace>> {
        let deadline = Instant::now() + LOCK_PATIENCE + TRY;
        let connection = match self.channel.connection(deadline, false).await {
            Ok(connection) => connection,
            Err(MetaError::Deadline(_) | MetaError::Unavailable(_)) => return Ok(place),
            Err(error) => return Err(error),
        };
        let call = Call::WaitLock(self.session, connection.incarnation(), LockWait { lock: *lock, op, place });
        match connection.request(&call, deadline).await {
            Ok(Ok(Answer::Lock(LockReply::Waiting(place)))) => Ok(Some(place)),
            Ok(Ok(Answer::Lock(_))) | Err(NoAnswer::Lost | NoAnswer::Deadline) => Ok(place),
            Ok(Ok(other)) => Err(unexpected(&other)),
            Ok(Err(error)) | Err(NoAnswer::NotSent(error)) if error.is_retryable() => {
                // It stops, or the connection is not told of yet: no use in asking at once again.
                tokio::time::sleep(Backoff::new().next()).await;
                Ok(place)
            }
            Ok(Err(MetaError::Deadline(_))) => Ok(place),
            Ok(Err(error)) | Err(NoAnswer::NotSent(error)) => Err(self.lost_with(error)),
        }
    }

    /// Tells the server, in the background, that nobody waits. Unheard, the wait ends by itself within
    /// [`LOCK_PATIENCE`].
    fn forget(&self, lock: &Lock, op: OpId) {
        let (channel, call) = (Arc::clone(&self.channel), Call::ForgetWait(self.session, lock.inode, op));
        tokio::spawn(async move {
            if let Err(error) = channel.call(&call, Instant::now() + FORGET).await {
                tracing::debug!(%error, "the server was not told that a lock is not waited for");
            }
        });
    }

    /// Sends a request whose effect must be known: without an answer the connection ends, so that the locks are told
    /// again.
    async fn send(&self, connection: &Connection, call: &Call, deadline: Instant) -> MetaResult<Answer> {
        let mut unsure = Unsure { connection, known: false };
        let answer = connection.request(call, deadline).await;
        unsure.known = !matches!(answer, Err(NoAnswer::Deadline));
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                // The server's own deadline: it may be set or not.
                unsure.known = !matches!(error, MetaError::Deadline(_));
                Err(self.lost_with(error))
            }
            Err(NoAnswer::NotSent(error)) => Err(error),
            Err(NoAnswer::Lost) => Err(connection.reason()),
            Err(NoAnswer::Deadline) => Err(MetaError::Deadline(format!("{} got no answer in time", call.name()))),
        }
    }

    fn lost_with(&self, error: MetaError) -> MetaError {
        if matches!(error, MetaError::SessionExpired(_) | MetaError::Superseded(_)) {
            self.channel.lose(&error);
        }
        error
    }
}

/// A request that may have taken effect.
struct Unsure<'c> {
    connection: &'c Connection,
    known: bool,
}

impl Drop for Unsure<'_> {
    fn drop(&mut self) {
        if !self.known {
            self.connection.end("a request for a lock got no answer");
        }
    }
}

/// The result of work, also if it comes a moment after the caller gave up; and whether that was so.
async fn until_last<T>(work: impl Future<Output = T>, give_up: &mut GiveUp) -> (Option<T>, bool) {
    tokio::pin!(work);
    tokio::select! {
        biased;
        result = &mut work => (Some(result), false),
        () = give_up => (tokio::time::timeout(LAST, work).await.ok(), true),
    }
}
