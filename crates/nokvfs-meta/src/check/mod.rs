//! Checking: what must hold between the records of a store, and between them and the objects.
//!
//! Owns: the rules, and the order in which they are looked at. Must not: write.
//! Invariants: a finding was seen twice, at two moments, each time in one view; or it is of something that had not been
//! written since before the check began to look at it.
//!
//! The server goes on meanwhile. Everything is read page by page, each page in a view of its own, so that no view is held
//! for long. What one page shows is exact. Sums over many pages are compared only where the record that holds the sum
//! was not written meanwhile: every command that changes a part writes the sum in the same commit. Where it was, and the
//! volume is small, all is read again in one view; else the place counts as unsettled.
//!
//! Memory, one after the other: 16 bytes for each inode of a window of [`WINDOW`], 24 for each of as many packs, 56 for
//! each of half as many slices where objects are compared. Vectors double, so that is at most 64 MiB; what has more takes
//! several passes over entries, bodies or objects. Besides: 64 MiB for the slices of one page, where a file is in a
//! million pieces; some 300 bytes for each volume and each pin, and the keys of at most [`DAMAGED`] damaged records.

mod decode;
mod history;
mod links;
mod objects;
mod references;
mod rules;
mod run;
mod tree;
mod volumes;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use nokvfs_types::{CheckSpec, Finding, MetaError, MountId, Severity, VolumeId, VolumeState};

pub(crate) use run::Checks;
use run::Sink;
use volumes::Layout;

use crate::engine::Core;
use crate::layout::{Family, KeyPrefix, Tree, VolumeRecord};
use crate::lineage::Lineage;
use crate::service::MetaResult;
use crate::store::{RawReads, ReadRecords, Stored, Visitor};

/// Inodes or packs that are held at a time, and twice the slices.
const WINDOW: usize = 1 << 20;
/// Records of one page.
const PAGE: usize = 1024;
/// Volumes with at most so many inodes are read whole in one view where they change all the time: a second of reading.
const SMALL: u64 = 100_000;
/// Damaged records that are told apart. With more nothing else is looked at.
const DAMAGED: usize = 10_000;
/// Time between the two looks at what is wrong.
const AGAIN: Duration = Duration::from_millis(20);

/// Something that looks wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    severity: Severity,
    rule: &'static str,
    volume: Option<VolumeId>,
    /// What it is about: the same at both looks.
    place: String,
    what: String,
}

impl Problem {
    fn error(rule: &'static str, volume: VolumeId, place: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem { severity: Severity::Error, rule, volume: Some(volume), place: place.into(), what: what.into() }
    }

    fn leak(rule: &'static str, volume: VolumeId, place: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(rule, volume, place, what) }
    }

    fn is_about(&self, other: &Problem) -> bool {
        self.rule == other.rule && self.volume == other.volume && self.place == other.place
    }
}

/// One check.
struct Checker {
    core: Arc<Core>,
    spec: CheckSpec,
    sink: Sink,
    /// Keys of damaged records: they are left out everywhere else.
    damaged: HashSet<Vec<u8>>,
}

impl Checker {
    fn new(core: Arc<Core>, spec: CheckSpec, sink: Sink) -> Self {
        Checker { core, spec, sink, damaged: HashSet::new() }
    }

    /// Looks at everything that the spec asks for. Blocks.
    fn run(mut self) -> MetaResult<()> {
        self.decode_all()?;
        let layout = self.volumes()?;
        let families = layout.families();
        for family in families {
            if let Some(asked) = self.spec.volume
                && !family.iter().any(|mount| layout.id(*mount) == Some(asked))
            {
                continue;
            }
            self.family(&layout, &family)?;
        }
        Ok(())
    }

    /// Checks volumes that build on each other.
    fn family(&self, layout: &Layout, family: &BTreeSet<MountId>) -> MetaResult<()> {
        let sound = self.is_sound(family);
        if !sound {
            self.sink.report(&Problem {
                severity: Severity::Warning,
                rule: "not-compared",
                volume: family.first().and_then(|mount| layout.id(*mount)),
                place: format!("volumes number {family:?}"),
                what: "have damaged records; sums, links and references were not compared".into(),
            })?;
        }
        for mount in family {
            let Some(volume) = layout.volumes.get(mount) else { continue };
            let wanted = self.spec.volume.is_none_or(|asked| volume.id == asked);
            if !wanted || volume.state == VolumeState::Deleting {
                continue;
            }
            if volume.state == VolumeState::Active {
                self.tree(&Lineage::new(*mount, volume, None), volume, None, sound)?;
            }
            if self.spec.snapshots {
                for ((_, version), pin) in layout.pins_of(*mount) {
                    let lineage = Lineage::new(*mount, volume, Some(version));
                    self.tree(&lineage, volume, Some(pin), sound)?;
                }
            }
        }
        self.history(layout, family)?;
        self.references(layout, family, sound)?;
        if self.spec.objects && sound {
            self.objects(layout, family)?;
        }
        Ok(())
    }

