//! A disk without room under the store, and one that can't be written. Needs root.
#![cfg(feature = "holt")]

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_meta::commit::{Committer, StoreState, Txn};
use nokvfs_meta::layout::{CountersRecord, DentryRecord, Family, Key, KeyPrefix};
use nokvfs_meta::service::MetaResult;
use nokvfs_meta::store::{MetaStore, ReadRecords, StoreOptions};
use nokvfs_types::{FileKind, InodeId, MetaError, MountId, Name};

const MOUNT: MountId = MountId(1);
/// Nothing takes nearly so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A small file system of its own.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new(mib: u64) -> Disk {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "none", dir.path().to_str().unwrap()]);
        Disk { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.path()).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all but so many bytes.
    fn fill(&self, left: u64) {
        let size = fs::metadata(self.ballast()).map_or(0, |meta| meta.len()) + self.free() - left;
        let bytes = vec![1; size as usize];
        match fs::write(self.ballast(), bytes) {
            // The store took some of it meanwhile.
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            written => written.unwrap(),
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), self.path().to_str().unwrap()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", self.path().to_str().unwrap()]);
    }
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}; this test needs root");
}

fn options(disk: &Disk) -> StoreOptions {
    StoreOptions { low_water: 0, wal_limit: 1 << 20, ..StoreOptions::new(disk.path().join("meta"), 32 << 20) }
}

fn open(disk: &Disk) -> MetaResult<(Arc<dyn MetaStore>, Committer)> {
    Committer::open(options(disk))
}

/// What one command adds.
const EACH: u64 = 40;

/// Adds some kilobytes of entries.
fn add(txn: &mut Txn<'_>) -> MetaResult<u64> {
    let counters = Key::Counters(MOUNT);
    let number = txn.get::<CountersRecord>(&counters)?.unwrap_or_default().inodes + 1;
    txn.put(&counters, &CountersRecord { inodes: number, ..CountersRecord::default() })?;
    for at in number * EACH..(number + 1) * EACH {
        let name = Name::try_from(format!("{at:0100}").as_str())?;
        let record = DentryRecord { inode: InodeId(at), kind: FileKind::File };
        txn.put(&Key::Dentry(MOUNT, InodeId::ROOT, 4 + at, name), &record)?;
    }
    Ok(number)
}

/// All records up to the last are there; at least those that were acknowledged.
fn check(store: &dyn MetaStore, acknowledged: u64) -> u64 {
    let count = store.get::<CountersRecord>(&Key::Counters(MOUNT)).unwrap().unwrap().0.inodes;
    assert!(count >= acknowledged, "{count} records are left of {acknowledged}");
    let found = store.scan::<DentryRecord>(&KeyPrefix::all(Family::Dentry), None, usize::MAX, |_, _, _| ()).unwrap();
    assert_eq!(found as u64, count * EACH);
    count
}

/// Adds until that is refused; answers the last number and the error.
async fn add_until_refused(committer: &Committer) -> (u64, MetaError) {
    let mut last = 0;
    loop {
        match tokio::time::timeout(PATIENCE, committer.submit(add)).await.expect("an answer") {
            Ok(number) => last = number,
            Err(error) => return (last, error),
        }
    }
}

async fn add_again(committer: &Committer) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        match tokio::time::timeout(PATIENCE, committer.submit(add)).await.expect("an answer") {
            Ok(number) => return number,
            Err(error) => assert!(Instant::now() < end, "it does not recover: {error}; {:?}", committer.health()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let disk = Disk::new(64);
    let (store, committer) = open(&disk).unwrap();
    for _ in 0..100 {
        committer.submit(add).await.unwrap();
    }
    for left in [600 << 10, 2 << 20, 0, 5 << 20] {
        disk.fill(left);
        let (last, error) = add_until_refused(&committer).await;
        assert!(matches!(error, MetaError::Unavailable(_) | MetaError::NoSpace(_)), "{error}");
        println!("{left} bytes left: {last} records, then {error}");
        disk.make_room();
        let last = add_again(&committer).await;
        assert_eq!(check(&*store, last), last);
        assert_eq!(committer.health().state, StoreState::Open);
    }
    let last = add_again(&committer).await;
    drop((store, committer));
    let (store, _committer) = open(&disk).unwrap();
    check(&*store, last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_works_or_says_why() {
    let disk = Disk::new(64);
    for left in [0, 300 << 10, 3 << 20] {
        let (store, committer) = open(&disk).unwrap();
        let mut acknowledged = 0;
        for _ in 0..50 {
            acknowledged = committer.submit(add).await.unwrap();
        }
        disk.fill(left);
        let (last, error) = add_until_refused(&committer).await;
        acknowledged = acknowledged.max(last);
        println!("{left} bytes left: {error}");
        drop((store, committer));
        match open(&disk) {
            Ok((store, _committer)) => drop(check(&*store, acknowledged)),
            Err(error) => {
                println!("{left} bytes left, at a start: {error}");
                assert!(matches!(error, MetaError::Unavailable(_)), "{error}");
            }
        }
        disk.make_room();
        let (store, committer) = open(&disk).expect("there is room");
        check(&*store, acknowledged);
        add_again(&committer).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_read_only_refuses_writes_and_recovers() {
    let disk = Disk::new(64);
    let (store, committer) = open(&disk).unwrap();
    let mut last = 0;
    for _ in 0..50 {
        last = committer.submit(add).await.unwrap();
    }
    drop((store, committer));
    disk.remount("ro");
    let refused = open(&disk).expect_err("read-only");
    assert!(matches!(&refused, MetaError::Unavailable(text) if text.contains("check")), "{refused}");
    disk.remount("rw");
    let (store, committer) = open(&disk).unwrap();
    assert_eq!(check(&*store, last), last);
    add_again(&committer).await;
}
