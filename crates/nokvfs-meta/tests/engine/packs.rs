//! Objects that several files share: how long they stay.

use nokvfs_meta::commit::Committer;
use nokvfs_meta::layout::{Family, KeyPrefix, PackRecord};
use nokvfs_meta::service::{MetadataService, VolumeService};
use nokvfs_meta::store::ReadRecords;
use nokvfs_object::ObjectStore;
use nokvfs_types::{
    Applied, CHUNK_SIZE, Extent, InodeId, MetaError, Mutation, PACK_SIZE, Publish, SetAttr, SliceId, Timestamp, Token,
    UploadId, VolumeInfo,
};

use crate::{Mounted, World, context, file, options, unlink, until};

const ROOT: InodeId = InodeId::ROOT;

/// A volume and a session of it.
struct Packs {
    world: World,
    volume: (VolumeInfo, Token),
    mount: Mounted,
}

impl Packs {
    async fn new() -> Packs {
        let world = World::new().await;
        let volume = world.volume("v").await;
        let mount = world.mount(&volume).await;
        Packs { world, volume, mount }
    }

    fn key(&self, slice: SliceId) -> String {
        slice.object_key(self.volume.0.id, 0)
    }

    async fn put(&self, slice: SliceId) {
        self.world.objects.put(&self.key(slice), "bytes".into()).await.expect("put");
    }

    fn is_there(&self, slice: SliceId) -> bool {
        self.world.objects.keys().contains(&self.key(slice))
    }

    async fn is_gone(&self, slice: SliceId) {
        until("the object is deleted", async || !self.is_there(slice)).await;
    }

    /// An uploaded pack.
    async fn pack(&self) -> SliceId {
        let pack = SliceId::pack(reserve(&self.mount, 1).await);
        self.put(pack).await;
        pack
    }

    async fn file(&self, name: &str) -> InodeId {
        self.mount.make(file(ROOT, name)).await.inode
    }

    async fn remove(&self, name: &str, inode: InodeId) {
        self.mount.apply(unlink(ROOT, name)).await;
        until("reclaimed", async || self.mount.getattr(&context(), inode).await == Err(MetaError::NotFound)).await;
    }

    /// Garbage goes in the order in which it was made: with a fresh object's gone, all that was made before is.
    async fn collected(&self) {
        let inode = self.mount.make(file(ROOT, "fence")).await.inode;
        let slice = SliceId { upload: reserve(&self.mount, 1).await, inode, chunk: 0 };
        self.put(slice).await;
        self.mount.apply(publish(inode, vec![extent(slice, 0, 0)])).await;
        truncate(&self.mount, inode, 0).await;
        self.is_gone(slice).await;
        self.mount.apply(unlink(ROOT, "fence")).await;
    }

    /// Closes all and reads what the store holds of packs.
    async fn records(self) -> Vec<PackRecord> {
        self.mount.close().await.expect("closed");
        self.world.engine.close().await.expect("closed");
        let World { dir, engine, .. } = self.world;
        drop((self.mount, engine));
        let (store, _committer) = Committer::open(options(dir.path()).store).expect("the store");
        let mut records = Vec::new();
        let all = KeyPrefix::all(Family::Pack);
        store.scan::<PackRecord>(&all, None, usize::MAX, |_, record, _| records.push(record)).expect("a scan");
        records
    }
}

async fn reserve(mount: &Mounted, count: u32) -> UploadId {
    match mount.apply(Mutation::ReserveUploads { count, settled: UploadId(0) }).await {
        Applied::Uploads { first, .. } => first,
        other => panic!("no uploads: {other:?}"),
    }
}

/// The session publishes nothing more of uploads up to this one.
async fn settle(mount: &Mounted, last: SliceId) {
    mount.apply(Mutation::ReserveUploads { count: 0, settled: UploadId(last.upload.0 + 1) }).await;
}

/// Ten bytes of a slice of a thousand.
fn extent(slice: SliceId, offset: u64, slice_offset: u64) -> Extent {
    Extent { offset, len: 10, slice, slice_offset, slice_len: 1000 }
}

fn publish(inode: InodeId, extents: Vec<Extent>) -> Mutation {
    Mutation::Publish(Publish { inode, truncate: None, size: 0, written: Timestamp::now(), extents })
}

async fn truncate(mount: &Mounted, inode: InodeId, size: u64) {
    let set = SetAttr { size: Some(size), ..SetAttr::default() };
    mount.apply(Mutation::SetAttr { inode, set }).await;
}

async fn body(mount: &Mounted, inode: InodeId) -> Vec<Extent> {
    mount.body(&context(), inode, 0).await.expect("a view").extents
}

