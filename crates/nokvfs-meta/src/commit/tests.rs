use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use nokvfs_types::{Event, FileKind, InodeId, MetaError, MountId, Name, Timestamp, Version};

use super::segments::SegmentReader;
use super::*;
use crate::layout::{
    CountersRecord, DentryRecord, InodeRecord, Key, KeyPrefix, TopologyRecord, XattrRecord, dentry_hash,
};
use crate::service::MetaResult;
use crate::store::{HoltStore, MetaStore, ModelStore, ReadRecords, StoreOptions};

const MOUNT: MountId = MountId(1);
const LIMITS: CommitterOptions =
    CommitterOptions { journal: None, journal_limit: 1 << 20, wal_limit: 64 << 20, low_water: 0 };

fn options(dir: &Path) -> StoreOptions {
    StoreOptions { low_water: 0, ..StoreOptions::new(dir, 256 << 20) }
}

fn model() -> (Arc<dyn MetaStore>, Committer) {
    let store: Arc<dyn MetaStore> = Arc::new(ModelStore::default());
    let committer = Committer::start(Arc::clone(&store), LIMITS).unwrap();
    (store, committer)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn entry(name: &str) -> Key {
    let name = Name::try_from(name).unwrap();
    Key::Dentry(MOUNT, InodeId::ROOT, dentry_hash(&[7; 16], &name), name)
}

/// What every create does: reads and bumps a counter that all share, and makes an entry that must not exist.
fn create(txn: &mut Txn<'_>, name: &str) -> MetaResult<u64> {
    let key = entry(name);
    let mut counters = txn.get::<CountersRecord>(&Key::Counters(MOUNT))?.unwrap_or_default();
    counters.inodes += 1;
    txn.put(&Key::Counters(MOUNT), &counters)?;
    if txn.get::<DentryRecord>(&key)?.is_some() {
        return Err(MetaError::Exists);
    }
    txn.put(&key, &DentryRecord { inode: InodeId(counters.inodes), kind: FileKind::File })?;
    Ok(counters.inodes)
}

fn entries(txn: &mut Txn<'_>) -> MetaResult<usize> {
    txn.scan::<DentryRecord>(&KeyPrefix::entries(MOUNT, InodeId::ROOT), None, 1000, |_, _| {})
}

/// What a test and a plan that keeps the committer tell each other.
#[derive(Default)]
struct Gate {
    reached: AtomicBool,
    open: AtomicBool,
}

/// A plan that keeps the committer until the gate is open.
fn blocked_until(committer: &Committer, gate: &Arc<Gate>) -> impl Future<Output = MetaResult<()>> {
    let gate = Arc::clone(gate);
    committer.submit(move |_| {
        gate.reached.store(true, Ordering::Release);
        while !gate.open.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        Ok(())
    })
}

/// Blocks the committer inside a plan until all other commands are queued, so that they form one batch.
async fn as_one_batch<T>(committer: &Committer, commands: impl Future<Output = T>) -> T {
    let gate = Arc::new(Gate::default());
    let mut blocker = Box::pin(blocked_until(committer, &gate));
    // It takes all that waits: the first commands must not come along with the blocker, and the others after it.
    assert!(futures::poll!(&mut blocker).is_pending());
    while !gate.reached.load(Ordering::Acquire) {
        tokio::task::yield_now().await;
    }
    let open = async {
        tokio::task::yield_now().await;
        gate.open.store(true, Ordering::Release);
    };
    let (_, answers, ()) = futures::join!(blocker, commands, open);
    answers
}

#[test]
fn dependent_commands_share_a_batch_and_failures_stand_alone() {
    let (store, committer) = model();
    runtime().block_on(async {
        let names = ["a", "b", "a", "c"];
        let commands = names.map(|name| committer.submit(move |txn| create(txn, name)));
        let answers = as_one_batch(&committer, futures::future::join_all(commands)).await;
        assert_eq!(answers, [Ok(1), Ok(2), Err(MetaError::Exists), Ok(3)]);
    });
    let health = committer.health();
    assert_eq!(health.batches, 1, "{health:?}");
    assert_eq!(
        store.get::<CountersRecord>(&Key::Counters(MOUNT)).unwrap().unwrap(),
        (CountersRecord { inodes: 3, ..CountersRecord::default() }, Version(3))
    );
    assert_eq!(store.get::<DentryRecord>(&entry("b")).unwrap().unwrap().1, Version(2));
    assert_eq!(committer.durable_version(), Version(3));
}

#[test]
fn a_plan_sees_its_batch_its_own_writes_and_no_failed_ones() {
    let (_, committer) = model();
    runtime().block_on(async {
        committer.submit(|txn| create(txn, "stored").and(create(txn, "gone"))).await.unwrap();
        let unlink = committer.submit(|txn| txn.delete(&entry("gone")));
        let batched = committer.submit(|txn| create(txn, "batched"));
        let failed = committer.submit(|txn| {
            create(txn, "failed")?;
            Err::<(), _>(MetaError::NotPermitted)
        });
        let seen = committer.submit(|txn| {
            create(txn, "own")?;
            let root = KeyPrefix::entries(MOUNT, InodeId::ROOT);
            let mut names = Vec::new();
            txn.scan::<DentryRecord>(&root, None, 10, |key, _| names.push(key))?;
            let mut expected = ["stored", "batched", "own"].map(entry);
            expected.sort();
            assert_eq!(names, expected);
            // One page after another says the same.
            let mut paged = Vec::new();
            while txn.scan::<DentryRecord>(&root, paged.last().cloned(), 1, |key, _| paged.push(key))? == 1 {}
            assert_eq!(paged, expected);
            assert!(!txn.is_empty(&root)?);
            for key in expected {
                txn.delete(&key)?;
            }
            assert!(txn.is_empty(&root)?);
            txn.is_empty(&KeyPrefix::entries(MOUNT, InodeId(99)))
        });
        let (unlink, batched, failed, seen) =
            as_one_batch(&committer, async { futures::join!(unlink, batched, failed, seen) }).await;
        assert_eq!((unlink, failed, seen), (Ok(()), Err(MetaError::NotPermitted), Ok(true)));
        batched.unwrap();
        assert_eq!(committer.submit(entries).await, Ok(0));
    });
}

#[test]
fn a_panic_or_an_oversized_command_is_answered_alone() {
    let (_, committer) = model();
    runtime().block_on(async {
        let panics = committer.submit(|_| -> MetaResult<()> { panic!("on purpose") });
        let oversized = committer.submit(|txn| {
            for number in 0..220u32 {
                let key = Key::Xattr(MOUNT, InodeId(2), number.to_be_bytes().to_vec().into());
                txn.put(&key, &XattrRecord { value: Bytes::from(vec![0; 32 << 10]) })?;
            }
            Ok(())
        });
        let too_long = committer.submit(|txn| {
            txn.put(
                &Key::Xattr(MOUNT, InodeId(2), Bytes::from_static(b"x")),
                &XattrRecord { value: vec![0; 65_536].into() },
            )
        });
        let fine = committer.submit(|txn| create(txn, "fine"));
        let answers = as_one_batch(&committer, async { futures::join!(panics, oversized, too_long, fine) }).await;
        assert!(matches!(answers.0, Err(MetaError::Internal(_))));
        assert!(matches!(answers.1, Err(MetaError::Internal(_))));
        assert!(matches!(answers.2, Err(MetaError::Internal(_))));
        assert_eq!(answers.3, Ok(1));
    });
}

#[test]
fn a_second_writer_is_noticed_and_the_store_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn MetaStore> = Arc::new(HoltStore::open(options(dir.path())).unwrap());
    let committer = Committer::start(Arc::clone(&store), LIMITS).unwrap();
    let other = Committer::start(Arc::clone(&store), LIMITS).unwrap();
    runtime().block_on(async {
        committer.submit(|txn| create(txn, "one")).await.unwrap();
        // The other committer's journal position is stale now: its batch is refused, it reopens and goes on.
        assert!(matches!(other.submit(|txn| create(txn, "two")).await, Err(MetaError::Unavailable(_))));
        // Until the store is open again everything is refused.
        let again = loop {
            match other.submit(|txn| create(txn, "two")).await {
                Err(MetaError::Unavailable(_)) => tokio::task::yield_now().await,
                answer => break answer,
            }
        };
        assert_eq!(again, Ok(2));
        assert_eq!(other.health().state, StoreState::Open);
    });
}

