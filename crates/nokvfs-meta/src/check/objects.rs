//! Objects: each that records name is there, each that is there is named, or about to go.

use std::collections::{BTreeMap, BTreeSet};

use nokvfs_object::{ObjectError, ObjectInfo};
use nokvfs_types::{BLOCK_SIZE, InodeId, MetaError, MountId, SliceId, UploadId, VolumeId, VolumeState, volume_prefix};

use super::references::names;
use super::volumes::Layout;
use super::{Checker, Problem, WINDOW};
use crate::engine::object_error;
use crate::layout::{GarbageRecord, Key, KeyPrefix, SessionRecord};
use crate::service::MetaResult;
use crate::store::{RawReads, ReadRecords};

/// Objects of one page of a listing.
const LISTED: u32 = 1000;

/// A slice that records name: 56 bytes.
struct Wanted {
    at: (VolumeId, SliceId),
    len: u64,
    /// Objects of it that were listed.
    listed: u32,
}

/// A slice as it is looked for in a listing of its volume.
struct Place {
    mount: MountId,
    slice: SliceId,
    block: u32,
}

impl Checker {
    /// Compares the objects of volumes that build on each other with what records name.
    pub(super) fn objects(&self, layout: &Layout, family: &BTreeSet<MountId>) -> MetaResult<()> {
        let volumes: BTreeMap<VolumeId, Vec<MountId>> =
            family.iter().fold(BTreeMap::new(), |mut volumes: BTreeMap<_, Vec<_>>, mount| {
                // The objects of one that is deleted as a whole go first.
                let kept = layout.volumes.get(mount).filter(|volume| volume.state != VolumeState::Deleting);
                if let Some(volume) = kept {
                    volumes.entry(volume.id).or_default().push(*mount);
                }
                volumes
            });
        for volume in volumes.keys() {
            if let Err(MetaError::Unauthorized(reason)) = self.sink.wait(self.core.check_marker(*volume)) {
                self.sink.report(&Problem::error(
                    "owner",
                    *volume,
                    "the objects",
                    format!("are another server's: {reason}"),
                ))?;
            }
        }
        let (mut from, mut first) = (Some(InodeId(0)), true);
        while let Some(start) = from {
            self.sink.phase(format!("objects that volumes number {family:?} name"));
            let (mut wanted, next) = self.wanted(layout, family, start)?;
            from = next;
            for (volume, mounts) in &volumes {
                self.sink.phase(format!("objects of volume {volume}"));
                self.listed(layout, *volume, mounts, &mut wanted, first)?;
            }
            for wanted in wanted.iter().filter(|wanted| volumes.contains_key(&wanted.at.0)) {
                if wanted.listed < SliceId::blocks(wanted.len) {
                    self.missing(layout, &volumes[&wanted.at.0], wanted)?;
                }
            }
            first = false;
        }
        Ok(())
    }

    /// What records of inodes from one on name, sorted, and the inode to go on with.
    fn wanted(
        &self,
        layout: &Layout,
        family: &BTreeSet<MountId>,
        start: InodeId,
    ) -> MetaResult<(Vec<Wanted>, Option<InodeId>)> {
        let (mut wanted, mut from) = (Vec::new(), Some(start));
        while let Some(at) = from
            && wanted.len() < WINDOW / 2
        {
            let (named, next) = self.page(|reads| names(reads, layout, family, at))?;
            from = next;
            let slices = named.slices.into_iter().map(|((mount, slice), (_, len))| (mount, slice, len));
            let packs = named.packs.into_iter().map(|((mount, upload), len)| (mount, SliceId::pack(upload), len));
            for (mount, slice, len) in slices.chain(packs) {
                if let Some(volume) = layout.id(mount) {
                    wanted.push(Wanted { at: (volume, slice), len, listed: 0 });
                }
            }
            if named.overflow {
                self.sink.unsettled(1);
            }
            if wanted.len() >= WINDOW / 2 {
                settle(&mut wanted);
            }
        }
        settle(&mut wanted);
        Ok((wanted, from))
    }

