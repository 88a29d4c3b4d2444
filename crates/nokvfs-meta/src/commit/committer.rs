//! The handle of the committer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use nokvfs_failpoint::failpoint;
use nokvfs_types::{InodeId, MetaError, MountId, Name, Version};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::queue::Queue;
use super::segments::Segments;
use super::txn::Txn;
use super::unsettled::Unsettled;
use super::worker::Worker;
use super::writer::Writer;
use crate::layout::InodeRecord;
use crate::service::MetaResult;
use crate::store::{HoltStore, MetaStore, StoreOptions, Usage};

/// Limits of the committer.
#[derive(Clone, Debug)]
pub struct CommitterOptions {
    /// Directory of journal segments; without one the journal ends with the engine's log.
    pub journal: Option<PathBuf>,
    /// Bytes of segments that are kept.
    pub journal_limit: u64,
    /// A checkpoint starts when the log is longer.
    pub wal_limit: u64,
    /// Below so many free bytes nothing is written.
    pub low_water: u64,
}

/// Whether the store takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// Yes.
    Open,
    /// No: the disk is nearly full.
    ReadOnly(String),
    /// Not now: it failed and is being opened again.
    Reopening(String),
    /// The committer has ended.
    Stopped,
}

/// How the committer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// State of the store.
    pub state: StoreState,
    /// Why no records may be added, if so.
    pub full: Option<String>,
    /// Why the journal or a checkpoint is behind, if it is.
    pub behind: Option<String>,
    /// Commands that wait.
    pub queued: usize,
    /// Last durable commit.
    pub durable: Version,
    /// Batches since the start.
    pub batches: u64,
    /// Commands in them.
    pub commands: u64,
    /// Checkpoints since the start.
    pub checkpoints: u64,
    /// Limits and what is used of them.
    pub usage: Usage,
}

/// What committer and handle share.
pub(crate) struct Shared {
    pub queue: Queue,
    pub durable: AtomicU64,
    pub durable_watch: watch::Sender<u64>,
    pub health: Mutex<Health>,
    pub unsettled: Unsettled,
    /// A batch for which nobody waits is held back.
    pub holding: AtomicBool,
}

impl Shared {
    /// All up to this commit is durable.
    pub fn publish(&self, durable: Version) {
        self.durable.store(durable.0, Ordering::Release);
        self.unsettled.settle(durable);
        self.durable_watch.send_replace(durable.0);
    }
}

/// Submits commands to the one thread that writes.
pub struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").field("health", &self.health()).finish()
    }
}

impl Committer {
    /// Opens the store and starts its committer.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if the directory can't be used or another process holds it.
    pub fn open(options: StoreOptions) -> MetaResult<(Arc<dyn MetaStore>, Committer)> {
        let limits = CommitterOptions {
            journal: Some(options.dir.join("journal")),
            journal_limit: options.journal_limit,
            wal_limit: options.wal_limit,
            low_water: options.low_water,
        };
        let store: Arc<dyn MetaStore> = Arc::new(HoltStore::open(options)?);
        let committer = Committer::start(Arc::clone(&store), limits)?;
        Ok((store, committer))
    }

