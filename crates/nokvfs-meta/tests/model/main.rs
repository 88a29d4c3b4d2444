//! Random operations on an engine and on a reference of it: every answer, the whole tree and all objects must agree.
//!
//! `NOKV_TEST_CASES` sets how many histories are tried, `NOKV_TEST_OPS` how long the longest is.
#![cfg(feature = "holt")]

mod reference;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_meta::service::{MetaResult, MetadataService, RequestContext, VolumeService};
use nokvfs_meta::{Engine, EngineOptions, LocalService};
use nokvfs_object::{MemoryStore, ObjectStore};
use nokvfs_types::{
    Ack, Applied, Attr, CHUNK_SIZE, Caller, Extent, Fallocate, FileKind, InodeId, MetaError, Mutation, Name, NewNode,
    OpId, Publish, RenameMode, SessionRequest, SetAttr, SetTime, SliceId, Timestamp, UploadId, VolumeId, VolumeSpec,
    XattrMode, owner_key,
};
use proptest::collection::vec;
use proptest::prelude::*;

use reference::{Node, Reference, Run, UNIT};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const XATTRS: [&str; 3] = ["user.one", "user.two", "trusted.three"];
const CHUNK_UNITS: u64 = CHUNK_SIZE / UNIT;
/// Three chunks and a bit.
const MOST_UNITS: u64 = 200;
const CALLER: (u32, u32) = (1000, 1001);
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
enum Op {
    Create { dir: usize, name: usize, kind: FileKind, mode: u16, open_existing: bool },
    Link { node: usize, dir: usize, name: usize },
    Unlink { dir: usize, name: usize, want_dir: bool },
    Rename { from: (usize, usize), to: (usize, usize), mode: RenameMode },
    Resize { node: usize, units: u64 },
    Chmod { node: usize, mode: u16, owner: Option<(u32, u32)> },
    Fallocate { node: usize, from: u64, units: u64, unmap: bool, size: u64 },
    Publish { node: usize, truncate: Option<u64>, runs: Vec<(u64, u64)>, size: u64 },
    SetXattr { node: usize, name: usize, len: usize, mode: XattrMode },
    RemoveXattr { node: usize, name: usize },
}

