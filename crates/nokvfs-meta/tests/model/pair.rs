//! A volume of an engine, driven side by side with its reference.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_meta::service::{MetaResult, MetadataService, VolumeService};
use nokvfs_meta::{Engine, LocalService};
use nokvfs_object::{MemoryStore, ObjectStore};
use nokvfs_types::{
    Ack, Applied, CHUNK_SIZE, Extent, Fallocate, FileKind, InodeId, MetaError, Mutation, Name, NewNode, Publish,
    SessionId, SessionRequest, SetAttr, SetTime, SliceId, Timestamp, Token, UploadId, VolumeId, VolumeSpec, owner_key,
};

use crate::op::Op;
use crate::reference::{Node, Reference, Run, UNIT};
use crate::view::{View, XATTRS};
use crate::world::{CALLER, PATIENCE, World, context};

pub const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const CHUNK_UNITS: u64 = CHUNK_SIZE / UNIT;
/// Three chunks and a bit.
pub const MOST_UNITS: u64 = 200;
/// Uploads that are reserved at a time.
const UPLOADS: u32 = 16;

/// A session of a volume, and what the volume must show.
pub struct Pair {
    engine: Arc<Engine>,
    pub service: Arc<LocalService>,
    objects: Arc<MemoryStore>,
    pub volume: VolumeId,
    pub token: Token,
    pub view: View,
    uploads: Range<u64>,
    /// The first upload of this session.
    first: u64,
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

pub fn request(volume: VolumeId, token: Token) -> SessionRequest {
    SessionRequest { volume, token, client: "model".into(), read_only: false, snapshot: None, resume: None }
}

impl Pair {
    /// A new volume.
    pub async fn new(world: &World, name: &str, quota: (u64, u64)) -> Pair {
        let spec = VolumeSpec {
            name: name.into(),
            quota_bytes: quota.0,
            quota_inodes: quota.1,
            root_mode: 0o755,
            root_uid: 1,
            root_gid: 2,
        };
        let (info, token) = world.engine.create_volume(spec).await.unwrap();
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
        let view = View {
            reference: Reference::new(root, quota, CALLER.0, CALLER.1),
            inodes: vec![InodeId::ROOT],
            lens: BTreeMap::new(),
            owners: BTreeMap::new(),
        };
        Pair::open(world, (info.id, token), view, None).await
    }

    /// Mounts a volume, or takes a session of it over.
    pub async fn open(
        world: &World,
        (volume, token): (VolumeId, Token),
        view: View,
        resume: Option<(SessionId, u32)>,
    ) -> Pair {
        let wanted = SessionRequest { resume, ..request(volume, token) };
        let service = LocalService::open(Arc::clone(&world.engine), wanted).await.unwrap();
        for inode in &view.inodes[1..] {
            // Kept when its last link goes, so that the reference need not know when that is.
            service.opened(*inode);
        }
        let (engine, objects) = (Arc::clone(&world.engine), Arc::clone(&world.objects));
        Pair { engine, service, objects, volume, token, view, uploads: 0..0, first: u64::MAX }
    }

    fn node(&self, number: usize) -> usize {
        number % self.view.inodes.len()
    }

    /// Mostly a directory, sometimes not.
    fn dir(&self, number: usize) -> usize {
        let dirs: Vec<_> = (0..self.view.inodes.len())
            .filter(|node| self.view.reference.nodes[*node].kind == FileKind::Directory)
            .collect();
        if number % 16 == 15 { self.node(number / 16) } else { dirs[number % dirs.len()] }
    }

    async fn mutate(&self, mutation: Mutation) -> MetaResult<Applied> {
        bare(self.service.mutate(&context(), mutation).await)
    }

    fn check_entry(&self, answer: MetaResult<Applied>, expected: MetaResult<usize>) {
        match (answer, expected) {
            (Ok(Applied::Entry { attr, .. }), Ok(node)) => self.view.check_attr(node, &attr),
            (Err(answer), Err(expected)) => assert_eq!(answer, expected),
            (answer, expected) => panic!("{answer:?}, expected {expected:?}"),
        }
    }

