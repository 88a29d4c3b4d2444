//! What the reference model does not tell: times, limits, large bodies, and what is left behind by refusals.
#![cfg(feature = "holt")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_meta::service::{MetaResult, MetadataService, RequestContext, SessionService, VolumeService};
use nokvfs_meta::{Engine, EngineOptions, LocalService};
use nokvfs_object::{MemoryStore, ObjectStore};
use nokvfs_types::{
    Ack, Applied, Attr, BLOCK_SIZE, CHUNK_SIZE, Caller, Extent, Fallocate, InodeId, MAX_XATTR_VALUE, MetaError,
    Mutation, Name, NewNode, OpId, Publish, RenameMode, SessionRequest, SetAttr, SliceId, Stamp, Timestamp, UploadId,
    VolumeId, VolumeSpec, XattrMode, owner_key,
};

const ROOT: InodeId = InodeId::ROOT;
const PATIENCE: Duration = Duration::from_secs(60);

struct Volume {
    engine: Arc<Engine>,
    service: Arc<LocalService>,
    objects: Arc<MemoryStore>,
    id: VolumeId,
    _dir: tempfile::TempDir,
}

fn context() -> RequestContext {
    let caller = Caller { uid: 7, gid: 8, groups: Arc::from([]) };
    RequestContext { caller, op: OpId(0), deadline: Instant::now() + PATIENCE }
}

fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}

impl Volume {
    async fn new() -> Volume {
        let dir = tempfile::tempdir().unwrap();
        let mut options = EngineOptions::new(dir.path().join("meta"));
        options.store.low_water = 0;
        options.store.memory_limit = 256 << 20;
        options.garbage_delay = Duration::ZERO;
        options.interval = Duration::from_millis(20);
        let objects = Arc::new(MemoryStore::new());
        let engine = Engine::open(options, Arc::clone(&objects) as Arc<dyn ObjectStore>).await.unwrap();
        let spec = VolumeSpec {
            name: "v".into(),
            quota_bytes: 0,
            quota_inodes: 0,
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
        };
        let (info, token) = engine.create_volume(spec).await.unwrap();
        let request = SessionRequest {
            volume: info.id,
            token,
            client: "test".into(),
            read_only: false,
            snapshot: None,
            resume: None,
        };
        let service = LocalService::open(Arc::clone(&engine), request).await.unwrap();
        Volume { engine, service, objects, id: info.id, _dir: dir }
    }

    async fn apply(&self, mutation: Mutation) -> MetaResult<Applied> {
        self.service.mutate(&context(), mutation).await
    }

    async fn make(&self, parent: InodeId, text: &str, node: NewNode) -> InodeId {
        let create =
            Mutation::Create { parent, name: name(text), node, mode: 0o644, open_existing: false, ack: Ack::Durable };
        match self.apply(create).await.unwrap() {
            Applied::Entry { attr, created: true } => attr.inode,
            other => panic!("{other:?}"),
        }
    }

    async fn attr(&self, inode: InodeId) -> Attr {
        self.service.getattr(&context(), inode).await.unwrap()
    }

    async fn uploads(&self, count: u32) -> UploadId {
        match self.apply(Mutation::ReserveUploads { count, settled: UploadId(0) }).await.unwrap() {
            Applied::Uploads { first, .. } => first,
            other => panic!("{other:?}"),
        }
    }

    async fn put(&self, slice: SliceId, len: u64) {
        for block in 0..SliceId::blocks(len) {
            self.objects.put(&slice.object_key(self.id, block), Bytes::from_static(b"x")).await.unwrap();
        }
    }

    fn keys_of(&self, slice: SliceId, len: u64) -> BTreeSet<String> {
        (0..SliceId::blocks(len)).map(|block| slice.object_key(self.id, block)).collect()
    }

