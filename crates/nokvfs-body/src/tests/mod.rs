//! Behaviour of bodies against a model, faults and limits.

mod append;
mod early;
mod fallocate;
mod faults;
mod limits;
mod metadata;
mod model;
mod packs;
mod ranges;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_meta::service::RequestContext;
use nokvfs_object::{FaultStore, MemoryStore};

use crate::uploads::background;
use crate::{Bodies, BodyOptions, OpenFile, ReadStream};
use metadata::Metadata;

/// One volume, as many mounts as a test wants.
struct Volume {
    objects: Arc<MemoryStore>,
    store: Arc<FaultStore>,
    metadata: Arc<Metadata>,
}

impl Volume {
    fn new() -> Self {
        let objects = Arc::new(MemoryStore::new());
        let metadata = Metadata::new(objects.clone());
        Self { store: Arc::new(FaultStore::new(objects.clone())), objects, metadata }
    }

    fn mount(&self) -> Arc<Bodies> {
        self.mount_with(BodyOptions { write_buffer: 8 << 20, read_buffer: 8 << 20, ..BodyOptions::default() })
    }

    fn mount_with(&self, options: BodyOptions) -> Arc<Bodies> {
        Bodies::new(self.metadata.clone(), self.store.clone(), options).unwrap()
    }

    fn create(&self, mount: &Arc<Bodies>, inode: u64) -> Arc<OpenFile> {
        mount.adopt(self.metadata.create(inode))
    }
}

fn ctx() -> RequestContext {
    within(Duration::from_secs(30))
}

fn within(time: Duration) -> RequestContext {
    RequestContext { deadline: Instant::now() + time, ..background() }
}

/// Bytes that differ by place and seed.
fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect::<Vec<u8>>().into()
}

async fn read_all(file: &Arc<OpenFile>) -> Vec<u8> {
    let stream = ReadStream::new();
    let mut all = Vec::new();
    loop {
        let piece = file.read(&ctx(), &stream, all.len() as u64, 1 << 20).await.unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend_from_slice(&piece);
    }
}
