//! Volumes on one engine, and what must be left of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nokvfs_meta::LocalService;
use nokvfs_meta::commit::Committer;
use nokvfs_meta::layout::{Family, Key, Tree};
use nokvfs_meta::service::{MetadataService, SnapshotService, VolumeService};
use nokvfs_types::{
    Attr, CloneSpec, InodeId, MAX_BASES, MetaError, Mutation, Name, SessionRequest, SliceId, Token, VolumeId, owner_key,
};

use crate::op::Op;
use crate::pair::{Pair, request};
use crate::reference::UNIT;
use crate::view::View;
use crate::world::{PATIENCE, World, context};

/// A volume that can be changed.
pub struct Branch {
    pub pair: Pair,
    /// Its place in [`Stage::mounts`].
    mount: usize,
    /// All inodes that were ever made in it.
    used: BTreeSet<InodeId>,
}

/// A snapshot, also of a volume that was deleted.
pub struct Snapshot {
    volume: VolumeId,
    token: Token,
    name: String,
    pin: usize,
    view: View,
    attrs: Vec<Attr>,
}

/// What a volume is between rollbacks.
struct Mount {
    volume: VolumeId,
    base: Option<usize>,
    active: bool,
}

/// A moment that is kept.
struct Pin {
    mount: usize,
    is_snapshot: bool,
    slices: BTreeSet<(VolumeId, SliceId)>,
}

pub struct Stage {
    pub world: World,
    pub branches: Vec<Branch>,
    pub snapshots: Vec<Snapshot>,
    mounts: Vec<Mount>,
    pins: Vec<Pin>,
    /// How long each slice is, in units.
    lens: BTreeMap<(VolumeId, SliceId), u64>,
    names: usize,
}

