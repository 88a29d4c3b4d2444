//! History is there because a pin needs it, or is about to be removed.

use std::collections::BTreeSet;

use nokvfs_types::{MountId, Version, VolumeState};

use super::volumes::Layout;
use super::{Checker, PAGE, Problem};
use crate::layout::{Family, HistoryRecord, Key, KeyPrefix, PinRecord, VolumeRecord};
use crate::service::MetaResult;
use crate::store::{RawReads, ReadRecords};

impl Checker {
    pub(super) fn history(&self, layout: &Layout, family: &BTreeSet<MountId>) -> MetaResult<()> {
        for mount in family.iter().filter(|mount| layout.volumes.contains_key(mount)) {
            self.sink.phase(format!("history of volume number {mount}"));
            for prefix in Family::VERSIONED.map(|family| KeyPrefix::history_of(family, *mount)) {
                let mut after: Option<Key> = None;
                loop {
                    let look = || self.page(|reads| page(reads, *mount, &prefix, after.as_ref()));
                    let (wrong, last, count) = look()?;
                    self.sink.looked(count);
                    if !wrong.is_empty() {
                        self.confirm(|| Ok(look()?.0))?;
                    }
                    if count < PAGE {
                        break;
                    }
                    after = last;
                }
            }
        }
        Ok(())
    }
}

type Looked = (Vec<Problem>, Option<Key>, usize);

fn page(reads: &dyn RawReads, mount: MountId, prefix: &KeyPrefix, after: Option<&Key>) -> MetaResult<Looked> {
    let Some((volume, _)) = reads.get::<VolumeRecord>(&Key::Volume(mount))? else { return Ok((Vec::new(), None, 0)) };
    let mut pins: Vec<Version> = Vec::new();
    reads.scan::<PinRecord>(&KeyPrefix::pins(mount), None, usize::MAX, |key, _, _| {
        if let Key::Pin(_, version) = key {
            pins.push(version);
        }
    })?;
    let pruned = volume.prune > Version(0) || volume.state == VolumeState::Deleting;
    let (mut wrong, mut last) = (Vec::new(), None);
    let count = reads.scan::<HistoryRecord>(prefix, after, PAGE, |key, was, _| {
        if let Key::History(of, until) = &key {
            let first = pins.partition_point(|pin| *pin < was.version);
            let needed = pins.get(first).is_some_and(|pin| pin < until);
            let place = match Key::decode(of) {
                Ok(of) => format!("what {of:?} was until commit {until}"),
                Err(_) => format!("{key:?}"),
            };
            if was.version >= *until {
                let what = format!("was written by {}, which came later", was.version);
                wrong.push(Problem::error("history", volume.id, place, what));
            } else if !needed && !pruned {
                wrong.push(Problem::leak("history-unneeded", volume.id, place, "is kept and no snapshot needs it"));
            }
        }
        last = Some(key);
    })?;
    Ok((wrong, last, count))
}
