//! Running operations: at once where nothing has to be waited for, else as a bounded number of tasks, each with a
//! deadline and an eye on the process that waits.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::errors::{OpResult, Refusal};
use crate::process;
use crate::reply::Answer;

/// The parts below answer by the deadline or a second after it; what is later than this is a bug of theirs.
const OVERDUE: Duration = Duration::from_secs(2);
/// How often a waiting request's process is looked at. Two of these and an answer are well below 5 s.
const LOOK: Duration = Duration::from_secs(1);
/// How long the thread that reads requests stays with one.
const BRIEF: Duration = Duration::from_micros(200);
/// Requests that wait for a lock at once, besides those in flight: a kilobyte each, and 15 us per second and look.
const LOCK_WAITS: usize = 1024;
/// Most log lines about refused requests per second.
const LINES_PER_SECOND: u32 = 10;

/// Whether an operation must run to its end when nobody waits for its answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It changes nothing: it may be dropped.
    Read,
    /// It may have begun to change something.
    Change,
    /// As `Change`, and usually over within [`BRIEF`]: whoever read the request stays with it so long, because the kernel
    /// holds a directory's lock meanwhile and each wake-up of a task makes everyone in that directory wait.
    Brief,
}

/// What is known of a request besides its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) op: &'static str,
    pub(crate) inode: u64,
    pub(crate) unique: u64,
    /// Thread id of who waits, in the pid namespace of the mount; 0 if it has none there.
    pub(crate) thread: u32,
    pub(crate) deadline: Instant,
    pub(crate) effect: Effect,
}

type Operation<T> = Pin<Box<dyn Future<Output = OpResult<T>> + Send>>;

/// Runs the operations of one mount.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    runtime: Handle,
    permits: Arc<Semaphore>,
    lock_waits: Arc<Semaphore>,
    log: Arc<TroubleLog>,
}

impl Dispatcher {
    pub(crate) fn new(runtime: Handle, max_in_flight: usize) -> Self {
        let permits = Arc::new(Semaphore::new(max_in_flight));
        Dispatcher { runtime, permits, lock_waits: Arc::new(Semaphore::new(LOCK_WAITS)), log: Arc::default() }
    }

    /// Runs an operation and answers. Returns once it is answered or runs as a task.
    pub(crate) fn run<R: Answer>(
        &self,
        call: Call,
        reply: R,
        operation: impl Future<Output = OpResult<R::Value>> + Send + 'static,
    ) {
        let _inside = self.runtime.enter();
        let mut operation: Operation<R::Value> = Box::pin(operation);
        // The first poll by whoever read the request: most operations need no more, and a task costs a wake-up. A task
        // polls again at once, so that the lost waker does no harm.
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = || catch_unwind(AssertUnwindSafe(|| operation.as_mut().poll(&mut context)));
        let mut first = poll();
        if call.effect == Effect::Brief {
            let begun = Instant::now();
            while matches!(first, Ok(Poll::Pending)) && begun.elapsed() < BRIEF {
                std::thread::yield_now();
                first = poll();
            }
        }
        match first {
            Ok(Poll::Ready(result)) => self.log.answer(&call, reply, result),
            Err(_) => self.log.answer(&call, reply, Err(Refusal::Panicked)),
            Ok(Poll::Pending) => self.wait(call, reply, operation),
        }
    }

    /// Runs an operation that waits for others as long as its process lets it: it has no deadline, looks after the
    /// process itself, and takes no place of those that have one. Beyond the bound: `ENOLCK`.
    pub(crate) fn run_unbounded<R: Answer>(
        &self,
        call: Call,
        reply: R,
        operation: impl Future<Output = OpResult<R::Value>> + Send + 'static,
    ) {
        let log = Arc::clone(&self.log);
        let Ok(permit) = Arc::clone(&self.lock_waits).try_acquire_owned() else {
            return log.answer(&call, reply, Err(Refusal::Errno(libc::ENOLCK)));
        };
        self.runtime.spawn(async move {
            let mut operation = Box::pin(AssertUnwindSafe(operation).catch_unwind());
            tokio::select! {
                biased;
                result = &mut operation => log.answer(&call, reply, result.unwrap_or(Err(Refusal::Panicked))),
                // While it does not wait for others yet, or no more.
                () = dying(call.thread) => {
                    log.answer(&call, reply, Err(Refusal::Errno(libc::EINTR)));
                    drop(operation.await);
                }
            }
            drop(permit);
        });
    }

    fn wait<R: Answer>(&self, call: Call, reply: R, operation: Operation<R::Value>) {
        let log = Arc::clone(&self.log);
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match self.runtime.block_on(self.turn(&call)) {
                Ok(permit) => permit,
                Err(refusal) => return log.answer(&call, reply, Err(refusal)),
            },
        };
        self.runtime.spawn(supervise(call, reply, operation, permit, log));
    }

    /// Waits for another request to end. The thread that reads requests waits: what comes later stays in the kernel.
    async fn turn(&self, call: &Call) -> OpResult<OwnedSemaphorePermit> {
        tokio::select! {
            permit = Arc::clone(&self.permits).acquire_owned() => permit.map_err(|_| Refusal::Errno(libc::EIO)),
            () = dying(call.thread) => Err(Refusal::Errno(libc::EINTR)),
            () = tokio::time::sleep_until(call.deadline.into()) => Err(Refusal::Overdue),
        }
    }
}

async fn supervise<R: Answer>(
    call: Call,
    reply: R,
    mut operation: Operation<R::Value>,
    _permit: OwnedSemaphorePermit,
    log: Arc<TroubleLog>,
) {
    let overdue = tokio::time::sleep_until((call.deadline + OVERDUE).into());
    tokio::pin!(overdue);
    tokio::select! {
        result = &mut operation => return log.answer(&call, reply, result),
        () = &mut overdue => return log.answer(&call, reply, Err(Refusal::Overdue)),
        () = dying(call.thread) => log.answer(&call, reply, Err(Refusal::Errno(libc::EINTR))),
    }
    if call.effect != Effect::Read {
        tokio::select! {
            result = operation => drop(result),
            () = overdue => {}
        }
    }
}

/// Ends when the thread is being killed.
async fn dying(thread: u32) {
    if thread == 0 {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        if process::is_dying(thread) {
            return;
        }
    }
}

/// Answers requests and logs trouble, a bounded number of lines per second.
#[derive(Debug, Default)]
pub(crate) struct TroubleLog(Mutex<Gate>);

#[derive(Debug, Default)]
struct Gate {
    second: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl TroubleLog {
    fn answer<R: Answer>(&self, call: &Call, reply: R, result: OpResult<R::Value>) {
        match result {
            Ok(value) => reply.give(value),
            Err(refusal) => {
                self.note(call, &refusal);
                reply.refuse(refusal.errno());
            }
        }
    }

    fn note(&self, call: &Call, refusal: &Refusal) {
        let (op, inode, op_id) = (call.op, call.inode, call.unique);
        if !refusal.is_trouble() {
            tracing::trace!(op, inode, op_id, "refused: {refusal}");
            return;
        }
        if let Some(suppressed) = self.0.lock().pass(Instant::now()) {
            tracing::warn!(op, inode, op_id, suppressed, "failed: {refusal}");
        }
    }
}

impl Gate {
    /// Whether a line may be written now, and how many were not since the last one.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.lines = 0;
        }
        if self.lines == LINES_PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}
