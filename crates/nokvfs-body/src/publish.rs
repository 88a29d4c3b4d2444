//! Making uploaded bytes the file's content.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use nokvfs_failpoint::failpoint;
use nokvfs_meta::service::RequestContext;
use nokvfs_types::{Applied, Attr, BLOCK_SIZE, CHUNK_SIZE, Extent, MetaError, Mutation, Publish, SetAttr, Timestamp};

use crate::BodyError;
use crate::file::{OpenFile, Source, State, extent_of, part_of};
use crate::frames::SlicePart;
use crate::job::OpenSlice;
use crate::ranges::{Content, RangeMap};
use crate::write::SIZE_MAX;

/// Extents of one publish: at most 96 bytes each on the wire, so less than half of the megabyte that a command may have.
const STEP_EXTENTS: usize = 4096;
/// From so many extents on a chunk is rewritten.
const COMPACT_FROM: usize = 256;

/// What one publish carries: whole chunks.
struct Step {
    /// By chunk, what the jobs hold.
    chunks: BTreeMap<u64, RangeMap<SlicePart>>,
    jobs: Vec<u64>,
    slices: Vec<Arc<OpenSlice>>,
    /// Chunks that are rewritten, and with what.
    rewritten: BTreeMap<u64, Vec<Extent>>,
    size: u64,
    written: Timestamp,
}

impl Step {
    fn extents(&self) -> Vec<Extent> {
        let mut extents = Vec::new();
        for (chunk, fresh) in &self.chunks {
            match self.rewritten.get(chunk) {
                Some(rewritten) => extents.extend(rewritten),
                None => extents.extend(fresh.iter().map(|span| extent_of(&span))),
            }
        }
        extents
    }
}

impl OpenFile {
    /// Uploads and publishes everything written before. On an error nothing is dropped, it is tried again in the
    /// background and by the next sync: success always means that all bytes are published.
    pub async fn sync(self: &Arc<Self>, ctx: &RequestContext) -> Result<Attr, BodyError> {
        let result = match self.publish_all(ctx).await {
            Ok(attr) => self.settle(ctx).await.map(|()| attr),
            Err(error) => Err(error),
        };
        if result.is_err() && self.is_dirty() {
            self.publish_later();
        }
        result
    }

    pub(crate) async fn publish_all(self: &Arc<Self>, ctx: &RequestContext) -> Result<Attr, BodyError> {
        let (target, sealed, failures) = {
            let mut state = self.state.lock();
            if !state.is_dirty() {
                return Ok(state.attr.clone());
            }
            let sealed = self.seal_all(&mut state);
            let failures: BTreeMap<u64, u64> = state.jobs.iter().map(|(&job, entry)| (job, entry.failures)).collect();
            for job in state.jobs.values().filter(|job| job.error.is_some()) {
                job.retry.notify_one();
            }
            (state.next_job, sealed, failures)
        };
        self.start_all(sealed);
        self.wait_uploaded(ctx, target, &failures).await?;
        let _turn = self.take_turn(ctx).await?;
        loop {
            // A statement of its own: in a `while let` the lock would be held until the publish is done.
            let step = self.state.lock().next_step(target);
            match step {
                Some(mut step) => self.publish_step(ctx, &mut step).await?,
                None => break,
            }
        }
        let state = self.state.lock();
        self.bodies.mark(self, state.is_dirty());
        Ok(state.overlaid())
    }

