//! A file is a vector of bytes.

use proptest::prelude::*;

use super::{Volume, bytes, ctx, read_all};
use crate::{RangeChange, ReadStream};

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize),
    Append(usize),
    Truncate(u64),
    Allocate(u64, u64, bool),
    Unmap(u64, u64, bool),
    Sync,
    Reopen,
    Read(u64, u32),
    SendStaged,
}

/// Around block and chunk boundaries and at the start.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..10_000,
        (4u64 << 20) - 5000..(4 << 20) + 5000,
        (64u64 << 20) - 5000..(64 << 20) + 5000,
        (8u64 << 20) - 200_000..(8 << 20) + 200_000,
    ]
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..9000, 1 => 100_000usize..400_000, 1 => Just(4 << 20), 1 => Just((5 << 20) + 77)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (place(), len()).prop_map(|(at, len)| Step::Write(at, len)),
        3 => (1usize..5000).prop_map(Step::Append),
        2 => place().prop_map(Step::Truncate),
        1 => (place(), len(), any::<bool>()).prop_map(|(at, len, grow)| Step::Allocate(at, len as u64, grow)),
        4 => (place(), len(), any::<bool>()).prop_map(|(at, len, grow)| Step::Unmap(at, len as u64, grow)),
        4 => Just(Step::Sync),
        2 => Just(Step::Reopen),
        2 => Just(Step::SendStaged),
        6 => (place(), 1u32..300_000).prop_map(|(at, len)| Step::Read(at, len)),
    ]
}

fn write(model: &mut Vec<u8>, at: usize, data: &[u8]) {
    if model.len() < at + data.len() {
        model.resize(at + data.len(), 0);
    }
    model[at..at + data.len()].copy_from_slice(data);
}

/// Zeros in a range, then at least `size` bytes.
fn unmap(model: &mut Vec<u8>, from: u64, to: u64, size: u64) {
    let len = model.len();
    model[len.min(from as usize)..len.min(to as usize)].fill(0);
    model.resize(len.max(size as usize), 0);
}

async fn run(steps: Vec<Step>) {
    let volume = Volume::new();
    let mut mount = volume.mount();
    let mut file = volume.create(&mount, 7);
    let mut stream = ReadStream::new();
    let mut model: Vec<u8> = Vec::new();
    for (seed, step) in (0..).zip(steps) {
        match step {
            Step::Write(at, len) => {
                let data = bytes(seed, len);
                file.write(&ctx(), at, data.clone()).await.unwrap();
                write(&mut model, at as usize, &data);
            }
            Step::Append(len) => {
                let data = bytes(seed, len);
                assert_eq!(file.append(&ctx(), data.clone()).await.unwrap(), model.len() as u64);
                model.extend_from_slice(&data);
            }
            Step::Truncate(size) => {
                assert_eq!(file.truncate(&ctx(), size).await.unwrap().size, size);
                model.resize(size as usize, 0);
            }
            Step::Allocate(at, len, grow) => {
                file.fallocate(&ctx(), at..at + len, RangeChange::Allocate, grow).await.unwrap();
                unmap(&mut model, at, at, if grow { at + len } else { 0 });
            }
            Step::Unmap(at, len, grow) => {
                file.fallocate(&ctx(), at..at + len, RangeChange::Unmap, grow).await.unwrap();
                unmap(&mut model, at, at + len, if grow { at + len } else { 0 });
            }
            Step::Sync => {
                assert_eq!(file.sync(&ctx()).await.unwrap().size, model.len() as u64);
                assert!(!file.is_dirty());
            }
            Step::Reopen => {
                file.sync(&ctx()).await.unwrap();
                drop((file, mount));
                mount = volume.mount();
                file = mount.open(&ctx(), nokvfs_types::InodeId(7)).await.unwrap();
                stream = ReadStream::new();
            }
            Step::SendStaged => file.send_staged(),
            Step::Read(at, len) => {
                let data = file.read(&ctx(), &stream, at, len).await.unwrap();
                let from = (at as usize).min(model.len());
                let to = (at as usize + len as usize).min(model.len());
                assert!(data == model[from..to], "{from}..{to} differs");
            }
        }
        assert_eq!(file.attr().size, model.len() as u64);
    }
    file.sync(&ctx()).await.unwrap();
    assert_eq!(mount.dirty(), 0);
    assert!(read_all(&file).await == model, "this mount's content differs");
    let other = volume.mount();
    let again = other.open(&ctx(), nokvfs_types::InodeId(7)).await.unwrap();
    assert!(read_all(&again).await == model, "another mount's content differs");
    check_seeks(&again, &model).await;
    drop((file, mount));
    wait_for(|| volume.metadata.unnamed().is_empty()).await;
}

