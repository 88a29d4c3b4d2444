//! References: how many records name each slice and each pack, in all volumes that build on each other.
//!
//! Records are read by ranges of inodes, in one view all that a range has in any of the volumes, now and in history. A
//! slice is named by records of its own inode only, so such a page holds all that name it. A pack is named by many
//! inodes; a command moves names only within an inode, or writes the pack's record.

use std::collections::{BTreeSet, HashMap};

use nokvfs_types::{InodeId, MountId, SessionId, SliceId, UploadId, VolumeState};

use super::volumes::Layout;
use super::{Checker, PAGE, Problem, WINDOW};
use crate::layout::{Family, Key, KeyPrefix, PackRecord, ServerRecord, SessionRecord, SliceRecord, open_content};
use crate::lineage::Lineage;
use crate::plan::named_in;
use crate::service::MetaResult;
use crate::store::{RawReads, ReadRecords};

/// Inodes of one volume in one page.
const INODES: usize = 256;
/// Slices of one page that are told apart: 64 MiB. A page has more only where one file is in a thousand pieces for each
/// of a thousand chunks.
const SLICES: usize = 1 << 20;
/// How often all is read again because a volume was made meanwhile.
const ROUNDS: usize = 3;
/// Greater than any key of an inode, behind the inode.
const AFTER: [u8; 14] = [0xff; 14];

/// What records of one page name.
#[derive(Default)]
pub(super) struct Named {
    /// By slice and whose it is: how many records name it, and its bytes.
    pub slices: HashMap<(MountId, SliceId), (u32, u64)>,
    pub packs: Vec<((MountId, UploadId), u64)>,
    /// Volume, inode and slice of uploads that were not granted.
    strange: Vec<(MountId, InodeId, SliceId)>,
    records: usize,
    pub overflow: bool,
}

/// A window of packs, in the order of their keys: 24 bytes each.
struct Packs(Vec<((MountId, UploadId), u32, u32)>);

impl Packs {
    fn count(&mut self, pack: (MountId, UploadId)) {
        if let Ok(at) = self.0.binary_search_by_key(&pack, |(pack, ..)| *pack) {
            self.0[at].2 = self.0[at].2.saturating_add(1);
        }
    }
}

impl Checker {
    /// Compares references of volumes that build on each other with what names them.
    pub(super) fn references(&self, layout: &Layout, family: &BTreeSet<MountId>, sound: bool) -> MetaResult<()> {
        if !sound {
            return Ok(());
        }
        let mut family = family.clone();
        for _ in 0..ROUNDS {
            let numbers = self.page(next_mount)?;
            let wrong = self.references_of(layout, &family)?;
            if self.page(next_mount)? == numbers {
                return wrong.iter().try_for_each(|problem| self.report_lasting(problem));
            }
            // A volume that was made meanwhile may name some.
            let now = self.page(Layout::read)?;
            let grown = now.families().into_iter().find(|now| !now.is_disjoint(&family));
            family = grown.unwrap_or(family);
        }
        self.sink.unsettled(family.len());
        Ok(())
    }

    fn references_of(&self, layout: &Layout, family: &BTreeSet<MountId>) -> MetaResult<Vec<Problem>> {
        let mut wrong = Vec::new();
        let (mut after, mut first) = (None, true);
        loop {
            let start = self.core.committer.durable_version();
            let (mut packs, last) = self.packs(family, after)?;
            self.sink.phase(format!("references of volumes number {family:?}"));
            let mut from = InodeId(0);
            loop {
                let look = |fresh: bool| {
                    self.page(|reads| {
                        let now = if fresh { Some(Layout::read(reads)?) } else { None };
                        let layout = now.as_ref().unwrap_or(layout);
                        let (named, next) = names(reads, layout, family, from)?;
                        let found = if first { slice_problems(reads, layout, &named)? } else { Vec::new() };
                        Ok((named, next, found))
                    })
                };
                let (named, next, found) = look(false)?;
                self.sink.looked(named.records);
                if named.overflow {
                    self.sink.unsettled(1);
                }
                named.packs.iter().for_each(|(pack, _)| packs.count(*pack));
                if !found.is_empty() {
                    wrong.extend(self.twice(|| Ok(look(true)?.2))?);
                }
                let Some(next) = next else { break };
                from = next;
            }
            for (pack, named, found) in packs.0.iter().filter(|(_, named, found)| named != found) {
                let now = self.page(|reads| reads.get::<PackRecord>(&Key::Pack(pack.0, pack.1)))?;
                match now {
                    Some((_, version)) if version > start => self.sink.unsettled(1),
                    Some(_) => wrong.extend(pack_problem(layout, *pack, *named, *found)),
                    None => {}
                }
            }
            first = false;
            let Some(last) = last else { break };
            after = Some(last);
        }
        wrong.extend(self.unnamed(layout, family)?);
        Ok(wrong)
    }

