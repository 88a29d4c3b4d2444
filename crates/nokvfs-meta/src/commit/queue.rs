//! The way from callers to the committer: a bounded queue of plans.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_types::MetaError;
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

    /// Hands the result out.
    fn answer(self: Box<Self>);
}

pub(crate) struct Planned<T, F> {
    plan: Option<F>,
    result: MetaResult<T>,
    answer: oneshot::Sender<MetaResult<T>>,
    _place: OwnedSemaphorePermit,
}

impl<T, F> Job for Planned<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut Txn<'_>) -> MetaResult<T> + Send + 'static,
{
    fn plan(&mut self, txn: &mut Txn<'_>) -> bool {
        if self.answer.is_closed() {
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

    fn answer(self: Box<Self>) {
        // The caller may have given up; the slot table answers its repetition.
        drop(self.answer.send(self.result));
    }
}

/// The queue.
pub(crate) struct Queue {
    places: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    /// Closed when nothing is served any more.
    end: Semaphore,
}

struct Waiting {
    jobs: VecDeque<Box<dyn Job>>,
    closed: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            places: Arc::new(Semaphore::new(QUEUE)),
            waiting: Mutex::new(Waiting { jobs: VecDeque::new(), closed: false }),
            arrived: Condvar::new(),
            end: Semaphore::new(0),
        }
    }
}

fn stopped() -> MetaError {
    MetaError::Unavailable("the metadata server is stopping; try again".into())
}

impl Queue {
    /// Puts a plan in and waits for its answer.
    pub(crate) async fn submit<T, F>(&self, plan: F) -> MetaResult<T>
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
        let job = Planned { plan: Some(plan), result: Err(stopped()), answer, _place: place };
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(stopped());
            }
            waiting.jobs.push_back(Box::new(job));
        }
        self.arrived.notify_one();
        result.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Moves all that waits to `jobs`; if nothing does, waits until `until`. Answers `false` once it is closed and
    /// empty.
    pub(crate) fn take(&self, jobs: &mut VecDeque<Box<dyn Job>>, until: Instant) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.is_empty() && !waiting.closed {
            if self.arrived.wait_until(&mut waiting, until).timed_out() {
                break;
            }
        }
        jobs.append(&mut waiting.jobs);
        !(waiting.closed && jobs.is_empty())
    }

    /// Refuses further plans. Those that wait are still served.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Refuses all, at the end of the committer, however it came.
    pub(crate) fn abandon(&self) {
        self.close();
        let jobs = std::mem::take(&mut self.waiting.lock().jobs);
        for mut job in jobs {
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
        self.waiting.lock().jobs.len()
    }
}
