//! Advisory locks of the mount's processes.

use std::sync::Arc;
use std::time::Instant;

use fuser::INodeNo;
use nokvfs_body::OpenFile;
use nokvfs_meta::service::{GiveUp, RequestContext};
use nokvfs_types::{HeldLock, InodeId, Lock, LockKind, LockOwner, LockRange, LockType, MetaError};

use crate::core::Core;
use crate::errors::{OpResult, Refusal};
use crate::process;

fn unlock(inode: InodeId, owner: LockOwner, kind: LockKind) -> Lock {
    Lock { inode, owner, kind, range: LockRange::WHOLE, lock_type: LockType::Unlock, pid: 0 }
}

impl Core {
    /// `F_GETLK`.
    pub(crate) async fn test_lock(self: Arc<Self>, ctx: RequestContext, lock: Lock) -> OpResult<Option<HeldLock>> {
        self.lockers.settled(lock.inode).await;
        Ok(self.service.test_lock(&ctx, lock).await?)
    }

    /// `F_SETLK`, flock(2) with `LOCK_NB`, and all that gives back.
    pub(crate) async fn set_lock(self: Arc<Self>, ctx: RequestContext, number: u64, lock: Lock) -> OpResult<()> {
        self.lock(&ctx, number, lock, None).await
    }

    /// `F_SETLKW`, and flock(2) without `LOCK_NB`: until a signal ends it.
    pub(crate) async fn wait_lock(
        self: Arc<Self>,
        ctx: RequestContext,
        thread: u32,
        number: u64,
        lock: Lock,
    ) -> OpResult<()> {
        let visible = process::is_visible(thread);
        let until = ctx.deadline;
        let give_up: GiveUp = if visible {
            Box::pin(process::interrupted(thread))
        } else {
            // Nobody could end it: it may not wait for longer than any other request.
            Box::pin(tokio::time::sleep_until(until.into()))
        };
        match self.lock(&ctx, number, lock, Some(give_up)).await {
            Err(Refusal::Meta(MetaError::Interrupted)) if !visible => Err(Refusal::Errno(libc::ENOLCK)),
            answer => answer,
        }
    }

    async fn lock(&self, ctx: &RequestContext, number: u64, lock: Lock, give_up: Option<GiveUp>) -> OpResult<()> {
        if lock.lock_type == LockType::Unlock {
            // What was written under the lock must be there for the next one.
            self.publish(ctx, lock.inode).await?;
            return Ok(self.service.lock(ctx, lock, None).await?);
        }
        // First of all: while nothing was waited for, the handle can't be gone. A predecessor's is opened again.
        let file = Arc::clone(&self.handle(ctx, lock.inode, number).await?.file);
        if lock.lock_type == LockType::Shared {
            // Others may share it from now on.
            self.publish(ctx, lock.inode).await?;
        }
        self.lockers.settled(lock.inode).await;
        self.service.lock(ctx, lock, give_up).await?;
        if lock.kind == LockKind::Posix {
            self.lockers.add(lock.inode, number, lock.owner);
        }
        let fresh = RequestContext { deadline: Instant::now() + self.options.request_deadline, ..ctx.clone() };
        let seen = if self.handles.file(number).is_some() {
            self.refresh(&fresh, &file).await
        } else {
            // It was closed meanwhile, and its locks went then.
            Err(Refusal::Errno(libc::EBADF))
        };
        if seen.is_err() {
            self.service.lock(&fresh, Lock { lock_type: LockType::Unlock, ..lock }, None).await?;
        }
        seen
    }

    async fn publish(&self, ctx: &RequestContext, inode: InodeId) -> OpResult<()> {
        match self.bodies.find(inode) {
            Some(file) if file.is_dirty() && !self.opens.is_orphan(inode) => self.sync(ctx, &file).await,
            _ => Ok(()),
        }
    }

    /// Lets whoever got a lock see what others wrote under theirs.
    async fn refresh(&self, ctx: &RequestContext, file: &OpenFile) -> OpResult<()> {
        file.settle(ctx).await?;
        let version = file.look_again(ctx).await?.version;
        if self.pages.get(&file.inode()) != Some(version) {
            self.drop_pages(ctx, file.inode()).await?;
            self.pages.insert(file.inode(), version);
        }
        Ok(())
    }

    /// Has the kernel drop an inode's pages and attributes, and waits for it. Not for requests during which the kernel
    /// holds pages: it waits for those, and pages that are being read are answered by requests of their own.
    pub(crate) async fn drop_pages(&self, ctx: &RequestContext, inode: InodeId) -> OpResult<()> {
        let notifier = self.notifier.lock().clone();
        let Some(notifier) = notifier else { return Ok(()) };
        let dropped = tokio::task::spawn_blocking(move || notifier.inval_inode(INodeNo(inode.0), 0, 0));
        match tokio::time::timeout_at(ctx.deadline.into(), dropped).await {
            Ok(Ok(Ok(()))) => Ok(()),
            // The kernel does not know it: it has no pages.
            Ok(Ok(Err(error))) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Ok(Ok(Err(error))) => {
                tracing::warn!(inode = inode.0, "can't drop pages: {error}");
                Err(Refusal::Errno(libc::EIO))
            }
            Ok(Err(_)) => Err(Refusal::Panicked),
            Err(_) => Err(Refusal::Overdue),
        }
    }

    /// close(2): publishes, then gives back the POSIX locks that the process had in the file.
    pub(crate) async fn close(
        self: Arc<Self>,
        ctx: RequestContext,
        inode: InodeId,
        number: u64,
        owner: u64,
    ) -> OpResult<()> {
        let owner = LockOwner(owner);
        let flushed = Arc::clone(&self).flush(ctx.clone(), inode, number).await;
        self.lockers.forget(inode, owner);
        // Time of its own: what publishing used up must not make the lock stay.
        let fresh = RequestContext { deadline: Instant::now() + self.options.request_deadline, ..ctx };
        match self.service.lock(&fresh, unlock(inode, owner, LockKind::Posix), None).await {
            // The session took its locks along.
            Ok(()) | Err(MetaError::SessionExpired(_) | MetaError::Superseded(_)) => flushed,
            Err(error) => flushed.and(Err(error.into())),
        }
    }

    /// The kernel has let go of a handle: locks that it stood for go, in the background.
    pub(crate) fn release_locks(self: &Arc<Self>, inode: InodeId, number: u64, flock: Option<u64>) {
        let posix = self.lockers.take(inode, number).into_iter();
        let flock = flock.map(|owner| unlock(inode, LockOwner(owner), LockKind::Flock));
        let unlocks: Vec<_> = posix.map(|owner| unlock(inode, owner, LockKind::Posix)).chain(flock).collect();
        if unlocks.is_empty() {
            return;
        }
        self.lockers.leaves(inode);
        let core = Arc::clone(self);
        self.runtime.spawn(async move {
            let ctx = core.background_context();
            if let Err(refusal) = core.publish(&ctx, inode).await {
                tracing::warn!(inode = inode.0, "a lock goes before what was written under it is published: {refusal}");
            }
            for lock in unlocks {
                if let Err(error) = core.service.lock(&core.background_context(), lock, None).await {
                    tracing::warn!(inode = inode.0, "a lock of a closed file was not given back: {error}");
                }
            }
            core.lockers.has_left(inode);
        });
    }
}