    /// A window of the packs of all volumes, and the last one if there are more.
    fn packs(
        &self,
        family: &BTreeSet<MountId>,
        after: Option<(MountId, UploadId)>,
    ) -> MetaResult<(Packs, Option<(MountId, UploadId)>)> {
        let mut packs = Packs(Vec::new());
        for mount in family.iter().filter(|mount| after.is_none_or(|(from, _)| **mount >= from)) {
            let mut last = after.filter(|(from, _)| from == mount).map(|(mount, upload)| Key::Pack(mount, upload));
            loop {
                let page = self.page(|reads| {
                    let (mut page, prefix) = (Vec::new(), KeyPrefix::of_mount(Family::Pack, *mount));
                    reads.scan::<PackRecord>(&prefix, last.as_ref(), PAGE, |key, pack, _| {
                        page.push((key, pack.named))
                    })?;
                    Ok(page)
                })?;
                for (key, named) in &page {
                    if let Key::Pack(mount, upload) = key {
                        packs.0.push(((*mount, *upload), *named, 0));
                    }
                }
                if packs.0.len() >= WINDOW {
                    let last = packs.0.last().map(|(pack, ..)| *pack);
                    return Ok((packs, last));
                }
                if page.len() < PAGE {
                    break;
                }
                last = page.into_iter().next_back().map(|(key, _)| key);
            }
        }
        Ok((packs, None))
    }

    /// Records that count references of what nothing names.
    fn unnamed(&self, layout: &Layout, family: &BTreeSet<MountId>) -> MetaResult<Vec<Problem>> {
        let mut wrong = Vec::new();
        for mount in family.iter().filter(|mount| is_kept(layout, **mount)) {
            let (mut after, prefix): (Option<Key>, _) = (None, KeyPrefix::of_mount(Family::Slice, *mount));
            loop {
                let look = || {
                    self.page(|reads| {
                        let mut page = Vec::new();
                        reads.scan::<SliceRecord>(&prefix, after.as_ref(), PAGE, |key, slice, _| {
                            page.push((key, slice.named))
                        })?;
                        let mut found = Vec::new();
                        for (key, named) in &page {
                            let Key::Slice(_, slice) = key else { continue };
                            if *named > 0 && !is_named(reads, family, slice)? {
                                found.extend(slice_problem(layout, *mount, slice, Some(*named), 0));
                            }
                        }
                        Ok((found, page.len(), page.pop().map(|(key, _)| key)))
                    })
                };
                let (found, count, last) = look()?;
                if !found.is_empty() {
                    wrong.extend(self.twice(|| Ok(look()?.0))?);
                }
                if count < PAGE {
                    break;
                }
                after = last;
            }
        }
        wrong.extend(self.forgotten_packs(layout, family)?);
        Ok(wrong)
    }

