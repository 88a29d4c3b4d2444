//! What fails, and what is left then.

use std::time::Duration;

use nokvfs_object::{Fault, ObjectError, ObjectStore, Operation};
use nokvfs_types::{InodeId, MetaError};

use super::model::wait_for;
use super::{Volume, bytes, ctx, read_all, within};
use crate::{BodyError, ReadStream};

#[tokio::test]
async fn a_failed_upload_is_reported_and_its_bytes_are_kept() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    volume.store.inject_always(Operation::Put, Fault::FailBefore(ObjectError::Unavailable("down".to_owned())));
    file.write(&ctx(), 0, bytes(1, 7_000_000)).await.unwrap();
    let error = file.sync(&ctx()).await.unwrap_err();
    assert!(matches!(error, BodyError::Object(ObjectError::Unavailable(_))), "{error}");
    assert_eq!(error.errno(), libc::EIO);
    assert!(file.is_dirty() && mount.dirty() == 1);
    assert_eq!(volume.metadata.publishes(), 0);
    assert!(file.sync(&ctx()).await.is_err(), "still not published");
    assert!(read_all(&file).await == bytes(1, 7_000_000), "readable from the stage");
    volume.store.heal();
    file.sync(&ctx()).await.unwrap();
    assert!(read_all(&volume.mount().open(&ctx(), InodeId(1)).await.unwrap()).await == bytes(1, 7_000_000));
}

#[tokio::test]
async fn a_closed_file_is_published_once_the_store_is_back() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    volume.store.inject_always(Operation::Put, Fault::FailBefore(ObjectError::Unavailable("down".to_owned())));
    file.write(&ctx(), 0, bytes(1, 100)).await.unwrap();
    assert!(file.sync(&ctx()).await.is_err());
    drop(file);
    assert!(mount.find(InodeId(1)).is_some(), "unpublished writes keep the file");
    volume.store.heal();
    wait_for(|| mount.dirty() == 0).await;
    assert!(read_all(&volume.mount().open(&ctx(), InodeId(1)).await.unwrap()).await == bytes(1, 100));
}

#[tokio::test]
async fn a_refused_publish_keeps_the_bytes_and_an_unknown_one_keeps_the_objects() {
    for (after, error) in [
        (false, MetaError::QuotaExceeded("full".to_owned())),
        (false, MetaError::Unavailable("gone".to_owned())),
        (true, MetaError::Deadline("lost reply".to_owned())),
    ] {
        let volume = Volume::new();
        let mount = volume.mount();
        let file = volume.create(&mount, 1);
        file.write(&ctx(), 0, bytes(1, 5_000_000)).await.unwrap();
        volume.metadata.fail_publish(after, error.clone());
        assert_eq!(file.sync(&ctx()).await.unwrap_err().errno(), error.errno());
        assert!(file.is_dirty());
        assert!(read_all(&file).await == bytes(1, 5_000_000));
        // More writes, also over what may be published.
        file.write(&ctx(), 100, bytes(2, 100)).await.unwrap();
        file.sync(&ctx()).await.unwrap();
        let mut expected = bytes(1, 5_000_000).to_vec();
        expected[100..200].copy_from_slice(&bytes(2, 100));
        assert!(read_all(&volume.mount().open(&ctx(), InodeId(1)).await.unwrap()).await == expected);
    }
}

#[tokio::test]
async fn a_file_that_is_gone_is_given_up_when_nobody_has_it_open() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    file.write(&ctx(), 0, bytes(1, 100)).await.unwrap();
    for _ in 0..2 {
        volume.metadata.fail_publish(false, MetaError::NotFound);
    }
    assert_eq!(file.sync(&ctx()).await.unwrap_err().errno(), libc::ENOENT);
    drop(file);
    wait_for(|| mount.dirty() == 0).await;
    wait_for(|| mount.find(InodeId(1)).is_none() && volume.metadata.unnamed().is_empty()).await;
}

#[tokio::test]
async fn a_stalled_store_fails_at_the_deadline_and_loses_nothing() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    let stall = volume.store.stall(Operation::Put, 1);
    file.write(&ctx(), 0, bytes(1, 1000)).await.unwrap();
    let error = file.sync(&within(Duration::from_millis(100))).await.unwrap_err();
    assert!(matches!(error, BodyError::Deadline(_)), "{error}");
    stall.release();
    file.sync(&ctx()).await.unwrap();

    let there = volume.mount().open(&ctx(), InodeId(1)).await.unwrap();
    let stall = volume.store.stall(Operation::Get, 1);
    let stream = ReadStream::new();
    let error = there.read(&within(Duration::from_millis(100)), &stream, 0, 10).await.unwrap_err();
    assert!(matches!(error, BodyError::Deadline(_)), "{error}");
    stall.release();
    assert!(read_all(&there).await == bytes(1, 1000));
}

#[tokio::test]
async fn a_damaged_object_is_never_read() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    file.write(&ctx(), 0, bytes(1, 3_000_000)).await.unwrap();
    file.sync(&ctx()).await.unwrap();
    let key = volume.objects.keys()[0].clone();
    let whole = volume.objects.get(&key, None).await.unwrap();
    let mut damaged = whole.to_vec();
    damaged[2_000_000] ^= 0x10;
    let stream = ReadStream::new();
    for object in [damaged.into(), whole.slice(..1_900_000)] {
        volume.objects.overwrite(&key, object).unwrap();
        let there = volume.mount().open(&ctx(), InodeId(1)).await.unwrap();
        let error = there.read(&ctx(), &stream, 2_000_000, 10).await.unwrap_err();
        assert!(matches!(&error, BodyError::Corrupt { key: found, .. } if *found == key), "{error}");
        assert!(there.read(&ctx(), &stream, 10, 10).await.unwrap() == bytes(1, 20)[10..], "whole frames are readable");
    }
    volume.objects.overwrite(&key, whole).unwrap();
    assert!(read_all(&volume.mount().open(&ctx(), InodeId(1)).await.unwrap()).await == bytes(1, 3_000_000));
}

#[tokio::test]
async fn a_shutdown_publishes_and_names_what_it_could_not() {
    let volume = Volume::new();
    let mount = volume.mount();
    let files: Vec<_> = (1..=3).map(|inode| volume.create(&mount, inode)).collect();
    for file in &files {
        file.write(&ctx(), 0, bytes(1, 10)).await.unwrap();
    }
    volume.store.inject_always(Operation::Put, Fault::FailBefore(ObjectError::Denied("no".to_owned())));
    let error = mount.shutdown(ctx().deadline).await.unwrap_err();
    assert!(matches!(&error, BodyError::Unpublished(files) if files.len() == 3), "{error}");
    volume.store.heal();
    mount.shutdown(ctx().deadline).await.unwrap();
    assert_eq!(mount.dirty(), 0);
}

#[tokio::test]
async fn what_is_cut_off_or_given_up_leaves_the_stage_at_once() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = volume.create(&mount, 1);
    for give_up in [false, true] {
        volume.store.inject_always(Operation::Put, Fault::FailBefore(ObjectError::Unavailable("down".to_owned())));
        file.write(&ctx(), 0, bytes(1, 5_000_000)).await.unwrap();
        assert!(file.sync(&ctx()).await.is_err());
        assert!(mount.stage.used() > 0);
        if give_up {
            file.discard();
        } else {
            file.truncate(&ctx(), 0).await.unwrap();
        }
        wait_for(|| mount.stage.used() == 0).await;
        assert!(!file.is_dirty());
        assert_eq!(read_all(&file).await, b"");
    }
}
