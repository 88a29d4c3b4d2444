//! Pins of volumes: snapshots, clones, rollback.
//!
//! A pin is one record, made by a command in the queue of all others: what came before it is in it, what comes after is
//! not. A clone is a new volume whose first base is a pin. A rollback makes the volume's name and identity those of a
//! clone of the pin, and hides what it was.

use nokvfs_types::{
    CloneSpec, MAX_BASES, MAX_SNAPSHOTS, MetaError, MountId, SnapshotInfo, Token, UploadId, Version, VolumeId,
    VolumeInfo, VolumeSpec, VolumeState, VolumeUsage,
};
use sha2::{Digest, Sha256};

use super::volumes::{Made, check_name, insert};
use super::{Core, Engine};
use crate::commit::Txn;
use crate::layout::{
    AllocatorRecord, BaseRecord, CountersRecord, Key, KeyPrefix, PinRecord, SnapshotRecord, VolumeNameRecord,
    VolumeRecord, VolumeUuidRecord,
};
use crate::plan::allocator;
use crate::service::{MetaResult, SnapshotService};
use crate::store::ReadRecords;

/// Most pins of a volume: its snapshots, and clones that were made of it as it was.
const MAX_PINS: usize = 4096;

#[async_trait::async_trait]
impl SnapshotService for Engine {
    async fn create_snapshot(&self, id: VolumeId, name: &str) -> MetaResult<SnapshotInfo> {
        check_name(name)?;
        let name = name.to_owned();
        let core = self.core();
        core.committer
            .submit(move |txn| {
                let known = snapshots(txn, id)?;
                if let Some((_, version, pin)) = known.iter().find(|(.., pin)| is_named(pin, &name)) {
                    return info(id, *version, pin);
                }
                let (mount, mut volume) = live(txn, id)?;
                if known.len() >= MAX_SNAPSHOTS {
                    return Err(MetaError::Busy(format!(
                        "the volume has {MAX_SNAPSHOTS} snapshots, which is the most; delete some"
                    )));
                }
                let made = SnapshotRecord { name: name.clone(), created: txn.now() };
                let pin = pin(txn, mount, &mut volume, Some(made), 0)?;
                txn.put(&Key::Volume(mount), &volume)?;
                info(id, txn.version(), &pin)
            })
            .await
    }

    async fn list_snapshots(&self, id: VolumeId) -> MetaResult<Vec<SnapshotInfo>> {
        let core = self.core();
        let (infos, newest) = core.store.view(|reads| {
            let Some((reference, mut newest)) = reads.get::<VolumeUuidRecord>(&Key::VolumeUuid(id))? else {
                return Err(MetaError::NotFound);
            };
            let mut infos = Vec::new();
            let (record, seen) =
                reads.get::<VolumeRecord>(&Key::Volume(reference.mount))?.ok_or(MetaError::NotFound)?;
            newest = newest.max(seen);
            for mount in numbers(reference.mount, &record) {
                reads.scan::<PinRecord>(&KeyPrefix::pins(mount), None, MAX_PINS, |key, pin, seen| {
                    newest = newest.max(seen);
                    if let Key::Pin(_, version) = key
                        && pin.snapshot.is_some()
                    {
                        infos.extend(info(id, version, &pin));
                    }
                })?;
            }
            infos.sort_by_key(|info| info.version);
            Ok((infos, newest))
        })?;
        core.shown(newest).await?;
        Ok(infos)
    }

    async fn delete_snapshot(&self, id: VolumeId, name: &str) -> MetaResult<()> {
        let name = name.to_owned();
        let core = self.core();
        core.committer
            .submit(move |txn| {
                let Some((mount, version, _)) = find_snapshot(txn, id, &name)? else { return Ok(()) };
                let sessions = crate::session::sessions_at(txn, mount, Some(version))?;
                if sessions > 0 {
                    return Err(MetaError::Busy(format!("snapshot {name} is mounted; unmount it everywhere")));
                }
                unpin(txn, mount, version, |pin| pin.snapshot = None)
            })
            .await?;
        core.wake.history.notify_one();
        core.wake.volumes.notify_one();
        Ok(())
    }