#[test]
fn everything_acknowledged_is_there_after_a_reopen_and_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let small = StoreOptions { wal_limit: 64 << 10, ..options(dir.path()) };
    let runtime = runtime();
    for round in 0..2u64 {
        let (store, committer) = Committer::open(small.clone()).unwrap();
        runtime.block_on(async {
            for step in 0..8 {
                let names = (0..64).map(|file| format!("{round}-{step}-{file}"));
                let commands = names.map(|name| {
                    committer.submit(move |txn| {
                        txn.emit(MOUNT, Event::AttrChanged(InodeId::ROOT));
                        create(txn, &name)
                    })
                });
                for answer in futures::future::join_all(commands).await {
                    answer.unwrap();
                }
            }
        });
        let health = committer.health();
        assert!(health.batches < health.commands / 4, "{health:?}");
        assert!(health.checkpoints > 0, "{health:?}");
        let (counters, version) = store.get::<CountersRecord>(&Key::Counters(MOUNT)).unwrap().unwrap();
        assert_eq!(counters.inodes, (round + 1) * 512);
        // A start leaves out the versions that clients may have heard of and that were lost.
        assert_eq!(version, Version((round + 1) * 512 + round * 2 * super::queue::QUEUE as u64));
        let mut count = 0;
        store
            .scan::<DentryRecord>(&KeyPrefix::entries(MOUNT, InodeId::ROOT), None, 10_000, |_, _, _| count += 1)
            .unwrap();
        assert_eq!(count, (round + 1) * 512);
    }
    let (mut after, mut events) = (Version(0), 0);
    for (_, path) in SegmentReader::list(&dir.path().join("journal")).unwrap() {
        let mut reader = SegmentReader::open(&path).unwrap();
        while let Some(envelope) = reader.next_envelope().unwrap() {
            let batch = JournalBatch::decode(&envelope.payload).unwrap();
            assert_eq!(batch.after, after);
            after = batch.last;
            events += batch.events.len();
        }
    }
    assert_eq!((after, events), (Version(1024 + 2 * super::queue::QUEUE as u64), 1024));
}

