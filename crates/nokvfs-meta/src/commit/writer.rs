//! The thread that writes batches, so that the next one is planned meanwhile.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use nokvfs_failpoint::failpoint;
use nokvfs_types::{MetaError, Version};

use super::committer::Shared;
use super::flight::Flight;
use super::queue::Job;
use crate::service::MetaResult;
use crate::store::MetaStore;

/// A batch to write, and who waits for it.
pub(crate) struct Prepared {
    pub flight: Arc<Flight>,
    pub jobs: Vec<Box<dyn Job>>,
    /// Its last commit.
    pub last: Version,
}

/// A batch that was written, or was not.
pub(crate) struct Landed {
    pub result: Result<(), String>,
}

/// Writes one batch at a time.
pub(crate) struct Writer {
    /// `None` only while it is dropped.
    batches: Option<SyncSender<Prepared>>,
    landed: Receiver<Landed>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(store: Arc<dyn MetaStore>, shared: Arc<Shared>) -> MetaResult<Writer> {
        let (batches, arriving) = sync_channel::<Prepared>(1);
        let (landing, landed) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("commit-writer".into())
            .spawn(move || {
                for prepared in arriving {
                    if landing.send(write(&*store, &shared, prepared)).is_err() {
                        break;
                    }
                    shared.queue.nudge();
                }
            })
            .map_err(|error| MetaError::Unavailable(format!("can't start the committer's writer: {error}")))?;
        Ok(Writer { batches: Some(batches), landed, thread: Some(thread) })
    }

    /// Takes a batch. There is none under way.
    pub(crate) fn write(&self, prepared: Prepared) -> Result<(), Prepared> {
        match &self.batches {
            Some(batches) => batches.send(prepared).map_err(|error| error.0),
            None => Err(prepared),
        }
    }

    /// The batch that was under way, once it landed. `None`: the thread is gone.
    pub(crate) fn wait(&self) -> Option<Landed> {
        self.landed.recv().ok()
    }

    /// The same without waiting. `Ok(None)`: it is still under way.
    pub(crate) fn poll(&self) -> Result<Option<Landed>, ()> {
        match self.landed.try_recv() {
            Ok(landed) => Ok(Some(landed)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.batches.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(
                "the committer's writer panicked; its last batch is settled when the store is opened again"
            );
        }
    }
}

struct Landing<'f>(&'f Flight);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.0.land();
    }
}

fn write(store: &dyn MetaStore, shared: &Shared, prepared: Prepared) -> Landed {
    let Prepared { flight, mut jobs, last } = prepared;
    // Also if the engine panics: scans wait for it.
    let landing = Landing(&flight);
    failpoint!("commit.writing");
    let result = store.commit(&flight.batch).map_err(|error| error.to_string());
    match &result {
        Ok(()) => {
            failpoint!("commit.durable");
            shared.publish(last);
            let mut health = shared.health.lock();
            health.batches += 1;
            health.commands += jobs.len() as u64;
        }
        Err(reason) => {
            tracing::error!(%reason, "a batch of metadata was not acknowledged; reopening the store");
            jobs.iter_mut().for_each(|job| job.refuse(MetaError::Unavailable(reason.clone())));
        }
    }
    drop(landing);
    failpoint!("commit.answering");
    jobs.into_iter().for_each(|job| job.answer());
    Landed { result }
}
