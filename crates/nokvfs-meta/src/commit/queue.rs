//! The way from callers to the committer: a bounded queue of plans.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nokvfs_failpoint::failpoint;
use nokvfs_types::{MetaError, Version};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::txn::Txn;
use crate::service::MetaResult;

/// Most commands that wait. A plan captures about a kilobyte: 4 MiB in all, beside bodies that are being published.
pub(crate) const QUEUE: usize = 4096;
/// How long a caller waits for a place in the queue. Clients repeat what they get refused.
const PLACE_WAIT: Duration = Duration::from_secs(10);

/// A command on its way.
pub(crate) trait Job: Send {
    /// Plans it. Keeps the result; answers whether it is to be committed.
    fn plan(&mut self, txn: &mut Txn<'_>) -> bool;

    /// Overrides the result.
    fn refuse(&mut self, error: MetaError);

    /// A commit; once that is durable the result may be handed out although the command is not. `None`: it may not.
    fn early_after(&self) -> Option<Version>;

    /// Hands the result out before the command is durable.
    fn answer_early(&mut self);

    /// Hands the result out.
    fn answer(self: Box<Self>);
}

pub(crate) struct Planned<T, F> {
    plan: Option<F>,
    early: fn(&T) -> Option<Version>,
    result: MetaResult<T>,
    answer: Option<oneshot::Sender<MetaResult<T>>>,
    _place: OwnedSemaphorePermit,
}

impl<T, F> Job for Planned<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut Txn<'_>) -> MetaResult<T> + Send + 'static,
{
    fn plan(&mut self, txn: &mut Txn<'_>) -> bool {
        if self.answer.as_ref().is_none_or(oneshot::Sender::is_closed) {
            // Nobody waits any more: the caller's deadline passed before planning began.
            return false;
        }
        if let Some(plan) = self.plan.take() {
            self.result = catch_unwind(AssertUnwindSafe(|| plan(txn))).unwrap_or_else(|_| {
                Err(MetaError::Internal("planning a command panicked; see the server's log and report it".into()))
            });
        }
        self.result.is_ok()
    }

    fn refuse(&mut self, error: MetaError) {
        self.result = Err(error);
    }

    fn early_after(&self) -> Option<Version> {
        self.result.as_ref().ok().and_then(self.early)
    }

    fn answer_early(&mut self) {
        if let Some(answer) = self.answer.take() {
            let result = std::mem::replace(&mut self.result, Err(stopped()));
            // The caller may have given up; the slot table answers its repetition.
            drop(answer.send(result));
        }
    }

    fn answer(mut self: Box<Self>) {
        self.answer_early();
    }
}

/// The queue.
pub(crate) struct Queue {
    places: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// Whether anything urgent waits.
    urgent: AtomicBool,
    arrived: Condvar,
    /// Closed when nothing is served any more.
    end: Semaphore,
}

struct Waiting {
    jobs: VecDeque<Box<dyn Job>>,
    /// Those that go first.
    urgent: VecDeque<Box<dyn Job>>,
    closed: bool,
    nudged: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.urgent.is_empty()
    }
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            places: Arc::new(Semaphore::new(QUEUE)),
            waiting: Mutex::new(Waiting {
                jobs: VecDeque::new(),
                urgent: VecDeque::new(),
                closed: false,
                nudged: false,
            }),
            urgent: AtomicBool::new(false),
            arrived: Condvar::new(),
            end: Semaphore::new(0),
        }
    }
}

fn stopped() -> MetaError {
    MetaError::Unavailable("the metadata server is stopping; try again".into())
}

impl Queue {
    /// Puts a plan in and waits for its answer. `early` tells of a result whether it may come before the command is
    /// durable, see [`Job::early_after`]. What is urgent goes ahead of what waits: others wait for its caller, who can
    /// have one such command under way at most.
    pub(crate) async fn submit<T, F>(&self, plan: F, early: fn(&T) -> Option<Version>, urgent: bool) -> MetaResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Txn<'_>) -> MetaResult<T> + Send + 'static,
    {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => tokio::time::timeout(PLACE_WAIT, Arc::clone(&self.places).acquire_owned())
                .await
                .map_err(|_| {
                    MetaError::Unavailable(format!(
                        "{QUEUE} commands are waiting; the metadata server is overloaded, try again"
                    ))
                })?
                .map_err(|_| stopped())?,
        };
        let (answer, result) = oneshot::channel();
        let job = Planned { plan: Some(plan), early, result: Err(stopped()), answer: Some(answer), _place: place };
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(stopped());
            }
            if urgent {
                waiting.urgent.push_back(Box::new(job));
                self.urgent.store(true, Ordering::Release);
            } else {
                waiting.jobs.push_back(Box::new(job));
            }
        }
        self.arrived.notify_one();
        failpoint!("commit.queued");
        result.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Wakes the committer.
    pub(crate) fn nudge(&self) {
        self.waiting.lock().nudged = true;
        self.arrived.notify_one();
    }

    /// Moves all that waits to `jobs`; if nothing does, waits until `until` or a nudge. Answers `false` once it is closed and
    /// empty.
    pub(crate) fn take(&self, jobs: &mut VecDeque<Box<dyn Job>>, until: Instant) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.is_empty() && !waiting.closed && !waiting.nudged {
            if self.arrived.wait_until(&mut waiting, until).timed_out() {
                break;
            }
        }
        waiting.nudged = false;
        self.urgent.store(false, Ordering::Release);
        jobs.append(&mut waiting.urgent);
        jobs.append(&mut waiting.jobs);
        !(waiting.closed && jobs.is_empty())
    }

    /// Moves what is urgent to the front of `jobs`.
    pub(crate) fn take_urgent(&self, jobs: &mut VecDeque<Box<dyn Job>>) {
        if self.urgent.swap(false, Ordering::AcqRel) {
            let mut urgent = std::mem::take(&mut self.waiting.lock().urgent);
            urgent.append(jobs);
            *jobs = urgent;
        }
    }

    /// Refuses further plans. Those that wait are still served.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Refuses all, at the end of the committer, however it came.
    pub(crate) fn abandon(&self) {
        self.close();
        let (urgent, jobs) = {
            let mut waiting = self.waiting.lock();
            (std::mem::take(&mut waiting.urgent), std::mem::take(&mut waiting.jobs))
        };
        for mut job in urgent.into_iter().chain(jobs) {
            job.refuse(stopped());
            job.answer();
        }
        self.end.close();
    }

    /// Returns once nothing is served any more.
    pub(crate) async fn ended(&self) {
        // Nobody adds permits: it ends when it is closed.
        drop(self.end.acquire().await);
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.jobs.len() + waiting.urgent.len()
    }
}