    pub async fn run(&mut self, op: &Op) {
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
                    parent: self.view.inodes[parent],
                    name: name(number),
                    node,
                    mode,
                    open_existing,
                    ack: Ack::Early,
                };
                let answer = self.mutate(create).await;
                let expected = self.view.reference.create(parent, NAMES[number], kind, mode, open_existing);
                if let (Ok(Applied::Entry { attr, created }), Ok((node, new))) = (&answer, &expected) {
                    assert_eq!(created, new);
                    if *new {
                        assert_eq!(*node, self.view.inodes.len());
                        assert!(!self.view.inodes.contains(&attr.inode), "{} was given out twice", attr.inode);
                        self.view.inodes.push(attr.inode);
                        // Kept when its last link goes, so that the reference need not know when that is.
                        self.service.opened(attr.inode);
                    }
                }
                self.check_entry(answer, expected.map(|(node, _)| node));
            }
            Op::Link { node, dir, name: number } => {
                let (node, parent) = (self.node(node), self.dir(dir));
                let link = Mutation::Link {
                    inode: self.view.inodes[node],
                    parent: self.view.inodes[parent],
                    name: name(number),
                };
                let answer = self.mutate(link).await;
                let expected = self.view.reference.link(node, parent, NAMES[number]);
                self.check_entry(answer, expected.map(|()| node));
            }
            Op::Unlink { dir, name: number, want_dir } => {
                let parent = self.dir(dir);
                let (at, text) = (self.view.inodes[parent], name(number));
                let answer = self
                    .mutate(if want_dir {
                        Mutation::Rmdir { parent: at, name: text }
                    } else {
                        Mutation::Unlink { parent: at, name: text }
                    })
                    .await;
                let expected = self.view.reference.unlink(parent, NAMES[number], want_dir);
                let inodes = &self.view.inodes;
                assert_eq!(answer, expected.map(|(node, nlink)| Applied::Removed { inode: inodes[node], nlink }));
            }
            Op::Rename { from, to, mode } => {
                let (from, to) = ((self.dir(from.0), from.1), (self.dir(to.0), to.1));
                let rename = Mutation::Rename {
                    parent: self.view.inodes[from.0],
                    name: name(from.1),
                    new_parent: self.view.inodes[to.0],
                    new_name: name(to.1),
                    mode,
                };
                let answer = self.mutate(rename).await;
                let expected = self.view.reference.rename((from.0, NAMES[from.1]), (to.0, NAMES[to.1]), mode);
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
                let answer = self.mutate(Mutation::SetAttr { inode: self.view.inodes[node], set }).await;
                let expected = self.view.reference.resize(node, units as usize);
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
                let answer = self.mutate(Mutation::SetAttr { inode: self.view.inodes[node], set }).await;
                let expected = &mut self.view.reference.nodes[node];
                expected.mode = mode;
                (expected.uid, expected.gid) = owner.unwrap_or((expected.uid, expected.gid));
                if let Ok(Applied::Entry { attr, .. }) = &answer {
                    assert_eq!(attr.atime, Timestamp(5));
                }
                self.check_entry(answer, Ok(node));
            }
            Op::Publish { node, truncate, runs, size } => self.publish(node, truncate, &runs, size).await,
            Op::Fallocate { node, from, units, unmap, size } => {
                let node = self.file_or_not(node);
                let (inode, offset, len) = (self.view.inodes[node], from * UNIT, units * UNIT);
                let wanted = Fallocate { inode, offset, len, unmap, size: size * UNIT };
                let answer = self.mutate(Mutation::Fallocate(wanted)).await;
                let reference = &mut self.view.reference;
                let expected = reference.fallocate(node, from as usize, units as usize, unmap, size as usize);
                self.check_entry(answer, expected.map(|()| node));
            }
            Op::SetXattr { node, name, len, mode } => {
                let (node, name) = (self.node(node), XATTRS[name]);
                let value = vec![7; len];
                let set = Mutation::SetXattr {
                    inode: self.view.inodes[node],
                    name: Bytes::from_static(name.as_bytes()),
                    value: Bytes::from(value.clone()),
                    mode,
                };
                let answer = self.mutate(set).await;
                assert_eq!(answer, self.view.reference.set_xattr(node, name, value, mode).map(|()| Applied::Unit));
            }
            Op::RemoveXattr { node, name } => {
                let (node, name) = (self.node(node), XATTRS[name]);
                let name_bytes = Bytes::from_static(name.as_bytes());
                let answer =
                    self.mutate(Mutation::RemoveXattr { inode: self.view.inodes[node], name: name_bytes }).await;
                assert_eq!(answer, self.view.reference.remove_xattr(node, name).map(|()| Applied::Unit));
            }
            other => panic!("{other:?} is not on an inode"),
        }
    }

    fn file(&self, number: usize) -> Option<usize> {
        let is_file = |node: &usize| self.view.reference.nodes[*node].kind == FileKind::File;
        let files: Vec<_> = (0..self.view.inodes.len()).filter(is_file).collect();
        (!files.is_empty()).then(|| files[number % files.len()])
    }

    /// Mostly a file, sometimes not.
    fn file_or_not(&self, number: usize) -> usize {
        match self.file(number) {
            Some(file) if number % 16 != 15 => file,
            _ => self.node(number / 16),
        }
    }

    async fn upload(&mut self) -> UploadId {
        if self.uploads.is_empty() {
            let reserve = Mutation::ReserveUploads { count: UPLOADS, settled: UploadId(0) };
            let Applied::Uploads { first, .. } = self.service.mutate(&context(), reserve).await.unwrap() else {
                panic!("no uploads");
            };
            self.uploads = first.0..first.0 + u64::from(UPLOADS);
            self.first = self.first.min(first.0);
        }
        self.uploads.start += 1;
        UploadId(self.uploads.start - 1)
    }

    /// Puts a slice's objects as far as they are not there.
    async fn put(&mut self, slice: SliceId, len: u64) {
        let known = self.view.lens.insert(slice, len).map_or(0, |known| SliceId::blocks(known * UNIT));
        self.view.owners.insert(slice, self.volume);
        for block in known..SliceId::blocks(len * UNIT) {
            self.objects.put(&slice.object_key(self.volume, block), Bytes::from_static(b"x")).await.unwrap();
        }
    }

    async fn publish(&mut self, node: usize, truncate: Option<u64>, ranges: &[(u64, u64)], size: u64) {
        let node = self.file_or_not(node);
        let upload = self.upload().await;
        let runs = place(ranges, self.view.inodes[node], upload);
        let mut lens: BTreeMap<SliceId, u64> = BTreeMap::new();
        for run in &runs {
            // A slice may hold more than is named of it.
            lens.insert(run.slice, run.slice_start + run.len + 1);
        }
        for (slice, len) in &lens {
            self.put(*slice, *len).await;
        }
        if !self.send(node, truncate, &runs, size).await {
            // A refused writer deletes what it uploaded.
            for (slice, len) in &lens {
                let blocks = 0..SliceId::blocks(len * UNIT);
                let keys: Vec<_> = blocks.map(|block| slice.object_key(self.volume, block)).collect();
                self.objects.delete(&keys).await.unwrap();
            }
        }
    }

    /// Publishes a pack that some files share.
    pub async fn pack(&mut self, files: &[usize], at: u64) {
        let files: Vec<_> = files.iter().filter_map(|file| self.file(*file)).collect();
        if files.is_empty() {
            return;
        }
        let pack = SliceId::pack(self.upload().await);
        self.put(pack, 1).await;
        for file in files {
            assert!(self.send(file, None, &[Run { start: at, len: 1, slice: pack, slice_start: 0 }], 0).await);
        }
    }

    /// Publishes more of a slice that this session uploaded.
    pub async fn grow(&mut self, node: usize, at: u64) {
        let Some(node) = self.file(node) else { return };
        let content = &self.view.reference.nodes[node].content;
        let Some(slice) =
            content.iter().flatten().map(|(slice, _)| *slice).find(|slice| {
                !slice.is_pack() && slice.upload.0 >= self.first && self.view.owners[slice] == self.volume
            })
        else {
            return;
        };
        let len = self.view.lens[&slice];
        self.put(slice, len + 3).await;
        let start = u64::from(slice.chunk) * CHUNK_UNITS + at % (CHUNK_UNITS - 2);
        assert!(self.send(node, None, &[Run { start, len: 2, slice, slice_start: len }], 0).await);
    }

    /// What was uploaded so far is published no more.
    pub async fn settle(&mut self) {
        let settled = UploadId(self.uploads.start);
        self.service.mutate(&context(), Mutation::ReserveUploads { count: 0, settled }).await.unwrap();
    }

    /// Answers whether it was taken.
    async fn send(&mut self, node: usize, truncate: Option<u64>, runs: &[Run], size: u64) -> bool {
        let extents = runs
            .iter()
            .map(|run| Extent {
                offset: run.start * UNIT,
                len: run.len * UNIT,
                slice: run.slice,
                slice_offset: run.slice_start * UNIT,
                slice_len: self.view.lens[&run.slice] * UNIT,
            })
            .collect();
        let (inode, written) = (self.view.inodes[node], Timestamp::now());
        let publish =
            Publish { inode, truncate: truncate.map(|units| units * UNIT), size: size * UNIT, written, extents };
        let answer = self.mutate(Mutation::Publish(publish)).await;
        let expected = self.view.reference.publish(node, truncate.map(|units| units as usize), runs, size as usize);
        if let Ok(Applied::Entry { attr, .. }) = &answer {
            assert_eq!(attr.mtime, written);
        }
        let taken = answer.is_ok();
        self.check_entry(answer, expected.map(|()| node));
        taken
    }

    /// Everything that can be read is what the reference says.
    pub async fn compare(&self) {
        self.view.compare(&self.service).await;
        let usage = self.engine.volume(self.volume).await.unwrap().usage;
        assert_eq!((usage.bytes, usage.inodes), self.view.reference.used());
    }

    /// With nothing open any more, what has no name goes, and so do all objects that no body names.
    pub async fn compare_rest(&self) {
        for inode in &self.view.inodes[1..] {
            self.service.closed(*inode);
        }
        let view = self.view.named();
        let mut named = vec![owner_key(self.volume)];
        for (volume, slice) in view.slices() {
            let blocks = SliceId::blocks(self.view.lens[&slice] * UNIT);
            named.extend((0..blocks).map(|block| slice.object_key(volume, block)));
        }
        named.sort_unstable();
        self.until_reclaimed().await;
        let end = Instant::now() + PATIENCE;
        while self.objects.keys() != named {
            assert!(Instant::now() < end, "objects {:?}, named {named:?}", self.objects.keys());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until what has no name is gone.
    pub async fn until_reclaimed(&self) {
        let wanted = self.view.reference.reachable();
        let end = Instant::now() + PATIENCE;
        loop {
            let usage = self.engine.volume(self.volume).await.unwrap().usage;
            if (usage.bytes, usage.inodes) == wanted {
                return;
            }
            assert!(Instant::now() < end, "{usage:?} for {wanted:?}");
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
