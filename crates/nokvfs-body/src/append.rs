//! Appends (`O_APPEND`) of several mounts to one file.
//!
//! An append is staged at the end as this mount knows it. Before it is published the mount takes the file's append lock,
//! which one mount has at a time, looks where the end is, and moves there what it staged. The lock goes once that is
//! published. So what is appended between two publishes is one piece of the file, and overwrites nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_meta::service::{GiveUp, RequestContext};
use nokvfs_types::{Attr, BLOCK_SIZE, InodeId, Lock, LockKind, LockOwner, LockRange, LockType, MetaError};
use tokio::sync::OwnedSemaphorePermit;

use crate::file::{Active, OpenFile, Source, State};
use crate::ranges::RangeMap;
use crate::stage::{StageBlock, pages_of_new};
use crate::store::Bodies;
use crate::uploads::background;
use crate::write::blocks;
use crate::{BodyError, ReadStream};

/// So many appended bytes are published at last: they may have to be moved, and are in memory then.
const UNPUBLISHED_MAX: u64 = 2 * BLOCK_SIZE;
/// How long the server may take to hear that the append lock is free.
const GIVE_BACK: Duration = Duration::from_secs(60);

/// The file's append lock. When it is dropped it is given back, in the background, unless it is not known whether the
/// last publish took effect: then the file keeps it, and publishes the same bytes at the same place again.
pub(crate) struct Appending {
    file: Arc<OpenFile>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Drop for Appending {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        if self.file.state.lock().unsure {
            *self.file.kept.lock() = Some(turn);
        } else {
            give_back(&self.file.bodies, self.file.inode(), turn);
        }
    }
}

/// Gives the append lock back. The turn ends after it: the next one of this mount must not be given back with this one.
fn give_back(bodies: &Arc<Bodies>, inode: InodeId, turn: OwnedSemaphorePermit) {
    let (service, runtime) = (bodies.service.clone(), &bodies.runtime);
    runtime.spawn(async move {
        let ctx = RequestContext { deadline: Instant::now() + GIVE_BACK, ..background() };
        if let Err(error) = service.lock(&ctx, append_lock(inode, LockType::Unlock), None).await {
            tracing::warn!(%inode, %error, "the append lock was not given back");
        }
        drop(turn);
    });
}

fn append_lock(inode: InodeId, lock_type: LockType) -> Lock {
    Lock { inode, owner: LockOwner(0), kind: LockKind::Append, range: LockRange::WHOLE, lock_type, pid: 0 }
}

