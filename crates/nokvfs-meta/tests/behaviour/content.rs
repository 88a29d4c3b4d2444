//! Bodies against a model that knows for each stretch of a file which byte of which slice it shows, and objects against
//! what bodies name.

use std::collections::{BTreeMap, BTreeSet};

use nokvfs_meta::service::MetadataService;
use nokvfs_types::{
    CHUNK_SIZE, Extent, Fallocate, InodeId, MetaError, Mutation, Publish, SetAttr, SliceId, Timestamp, UploadId,
    VolumeId,
};
use proptest::prelude::*;

use crate::{Mounted, World, cases, context, file, runtime, unlink, until};

/// The last stretch of a chunk is the long rest of it.
const PER_CHUNK: usize = 30;
const CHUNKS: usize = 3;
const STRETCH: u64 = 1000;

/// Where a stretch begins. The one after the last begins where the file can end.
fn start(stretch: usize) -> u64 {
    (stretch / PER_CHUNK) as u64 * CHUNK_SIZE + (stretch % PER_CHUNK) as u64 * STRETCH
}

#[derive(Clone, Debug)]
enum Op {
    /// Ranges of stretches that are laid over; cut to first; at least so long.
    Publish {
        ranges: Vec<(usize, usize)>,
        cut: Option<usize>,
        size: usize,
    },
    Size(usize),
    /// So many stretches become a hole; then at least so long.
    Unmap {
        at: usize,
        count: usize,
        size: usize,
    },
    /// Objects of an upload that never becomes content.
    Lose,
}

fn op() -> impl Strategy<Value = Op> {
    let stretch = || 0..PER_CHUNK * CHUNKS;
    let ranges = prop_oneof![
        3 => prop::collection::vec((stretch(), 1..12usize), 0..4),
        // Every other stretch: many short extents.
        1 => (0..2usize).prop_map(|odd| (0..PER_CHUNK).map(|at| (at * 2 + odd, 1)).collect()),
    ];
    prop_oneof![
        8 => (ranges, prop::option::weighted(0.2, stretch()), prop_oneof![4 => Just(0), 1 => stretch()])
            .prop_map(|(ranges, cut, size)| Op::Publish { ranges, cut, size }),
        2 => stretch().prop_map(Op::Size),
        4 => (stretch(), prop_oneof![1..4usize, 1..PER_CHUNK * CHUNKS], prop_oneof![4 => Just(0), 1 => stretch()])
            .prop_map(|(at, count, size)| Op::Unmap { at, count, size }),
        1 => Just(Op::Lose),
    ]
}

/// What a stretch shows: slice and the byte of it that it begins with.
type Cell = Option<(SliceId, u64)>;

#[derive(Debug)]
struct Model {
    inode: InodeId,
    cells: Vec<Cell>,
    size: u64,
    lens: BTreeMap<SliceId, u64>,
}

impl Model {
    fn new(inode: InodeId) -> Model {
        Model { inode, cells: vec![None; PER_CHUNK * CHUNKS], size: 0, lens: BTreeMap::new() }
    }

    fn cut(&mut self, stretch: usize) {
        if start(stretch) < self.size {
            self.cells[stretch..].fill(None);
            self.size = start(stretch);
        }
    }

    /// The extents of ranges, one slice per chunk, and what they make of the model.
    fn extents(&mut self, upload: UploadId, ranges: &[(usize, usize)]) -> Vec<Extent> {
        let wanted: BTreeSet<usize> =
            ranges.iter().flat_map(|(at, count)| *at..at + count).filter(|at| *at < self.cells.len()).collect();
        let mut lens: BTreeMap<usize, u64> = BTreeMap::new();
        let mut extents: Vec<Extent> = Vec::new();
        for at in wanted {
            let slice = SliceId { upload, inode: self.inode, chunk: (at / PER_CHUNK) as u32 };
            let len = start(at + 1) - start(at);
            let slice_offset = lens.get(&(at / PER_CHUNK)).copied().unwrap_or(0);
            *lens.entry(at / PER_CHUNK).or_default() += len;
            self.cells[at] = Some((slice, slice_offset));
            match extents.last_mut().filter(|last| last.end() == start(at) && last.slice == slice) {
                Some(last) => last.len += len,
                None => extents.push(Extent { offset: start(at), len, slice, slice_offset, slice_len: 0 }),
            }
        }
        for extent in &mut extents {
            extent.slice_len = lens[&(extent.slice.chunk as usize)];
            self.lens.insert(extent.slice, extent.slice_len);
            self.size = self.size.max(extent.end());
        }
        extents
    }

    fn mapped(&self) -> u64 {
        (0..self.cells.len()).filter(|at| self.cells[*at].is_some()).map(|at| start(at + 1) - start(at)).sum()
    }

    /// All objects of all slices that are shown.
    fn objects(&self, volume: VolumeId) -> BTreeSet<String> {
        let slices: BTreeSet<SliceId> = self.cells.iter().flatten().map(|(slice, _)| *slice).collect();
        slices.iter().flat_map(|slice| objects(volume, slice, self.lens[slice])).collect()
    }
}

fn objects(volume: VolumeId, slice: &SliceId, len: u64) -> Vec<String> {
    (0..SliceId::blocks(len)).map(|block| slice.object_key(volume, block)).collect()
}

