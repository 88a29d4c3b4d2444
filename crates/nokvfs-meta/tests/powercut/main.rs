//! Power cuts below the store: what a disk has of files whose writes were not synced is any part of them. All that was
//! acknowledged must be there, and no half of a command.
//!
//! `NOKV_TEST_CUTS` sets how many cuts are tried, `NOKV_TEST_SEED` where their seeds begin.
#![cfg(feature = "holt")]

mod ace;
mod disk;
mod flips;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../fsck/mod.rs"]
mod fsck;
mod image;
#[allow(dead_code, reason = "the model's tests need more of it")]
#[path = "../model/reference.rs"]
mod reference;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use disk::Event;
use image::{Disk, Loss, Random};
use work::States;

/// Commands of a recording.
const COMMANDS: usize = 900;

/// One recording at a time: they belong to the process.
static ALONE: Mutex<()> = Mutex::new(());

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// A store from its making over some restarts, each of which closes it cleanly or not.
fn record(dir: &Path) -> Vec<Event> {
    disk::start(dir);
    for _ in 0..3 {
        let (store, committer) = work::open(&dir.join("meta")).expect("opened");
        work::run(&committer, COMMANDS / 3);
        drop((committer, store));
    }
    disk::stop()
}

/// Opens what a cut left and compares it with what commands leave. Answers how many there are.
fn check(dir: &Path, told: u64, states: &mut States) -> Result<u64, String> {
    let (store, _committer) = work::open(&dir.join("meta")).map_err(|error| format!("does not open: {error}"))?;
    let (count, state) = work::read(&*store).map_err(|error| format!("can't be read: {error}"))?;
    if count < told {
        return Err(format!("{count} commands are left of {told} that were acknowledged"));
    }
    if state != *states.after(count) {
        return Err(format!("it is not what {count} commands leave"));
    }
    Ok(count)
}

/// Goes on with what was recovered: it must last, too.
fn go_on(dir: &Path, count: u64, states: &mut States) -> Result<(), String> {
    let (store, committer) = work::open(&dir.join("meta")).map_err(|error| format!("does not open again: {error}"))?;
    work::run(&committer, 20);
    drop((committer, store));
    let found = check(dir, count + 20, states)?;
    if found == count + 20 { Ok(()) } else { Err(format!("{found} commands of {}", count + 20)) }
}

/// One cut of a recording, and sometimes another one while what is left is recovered.
fn try_cut(disk: &Disk<'_>, loss: Loss, seed: u64, root: &Path, states: &mut States) -> Result<(), String> {
    let mut random = Random(seed);
    let left = tempfile::tempdir().unwrap();
    disk.cut(&mut random, root, left.path());
    let again = random.below(4) == 0;
    if again {
        disk::start(left.path());
    }
    let checked = check(left.path(), disk.told, states);
    let recovery = if again { disk::stop() } else { Vec::new() };
    let count = checked?;
    if again {
        let mut second = Disk::new(loss);
        let end = random.below(recovery.len() as u64) as usize;
        // What was there when recovery began is durable.
        let begun = recovery.iter().position(|event| matches!(event, Event::SyncDir(dir) if dir == left.path()));
        recovery[..=end.max(begun.expect("the folder's own"))].iter().for_each(|event| second.apply(event));
        let twice = tempfile::tempdir().unwrap();
        second.cut(&mut random, left.path(), twice.path());
        check(twice.path(), disk.told, states).map_err(|error| format!("after a second cut {error}"))?;
    }
    if random.below(4) == 0 { go_on(left.path(), count, states) } else { Ok(()) }
}

fn cuts(loss: Loss, usual: u64) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (tries, first) = (setting("NOKV_TEST_CUTS", usual), setting("NOKV_TEST_SEED", 1));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let events = record(&root);
    let rare = rare(&events);
    let point = |seed: u64| match seed % 4 {
        // While the store is made.
        0 => Random(seed).below(60) as usize,
        1 | 2 => rare[Random(seed).below(rare.len() as u64) as usize],
        _ => Random(seed).below(events.len() as u64) as usize,
    };
    let mut points: Vec<(usize, u64)> = (first..first + tries).map(|seed| (point(seed), seed)).collect();
    points.sort_unstable();
    let (mut disk, mut at, mut states, mut wrong) = (Disk::new(loss), 0, States::default(), Vec::new());
    for (point, seed) in points {
        while at <= point {
            disk.apply(&events[at]);
            at += 1;
        }
        if let Err(error) = try_cut(&disk, loss, seed, &root, &mut states) {
            wrong.push(format!(
                "seed {seed}, {loss:?}, after call {point} of {} ({:?}): {error}",
                events.len(),
                brief(&events[point])
            ));
        }
    }
    println!("{tries} cuts of {} calls, {loss:?}: {} are wrong", events.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong[..wrong.len().min(20)].join("\n"));
}

/// Calls on other files than the one or two that most are on: those of checkpoints and starts.
fn rare(events: &[Event]) -> Vec<usize> {
    let mut counts = BTreeMap::new();
    let file = |event: &Event| match event {
        Event::Write(file, ..) | Event::Sync(file) | Event::Truncate(file, _) => *file,
        _ => 0,
    };
    events.iter().for_each(|event| *counts.entry(file(event)).or_insert(0) += 1);
    let is_rare =
        |at: &usize| matches!(events[*at], Event::Truncate(..)) || counts[&file(&events[*at])] < events.len() / 8;
    (0..events.len()).filter(is_rare).collect()
}

fn brief(event: &Event) -> String {
    match event {
        Event::Write(file, at, bytes) => format!("Write({file}, {at}, {} bytes)", bytes.len()),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_power_cut_on_an_ordered_disk_leaves_all_that_was_acknowledged() {
    cuts(Loss::Ordered, 150);
}

#[test]
fn a_power_cut_on_any_disk_leaves_all_that_was_acknowledged() {
    cuts(Loss::Any, 150);
}