#[tokio::test]
async fn a_pack_goes_with_its_last_name_once_it_is_settled() {
    let packs = Packs::new().await;
    let pack = packs.pack().await;
    let (a, b) = (packs.file("a").await, packs.file("b").await);
    packs.mount.apply(publish(a, vec![extent(pack, 0, 0)])).await;
    packs.mount.apply(publish(b, vec![extent(pack, 0, 10)])).await;
    packs.remove("a", a).await;
    packs.collected().await;
    assert!(packs.is_there(pack), "b names it");
    assert_eq!(body(&packs.mount, b).await, [extent(pack, 0, 10)]);
    packs.remove("b", b).await;
    packs.collected().await;
    assert!(packs.is_there(pack), "it is not settled");
    settle(&packs.mount, pack).await;
    packs.is_gone(pack).await;
    assert_eq!(packs.records().await, []);
}

#[tokio::test]
async fn a_settled_pack_goes_when_its_last_name_goes() {
    let packs = Packs::new().await;
    let pack = packs.pack().await;
    let (a, b) = (packs.file("a").await, packs.file("b").await);
    packs.mount.apply(publish(a, vec![extent(pack, 0, 0)])).await;
    packs.mount.apply(publish(b, vec![extent(pack, 0, 10)])).await;
    settle(&packs.mount, pack).await;
    packs.remove("b", b).await;
    packs.collected().await;
    assert!(packs.is_there(pack), "a names it");
    assert_eq!(body(&packs.mount, a).await, [extent(pack, 0, 0)]);
    packs.remove("a", a).await;
    packs.is_gone(pack).await;
    assert_eq!(packs.records().await, []);
}

#[tokio::test]
async fn a_pack_that_nothing_names_for_a_while_can_be_named_again() {
    let packs = Packs::new().await;
    let pack = packs.pack().await;
    let (a, b) = (packs.file("a").await, packs.file("b").await);
    packs.mount.apply(publish(a, vec![extent(pack, 0, 0)])).await;
    truncate(&packs.mount, a, 0).await;
    packs.collected().await;
    assert!(packs.is_there(pack), "its writer may publish more of it");
    packs.mount.apply(publish(b, vec![extent(pack, 0, 10)])).await;
    settle(&packs.mount, pack).await;
    packs.collected().await;
    assert!(packs.is_there(pack), "b names it");
    assert_eq!(body(&packs.mount, b).await, [extent(pack, 0, 10)]);
    truncate(&packs.mount, b, 0).await;
    packs.is_gone(pack).await;
}

#[tokio::test]
async fn a_pack_of_files_that_vanished_goes_once_it_is_settled() {
    let packs = Packs::new().await;
    let pack = packs.pack().await;
    let a = packs.file("a").await;
    packs.remove("a", a).await;
    let answer = packs.mount.mutate(&context(), publish(a, vec![extent(pack, 0, 0)])).await;
    assert_eq!(answer, Err(MetaError::NotFound));
    packs.collected().await;
    assert!(packs.is_there(pack), "other files may name it yet");
    settle(&packs.mount, pack).await;
    packs.is_gone(pack).await;
    assert_eq!(packs.records().await, []);
}

#[tokio::test]
async fn overwriting_and_cutting_lets_go_of_a_pack() {
    let packs = Packs::new().await;
    let (over, cut) = (packs.pack().await, packs.pack().await);
    let (a, b) = (packs.file("a").await, packs.file("b").await);
    packs.mount.apply(publish(a, vec![extent(over, 0, 0)])).await;
    packs.mount.apply(publish(b, vec![extent(cut, 0, 0), extent(cut, 100, 20)])).await;
    settle(&packs.mount, cut).await;
    let slice = SliceId { upload: reserve(&packs.mount, 1).await, inode: a, chunk: 0 };
    packs.put(slice).await;
    packs.mount.apply(publish(a, vec![Extent { len: 9, ..extent(slice, 0, 0) }])).await;
    truncate(&packs.mount, b, 1).await;
    packs.collected().await;
    assert!(packs.is_there(over) && packs.is_there(cut), "a byte of each is left");
    packs.mount.apply(publish(a, vec![extent(slice, 0, 0)])).await;
    packs.is_gone(over).await;
    truncate(&packs.mount, b, 0).await;
    packs.is_gone(cut).await;
    assert!(packs.is_there(slice));
    assert_eq!(packs.records().await, []);
}

#[tokio::test]
async fn each_record_that_names_a_pack_counts() {
    for by_cutting in [true, false] {
        let packs = Packs::new().await;
        let pack = packs.pack().await;
        let a = packs.file("a").await;
        let piece = |number: u64| extent(pack, number % 2 * CHUNK_SIZE + number / 2 * 100, number * 20);
        let sorted = |numbers: std::ops::Range<u64>| {
            let mut extents: Vec<_> = numbers.map(piece).collect();
            extents.sort_by_key(|extent| extent.offset);
            extents
        };
        // Inline, then in two chunk records; a repeated publish changes nothing.
        for numbers in [0..8, 8..12, 8..12] {
            packs.mount.apply(publish(a, sorted(numbers))).await;
        }
        assert_eq!(body(&packs.mount, a).await, sorted(0..12));
        settle(&packs.mount, pack).await;
        truncate(&packs.mount, a, CHUNK_SIZE).await;
        packs.collected().await;
        assert!(packs.is_there(pack), "the first chunk names it");
        if by_cutting {
            truncate(&packs.mount, a, 0).await;
        } else {
            packs.remove("a", a).await;
        }
        packs.is_gone(pack).await;
        assert_eq!(packs.records().await, []);
    }
}