    /// Starts the committer of a store. Nothing else may write to it.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if the journal's directory can't be used or there can be no further thread;
    /// [`MetaError::Corrupt`] if the store lost commits that the journal can't give back.
    pub fn start(store: Arc<dyn MetaStore>, options: CommitterOptions) -> MetaResult<Committer> {
        let mut segments = options.journal.clone().map(|dir| Segments::open(dir, options.journal_limit)).transpose()?;
        if let Some(segments) = &mut segments {
            failpoint!("open.segments");
            segments.restore(&*store)?;
            segments.catch_up(&*store)?;
            failpoint!("open.caught_up");
        }
        let (_, tail) = store.journal()?;
        let durable = tail.version();
        let health = Health {
            state: StoreState::Open,
            full: None,
            behind: None,
            queued: 0,
            durable,
            batches: 0,
            commands: 0,
            checkpoints: 0,
            usage: store.usage()?,
        };
        let shared = Arc::new(Shared {
            queue: Queue::default(),
            durable: AtomicU64::new(durable.0),
            durable_watch: watch::Sender::new(durable.0),
            health: Mutex::new(health),
            unsettled: Unsettled::default(),
            holding: AtomicBool::new(false),
        });
        let writer = Writer::start(Arc::clone(&store), Arc::clone(&shared))?;
        let mut worker = Worker::new(store, Arc::clone(&shared), options, segments, tail, writer);
        worker.measure();
        worker.adopt_log();
        let thread = thread::Builder::new()
            .name("committer".into())
            .spawn(move || worker.run())
            .map_err(|error| MetaError::Unavailable(format!("can't start the committer's thread: {error}")))?;
        Ok(Committer { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Plans and commits a command. It sees all commands before it. The answer comes when the batch that it was planned
    /// in is durable, also if it is an error of planning. There is no answer sooner than that: give up at your deadline;
    /// a command whose caller gave up before planning is dropped.
    ///
    /// # Errors
    /// What the plan answers; [`MetaError::Unavailable`] if the store failed, is stopping or is overloaded: the command
    /// may have taken effect, repeat it with the same stamp; [`MetaError::NoSpace`] on a disk that is nearly full;
    /// [`MetaError::Internal`] for a command beyond [`super::COMMAND_LIMIT`].
    pub async fn submit<T, F>(&self, plan: F) -> MetaResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Txn<'_>) -> MetaResult<T> + Send + 'static,
    {
        self.shared.queue.submit(plan, |_| None, false).await
    }

    /// As [`Committer::submit`], but the answer may come as soon as the command is planned, if `early` answers a commit
    /// that is durable already. The command takes its place in the order of commits then; it is lost if the process or
    /// the store fails before its batch is durable, a millisecond later. What it made is not shown before:
    /// [`Committer::unsettled_inode`] and its like tell what to wait for. An urgent command is planned before others that
    /// wait.
    ///
    /// # Errors
    /// As [`Committer::submit`].
    pub async fn submit_early<T, F>(&self, plan: F, early: fn(&T) -> Option<Version>, urgent: bool) -> MetaResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Txn<'_>) -> MetaResult<T> + Send + 'static,
    {
        self.shared.queue.submit(plan, early, urgent).await
    }

    /// The last commit that is planned and not durable yet and changes an inode otherwise than by names in it.
    pub fn unsettled_inode(&self, mount: MountId, inode: InodeId) -> Option<Version> {
        self.shared.unsettled.of_inode(mount, inode)
    }

    /// The same for a name of a directory.
    pub fn unsettled_name(&self, mount: MountId, parent: InodeId, name: &Name) -> Option<Version> {
        self.shared.unsettled.of_name(mount, parent, name)
    }

    /// A directory as the last such commit that changed its names leaves it, and that commit.
    pub fn unsettled_dir(&self, mount: MountId, dir: InodeId) -> Option<(InodeRecord, Version)> {
        self.shared.unsettled.of_dir(mount, dir)
    }

    /// The same for all names of a directory.
    pub fn unsettled_names(&self, mount: MountId, parent: InodeId) -> Option<Version> {
        self.shared.unsettled.of_names(mount, parent)
    }

    /// The last durable commit. What a plain read shows may be newer: wait for it before you answer.
    pub fn durable_version(&self) -> Version {
        Version(self.shared.durable.load(Ordering::Acquire))
    }

    /// Waits until a commit is durable.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if the committer ends before.
    pub async fn wait_durable(&self, version: Version) -> MetaResult<()> {
        if self.durable_version() >= version {
            return Ok(());
        }
        let mut watch = self.shared.durable_watch.subscribe();
        if self.shared.holding.swap(false, Ordering::AcqRel) {
            self.shared.queue.nudge();
        }
        tokio::select! {
            _ = watch.wait_for(|durable| *durable >= version.0) => Ok(()),
            () = self.shared.queue.ended() => {
                Err(MetaError::Unavailable("the metadata server is stopping; try again".into()))
            }
        }
    }

    /// Why no records may be added, if so. [`Txn::check_room`] asks the same.
    pub fn is_full(&self) -> Option<String> {
        self.shared.health.lock().full.clone()
    }

    /// How it does.
    pub fn health(&self) -> Health {
        let mut health = self.shared.health.lock().clone();
        health.queued = self.shared.queue.len();
        health.durable = self.durable_version();
        health
    }

    /// Serves what waits, writes a checkpoint and ends the thread. Blocks until then.
    pub fn shutdown(&self) {
        self.shared.queue.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the committer panicked; its last batch is settled when the store is opened again");
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.shutdown();
    }
}
