//! Holt, with what its traps demand: batches only, a fixed set of trees, our checkpoints, a reopen after any error.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use holt::{
    AtomicErrorKind, CheckpointConfig, DB, DBAtomicBatch, DBView, Durability, JournalAnchor, JournalEnvelope,
    RangeEntry, RecordVersion, TreeConfig,
};
use nokvfs_failpoint::failpoint;
use nokvfs_types::MetaError;
use parking_lot::{Mutex, RwLock};

use super::options::FRAME;
use super::tail::{mend_log, mend_map};
use super::{
    Anchor, Base, Batch, Change, CommitError, Envelope, Guard, MetaStore, RawReads, StoreOptions, Stored, Usage,
    Visitor,
};
use crate::layout::Tree;
use crate::service::MetaResult;

/// The engine never starts a round by itself (ten years): a round rewrites whole frames, does not shorten the log under
/// load, and would drop journal entries that no segment has yet.
const ENGINE_ROUND: Duration = Duration::from_secs(10 * 365 * 86_400);
/// See [`with_lazy_timers`].
const LAZY: Duration = Duration::from_millis(5);
/// How long a reopen waits for reads of the old store to end.
const READERS_END: Duration = Duration::from_secs(5);
/// Where the engine's files are.
const STORE: &str = "store";
/// Soft limit of one read of journal entries.
const ENVELOPE_PAGE: usize = 4 << 20;

/// The metadata in Holt, in `<dir>/store`.
pub struct HoltStore {
    options: StoreOptions,
    open: RwLock<Option<Arc<Open>>>,
    /// A store that reads still hold after it was given up; the next reopen waits for it again.
    closing: Mutex<Option<Arc<Open>>>,
    /// Odd while a batch is being applied: reads that must agree check that it did not change.
    applying: AtomicU64,
}

impl std::fmt::Debug for HoltStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HoltStore").field("dir", &self.options.dir).finish_non_exhaustive()
    }
}

/// An open database. Trees come before the database, so that they are dropped first.
struct Open {
    trees: [holt::Tree; Tree::ALL.len()],
    db: DB,
}

impl HoltStore {
    /// Opens the store, or makes an empty one.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if the directory can't be used or another process holds it.
    pub fn open(options: StoreOptions) -> MetaResult<HoltStore> {
        let open = Open::new(&options)?;
        Ok(HoltStore {
            options,
            open: RwLock::new(Some(Arc::new(open))),
            closing: Mutex::new(None),
            applying: AtomicU64::new(0),
        })
    }

    fn current(&self) -> MetaResult<Arc<Open>> {
        self.open.read().clone().ok_or_else(|| {
            MetaError::Unavailable("the metadata store is being reopened after an error; try again".into())
        })
    }
}

fn store_dir(options: &StoreOptions) -> PathBuf {
    options.dir.join(STORE)
}

