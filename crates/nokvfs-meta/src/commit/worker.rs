//! The committer's thread: it plans batches, and has one written while it plans the next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nokvfs_failpoint::failpoint;
use nokvfs_types::{MetaError, Timestamp, Version};

use super::command::{BATCH_TARGET, COMMAND_LIMIT};
use super::committer::{CommitterOptions, Shared, StoreState};
use super::flight::Flight;
use super::journal::envelope;
use super::overlay::Overlay;
use super::queue::{Job, QUEUE};
use super::segments::Segments;
use super::txn::Txn;
use super::writer::{Landed, Prepared, Writer};
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

const WRITER_GONE: &str = "the thread that writes metadata ended; restart the server and report its log";

/// How long commands that are answered already wait for others to share a write with.
const HOLD: Duration = Duration::from_millis(1);

/// State of the thread that plans.
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
    writer: Writer,
    /// The batch that is being written.
    flight: Option<Arc<Flight>>,
    /// The batch that is being planned.
    building: Building,
    /// Nothing is held back.
    draining: bool,
    /// The writer ended: so does this thread.
    writer_gone: bool,
}

/// Commands that are planned and not written.
#[derive(Default)]
struct Building {
    overlay: Overlay,
    jobs: Vec<Box<dyn Job>>,
    /// The clock of the batch.
    now: Timestamp,
    /// A caller waits for it.
    awaited: bool,
    /// It was held back once.
    held: bool,
    /// Until when it is held back if nobody waits for it.
    due: Option<Instant>,
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

/// The commit to go on from. Clients may know of commits after the journal's last one, answered early and lost with the
/// process: theirs must not be given out again. There were no more of them than places in the queue.
fn first_after(tail: Anchor) -> Version {
    match tail.version() {
        Version(0) => Version(0),
        Version(last) => Version(last + 2 * QUEUE as u64),
    }
}

fn refuse(jobs: impl Iterator<Item = Box<dyn Job>>, reason: &str) {
    for mut job in jobs {
        job.refuse(MetaError::Unavailable(reason.to_owned()));
        job.answer();
    }
}

impl Worker {
    pub(crate) fn new(
        store: Arc<dyn MetaStore>,
        shared: Arc<Shared>,
        options: CommitterOptions,
        segments: Option<Segments>,
        tail: Anchor,
        writer: Writer,
    ) -> Self {
        let now = Instant::now();
        Worker {
            store,
            shared,
            options,
            segments,
            tail,
            last: first_after(tail),
            full: None,
            read_only: None,
            broken: None,
            wal: 0,
            usage: Usage::default(),
            stuck: None,
            measured: now,
            busy: now,
            writer,
            flight: None,
            building: Building::default(),
            draining: false,
            writer_gone: false,
        }
    }