/// The whole body as stretches.
async fn read(mount: &Mounted, model: &Model, from: u64) -> Vec<Cell> {
    let mut cells = vec![None; model.cells.len()];
    let (mut at, mut end) = (from, 0);
    while at < u64::MAX {
        let view = mount.body(&context(), model.inode, at).await.expect("a view");
        assert!(view.complete_to > at);
        for extent in view.extents.iter().filter(|extent| extent.offset < view.complete_to) {
            assert!(extent.offset >= end && extent.len > 0, "extents overlap or are not sorted");
            assert_eq!(extent.slice_len, model.lens[&extent.slice]);
            end = extent.end();
            for (stretch, cell) in cells.iter_mut().enumerate() {
                if (extent.offset..extent.end()).contains(&start(stretch)) {
                    *cell = Some((extent.slice, extent.slice_offset + start(stretch) - extent.offset));
                }
            }
        }
        at = view.complete_to;
    }
    cells
}

async fn check(mount: &Mounted, model: &Model) {
    let attr = mount.getattr(&context(), model.inode).await.expect("attributes");
    assert_eq!((attr.size, attr.mapped), (model.size, model.mapped()));
    assert_eq!(read(mount, model, 0).await, model.cells);
    let middle = start(PER_CHUNK + 3);
    let shown = read(mount, model, middle).await;
    assert_eq!(shown[PER_CHUNK + 3..], model.cells[PER_CHUNK + 3..]);
    assert_eq!(mount.statfs(&context()).await.expect("counters").used_bytes, model.mapped());
}

async fn step(
    world: &World,
    volume: VolumeId,
    mount: &Mounted,
    model: &mut Model,
    lost: &mut BTreeSet<String>,
    op: &Op,
) {
    let inode = model.inode;
    match op {
        Op::Publish { ranges, cut, size } => {
            let upload = mount.reserve(1).await;
            if let Some(cut) = cut {
                model.cut(*cut);
            }
            let extents = model.extents(upload, ranges);
            model.size = model.size.max(start(*size));
            for extent in &extents {
                for key in objects(volume, &extent.slice, extent.slice_len) {
                    world.put(&key).await;
                }
            }
            let (truncate, written) = (cut.map(start), Timestamp(77));
            let publish = Publish { inode, truncate, size: start(*size), written, extents };
            let attr = mount.make(Mutation::Publish(publish)).await;
            assert_eq!((attr.size, attr.mtime), (model.size, written));
        }
        Op::Size(stretch) => {
            model.cut(*stretch);
            model.size = start(*stretch);
            let set = SetAttr { size: Some(model.size), ..SetAttr::default() };
            let attr = mount.make(Mutation::SetAttr { inode, set }).await;
            assert_eq!((attr.size, attr.mapped), (model.size, model.mapped()));
        }
        Op::Unmap { at, count, size } => {
            let to = (at + count).min(model.cells.len());
            model.cells[*at..to].fill(None);
            model.size = model.size.max(start(*size));
            let (offset, len) = (start(*at), start(to) - start(*at));
            let wanted = Fallocate { inode, offset, len, unmap: true, size: start(*size) };
            let attr = mount.make(Mutation::Fallocate(wanted)).await;
            assert_eq!((attr.size, attr.mapped), (model.size, model.mapped()));
        }
        Op::Lose => {
            let slice = SliceId { upload: mount.reserve(1).await, inode, chunk: 1 };
            for key in objects(volume, &slice, 5 << 20) {
                world.put(&key).await;
                lost.insert(key);
            }
        }
    }
}

#[test]
fn bodies_are_what_was_written_last_and_objects_what_bodies_name() {
    let runtime = runtime();
    let world = runtime.block_on(World::new());
    cases(32, prop::collection::vec(op(), 1..40), |ops| {
        runtime.block_on(async {
            let volume = world.volume().await;
            let mount = world.mount(&volume).await;
            let mut model = Model::new(mount.make(file(crate::ROOT, "a")).await.inode);
            let mut lost = BTreeSet::new();
            for op in &ops {
                step(&world, volume.0.id, &mount, &mut model, &mut lost, op).await;
                check(&mount, &model).await;
            }
            let named = model.objects(volume.0.id);
            let kept = |others: &BTreeSet<String>| named.union(others).cloned().collect::<Vec<_>>();
            until("garbage is gone, uploads of a live session are not", async || {
                let keys = world.keys(&volume);
                assert!(named.iter().all(|key| keys.contains(key)), "a named object went");
                keys == kept(&lost)
            })
            .await;
            mount.close().await.expect("closed");
            until("lost uploads are gone", async || {
                let keys = world.keys(&volume);
                assert!(named.iter().all(|key| keys.contains(key)), "a named object went");
                keys == kept(&BTreeSet::new())
            })
            .await;
            let mount = world.mount(&volume).await;
            check(&mount, &model).await;
            mount.apply(unlink(crate::ROOT, "a")).await;
            until("all is gone", async || world.keys(&volume).is_empty()).await;
            assert_eq!(mount.getattr(&context(), model.inode).await, Err(MetaError::NotFound));
            assert_eq!(world.usage(&volume).await, (0, 1));
            mount.close().await.expect("closed");
        });
    });
    runtime.block_on(async { world.engine.close().await.expect("closed") });
}
