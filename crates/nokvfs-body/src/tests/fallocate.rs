//! Holes between writes.

use nokvfs_types::{BLOCK_SIZE, MAX_CHUNK_EXTENTS};

use super::model::wait_for;
use super::{Volume, bytes, ctx, read_all};
use crate::{OpenFile, RangeChange};

async fn punch(file: &std::sync::Arc<OpenFile>, from: u64, to: u64) -> nokvfs_types::Attr {
    file.fallocate(&ctx(), from..to, RangeChange::Unmap, false).await.unwrap()
}

#[tokio::test]
async fn a_hole_takes_what_was_written_before_and_leaves_what_comes_after() {
    let volume = Volume::new();
    let (mount, other) = (volume.mount(), volume.mount());
    let file = volume.create(&mount, 1);
    file.write(&ctx(), 0, bytes(1, 30_000)).await.unwrap();
    file.sync(&ctx()).await.unwrap();
    file.write(&ctx(), 10_000, bytes(2, 10_000)).await.unwrap();
    // Sealed and maybe uploaded, but not published.
    file.send_staged();
    file.write(&ctx(), 12_000, bytes(3, 1000)).await.unwrap();
    assert_eq!(punch(&file, 11_000, 15_000).await.size, 30_000);
    file.write(&ctx(), 14_000, bytes(4, 500)).await.unwrap();
    let mut wanted = bytes(1, 30_000).to_vec();
    wanted[10_000..20_000].copy_from_slice(&bytes(2, 10_000));
    wanted[11_000..15_000].fill(0);
    wanted[14_000..14_500].copy_from_slice(&bytes(4, 500));
    assert!(read_all(&file).await == wanted);
    assert_eq!(file.seek_hole(&ctx(), 0).await.unwrap(), Some(11_000));
    assert_eq!(file.seek_data(&ctx(), 11_000).await.unwrap(), Some(14_000));
    // The hole itself is there for other mounts at once.
    let there = other.open(&ctx(), file.inode()).await.unwrap();
    assert!(read_all(&there).await[11_000..15_000].iter().all(|byte| *byte == 0));
    file.sync(&ctx()).await.unwrap();
    let there = other.open(&ctx(), file.inode()).await.unwrap();
    assert!(read_all(&there).await == wanted);
}

#[tokio::test]
async fn a_file_that_is_long_only_by_what_is_punched_stays_long() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    file.write(&ctx(), 0, bytes(1, 5000)).await.unwrap();
    assert_eq!(punch(&file, 1000, 1 << 40).await.size, 5000);
    assert_eq!(file.attr().size, 5000);
    file.sync(&ctx()).await.unwrap();
    assert_eq!(volume.metadata.attr(1).size, 5000);
    assert_eq!(volume.metadata.attr(1).mapped, 1000);
    assert_eq!(punch(&file, 0, 1000).await.size, 5000);
    assert_eq!(read_all(&file).await, vec![0; 5000]);
    drop(file);
    wait_for(|| volume.metadata.unnamed().is_empty()).await;
}

#[tokio::test]
async fn nothing_that_a_hole_took_is_uploaded_later() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    file.write(&ctx(), 0, bytes(1, BLOCK_SIZE as usize + 5000)).await.unwrap();
    punch(&file, 0, 2 * BLOCK_SIZE).await;
    assert!(!file.is_dirty());
    file.sync(&ctx()).await.unwrap();
    assert_eq!(volume.metadata.publishes(), 0);
    wait_for(|| mount.stage.used() == 0).await;
    assert_eq!(volume.metadata.attr(1).size, BLOCK_SIZE + 5000);
}

#[tokio::test]
async fn holes_beyond_a_chunks_extents_have_it_rewritten() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    let count = MAX_CHUNK_EXTENTS as u64 + 40;
    let mut wanted = bytes(1, count as usize * 1000).to_vec();
    file.write(&ctx(), 0, wanted.clone().into()).await.unwrap();
    file.sync(&ctx()).await.unwrap();
    for hole in 0..count {
        let at = hole * 1000 + 300;
        punch(&file, at, at + 400).await;
        wanted[at as usize..at as usize + 400].fill(0);
    }
    assert!(volume.metadata.most_extents() <= MAX_CHUNK_EXTENTS);
    assert!(read_all(&file).await == wanted);
    let other = volume.mount();
    assert!(read_all(&other.open(&ctx(), file.inode()).await.unwrap()).await == wanted);
    drop(file);
    wait_for(|| volume.metadata.unnamed().is_empty()).await;
}
