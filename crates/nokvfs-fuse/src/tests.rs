//! Conversions that the kernel can't be made to show one by one.

use std::time::{Duration, UNIX_EPOCH};

use nokvfs_types::Timestamp;

use crate::attrs::{timestamp, without_set_id};
use crate::{MountOptions, process};

#[test]
fn times_before_the_epoch_come_out_as_they_went_in() {
    // -2 s + 300 ms, in the way fuser builds it.
    let as_fuser_says = UNIX_EPOCH - Duration::new(2, 300_000_000);
    assert_eq!(timestamp(as_fuser_says), Timestamp(-1_700_000_000));
    assert_eq!(timestamp(UNIX_EPOCH - Duration::from_secs(5)), Timestamp(-5_000_000_000));
    assert_eq!(timestamp(UNIX_EPOCH + Duration::new(1, 1)), Timestamp(1_000_000_001));
}

#[test]
fn set_id_bits_go_as_in_the_kernel() {
    assert_eq!(without_set_id(0o755), None);
    assert_eq!(without_set_id(0o4755), Some(0o755));
    assert_eq!(without_set_id(0o2755), Some(0o755));
    assert_eq!(without_set_id(0o6755), Some(0o755));
    // Mandatory locking, not set-group-id.
    assert_eq!(without_set_id(0o2745), None);
}

#[test]
fn a_living_process_is_not_dying() {
    assert!(!process::is_dying(std::process::id()));
    assert!(!process::is_dying(u32::MAX));
}

#[test]
fn signals_wake_who_does_not_block_or_ignore_them() {
    let status = |own: u64, shared: u64, blocked: u64, ignored: u64| {
        format!(
            "Name:\tSigPnd: ff\nTgid:\t7\nPid:\t7\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n"
        )
    };
    assert_eq!(process::waking_signals(&status(0b10, 0b100, 0, 0), 7), (0b10, 0b100));
    assert_eq!(process::waking_signals(&status(0b11, 0b110, 0b01, 0b100), 7), (0b10, 0b010));
    // The main thread gets the process's signals.
    assert_eq!(process::waking_signals(&status(0b10, 0b100, 0, 0), 8), (0b10, 0));
    assert_eq!(process::waking_signals("", 7), (0, 0));
    assert!(process::is_visible(std::process::id()) && !process::is_visible(0) && !process::is_visible(u32::MAX));
}

#[test]
fn options_that_can_not_work_are_refused() {
    assert!(MountOptions::default().validate().is_ok());
    for bad in [
        MountOptions { threads: 0, ..MountOptions::default() },
        MountOptions { fs_name: "a,allow_root".to_owned(), ..MountOptions::default() },
        MountOptions { subtype: "x y".to_owned(), ..MountOptions::default() },
        MountOptions { attr_ttl: Duration::from_secs(2), ..MountOptions::default() },
        MountOptions { max_in_flight: 0, ..MountOptions::default() },
        MountOptions { request_deadline: Duration::ZERO, ..MountOptions::default() },
    ] {
        assert!(bad.validate().is_err(), "{bad:?}");
    }
}
