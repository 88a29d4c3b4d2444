//! Volumes, pins and sessions, and how they refer to each other: all in one view, for they are few.

use std::collections::{BTreeMap, BTreeSet};

use nokvfs_types::{MountId, SessionId, Severity, UploadId, Version, VolumeId, VolumeState};

use super::{Checker, Problem, groups};
use crate::layout::{
    AllocatorRecord, CountersRecord, Family, GarbageRecord, Key, KeyPrefix, PinRecord, SessionByMountRecord,
    SessionRecord, SlotRecord, VolumeNameRecord, VolumeRecord, VolumeUuidRecord,
};
use crate::service::MetaResult;
use crate::session::ENDED;
use crate::store::{RawReads, ReadRecords};

/// Records of garbage that are looked at, the oldest: what they name is looked at again before it is deleted.
const GARBAGE: usize = 10_000;

/// The volumes of a server at one moment.
#[derive(Default)]
pub(super) struct Layout {
    pub volumes: BTreeMap<MountId, VolumeRecord>,
    pub pins: BTreeMap<(MountId, Version), PinRecord>,
    allocators: BTreeMap<MountId, AllocatorRecord>,
}

impl Layout {
    pub(super) fn read(reads: &dyn RawReads) -> MetaResult<Layout> {
        let mut layout = Layout::default();
        reads.scan::<VolumeRecord>(&KeyPrefix::volumes(), None, usize::MAX, |key, volume, _| {
            if let Key::Volume(mount) = key {
                layout.volumes.insert(mount, volume);
            }
        })?;
        reads.scan::<PinRecord>(&KeyPrefix::all(Family::Pin), None, usize::MAX, |key, pin, _| {
            if let Key::Pin(mount, version) = key {
                layout.pins.insert((mount, version), pin);
            }
        })?;
        reads.scan::<AllocatorRecord>(&KeyPrefix::all(Family::Allocator), None, usize::MAX, |key, allocator, _| {
            if let Key::Allocator(mount) = key {
                layout.allocators.insert(mount, allocator);
            }
        })?;
        Ok(layout)
    }

    pub(super) fn id(&self, mount: MountId) -> Option<VolumeId> {
        self.volumes.get(&mount).map(|volume| volume.id)
    }

    pub(super) fn pins_of(&self, mount: MountId) -> impl Iterator<Item = ((MountId, Version), &PinRecord)> {
        self.pins.range((mount, Version(0))..=(mount, Version(u64::MAX))).map(|(place, pin)| (*place, pin))
    }

    /// Volumes that build on each other, or did.
    pub(super) fn families(&self) -> Vec<BTreeSet<MountId>> {
        groups(self.volumes.iter().map(|(mount, volume)| {
            let bases = volume.bases.iter().map(|base| base.mount).chain(volume.formers.iter().copied());
            (*mount, bases.filter(|base| self.volumes.contains_key(base)).collect())
        }))
    }

    /// Whether an upload that a record of a volume names was granted to whose it is.
    pub(super) fn is_granted(&self, mount: MountId, upload: UploadId) -> bool {
        let Some(volume) = self.volumes.get(&mount) else { return true };
        if upload >= volume.first_upload {
            return self.allocators.get(&mount).is_none_or(|allocator| upload.0 < allocator.next_upload);
        }
        let base = volume.bases.iter().find(|base| upload >= base.first_upload);
        base.is_some_and(|base| self.pins.get(&(base.mount, base.version)).is_none_or(|pin| upload.0 < pin.next_upload))
    }
}

