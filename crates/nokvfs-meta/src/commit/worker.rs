//! The committer's thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nokvfs_types::{MetaError, Timestamp, Version};

use super::command::{BATCH_TARGET, COMMAND_LIMIT};
use super::committer::{CommitterOptions, Shared, StoreState};
use super::journal::envelope;
use super::overlay::Overlay;
use super::queue::{Job, QUEUE};
use super::segments::Segments;
use super::txn::Txn;
use crate::store::{Anchor, Batch, Envelope, MetaStore, Usage};

/// How often limits are looked at, and the longest sleep of an idle committer.
const MEASURE: Duration = Duration::from_millis(500);
/// An idle store with a log gets a checkpoint after so long, so that the next start is quick.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(30);
/// First and longest pause between attempts to reopen a failed store.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// After a failed checkpoint the next one waits so long; nothing is written meanwhile.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(5);
/// Fewer dirty bytes are not worth a checkpoint.
const DIRTY_FEW: u64 = 16 << 20;
/// Bytes that a shorter log never starts a checkpoint with: it has a header.
const WAL_EMPTY: u64 = 64 << 10;

/// State of the thread.
pub(crate) struct Worker {
    store: Arc<dyn MetaStore>,
    shared: Arc<Shared>,
    options: CommitterOptions,
    segments: Option<Segments>,
    tail: Anchor,
    /// The last commit that was given out, also by a batch that failed.
    last: Version,
    full: Option<String>,
    read_only: Option<String>,
    broken: Option<Broken>,
    wal: u64,
    usage: Usage,
    stuck: Option<Stuck>,
    measured: Instant,
    busy: Instant,
}

/// Checkpoints fail: without them the log grows and memory fills, so nothing is written until one succeeds.
struct Stuck {
    reason: String,
    retry: Instant,
}

/// A failed store.
struct Broken {
    reason: String,
    retry: Instant,
    pause: Duration,
}

/// Ends the queue however the thread ends.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.health.lock().state = StoreState::Stopped;
        self.0.queue.abandon();
    }
}

impl Worker {
    pub(crate) fn new(
        store: Arc<dyn MetaStore>,
        shared: Arc<Shared>,
        options: CommitterOptions,
        segments: Option<Segments>,
        tail: Anchor,
    ) -> Self {
        let now = Instant::now();
        Worker {
            store,
            shared,
            options,
            segments,
            tail,
            last: tail.version(),
            full: None,
            read_only: None,
            broken: None,
            wal: 0,
            usage: Usage::default(),
            stuck: None,
            measured: now,
            busy: now,
        }
    }

