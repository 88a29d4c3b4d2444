//! Bounded enumeration: all sequences of three operations on {A, A/x, B, B/x}, with power cuts between and in them.
//! Each sequence has a folder of its own; after a cut all that are over must be as the reference has them, and the one
//! that was under way as after one of its operations.
//!
//! `NOKV_TEST_ACE` sets that each so many-th sequence is tried (usual: 10; 1: all), `NOKV_TEST_CUTS` how many cuts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_meta::commit::Committer;
use nokvfs_meta::layout::{DentryRecord, Family, InodeRecord, Key, KeyPrefix};
use nokvfs_meta::service::{MetaResult, MetadataService, RequestContext, VolumeService};
use nokvfs_meta::store::{MetaStore, ReadRecords, StoreOptions};
use nokvfs_meta::{Engine, EngineOptions, LocalService};
use nokvfs_object::MemoryStore;
use nokvfs_types::{
    Ack, Applied, Caller, FileKind, InodeId, MetaError, MountId, Mutation, Name, NewNode, OpId, RenameMode,
    SessionRequest, VolumeSpec,
};

use crate::disk::{self, Event};
use crate::image::{Disk, Loss, Random};
use crate::reference::{Node, Reference};
use crate::{ALONE, fsck, setting};

/// A place: a name in the folder of the sequence, or in one of its folders.
type Place = (&'static str, &'static str);

#[derive(Clone, Copy, Debug)]
enum Op {
    Make(Place, FileKind),
    Early(Place),
    Link(Place, Place),
    Unlink(Place),
    Rmdir(Place),
    Rename(Place, Place, RenameMode),
}

const A: Place = ("", "A");
const B: Place = ("", "B");
const AX: Place = ("A", "x");
const BX: Place = ("B", "x");
const OPS: [Op; 17] = [
    Op::Make(A, FileKind::Directory),
    Op::Make(B, FileKind::Directory),
    Op::Make(AX, FileKind::File),
    Op::Early(AX),
    Op::Early(BX),
    Op::Make(B, FileKind::File),
    Op::Link(AX, BX),
    Op::Link(AX, B),
    Op::Unlink(AX),
    Op::Unlink(BX),
    Op::Rmdir(A),
    Op::Rmdir(B),
    Op::Rename(A, B, RenameMode::Replace),
    Op::Rename(A, B, RenameMode::Exchange),
    Op::Rename(AX, BX, RenameMode::Replace),
    Op::Rename(A, BX, RenameMode::Replace),
    Op::Rename(BX, A, RenameMode::NoReplace),
];

/// What is below the folder of a sequence: by path, kind, links and number.
type Shown = BTreeMap<String, (FileKind, u32, InodeId)>;

/// A sequence that was run.
struct Run {
    folder: InodeId,
    /// At the start and after each operation.
    shown: Vec<Shown>,
    /// By operation, the number that was told once it could not be lost; 0 if it was answered early.
    told: Vec<u64>,
}

/// One sequence on both sides.
struct Pair<'s> {
    service: &'s LocalService,
    reference: Reference,
    inodes: Vec<InodeId>,
}

fn context() -> RequestContext {
    let caller = Caller { uid: 0, gid: 0, groups: Arc::from([]) };
    RequestContext { caller, op: OpId(0), deadline: Instant::now() + Duration::from_secs(20) }
}

fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}

fn bare<T>(answer: MetaResult<T>) -> MetaResult<T> {
    answer.map_err(|error| match error {
        MetaError::Invalid(_) => MetaError::Invalid(String::new()),
        other => other,
    })
}