    /// Lists a volume's objects; counts those of wanted slices, and looks at the others the first time.
    fn listed(
        &self,
        layout: &Layout,
        volume: VolumeId,
        mounts: &[MountId],
        wanted: &mut [Wanted],
        first: bool,
    ) -> MetaResult<()> {
        let (prefix, mut after): (_, Option<String>) = (volume_prefix(volume), None);
        loop {
            self.sink.check_asked()?;
            let page = self.sink.wait(self.core.objects.list(&prefix, after.as_deref(), LISTED));
            let page = page.map_err(|error| object_error(&error))?;
            self.sink.looked(page.objects.len());
            let mut others = Vec::new();
            for object in &page.objects {
                let Some((slice, block)) = parse(&prefix, &object.key) else {
                    if first {
                        let what = "is none of ours; move it out of this prefix";
                        let problem = Problem::leak("object-strange", volume, format!("object {}", object.key), what);
                        self.sink.report(&problem)?;
                    }
                    continue;
                };
                match wanted.binary_search_by(|wanted| wanted.at.cmp(&(volume, slice))) {
                    Ok(at) if block < SliceId::blocks(wanted[at].len) => {
                        wanted[at].listed += 1;
                        self.length(layout, mounts, &wanted[at], block, object)?;
                    }
                    _ => others.push((object.clone(), slice, block)),
                }
            }
            if first {
                self.others(layout, volume, mounts, others)?;
            }
            let last = page.objects.last().map(|object| object.key.clone());
            if !page.more || last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }

    /// An object is at least as long as its part of the slice.
    fn length(
        &self,
        layout: &Layout,
        mounts: &[MountId],
        wanted: &Wanted,
        block: u32,
        object: &ObjectInfo,
    ) -> MetaResult<()> {
        let least = BLOCK_SIZE.min(wanted.len - u64::from(block) * BLOCK_SIZE);
        if object.len >= least || !self.is_still_named(layout, mounts, wanted.at.1, block)? {
            return Ok(());
        }
        let what = format!("has {} bytes and must have {least}: the data of {} is lost", object.len, wanted.at.1);
        self.report_lasting(&Problem::error("object-short", wanted.at.0, format!("object {}", object.key), what))
    }

    fn is_still_named(&self, layout: &Layout, mounts: &[MountId], slice: SliceId, block: u32) -> MetaResult<bool> {
        let mount = owner(layout, mounts, slice.upload);
        Ok(self.core.named_blocks(mount, &slice)?.0 > block)
    }

    /// Some of a slice's objects were not listed.
    fn missing(&self, layout: &Layout, mounts: &[MountId], wanted: &Wanted) -> MetaResult<()> {
        let (volume, slice) = wanted.at;
        for block in 0..SliceId::blocks(wanted.len) {
            self.sink.check_asked()?;
            if !self.is_still_named(layout, mounts, slice, block)? {
                return Ok(());
            }
            let key = slice.object_key(volume, block);
            match self.sink.wait(self.core.objects.head(&key)) {
                Ok(_) => continue,
                Err(ObjectError::NotFound(_)) => {}
                Err(error) => return Err(object_error(&error)),
            }
            if self.is_still_named(layout, mounts, slice, block)? {
                let what = format!("is missing: the data of {slice} in it is lost");
                self.report_lasting(&Problem::error("object-missing", volume, format!("object {key}"), what))?;
            }
        }
        Ok(())
    }

    /// Objects that were not named when records were read.
    fn others(
        &self,
        layout: &Layout,
        volume: VolumeId,
        mounts: &[MountId],
        others: Vec<(ObjectInfo, SliceId, u32)>,
    ) -> MetaResult<()> {
        if others.is_empty() {
            return Ok(());
        }
        let look = || {
            let mut unnamed = Vec::new();
            for (object, slice, block) in &others {
                let mount = owner(layout, mounts, slice.upload);
                if self.core.named_blocks(mount, slice)?.0 <= *block {
                    unnamed.push((object, Place { mount, slice: *slice, block: *block }));
                }
            }
            let places = unnamed.iter().map(|(_, place)| place);
            let known = self.page(|reads| accounted(reads, volume, mounts, places.clone()))?;
            let left = unnamed.into_iter().zip(known).filter(|(_, known)| !known).map(|((object, place), _)| {
                let what = format!(
                    "({} bytes, block {} of {}) is named by nothing: space is lost",
                    object.len, place.block, place.slice
                );
                debug_assert!(mounts.contains(&place.mount));
                Problem::leak("object-leak", volume, format!("object {}", object.key), what)
            });
            Ok(left.collect())
        };
        for problem in self.twice(look)? {
            let key = problem.place.trim_start_matches("object ");
            match self.sink.wait(self.core.objects.head(key)) {
                Ok(_) => self.report_lasting(&problem)?,
                Err(ObjectError::NotFound(_)) => {}
                Err(error) => return Err(object_error(&error)),
            }
        }
        Ok(())
    }
}

/// Sorts slices, each once with its greatest length.
fn settle(wanted: &mut Vec<Wanted>) {
    wanted.sort_unstable_by(|a, b| a.at.cmp(&b.at).then(b.len.cmp(&a.len)));
    wanted.dedup_by(|later, first| later.at == first.at);
}

/// Under which of a volume's numbers an upload was granted.
fn owner(layout: &Layout, mounts: &[MountId], upload: UploadId) -> MountId {
    let first = |mount: &MountId| layout.volumes.get(mount).map_or(UploadId(0), |volume| volume.first_upload);
    let known = mounts.iter().filter(|mount| first(mount) <= upload).max_by_key(|mount| first(mount));
    known.or(mounts.first()).copied().unwrap_or_default()
}

/// Whether each of these is garbage, or an upload that a session may still publish or whose sweep will come.
fn accounted<'p>(
    reads: &dyn RawReads,
    volume: VolumeId,
    mounts: &[MountId],
    places: impl Iterator<Item = &'p Place>,
) -> MetaResult<Vec<bool>> {
    let places: Vec<_> = places.collect();
    let slices: BTreeMap<SliceId, usize> = places.iter().enumerate().map(|(at, place)| (place.slice, at)).collect();
    let mut known = BTreeSet::new();
    if !places.is_empty() {
        reads.scan::<GarbageRecord>(&KeyPrefix::garbage(), None, usize::MAX, |_, garbage, _| {
            if garbage.volume == volume {
                known.extend(garbage.slices.iter().map(|(slice, _)| *slice).filter(|slice| slices.contains_key(slice)));
            }
        })?;
        reads.scan::<SessionRecord>(&KeyPrefix::sessions(), None, usize::MAX, |key, session, _| {
            if matches!(key, Key::Session(_)) && mounts.contains(&session.mount) {
                let held = |slice: &&SliceId| {
                    session.uploads.iter().any(|(first, end)| *first <= slice.upload && slice.upload < *end)
                };
                known.extend(slices.keys().filter(held));
            }
        })?;
    }
    Ok(places.into_iter().map(|place| known.contains(&place.slice)).collect())
}

/// Slice and block of an object's key: `<prefix><hash>/<upload>/<inode>/<chunk>/<block>`.
fn parse(prefix: &str, key: &str) -> Option<(SliceId, u32)> {
    let mut parts = key.strip_prefix(prefix)?.split('/').skip(1);
    let upload = UploadId(parts.next()?.parse().ok()?);
    let inode = InodeId(parts.next()?.parse().ok()?);
    let slice = SliceId { upload, inode, chunk: parts.next()?.parse().ok()? };
    let block = parts.next()?.parse().ok()?;
    (parts.next().is_none() && prefix.len() + 2 < key.len()).then_some((slice, block))
}