/// Makes the names of the store durable, up to that of its directory: files that were synced can vanish with a name that
/// was not.
fn settle_names(dir: &Path) -> io::Result<()> {
    File::open(dir.join(STORE))?.sync_all()?;
    File::open(dir)?.sync_all()?;
    let Some(parent) = dir.canonicalize()?.parent().map(Path::to_owned) else { return Ok(()) };
    match File::open(parent).and_then(|parent| parent.sync_all()) {
        // Where this process may not look or write it made no name; some file systems have nothing to sync in a folder.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

/// Runs `start` so that the threads it starts sleep up to [`LAZY`] longer than they ask for: they inherit the caller's
/// timer slack. The engine's log thread looks for work every 50 us, a third of a core; whoever waits for it also wakes
/// it, so that nobody waits longer.
fn with_lazy_timers<T>(start: impl FnOnce() -> T) -> T {
    let usual = rustix::thread::current_timer_slack().unwrap_or(0);
    // Where the kernel refuses, the thread just polls more often.
    let lazy = rustix::thread::set_current_timer_slack(NonZeroU64::new(LAZY.as_nanos() as u64)).is_ok();
    let started = start();
    if lazy && let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(usual)) {
        tracing::warn!(%error, "this thread's timers stay late by up to 5 ms");
    }
    started
}

fn cannot_open(options: &StoreOptions, error: impl std::fmt::Display) -> MetaError {
    MetaError::Unavailable(format!(
        "can't open the metadata in {}: {error}; check that the disk works and has space, and that no other server runs there",
        options.dir.display()
    ))
}

fn failed(error: holt::Error) -> MetaError {
    MetaError::Internal(format!("the metadata store failed: {error}; see the server's log and check the disk"))
}

impl Open {
    fn new(options: &StoreOptions) -> MetaResult<Open> {
        let dir = store_dir(options);
        std::fs::create_dir_all(&dir).map_err(|error| cannot_open(options, error))?;
        let mut config = TreeConfig::new(&dir);
        config.durability = Durability::Wal { sync: true };
        config.buffer_pool_size = options.pool_frames();
        config.checkpoint = CheckpointConfig {
            idle_interval: ENGINE_ROUND,
            dirty_blob_threshold: usize::MAX,
            ..CheckpointConfig::default()
        };
        let opened = match with_lazy_timers(|| DB::open(config.clone())) {
            Err(holt::Error::ReplaySanityFailed { .. })
                if mend_log(&dir).map_err(|error| cannot_open(options, error))? =>
            {
                with_lazy_timers(|| DB::open(config))
            }
            Err(holt::Error::NodeCorrupt { .. }) if mend_map(&dir).map_err(|error| cannot_open(options, error))? => {
                with_lazy_timers(|| DB::open(config))
            }
            opened => opened,
        };
        let db = opened.map_err(|error| cannot_open(options, error))?;
        let mut trees = Vec::with_capacity(Tree::ALL.len());
        for tree in Tree::ALL {
            trees.push(db.open_or_create_tree(tree.name()).map_err(|error| cannot_open(options, error))?);
        }
        let trees = trees.try_into().map_err(|_| cannot_open(options, "wrong number of trees"))?;
        let open = Open { trees, db };
        failpoint!("open.store");
        open.start_journal().map_err(|error| cannot_open(options, error))?;
        settle_names(&options.dir).map_err(|error| cannot_open(options, error))?;
        Ok(open)
    }

    /// The journal of a new store starts at zero. A crash half-way leaves a store whose journal starts here again.
    fn start_journal(&self) -> holt::Result<()> {
        if let Err(holt::Error::JournalStreamUnavailable { .. }) = self.db.journal_state() {
            self.db.checkpoint()?;
            self.db.initialize_journal_stream(JournalAnchor::new(0, [0; 32]))?;
        }
        self.db.journal_state().map(|_| ())
    }

    fn tree(&self, tree: Tree) -> &holt::Tree {
        &self.trees[tree as usize]
    }
}

impl RawReads for Open {
    fn get_raw(&self, tree: Tree, key: &[u8]) -> MetaResult<Option<Stored>> {
        let record = self.tree(tree).get_record(key).map_err(failed)?;
        Ok(record.map(|record| Stored { value: record.value, token: record.version.as_u64() }))
    }

    fn scan_raw(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        visit: &mut Visitor<'_>,
    ) -> MetaResult<()> {
        let mut range = self.tree(tree).scan(prefix);
        if let Some(after) = after {
            range = range.start_after(after);
        }
        visit_range(range.into_iter(), limit, visit)
    }
}

fn visit_range(
    range: impl Iterator<Item = holt::Result<RangeEntry>>,
    limit: usize,
    visit: &mut Visitor<'_>,
) -> MetaResult<()> {
    for entry in range.take(limit) {
        if let RangeEntry::Key { key, value, version } = entry.map_err(failed)?
            && !visit(&key, &value, version.as_u64())?
        {
            break;
        }
    }
    Ok(())
}

/// Reads of one moment.
struct Moment<'a>(&'a DBView);

impl Moment<'_> {
    fn tree(&self, tree: Tree) -> MetaResult<&holt::View> {
        self.0.tree(tree.name()).ok_or_else(|| MetaError::Internal(format!("the view lacks tree {}", tree.name())))
    }
}

impl RawReads for Moment<'_> {
    fn get_raw(&self, tree: Tree, key: &[u8]) -> MetaResult<Option<Stored>> {
        let record = self.tree(tree)?.get_record(key).map_err(failed)?;
        Ok(record.map(|record| Stored { value: record.value, token: record.version.as_u64() }))
    }

    fn scan_raw(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        visit: &mut Visitor<'_>,
    ) -> MetaResult<()> {
        let mut range = self.tree(tree)?.scan(prefix).map_err(failed)?;
        if let Some(after) = after {
            range = range.start_after(after);
        }
        visit_range(range.into_iter(), limit, visit)
    }
}

impl RawReads for HoltStore {
    fn get_raw(&self, tree: Tree, key: &[u8]) -> MetaResult<Option<Stored>> {
        self.current()?.get_raw(tree, key)
    }

    fn scan_raw(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        visit: &mut Visitor<'_>,
    ) -> MetaResult<()> {
        self.current()?.scan_raw(tree, prefix, after, limit, visit)
    }
}