    pub(crate) fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.shared));
        let mut jobs = VecDeque::with_capacity(QUEUE);
        loop {
            let until = self.broken.as_ref().map_or_else(|| Instant::now() + MEASURE, |broken| broken.retry);
            if !self.shared.queue.take(&mut jobs, until) {
                break;
            }
            self.mend();
            while !jobs.is_empty() {
                self.serve(&mut jobs);
            }
            if self.measured.elapsed() >= MEASURE {
                self.measure();
            }
            if self.checkpoint_due() {
                self.checkpoint();
            }
        }
        if self.broken.is_none() && self.wal > WAL_EMPTY {
            self.checkpoint();
        }
        self.sync_segments();
    }

    /// One batch from the front of the queue.
    fn serve(&mut self, jobs: &mut VecDeque<Box<dyn Job>>) {
        if let Some(broken) = &self.broken {
            let reason = broken.reason.clone();
            for mut job in jobs.drain(..) {
                job.refuse(MetaError::Unavailable(reason.clone()));
                job.answer();
            }
            return;
        }
        let mut overlay = Overlay::default();
        let mut planned = Vec::with_capacity(jobs.len());
        let now = Timestamp::now();
        while overlay.cost() < BATCH_TARGET
            && let Some(mut job) = jobs.pop_front()
        {
            self.plan(&mut *job, &mut overlay, now);
            planned.push(job);
        }
        if let Err(reason) = self.commit(overlay, now, planned.len()) {
            tracing::error!(%reason, "a batch of metadata was not acknowledged; reopening the store");
            for job in &mut planned {
                job.refuse(MetaError::Unavailable(reason.clone()));
            }
            self.broken = Some(Broken { reason, retry: Instant::now(), pause: RETRY.0 });
        }
        for job in planned {
            job.answer();
        }
        self.mend();
    }

    fn plan(&mut self, job: &mut dyn Job, overlay: &mut Overlay, now: Timestamp) {
        let version = Version(self.last.0 + 1);
        let mut txn = Txn::new(&*self.store, overlay, version, now, self.full.as_deref());
        if !job.plan(&mut txn) {
            return;
        }
        let command = txn.finish();
        if command.mutations.is_empty() {
            return;
        }
        if let Some(reason) = &self.read_only {
            job.refuse(MetaError::NoSpace(reason.clone()));
            return;
        }
        let cost = command.cost();
        if cost > COMMAND_LIMIT {
            job.refuse(MetaError::Internal(format!(
                "a command of {cost} bytes, {COMMAND_LIMIT} are allowed; this is a bug, report it"
            )));
            return;
        }
        self.last = version;
        overlay.absorb(command);
    }

    fn commit(&mut self, overlay: Overlay, now: Timestamp, commands: usize) -> Result<(), String> {
        let finished = overlay.finish();
        if finished.changes.is_empty() {
            return Ok(());
        }
        let envelope = envelope(self.tail, self.last, now, &finished.changes, &finished.events);
        self.wal += 2 * envelope.payload.len() as u64;
        let batch = Batch { guards: finished.guards, changes: finished.changes, envelope };
        self.store.commit(&batch).map_err(|error| error.to_string())?;
        self.tail = batch.envelope.current;
        self.busy = Instant::now();
        self.publish(self.last);
        self.keep(&batch.envelope);
        let mut health = self.shared.health.lock();
        health.batches += 1;
        health.commands += commands as u64;
        Ok(())
    }

    fn publish(&self, durable: Version) {
        self.shared.durable.store(durable.0, Ordering::Release);
        self.shared.durable_watch.send_replace(durable.0);
    }

    /// Adds to the segments. What fails here is fetched from the log before the next checkpoint.
    fn keep(&mut self, envelope: &Envelope) {
        if let Some(segments) = &mut self.segments
            && let Err(error) = segments.append(envelope)
        {
            self.behind(Some(error.to_string()));
        }
    }

    fn behind(&self, reason: Option<String>) {
        if let Some(reason) = &reason {
            tracing::warn!(reason, "the journal is behind; the log grows until it is not");
        }
        self.shared.health.lock().behind = reason;
    }

    fn checkpoint_due(&self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        if let Some(stuck) = &self.stuck {
            return Instant::now() >= stuck.retry;
        }
        let Usage { dirty, budget, disk_free, .. } = self.usage;
        // Dirty memory can't be given to others, and needs as much of the disk when it is written.
        let heavy =
            dirty > DIRTY_FEW && (dirty > budget / 2 || disk_free < self.options.low_water.saturating_add(dirty));
        heavy || self.wal > self.options.wal_limit || (self.wal > WAL_EMPTY && self.busy.elapsed() > IDLE_CHECKPOINT)
    }

    /// Moves finished journal entries to segments, then shortens the log. No batch runs meanwhile: this is the thread.
    fn checkpoint(&mut self) {
        self.busy = Instant::now();
        let kept = match &mut self.segments {
            Some(segments) => segments.catch_up(&*self.store).and_then(|()| segments.sync()),
            None => Ok(()),
        };
        match kept.and_then(|()| self.store.checkpoint()) {
            Ok(()) => {
                self.wal = 0;
                self.stuck = None;
                self.behind(None);
                self.shared.health.lock().checkpoints += 1;
            }
            Err(error) => self.checkpoint_failed(error.to_string()),
        }
        self.measure();
    }

    fn checkpoint_failed(&mut self, reason: String) {
        tracing::error!(reason, "a checkpoint failed; nothing is written until one succeeds");
        let again = self.stuck.is_some();
        self.stuck = Some(Stuck { reason: reason.clone(), retry: Instant::now() + CHECKPOINT_RETRY });
        // Where it is not for space, the engine may have stopped for good: open it again.
        if again && self.usage.disk_free > self.usage.dirty.saturating_add(self.options.low_water) {
            self.broken = Some(Broken { reason, retry: Instant::now(), pause: RETRY.0 });
            self.mend();
        }
    }

    fn sync_segments(&mut self) {
        if let Some(segments) = &mut self.segments
            && let Err(error) = segments.sync()
        {
            self.behind(Some(error.to_string()));
        }
    }

    /// Opens a failed store again, if its pause is over.
    fn mend(&mut self) {
        if self.broken.as_ref().is_none_or(|broken| Instant::now() < broken.retry) {
            return;
        }
        // The engine may shorten its log when it closes.
        self.sync_segments();
        let Some(broken) = &mut self.broken else { return };
        let outcome = self.store.reopen().and_then(|()| self.store.journal());
        match outcome {
            Ok((_, tail)) => {
                tracing::info!(batches = tail.sequence, "the metadata store is open again");
                self.tail = tail;
                self.last = self.last.max(tail.version());
                self.broken = None;
                // All that is readable now came from the disk.
                self.publish(self.last);
                self.measure();
                self.adopt_log();
            }
            Err(error) => {
                broken.reason = error.to_string();
                broken.retry = Instant::now() + broken.pause;
                broken.pause = (broken.pause * 2).min(RETRY.1);
                let reason = broken.reason.clone();
                tracing::error!(reason, "the metadata store can't be opened; trying again");
                self.shared.health.lock().state = StoreState::Reopening(reason);
            }
        }
    }

    /// Counts the log that an earlier run left towards the next checkpoint.
    pub(crate) fn adopt_log(&mut self) {
        self.wal = self.usage.wal;
    }

    /// Looks at memory and disk.
    pub(crate) fn measure(&mut self) {
        self.measured = Instant::now();
        if self.broken.is_some() {
            return;
        }
        let usage = match self.store.usage() {
            Ok(usage) => usage,
            Err(error) => return tracing::warn!(%error, "the metadata store does not tell its usage"),
        };
        self.full = (usage.needed > usage.budget).then(|| {
            format!(
                "the metadata needs {} MiB of memory and {} MiB are for it; raise the metadata server's memory limit",
                usage.needed >> 20,
                usage.budget >> 20
            )
        });
        self.read_only = (usage.disk_free < self.options.low_water).then(|| {
            format!(
                "the metadata server's disk has {} MiB left, below {} MiB nothing is written; enlarge its volume",
                usage.disk_free >> 20,
                self.options.low_water >> 20
            )
        });
        if let Some(stuck) = &self.stuck {
            self.read_only = Some(format!("checkpoints of the metadata fail: {}", stuck.reason));
        }
        self.usage = usage;
        let mut health = self.shared.health.lock();
        health.state = self.read_only.clone().map_or(StoreState::Open, StoreState::ReadOnly);
        health.full.clone_from(&self.full);
        health.usage = usage;
    }
}