    pub(crate) async fn take_turn(&self, ctx: &RequestContext) -> Result<tokio::sync::SemaphorePermit<'_>, BodyError> {
        match tokio::time::timeout_at(ctx.deadline.into(), self.turn.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(BodyError::Deadline("waiting for another publish of the file")),
        }
    }

    /// Waits until all jobs before `target` are uploaded or one fails once more than it had.
    async fn wait_uploaded(
        &self,
        ctx: &RequestContext,
        target: u64,
        failures: &BTreeMap<u64, u64>,
    ) -> Result<(), BodyError> {
        let uploaded = async {
            loop {
                let progress = self.progress.notified();
                tokio::pin!(progress);
                progress.as_mut().enable();
                {
                    let state = self.state.lock();
                    let mut jobs = state.jobs.range(..target);
                    let failed = jobs.find(|(job, entry)| entry.failures > failures.get(job).copied().unwrap_or(0));
                    if let Some(error) = failed.and_then(|(_, entry)| entry.error.clone()) {
                        return Err(error);
                    }
                    if state.jobs.range(..target).all(|(_, entry)| entry.uploaded) {
                        return Ok(());
                    }
                }
                progress.await;
            }
        };
        match tokio::time::timeout_at(ctx.deadline.into(), uploaded).await {
            Ok(result) => result,
            Err(_) => Err(BodyError::Deadline("uploading unpublished writes")),
        }
    }

    async fn publish_step(self: &Arc<Self>, ctx: &RequestContext, step: &mut Step) -> Result<(), BodyError> {
        let crowded: Vec<u64> = {
            let state = self.state.lock();
            step.chunks.iter().filter(|(chunk, fresh)| state.crowded(**chunk, fresh)).map(|(chunk, _)| *chunk).collect()
        };
        for chunk in crowded {
            self.rewrite(ctx, step, chunk).await?;
        }
        self.send_step(ctx, step).await
    }

    /// Rewrites a chunk whose published extents are too many.
    pub(crate) async fn rewrite_published(self: &Arc<Self>, ctx: &RequestContext, chunk: u64) -> Result<(), BodyError> {
        let mut step = Step {
            chunks: BTreeMap::from([(chunk, RangeMap::default())]),
            jobs: Vec::new(),
            slices: Vec::new(),
            rewritten: BTreeMap::new(),
            size: 0,
            written: self.state.lock().attr.mtime,
        };
        self.rewrite(ctx, &mut step, chunk).await?;
        self.send_step(ctx, &mut step).await
    }

    async fn send_step(self: &Arc<Self>, ctx: &RequestContext, step: &mut Step) -> Result<(), BodyError> {
        loop {
            let extents = step.extents();
            let named: Vec<_> = step
                .slices
                .iter()
                .filter(|slice| extents.iter().any(|extent| slice.known_id() == Some(extent.slice)))
                .map(|slice| (slice.clone(), slice.sent()))
                .collect();
            let publish = Publish {
                inode: self.inode(),
                truncate: None,
                size: step.size,
                written: step.written,
                extents: extents.clone(),
            };
            failpoint!("body.publishing");
            match self.change(ctx, Mutation::Publish(publish)).await {
                Ok(attr) => {
                    failpoint!("body.published");
                    // It came after the file's creation and is durable.
                    *self.early.lock() = None;
                    self.apply(step, &extents, attr);
                    named.iter().for_each(|(slice, _)| slice.published());
                    return Ok(());
                }
                Err(error) => {
                    if !error.is_uncertain() {
                        named.iter().for_each(|(slice, before)| slice.refused(*before));
                    }
                    match error {
                        BodyError::Meta(MetaError::NotFound) if self.early.lock().is_some() => {
                            self.restore(ctx).await?;
                        }
                        BodyError::Meta(MetaError::TooFragmented(chunk))
                            if step.chunks.contains_key(&u64::from(chunk))
                                && !step.rewritten.contains_key(&u64::from(chunk)) =>
                        {
                            self.rewrite(ctx, step, u64::from(chunk)).await?;
                        }
                        error => return Err(error),
                    }
                }
            }
        }
    }

    async fn rewrite(self: &Arc<Self>, ctx: &RequestContext, step: &mut Step, chunk: u64) -> Result<(), BodyError> {
        let fresh = &step.chunks[&chunk];
        let (extents, slice) = self.compact(ctx, chunk, fresh).await?;
        step.slices.push(slice);
        step.rewritten.insert(chunk, extents);
        Ok(())
    }

    /// Carries out a change of the body; a new file that was lost with its server is made again first.
    pub(crate) async fn change_or_restore(&self, ctx: &RequestContext, mutation: Mutation) -> Result<Attr, BodyError> {
        match self.change(ctx, mutation.clone()).await {
            Err(BodyError::Meta(MetaError::NotFound)) if self.early_in().is_some() => {
                self.restore(ctx).await?;
                self.change(ctx, mutation).await
            }
            result => result,
        }
    }

    async fn change(&self, ctx: &RequestContext, mutation: Mutation) -> Result<Attr, BodyError> {
        match self.bodies.service.mutate(ctx, mutation).await? {
            Applied::Entry { attr, .. } => Ok(attr),
            _ => Err(BodyError::Protocol("a change of a body")),
        }
    }

    /// The step is the file's content now.
    fn apply(self: &Arc<Self>, step: &Step, extents: &[Extent], attr: Attr) {
        let mut state = self.state.lock();
        state.changed(attr);
        state.settle(step);
        for chunk in step.rewritten.keys() {
            state.base.remove(chunk * CHUNK_SIZE..(chunk + 1) * CHUNK_SIZE);
            state.known.lay(chunk * CHUNK_SIZE, CHUNK_SIZE, ());
        }
        for extent in extents {
            state.base.lay(extent.offset, extent.len, part_of(extent));
            state.known.lay(extent.offset, extent.len, ());
            state.own.lay(extent.offset, extent.len, ());
        }
        state.bound_base();
        self.bodies.mark(self, state.is_dirty());
    }

    /// Cuts or grows the file, here and in the metadata at once. On an error nothing changed here.
    pub async fn truncate(self: &Arc<Self>, ctx: &RequestContext, size: u64) -> Result<Attr, BodyError> {
        if size > SIZE_MAX {
            return Err(BodyError::TooLarge);
        }
        // With the turn no publish is under way that could bring back what is cut off.
        let _turn = self.take_turn(ctx).await?;
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        failpoint!("body.truncating");
        let result = self.change_or_restore(ctx, Mutation::SetAttr { inode: self.inode(), set }).await;
        self.unmapped(result, |state| {
            state.unmap_unpublished(size..u64::MAX);
            state.unmap_published(size..u64::MAX);
        })
    }

    /// Takes the answer to a change that unmapped a part of the body; `unmap` does the same here.
    pub(crate) fn unmapped(
        self: &Arc<Self>,
        result: Result<Attr, BodyError>,
        unmap: impl FnOnce(&mut State),
    ) -> Result<Attr, BodyError> {
        let mut state = self.state.lock();
        match result {
            Ok(attr) => {
                // What is left unpublished must not bring back an older time.
                state.written = state.written.max(attr.mtime);
                state.changed(attr);
                unmap(&mut state);
                self.bodies.mark(self, state.is_dirty());
                let attr = state.overlaid();
                drop(state);
                self.progress.notify_waiters();
                Ok(attr)
            }
            Err(error) => {
                if error.is_uncertain() {
                    state.epoch += 1;
                    state.forget_base();
                }
                Err(error)
            }
        }
    }
}