impl OpenFile {
    /// Whether appended bytes were moved since the last question: what the kernel keeps of the file is wrong then.
    pub fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }

    /// Before a publish: makes appended bytes begin at the end of the file, and keeps other mounts from appending.
    pub(crate) async fn begin_append(self: &Arc<Self>, ctx: &RequestContext) -> Result<Option<Appending>, BodyError> {
        if let Some(turn) = self.kept.lock().take() {
            // Nobody has appended since the publish whose answer is missing: the same again.
            return Ok(Some(Appending { file: self.clone(), turn: Some(turn) }));
        }
        if self.state.lock().appended.is_none() {
            return Ok(None);
        }
        let late = || BodyError::Deadline("waiting for another mount to append to the file");
        let turn = tokio::time::timeout_at(ctx.deadline.into(), self.appending.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(late()) };
        let give_up: GiveUp = Box::pin(tokio::time::sleep_until(ctx.deadline.into()));
        // From here on it is given back, whatever comes.
        let appending = Appending { file: self.clone(), turn: Some(turn) };
        let lock = append_lock(self.inode(), LockType::Exclusive);
        match self.bodies.service.lock(ctx, lock, Some(give_up)).await {
            Err(MetaError::Interrupted) => return Err(late()),
            answer => answer?,
        }
        match self.bodies.service.getattr(ctx, self.inode()).await {
            Ok(attr) => self.move_appended(ctx, attr).await?,
            // Lost with its server and to be made again, or removed: nobody else appends to it.
            Err(MetaError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Some(appending))
    }

    /// Gives the append lock back if the file keeps it: what it was kept for is given up.
    pub(crate) fn end_append(&self) {
        if let Some(turn) = self.kept.lock().take() {
            give_back(&self.bodies, self.inode(), turn);
        }
    }

    /// Whether so much is appended and unpublished that it is to be published now.
    pub(crate) fn has_appended_enough(&self) -> bool {
        let most = UNPUBLISHED_MAX.min(self.bodies.stage.capacity() / 4);
        let state = self.state.lock();
        state.appended.is_some_and(|base| state.live.end().saturating_sub(base) >= most)
    }

    /// Moves appended bytes to the end that `attr` tells. Until there is room for them they stay where they are.
    async fn move_appended(self: &Arc<Self>, ctx: &RequestContext, attr: Attr) -> Result<(), BodyError> {
        let late = BodyError::Deadline("waiting for another append");
        let turn = tokio::time::timeout_at(ctx.deadline.into(), self.append_turn.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(late) };
        let stage = &self.bodies.stage;
        loop {
            let Some((base, end)) = self.state.lock().appended_range().filter(|(base, _)| *base != attr.size) else {
                return Ok(());
            };
            let data = self.read_range(ctx, base, end).await?;
            let need = blocks(attr.size, end - base).map(|(_, at, part)| pages_of_new(at, part)).sum();
            let mut permit = match stage.try_reserve(need) {
                Some(permit) => permit,
                None => {
                    self.bodies.make_room();
                    stage.reserve(need, ctx.deadline).await?
                }
            };
            // All that can fail comes before the first change.
            let copies = self.stage_copies(attr.size, data, &mut permit)?;
            let mut state = self.state.lock();
            if state.appended_range() != Some((base, end)) {
                // Something was written at a given place meanwhile: then they may stay where they are.
                continue;
            }
            state.forget_base();
            // So that no block is there twice.
            let sealed = self.seal_all(&mut state);
            state.cut(base);
            state.changed(attr.clone());
            for copy in copies {
                copy.place(&mut state);
            }
            state.appended = Some(attr.size);
            self.bodies.mark(self, state.is_dirty());
            drop(state);
            self.moved.store(true, Ordering::Release);
            self.progress.notify_waiters();
            self.start_all(sealed);
            return Ok(());
        }
    }

    fn stage_copies(
        &self,
        start: u64,
        data: Vec<Bytes>,
        permit: &mut OwnedSemaphorePermit,
    ) -> Result<Vec<Copy>, BodyError> {
        let (mut copies, mut next) = (Vec::<Copy>::new(), start);
        for piece in data {
            for (block, at, part) in blocks(next, piece.len() as u64) {
                let bytes = &piece[(block * BLOCK_SIZE + at - next) as usize..][..part as usize];
                if copies.last().is_none_or(|last| last.number != block) {
                    copies.push(Copy { number: block, block: Arc::new(self.bodies.stage.block()), at, len: 0 });
                }
                if let Some(copy) = copies.last_mut() {
                    copy.block.write(at, bytes, permit)?;
                    copy.len += part;
                }
            }
            next += piece.len() as u64;
        }
        Ok(copies)
    }

    async fn read_range(self: &Arc<Self>, ctx: &RequestContext, from: u64, to: u64) -> Result<Vec<Bytes>, BodyError> {
        let (stream, mut data, mut at) = (ReadStream::new(), Vec::new(), from);
        while at < to {
            let piece = self.read(ctx, &stream, at, (to - at).min(BLOCK_SIZE) as u32).await?;
            if piece.is_empty() {
                return Err(BodyError::Protocol("nothing: appended bytes are gone"));
            }
            at += piece.len() as u64;
            data.push(piece);
        }
        Ok(data)
    }
}

/// What one block of the file takes of moved bytes.
struct Copy {
    /// File offset divided by the block size.
    number: u64,
    block: Arc<StageBlock>,
    at: u64,
    len: u64,
}

impl Copy {
    fn place(self, state: &mut State) {
        let Copy { number, block, at, len } = self;
        let mut written = RangeMap::default();
        written.lay(at, len, ());
        state.live.lay(number * BLOCK_SIZE + at, len, Source::Staged { block: block.clone(), at });
        state.active.insert(number, Active { block, written });
    }
}

impl State {
    /// An append was staged at `offset`, where `fresh` tells whether that was the end of all that is published.
    pub(crate) fn note_append(&mut self, offset: u64, fresh: bool) {
        if fresh {
            self.appended.get_or_insert(offset);
        }
    }

    /// Something was written at a given place.
    pub(crate) fn note_write(&mut self, end: u64) {
        if self.appended.is_some_and(|base| end > base) {
            self.appended = None;
        }
    }

    /// Something is about to be published.
    pub(crate) fn note_sent(&mut self) {
        self.unsure |= self.appended.is_some();
    }

    /// Something was published.
    pub(crate) fn note_published(&mut self) {
        self.unsure = false;
        let left = self.appended.and_then(|base| self.live.within(base..u64::MAX).next());
        self.appended = left.map(|span| span.start);
    }

    /// Unpublished bytes that were appended, and that nothing else is mixed with.
    fn appended_range(&self) -> Option<(u64, u64)> {
        self.appended.map(|base| (base, self.live.end())).filter(|(base, end)| base < end)
    }
}