impl Pair<'_> {
    fn node(&self, dir: usize, name: &str) -> Option<usize> {
        self.reference.nodes[dir].entries.get(name).copied()
    }

    /// The folder of a place, if it is there.
    fn dir(&self, place: Place) -> Option<usize> {
        if place.0.is_empty() { Some(0) } else { self.node(0, place.0) }
    }

    async fn mutate(&self, mutation: Mutation) -> MetaResult<Applied> {
        bare(self.service.mutate(&context(), mutation).await)
    }

    /// Whether it was answered once it was durable.
    async fn run(&mut self, op: Op) -> bool {
        let (Op::Make(at, _) | Op::Early(at) | Op::Unlink(at) | Op::Rmdir(at) | Op::Link(_, at) | Op::Rename(_, at, _)) =
            op;
        let Some(dir) = self.dir(at) else { return true };
        let parent = self.inodes[dir];
        match op {
            Op::Make(_, kind) => self.make(dir, at.1, kind, Ack::Durable).await,
            Op::Early(_) => {
                self.make(dir, at.1, FileKind::File, Ack::Early).await;
                return false;
            }
            Op::Link(from, _) => {
                let Some(node) = self.dir(from).and_then(|dir| self.node(dir, from.1)) else { return true };
                let answer = self.mutate(Mutation::Link { inode: self.inodes[node], parent, name: name(at.1) }).await;
                assert_eq!(answer.map(drop), self.reference.link(node, dir, at.1), "{op:?}");
            }
            Op::Unlink(_) => {
                let answer = self.mutate(Mutation::Unlink { parent, name: name(at.1) }).await;
                assert_eq!(answer.map(drop), self.reference.unlink(dir, at.1, false).map(drop), "{op:?}");
            }
            Op::Rmdir(_) => {
                let answer = self.mutate(Mutation::Rmdir { parent, name: name(at.1) }).await;
                assert_eq!(answer.map(drop), self.reference.unlink(dir, at.1, true).map(drop), "{op:?}");
            }
            Op::Rename(from, _, mode) => {
                let Some(old) = self.dir(from) else { return true };
                let rename = Mutation::Rename {
                    parent: self.inodes[old],
                    name: name(from.1),
                    new_parent: parent,
                    new_name: name(at.1),
                    mode,
                };
                let answer = self.mutate(rename).await;
                assert_eq!(answer.map(drop), self.reference.rename((old, from.1), (dir, at.1), mode), "{op:?}");
            }
        }
        true
    }

    async fn make(&mut self, dir: usize, text: &'static str, kind: FileKind, ack: Ack) {
        let node = if kind == FileKind::Directory { NewNode::Directory } else { NewNode::File };
        let create = Mutation::Create {
            parent: self.inodes[dir],
            name: name(text),
            node,
            mode: 0o755,
            open_existing: false,
            ack,
        };
        let answer = self.mutate(create).await;
        let expected = self.reference.create(dir, text, kind, 0o755, false);
        assert_eq!(answer.as_ref().map(drop), expected.as_ref().map(drop), "{text} in {dir}");
        if let Ok(Applied::Entry { attr, .. }) = answer {
            self.inodes.push(attr.inode);
        }
    }

    fn shown(&self) -> Shown {
        let (mut shown, mut dirs) = (Shown::new(), vec![(String::new(), 0)]);
        while let Some((path, dir)) = dirs.pop() {
            for (text, &node) in &self.reference.nodes[dir].entries {
                let (path, found) = (format!("{path}/{text}"), &self.reference.nodes[node]);
                shown.insert(path.clone(), (found.kind, found.nlink, self.inodes[node]));
                if found.kind == FileKind::Directory {
                    dirs.push((path, node));
                }
            }
        }
        shown
    }
}

fn store_options(dir: &Path) -> StoreOptions {
    StoreOptions { low_water: 0, wal_limit: 512 << 10, ..StoreOptions::new(dir.join("meta"), 64 << 20) }
}

/// Runs every `step`-th sequence, and records what it asks of the disk.
async fn record(root: &Path, step: usize) -> (Vec<Event>, Vec<Run>) {
    disk::start(root);
    let options = EngineOptions { store: store_options(root), ..EngineOptions::new(root.join("meta")) };
    let engine = Engine::open(options, Arc::new(MemoryStore::new())).await.unwrap();
    let spec =
        VolumeSpec { name: "v".into(), quota_bytes: 0, quota_inodes: 0, root_mode: 0o755, root_uid: 0, root_gid: 0 };
    let (info, token) = engine.create_volume(spec).await.unwrap();
    let request =
        SessionRequest { volume: info.id, token, client: "ace".into(), read_only: false, snapshot: None, resume: None };
    let service = LocalService::open(Arc::clone(&engine), request).await.unwrap();
    let (mut runs, mut told) = (Vec::new(), 0);
    for number in (0..OPS.len().pow(3)).step_by(step) {
        let node = NewNode::Directory;
        let folder = name(&format!("s{number}"));
        let create = Mutation::Create {
            parent: InodeId::ROOT,
            name: folder,
            node,
            mode: 0o755,
            open_existing: false,
            ack: Ack::Durable,
        };
        let Ok(Applied::Entry { attr, .. }) = service.mutate(&context(), create).await else { panic!("no folder") };
        let root = Node {
            kind: FileKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            parent: 0,
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            content: Vec::new(),
        };
        let mut pair =
            Pair { service: &service, reference: Reference::new(root, (0, 0), 0, 0), inodes: vec![attr.inode] };
        let mut run = Run { folder: attr.inode, shown: vec![pair.shown()], told: Vec::new() };
        for at in 0..3 {
            let durable = pair.run(OPS[number / OPS.len().pow(at) % OPS.len()]).await;
            run.shown.push(pair.shown());
            told += u64::from(durable);
            run.told.push(if durable { told } else { 0 });
            if durable {
                disk::told(told);
            }
        }
        runs.push(run);
    }
    // The engine is not closed: the process ends here for the disk.
    let events = disk::stop();
    service.close().await.unwrap();
    engine.close().await.unwrap();
    (events, runs)
}

