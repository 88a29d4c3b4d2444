//! The store under the metadata: what a commit needs of an engine, Holt behind one facade, and a model of both.
//!
//! Owns: the only code that calls Holt. Must not: know what records mean.
//! Invariants: keys come from [`Key::encode`] only; everything is written by [`MetaStore::commit`], by one caller at a
//! time; a value that fails its checksum is never answered.

mod engine;
mod model;
mod options;
mod tail;
#[cfg(test)]
mod tests;

use std::fmt;

use nokvfs_types::{MetaError, Version};

use crate::layout::{Key, KeyPrefix, Record, Tree, open_value};
use crate::service::MetaResult;

pub use engine::HoltStore;
pub use model::ModelStore;
pub use options::StoreOptions;

/// How often a damaged value is read again before it is believed: the engine copies point reads after it validated
/// them, so a concurrent commit can tear one.
const TORN_READS: u32 = 16;

/// A value as stored, with the engine's token of this write of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Sealed value.
    pub value: Vec<u8>,
    /// Changes with every write of the key.
    pub token: u64,
}

/// Receives key, sealed value and token; answers whether to go on.
pub type Visitor<'v> = dyn FnMut(&[u8], &[u8], u64) -> MetaResult<bool> + 'v;

/// Reads bytes.
pub trait RawReads {
    /// The value of a key.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] while the store is being reopened; [`MetaError::Internal`] if the engine fails.
    fn get_raw(&self, tree: Tree, key: &[u8]) -> MetaResult<Option<Stored>>;

    /// Visits keys that start with `prefix` and are greater than `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// As [`RawReads::get_raw`], and what the visitor answers.
    fn scan_raw(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        visit: &mut Visitor<'_>,
    ) -> MetaResult<()>;
}

/// Reads records: every store and every view does.
pub trait ReadRecords: RawReads {
    /// A record and the commit that wrote it.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] for a damaged record; see [`RawReads::get_raw`].
    fn get<R: Record>(&self, key: &Key) -> MetaResult<Option<(R, Version)>> {
        check_family::<R>(key)?;
        let bytes = key.encode();
        let Some(stored) = read_whole(self, R::FAMILY.tree(), &bytes)? else { return Ok(None) };
        let (version, payload) = open_value(&bytes, &stored.value)?;
        payload.map(|payload| Ok((R::decode(payload)?, version))).transpose()
    }

    /// Visits at most `limit` records of a prefix after a key, in order, and answers how many there were. Fewer than
    /// `limit`: there are no more. A place where a record was removed counts and is not visited.
    ///
    /// # Errors
    /// As [`ReadRecords::get`].
    fn scan<R: Record>(
        &self,
        prefix: &KeyPrefix,
        after: Option<&Key>,
        limit: usize,
        mut visit: impl FnMut(Key, R, Version),
    ) -> MetaResult<usize> {
        check_prefix::<R>(prefix)?;
        let tree = R::FAMILY.tree();
        let start = prefix.start_after(after);
        let mut count = 0;
        self.scan_raw(tree, prefix.bytes(), start.as_deref(), limit, &mut |key, value, _| {
            let (version, payload) = open_value(key, value)?;
            if let Some(payload) = payload {
                visit(Key::decode(key)?, R::decode(payload)?, version);
            }
            count += 1;
            Ok(true)
        })?;
        Ok(count)
    }
}

impl<T: RawReads + ?Sized> ReadRecords for T {}

/// Reads a value, and again while it looks torn.
pub(crate) fn read_whole<S: RawReads + ?Sized>(store: &S, tree: Tree, key: &[u8]) -> MetaResult<Option<Stored>> {
    let mut tries = 0;
    loop {
        let Some(stored) = store.get_raw(tree, key)? else { return Ok(None) };
        match open_value(key, &stored.value) {
            Ok(_) => return Ok(Some(stored)),
            Err(error) if tries == TORN_READS => return Err(error),
            Err(_) => {
                tries += 1;
                std::thread::yield_now();
            }
        }
    }
}

pub(crate) fn check_family<R: Record>(key: &Key) -> MetaResult<()> {
    if key.family() == R::FAMILY {
        return Ok(());
    }
    Err(MetaError::Internal(format!("{key:?} was asked for as a record of {:?}; this is a bug, report it", R::FAMILY)))
}

pub(crate) fn check_prefix<R: Record>(prefix: &KeyPrefix) -> MetaResult<()> {
    if prefix.family() == R::FAMILY {
        return Ok(());
    }
    Err(MetaError::Internal(format!(
        "a scan of {:?} asks for records of {:?}; this is a bug, report it",
        prefix.family(),
        R::FAMILY
    )))
}

/// A position in the journal: how many batches, and a digest over all of them whose first 8 bytes are the version of
/// the last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Batches so far.
    pub sequence: u64,
    /// Chained digest.
    pub digest: [u8; 32],
}