impl Stage {
    pub async fn new() -> Stage {
        let world = World::new().await;
        let mut stage = Stage {
            world,
            branches: Vec::new(),
            snapshots: Vec::new(),
            mounts: Vec::new(),
            pins: Vec::new(),
            lens: BTreeMap::new(),
            names: 0,
        };
        stage.new_volume().await;
        stage
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    fn mount(&mut self, volume: VolumeId, base: Option<usize>) -> usize {
        self.mounts.push(Mount { volume, base, active: true });
        self.mounts.len() - 1
    }

    fn branch(&mut self, pair: Pair) {
        let mount = self.mount(pair.volume, None);
        let used = pair.view.inodes.iter().copied().collect();
        self.branches.push(Branch { pair, mount, used });
    }

    pub async fn new_volume(&mut self) {
        let name = self.name();
        let pair = Pair::new(&self.world, &name, (0, 0)).await;
        self.branch(pair);
    }

    pub async fn change(&mut self, branch: usize, op: &Op) {
        let Branch { pair, used, .. } = &mut self.branches[branch];
        let before = pair.view.inodes.len();
        pair.run(op).await;
        for inode in &pair.view.inodes[before..] {
            assert!(used.insert(*inode), "{inode} was given out twice");
        }
    }

    fn pin(&mut self, branch: usize, is_snapshot: bool) -> usize {
        let Branch { pair, mount, .. } = &self.branches[branch];
        // What is unlinked and open has no name, and is kept with the rest.
        self.pins.push(Pin { mount: *mount, is_snapshot, slices: pair.view.slices() });
        self.pins.len() - 1
    }

    pub async fn snapshot(&mut self, branch: usize) {
        let name = self.name();
        let pair = &self.branches[branch].pair;
        let (volume, token, view) = (pair.volume, pair.token, pair.view.named());
        let mut attrs = Vec::new();
        for inode in &view.inodes {
            attrs.push(pair.service.getattr(&context(), *inode).await.unwrap());
        }
        let info = self.world.engine.create_snapshot(volume, &name).await.unwrap();
        assert_eq!((info.usage.bytes, info.usage.inodes), view.reference.reachable());
        assert_eq!(self.world.engine.create_snapshot(volume, &name).await.unwrap(), info);
        let pin = self.pin(branch, true);
        self.snapshots.push(Snapshot { volume, token, name, pin, view, attrs });
    }

    /// How many mounts one builds on.
    fn depth(&self, mount: usize) -> usize {
        self.mounts[mount].base.map_or(0, |pin| 1 + self.depth(self.pins[pin].mount))
    }

    async fn clone(&mut self, source: VolumeId, snapshot: Option<String>, from: usize, view: View) -> bool {
        let spec = CloneSpec { source, snapshot, name: self.name(), quota_bytes: 0, quota_inodes: 0 };
        let answer = self.world.engine.clone_volume(spec.clone()).await;
        if self.depth(from) >= MAX_BASES {
            assert!(matches!(answer, Err(MetaError::Busy(_))), "{answer:?}");
            return false;
        }
        let (info, token) = answer.unwrap();
        assert_eq!((info.usage.bytes, info.usage.inodes), view.reference.reachable());
        assert_eq!(self.world.engine.clone_volume(spec).await, Ok((info.clone(), token)));
        let pair = Pair::open(&self.world, (info.id, token), view, None).await;
        self.branch(pair);
        true
    }

    pub async fn clone_snapshot(&mut self, snapshot: usize) {
        let Snapshot { volume, name, pin, view, .. } = &self.snapshots[snapshot];
        let (volume, name, pin, view) = (*volume, name.clone(), *pin, view.clone());
        if self.clone(volume, Some(name), self.pins[pin].mount, view).await {
            self.mounts.last_mut().unwrap().base = Some(pin);
        }
    }

    pub async fn clone_volume(&mut self, branch: usize) {
        let Branch { pair, mount, .. } = &self.branches[branch];
        let (volume, mount, view) = (pair.volume, *mount, pair.view.named());
        if self.clone(volume, None, mount, view).await {
            let pin = self.pin(branch, false);
            self.mounts.last_mut().unwrap().base = Some(pin);
        }
    }

    /// Closes a volume's session and makes another after something.
    async fn without(&mut self, branch: usize) -> Branch {
        let mut branch = self.branches.swap_remove(branch);
        branch.pair.service.close().await.unwrap();
        self.note(&branch.pair);
        branch.pair.view = branch.pair.view.named();
        branch
    }

    async fn mounted(&mut self, branch: Branch, view: View) {
        let Branch { pair, mount, used } = branch;
        let pair = Pair::open(&self.world, (pair.volume, pair.token), view, None).await;
        self.branches.push(Branch { pair, mount, used });
    }

    pub async fn remount(&mut self, branch: usize) {
        let branch = self.without(branch).await;
        branch.pair.until_reclaimed().await;
        let view = branch.pair.view.clone();
        self.mounted(branch, view).await;
    }

    pub async fn roll_back(&mut self, branch: usize, snapshot: usize) {
        let volume = self.branches[branch].pair.volume;
        let of_volume: Vec<_> =
            (0..self.snapshots.len()).filter(|snapshot| self.snapshots[*snapshot].volume == volume).collect();
        if of_volume.is_empty() {
            return;
        }
        let snapshot = &self.snapshots[of_volume[snapshot % of_volume.len()]];
        let (name, pin, view) = (snapshot.name.clone(), snapshot.pin, snapshot.view.clone());
        let refused = self.world.engine.rollback_volume(volume, &name).await;
        assert!(matches!(refused, Err(MetaError::Busy(_))), "{refused:?}");
        let mut branch = self.without(branch).await;
        let answer = self.world.engine.rollback_volume(volume, &name).await;
        if self.depth(self.pins[pin].mount) >= MAX_BASES {
            assert!(matches!(answer, Err(MetaError::Busy(_))), "{answer:?}");
            branch.pair.until_reclaimed().await;
            let view = branch.pair.view.clone();
            return self.mounted(branch, view).await;
        }
        let usage = answer.unwrap().usage;
        assert_eq!((usage.bytes, usage.inodes), view.reference.reachable());
        self.mounts[branch.mount].active = false;
        branch.mount = self.mount(volume, Some(pin));
        self.mounted(branch, view).await;
    }

    pub async fn delete_snapshot(&mut self, snapshot: usize) {
        let Snapshot { volume, name, pin, .. } = self.snapshots.swap_remove(snapshot);
        self.world.engine.delete_snapshot(volume, &name).await.unwrap();
        self.pins[pin].is_snapshot = false;
    }

    pub async fn delete_volume(&mut self, branch: usize) {
        let branch = self.without(branch).await;
        self.world.engine.delete_volume(branch.pair.volume).await.unwrap();
        self.mounts[branch.mount].active = false;
    }

    /// Closes the engine and opens it again; the sessions go on, or end before.
    pub async fn restart(&mut self, resume: bool) {
        if !resume {
            let mut closed = Vec::new();
            while !self.branches.is_empty() {
                let branch = self.without(0).await;
                branch.pair.until_reclaimed().await;
                closed.push(branch);
            }
            // After a start it takes as long as a session lasts until uploads are swept.
            self.until("swept", |stage| stage.world.engine.figures().unswept == 0).await;
            self.world.restart().await;
            for branch in closed {
                let view = branch.pair.view.clone();
                self.mounted(branch, view).await;
            }
            return;
        }
        self.until("swept", |stage| stage.world.engine.figures().unswept == 0).await;
        self.world.restart().await;
        for branch in &mut self.branches {
            let grant = branch.pair.service.grant();
            let resume = Some((grant.session, grant.generation));
            let of = (branch.pair.volume, branch.pair.token);
            branch.pair = Pair::open(&self.world, of, branch.pair.view.clone(), resume).await;
        }
    }

    /// A session on a snapshot shows what was.
    pub async fn read(&self, snapshot: usize) {
        let Snapshot { volume, token, name, view, attrs, .. } = &self.snapshots[snapshot];
        let wanted = SessionRequest { snapshot: Some(name.clone()), ..request(*volume, *token) };
        let service = LocalService::open(self.world.engine.clone(), wanted).await.unwrap();
        view.compare(&service).await;
        for attr in attrs {
            assert_eq!(service.getattr(&context(), attr.inode).await.unwrap(), *attr);
        }
        let usage = service.statfs(&context()).await.unwrap();
        assert_eq!((usage.used_bytes, usage.used_inodes), view.reference.reachable());
        let unlink = Mutation::Unlink { parent: InodeId::ROOT, name: Name::try_from("a").unwrap() };
        assert_eq!(service.mutate(&context(), unlink).await, Err(MetaError::ReadOnly));
        service.close().await.unwrap();
    }

    fn note(&mut self, pair: &Pair) {
        note(&mut self.lens, pair);
    }

    fn is_pin_alive(&self, pin: usize) -> bool {
        let held = |mount: usize| self.mounts[mount].base == Some(pin) && self.is_alive(mount);
        self.pins[pin].is_snapshot || (0..self.mounts.len()).any(held)
    }

    fn is_alive(&self, mount: usize) -> bool {
        let Mount { volume, active, .. } = self.mounts[mount];
        let of_volume = |pin: &usize| self.mounts[self.pins[*pin].mount].volume == volume;
        let mut pins = (0..self.pins.len()).filter(|pin| self.pins[*pin].mount == mount);
        active || pins.any(|pin| self.is_pin_alive(pin)) || {
            // What a deleted volume was last finds its older snapshots, and is kept for them.
            let is_last = self.mounts[mount + 1..].iter().all(|other| other.volume != volume);
            let needed = |pin: usize| {
                let other = |mount: usize| {
                    let base = &self.mounts[mount];
                    base.base == Some(pin) && base.volume != volume && self.is_alive(mount)
                };
                self.pins[pin].is_snapshot || (0..self.mounts.len()).any(other)
            };
            is_last && (0..self.pins.len()).filter(of_volume).any(needed)
        }
    }

    /// All objects that something names.
    fn named(&self) -> BTreeSet<String> {
        let mut lens = self.lens.clone();
        let mut slices = BTreeSet::new();
        for branch in &self.branches {
            note(&mut lens, &branch.pair);
            slices.extend(branch.pair.view.slices());
        }
        for pin in (0..self.pins.len()).filter(|pin| self.is_pin_alive(*pin)) {
            slices.extend(self.pins[pin].slices.iter().copied());
        }
        let alive = (0..self.mounts.len()).filter(|mount| self.is_alive(*mount));
        let mut named: BTreeSet<_> = alive.map(|mount| owner_key(self.mounts[mount].volume)).collect();
        for (volume, slice) in slices {
            let blocks = 0..SliceId::blocks(lens[&(volume, slice)] * UNIT);
            named.extend(blocks.map(|block| slice.object_key(volume, block)));
        }
        named
    }

    pub fn nothing_is_missing(&self) {
        let there: BTreeSet<_> = self.world.objects.keys().into_iter().collect();
        let missing: Vec<_> = self.named().difference(&there).cloned().collect();
        assert!(missing.is_empty(), "{missing:?} are named and were deleted");
    }

    /// With all that was unlinked closed, objects that nothing names go.
    pub async fn nothing_is_left_over(&self) {
        let named: Vec<_> = self.named().into_iter().collect();
        let end = Instant::now() + PATIENCE;
        while self.world.objects.keys() != named {
            assert!(
                Instant::now() < end,
                "{:?} are there, {named:?} are named; {:?}",
                self.world.objects.keys(),
                self.world.engine.figures()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Stage) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "{what}: not in {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// With all volumes deleted, only the server's own record stays.
    pub async fn no_record_is_left(&mut self) {
        self.until("idle", |stage| {
            let figures = stage.world.engine.figures();
            figures.garbage == 0 && figures.unswept == 0
        })
        .await;
        let end = Instant::now() + PATIENCE;
        loop {
            let left = records(&self.world).await;
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "{left:?} are left");
            // The last volume may just have been going.
            self.world.restart().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn note(lens: &mut BTreeMap<(VolumeId, SliceId), u64>, pair: &Pair) {
    for (slice, len) in &pair.view.lens {
        let most = lens.entry((pair.view.owners[slice], *slice)).or_insert(0);
        *most = (*len).max(*most);
    }
}

/// Closes the engine and reads all that is stored but the server's record.
async fn records(world: &World) -> Vec<String> {
    let options = world.close().await;
    let (store, committer) = Committer::open(options.store).unwrap();
    let mut keys = Vec::new();
    for tree in Tree::ALL {
        store
            .scan_raw(tree, &[], None, usize::MAX, &mut |key, _, _| {
                if key[0] != Family::Server as u8 {
                    keys.push(format!("{:?}", Key::decode(key)));
                }
                Ok(true)
            })
            .unwrap();
    }
    committer.shutdown();
    keys
}