fn kind() -> impl Strategy<Value = FileKind> {
    prop_oneof![
        4 => Just(FileKind::File),
        5 => Just(FileKind::Directory),
        1 => Just(FileKind::Symlink),
        1 => Just(FileKind::Fifo),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let (node, name) = (0..1000usize, 0..NAMES.len());
    let mode = prop_oneof![Just(0o644u16), Just(0o755), Just(0o2775), Just(0o6711), Just(0o1777)];
    let rename =
        prop_oneof![4 => Just(RenameMode::Replace), 1 => Just(RenameMode::NoReplace), 3 => Just(RenameMode::Exchange)];
    let set = prop_oneof![3 => Just(XattrMode::Set), 1 => Just(XattrMode::Create), 1 => Just(XattrMode::Replace)];
    let run = (0..MOST_UNITS, 1..40u64);
    prop_oneof![
        10 => (node.clone(), name.clone(), kind(), mode.clone(), any::<bool>())
            .prop_map(|(dir, name, kind, mode, open_existing)| Op::Create { dir, name, kind, mode, open_existing }),
        3 => (node.clone(), node.clone(), name.clone()).prop_map(|(node, dir, name)| Op::Link { node, dir, name }),
        4 => (node.clone(), name.clone(), any::<bool>())
            .prop_map(|(dir, name, want_dir)| Op::Unlink { dir, name, want_dir }),
        9 => ((node.clone(), name.clone()), (node.clone(), name.clone()), rename)
            .prop_map(|(from, to, mode)| Op::Rename { from, to, mode }),
        3 => (node.clone(), 0..MOST_UNITS).prop_map(|(node, units)| Op::Resize { node, units }),
        2 => (node.clone(), mode, proptest::option::of((0..5u32, 0..5u32)))
            .prop_map(|(node, mode, owner)| Op::Chmod { node, mode, owner }),
        8 => (node.clone(), proptest::option::weighted(0.3, 0..MOST_UNITS), vec(run, 0..6), 0..MOST_UNITS)
            .prop_map(|(node, truncate, runs, size)| Op::Publish { node, truncate, runs, size }),
        6 => (node.clone(), 0..MOST_UNITS, 1..80u64, proptest::bool::weighted(0.8), prop_oneof![Just(0), 0..MOST_UNITS])
            .prop_map(|(node, from, units, unmap, size)| Op::Fallocate { node, from, units, unmap, size }),
        2 => (node.clone(), 0..XATTRS.len(), 0..200usize, set)
            .prop_map(|(node, name, len, mode)| Op::SetXattr { node, name, len, mode }),
        1 => (node, 0..XATTRS.len()).prop_map(|(node, name)| Op::RemoveXattr { node, name }),
    ]
}

/// The engine, the reference, and which inode is which node.
struct Pair {
    engine: Arc<Engine>,
    service: Arc<LocalService>,
    objects: Arc<MemoryStore>,
    volume: VolumeId,
    reference: Reference,
    inodes: Vec<InodeId>,
    next_upload: u64,
    lens: BTreeMap<SliceId, u64>,
    _dir: tempfile::TempDir,
}

fn context() -> RequestContext {
    let caller = Caller { uid: CALLER.0, gid: CALLER.1, groups: Arc::from([]) };
    RequestContext { caller, op: OpId(0), deadline: Instant::now() + PATIENCE }
}

fn name(number: usize) -> Name {
    Name::try_from(NAMES[number]).unwrap()
}

/// Errors without their texts.
fn bare<T>(answer: MetaResult<T>) -> MetaResult<T> {
    answer.map_err(|error| match error {
        MetaError::Invalid(_) => MetaError::Invalid(String::new()),
        MetaError::QuotaExceeded(_) => MetaError::QuotaExceeded(String::new()),
        other => other,
    })
}

impl Pair {
    async fn new(quota: (u64, u64)) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        let mut options = EngineOptions::new(dir.path().join("meta"));
        options.store.low_water = 0;
        options.store.memory_limit = 128 << 20;
        options.garbage_delay = Duration::ZERO;
        options.interval = Duration::from_millis(20);
        let objects = Arc::new(MemoryStore::new());
        let engine = Engine::open(options, Arc::clone(&objects) as Arc<dyn ObjectStore>).await.unwrap();
        let spec = VolumeSpec {
            name: "model".into(),
            quota_bytes: quota.0,
            quota_inodes: quota.1,
            root_mode: 0o755,
            root_uid: 1,
            root_gid: 2,
        };
        let (info, token) = engine.create_volume(spec).await.unwrap();
        let request = SessionRequest {
            volume: info.id,
            token,
            client: "model".into(),
            read_only: false,
            snapshot: None,
            resume: None,
        };
        let service = LocalService::open(Arc::clone(&engine), request).await.unwrap();
        let root = Node {
            kind: FileKind::Directory,
            mode: 0o755,
            uid: 1,
            gid: 2,
            nlink: 2,
            parent: 0,
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            content: Vec::new(),
        };
        let mut pair = Pair {
            engine,
            service,
            objects,
            volume: info.id,
            reference: Reference::new(root, quota, CALLER.0, CALLER.1),
            inodes: vec![InodeId::ROOT],
            next_upload: 0,
            lens: BTreeMap::new(),
            _dir: dir,
        };
        let reserve = Mutation::ReserveUploads { count: 10_000, settled: UploadId(0) };
        let Applied::Uploads { first, .. } = pair.service.mutate(&context(), reserve).await.unwrap() else {
            panic!("no uploads");
        };
        pair.next_upload = first.0;
        pair
    }

    fn node(&self, number: usize) -> usize {
        number % self.inodes.len()
    }

    /// Mostly a directory, sometimes not.
    fn dir(&self, number: usize) -> usize {
        let dirs: Vec<_> =
            (0..self.inodes.len()).filter(|node| self.reference.nodes[*node].kind == FileKind::Directory).collect();
        if number % 16 == 15 { self.node(number / 16) } else { dirs[number % dirs.len()] }
    }

    /// Mostly a file, sometimes not.
    fn file(&self, number: usize) -> usize {
        let files: Vec<_> =
            (0..self.inodes.len()).filter(|node| self.reference.nodes[*node].kind == FileKind::File).collect();
        if files.is_empty() || number % 16 == 15 { self.node(number / 16) } else { files[number % files.len()] }
    }

    async fn mutate(&self, mutation: Mutation) -> MetaResult<Applied> {
        bare(self.service.mutate(&context(), mutation).await)
    }

    /// An answer that shows a node is that node.
    fn check_attr(&self, node: usize, attr: &Attr) {
        let expected = &self.reference.nodes[node];
        let shown = (attr.kind, attr.mode, attr.uid, attr.gid, attr.nlink, attr.size, attr.mapped);
        let wanted = (
            expected.kind,
            expected.mode,
            expected.uid,
            expected.gid,
            expected.nlink,
            expected.size(),
            expected.mapped(),
        );
        assert_eq!((attr.inode, shown), (self.inodes[node], wanted));
    }

    fn check_entry(&self, answer: MetaResult<Applied>, expected: MetaResult<usize>) {
        match (answer, expected) {
            (Ok(Applied::Entry { attr, .. }), Ok(node)) => self.check_attr(node, &attr),
            (Err(answer), Err(expected)) => assert_eq!(answer, expected),
            (answer, expected) => panic!("{answer:?}, expected {expected:?}"),
        }
    }

    async fn run(&mut self, op: &Op) {
        match op.clone() {
            Op::Create { dir, name: number, kind, mode, open_existing } => {
                let parent = self.dir(dir);
                let node = match kind {
                    FileKind::File => NewNode::File,
                    FileKind::Directory => NewNode::Directory,
                    FileKind::Symlink => NewNode::Symlink(Bytes::from_static(b"target")),
                    kind => NewNode::Special { kind, rdev: 0 },
                };
                let create = Mutation::Create {
                    parent: self.inodes[parent],
                    name: name(number),
                    node,
                    mode,
                    open_existing,
                    ack: Ack::Early,
                };
                let answer = self.mutate(create).await;
                let expected = self.reference.create(parent, NAMES[number], kind, mode, open_existing);
                if let (Ok(Applied::Entry { attr, created }), Ok((node, new))) = (&answer, &expected) {
                    assert_eq!(created, new);
                    if *new {
                        assert_eq!(*node, self.inodes.len());
                        assert!(!self.inodes.contains(&attr.inode), "{} was given out twice", attr.inode);
                        self.inodes.push(attr.inode);
                        // Kept when its last link goes, so that the reference need not know when that is.
                        self.service.opened(attr.inode);
                    }
                }
                self.check_entry(answer, expected.map(|(node, _)| node));
            }
            Op::Link { node, dir, name: number } => {
                let (node, parent) = (self.node(node), self.dir(dir));
                let link = Mutation::Link { inode: self.inodes[node], parent: self.inodes[parent], name: name(number) };
                let answer = self.mutate(link).await;
                let expected = self.reference.link(node, parent, NAMES[number]);
                self.check_entry(answer, expected.map(|()| node));
            }
            Op::Unlink { dir, name: number, want_dir } => {
                let parent = self.dir(dir);
                let (at, text) = (self.inodes[parent], name(number));
                let answer = self
                    .mutate(if want_dir {
                        Mutation::Rmdir { parent: at, name: text }
                    } else {
                        Mutation::Unlink { parent: at, name: text }
                    })
                    .await;
                let expected = self.reference.unlink(parent, NAMES[number], want_dir);
                let inodes = &self.inodes;
                assert_eq!(answer, expected.map(|(node, nlink)| Applied::Removed { inode: inodes[node], nlink }));
            }
            Op::Rename { from, to, mode } => {
                let (from, to) = ((self.dir(from.0), from.1), (self.dir(to.0), to.1));
                let rename = Mutation::Rename {
                    parent: self.inodes[from.0],
                    name: name(from.1),
                    new_parent: self.inodes[to.0],
                    new_name: name(to.1),
                    mode,
                };
                let answer = self.mutate(rename).await;
                let expected = self.reference.rename((from.0, NAMES[from.1]), (to.0, NAMES[to.1]), mode);
                assert_eq!(answer, expected.map(|()| Applied::Unit));
            }
            other => self.run_on_inode(other).await,
        }
    }

    async fn run_on_inode(&mut self, op: Op) {
        match op {
            Op::Resize { node, units } => {
                let node = self.node(node);
                let set = SetAttr { size: Some(units * UNIT), ..SetAttr::default() };
                let answer = self.mutate(Mutation::SetAttr { inode: self.inodes[node], set }).await;
                let expected = self.reference.resize(node, units as usize);
                self.check_entry(answer, expected.map(|()| node));
            }
            Op::Chmod { node, mode, owner } => {
                let node = self.node(node);
                let set = SetAttr {
                    mode: Some(mode),
                    uid: owner.map(|owner| owner.0),
                    gid: owner.map(|owner| owner.1),
                    atime: Some(SetTime::At(Timestamp(5))),
                    ..SetAttr::default()
                };
                let answer = self.mutate(Mutation::SetAttr { inode: self.inodes[node], set }).await;
                let expected = &mut self.reference.nodes[node];
                expected.mode = mode;
                (expected.uid, expected.gid) = owner.unwrap_or((expected.uid, expected.gid));
                if let Ok(Applied::Entry { attr, .. }) = &answer {
                    assert_eq!(attr.atime, Timestamp(5));
                }
                self.check_entry(answer, Ok(node));
            }
            Op::Fallocate { node, from, units, unmap, size } => {
                let node = self.file(node);
                let (inode, offset, len) = (self.inodes[node], from * UNIT, units * UNIT);
                let wanted = Fallocate { inode, offset, len, unmap, size: size * UNIT };
                let answer = self.mutate(Mutation::Fallocate(wanted)).await;
                let expected = self.reference.fallocate(node, from as usize, units as usize, unmap, size as usize);
                self.check_entry(answer, expected.map(|()| node));
            }
            Op::Publish { node, truncate, runs, size } => self.publish(node, truncate, &runs, size).await,
            Op::SetXattr { node, name, len, mode } => {
                let (node, name) = (self.node(node), XATTRS[name]);
                let value = vec![7; len];
                let set = Mutation::SetXattr {
                    inode: self.inodes[node],
                    name: Bytes::from_static(name.as_bytes()),
                    value: Bytes::from(value.clone()),
                    mode,
                };
                let answer = self.mutate(set).await;
                assert_eq!(answer, self.reference.set_xattr(node, name, value, mode).map(|()| Applied::Unit));
            }
            Op::RemoveXattr { node, name } => {
                let (node, name) = (self.node(node), XATTRS[name]);
                let name_bytes = Bytes::from_static(name.as_bytes());
                let answer = self.mutate(Mutation::RemoveXattr { inode: self.inodes[node], name: name_bytes }).await;
                assert_eq!(answer, self.reference.remove_xattr(node, name).map(|()| Applied::Unit));
            }
            other => panic!("{other:?} is not on an inode"),
        }
    }

    async fn publish(&mut self, node: usize, truncate: Option<u64>, ranges: &[(u64, u64)], size: u64) {
        let node = self.file(node);
        let inode = self.inodes[node];
        let upload = UploadId(self.next_upload);
        self.next_upload += 1;
        let runs = place(ranges, inode, upload);
        let mut lens: BTreeMap<SliceId, u64> = BTreeMap::new();
        for run in &runs {
            // A slice may hold more than is named of it.
            lens.insert(run.slice, run.slice_start + run.len + 1);
        }
        for (slice, len) in &lens {
            for block in 0..SliceId::blocks(len * UNIT) {
                self.objects.put(&slice.object_key(self.volume, block), Bytes::from_static(b"x")).await.unwrap();
            }
        }
        let extents = runs
            .iter()
            .map(|run| Extent {
                offset: run.start * UNIT,
                len: run.len * UNIT,
                slice: run.slice,
                slice_offset: run.slice_start * UNIT,
                slice_len: lens[&run.slice] * UNIT,
            })
            .collect();
        let written = Timestamp::now();
        let publish =
            Publish { inode, truncate: truncate.map(|units| units * UNIT), size: size * UNIT, written, extents };
        let answer = self.mutate(Mutation::Publish(publish)).await;
        let expected = self.reference.publish(node, truncate.map(|units| units as usize), &runs, size as usize);
        match &answer {
            Ok(Applied::Entry { attr, .. }) => assert_eq!(attr.mtime, written),
            // A refused writer deletes what it uploaded.
            _ => {
                for (slice, len) in &lens {
                    let blocks = 0..SliceId::blocks(len * UNIT);
                    let keys: Vec<_> = blocks.map(|block| slice.object_key(self.volume, block)).collect();
                    self.objects.delete(&keys).await.unwrap();
                }
            }
        }
        self.lens.extend(lens);
        self.check_entry(answer, expected.map(|()| node));
    }

    /// Everything that can be read is what the reference says.
    async fn compare(&self) {
        for (node, expected) in self.reference.nodes.iter().enumerate() {
            let (ctx, inode) = (context(), self.inodes[node]);
            self.check_attr(node, &self.service.getattr(&ctx, inode).await.unwrap());
            for name in XATTRS {
                let value = self.service.getxattr(&ctx, inode, name.as_bytes()).await;
                let wanted = expected.xattrs.get(name).map(|value| Bytes::from(value.clone()));
                assert_eq!(value, wanted.ok_or(MetaError::NoAttribute));
            }
            assert_eq!(self.service.listxattr(&ctx, inode).await.unwrap().len(), expected.xattrs.len());
            match expected.kind {
                FileKind::Directory => self.compare_dir(inode, expected).await,
                FileKind::File => assert_eq!(self.content(inode, expected.size()).await, expected.content),
                FileKind::Symlink => assert_eq!(self.service.readlink(&ctx, inode).await.unwrap(), &b"target"[..]),
                _ => {}
            }
        }
        let usage = self.engine.volume(self.volume).await.unwrap().usage;
        assert_eq!((usage.bytes, usage.inodes), self.reference.used());
    }

    async fn compare_dir(&self, inode: InodeId, expected: &Node) {
        let mut listed = BTreeMap::new();
        let mut after = 0;
        loop {
            let page = self.service.readdir(&context(), inode, after, 2, true).await.unwrap();
            for entry in page.entries {
                after = entry.cookie;
                let node = self.inodes.iter().position(|inode| *inode == entry.inode).unwrap();
                self.check_attr(node, entry.attr.as_ref().unwrap());
                let found = self.service.lookup(&context(), inode, &entry.name).await.unwrap();
                assert_eq!(found.inode, entry.inode);
                assert!(listed.insert(entry.name.to_string(), node).is_none());
            }
            if page.end {
                assert_eq!(page.parent, self.inodes[expected.parent]);
                break;
            }
        }
        let wanted: BTreeMap<String, usize> =
            expected.entries.iter().map(|(name, node)| ((*name).to_owned(), *node)).collect();
        assert_eq!(listed, wanted);
    }

    async fn content(&self, inode: InodeId, size: u64) -> Vec<Option<(SliceId, u64)>> {
        let mut content = vec![None; (size / UNIT) as usize];
        let (mut from, mut end) = (0, 0);
        loop {
            let view = self.service.body(&context(), inode, from).await.unwrap();
            for extent in view.extents {
                assert!(extent.offset >= end && extent.end() <= size, "{extent:?} after {end}, size {size}");
                assert_eq!(extent.slice_len, self.lens[&extent.slice] * UNIT);
                end = extent.end();
                for unit in 0..extent.len / UNIT {
                    let at = (extent.offset / UNIT + unit) as usize;
                    content[at] = Some((extent.slice, extent.slice_offset / UNIT + unit));
                }
            }
            if view.complete_to == u64::MAX {
                return content;
            }
            from = view.complete_to;
        }
    }

    /// With nothing open any more, what has no name goes, and so do all objects that no body names.
    async fn compare_rest(&self) {
        for inode in &self.inodes[1..] {
            self.service.closed(*inode);
        }
        let mut named = BTreeSet::from([owner_key(self.volume)]);
        for node in self.reference.nodes.iter().filter(|node| node.nlink > 0) {
            for (slice, _) in node.content.iter().flatten() {
                let blocks = SliceId::blocks(self.lens[slice] * UNIT);
                named.extend((0..blocks).map(|block| slice.object_key(self.volume, block)));
            }
        }
        let named: Vec<_> = named.into_iter().collect();
        let end = Instant::now() + PATIENCE;
        loop {
            let usage = self.engine.volume(self.volume).await.unwrap().usage;
            let reclaimed = (usage.bytes, usage.inodes) == self.reference.reachable();
            if reclaimed && self.objects.keys() == named {
                break;
            }
            assert!(
                Instant::now() < end,
                "{usage:?} for {:?}; objects {:?}, named {named:?}",
                self.reference.reachable(),
                self.objects.keys()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Makes ranges of a file out of any numbers: sorted, without overlap, each in one chunk, with its place in the slice
/// of that chunk.
fn place(ranges: &[(u64, u64)], inode: InodeId, upload: UploadId) -> Vec<Run> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    let mut used: BTreeMap<u64, u64> = BTreeMap::new();
    for (start, len) in sorted {
        let (mut start, end) = (start.max(at), (start + len).max(at));
        while start < end {
            let chunk = start / CHUNK_UNITS;
            let len = (end - start).min((chunk + 1) * CHUNK_UNITS - start);
            let slice_start = used.entry(chunk).or_insert(0);
            let slice = SliceId { upload, inode, chunk: chunk as u32 };
            // Every other unit of the slice is for something that was overwritten before it was published.
            runs.push(Run { start, len, slice, slice_start: *slice_start + 1 });
            *slice_start += len + 1;
            start += len;
        }
        at = end;
    }
    runs
}

fn check(ops: &[Op], quota: (u64, u64)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut pair = Pair::new(quota).await;
        for (number, op) in ops.iter().enumerate() {
            pair.run(op).await;
            if number % 32 == 31 {
                pair.compare().await;
            }
        }
        pair.compare().await;
        pair.compare_rest().await;
        pair.service.close().await.unwrap();
        pair.engine.close().await.unwrap();
    });
}

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

fn config() -> ProptestConfig {
    let cases = setting("NOKV_TEST_CASES", 150) as u32;
    ProptestConfig { cases, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() }
}

fn history() -> impl Strategy<Value = Vec<Op>> {
    let most = setting("NOKV_TEST_OPS", 100);
    vec(op(), most / 5..=most)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_engine_is_what_its_reference_is(ops in history()) {
        check(&ops, (0, 0));
    }

    #[test]
    fn quotas_are_exact(ops in history()) {
        check(&ops, (150 * UNIT, 12));
    }
}