impl State {
    /// The next publish of jobs before `target`; all of them are uploaded.
    fn next_step(&mut self, target: u64) -> Option<Step> {
        self.jobs.retain(|_, job| !job.content.is_empty() || !job.uploaded);
        let mut by_chunk: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (&number, job) in self.jobs.range(..target) {
            let chunk = job.content.iter().next().map_or(0, |span| span.start / CHUNK_SIZE);
            by_chunk.entry(chunk).or_default().push(number);
        }
        let mut step = Step {
            chunks: BTreeMap::new(),
            jobs: Vec::new(),
            slices: Vec::new(),
            rewritten: BTreeMap::new(),
            size: 0,
            written: self.written,
        };
        let mut extents = 0;
        for (chunk, jobs) in by_chunk {
            let mut fresh = RangeMap::default();
            for job in jobs.iter().filter_map(|number| self.jobs.get(number)) {
                let Some(slice) = job.slice.known_id() else { continue };
                let (base, slice_len) = (job.slice.base_in_pack().unwrap_or(0), job.slice.len());
                for span in job.content.iter() {
                    let part = SlicePart { slice, offset: base + span.content.0, slice_len };
                    fresh.lay(span.start, span.len, part);
                }
                if !step.slices.iter().any(|known| Arc::ptr_eq(known, &job.slice)) {
                    step.slices.push(job.slice.clone());
                }
            }
            extents += fresh.count();
            step.size = fresh.end();
            step.jobs.extend(jobs);
            step.chunks.insert(chunk, fresh);
            if extents >= STEP_EXTENTS {
                break;
            }
        }
        (!step.chunks.is_empty()).then_some(step)
    }

    /// Whether the chunk has so many extents with the fresh ones that it is to be rewritten.
    fn crowded(&self, chunk: u64, fresh: &RangeMap<SlicePart>) -> bool {
        if fresh.count() >= COMPACT_FROM {
            return true;
        }
        let mut merged = RangeMap::default();
        for span in self.base.within(chunk * CHUNK_SIZE..(chunk + 1) * CHUNK_SIZE).chain(fresh.iter()) {
            merged.lay(span.start, span.len, span.content);
        }
        merged.count() >= COMPACT_FROM
    }

    /// Removes a step's jobs, and what is not overwritten since from the unpublished bytes.
    fn settle(&mut self, step: &Step) {
        for span in step.chunks.values().flat_map(RangeMap::iter) {
            let live: Vec<_> = self.live.within(span.start..span.end()).collect();
            for part in live {
                // The same bytes, not just the same object: a pack can hold an older version of the file as well.
                let here = span.content.skip(part.start - span.start);
                let published = matches!(&part.content, Source::Stored(stored)
                    if (stored.slice, stored.offset) == (here.slice, here.offset));
                if published {
                    self.live.remove(part.start..part.end());
                }
            }
        }
        for job in &step.jobs {
            self.jobs.remove(job);
        }
    }

    /// Forgets unpublished bytes of a range.
    pub(crate) fn unmap_unpublished(&mut self, range: Range<u64>) {
        self.live.remove(range.clone());
        self.active.retain(|block, active| {
            let start = block * BLOCK_SIZE;
            active.written.remove(range.start.saturating_sub(start)..range.end.saturating_sub(start));
            !active.written.is_empty()
        });
        self.jobs.retain(|_, job| {
            job.content.remove(range.clone());
            let stays = !job.content.is_empty();
            if !stays {
                job.retry.notify_one();
            }
            stays
        });
    }

    /// The published body has nothing in a range any more.
    pub(crate) fn unmap_published(&mut self, range: Range<u64>) {
        self.base.remove(range.clone());
        self.own.remove(range.clone());
        self.known.lay(range.start, range.end - range.start, ());
    }
}
