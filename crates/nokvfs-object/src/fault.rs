//! A wrapper that makes a store fail as a test scripts it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{ListPage, ObjectError, ObjectInfo, ObjectStore};

/// A stalled call that nobody releases fails after this, as the deadline of a real store would make it.
const STALL_DEADLINE: Duration = Duration::from_secs(60);

/// A call of [`ObjectStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`ObjectStore::put`]
    Put,
    /// [`ObjectStore::put_if_absent`]
    PutIfAbsent,
    /// [`ObjectStore::get`]
    Get,
    /// [`ObjectStore::head`]
    Head,
    /// [`ObjectStore::delete`]
    Delete,
    /// [`ObjectStore::list`]
    List,
}

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Fails without reaching the store.
    FailBefore(ObjectError),
    /// Takes effect in the store; the caller sees the error: a lost reply.
    FailAfter(ObjectError),
    /// Reaches the store this much later.
    Delay(Duration),
}

/// Holds a scripted call back. Dropping it lets the call go on.
#[derive(Debug)]
pub struct Stall {
    released: watch::Sender<bool>,
    reached: watch::Receiver<bool>,
}

impl Stall {
    /// Waits until the call has arrived; false if none did within a minute.
    pub async fn reached(&self) -> bool {
        let mut reached = self.reached.clone();
        let arrived = tokio::time::timeout(STALL_DEADLINE, reached.wait_for(|reached| *reached)).await;
        matches!(arrived, Ok(Ok(_)))
    }

    /// Lets the call go on.
    pub fn release(self) {
        self.released.send_replace(true);
    }
}

#[derive(Debug)]
enum Step {
    Fault(Fault),
    Stall { released: watch::Receiver<bool>, reached: watch::Sender<bool> },
}

#[derive(Debug, Default)]
struct Script {
    calls: BTreeMap<Operation, u64>,
    steps: BTreeMap<(Operation, u64), Step>,
    always: BTreeMap<Operation, Fault>,
}

/// Passes calls on to another store, except those that a test scripted to fail, wait or lose their reply.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    script: Mutex<Script>,
}

impl FaultStore {
    /// Wraps `inner`; no fault is scripted yet.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, script: Mutex::default() }
    }

    /// Scripts `fault` for the `nth` call of `operation` from now on; the next one is the first.
    pub fn inject(&self, operation: Operation, nth: u64, fault: Fault) {
        self.script(operation, nth, Step::Fault(fault));
    }

    /// Holds the `nth` call of `operation` from now on, before it reaches the store.
    pub fn stall(&self, operation: Operation, nth: u64) -> Stall {
        let (released, released_rx) = watch::channel(false);
        let (reached_tx, reached) = watch::channel(false);
        self.script(operation, nth, Step::Stall { released: released_rx, reached: reached_tx });
        Stall { released, reached }
    }

    /// Applies `fault` to every call of `operation` that has none of its own, until [`FaultStore::heal`].
    pub fn inject_always(&self, operation: Operation, fault: Fault) {
        self.script.lock().always.insert(operation, fault);
    }

    /// Drops every scripted fault that no call has met yet.
    pub fn heal(&self) {
        let mut script = self.script.lock();
        script.steps.clear();
        script.always.clear();
    }

    /// How many calls of `operation` arrived so far.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.script.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    fn script(&self, operation: Operation, nth: u64, step: Step) {
        assert!(nth > 0, "calls are counted from 1");
        let mut script = self.script.lock();
        let call = script.calls.get(&operation).copied().unwrap_or(0) + nth;
        script.steps.insert((operation, call), step);
    }

    fn next_step(&self, operation: Operation) -> Option<Step> {
        let mut script = self.script.lock();
        let call = script.calls.entry(operation).or_insert(0);
        *call += 1;
        let call = *call;
        match script.steps.remove(&(operation, call)) {
            Some(step) => Some(step),
            None => script.always.get(&operation).cloned().map(Step::Fault),
        }
    }

    async fn call<T>(
        &self,
        operation: Operation,
        inner: impl Future<Output = Result<T, ObjectError>> + Send,
    ) -> Result<T, ObjectError> {
        match self.next_step(operation) {
            None => inner.await,
            Some(Step::Fault(Fault::FailBefore(error))) => Err(error),
            Some(Step::Fault(Fault::FailAfter(error))) => {
                inner.await?;
                Err(error)
            }
            Some(Step::Fault(Fault::Delay(delay))) => {
                tokio::time::sleep(delay).await;
                inner.await
            }
            Some(Step::Stall { mut released, reached }) => {
                reached.send_replace(true);
                // A dropped Stall closes the channel; that releases the call too.
                let wait = async { drop(released.wait_for(|released| *released).await) };
                if tokio::time::timeout(STALL_DEADLINE, wait).await.is_err() {
                    return Err(ObjectError::Deadline(format!("{operation:?} was never released")));
                }
                inner.await
            }
        }
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultStore {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), ObjectError> {
        self.call(Operation::Put, self.inner.put(key, body)).await
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool, ObjectError> {
        self.call(Operation::PutIfAbsent, self.inner.put_if_absent(key, body)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        self.call(Operation::Get, self.inner.get(key, range)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, ObjectError> {
        self.call(Operation::Head, self.inner.head(key)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), ObjectError> {
        self.call(Operation::Delete, self.inner.delete(keys)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<ListPage, ObjectError> {
        self.call(Operation::List, self.inner.list(prefix, after, limit)).await
    }
}