    async fn clone_volume(&self, spec: CloneSpec) -> MetaResult<(VolumeInfo, Token)> {
        check_name(&spec.name)?;
        let core = self.core();
        if let Some((found, _)) = core.store.get::<VolumeNameRecord>(&Key::VolumeName(spec.name.clone()))? {
            return core.same_clone(found.mount, &spec).await;
        }
        let id = VolumeId::random();
        core.claim(id).await?;
        let token = core.token(id, 0)?;
        let token_hash = Sha256::digest(token.0).into();
        let wanted = spec.clone();
        let made = core.committer.submit(move |txn| clone(txn, id, &wanted, token_hash)).await;
        match made {
            Ok(None) => Ok((core.volume_info(id).await?, token)),
            Ok(Some(mount)) => {
                core.disown(id).await;
                core.same_clone(mount, &spec).await
            }
            // It may have been made: repeated, the call finds it.
            Err(error @ (MetaError::Unavailable(_) | MetaError::Internal(_))) => Err(error),
            Err(error) => {
                core.disown(id).await;
                Err(error)
            }
        }
    }

    async fn rollback_volume(&self, id: VolumeId, name: &str) -> MetaResult<VolumeInfo> {
        let name = name.to_owned();
        let core = self.core();
        core.committer.submit(move |txn| rollback(txn, id, &name)).await?;
        core.wake.history.notify_one();
        core.wake.volumes.notify_one();
        core.volume_info(id).await
    }
}

impl Core {
    /// Answers a clone with the volume that has the name.
    async fn same_clone(&self, mount: MountId, spec: &CloneSpec) -> MetaResult<(VolumeInfo, Token)> {
        let found = self.store.get::<VolumeRecord>(&Key::Volume(mount))?;
        let (record, version) = found
            .filter(|(record, _)| record.state == VolumeState::Active)
            .ok_or_else(|| MetaError::Busy(format!("volume {} is being deleted; try again", spec.name)))?;
        self.shown(version).await?;
        let base = record.bases.first().filter(|base| base.volume == spec.source).ok_or(MetaError::Exists)?;
        if let Some(name) = &spec.snapshot {
            let (pin, _) =
                self.store.get::<PinRecord>(&Key::Pin(base.mount, base.version))?.ok_or(MetaError::Exists)?;
            if pin.snapshot.is_none_or(|snapshot| snapshot.name != *name) {
                return Err(MetaError::Exists);
            }
        }
        let token = self.token(record.id, record.token_epoch)?;
        Ok((self.volume_info(record.id).await?, token))
    }
}

/// A volume that can be changed.
fn live(txn: &mut Txn<'_>, id: VolumeId) -> MetaResult<(MountId, VolumeRecord)> {
    let (mount, record) = volume(txn, id)?;
    match record.state {
        VolumeState::Active => Ok((mount, record)),
        VolumeState::Hidden | VolumeState::Deleting => Err(MetaError::NotFound),
    }
}

fn volume(txn: &mut Txn<'_>, id: VolumeId) -> MetaResult<(MountId, VolumeRecord)> {
    let reference: VolumeUuidRecord = txn.get(&Key::VolumeUuid(id))?.ok_or(MetaError::NotFound)?;
    Ok((reference.mount, txn.get(&Key::Volume(reference.mount))?.ok_or(MetaError::NotFound)?))
}

/// The numbers under which a volume's snapshots are: its own, and those it had before rollbacks.
fn numbers(mount: MountId, record: &VolumeRecord) -> impl Iterator<Item = MountId> {
    std::iter::once(mount).chain(record.formers.clone())
}

fn pins(txn: &mut Txn<'_>, mount: MountId) -> MetaResult<Vec<(Version, PinRecord)>> {
    let mut pins = Vec::new();
    txn.scan::<PinRecord>(&KeyPrefix::pins(mount), None, usize::MAX, |key, pin| {
        if let Key::Pin(_, version) = key {
            pins.push((version, pin));
        }
    })?;
    Ok(pins)
}

/// The moments of a volume that are kept, oldest first.
pub(crate) fn pinned(txn: &mut Txn<'_>, mount: MountId) -> MetaResult<Vec<Version>> {
    Ok(pins(txn, mount)?.into_iter().map(|(version, _)| version).collect())
}

/// A snapshot of a volume: where it is, which moment, and its pin.
pub(crate) fn find_snapshot(
    txn: &mut Txn<'_>,
    id: VolumeId,
    name: &str,
) -> MetaResult<Option<(MountId, Version, PinRecord)>> {
    Ok(snapshots(txn, id)?.into_iter().find(|(.., pin)| is_named(pin, name)))
}

fn is_named(pin: &PinRecord, name: &str) -> bool {
    pin.snapshot.as_ref().is_some_and(|snapshot| snapshot.name == name)
}