    pub(crate) fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.shared));
        let mut jobs = VecDeque::with_capacity(QUEUE);
        loop {
            let until = self.broken.as_ref().map_or_else(|| Instant::now() + MEASURE, |broken| broken.retry);
            let due = self.building.due.filter(|_| self.flight.is_none());
            let until = due.map_or(until, |due| due.min(until));
            if !self.shared.queue.take(&mut jobs, until) {
                break;
            }
            self.mend();
            while !jobs.is_empty() {
                self.serve(&mut jobs);
            }
            self.land();
            self.hand_over();
            if self.measured.elapsed() >= MEASURE {
                self.measure();
            }
            if self.checkpoint_due() {
                self.drain();
                if self.broken.is_none() {
                    self.checkpoint();
                }
            }
            if self.writer_gone {
                break;
            }
        }
        self.drain();
        if self.broken.is_none() && self.wal > WAL_EMPTY {
            self.checkpoint();
        }
        self.sync_segments();
    }

    /// Plans from the front of the queue, until the batch is full.
    fn serve(&mut self, jobs: &mut VecDeque<Box<dyn Job>>) {
        self.land();
        if let Some(broken) = &self.broken {
            refuse(jobs.drain(..), &broken.reason);
            return;
        }
        let mut waited = jobs.len();
        while self.building.overlay.cost() < BATCH_TARGET
            && let Some(mut job) = jobs.pop_front()
        {
            let early = self.plan(&mut *job);
            self.building.awaited |= !early;
            self.building.jobs.push(job);
            self.shared.queue.take_urgent(jobs);
            // However many urgent ones come, those who waited when this began wait for no more than the batch that is being
            // written.
            waited = waited.saturating_sub(1);
            self.land();
            if self.broken.is_some() || (waited == 0 && self.flight.is_none() && self.is_due()) {
                break;
            }
        }
        if self.building.overlay.cost() >= BATCH_TARGET && self.flight.is_some() {
            self.wait_landed();
        }
        self.hand_over();
    }

    /// Adds a command to the batch, if the job yields one; answers whether nobody waits for it any more.
    fn plan(&mut self, job: &mut dyn Job) -> bool {
        if self.building.jobs.is_empty() {
            self.building.now = Timestamp::now();
            self.building.due = Some(Instant::now() + HOLD);
        }
        let version = Version(self.last.0 + 1);
        let Building { overlay, now, .. } = &mut self.building;
        let mut txn = Txn::new(&*self.store, self.flight.as_deref(), overlay, version, *now, self.full.as_deref());
        failpoint!("commit.planning");
        if !job.plan(&mut txn) {
            return false;
        }
        let command = txn.finish();
        if command.mutations.is_empty() {
            return false;
        }
        if let Some(reason) = &self.read_only {
            job.refuse(MetaError::NoSpace(reason.clone()));
            return false;
        }
        let cost = command.cost();
        if cost > COMMAND_LIMIT {
            job.refuse(MetaError::Internal(format!(
                "a command of {cost} bytes, {COMMAND_LIMIT} are allowed; this is a bug, report it"
            )));
            return false;
        }
        self.last = version;
        let durable = self.shared.durable.load(Ordering::Acquire);
        let early = job.early_after().is_some_and(|after| after.0 <= durable);
        self.shared.unsettled.note(&command);
        overlay.absorb(command);
        failpoint!("commit.planned");
        if early {
            job.answer_early();
            failpoint!("commit.answered_early");
        }
        early
    }

    /// Whether the batch is to be written as soon as that can be.
    fn is_due(&self) -> bool {
        let Building { overlay, awaited, due, .. } = &self.building;
        *awaited || overlay.cost() >= BATCH_TARGET || due.is_none_or(|due| Instant::now() >= due)
    }

    /// Whether the batch can wait for company: nobody waits for it, and it is young and small.
    fn hold(&mut self) -> bool {
        if self.draining || self.is_due() {
            self.shared.holding.store(false, Ordering::Release);
            return false;
        }
        // Whoever waits for a commit of it from now on takes the mark away and wakes this thread; who does not see the mark
        // in time waits until the batch is due.
        if std::mem::replace(&mut self.building.held, true) {
            return self.shared.holding.load(Ordering::Acquire);
        }
        self.shared.holding.store(true, Ordering::Release);
        true
    }

    /// Gives what was planned to the writer, unless that is busy.
    fn hand_over(&mut self) {
        if self.flight.is_some() || self.building.jobs.is_empty() || self.hold() {
            return;
        }
        let Building { overlay, jobs, now, .. } = std::mem::take(&mut self.building);
        let finished = overlay.finish();
        if finished.changes.is_empty() {
            // All that these saw is durable: nothing is under way.
            jobs.into_iter().for_each(|job| job.answer());
            return;
        }
        let envelope = envelope(self.tail, self.last, now, &finished.changes, &finished.events);
        self.wal += 2 * envelope.payload.len() as u64;
        self.tail = envelope.current;
        let batch = Batch { guards: finished.guards, changes: finished.changes, envelope };
        let flight = Arc::new(Flight::new(batch));
        self.flight = Some(Arc::clone(&flight));
        failpoint!("commit.handed_over");
        if let Err(prepared) = self.writer.write(Prepared { flight, jobs, last: self.last }) {
            refuse(prepared.jobs.into_iter(), WRITER_GONE);
            self.lost_writer();
        }
    }

    /// Takes note of a batch that the writer is done with.
    fn land(&mut self) {
        if self.flight.is_some() {
            match self.writer.poll() {
                Ok(None) => {}
                Ok(Some(landed)) => self.landed(landed),
                Err(()) => self.lost_writer(),
            }
        }
    }

    fn wait_landed(&mut self) {
        if self.flight.is_some() {
            match self.writer.wait() {
                Some(landed) => self.landed(landed),
                None => self.lost_writer(),
            }
        }
    }

    fn lost_writer(&mut self) {
        self.flight = None;
        self.writer_gone = true;
        self.fail(WRITER_GONE.into());
    }

    fn landed(&mut self, landed: Landed) {
        let Some(flight) = self.flight.take() else { return };
        match landed.result {
            Ok(()) => {
                self.busy = Instant::now();
                failpoint!("commit.landed");
                self.keep(&flight.batch.envelope);
            }
            Err(reason) => self.fail(reason),
        }
    }

    /// The store failed: what was planned on top of the lost batch is lost with it.
    fn fail(&mut self, reason: String) {
        refuse(std::mem::take(&mut self.building).jobs.into_iter(), &reason);
        self.broken = Some(Broken { reason, retry: Instant::now(), pause: RETRY.0 });
        self.mend();
    }

    /// Writes all that is planned and waits for it.
    fn drain(&mut self) {
        self.draining = true;
        loop {
            self.wait_landed();
            self.hand_over();
            if self.flight.is_none() {
                break;
            }
        }
        self.draining = false;
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
        failpoint!("checkpoint.begun");
        self.busy = Instant::now();
        let kept = match &mut self.segments {
            Some(segments) => segments.catch_up(&*self.store).and_then(|()| segments.sync()),
            None => Ok(()),
        };
        failpoint!("checkpoint.segments_synced");
        match kept.and_then(|()| self.store.checkpoint()) {
            Ok(()) => {
                failpoint!("checkpoint.done");
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
        failpoint!("reopen.begun");
        let Some(broken) = &mut self.broken else { return };
        let outcome = self.store.reopen().and_then(|()| self.store.journal());
        match outcome {
            Ok((_, tail)) => {
                tracing::info!(batches = tail.sequence, "the metadata store is open again");
                self.tail = tail;
                self.last = self.last.max(tail.version());
                self.broken = None;
                failpoint!("reopen.done");
                // All that is readable now came from the disk.
                self.shared.publish(self.last);
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