#[tokio::test]
async fn only_its_writer_publishes_a_pack_and_only_before_it_is_settled() {
    let packs = Packs::new().await;
    let pack = packs.pack().await;
    let other = packs.world.mount(&packs.volume).await;
    let a = packs.file("a").await;
    let refused = async |mount: &Mounted, extent: Extent| {
        let answer = mount.mutate(&context(), publish(a, vec![extent])).await;
        assert!(matches!(answer, Err(MetaError::Invalid(_))), "{answer:?}");
    };
    refused(&other, extent(pack, 0, 0)).await;
    refused(&packs.mount, Extent { slice_len: PACK_SIZE + 1, ..extent(pack, 0, 0) }).await;
    refused(&packs.mount, extent(SliceId { chunk: 1, ..pack }, 0, 0)).await;
    refused(&packs.mount, extent(SliceId { chunk: 1, ..pack }, CHUNK_SIZE, 0)).await;
    packs.mount.apply(publish(a, vec![Extent { slice_len: PACK_SIZE, ..extent(pack, 0, 0) }])).await;
    // Not even what is published already: its object may go.
    refused(&other, extent(pack, 0, 0)).await;
    settle(&packs.mount, pack).await;
    refused(&packs.mount, extent(pack, 0, 0)).await;
    refused(&packs.mount, extent(pack, 100, 0)).await;
    assert_eq!(body(&packs.mount, a).await, [Extent { slice_len: PACK_SIZE, ..extent(pack, 0, 0) }]);
}

/// Uploads of several sessions lie between each other.
#[tokio::test]
async fn settling_does_not_touch_packs_of_other_sessions() {
    let packs = Packs::new().await;
    let other = packs.world.mount(&packs.volume).await;
    reserve(&other, 1).await;
    let pack = packs.pack().await;
    let last = reserve(&other, 1).await;
    let (a, b) = (packs.file("a").await, packs.file("b").await);
    packs.mount.apply(publish(a, vec![extent(pack, 0, 0)])).await;
    truncate(&packs.mount, a, 0).await;
    settle(&other, SliceId::pack(last)).await;
    packs.collected().await;
    assert!(packs.is_there(pack), "its writer has not settled it");
    packs.mount.apply(publish(b, vec![extent(pack, 0, 10)])).await;
    settle(&packs.mount, pack).await;
    truncate(&packs.mount, b, 0).await;
    packs.is_gone(pack).await;
}

#[tokio::test]
async fn the_end_of_a_session_sweeps_packs_that_nothing_names() {
    let packs = Packs::new().await;
    let writer = packs.world.mount(&packs.volume).await;
    let first = reserve(&writer, 3).await.0;
    let [named, released, unsent] = [first, first + 1, first + 2].map(|upload| SliceId::pack(UploadId(upload)));
    for pack in [named, released, unsent] {
        packs.put(pack).await;
    }
    let (a, b) = (packs.file("a").await, packs.file("b").await);
    writer.apply(publish(a, vec![extent(named, 0, 0)])).await;
    writer.apply(publish(b, vec![extent(released, 0, 0)])).await;
    truncate(&writer, b, 0).await;
    packs.collected().await;
    assert!(packs.is_there(released));
    writer.close().await.expect("closed");
    until("swept", async || packs.world.engine.figures().unswept == 0).await;
    assert!(!packs.is_there(released) && !packs.is_there(unsent));
    packs.collected().await;
    assert!(packs.is_there(named), "a names it");
    assert_eq!(body(&packs.mount, a).await, [extent(named, 0, 0)]);
    truncate(&packs.mount, a, 0).await;
    packs.is_gone(named).await;
    assert_eq!(packs.records().await, []);
}

#[tokio::test]
async fn the_packs_of_a_deleted_volume_go_with_it() {
    let packs = Packs::new().await;
    let pack = packs.pack().await;
    let a = packs.file("a").await;
    packs.mount.apply(publish(a, vec![extent(pack, 0, 0)])).await;
    packs.mount.close().await.expect("closed");
    packs.world.engine.delete_volume(packs.volume.0.id).await.expect("deleted");
    until("gone", async || packs.world.engine.volume(packs.volume.0.id).await == Err(MetaError::NotFound)).await;
    assert_eq!(packs.world.objects.keys(), [""; 0]);
    let Packs { world, volume, mount: _ } = packs;
    // `records` wants a session to close.
    let other = world.volume("other").await;
    let mount = world.mount(&other).await;
    assert_eq!(Packs { world, volume, mount }.records().await, []);
}
