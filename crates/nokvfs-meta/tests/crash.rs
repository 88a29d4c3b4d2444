//! Kills the process that holds a store, again and again: what it acknowledged must be there.
#![cfg(feature = "holt")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use nokvfs_meta::commit::{Committer, JournalBatch, SegmentReader, Txn};
use nokvfs_meta::layout::{CountersRecord, DentryRecord, Key, KeyPrefix};
use nokvfs_meta::service::MetaResult;
use nokvfs_meta::store::{MetaStore, ReadRecords, StoreOptions};
use nokvfs_types::{FileKind, InodeId, MountId, Name, Version};

const MOUNT: MountId = MountId(1);
const DIR: &str = "NOKV_TEST_CRASH_DIR";

fn open(dir: &Path) -> (Arc<dyn MetaStore>, Committer) {
    // A short log, so that kills also meet checkpoints.
    let options = StoreOptions { low_water: 0, wal_limit: 256 << 10, ..StoreOptions::new(dir, 128 << 20) };
    Committer::open(options).unwrap()
}

fn create(txn: &mut Txn<'_>) -> MetaResult<u64> {
    let mut counters = txn.get::<CountersRecord>(&Key::Counters(MOUNT))?.unwrap_or_default();
    counters.inodes += 1;
    txn.put(&Key::Counters(MOUNT), &counters)?;
    let name = Name::try_from(format!("file-{}", counters.inodes).as_str())?;
    let record = DentryRecord { inode: InodeId(counters.inodes), kind: FileKind::File };
    txn.put(&Key::Dentry(MOUNT, InodeId::ROOT, 4 + counters.inodes, name), &record)?;
    Ok(counters.inodes)
}

/// The process that is killed: it does nothing unless the test below starts it.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let (_, committer) = open(Path::new(&dir));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut running: FuturesUnordered<_> = (0..32).map(|_| committer.submit(create)).collect();
        let mut out = std::io::stdout().lock();
        while let Some(answer) = running.next().await {
            writeln!(out, "ack {}", answer.unwrap()).unwrap();
            out.flush().unwrap();
            running.push(committer.submit(create));
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let wanted = 300 + round * 157;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = 0;
        for line in lines.by_ref() {
            if let Some(number) = line.strip_prefix("ack ").and_then(|number| number.parse::<u64>().ok()) {
                acknowledged = acknowledged.max(number);
                seen += 1;
            }
            if seen == wanted {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= wanted, "round {round}: the child ended after {seen} of {wanted}");
        acknowledged = check(dir.path(), acknowledged);
    }
    check_journal(&dir.path().join("journal"), acknowledged);
}

/// All that was acknowledged is there, and no half of a command. Answers how many commands are there.
fn check(dir: &Path, acknowledged: u64) -> u64 {
    let (store, _committer) = open(dir);
    let (counters, _) = store.get::<CountersRecord>(&Key::Counters(MOUNT)).unwrap().unwrap();
    assert!(counters.inodes >= acknowledged, "{} of {acknowledged} are left", counters.inodes);
    let (mut next, mut last) = (1, Version(0));
    let entries = KeyPrefix::entries(MOUNT, InodeId::ROOT);
    store
        .scan::<DentryRecord>(&entries, None, usize::MAX, |_, entry, version| {
            assert_eq!(entry.inode, InodeId(next));
            assert!(version > last, "{version} after {last}");
            (next, last) = (next + 1, version);
        })
        .unwrap();
    assert_eq!(next, counters.inodes + 1);
    counters.inodes
}

/// The segments tell every commit, in order, once.
fn check_journal(dir: &Path, last: u64) {
    let mut after = Version(0);
    for (_, path) in SegmentReader::list(dir).unwrap() {
        let mut reader = SegmentReader::open(&path).unwrap();
        while let Some(envelope) = reader.next_envelope().unwrap() {
            let batch = JournalBatch::decode(&envelope.payload).unwrap();
            assert_eq!(batch.after, after);
            after = batch.last;
        }
    }
    // Each start leaves some versions out.
    assert!(after >= Version(last), "{after} of {last}");
}