#[test]
fn a_damaged_segment_is_refused_and_a_torn_one_completed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let (store, committer) = model();
    runtime().block_on(async {
        for name in ["a", "b", "c"] {
            committer.submit(move |txn| create(txn, name)).await.unwrap();
        }
    });
    Segments::open(&journal, 1 << 20).unwrap().catch_up(&*store).unwrap();
    let (_, path) = SegmentReader::list(&journal).unwrap().remove(0);
    let whole = std::fs::read(&path).unwrap();
    let read = || {
        let mut reader = SegmentReader::open(&path)?;
        while reader.next_envelope()?.is_some() {}
        Ok::<_, MetaError>(())
    };
    read().unwrap();
    for at in [9, 60, 200, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert!(matches!(read(), Err(MetaError::Corrupt(_))), "byte {at}");
    }
    std::fs::write(&path, &whole[..whole.len() - 7]).unwrap();
    Segments::open(&journal, 1 << 20).unwrap().catch_up(&*store).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}

#[test]
fn below_the_low_water_mark_reads_go_on_and_writes_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let full = StoreOptions { low_water: u64::MAX, ..options(dir.path()) };
    let (_, committer) = Committer::open(full).unwrap();
    runtime().block_on(async {
        assert!(matches!(committer.submit(|txn| create(txn, "a")).await, Err(MetaError::NoSpace(_))));
        assert_eq!(committer.submit(entries).await, Ok(0));
    });
    assert!(matches!(committer.health().state, StoreState::ReadOnly(_)));
}

#[test]
fn a_stopped_committer_refuses_and_wakes_those_who_wait() {
    let (_, committer) = model();
    runtime().block_on(async {
        committer.submit(|txn| txn.put(&Key::Topology(MOUNT), &TopologyRecord { moves: 1 })).await.unwrap();
        committer.wait_durable(Version(1)).await.unwrap();
        committer.shutdown();
        assert!(matches!(committer.wait_durable(Version(2)).await, Err(MetaError::Unavailable(_))));
        assert!(matches!(committer.submit(entries).await, Err(MetaError::Unavailable(_))));
        assert_eq!(committer.health().state, StoreState::Stopped);
    });
}

#[test]
fn point_reads_are_never_torn_and_views_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (store, committer) = Committer::open(options(dir.path())).unwrap();
    let inode = |number: u64| InodeRecord {
        kind: FileKind::Directory,
        mode: 0o755,
        uid: number as u32,
        gid: 0,
        nlink: 2,
        size: number,
        mapped: number,
        rdev: 0,
        atime: Timestamp(number as i64),
        mtime: Timestamp(number as i64),
        ctime: Timestamp(number as i64),
        btime: Timestamp(number as i64),
        parent: InodeId::ROOT,
        xattr_bytes: 0,
        body: crate::layout::Body::None,
    };
    let keys = [Key::Inode(MOUNT, InodeId(2)), Key::Inode(MOUNT, InodeId(3))];
    let done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Acquire) {
                for _ in 0..64 {
                    store.get::<InodeRecord>(&keys[0]).unwrap();
                }
                let both = keys.each_ref();
                let [first, second] = store
                    .view(|reads| {
                        let [first, second] = both.map(|key| reads.get::<InodeRecord>(key));
                        Ok([first?, second?])
                    })
                    .unwrap();
                assert_eq!(first.map(|(record, _)| record.size), second.map(|(record, _)| record.size));
                reads += 1;
            }
            reads
        });
        runtime().block_on(async {
            for number in 0..1500 {
                let keys = keys.clone();
                committer
                    .submit(move |txn| keys.iter().try_for_each(|key| txn.put(key, &inode(number))))
                    .await
                    .unwrap();
            }
        });
        done.store(true, Ordering::Release);
        assert!(reader.join().unwrap() > 0);
    });
}