/// All snapshots of a volume, its own first.
fn snapshots(txn: &mut Txn<'_>, id: VolumeId) -> MetaResult<Vec<(MountId, Version, PinRecord)>> {
    let (mount, record) = volume(txn, id)?;
    let mut snapshots = Vec::new();
    for mount in numbers(mount, &record) {
        let pins = pins(txn, mount)?.into_iter().filter(|(_, pin)| pin.snapshot.is_some());
        snapshots.extend(pins.map(|(version, pin)| (mount, version, pin)));
    }
    Ok(snapshots)
}

fn info(volume: VolumeId, version: Version, pin: &PinRecord) -> MetaResult<SnapshotInfo> {
    let snapshot = pin.snapshot.clone().ok_or_else(|| MetaError::Internal("a pin is no snapshot; report it".into()))?;
    let usage = VolumeUsage { bytes: pin.bytes, inodes: pin.inodes };
    Ok(SnapshotInfo { volume, name: snapshot.name, version, created: snapshot.created, usage, clones: pin.clones })
}

/// Keeps the moment of this command. The caller puts the volume's record.
fn pin(
    txn: &mut Txn<'_>,
    mount: MountId,
    volume: &mut VolumeRecord,
    snapshot: Option<SnapshotRecord>,
    clones: u32,
) -> MetaResult<PinRecord> {
    txn.check_room()?;
    if pins(txn, mount)?.len() >= MAX_PINS {
        return Err(MetaError::Busy(format!(
            "{MAX_PINS} moments of the volume are kept, which is the most; make clones from one snapshot"
        )));
    }
    let counters: CountersRecord = txn.get(&Key::Counters(mount))?.ok_or(MetaError::NotFound)?;
    let AllocatorRecord { next_inode, next_upload } = allocator(txn, mount)?;
    let pin = PinRecord {
        snapshot,
        clones,
        bytes: counters.bytes.saturating_sub(counters.orphan_bytes),
        inodes: counters.inodes.saturating_sub(counters.orphan_inodes),
        next_inode,
        next_upload,
    };
    volume.pinned = txn.version();
    txn.put(&Key::Pin(mount, volume.pinned), &pin)?;
    Ok(pin)
}

/// Changes a pin. One that is neither a snapshot nor a base goes, and with it what only it kept.
pub(crate) fn unpin(
    txn: &mut Txn<'_>,
    mount: MountId,
    version: Version,
    change: impl FnOnce(&mut PinRecord),
) -> MetaResult<()> {
    let key = Key::Pin(mount, version);
    let missing = || MetaError::Corrupt(format!("volume number {mount} has no pin at {version}"));
    let mut pin: PinRecord = txn.get(&key)?.ok_or_else(missing)?;
    let mut volume: VolumeRecord = txn.get(&Key::Volume(mount))?.ok_or(MetaError::NotFound)?;
    let top = txn.get::<VolumeUuidRecord>(&Key::VolumeUuid(volume.id))?;
    // What a deleted volume was last is found by its identity, and finds what it was before.
    let is_top = top.as_ref().is_some_and(|top| top.mount == mount);
    change(&mut pin);
    if pin.snapshot.is_some() || pin.clones > 0 {
        txn.put(&key, &pin)?;
    } else {
        txn.delete(&key)?;
        volume.pinned = pins(txn, mount)?.last().map_or(Version(0), |(version, _)| *version);
        volume.prune = txn.version();
        if volume.state == VolumeState::Hidden && volume.pinned == Version(0) && !is_top {
            volume.state = VolumeState::Deleting;
        }
        txn.put(&Key::Volume(mount), &volume)?;
    }
    // The volume that was hidden for this may be what nothing needs now.
    let Some(top) = top else { return Ok(()) };
    let Some(mut record) = txn.get::<VolumeRecord>(&Key::Volume(top.mount))? else { return Ok(()) };
    if record.state == VolumeState::Hidden && !is_needed(txn, top.mount, &record)? {
        record.state = VolumeState::Deleting;
        txn.put(&Key::Volume(top.mount), &record)?;
    }
    Ok(())
}

/// Whether a snapshot of a volume is there, or another volume builds on it.
pub(crate) fn is_needed(txn: &mut Txn<'_>, mount: MountId, record: &VolumeRecord) -> MetaResult<bool> {
    // What it was before rollbacks builds on each other, and it on that.
    let (mut links, mut kept) = (Vec::new(), Vec::new());
    for number in numbers(mount, record).collect::<Vec<_>>() {
        let Some(volume) = txn.get::<VolumeRecord>(&Key::Volume(number))? else { continue };
        links.extend(volume.bases.first().map(|base| (base.mount, base.version)));
        kept.extend(pins(txn, number)?.into_iter().map(|(version, pin)| ((number, version), pin)));
    }
    Ok(kept.iter().any(|(place, pin)| {
        let own = links.iter().filter(|link| *link == place).count();
        pin.snapshot.is_some() || pin.clones as usize > own
    }))
}