/// Data is never reported as a hole.
async fn check_seeks(file: &std::sync::Arc<crate::OpenFile>, model: &[u8]) {
    let (mut at, size) = (0, model.len() as u64);
    while let Some(data) = file.seek_data(&ctx(), at).await.unwrap() {
        assert!(data < size && model[at as usize..data as usize].iter().all(|byte| *byte == 0));
        at = file.seek_hole(&ctx(), data).await.unwrap().unwrap();
        assert!(at > data && at <= size);
    }
    assert!(model[at as usize..].iter().all(|byte| *byte == 0));
    assert_eq!(file.seek_hole(&ctx(), size).await.unwrap(), None);
}

pub(super) async fn wait_for(condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("did not happen within 5 s");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_file_is_a_vector_of_bytes(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}

#[tokio::test]
async fn another_mount_sees_what_was_synced_when_it_opens() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let file = volume.create(&one, 1);
    file.write(&ctx(), 0, bytes(1, 100_000)).await.unwrap();
    file.sync(&ctx()).await.unwrap();
    let there = two.open(&ctx(), file.inode()).await.unwrap();
    assert!(read_all(&there).await == bytes(1, 100_000));
    file.write(&ctx(), 50_000, bytes(2, 10)).await.unwrap();
    let there = two.open(&ctx(), file.inode()).await.unwrap();
    assert!(read_all(&there).await == bytes(1, 100_000), "unpublished bytes of another mount are not seen");
    file.sync(&ctx()).await.unwrap();
    let there = two.open(&ctx(), file.inode()).await.unwrap();
    assert!(read_all(&there).await[50_000..50_010] == bytes(2, 10));
    file.truncate(&ctx(), 3).await.unwrap();
    let there = two.open(&ctx(), file.inode()).await.unwrap();
    assert_eq!(read_all(&there).await, bytes(1, 3).to_vec());
}

/// Regression by design: the reader's view names objects that the writer replaced and the collector deleted.
#[tokio::test]
async fn a_replaced_object_is_read_from_a_fresh_view() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let file = volume.create(&one, 1);
    file.write(&ctx(), 0, bytes(1, 5000)).await.unwrap();
    file.sync(&ctx()).await.unwrap();
    let there = two.open(&ctx(), file.inode()).await.unwrap();
    file.write(&ctx(), 0, bytes(2, 5000)).await.unwrap();
    file.sync(&ctx()).await.unwrap();
    assert!(read_all(&there).await == bytes(2, 5000));
}

#[tokio::test]
async fn a_small_file_costs_one_put_and_one_publish() {
    let volume = Volume::new();
    let mount = volume.mount();
    for inode in 1..=50 {
        let file = volume.create(&mount, inode);
        file.write(&ctx(), 0, bytes(inode, 3000)).await.unwrap();
        assert_eq!(mount.dirty(), 1);
        file.sync(&ctx()).await.unwrap();
        file.sync(&ctx()).await.unwrap();
    }
    assert_eq!(volume.store.calls(nokvfs_object::Operation::Put), 50);
    assert_eq!(volume.metadata.publishes(), 50);
    assert_eq!(volume.metadata.reservations(), 1);
    assert_eq!(volume.metadata.views(), 0);
    assert_eq!(mount.dirty(), 0);
    assert!(mount.find(nokvfs_types::InodeId(1)).is_none(), "nobody has it open");
}
