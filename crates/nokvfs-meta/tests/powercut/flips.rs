//! Single bytes of a store's files that change: what is read is right, or there is an error.
//!
//! The engine does not checksum its frames and their map (`blobs.dat`, `manifest.*`): a byte that changes there can hide
//! records or show older ones, which is counted here and not demanded. What is shown was written as it is shown always.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nokvfs_meta::commit::SegmentReader;
use nokvfs_types::MetaError;

use crate::image::Random;
use crate::work::{self, State};
use crate::{ALONE, setting};

/// Files without checksums of the engine's.
const UNCHECKED: [&str; 2] = ["blobs.dat", "manifest"];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// A store with records in segments and in the engine's frames, and where it was killed in its log.
fn make(dir: &Path, killed: bool) -> (u64, State) {
    let home = tempfile::tempdir().unwrap();
    let (store, committer) = work::open(&home.path().join("meta")).unwrap();
    work::run(&committer, 600);
    let held = work::read(&*store).unwrap();
    if killed {
        copy(home.path(), dir);
    }
    drop((committer, store));
    if !killed {
        copy(home.path(), dir);
    }
    held
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &to) } else { crate::image::write_sparse(&to, &fs::read(&path).unwrap()) }
    }
}

/// What a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Right,
    Refused,
    Incomplete,
}

fn look(dir: &Path, held: &(u64, State)) -> Seen {
    // The engine asserts what it finds in its frames: a panic is a refusal, too.
    let read = || work::open(&dir.join("meta")).and_then(|(store, _committer)| work::read(&*store));
    let Ok(read) = catch_unwind(AssertUnwindSafe(read)) else { return Seen::Refused };
    match read {
        Err(_) => Seen::Refused,
        Ok(found) if found == *held => Seen::Right,
        Ok((count, state)) => {
            assert!(count <= held.0);
            state.iter().for_each(|(key, number)| assert!(work::writes(*number, key), "{key:?} of {number}"));
            Seen::Incomplete
        }
    }
}

fn flips(killed: bool) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let held = make(dir.path(), killed);
    let mut paths = Vec::new();
    files(dir.path(), &mut paths);
    paths.retain(|path| fs::metadata(path).unwrap().len() > 0);
    paths.sort();
    let (tries, first) = (setting("NOKV_TEST_FLIPS", 120), setting("NOKV_TEST_SEED", 1));
    let mut seen: BTreeMap<(String, Seen), u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for seed in first..first + tries {
        let mut random = Random(seed);
        let path = &paths[random.below(paths.len() as u64) as usize];
        let bytes = fs::read(path).unwrap();
        // Bytes that say something.
        let says: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let at = says[random.below(says.len() as u64) as usize];
        let changed = tempfile::tempdir().unwrap();
        copy(dir.path(), changed.path());
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << random.below(8);
        fs::write(changed.path().join(path.strip_prefix(dir.path()).unwrap()), &flipped).unwrap();
        let found = look(changed.path(), &held);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if found == Seen::Incomplete && !UNCHECKED.iter().any(|unchecked| name.starts_with(unchecked)) {
            wrong.push(format!("seed {seed}: byte {at} of {name}: {found:?}"));
        }
        *seen.entry((name, found)).or_default() += 1;
    }
    println!("{tries} bytes changed: {seen:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_changed_byte_of_a_killed_store_is_noticed_or_does_no_harm() {
    flips(true);
}

#[test]
fn a_changed_byte_of_a_closed_store_is_noticed_or_does_no_harm() {
    flips(false);
}

#[test]
fn a_log_that_lost_its_end_is_completed_from_the_journal() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let held = make(dir.path(), true);
    let meta = dir.path().join("meta");
    let log = fs::File::options().write(true).open(meta.join("store/journal.wal")).unwrap();
    let len = log.metadata().unwrap().len();
    // Many whole records, and one in its middle.
    log.set_len(len / 2).unwrap();
    let lost = tempfile::tempdir().unwrap();
    copy(dir.path(), lost.path());
    assert_eq!(look(dir.path(), &held), Seen::Right);
    // And it lasts.
    assert_eq!(look(dir.path(), &held), Seen::Right);
    // Without the entries between there is no way back: never as if nothing had been.
    let (_, segment) = SegmentReader::list(&lost.path().join("meta/journal")).unwrap().pop().unwrap();
    let entries = fs::read(&segment).unwrap();
    let (store, committer) = work::open(&lost.path().join("other")).unwrap();
    work::run(&committer, 5);
    drop((committer, store));
    let (_, other) = SegmentReader::list(&lost.path().join("other/journal")).unwrap().pop().unwrap();
    fs::write(other, entries).unwrap();
    let refused = work::open(&lost.path().join("other")).expect_err("another history");
    assert!(matches!(refused, MetaError::Corrupt(_)), "{refused}");
}