    /// Packs that nothing names, of sessions that are gone: nobody would make garbage of them.
    fn forgotten_packs(&self, layout: &Layout, family: &BTreeSet<MountId>) -> MetaResult<Vec<Problem>> {
        let mut wrong = Vec::new();
        for mount in family.iter().filter(|mount| is_kept(layout, **mount)) {
            let (mut after, prefix): (Option<Key>, _) = (None, KeyPrefix::of_mount(Family::Pack, *mount));
            loop {
                let look = || {
                    self.page(|reads| {
                        let mut page: Vec<(Key, u32, SessionId)> = Vec::new();
                        reads.scan::<PackRecord>(&prefix, after.as_ref(), PAGE, |key, pack, _| {
                            page.push((key, pack.named, pack.owner));
                        })?;
                        let mut found = Vec::new();
                        for (key, _, owner) in page.iter().filter(|(_, named, _)| *named == 0) {
                            let gone = reads.get::<SessionRecord>(&Key::Session(*owner))?.is_none();
                            if let (true, Some(volume)) = (gone, layout.id(*mount)) {
                                let what = "is named by nothing, and the session that made it is gone";
                                found.push(Problem::leak("pack-leak", volume, format!("{key:?}"), what));
                            }
                        }
                        Ok((found, page.len(), page.pop().map(|(key, ..)| key)))
                    })
                };
                let (found, count, last) = look()?;
                if !found.is_empty() {
                    wrong.extend(self.twice(|| Ok(look()?.0))?);
                }
                if count < PAGE {
                    break;
                }
                after = last;
            }
        }
        Ok(wrong)
    }
}

/// How many volume numbers were given out.
fn next_mount(reads: &dyn RawReads) -> MetaResult<Option<u64>> {
    Ok(reads.get::<ServerRecord>(&Key::Server)?.map(|(server, _)| server.next_mount))
}

/// Whether references of a volume's slices are counted: not while it is deleted as a whole.
fn is_kept(layout: &Layout, mount: MountId) -> bool {
    layout.volumes.get(&mount).is_some_and(|volume| volume.state != VolumeState::Deleting)
}

/// What all records of inodes from one on name, and the inode to go on with.
pub(super) fn names(
    reads: &dyn RawReads,
    layout: &Layout,
    family: &BTreeSet<MountId>,
    from: InodeId,
) -> MetaResult<(Named, Option<InodeId>)> {
    let mut end: Option<u64> = None;
    for mount in family {
        for kinds in [&[Family::Inode as u8][..], &[Family::History as u8, Family::Inode as u8]] {
            let mut count = 0;
            let mut last = None;
            walk(reads, kinds, *mount, from, end, &mut |inode, _, _| {
                count += usize::from(last != Some(inode));
                last = Some(inode);
                Ok(count < INODES)
            })?;
            if count == INODES {
                end = last.map(|last| last.0 + 1);
            }
        }
    }
    let mut named = Named::default();
    for mount in family {
        let Some(volume) = layout.volumes.get(mount) else { continue };
        let lineage = Lineage::new(*mount, volume, None);
        for kinds in [
            &[Family::Inode as u8][..],
            &[Family::Chunk as u8],
            &[Family::History as u8, Family::Inode as u8],
            &[Family::History as u8, Family::Chunk as u8],
        ] {
            walk(reads, kinds, *mount, from, end, &mut |inode, key, value| {
                named.records += 1;
                let (_, content) = open_content(key, value)?;
                for (slice, len) in named_in(key, &content)? {
                    if !layout.is_granted(*mount, slice.upload) {
                        named.strange.push((*mount, inode, slice));
                    }
                    named.add(lineage.owner(slice.upload).0, slice, len);
                }
                Ok(true)
            })?;
        }
    }
    Ok((named, end.map(InodeId)))
}

impl Named {
    fn add(&mut self, owner: MountId, slice: SliceId, len: u64) {
        if slice.is_pack() {
            self.packs.push(((owner, slice.upload), len));
        } else if self.slices.len() < SLICES || self.slices.contains_key(&(owner, slice)) {
            let (count, most) = self.slices.entry((owner, slice)).or_default();
            *count += 1;
            *most = len.max(*most);
        } else {
            self.overflow = true;
        }
    }
}

/// Receives inode, key and sealed value; answers whether to go on.
type Visit<'v> = dyn FnMut(InodeId, &[u8], &[u8]) -> MetaResult<bool> + 'v;

