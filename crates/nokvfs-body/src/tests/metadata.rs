//! A small `MetadataService` in memory: bodies only. It checks what a real one relies on (objects are there before they
//! are published, chunks are bounded) and collects objects that no body names: packs once they are settled, others at
//! once. Only one mount of a volume may write packs: uploads of several are not told apart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use nokvfs_meta::service::{MetaResult, MetadataService, RequestContext};
use nokvfs_object::{MemoryStore, ObjectStore};
use nokvfs_types::{
    Ack, Applied, Attr, BLOCK_SIZE, BodyView, CHUNK_SIZE, Extent, Fallocate, FileKind, FsStat, InodeId,
    MAX_CHUNK_EXTENTS, MetaError, MountId, Mutation, Name, Publish, SliceId, Timestamp, UploadId, Version, VolumeId,
    VolumeInfo, VolumeSpec, VolumeState, VolumeUsage,
};
use parking_lot::Mutex;

#[derive(Debug)]
pub(super) struct Metadata {
    volume: VolumeInfo,
    objects: Arc<MemoryStore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<InodeId, (Attr, Vec<Extent>)>,
    version: u64,
    next_upload: u64,
    publishes: u64,
    most_extents: usize,
    reservations: u64,
    settled: u64,
    /// Packs that were named, are not any more, and are not settled.
    released: BTreeMap<u64, String>,
    /// Answers of the next publishes: fail before or after taking effect.
    faults: VecDeque<(bool, MetaError)>,
    views: u64,
    restored: Vec<(InodeId, u32)>,
}

impl Metadata {
    pub fn new(objects: Arc<MemoryStore>) -> Arc<Self> {
        let spec = VolumeSpec {
            name: "test".to_owned(),
            quota_bytes: 0,
            quota_inodes: 0,
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
        };
        let volume = VolumeInfo {
            id: VolumeId::random(),
            mount: MountId(1),
            spec,
            state: VolumeState::Active,
            usage: VolumeUsage::default(),
            sessions: 1,
            origins: Vec::new(),
        };
        Arc::new(Self { volume, objects, state: Mutex::default() })
    }

    pub fn create(&self, inode: u64) -> BodyView {
        let mut state = self.state.lock();
        state.version += 1;
        let attr = Attr {
            inode: InodeId(inode),
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            mapped: 0,
            rdev: 0,
            atime: Timestamp(0),
            mtime: Timestamp(0),
            ctime: Timestamp(0),
            btime: Timestamp(0),
            version: Version(state.version),
        };
        state.files.insert(InodeId(inode), (attr.clone(), Vec::new()));
        BodyView { attr, extents: Vec::new(), complete_to: u64::MAX }
    }

    /// The server failed before the file was durable.
    pub fn lose(&self, inode: u64) {
        self.state.lock().files.remove(&InodeId(inode)).unwrap();
    }

    /// Files that were made again, and by whom.
    pub fn restored(&self) -> Vec<(InodeId, u32)> {
        self.state.lock().restored.clone()
    }

    pub fn fail_publish(&self, after: bool, error: MetaError) {
        self.state.lock().faults.push_back((after, error));
    }

    pub fn publishes(&self) -> u64 {
        self.state.lock().publishes
    }

    pub fn reservations(&self) -> u64 {
        self.state.lock().reservations
    }

    pub fn settled(&self) -> u64 {
        self.state.lock().settled
    }

    pub fn views(&self) -> u64 {
        self.state.lock().views
    }

    /// The most extents that any chunk ever had.
    pub fn most_extents(&self) -> usize {
        self.state.lock().most_extents
    }

    pub fn attr(&self, inode: u64) -> Attr {
        self.state.lock().files[&InodeId(inode)].0.clone()
    }

    /// Objects that no body names.
    pub fn unnamed(&self) -> Vec<String> {
        let named = self.named();
        self.objects.keys().into_iter().filter(|key| !named.contains(key)).collect()
    }

    fn named(&self) -> BTreeSet<String> {
        let state = self.state.lock();
        let extents = state.files.values().flat_map(|(_, extents)| extents);
        extents.flat_map(|extent| self.keys(extent.slice, extent.slice_len)).collect()
    }

    fn keys(&self, slice: SliceId, len: u64) -> Vec<String> {
        (0..SliceId::blocks(len)).map(|block| slice.object_key(self.volume.id, block)).collect()
    }