impl MetaStore for HoltStore {
    fn view_raw(&self, read: &mut dyn FnMut(&dyn RawReads) -> MetaResult<()>) -> MetaResult<()> {
        let open = self.current()?;
        // Plain reads agree if no batch was applied meanwhile; a snapshot copies the roots and waits for the batch.
        let before = self.applying.load(Ordering::SeqCst);
        if before.is_multiple_of(2) {
            let answer = read(&*open);
            fence(Ordering::SeqCst);
            if self.applying.load(Ordering::SeqCst) == before {
                return answer;
            }
        }
        let scopes = Tree::ALL.map(|tree| (tree.name(), &[][..]));
        let mut answer = Ok(());
        open.db
            .view(&scopes, |view| {
                answer = read(&Moment(view));
                Ok(())
            })
            .map_err(failed)?;
        answer
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        let open = self.current().map_err(|error| CommitError::Refused(error.to_string()))?;
        let Envelope { previous, current, payload } = &batch.envelope;
        let envelope = JournalEnvelope::new(holt_anchor(previous), holt_anchor(current), payload.clone())
            .map_err(|error| CommitError::Refused(error.to_string()))?;
        self.applying.fetch_add(1, Ordering::SeqCst);
        let outcome = open.db.atomic_with_journal_envelope(envelope, |out| fill(out, batch));
        self.applying.fetch_add(1, Ordering::SeqCst);
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => Err(CommitError::Guard),
            Err(error @ holt::Error::Atomic { kind: AtomicErrorKind::DefinitelyNotApplied, .. }) => {
                Err(CommitError::Refused(error.to_string()))
            }
            Err(error) => Err(CommitError::Unknown(error.to_string())),
        }
    }

    fn checkpoint(&self) -> MetaResult<()> {
        self.current()?.db.checkpoint().map_err(failed)
    }

    fn reopen(&self) -> MetaResult<()> {
        if let Some(open) = self.open.write().take() {
            *self.closing.lock() = Some(open);
        }
        let old = self.closing.lock().take();
        if let Some(old) = old {
            let deadline = Instant::now() + READERS_END;
            while Arc::strong_count(&old) > 1 {
                if Instant::now() > deadline {
                    *self.closing.lock() = Some(old);
                    return Err(MetaError::Unavailable(
                        "a read of the failed metadata store does not end; restart the server".into(),
                    ));
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        failpoint!("reopen.closed");
        let open = Open::new(&self.options)?;
        *self.open.write() = Some(Arc::new(open));
        Ok(())
    }

    fn journal(&self) -> MetaResult<(Anchor, Anchor)> {
        let state = self.current()?.db.journal_state().map_err(failed)?;
        Ok((our_anchor(state.checkpoint()), our_anchor(state.tail())))
    }

    fn envelopes_after(&self, anchor: Anchor) -> MetaResult<Vec<Envelope>> {
        let page =
            self.current()?.db.journal_envelopes_after(holt_anchor(&anchor), 4096, ENVELOPE_PAGE).map_err(failed)?;
        Ok(page
            .into_envelopes()
            .into_iter()
            .map(|envelope| Envelope {
                previous: our_anchor(envelope.previous()),
                current: our_anchor(envelope.current()),
                payload: envelope.into_payload(),
            })
            .collect())
    }

    fn usage(&self) -> MetaResult<Usage> {
        let open = self.current()?;
        let stats = open.db.stats();
        let frames = stats.store.live_slots.max(stats.store.live_blobs as u64).max(stats.bm_dirty_count as u64);
        let wal = open.trees[0].config().wal_path().and_then(|path| std::fs::metadata(path).ok());
        let disk = rustix::fs::statvfs(&self.options.dir).map_err(|error| {
            MetaError::Internal(format!("can't ask {} for its free space: {error}", self.options.dir.display()))
        })?;
        Ok(Usage {
            needed: frames * FRAME,
            dirty: stats.bm_dirty_count as u64 * FRAME,
            budget: self.options.record_budget(),
            disk_free: disk.f_bavail * disk.f_frsize,
            wal: wal.map_or(0, |file| file.len()),
        })
    }
}

fn fill(out: &mut DBAtomicBatch, batch: &Batch) {
    for guard in &batch.guards {
        match guard {
            Guard::Record { base: Base::Unread, .. } => {}
            Guard::Record { tree, key, base: Base::Absent } => out.assert_absent(tree.name(), key),
            Guard::Record { tree, key, base: Base::Token(token) } => {
                out.assert_version(tree.name(), key, RecordVersion::from_raw(*token));
            }
            Guard::PrefixEmpty { tree, prefix } => out.assert_prefix_empty(tree.name(), prefix),
        }
    }
    for Change { tree, key, base, value } in &batch.changes {
        let tree = tree.name();
        match (value, base) {
            (Some(value), Base::Unread) => out.put(tree, key, value),
            (Some(value), Base::Absent) => out.put_if_absent(tree, key, value),
            (Some(value), Base::Token(token)) => out.compare_and_put(tree, key, RecordVersion::from_raw(*token), value),
            (None, Base::Unread) => out.delete(tree, key),
            (None, Base::Absent) => out.assert_absent(tree, key),
            (None, Base::Token(token)) => out.delete_if_version(tree, key, RecordVersion::from_raw(*token)),
        }
    }
}

fn holt_anchor(anchor: &Anchor) -> JournalAnchor {
    JournalAnchor::new(anchor.sequence, anchor.digest)
}

fn our_anchor(anchor: JournalAnchor) -> Anchor {
    Anchor { sequence: anchor.sequence(), digest: anchor.digest() }
}
