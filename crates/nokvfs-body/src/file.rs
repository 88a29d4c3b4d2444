//! One file's body.
//!
//! What a file holds here, newest first: `live`, the bytes written and not yet published, each either staged or in an
//! object of this mount; below it `base`, the published extents as far as `known` reaches. A written byte is also in
//! exactly one *active* block, which takes further writes in place, or in a *job*, one object that is being uploaded or
//! waits to be published. A job keeps all it had when it was sealed, also what is overwritten since: a sync that began
//! before the overwriting promised it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nokvfs_meta::service::RequestContext;
use nokvfs_types::{
    Attr, BodyView, CHUNK_SIZE, Caller, Extent, InodeId, MetaError, Mutation, OpId, Timestamp, Version,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::BodyError;
use crate::frames::SlicePart;
use crate::job::{Job, OpenSlice};
use crate::ranges::{Content, RangeMap, Span};
use crate::stage::StageBlock;
use crate::store::Bodies;

/// Extents that one file keeps of its published body: 2 MiB at about 128 bytes each. Beyond it they are read again.
const BASE_MAX: usize = 16_384;

/// Where an unpublished byte is.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// In the stage.
    Staged {
        /// The block.
        block: Arc<StageBlock>,
        /// Position in it.
        at: u64,
    },
    /// In an object.
    Stored(SlicePart),
}

impl Content for Source {
    fn skip(&self, by: u64) -> Self {
        match self {
            Source::Staged { block, at } => Source::Staged { block: block.clone(), at: at + by },
            Source::Stored(part) => Source::Stored(part.skip(by)),
        }
    }

    fn continued_by(&self, len: u64, next: &Self) -> bool {
        match (self, next) {
            (Source::Staged { block, at }, Source::Staged { block: next, at: next_at }) => {
                Arc::ptr_eq(block, next) && at + len == *next_at
            }
            (Source::Stored(part), Source::Stored(next)) => part.continued_by(len, next),
            _ => false,
        }
    }
}

/// A block that takes writes.
#[derive(Debug)]
pub(crate) struct Active {
    pub block: Arc<StageBlock>,
    /// What was written, by position in the block.
    pub written: RangeMap<()>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// As the metadata last told.
    pub attr: Attr,
    pub base: RangeMap<SlicePart>,
    /// The version of the last view taken.
    pub viewed: Version,
    /// Where `base` is complete.
    pub known: RangeMap<()>,
    /// What of `base` this mount published since it opened the file.
    pub own: RangeMap<()>,
    /// Grows whenever this mount changes the published body, so that a view read before is recognised.
    pub epoch: u64,
    pub live: RangeMap<Source>,
    /// By file offset divided by the block size.
    pub active: BTreeMap<u64, Active>,
    /// Slices that take further objects, by chunk.
    pub slices: BTreeMap<u32, Arc<OpenSlice>>,
    /// By the order of sealing.
    pub jobs: BTreeMap<u64, Job>,
    pub next_job: u64,
    /// When the last byte was written.
    pub written: Timestamp,
    /// Where the unpublished bytes begin that were appended; all from there to the end were.
    pub appended: Option<u64>,
    /// Appended bytes were sent to be published, and whether they were is not known.
    pub unsure: bool,
}

impl State {
    pub fn size(&self) -> u64 {
        self.attr.size.max(self.live.end())
    }

    pub fn is_dirty(&self) -> bool {
        !self.live.is_empty() || !self.jobs.is_empty()
    }

    pub fn overlay(&self, attr: &mut Attr) {
        if !self.is_dirty() {
            return;
        }
        attr.size = attr.size.max(self.live.end());
        attr.mapped = (attr.mapped + self.live.bytes()).min(attr.size);
        // Also where it was set to a later time before.
        attr.mtime = self.written;
        attr.ctime = attr.ctime.max(self.written);
    }

    pub fn overlaid(&self) -> Attr {
        let mut attr = self.attr.clone();
        self.overlay(&mut attr);
        attr
    }

    /// Takes newer attributes that answered a change of this mount.
    pub fn changed(&mut self, attr: Attr) {
        self.epoch += 1;
        if attr.version >= self.attr.version {
            self.attr = attr;
        }
    }

    /// Takes a view that begins at `from`, unless it is older than what is known.
    pub fn take(&mut self, from: u64, view: BodyView) {
        if view.attr.version < self.attr.version {
            return;
        }
        // Between the last view and a publish of this mount others may have published, too.
        if view.attr.version != self.viewed {
            self.forget_base();
        }
        if self.base.count() + view.extents.len() > BASE_MAX {
            self.forget_base();
        }
        self.viewed = view.attr.version;
        self.attr = view.attr;
        if view.complete_to > from {
            self.base.remove(from..view.complete_to);
            self.known.lay(from, view.complete_to - from, ());
        }
        for extent in view.extents.iter().filter_map(|extent| extent.clip(from, view.complete_to)) {
            self.base.lay(extent.offset, extent.len, part_of(&extent));
        }
    }