    /// Whether no record that sums of these volumes depend on is damaged.
    fn is_sound(&self, family: &BTreeSet<MountId>) -> bool {
        self.damaged.iter().all(|key| {
            let key = if key.first() == Some(&(Family::History as u8)) { &key[1..] } else { key.as_slice() };
            let of = Family::ALL.into_iter().find(|family| key.first() == Some(&(*family as u8)));
            let mount = key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            match (of, mount) {
                (Some(of), Some(mount)) if Family::OF_MOUNT.contains(&of) => !family.contains(&MountId(mount)),
                (of, _) => of.is_some_and(|of| !Family::OF_MOUNT.contains(&of)),
            }
        })
    }

    /// Reads one page at one moment. `read` may run more than once.
    fn page<T>(&self, mut read: impl FnMut(&dyn RawReads) -> MetaResult<T>) -> MetaResult<T> {
        self.sink.check_asked()?;
        self.core.store.view(|reads| match self.damaged.is_empty() {
            true => read(reads),
            false => read(&Sound { reads, damaged: &self.damaged }),
        })
    }

    /// Reports what is wrong with a volume, unless its deletion began and left it so: its objects go before its records.
    fn report_lasting(&self, problem: &Problem) -> MetaResult<()> {
        let lasts = self.page(|reads| {
            let mut lasts = false;
            reads.scan::<VolumeRecord>(&KeyPrefix::volumes(), None, usize::MAX, |_, volume, _| {
                lasts |= Some(volume.id) == problem.volume && volume.state != VolumeState::Deleting;
            })?;
            Ok(lasts)
        })?;
        if lasts { self.sink.report(problem) } else { Ok(()) }
    }

    /// What is wrong at two looks.
    fn twice(&self, mut look: impl FnMut() -> MetaResult<Vec<Problem>>) -> MetaResult<Vec<Problem>> {
        let first = look()?;
        if first.is_empty() {
            return Ok(first);
        }
        std::thread::sleep(AGAIN);
        let mut second = look()?;
        second.retain(|problem| first.iter().any(|before| before.is_about(problem)));
        Ok(second)
    }

    /// Reports what is wrong at two looks.
    fn confirm(&self, look: impl FnMut() -> MetaResult<Vec<Problem>>) -> MetaResult<()> {
        self.twice(look)?.iter().try_for_each(|problem| self.sink.report(problem))
    }
}

/// Reads that leave damaged records out.
struct Sound<'r> {
    reads: &'r dyn RawReads,
    damaged: &'r HashSet<Vec<u8>>,
}

impl RawReads for Sound<'_> {
    fn get_raw(&self, tree: Tree, key: &[u8]) -> MetaResult<Option<Stored>> {
        if self.damaged.contains(key) { Ok(None) } else { self.reads.get_raw(tree, key) }
    }

    fn scan_raw(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        visit: &mut Visitor<'_>,
    ) -> MetaResult<()> {
        let (mut visited, most) = (0, limit.saturating_add(self.damaged.len()));
        self.reads.scan_raw(tree, prefix, after, most, &mut |key, value, token| {
            if self.damaged.contains(key) {
                return Ok(true);
            }
            if visited == limit {
                return Ok(false);
            }
            visited += 1;
            visit(key, value, token)
        })
    }
}

/// By volume number, in how many groups volumes build on each other.
fn groups(links: impl Iterator<Item = (MountId, Vec<MountId>)>) -> Vec<BTreeSet<MountId>> {
    let mut group_of: BTreeMap<MountId, usize> = BTreeMap::new();
    let mut groups: Vec<BTreeSet<MountId>> = Vec::new();
    for (mount, bases) in links {
        let mut all: BTreeSet<MountId> = bases.into_iter().chain([mount]).collect();
        let joined: BTreeSet<usize> = all.iter().filter_map(|mount| group_of.get(mount).copied()).collect();
        for group in joined {
            all.extend(std::mem::take(&mut groups[group]));
        }
        group_of.extend(all.iter().map(|mount| (*mount, groups.len())));
        groups.push(all);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

impl From<&Problem> for Finding {
    fn from(problem: &Problem) -> Self {
        Finding {
            severity: problem.severity,
            rule: problem.rule.to_owned(),
            volume: problem.volume,
            text: format!("{} {}", problem.place, problem.what),
        }
    }
}

/// The check ends early.
fn ended(why: &str) -> MetaError {
    MetaError::Unavailable(format!("the check was ended: {why}; begin it again"))
}