impl Anchor {
    /// The last commit before this position.
    pub fn version(&self) -> Version {
        let mut version = [0; 8];
        version.copy_from_slice(&self.digest[..8]);
        Version(u64::from_be_bytes(version))
    }
}

/// One batch as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Position before the batch.
    pub previous: Anchor,
    /// Position after it.
    pub current: Anchor,
    /// What [`crate::commit::JournalBatch`] encodes.
    pub payload: Vec<u8>,
}

/// What a change relies on of the record it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing: the record was not read.
    Unread,
    /// There is none.
    Absent,
    /// It is this write of it.
    Token(u64),
}

/// What must hold for a batch to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The record is as it was read.
    Record {
        /// Tree.
        tree: Tree,
        /// Key.
        key: Vec<u8>,
        /// As read.
        base: Base,
    },
    /// Nothing has this prefix.
    PrefixEmpty {
        /// Tree.
        tree: Tree,
        /// Prefix.
        prefix: Vec<u8>,
    },
}

/// One write of a batch; a batch has at most one per key, at least one in all, and removes nothing that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Tree.
    pub tree: Tree,
    /// Key.
    pub key: Vec<u8>,
    /// What must be there before.
    pub base: Base,
    /// The sealed value, or `None` to delete.
    pub value: Option<Vec<u8>>,
}

/// What is applied as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Conditions beside those of the changes.
    pub guards: Vec<Guard>,
    /// Writes.
    pub changes: Vec<Change>,
    /// Journal entry.
    pub envelope: Envelope,
}

/// Why a batch was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitError {
    /// A guard failed: somebody else writes to this store. Nothing was applied.
    Guard,
    /// The engine refused. Nothing was applied.
    Refused(String),
    /// The engine failed half-way: whether the batch is applied shows after [`MetaStore::reopen`].
    Unknown(String),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitError::Guard => {
                f.write_str("a record changed under the committer: another process writes to this store")
            }
            CommitError::Refused(reason) => write!(f, "the store refused the batch: {reason}"),
            CommitError::Unknown(reason) => write!(f, "the store failed while it applied the batch: {reason}"),
        }
    }
}

/// How much of its limits a store uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that all records need to be at hand, in bytes.
    pub needed: u64,
    /// Memory that a checkpoint must write before it can be used for others, in bytes.
    pub dirty: u64,
    /// Memory that they may take, in bytes.
    pub budget: u64,
    /// Free bytes of the disk.
    pub disk_free: u64,
    /// Bytes of the write-ahead log.
    pub wal: u64,
}

/// An engine.
pub trait MetaStore: RawReads + fmt::Debug + Send + Sync + 'static {
    /// Runs reads that see one moment. `read` may run more than once; the last run counts.
    ///
    /// # Errors
    /// As [`RawReads::get_raw`], and what `read` answers.
    fn view_raw(&self, read: &mut dyn FnMut(&dyn RawReads) -> MetaResult<()>) -> MetaResult<()>;

    /// Applies a batch and returns when it is durable. One caller at a time.
    ///
    /// # Errors
    /// After any error the store must be reopened.
    fn commit(&self, batch: &Batch) -> Result<(), CommitError>;

    /// Shortens the log. No commit may run beside it. Drops the journal entries so far.
    ///
    /// # Errors
    /// After an error the store must be reopened.
    fn checkpoint(&self) -> MetaResult<()>;

    /// Closes and opens the store; reads are refused in between. Closing is a checkpoint, where that is possible.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`]: it stays closed, try again.
    fn reopen(&self) -> MetaResult<()>;

    /// The journal's position: after the last checkpoint, and now.
    ///
    /// # Errors
    /// As [`RawReads::get_raw`].
    fn journal(&self) -> MetaResult<(Anchor, Anchor)>;

    /// Journal entries after a position that is not before the last checkpoint: at least one if there is one, about
    /// 4 MiB at most.
    ///
    /// # Errors
    /// As [`RawReads::get_raw`].
    fn envelopes_after(&self, anchor: Anchor) -> MetaResult<Vec<Envelope>>;

    /// How much of its limits it uses.
    ///
    /// # Errors
    /// As [`RawReads::get_raw`].
    fn usage(&self) -> MetaResult<Usage>;
}

impl dyn MetaStore {
    /// Runs reads that see one moment and answers what they answer. `read` may run more than once.
    ///
    /// # Errors
    /// As [`RawReads::get_raw`], and what `read` answers.
    pub fn view<T>(&self, mut read: impl FnMut(&dyn RawReads) -> MetaResult<T>) -> MetaResult<T> {
        let mut answer = None;
        self.view_raw(&mut |reads| {
            answer = Some(read(reads)?);
            Ok(())
        })?;
        answer.ok_or_else(|| MetaError::Internal("a view did not run its reads; this is a bug, report it".into()))
    }
}
