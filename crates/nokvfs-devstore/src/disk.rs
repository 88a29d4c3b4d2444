//! The objects on disk, their index, and the one thread that changes both.
//!
//! The index is in memory, read from disk at open: about 250 bytes an object with its key, so the limit of 4 million
//! objects is 1 GB. Changes are applied in batches of all that wait; a batch costs one flush of the journal.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::SystemTime;

use parking_lot::RwLock;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, linkat, openat};
use tokio::sync::{mpsc, oneshot};

use crate::errors::{ChangeError, DevStoreError};
use crate::path::{self, FAN_OUT};
use crate::stage::{FOOTER, Staged};

const OBJECTS_MAX: usize = 4_000_000;
/// Changes that may wait for the committer; further callers wait for room.
const QUEUE: usize = 256;

/// What the index tells of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) len: u64,
    pub(crate) modified: SystemTime,
}

pub(crate) type Index = BTreeMap<Box<str>, Entry>;

/// A change of the bucket.
pub(crate) enum Change {
    Put { key: String, staged: Staged, absent: bool },
    Delete { key: String },
}

struct Job {
    change: Change,
    reply: oneshot::Sender<Result<(), ChangeError>>,
}

struct Shared {
    dir: PathBuf,
    folders: Vec<PathBuf>,
    temporary: PathBuf,
    next_temporary: AtomicU64,
    index: RwLock<Index>,
    /// A flush failed: what is on disk is unknown until the store is opened anew.
    failed: AtomicBool,
    _lock: File,
}

/// A bucket on disk.
pub(crate) struct Disk {
    shared: Arc<Shared>,
    jobs: Option<mpsc::Sender<Job>>,
    committer: Option<JoinHandle<()>>,
}

impl Disk {
    /// Opens or makes `bucket` in `dir`, and reads its index. Blocks.
    pub(crate) fn open(dir: &Path, bucket: &str) -> Result<Self, DevStoreError> {
        let failed = |action| move |source| DevStoreError::Io { dir: dir.to_owned(), action, source };
        std::fs::create_dir_all(dir).map_err(failed("make the directory"))?;
        let lock = lock(dir)?;
        let temporary = dir.join("tmp");
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary).map_err(failed("remove what a killed server left"))?;
        }
        std::fs::create_dir_all(&temporary).map_err(failed("make the directory"))?;
        let bucket = dir.join("buckets").join(bucket);
        let folders: Vec<_> = (0..FAN_OUT).map(|folder| bucket.join(path::folder_name(folder))).collect();
        for folder in &folders {
            std::fs::create_dir_all(folder).map_err(failed("make the directory"))?;
        }
        for made in [&bucket, &dir.join("buckets"), dir] {
            sync_dir(made).map_err(failed("sync the directory"))?;
        }
        let mut index = Index::new();
        for folder in &folders {
            scan(folder, &mut Vec::new(), &mut index).map_err(failed("read the objects"))?;
        }
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            folders,
            temporary,
            next_temporary: AtomicU64::new(0),
            index: RwLock::new(index),
            failed: AtomicBool::new(false),
            _lock: lock,
        });
        shared.unnamed_file().map_err(failed("make an unnamed file (needs ext4, xfs, btrfs or tmpfs)"))?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let committer = std::thread::Builder::new().name("devstore-commit".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.commit_loop(queue)
        });
        let committer = Some(committer.map_err(failed("start a thread"))?);
        Ok(Self { shared, jobs: Some(jobs), committer })
    }

    /// A file without a name on the bucket's disk. Blocks.
    pub(crate) fn unnamed_file(&self) -> io::Result<File> {
        self.shared.unnamed_file()
    }

    /// Runs `read` on the index.
    pub(crate) fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.shared.index.read())
    }

    /// The file of a key, if the key names an object.
    pub(crate) fn file(&self, key: &str) -> Option<PathBuf> {
        self.shared.index.read().contains_key(key).then(|| self.shared.file(key))
    }

    /// Makes a change; it is durable and visible on return.
    pub(crate) async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let stopped = || ChangeError::Failed("the trial store stopped; start it again".to_owned());
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Job { change, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(committer) = self.committer.take()
            && committer.join().is_err()
        {
            tracing::error!("the trial store's committer panicked");
        }
    }
}