    /// What the extents refer to is there.
    fn check_objects(&self, extents: &[Extent]) -> MetaResult<()> {
        let keys: BTreeSet<_> = self.objects.keys().into_iter().collect();
        for extent in extents {
            assert_eq!(extent.offset / CHUNK_SIZE, (extent.end() - 1) / CHUNK_SIZE, "crosses a chunk");
            assert!(extent.slice_offset + extent.len <= extent.slice_len, "{extent:?} is beyond its slice");
            let first = extent.slice_offset / BLOCK_SIZE;
            let last = (extent.slice_offset + extent.len - 1) / BLOCK_SIZE;
            for block in first..=last {
                let key = extent.slice.object_key(self.volume.id, block as u32);
                assert!(keys.contains(&key), "published before it was uploaded: {key}");
            }
        }
        Ok(())
    }

    fn publish(&self, publish: &Publish) -> MetaResult<Attr> {
        self.check_objects(&publish.extents)?;
        let mut state = self.state.lock();
        let version = state.version + 1;
        let (attr, extents) = state.files.get_mut(&publish.inode).ok_or(MetaError::NotFound)?;
        let mut laid = Vec::new();
        for old in extents.iter() {
            let mut start = old.offset;
            for new in &publish.extents {
                laid.extend(old.clip(start, new.offset.max(start)));
                start = start.max(new.end().min(old.end()).max(old.offset));
            }
            laid.extend(old.clip(start, u64::MAX));
        }
        laid.extend(publish.extents.iter().copied());
        laid.sort_by_key(|extent| extent.offset);
        for pair in laid.windows(2) {
            assert!(pair[0].end() <= pair[1].offset, "overlap: {pair:?}");
        }
        let most = most_in_a_chunk(&laid)?;
        *extents = laid;
        attr.size = attr.size.max(publish.size);
        attr.mtime = publish.written;
        attr.version = Version(version);
        attr.mapped = extents.iter().map(|extent| extent.len).sum();
        let attr = attr.clone();
        state.version = version;
        state.most_extents = state.most_extents.max(most);
        Ok(attr)
    }

    fn fallocate(&self, wanted: &Fallocate) -> MetaResult<Attr> {
        let mut state = self.state.lock();
        let version = state.version + 1;
        let (attr, extents) = state.files.get_mut(&wanted.inode).ok_or(MetaError::NotFound)?;
        if wanted.unmap {
            let (from, to) = (wanted.offset, wanted.offset + wanted.len);
            let left = |extent: &Extent| [extent.clip(0, from), extent.clip(to, u64::MAX)];
            let left: Vec<_> = extents.iter().flat_map(left).flatten().collect();
            most_in_a_chunk(&left)?;
            *extents = left;
        }
        attr.size = attr.size.max(wanted.size);
        attr.mtime = Timestamp::now();
        attr.version = Version(version);
        attr.mapped = extents.iter().map(|extent| extent.len).sum();
        let attr = attr.clone();
        state.version = version;
        Ok(attr)
    }

    fn truncate(&self, inode: InodeId, size: u64) -> MetaResult<Attr> {
        let mut state = self.state.lock();
        let version = state.version + 1;
        let (attr, extents) = state.files.get_mut(&inode).ok_or(MetaError::NotFound)?;
        *extents = extents.iter().filter_map(|extent| extent.clip(0, size)).collect();
        attr.size = size;
        attr.version = Version(version);
        let attr = attr.clone();
        state.version = version;
        Ok(attr)
    }

    /// Deletes what was named and is not any more.
    async fn collect(&self, before: BTreeSet<String>) {
        let named = self.named();
        let garbage: Vec<_> = {
            let mut state = self.state.lock();
            let mut garbage: Vec<_> = before.difference(&named).cloned().collect();
            garbage.retain(|key| match pack_of(key).filter(|upload| *upload >= state.settled) {
                Some(upload) => {
                    state.released.insert(upload, key.clone());
                    false
                }
                None => true,
            });
            let unsettled = state.settled;
            let later = state.released.split_off(&unsettled);
            garbage.extend(std::mem::replace(&mut state.released, later).into_values());
            garbage.retain(|key| !named.contains(key));
            garbage
        };
        for keys in garbage.chunks(1000) {
            self.objects.delete(keys).await.unwrap();
        }
    }
}

/// How many extents the chunk with the most has.
fn most_in_a_chunk(extents: &[Extent]) -> MetaResult<usize> {
    let mut chunks: BTreeMap<u64, usize> = BTreeMap::new();
    for extent in extents {
        *chunks.entry(extent.offset / CHUNK_SIZE).or_default() += 1;
    }
    match chunks.iter().find(|(_, count)| **count > MAX_CHUNK_EXTENTS) {
        Some((chunk, _)) => Err(MetaError::TooFragmented(*chunk as u32)),
        None => Ok(chunks.into_values().max().unwrap_or(0)),
    }
}