/// Makes a clone; answers the volume that has the name already, if there is one.
fn clone(txn: &mut Txn<'_>, id: VolumeId, spec: &CloneSpec, token_hash: [u8; 32]) -> MetaResult<Option<MountId>> {
    if let Some(found) = txn.get::<VolumeNameRecord>(&Key::VolumeName(spec.name.clone()))? {
        return Ok(Some(found.mount));
    }
    let (mount, version, pin) = match &spec.snapshot {
        Some(name) => {
            let (mount, version, mut pin) = find_snapshot(txn, spec.source, name)?.ok_or(MetaError::NotFound)?;
            pin.clones += 1;
            txn.put(&Key::Pin(mount, version), &pin)?;
            (mount, version, pin)
        }
        None => {
            let (mount, mut source) = live(txn, spec.source)?;
            let pin = pin(txn, mount, &mut source, None, 1)?;
            txn.put(&Key::Volume(mount), &source)?;
            (mount, txn.version(), pin)
        }
    };
    let source: VolumeRecord = txn.get(&Key::Volume(mount))?.ok_or(MetaError::NotFound)?;
    let wanted = VolumeSpec {
        name: spec.name.clone(),
        quota_bytes: spec.quota_bytes,
        quota_inodes: spec.quota_inodes,
        ..source.spec.clone()
    };
    let record = VolumeRecord {
        id,
        spec: wanted,
        state: VolumeState::Active,
        token_hash,
        token_epoch: 0,
        pinned: Version(0),
        prune: Version(0),
        first_upload: UploadId(pin.next_upload),
        bases: bases(mount, version, &source)?,
        formers: Vec::new(),
    };
    let allocators = AllocatorRecord { next_inode: pin.next_inode, next_upload: pin.next_upload };
    let counters = CountersRecord { bytes: pin.bytes, inodes: pin.inodes, ..CountersRecord::default() };
    insert(txn, Made { record, allocators, counters })?;
    Ok(None)
}

/// What a volume builds on that is made from a pin.
fn bases(mount: MountId, version: Version, source: &VolumeRecord) -> MetaResult<Vec<BaseRecord>> {
    let nearest = BaseRecord { mount, volume: source.id, version, first_upload: source.first_upload };
    let bases: Vec<_> = std::iter::once(nearest).chain(source.bases.iter().copied()).collect();
    if bases.len() > MAX_BASES {
        return Err(MetaError::Busy(format!(
            "the volume is a clone of a clone, {MAX_BASES} deep, which is the most; copy its files into a new volume"
        )));
    }
    Ok(bases)
}

/// Makes the volume what a snapshot of it is. Its number changes, its name, identity and token stay.
fn rollback(txn: &mut Txn<'_>, id: VolumeId, name: &str) -> MetaResult<()> {
    let (old, mut was) = live(txn, id)?;
    if crate::session::sessions_at(txn, old, None)? > 0 {
        return Err(MetaError::Busy(
            "the volume is mounted; unmount it everywhere, or wait until lost mounts have expired".into(),
        ));
    }
    let (mount, version, mut pin) = find_snapshot(txn, id, name)?.ok_or(MetaError::NotFound)?;
    pin.clones += 1;
    txn.put(&Key::Pin(mount, version), &pin)?;
    // Numbers that were given out since the snapshot are not given out again.
    let allocators = allocator(txn, old)?;
    let source: VolumeRecord =
        if mount == old { was.clone() } else { txn.get(&Key::Volume(mount))?.ok_or(MetaError::NotFound)? };
    let mut formers = Vec::with_capacity(was.formers.len() + 1);
    for former in was.formers.iter().copied() {
        if txn.get::<VolumeRecord>(&Key::Volume(former))?.is_some() {
            formers.push(former);
        }
    }
    formers.push(old);
    let record = VolumeRecord {
        pinned: Version(0),
        prune: Version(0),
        first_upload: UploadId(allocators.next_upload),
        bases: bases(mount, version, &source)?,
        formers,
        ..was.clone()
    };
    was.state = VolumeState::Hidden;
    was.prune = txn.version();
    let needed = was.pinned > Version(0) || mount == old;
    if !needed {
        was.state = VolumeState::Deleting;
    }
    txn.put(&Key::Volume(old), &was)?;
    let counters = CountersRecord { bytes: pin.bytes, inodes: pin.inodes, ..CountersRecord::default() };
    insert(txn, Made { record, allocators, counters })?;
    Ok(())
}