    /// Waits until the objects are these and the marker.
    async fn only(&self, wanted: BTreeSet<String>) {
        let mut wanted = wanted;
        wanted.insert(owner_key(self.id));
        let wanted: Vec<_> = wanted.into_iter().collect();
        let end = Instant::now() + PATIENCE;
        while self.objects.keys() != wanted {
            assert!(Instant::now() < end, "{:?}, wanted {wanted:?}", self.objects.keys());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn publish(inode: InodeId, extents: Vec<Extent>) -> Mutation {
    Mutation::Publish(Publish { inode, truncate: None, size: 0, written: Timestamp(77), extents })
}

fn whole(offset: u64, len: u64, slice: SliceId) -> Extent {
    Extent { offset, len, slice, slice_offset: 0, slice_len: len }
}

fn slice(upload: UploadId, more: u64, inode: InodeId, chunk: u32) -> SliceId {
    SliceId { upload: UploadId(upload.0 + more), inode, chunk }
}

fn rename(from: (InodeId, &str), to: (InodeId, &str), mode: RenameMode) -> Mutation {
    Mutation::Rename { parent: from.0, name: name(from.1), new_parent: to.0, new_name: name(to.1), mode }
}

fn resize(inode: InodeId, size: u64) -> Mutation {
    Mutation::SetAttr { inode, set: SetAttr { size: Some(size), ..SetAttr::default() } }
}

#[tokio::test]
async fn times_change_where_posix_says_so() {
    let volume = Volume::new().await;
    let old = Timestamp(1000);
    let first = volume.make(ROOT, "one", NewNode::Directory).await;
    let second = volume.make(ROOT, "two", NewNode::Directory).await;
    let file = volume.make(first, "f", NewNode::File).await;
    let age = async |inode| {
        let time = Some(nokvfs_types::SetTime::At(old));
        let set = SetAttr { atime: time, mtime: time, ctime: Some(old), ..SetAttr::default() };
        volume.apply(Mutation::SetAttr { inode, set }).await.unwrap();
    };
    // Which of mtime and ctime moved.
    let moved = async |inode| {
        let attr = volume.attr(inode).await;
        assert_eq!(attr.atime, old);
        (attr.mtime > old, attr.ctime > old)
    };
    for inode in [first, second, file] {
        age(inode).await;
    }
    for change in [unmap(file, 0, 10, 0), allocate(file, 10)] {
        volume.apply(change).await.unwrap();
        assert_eq!(moved(file).await, (true, true));
        age(file).await;
    }
    volume.apply(rename((first, "f"), (second, "g"), RenameMode::Replace)).await.unwrap();
    assert_eq!(
        [moved(first).await, moved(second).await, moved(file).await],
        [(true, true), (true, true), (false, true)]
    );
    age(file).await;
    age(second).await;
    volume.apply(Mutation::Link { inode: file, parent: second, name: name("h") }).await.unwrap();
    assert_eq!([moved(second).await, moved(file).await], [(true, true), (false, true)]);
    age(file).await;
    volume.apply(Mutation::Unlink { parent: second, name: name("g") }).await.unwrap();
    assert_eq!(moved(file).await, (false, true));
    age(file).await;
    volume
        .apply(Mutation::SetAttr { inode: file, set: SetAttr { mode: Some(0o600), ..SetAttr::default() } })
        .await
        .unwrap();
    assert_eq!(moved(file).await, (false, true));
    age(file).await;
    volume.apply(resize(file, 10)).await.unwrap();
    assert_eq!(moved(file).await, (true, true));
    // Moved within its directory's parent, a directory keeps its own content's time.
    age(first).await;
    volume.apply(rename((ROOT, "one"), (second, "one"), RenameMode::Replace)).await.unwrap();
    assert_eq!(moved(first).await, (false, true));
    let page = volume.service.readdir(&context(), first, 0, 10, false).await.unwrap();
    assert_eq!(page.parent, second);
}

#[tokio::test]
async fn a_directory_never_gets_below_itself() {
    let volume = Volume::new().await;
    let top = volume.make(ROOT, "a", NewNode::Directory).await;
    let middle = volume.make(top, "b", NewNode::Directory).await;
    let bottom = volume.make(middle, "c", NewNode::Directory).await;
    for mode in [RenameMode::Replace, RenameMode::NoReplace] {
        let answer = volume.apply(rename((ROOT, "a"), (bottom, "a"), mode)).await;
        assert!(matches!(answer, Err(MetaError::Invalid(_))), "{answer:?}");
    }
    let answer = volume.apply(rename((middle, "c"), (ROOT, "a"), RenameMode::Exchange)).await;
    assert!(matches!(answer, Err(MetaError::Invalid(_))), "{answer:?}");
    // Two moves at once that together would close a circle: one of them is refused.
    let other = volume.make(ROOT, "z", NewNode::Directory).await;
    let (one, two) = tokio::join!(
        volume.apply(rename((ROOT, "a"), (other, "a"), RenameMode::Replace)),
        volume.apply(rename((ROOT, "z"), (bottom, "z"), RenameMode::Replace)),
    );
    assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1, "{one:?} {two:?}");
}

#[tokio::test]
async fn a_removed_directory_takes_no_entries_and_stays_for_its_opener() {
    let volume = Volume::new().await;
    let dir = volume.make(ROOT, "d", NewNode::Directory).await;
    volume.service.opened(dir);
    volume.apply(Mutation::Rmdir { parent: ROOT, name: name("d") }).await.unwrap();
    let create = Mutation::Create {
        parent: dir,
        name: name("x"),
        node: NewNode::File,
        mode: 0o644,
        open_existing: false,
        ack: Ack::Durable,
    };
    assert_eq!(volume.apply(create).await, Err(MetaError::NotFound));
    assert_eq!(volume.attr(dir).await.nlink, 0);
    let page = volume.service.readdir(&context(), dir, 0, 10, true).await.unwrap();
    assert!(page.end && page.entries.is_empty());
}

#[tokio::test]
async fn too_many_links_are_refused() {
    let volume = Volume::new().await;
    let file = volume.make(ROOT, "f", NewNode::File).await;
    let links = 64_999;
    for from in (0..links).step_by(200) {
        let batch = (from..links.min(from + 200)).map(|number| {
            volume.apply(Mutation::Link { inode: file, parent: ROOT, name: name(&format!("l{number}")) })
        });
        for answer in futures::future::join_all(batch).await {
            answer.unwrap();
        }
    }
    let over = volume.apply(Mutation::Link { inode: file, parent: ROOT, name: name("over") }).await;
    assert_eq!(over, Err(MetaError::TooManyLinks));
    assert_eq!(volume.attr(file).await.nlink, 65_000);
}

#[tokio::test]
async fn attributes_have_their_namespaces_and_limits() {
    let volume = Volume::new().await;
    let file = volume.make(ROOT, "f", NewNode::File).await;
    let set = async |name: &str, len: usize| {
        let (name, value) = (Bytes::from(name.to_owned()), Bytes::from(vec![1; len]));
        volume.apply(Mutation::SetXattr { inode: file, name, value, mode: XattrMode::Set }).await
    };
    for refused in ["system.posix_acl_access", "system.posix_acl_default", "other.x", "plain"] {
        assert!(matches!(set(refused, 1).await, Err(MetaError::NotSupported(_))), "{refused}");
    }
    assert_eq!(set("user.big", MAX_XATTR_VALUE + 1).await, Err(MetaError::AttributeTooLarge));
    assert_eq!(set(&format!("user.{}", "x".repeat(251)), 1).await, Err(MetaError::NameTooLong));
    for number in 0..7 {
        set(&format!("user.{number}"), MAX_XATTR_VALUE).await.unwrap();
    }
    assert_eq!(set("user.7", MAX_XATTR_VALUE).await, Err(MetaError::AttributeTooLarge));
    // Replaced, one counts once.
    set("user.0", MAX_XATTR_VALUE).await.unwrap();
    volume.apply(Mutation::RemoveXattr { inode: file, name: Bytes::from_static(b"user.0") }).await.unwrap();
    set("user.7", MAX_XATTR_VALUE - 10).await.unwrap();
}

#[tokio::test]
async fn a_chunk_gets_no_more_extents_than_it_may_have() {
    let volume = Volume::new().await;
    let file = volume.make(ROOT, "f", NewNode::File).await;
    let upload = volume.uploads(600).await;
    let holes = |from: u64, to: u64| -> Vec<Extent> {
        (from..to)
            .map(|at| Extent {
                offset: at * 8192,
                len: 4096,
                slice: slice(upload, 0, file, 0),
                slice_offset: at * 4096,
                slice_len: BLOCK_SIZE,
            })
            .collect()
    };
    volume.apply(publish(file, holes(0, 512))).await.unwrap();
    let before = volume.attr(file).await;
    assert_eq!(volume.apply(publish(file, holes(512, 513))).await, Err(MetaError::TooFragmented(0)));
    assert_eq!(volume.attr(file).await, before);
    // Rewritten as a whole it is one extent, and the old slice goes.
    volume.put(slice(upload, 0, file, 0), BLOCK_SIZE).await;
    let fresh = slice(upload, 1, file, 0);
    volume.put(fresh, BLOCK_SIZE).await;
    volume.apply(publish(file, vec![whole(0, BLOCK_SIZE, fresh)])).await.unwrap();
    let view = volume.service.body(&context(), file, 0).await.unwrap();
    assert_eq!((view.extents, view.attr.mapped), (vec![whole(0, BLOCK_SIZE, fresh)], BLOCK_SIZE));
    volume.only(volume.keys_of(fresh, BLOCK_SIZE)).await;
}

#[tokio::test]
async fn a_slice_that_grows_between_publishes_goes_as_a_whole() {
    let volume = Volume::new().await;
    let file = volume.make(ROOT, "f", NewNode::File).await;
    let grown = slice(volume.uploads(2).await, 0, file, 0);
    volume.put(grown, 2 * BLOCK_SIZE).await;
    volume.apply(publish(file, vec![whole(0, BLOCK_SIZE, grown)])).await.unwrap();
    let second =
        Extent { offset: BLOCK_SIZE, len: 100, slice: grown, slice_offset: BLOCK_SIZE, slice_len: 2 * BLOCK_SIZE };
    volume.apply(publish(file, vec![second])).await.unwrap();
    // The second block is cut off, the slice is still named; then all of it goes.
    volume.apply(resize(file, 10)).await.unwrap();
    volume.apply(resize(file, 0)).await.unwrap();
    volume.only(BTreeSet::new()).await;
}

#[tokio::test]
async fn what_was_published_for_a_file_that_is_gone_goes_with_its_session() {
    let volume = Volume::new().await;
    let file = volume.make(ROOT, "f", NewNode::File).await;
    let late = slice(volume.uploads(1).await, 0, file, 0);
    volume.apply(Mutation::Unlink { parent: ROOT, name: name("f") }).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while volume.service.getattr(&context(), file).await.is_ok() {
        assert!(Instant::now() < end, "not reclaimed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    volume.put(late, BLOCK_SIZE).await;
    assert_eq!(volume.apply(publish(file, vec![whole(0, BLOCK_SIZE, late)])).await, Err(MetaError::NotFound));
    // Its mount deletes it, or makes the file again; if it does neither, the sweep of its session finds it.
    volume.service.close().await.unwrap();
    volume.only(BTreeSet::new()).await;
}

#[tokio::test]
async fn a_repeated_refusal_that_left_something_is_answered_from_its_slot() {
    let volume = Volume::new().await;
    let grant = volume.service.grant().clone();
    let gone = InodeId(999);
    let upload = volume.uploads(1).await;
    let stamp = Stamp { session: grant.session, generation: grant.generation, slot: 9, sequence: 1, op: OpId(4) };
    let late = publish(gone, vec![whole(0, 4096, slice(upload, 0, gone, 0))]);
    for _ in 0..2 {
        let answer = volume.engine.mutate(stamp, context().caller, late.clone()).await;
        assert_eq!(answer, Err(MetaError::NotFound));
    }
    // The slot was taken: an older sequence is over.
    let older = Stamp { sequence: 0, ..stamp };
    assert!(matches!(volume.engine.mutate(older, context().caller, late).await, Err(MetaError::Invalid(_))));
}

#[tokio::test]
async fn malformed_publishes_are_refused() {
    let volume = Volume::new().await;
    let file = volume.make(ROOT, "f", NewNode::File).await;
    let upload = volume.uploads(4).await;
    let good = whole(0, 4096, slice(upload, 0, file, 0));
    let bad = [
        vec![Extent { len: 0, ..good }],
        vec![Extent { slice_len: 4095, ..good }],
        vec![Extent { slice_offset: 1, ..good }],
        vec![Extent { slice_len: u64::MAX, ..good }],
        vec![Extent { offset: CHUNK_SIZE - 1, ..good }],
        vec![Extent { slice: slice(upload, 0, ROOT, 0), ..good }],
        vec![Extent { slice: slice(upload, 0, file, 1), ..good }],
        vec![Extent { slice: slice(upload, 4, file, 0), ..good }],
        vec![good, good],
    ];
    for extents in bad {
        let answer = volume.apply(publish(file, extents.clone())).await;
        assert!(matches!(answer, Err(MetaError::Invalid(_))), "{extents:?}: {answer:?}");
    }
    let far = Extent { offset: u64::MAX - 100, ..good };
    assert_eq!(volume.apply(publish(file, vec![far])).await, Err(MetaError::TooLarge));
    assert_eq!(volume.apply(resize(file, (CHUNK_SIZE << 32) + 1)).await, Err(MetaError::TooLarge));
    assert_eq!(volume.attr(file).await.size, 0);
}

fn allocate(inode: InodeId, len: u64) -> Mutation {
    Mutation::Fallocate(Fallocate { inode, offset: 0, len, unmap: false, size: 0 })
}

fn unmap(inode: InodeId, offset: u64, len: u64, size: u64) -> Mutation {
    Mutation::Fallocate(Fallocate { inode, offset, len, unmap: true, size })
}

#[tokio::test]
async fn a_hole_that_splits_the_last_extent_a_chunk_may_have_is_refused() {
    let volume = Volume::new().await;
    let file = volume.make(ROOT, "f", NewNode::File).await;
    let only = slice(volume.uploads(1).await, 0, file, 0);
    let pieces = |count: u64| (0..count).map(|at| Extent { offset: at * 8192, slice_offset: at * 8000, ..piece(only) });
    volume.apply(publish(file, pieces(512).collect())).await.unwrap();
    let before = volume.attr(file).await;
    assert_eq!(volume.apply(unmap(file, 8192 + 100, 100, 0)).await, Err(MetaError::TooFragmented(0)));
    assert_eq!(volume.attr(file).await, before);
    // At its edge it splits nothing, and with a whole one gone there is room.
    volume.apply(unmap(file, 8192, 100, 0)).await.unwrap();
    volume.apply(unmap(file, 4 * 8192, 8192, 0)).await.unwrap();
    volume.apply(unmap(file, 8192 + 1000, 100, 0)).await.unwrap();
    assert_eq!(volume.attr(file).await.mapped, 511 * 4096 - 200);
}

fn piece(slice: SliceId) -> Extent {
    Extent { offset: 0, len: 4096, slice, slice_offset: 0, slice_len: 16 * BLOCK_SIZE }
}

#[tokio::test]
async fn malformed_ranges_are_refused() {
    let volume = Volume::new().await;
    let file = volume.make(ROOT, "f", NewNode::File).await;
    assert!(matches!(volume.apply(unmap(file, 5, 0, 0)).await, Err(MetaError::Invalid(_))));
    assert!(matches!(volume.apply(unmap(ROOT, 0, 1, 0)).await, Err(MetaError::Invalid(_))));
    assert_eq!(volume.apply(unmap(file, u64::MAX, 2, 0)).await, Err(MetaError::TooLarge));
    assert_eq!(volume.apply(unmap(file, 0, 1, (CHUNK_SIZE << 32) + 1)).await, Err(MetaError::TooLarge));
    assert_eq!(volume.apply(unmap(InodeId(999), 0, 1, 0)).await, Err(MetaError::NotFound));
    volume.apply(unmap(file, 0, CHUNK_SIZE << 32, CHUNK_SIZE << 32)).await.unwrap();
    assert_eq!(volume.attr(file).await.size, CHUNK_SIZE << 32);
}

/// 40,000 chunks, 2.5 TiB: more than one command can remove.
#[tokio::test]
async fn a_huge_file_is_cut_punched_and_reclaimed_in_steps() {
    let volume = Volume::new().await;
    let chunks = 40_000u32;
    let fill = async |file: InodeId, upload: UploadId| {
        for from in (0..chunks).step_by(4000) {
            let extents = (from..from + 4000)
                .map(|chunk| whole(u64::from(chunk) * CHUNK_SIZE, 4096, slice(upload, 0, file, chunk)))
                .collect();
            volume.apply(publish(file, extents)).await.unwrap();
        }
    };
    let upload = volume.uploads(3).await;
    let file = volume.make(ROOT, "f", NewNode::File).await;
    fill(file, upload).await;
    let attr = volume.attr(file).await;
    assert_eq!(attr.mapped, u64::from(chunks) * 4096);
    volume.apply(resize(file, CHUNK_SIZE + 100)).await.unwrap();
    let attr = volume.attr(file).await;
    assert_eq!((attr.size, attr.mapped), (CHUNK_SIZE + 100, 4096 + 100));
    assert_eq!(volume.engine.volume(volume.id).await.unwrap().usage.bytes, 4196);
    fill(file, UploadId(upload.0 + 1)).await;
    // The second and the last chunk lose a part, those between them all.
    let (from, to) = (CHUNK_SIZE + 96, u64::from(chunks - 1) * CHUNK_SIZE + 1000);
    volume.apply(unmap(file, from, to - from, 0)).await.unwrap();
    let attr = volume.attr(file).await;
    assert_eq!((attr.size, attr.mapped), (u64::from(chunks - 1) * CHUNK_SIZE + 4096, 4096 + 96 + 3096));
    assert_eq!(volume.engine.volume(volume.id).await.unwrap().usage.bytes, attr.mapped);
    fill(file, UploadId(upload.0 + 2)).await;
    volume.apply(Mutation::Unlink { parent: ROOT, name: name("f") }).await.unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        let usage = volume.engine.volume(volume.id).await.unwrap().usage;
        if (usage.bytes, usage.inodes) == (0, 1) {
            break;
        }
        assert!(Instant::now() < end, "{usage:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    volume.engine.close_session(volume.service.grant().session, 1).await.unwrap();
}