    /// Drops the extents if they are too many; they are read again where needed.
    pub fn bound_base(&mut self) {
        if self.base.count() > BASE_MAX {
            self.forget_base();
        }
    }

    pub fn forget_base(&mut self) {
        self.base.clear();
        self.known.clear();
        self.own.clear();
    }
}

pub(crate) fn part_of(extent: &Extent) -> SlicePart {
    SlicePart { slice: extent.slice, offset: extent.slice_offset, slice_len: extent.slice_len }
}

pub(crate) fn extent_of(span: &Span<SlicePart>) -> Extent {
    Extent {
        offset: span.start,
        len: span.len,
        slice: span.content.slice,
        slice_offset: span.content.offset,
        slice_len: span.content.slice_len,
    }
}

/// One file's body, shared by all handles of a mount. Lives as long as a handle or unpublished writes.
///
/// Publishing sets mtime to the moment of the last write: call [`OpenFile::sync`] before setting times of a file with
/// unpublished writes.
#[derive(Debug)]
pub struct OpenFile {
    pub(crate) bodies: Arc<Bodies>,
    inode: InodeId,
    pub(crate) state: Mutex<State>,
    /// One publish or truncation at a time.
    pub(crate) turn: Semaphore,
    /// One append at a time.
    pub(crate) append_turn: Semaphore,
    /// One publish of appended bytes at a time.
    pub(crate) appending: Arc<Semaphore>,
    /// The append lock, with the turn to publish, after a publish of which it is not known whether it took effect.
    pub(crate) kept: Mutex<Option<OwnedSemaphorePermit>>,
    /// Appended bytes were moved.
    pub(crate) moved: AtomicBool,
    /// A job's state changed.
    pub(crate) progress: Notify,
    publishing_later: AtomicBool,
    /// It was made by this mount, and the answer came before it was durable: how to make it again, should it be lost.
    pub(crate) early: Mutex<Option<(Caller, Mutation)>>,
}

impl OpenFile {
    pub(crate) fn new(bodies: Arc<Bodies>, view: BodyView) -> Arc<OpenFile> {
        let mut state = State {
            attr: view.attr.clone(),
            viewed: view.attr.version,
            base: RangeMap::default(),
            known: RangeMap::default(),
            own: RangeMap::default(),
            epoch: 0,
            live: RangeMap::default(),
            active: BTreeMap::new(),
            slices: BTreeMap::new(),
            jobs: BTreeMap::new(),
            next_job: 0,
            written: view.attr.mtime,
            appended: None,
            unsure: false,
        };
        let inode = view.attr.inode;
        state.take(0, view);
        Arc::new(OpenFile {
            bodies,
            inode,
            state: Mutex::new(state),
            turn: Semaphore::new(1),
            append_turn: Semaphore::new(1),
            appending: Arc::new(Semaphore::new(1)),
            kept: Mutex::default(),
            moved: AtomicBool::new(false),
            progress: Notify::new(),
            publishing_later: AtomicBool::new(false),
            early: Mutex::new(None),
        })
    }

    /// The file.
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    /// Attributes as last heard of, with unpublished writes. No request.
    pub fn attr(&self) -> Attr {
        self.state.lock().overlaid()
    }

    /// Puts size and times of unpublished writes into attributes of this inode that the metadata told.
    pub fn overlay(&self, attr: &mut Attr) {
        self.state.lock().overlay(attr);
    }

    /// Whether there are unpublished writes.
    pub fn is_dirty(&self) -> bool {
        self.state.lock().is_dirty()
    }

    /// The file's creation was answered before it was durable: the next sync waits for that, too. `again` makes it once
    /// more, with its number, if the server failed in between.
    pub fn answered_early(&self, creator: Caller, again: Mutation) {
        *self.early.lock() = Some((creator, again));
    }

    /// The directory in which this mount made the file, if that is not durable yet for all it knows.
    pub fn early_in(&self) -> Option<InodeId> {
        match &*self.early.lock() {
            Some((_, Mutation::Create { parent, .. })) => Some(*parent),
            _ => None,
        }
    }

    /// Whether a sync has something to do.
    pub fn is_unsettled(&self) -> bool {
        self.early.lock().is_some() || self.is_dirty()
    }

