//! The engine: everything that a metadata server holds, behind the service traits.

mod options;
mod snapshots;
mod store;
mod volumes;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hmac::{Hmac, Mac};
use nokvfs_failpoint::failpoint;
use nokvfs_object::{ObjectError, ObjectStore};
use nokvfs_types::{Applied, Caller, MetaError, Mutation, SessionId, Stamp, Token, Version, VolumeId};
use parking_lot::Mutex;
use sha2::Sha256;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

pub use options::EngineOptions;
pub(crate) use snapshots::{find_snapshot, pinned, unpin};
use store::EngineStore;

use crate::check::Checks;
use crate::commit::{Committer, Health, StoreState, Txn};
use crate::layout::{Key, KeyPrefix, ServerRecord, SessionRecord, VolumeRecord};
use crate::plan::Allocators;
use crate::service::MetaResult;
use crate::session::{ENDED, Live, LockTable, Orphans, Sessions, WINDOW};
use crate::store::ReadRecords;

/// Volumes, sessions and records of one metadata server.
///
/// Reads and mutations name the session and the generation that they come from; [`crate::LocalService`] does that for a
/// front end in the same process, a server for those of other machines.
#[derive(Debug)]
pub struct Engine {
    core: Arc<Core>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Figures of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Live sessions.
    pub sessions: u64,
    /// Unlinked inodes that are not removed yet and are worked on.
    pub orphans: u64,
    /// Records of objects that wait for deletion; counted up to 10,000.
    pub garbage: u64,
    /// Sessions that ended and whose uploads are not swept yet.
    pub unswept: u64,
    /// Ranges of files that are locked.
    pub locks: u64,
    /// Requests that wait for a lock at this moment.
    pub lock_waits: u64,
}

/// What wakes the workers.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub garbage: Notify,
    pub orphans: Notify,
    pub sweep: Notify,
    pub volumes: Notify,
    pub history: Notify,
}

/// What engine and workers share.
#[derive(Debug)]
pub(crate) struct Core {
    pub store: EngineStore,
    pub committer: Committer,
    pub objects: Arc<dyn ObjectStore>,
    pub options: EngineOptions,
    /// As it was at the start: for what never changes of it.
    pub server: ServerRecord,
    pub sessions: Sessions,
    pub locks: Mutex<LockTable>,
    pub orphans: Orphans,
    pub allocators: Allocators,
    pub wake: Wake,
    /// Sessions that ended, and when their uploads may be swept.
    pub ended: Mutex<HashMap<SessionId, Instant>>,
    /// Volumes whose marker object was seen to be ours.
    pub owned: Mutex<HashSet<VolumeId>>,
    pub garbage: AtomicU64,
    /// How far commits had come when, for the delay of garbage.
    pub garbage_marks: Mutex<VecDeque<(Instant, Version)>>,
    /// When [`Core::adopt`] last ran.
    pub adopted: Mutex<Instant>,
    /// The check that runs, or the last one.
    pub checks: Checks,
}

impl Engine {
    /// Opens the store, or makes one, and starts the workers.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if the directory can't be used or another process holds it; [`MetaError::Corrupt`]
    /// for a damaged store.
    pub async fn open(options: EngineOptions, objects: Arc<dyn ObjectStore>) -> MetaResult<Arc<Engine>> {
        options.validate()?;
        let opening = options.store.clone();
        let (store, committer) = tokio::task::spawn_blocking(move || Committer::open(opening))
            .await
            .map_err(|_| MetaError::Unavailable("opening the metadata store was cut off".into()))??;
        let server = committer.submit(server_record).await?;
        failpoint!("open.server_known");
        let core = Arc::new(Core {
            store: EngineStore::new(store),
            committer,
            objects,
            server,
            sessions: Sessions::new(options.session_expiry),
            locks: Mutex::new(LockTable::new()),
            orphans: Orphans::default(),
            allocators: Allocators::default(),
            wake: Wake::default(),
            ended: Mutex::default(),
            owned: Mutex::default(),
            garbage: AtomicU64::new(0),
            garbage_marks: Mutex::default(),
            adopted: Mutex::new(Instant::now()),
            checks: Checks::default(),
            options,
        });
        core.adopt()?;
        if core.options.clients_elsewhere {
            core.locks.lock().recover(core.sessions.all());
        }
        failpoint!("open.adopted");
        let stop = watch::Sender::new(false);
        let tasks = crate::gc::start(&core, &stop);
        Ok(Arc::new(Engine { core, stop, tasks: Mutex::new(tasks) }))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Carries a mutation out, exactly once per stamp: sent again, it is answered as the first time.
    ///
    /// # Errors
    /// Why it was refused. [`MetaError::Unavailable`] and giving up leave open whether it took effect: repeat it.
    pub async fn mutate(&self, stamp: Stamp, caller: Caller, mutation: Mutation) -> MetaResult<Applied> {
        self.core.mutate(stamp, caller, mutation).await
    }

    /// How the committer does.
    pub fn health(&self) -> Health {
        self.core.committer.health()
    }

    /// Whether requests can be served.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn ready(&self) -> Result<(), String> {
        match self.health().state {
            StoreState::Open => Ok(()),
            StoreState::ReadOnly(reason) => Err(reason),
            StoreState::Reopening(reason) => Err(format!("the metadata store is being opened again: {reason}")),
            StoreState::Stopped => Err("the metadata server is stopping".into()),
        }
    }