/// A create that may be answered early at once.
fn early(version: &Version) -> Option<Version> {
    assert!(version.0 > 0);
    Some(Version(0))
}

fn create_telling(txn: &mut Txn<'_>, name: &'static str) -> MetaResult<Version> {
    create(txn, name)?;
    let name = Name::try_from(name).unwrap();
    txn.emit(MOUNT, Event::EntrySet { parent: InodeId::ROOT, name, inode: InodeId(77) });
    Ok(txn.version())
}

/// It is durable a moment before nobody is told to wait any more.
async fn forgotten(committer: &Committer) {
    while committer.unsettled_inode(MOUNT, InodeId(77)).is_some() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn an_early_answer_comes_before_the_batch_is_written_and_readers_are_told_to_wait() {
    let (store, committer) = model();
    runtime().block_on(async {
        let name = Name::try_from("a").unwrap();
        let unsettled = || committer.unsettled_name(MOUNT, InodeId::ROOT, &name);
        assert_eq!(unsettled(), None);
        // The plan behind it in the same batch keeps the committer from writing that.
        let gate = Arc::new(Gate::default());
        let blocker = blocked_until(&committer, &gate);
        let answered = async {
            let version = committer.submit_early(|txn| create_telling(txn, "a"), early, true).await.unwrap();
            assert_eq!(unsettled(), Some(version));
            assert_eq!(committer.unsettled_names(MOUNT, InodeId::ROOT), Some(version));
            assert_eq!(committer.unsettled_inode(MOUNT, InodeId(77)), Some(version));
            assert!(committer.durable_version() < version);
            assert!(store.get::<DentryRecord>(&entry("a")).unwrap().is_none(), "the store does not show it yet");
            gate.open.store(true, Ordering::Release);
            committer.wait_durable(version).await.unwrap();
            assert!(store.get::<DentryRecord>(&entry("a")).unwrap().is_some());
            forgotten(&committer).await;
            assert_eq!(unsettled(), None);
        };
        let both = async { futures::join!(answered, blocker) };
        let ((), blocked) = as_one_batch(&committer, both).await;
        blocked.unwrap();
    });
}

#[test]
fn a_plan_sees_what_was_answered_early_and_is_durable_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn MetaStore> = Arc::new(HoltStore::open(options(dir.path())).unwrap());
    let committer = Committer::start(Arc::clone(&store), LIMITS).unwrap();
    runtime().block_on(async {
        for name in ["a", "b", "c", "d", "e"] {
            committer.submit_early(move |txn| create_telling(txn, name), early, true).await.unwrap();
            assert!(matches!(committer.submit(move |txn| create(txn, name)).await, Err(MetaError::Exists)));
            assert!(store.get::<DentryRecord>(&entry(name)).unwrap().is_some(), "the refusal rests on it");
        }
        assert_eq!(committer.submit(entries).await, Ok(5));
    });
}

#[test]
fn what_was_answered_early_is_lost_with_its_batch_and_that_shows() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn MetaStore> = Arc::new(HoltStore::open(options(dir.path())).unwrap());
    let committer = Committer::start(Arc::clone(&store), LIMITS).unwrap();
    let other = Committer::start(Arc::clone(&store), LIMITS).unwrap();
    runtime().block_on(async {
        committer.submit(|txn| create(txn, "one")).await.unwrap();
        // The other's journal position is stale: its batch will be refused.
        let version = other.submit_early(|txn| create_telling(txn, "two"), early, true).await.unwrap();
        other.wait_durable(version).await.unwrap();
        assert!(store.get::<DentryRecord>(&entry("two")).unwrap().is_none());
        forgotten(&other).await;
        assert_eq!(other.submit(|txn| create(txn, "two")).await, Ok(2));
    });
}