impl Checker {
    /// Checks volumes, pins, sessions and garbage; answers the volumes.
    pub(super) fn volumes(&self) -> MetaResult<Layout> {
        self.sink.phase("volumes, snapshots and sessions".into());
        self.confirm(|| {
            self.page(|reads| {
                let layout = Layout::read(reads)?;
                let mut wrong = Vec::new();
                for (mount, volume) in &layout.volumes {
                    volume_problems(reads, &layout, *mount, volume, &mut wrong)?;
                }
                names(reads, &layout, &mut wrong)?;
                pins(&layout, &mut wrong);
                sessions(reads, &layout, &mut wrong)?;
                garbage(reads, &layout, &mut wrong)?;
                Ok(wrong)
            })
        })?;
        let layout = self.page(Layout::read)?;
        self.sink.looked(layout.volumes.len() + layout.pins.len());
        Ok(layout)
    }
}

fn volume_problems(
    reads: &dyn RawReads,
    layout: &Layout,
    mount: MountId,
    volume: &VolumeRecord,
    wrong: &mut Vec<Problem>,
) -> MetaResult<()> {
    if volume.state == VolumeState::Deleting {
        return Ok(());
    }
    let mut add =
        |what: String| wrong.push(Problem::error("volume", volume.id, format!("volume number {mount}"), what));
    if reads.get::<CountersRecord>(&Key::Counters(mount))?.is_none() {
        add("has no counters; restore the metadata from before".into());
    }
    if !layout.allocators.contains_key(&mount) {
        add("has no allocator; nothing can be created in it. Restore the metadata from before".into());
    }
    if volume.state == VolumeState::Active {
        let name = reads.get::<VolumeNameRecord>(&Key::VolumeName(volume.spec.name.clone()))?;
        if name.is_none_or(|(name, _)| name.mount != mount) {
            add(format!("is not found by its name {}", volume.spec.name));
        }
        let identity = reads.get::<VolumeUuidRecord>(&Key::VolumeUuid(volume.id))?;
        if identity.is_none_or(|(identity, _)| identity.mount != mount) {
            add(format!("is not found by its identity {}", volume.id));
        }
    }
    let newest = layout.pins_of(mount).last().map_or(Version(0), |((_, version), _)| version);
    if volume.pinned != newest {
        add(format!("says that its newest pin is {}, and that is {newest}", volume.pinned));
    }
    for (at, base) in volume.bases.iter().enumerate() {
        match layout.volumes.get(&base.mount) {
            Some(found) if found.bases == volume.bases[at + 1..] && found.id == base.volume => {}
            Some(_) => add(format!("builds on volume number {}, which builds on others than it says", base.mount)),
            None => add(format!("builds on volume number {}, which is not there", base.mount)),
        }
        if !layout.pins.contains_key(&(base.mount, base.version)) {
            add(format!("builds on volume number {} at {}, which is not pinned", base.mount, base.version));
        }
    }
    Ok(())
}

fn names(reads: &dyn RawReads, layout: &Layout, wrong: &mut Vec<Problem>) -> MetaResult<()> {
    let mut add = |key: &Key, mount: MountId| {
        if !layout.volumes.contains_key(&mount) {
            wrong.push(Problem {
                severity: Severity::Error,
                rule: "volume-name",
                volume: None,
                place: format!("{key:?}"),
                what: format!("is of volume number {mount}, which is not there"),
            });
        }
    };
    reads.scan::<VolumeNameRecord>(&KeyPrefix::volume_names(), None, usize::MAX, |key, found, _| {
        add(&key, found.mount)
    })?;
    let identities = KeyPrefix::all(Family::VolumeUuid);
    reads.scan::<VolumeUuidRecord>(&identities, None, usize::MAX, |key, found, _| add(&key, found.mount))?;
    Ok(())
}