/// The upload of a pack's object.
pub(super) fn pack_of(key: &str) -> Option<u64> {
    let parts: Vec<_> = key.split('/').collect();
    (parts[4] == "0").then(|| parts[3].parse().unwrap())
}

#[async_trait::async_trait]
impl MetadataService for Metadata {
    fn volume(&self) -> &VolumeInfo {
        &self.volume
    }

    async fn lookup(&self, _: &RequestContext, _: InodeId, _: &Name) -> MetaResult<Attr> {
        Err(MetaError::NotFound)
    }

    async fn getattr(&self, _: &RequestContext, inode: InodeId) -> MetaResult<Attr> {
        self.state.lock().files.get(&inode).map(|(attr, _)| attr.clone()).ok_or(MetaError::NotFound)
    }

    async fn readdir(
        &self,
        _: &RequestContext,
        _: InodeId,
        _: u64,
        _: u32,
        _: bool,
    ) -> MetaResult<nokvfs_types::DirPage> {
        Err(MetaError::NotDirectory)
    }

    async fn readlink(&self, _: &RequestContext, _: InodeId) -> MetaResult<Bytes> {
        Err(MetaError::NotFound)
    }

    async fn getxattr(&self, _: &RequestContext, _: InodeId, _: &[u8]) -> MetaResult<Bytes> {
        Err(MetaError::NoAttribute)
    }

    async fn listxattr(&self, _: &RequestContext, _: InodeId) -> MetaResult<Vec<Bytes>> {
        Ok(Vec::new())
    }

    async fn body(&self, _: &RequestContext, inode: InodeId, from: u64) -> MetaResult<BodyView> {
        tokio::task::yield_now().await;
        let mut state = self.state.lock();
        state.views += 1;
        let (attr, extents) = state.files.get(&inode).ok_or(MetaError::NotFound)?;
        // One chunk at a time, as for a long body.
        let to = (from / CHUNK_SIZE + 1) * CHUNK_SIZE;
        let extents = extents.iter().filter(|extent| extent.end() > from && extent.offset < to).copied().collect();
        let complete_to = if to >= attr.size { u64::MAX } else { to };
        Ok(BodyView { attr: attr.clone(), extents, complete_to })
    }

    async fn mutate(&self, ctx: &RequestContext, mutation: Mutation) -> MetaResult<Applied> {
        tokio::task::yield_now().await;
        let before = self.named();
        let attr = match mutation {
            Mutation::ReserveUploads { count, settled } => {
                let first = {
                    let mut state = self.state.lock();
                    state.reservations += 1;
                    state.settled = settled.0;
                    let first = UploadId(state.next_upload + 1);
                    state.next_upload += u64::from(count);
                    first
                };
                self.collect(BTreeSet::new()).await;
                return Ok(Applied::Uploads { first, count });
            }
            Mutation::Publish(publish) => {
                let fault = {
                    let mut state = self.state.lock();
                    state.publishes += 1;
                    state.faults.pop_front()
                };
                match fault {
                    None => self.publish(&publish)?,
                    Some((after, error)) => {
                        if after {
                            self.publish(&publish)?;
                            self.collect(before).await;
                        }
                        return Err(error);
                    }
                }
            }
            Mutation::Fallocate(wanted) => self.fallocate(&wanted)?,
            Mutation::SetAttr { inode, set } => self.truncate(inode, set.size.unwrap())?,
            Mutation::Create { ack: Ack::Restore(inode), .. } => {
                if self.state.lock().files.contains_key(&inode) {
                    return Err(MetaError::Exists);
                }
                self.state.lock().restored.push((inode, ctx.caller.uid));
                self.create(inode.0).attr
            }
            other => return Err(MetaError::Invalid(format!("{other:?}"))),
        };
        self.collect(before).await;
        Ok(Applied::Entry { attr, created: false })
    }

    async fn statfs(&self, _: &RequestContext) -> MetaResult<FsStat> {
        Ok(FsStat { used_bytes: 0, total_bytes: 0, used_inodes: 0, total_inodes: 0 })
    }

    async fn lock(
        &self,
        _: &RequestContext,
        lock: nokvfs_types::Lock,
        _: Option<nokvfs_meta::service::GiveUp>,
    ) -> MetaResult<()> {
        Err(MetaError::Invalid(format!("{lock:?}")))
    }

    async fn test_lock(
        &self,
        _: &RequestContext,
        lock: nokvfs_types::Lock,
    ) -> MetaResult<Option<nokvfs_types::HeldLock>> {
        Err(MetaError::Invalid(format!("{lock:?}")))
    }

    fn opened(&self, _: InodeId) {}

    fn closed(&self, _: InodeId) {}

    async fn close(&self) -> MetaResult<()> {
        Ok(())
    }
}