    /// Figures of now.
    pub fn figures(&self) -> Figures {
        let (locks, lock_waits) = self.core.locks.lock().counts();
        Figures {
            locks,
            lock_waits,
            sessions: self.core.sessions.len() as u64,
            orphans: self.core.orphans.len() as u64,
            garbage: self.core.garbage.load(Ordering::Relaxed),
            unswept: self.core.ended.lock().len() as u64,
        }
    }

    /// Stops the workers, makes everything durable and closes the store. Sessions stay: their clients find them again
    /// at the next start.
    ///
    /// # Errors
    /// None yet; what was acknowledged is durable whatever happens here.
    pub async fn close(&self) -> MetaResult<()> {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a worker of the metadata failed");
            }
        }
        let core = Arc::clone(&self.core);
        let closing = tokio::task::spawn_blocking(move || {
            failpoint!("close.workers_ended");
            core.committer.shutdown();
            failpoint!("close.committer_ended");
            core.store.close();
        });
        closing.await.map_err(|error| MetaError::Internal(format!("closing the metadata store: {error}; see the log")))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Core {
    /// Takes in what the store knows and this process does not: at the start, and after commits whose end is unknown.
    pub(crate) fn adopt(&self) -> MetaResult<()> {
        let mut stored = Vec::new();
        self.store.scan::<SessionRecord>(&KeyPrefix::sessions(), None, usize::MAX, |key, record, _| {
            if let Key::Session(session) = key {
                stored.push((session, record));
            }
        })?;
        for (session, record) in stored {
            if record.generation == ENDED {
                // Its objects may still be arriving.
                let quiet = self.options.session_expiry;
                self.ended.lock().entry(session).or_insert_with(|| Instant::now() + quiet);
            } else if !self.sessions.has(session, record.generation) {
                let Some((volume, _)) = self.store.get::<VolumeRecord>(&Key::Volume(record.mount))? else { continue };
                let live = Live::load(&self.store, session, &record, &volume)?;
                self.sessions.insert(live, self.options.restart_grace);
                // It may have ended since the scan; an end that comes after this removes it itself.
                let now = self.store.get::<SessionRecord>(&Key::Session(session))?;
                if now.is_none_or(|(now, _)| now.generation != record.generation) {
                    self.sessions.remove(session, record.generation);
                }
            }
        }
        let mut mounts = Vec::new();
        self.store.scan::<VolumeRecord>(&KeyPrefix::volumes(), None, usize::MAX, |key, _, _| {
            if let Key::Volume(mount) = key {
                mounts.push(mount);
            }
        })?;
        mounts.into_iter().try_for_each(|mount| self.adopt_orphans(mount))
    }

    /// Takes orphans of a volume in.
    pub(crate) fn adopt_orphans(&self, mount: nokvfs_types::MountId) -> MetaResult<()> {
        let prefix = KeyPrefix::orphans(mount);
        // One more than the window, so that it knows of more.
        self.store.scan::<crate::layout::OrphanRecord>(&prefix, None, WINDOW + 1, |key, _, _| {
            if let Key::Orphan(_, inode) = key {
                self.orphans.add(mount, inode);
            }
        })?;
        Ok(())
    }

    /// Waits until what a reply shows can't be lost any more.
    pub(crate) async fn shown(&self, version: Version) -> MetaResult<()> {
        self.committer.wait_durable(version).await
    }

    /// Waits until a change can't be lost any more, if there is one.
    pub(crate) async fn settled(&self, change: Option<Version>) -> MetaResult<()> {
        match change {
            Some(version) => self.shown(version).await,
            None => Ok(()),
        }
    }

    /// The token of a volume.
    pub(crate) fn token(&self, volume: VolumeId, epoch: u32) -> MetaResult<Token> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.server.token_secret)
            .map_err(|_| MetaError::Internal("the server's secret can't be a key; report it".into()))?;
        mac.update(volume.0.as_bytes());
        mac.update(&epoch.to_be_bytes());
        Ok(Token(mac.finalize().into_bytes().into()))
    }
}

/// A failure of the object store, as an answer of the metadata.
pub(crate) fn object_error(error: &ObjectError) -> MetaError {
    MetaError::Unavailable(format!("the object store does not work for the metadata server: {error}"))
}

/// The server's record, made at the first start.
fn server_record(txn: &mut Txn<'_>) -> MetaResult<ServerRecord> {
    if let Some(record) = txn.get(&Key::Server)? {
        return Ok(record);
    }
    let (mut hash_secret, mut token_secret) = ([0; 16], [0; 32]);
    getrandom::fill(&mut hash_secret)
        .and_then(|()| getrandom::fill(&mut token_secret))
        .map_err(|error| MetaError::Internal(format!("no random numbers from the kernel: {error}")))?;
    let record = ServerRecord {
        uuid: Uuid::new_v4(),
        next_mount: 1,
        next_session: 1,
        garbage_seq: 0,
        hash_secret,
        token_secret,
    };
    txn.put(&Key::Server, &record)?;
    Ok(record)
}