fn pins(layout: &Layout, wrong: &mut Vec<Problem>) {
    let mut built: BTreeMap<(MountId, Version), u32> = BTreeMap::new();
    for base in layout.volumes.values().filter_map(|volume| volume.bases.first()) {
        *built.entry((base.mount, base.version)).or_default() += 1;
    }
    for ((mount, version), pin) in &layout.pins {
        let Some(volume) = layout.volumes.get(mount) else {
            wrong.push(Problem {
                severity: Severity::Warning,
                rule: "pin",
                volume: None,
                place: format!("the pin {version} of volume number {mount}"),
                what: "is of a volume that is not there".into(),
            });
            continue;
        };
        let clones = built.get(&(*mount, *version)).copied().unwrap_or(0);
        let place = format!("the pin {version} of volume {}", volume.spec.name);
        if pin.clones != clones && volume.state != VolumeState::Deleting {
            let what = format!("says that {} volumes build on it, and {clones} do", pin.clones);
            wrong.push(Problem::error("pin-clones", volume.id, place.clone(), what));
        }
        if pin.snapshot.is_none() && pin.clones == 0 && volume.state != VolumeState::Deleting {
            wrong.push(Problem::leak("pin", volume.id, place, "is neither a snapshot nor a base of a clone"));
        }
    }
}

fn sessions(reads: &dyn RawReads, layout: &Layout, wrong: &mut Vec<Problem>) -> MetaResult<()> {
    let mut live: BTreeMap<SessionId, MountId> = BTreeMap::new();
    let mut problem = |volume: Option<VolumeId>, session: SessionId, what: String| {
        let place = format!("session {session}");
        wrong.push(Problem { severity: Severity::Error, rule: "session", volume, place, what });
    };
    let mut found = Vec::new();
    reads.scan::<SessionRecord>(&KeyPrefix::sessions(), None, usize::MAX, |key, record, _| {
        if let Key::Session(session) = key {
            found.push((session, record));
        }
    })?;
    for (session, record) in found {
        let volume = layout.id(record.mount);
        let next = layout.allocators.get(&record.mount).map_or(u64::MAX, |allocator| allocator.next_upload);
        let mut at = 0;
        for (first, end) in &record.uploads {
            if first >= end || first.0 < at || end.0 > next {
                problem(volume, session, format!("may use uploads {first} to {end}, which were not granted so"));
            }
            at = end.0;
        }
        if record.generation == ENDED {
            continue;
        }
        live.insert(session, record.mount);
        if volume.is_none() {
            problem(None, session, format!("holds volume number {}, which is not there", record.mount));
        }
        if let Some(pin) = record.pin
            && !layout.pins.contains_key(&(record.mount, pin))
        {
            problem(volume, session, format!("reads the snapshot at {pin}, which is not pinned"));
        }
        if reads.get::<SessionByMountRecord>(&Key::SessionByMount(record.mount, session))?.is_none() {
            problem(volume, session, "is not among those of its volume".into());
        }
    }
    reads.scan::<SessionByMountRecord>(&KeyPrefix::all(Family::SessionByMount), None, usize::MAX, |key, _, _| {
        if let Key::SessionByMount(mount, session) = key
            && live.get(&session) != Some(&mount)
        {
            problem(layout.id(mount), session, format!("is among those of volume number {mount} and does not live"));
        }
    })?;
    // One slot of each session: there are up to a thousand.
    let (mut after, slots) = (None, KeyPrefix::all(Family::Slot));
    loop {
        let mut found = None;
        reads.scan::<SlotRecord>(&slots, after.as_ref(), 1, |key, _, _| {
            if let Key::Slot(session, _) = key {
                found = Some(session);
            }
        })?;
        let Some(session) = found else { return Ok(()) };
        if !live.contains_key(&session) {
            problem(None, session, "has answers kept and does not live".into());
        }
        after = Some(Key::Slot(session, u16::MAX));
    }
}

fn garbage(reads: &dyn RawReads, layout: &Layout, wrong: &mut Vec<Problem>) -> MetaResult<()> {
    reads.scan::<GarbageRecord>(&KeyPrefix::garbage(), None, GARBAGE, |key, record, _| {
        if let Some(volume) = layout.volumes.get(&record.mount)
            && volume.id != record.volume
        {
            let what = format!("is of volume number {}, which is {} now", record.mount, volume.id);
            wrong.push(Problem::error("garbage", record.volume, format!("{key:?}"), what));
        }
    })?;
    Ok(())
}