/// Compares what a cut left with the sequences.
fn check(dir: &Path, told: u64, runs: &[Run]) -> Result<(), String> {
    let (store, _committer) = Committer::open(store_options(dir)).map_err(|error| format!("open: {error}"))?;
    let wrong = fsck::read(&*store).map_err(|error| error.to_string())?.wrong();
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    let (entries, inodes) = read(&*store).map_err(|error| error.to_string())?;
    for (number, run) in runs.iter().enumerate() {
        let found = below(run.folder, &entries, &inodes);
        let done = (0..3).rev().find(|at| (1..=told).contains(&run.told[*at])).map_or(0, |at| at + 1);
        let begun = inodes.contains_key(&run.folder);
        let over = run.told.iter().max().is_some_and(|last| *last <= told) && done == 3;
        let may_be = if over { &run.shown[3..] } else { &run.shown[done..] };
        if (begun || done > 0) && !may_be.contains(&found) {
            return Err(format!("sequence {number} after {done}: {found:?} is none of {may_be:?}"));
        }
    }
    Ok(())
}

type Entries = BTreeMap<InodeId, Vec<(String, InodeId)>>;

fn read(store: &dyn MetaStore) -> MetaResult<(Entries, BTreeMap<InodeId, InodeRecord>)> {
    let (mut entries, mut inodes) = (Entries::new(), BTreeMap::new());
    store.scan::<DentryRecord>(&KeyPrefix::all(Family::Dentry), None, usize::MAX, |key, record, _| {
        let Key::Dentry(MountId(_), parent, _, name) = key else { panic!("{key:?}") };
        entries.entry(parent).or_default().push((name.to_string(), record.inode));
    })?;
    store.scan::<InodeRecord>(&KeyPrefix::all(Family::Inode), None, usize::MAX, |key, record, _| {
        let Key::Inode(_, inode) = key else { panic!("{key:?}") };
        inodes.insert(inode, record);
    })?;
    Ok((entries, inodes))
}

fn below(folder: InodeId, entries: &Entries, inodes: &BTreeMap<InodeId, InodeRecord>) -> Shown {
    let (mut shown, mut dirs) = (Shown::new(), vec![(String::new(), folder)]);
    while let Some((path, dir)) = dirs.pop() {
        for (text, inode) in entries.get(&dir).into_iter().flatten() {
            let (path, record) = (format!("{path}/{text}"), &inodes[inode]);
            shown.insert(path.clone(), (record.kind, record.nlink, *inode));
            if record.kind == FileKind::Directory {
                dirs.push((path, *inode));
            }
        }
    }
    shown
}

#[test]
fn every_short_history_survives_a_power_cut() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (events, runs) = runtime.block_on(record(&root, setting("NOKV_TEST_ACE", 10) as usize));
    let (tries, first) = (setting("NOKV_TEST_CUTS", 60), setting("NOKV_TEST_SEED", 1));
    let (mut disk, mut wrong) = (Disk::new(Loss::Any), Vec::new());
    for try_ in 0..tries {
        // Evenly over the recording, the last at its end.
        let (from, to) = (events.len() as u64 * try_ / tries, events.len() as u64 * (try_ + 1) / tries);
        events[from as usize..to as usize].iter().for_each(|event| disk.apply(event));
        let left = tempfile::tempdir().unwrap();
        disk.cut(&mut Random(first + try_), &root, left.path());
        if let Err(error) = check(left.path(), disk.told, &runs) {
            wrong.push(format!("seed {first}, cut {try_} of {tries}, after call {to}: {error}"));
        }
    }
    println!("{} sequences, {tries} cuts of {} calls: {} are wrong", runs.len(), events.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong[..wrong.len().min(5)].join("\n"));
}