impl Shared {
    fn unnamed_file(&self) -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(openat(CWD, &self.dir, flags, Mode::from_raw_mode(0o600))?.into())
    }

    fn file(&self, key: &str) -> PathBuf {
        self.folders[path::folder(key) as usize].join(path::file(key))
    }

    fn commit_loop(&self, mut queue: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(QUEUE);
        while let Some(job) = queue.blocking_recv() {
            batch.push(job);
            while batch.len() < QUEUE
                && let Ok(job) = queue.try_recv()
            {
                batch.push(job);
            }
            self.commit(&mut batch);
        }
    }

    fn commit(&self, batch: &mut Vec<Job>) {
        // What the batch did to a key so far; the index follows once it is durable.
        let mut pending: HashMap<String, Option<Entry>> = HashMap::new();
        let mut dirty = BTreeSet::new();
        let mut replies = Vec::with_capacity(batch.len());
        for job in batch.drain(..) {
            let done = self.apply(job.change, &mut pending, &mut dirty);
            replies.push((job.reply, done));
        }
        let synced = dirty.iter().try_for_each(|dir: &PathBuf| sync_dir(dir));
        if let Err(error) = &synced {
            self.failed.store(true, Ordering::Release);
            tracing::error!(%error, "the trial store can't flush; it refuses changes until it is started again");
        } else {
            let mut index = self.index.write();
            for (key, entry) in pending {
                match entry {
                    Some(entry) => drop(index.insert(key.into(), entry)),
                    None => drop(index.remove(key.as_str())),
                }
            }
        }
        for (reply, done) in replies {
            let done = match &synced {
                Ok(()) => done,
                Err(error) => Err(ChangeError::Failed(format!("can't flush: {error}"))),
            };
            // Nobody listens if the client went away; its change stands.
            let _ = reply.send(done);
        }
    }

    fn apply(
        &self,
        change: Change,
        pending: &mut HashMap<String, Option<Entry>>,
        dirty: &mut BTreeSet<PathBuf>,
    ) -> Result<(), ChangeError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(ChangeError::Failed("an earlier flush failed; start the trial store again".to_owned()));
        }
        let present = |key: &str| match pending.get(key) {
            Some(entry) => entry.is_some(),
            None => self.index.read().contains_key(key),
        };
        match change {
            Change::Put { key, staged, absent } => {
                let exists = present(&key);
                if exists && absent {
                    return Err(ChangeError::Exists);
                }
                if !exists && self.index.read().len() + pending.len() >= OBJECTS_MAX {
                    return Err(ChangeError::Full);
                }
                let file = self.file(&key);
                self.place(&staged, &file, exists, path::folder(&key), dirty)?;
                pending.insert(key, Some(Entry { len: staged.footer.len, modified: staged.modified }));
            }
            Change::Delete { key } => {
                if present(&key) {
                    let file = self.file(&key);
                    std::fs::remove_file(&file)?;
                    dirty.extend(file.parent().map(Path::to_owned));
                    pending.insert(key, None);
                }
            }
        }
        Ok(())
    }

    /// Gives a staged object its name.
    fn place(
        &self,
        staged: &Staged,
        file: &Path,
        exists: bool,
        folder: u32,
        dirty: &mut BTreeSet<PathBuf>,
    ) -> Result<(), ChangeError> {
        let parent = file.parent().unwrap_or(&self.dir);
        let top = &self.folders[folder as usize];
        if parent != top {
            std::fs::create_dir_all(parent)?;
            let made = parent.ancestors().take_while(|dir| *dir != top.as_path());
            dirty.extend(made.map(Path::to_owned));
        }
        dirty.insert(if parent == top { parent.to_owned() } else { top.clone() });
        let unnamed = format!("/proc/self/fd/{}", staged.file.as_raw_fd());
        if !exists {
            linkat(CWD, &unnamed, CWD, file, AtFlags::SYMLINK_FOLLOW)?;
            return Ok(());
        }
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.temporary.join(number.to_string());
        linkat(CWD, &unnamed, CWD, &temporary, AtFlags::SYMLINK_FOLLOW)?;
        std::fs::rename(&temporary, file)?;
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, DevStoreError> {
    let failed = |source| DevStoreError::Io { dir: dir.to_owned(), action: "lock the directory", source };
    let path = dir.join("LOCK");
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(failed(error.into()));
        }
        let mut pid = String::new();
        file.read_to_string(&mut pid).map_err(failed)?;
        let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
        return Err(DevStoreError::Locked { dir: dir.to_owned(), pid });
    }
    let pid = std::process::id();
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{pid}")).map_err(failed)?;
    Ok(file)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn scan(dir: &Path, pieces: &mut Vec<String>, index: &mut Index) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(io::Error::other(format!("{:?} is not ours", entry.path())));
        };
        let meta = entry.metadata()?;
        pieces.push(name.to_owned());
        if meta.is_dir() {
            scan(&entry.path(), pieces, index)?;
        } else {
            let key = path::key(&pieces.iter().map(String::as_str).collect::<Vec<_>>());
            let (Some(key), Some(len)) = (key, meta.len().checked_sub(FOOTER as u64)) else {
                return Err(io::Error::other(format!("{:?} is no object of ours; move it away", entry.path())));
            };
            index.insert(key.into(), Entry { len, modified: meta.modified()? });
        }
        pieces.pop();
    }
    Ok(())
}