    /// Makes sure that the file itself is durable.
    pub async fn settle(&self, ctx: &RequestContext) -> Result<(), BodyError> {
        if self.early.lock().is_none() {
            return Ok(());
        }
        match self.bodies.service.getattr(ctx, self.inode).await {
            Err(MetaError::NotFound) => self.restore(ctx).await,
            Err(error) => Err(error.into()),
            Ok(_) => {
                *self.early.lock() = None;
                Ok(())
            }
        }
    }

    /// Makes the file again that was answered early and lost with its server; `NotFound` if it was not.
    pub async fn restore(&self, ctx: &RequestContext) -> Result<(), BodyError> {
        let again = self.early.lock().clone();
        let Some((caller, again)) = again else { return Err(MetaError::NotFound.into()) };
        let ctx = RequestContext { caller, op: OpId(0), deadline: ctx.deadline };
        match self.bodies.service.mutate(&ctx, again).await {
            Ok(_) => tracing::info!(inode = %self.inode, "a new file was lost with the metadata server and made again"),
            // Somebody else repeated it meanwhile, or took the name: the next answer tells which.
            Err(MetaError::Exists) => {
                self.bodies.service.getattr(&ctx, self.inode).await?;
            }
            Err(error) => return Err(error.into()),
        }
        *self.early.lock() = None;
        Ok(())
    }

    /// Drops unpublished writes; for a file whose sync failed for good and that nobody has open any more.
    pub fn discard(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.live.clear();
        state.active.clear();
        // Uploads that pause hold room of the stage.
        std::mem::take(&mut state.jobs).values().for_each(|job| job.retry.notify_one());
        state.slices.clear();
        (state.appended, state.unsure) = (None, false);
        state.forget_base();
        state.epoch += 1;
        self.bodies.mark(self, false);
        drop(state);
        self.end_append();
        self.progress.notify_waiters();
    }

    /// Looks at what is published now, also where this mount has unpublished writes; those stay on top.
    pub async fn look_again(&self, ctx: &RequestContext) -> Result<Attr, BodyError> {
        self.refresh(ctx, 0).await?;
        Ok(self.attr())
    }

    /// Reads the published body's descriptor from `from` on.
    pub(crate) async fn refresh(&self, ctx: &RequestContext, from: u64) -> Result<(), BodyError> {
        // A publish of this mount while the view is on its way makes it useless; a second or third try meets none.
        for _ in 0..8 {
            let epoch = self.state.lock().epoch;
            let view = self.bodies.service.body(ctx, self.inode, from).await?;
            if view.complete_to <= from {
                return Err(BodyError::Protocol("a request for a body's extents"));
            }
            let mut state = self.state.lock();
            if state.epoch == epoch {
                state.take(from, view);
                return Ok(());
            }
        }
        Err(BodyError::Deadline("reading a body's descriptor that changes all the time; try again"))
    }

    /// Makes sure that `base` is complete over the range, cut to the published size.
    pub(crate) async fn know(&self, ctx: &RequestContext, from: u64, to: u64) -> Result<(), BodyError> {
        loop {
            let missing = self.state.lock().unknown(from, to);
            match missing {
                None => return Ok(()),
                Some(at) => self.refresh(ctx, at).await?,
            }
            if std::time::Instant::now() > ctx.deadline {
                return Err(BodyError::Deadline("reading a body's descriptor"));
            }
        }
    }

    /// A view that someone else read.
    pub(crate) fn offer(&self, view: BodyView) {
        let mut state = self.state.lock();
        if !state.is_dirty() {
            state.take(0, view);
        }
    }

    /// Starts to publish in the background, unless that goes on already.
    pub(crate) fn publish_later(self: &Arc<Self>) {
        if !self.publishing_later.swap(true, Ordering::AcqRel) {
            self.bodies.publish_later(self.clone());
        }
    }

    pub(crate) fn stop_publishing_later(&self) {
        self.publishing_later.store(false, Ordering::Release);
    }

    /// Only the table of unpublished files and the task that asks hold the file.
    pub(crate) fn is_unreferenced(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) <= 2
    }
}

impl State {
    /// The start of the chunk with the first byte in the range, cut to the published size, that `base` may miss.
    fn unknown(&self, from: u64, to: u64) -> Option<u64> {
        let to = to.min(self.attr.size);
        let mut at = from;
        while at < to {
            match self.known.within(at..to).next() {
                Some(span) if span.start == at => at = span.end(),
                _ => return Some(at - at % CHUNK_SIZE),
            }
        }
        None
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.end_append();
        self.bodies.forget(self.inode);
    }
}