/// Visits the records of some kind of inodes from one on, before another.
fn walk(
    reads: &dyn RawReads,
    kinds: &[u8],
    mount: MountId,
    from: InodeId,
    end: Option<u64>,
    visit: &mut Visit<'_>,
) -> MetaResult<()> {
    let prefix = [kinds, &mount.0.to_be_bytes()].concat();
    let after = from.0.checked_sub(1).map(|before| [prefix.as_slice(), &before.to_be_bytes(), &AFTER].concat());
    let tree = crate::layout::tree_of(&prefix);
    reads.scan_raw(tree, &prefix, after.as_deref(), usize::MAX, &mut |key, value, _| {
        let Some(bytes) = key.get(prefix.len()..prefix.len() + 8).and_then(|bytes| bytes.try_into().ok()) else {
            return Ok(true);
        };
        let inode = u64::from_be_bytes(bytes);
        if end.is_some_and(|end| inode >= end) {
            return Ok(false);
        }
        visit(InodeId(inode), key, value)
    })
}

/// What is wrong with the slices of a page, and packs that have no record.
fn slice_problems(reads: &dyn RawReads, layout: &Layout, named: &Named) -> MetaResult<Vec<Problem>> {
    let mut wrong = Vec::new();
    for ((owner, slice), (found, _)) in &named.slices {
        if named.overflow || !is_kept(layout, *owner) {
            continue;
        }
        let counted = reads.get::<SliceRecord>(&Key::Slice(*owner, *slice))?.map(|(slice, _)| slice.named);
        if counted.unwrap_or(1) != *found {
            wrong.extend(slice_problem(layout, *owner, slice, counted, *found));
        }
    }
    for (owner, upload) in named.packs.iter().map(|(pack, _)| pack).collect::<BTreeSet<_>>() {
        if is_kept(layout, *owner) && reads.get::<PackRecord>(&Key::Pack(*owner, *upload))?.is_none() {
            let Some(volume) = layout.id(*owner) else { continue };
            wrong.push(Problem::error("pack-named", volume, format!("pack {upload}"), "is named and has no record"));
        }
    }
    for (mount, inode, slice) in &named.strange {
        let Some(volume) = layout.id(*mount) else { continue };
        let what = format!("names {slice}, which was never granted");
        wrong.push(Problem::error("upload", volume, format!("inode {inode}"), what));
    }
    Ok(wrong)
}

fn slice_problem(layout: &Layout, owner: MountId, slice: &SliceId, named: Option<u32>, found: u32) -> Option<Problem> {
    let what = match named {
        Some(named) => format!("is named by {found} records and says {named}"),
        None => format!("is named by {found} records, and nothing counts them"),
    };
    layout.id(owner).map(|volume| Problem::error("slice-named", volume, slice.to_string(), what))
}

fn pack_problem(layout: &Layout, pack: (MountId, UploadId), named: u32, found: u32) -> Option<Problem> {
    let what = format!("is named by {found} records and says {named}");
    let volume = layout.id(pack.0).filter(|_| is_kept(layout, pack.0));
    volume.map(|volume| Problem::error("pack-named", volume, format!("pack {}", pack.1), what))
}

/// Whether any record names a slice.
fn is_named(reads: &dyn RawReads, family: &BTreeSet<MountId>, slice: &SliceId) -> MetaResult<bool> {
    for mount in family {
        for key in [Key::Inode(*mount, slice.inode), Key::Chunk(*mount, slice.inode, slice.chunk)] {
            let key = key.encode();
            let mut named = false;
            let mut look = |key: &[u8], value: &[u8]| {
                let (_, content) = open_content(key, value)?;
                named |= named_in(key, &content)?.contains_key(slice);
                Ok(())
            };
            if let Some(stored) = crate::store::read_whole(reads, crate::layout::tree_of(&key), &key)? {
                look(&key, &stored.value)?;
            }
            let history = KeyPrefix::history_of_key(&key);
            reads.scan_raw(Family::History.tree(), history.bytes(), None, usize::MAX, &mut |key, value, _| {
                look(key, value).map(|()| true)
            })?;
            if named {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
