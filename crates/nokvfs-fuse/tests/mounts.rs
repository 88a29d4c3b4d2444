//! Mounts: coherence between two, trouble with the store, killed processes, unmounting, dead mounts.

mod mounted;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mounted::{Volume, end_of, errno, names};
use nokvfs_fuse::MountOptions;
use nokvfs_object::Operation;

#[test]
fn an_open_sees_what_another_mount_closed_before() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    for round in 0..20 {
        let text = format!("round {round} {}", "x".repeat(round * 1000));
        let (writer, reader) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        fs::write(writer.path("f"), &text).unwrap();
        assert_eq!(fs::read_to_string(reader.path("f")).unwrap(), text);
        // The same size again: pages must go although no attribute that the kernel compares has changed.
        let other = text.replace("round", "ROUND");
        fs::write(writer.path("f"), &other).unwrap();
        assert_eq!(fs::read_to_string(reader.path("f")).unwrap(), other);
    }
}

#[test]
fn names_of_another_mount_show_within_the_time_to_live() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    assert!(!two.path("d").exists());
    fs::create_dir(one.path("d")).unwrap();
    fs::write(one.path("d/f"), b"").unwrap();
    assert_eq!(names(&two.path("d")), ["f"]);
    fs::remove_file(one.path("d/f")).unwrap();
    assert_eq!(names(&two.path("d")), Vec::<String>::new());
    // A create meets a file that this kernel has not heard of.
    fs::write(one.path("d/g"), b"there").unwrap();
    let file = OpenOptions::new().create(true).append(true).open(two.path("d/g")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
    let exclusive = OpenOptions::new().create_new(true).write(true).open(two.path("d/g"));
    assert_eq!(errno(exclusive), libc::EEXIST);
}

#[test]
fn the_page_cache_lasts_until_the_content_changes() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    fs::write(one.path("f"), vec![1; 1 << 20]).unwrap();
    // fincore opens the file: without FOPEN_KEEP_CACHE that alone would empty the cache.
    let pages = || {
        let said = Command::new("fincore").args(["-n", "-o", "PAGES"]).arg(two.path("f")).output().unwrap().stdout;
        String::from_utf8(said).unwrap().trim().parse::<u64>().unwrap()
    };
    fs::read(two.path("f")).unwrap();
    assert_eq!(pages(), 256);
    assert_eq!(pages(), 256);
    fs::write(one.path("f"), vec![2; 1 << 20]).unwrap();
    assert_eq!(pages(), 0);
    assert_eq!(fs::read(two.path("f")).unwrap(), vec![2; 1 << 20]);
}

#[test]
fn a_stalled_store_makes_reads_wait_and_go_on() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    fs::write(one.path("f"), b"slow").unwrap();
    let stall = volume.store.stall(Operation::Get, 1);
    let path = two.path("f");
    let reader = std::thread::spawn(move || fs::read(path).unwrap());
    assert!(volume.runtime.block_on(stall.reached()));
    // Others are not held up.
    assert_eq!(fs::metadata(two.path("f")).unwrap().len(), 4);
    fs::create_dir(two.path("d")).unwrap();
    stall.release();
    assert_eq!(reader.join().unwrap(), b"slow");
}

#[test]
fn a_store_that_stays_away_gives_an_error_within_the_deadline() {
    let volume = Volume::new();
    let options = MountOptions { request_deadline: Duration::from_secs(2), ..MountOptions::default() };
    let (one, two) = (volume.mount(), volume.mount_with(options));
    fs::write(one.path("f"), b"data").unwrap();
    let stall = volume.store.stall(Operation::Get, 1);
    let begin = Instant::now();
    assert_eq!(errno(fs::read(two.path("f"))), libc::EIO);
    assert!(begin.elapsed() < Duration::from_secs(10));
    drop(stall);
    // A close that can't be made durable says so, and what was written is published once the store is back.
    let put = volume.store.stall(Operation::Put, 1);
    let mut file = File::create(two.path("late")).unwrap();
    file.write_all(b"kept").unwrap();
    assert_eq!(errno(file.sync_all()), libc::EIO);
    drop(put);
    file.sync_all().unwrap();
    assert_eq!(fs::read(one.path("late")).unwrap(), b"kept");
}

#[test]
fn a_killed_reader_dies_although_the_store_is_stalled() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    fs::write(one.path("f"), vec![5; 100_000]).unwrap();
    let stall = volume.store.stall(Operation::Get, 1);
    let mut reader = Command::new("cat").arg(two.path("f")).stdout(Stdio::null()).spawn().unwrap();
    assert!(volume.runtime.block_on(stall.reached()));
    reader.kill().unwrap();
    assert!(end_of(&mut reader, Duration::from_secs(5)).is_some(), "still blocked 5 s after SIGKILL");
    stall.release();
    assert_eq!(fs::read(two.path("f")).unwrap().len(), 100_000);
}

#[test]
fn a_killed_writer_dies_and_what_it_wrote_is_published() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let stall = volume.store.stall(Operation::Put, 1);
    let program = "import os, sys, time\nf = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\nos.write(f, b'w' * 50000)\nos.fsync(f)";
    let mut writer = Command::new("python3").arg("-c").arg(program).arg(two.path("f")).spawn().unwrap();
    assert!(volume.runtime.block_on(stall.reached()));
    writer.kill().unwrap();
    // Once for the fsync, once more for the close at its end.
    assert!(end_of(&mut writer, Duration::from_secs(8)).is_some(), "still blocked 8 s after SIGKILL");
    stall.release();
    let until = Instant::now() + Duration::from_secs(20);
    while fs::read(one.path("f")).unwrap().len() != 50_000 {
        assert!(Instant::now() < until, "never published");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn unmounting_publishes_everything() {
    let volume = Volume::new();
    let m = volume.mount();
    let mut file = File::create(m.path("open")).unwrap();
    file.write_all(b"not closed").unwrap();
    // The file is open, so the mount is detached; what was written is published all the same.
    let ended = volume.runtime.block_on(m.mount.unmount(Duration::from_secs(2)));
    assert!(matches!(ended, Err(nokvfs_fuse::FuseError::StillOpen(_))), "{ended:?}");
    assert_eq!(names(m.dir()), Vec::<String>::new(), "nobody new gets in");
    let again = volume.mount();
    assert_eq!(fs::read(again.path("open")).unwrap(), b"not closed");
    // Whoever has it open goes on.
    file.write_all(b", still").unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(again.path("open")).unwrap(), b"not closed, still");
    drop(file);
    volume.runtime.block_on(m.mount.wait()).unwrap();
    again.unmount();
    assert!(again.mount.finished());
}

#[test]
fn a_mount_stays_while_it_can_not_publish() {
    let volume = Volume::new();
    let options = MountOptions { request_deadline: Duration::from_secs(1), ..MountOptions::default() };
    let m = volume.mount_with(options);
    let file = File::create(m.path("f")).unwrap();
    file.write_all_at(b"precious", 0).unwrap();
    let stall = volume.store.stall(Operation::Put, 1);
    let ended = volume.runtime.block_on(m.mount.unmount(Duration::from_secs(1)));
    assert!(matches!(ended, Err(nokvfs_fuse::FuseError::Unpublished(_))), "{ended:?}");
    let mut text = String::new();
    File::open(m.path("f")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "precious");
    stall.release();
    drop(file);
    m.unmount();
    assert_eq!(fs::read(volume.mount().path("f")).unwrap(), b"precious");
}

#[test]
fn dead_mounts_are_told_from_living_ones() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    assert!(!nokvfs_fuse::is_dead_mount(dir).unwrap(), "no mount");
    let device = nokvfs_fuse::open_and_mount(dir, &MountOptions::default()).unwrap();
    let begin = Instant::now();
    assert!(!nokvfs_fuse::is_dead_mount(dir).unwrap(), "slow, not dead");
    assert!(begin.elapsed() < Duration::from_secs(5));
    drop(device);
    assert!(nokvfs_fuse::is_dead_mount(dir).unwrap());
    nokvfs_fuse::detach(dir).unwrap();
    assert!(!nokvfs_fuse::is_dead_mount(dir).unwrap());
    fs::write(dir.join("f"), b"a plain directory again").unwrap();
}

#[test]
fn more_waiting_requests_than_allowed_do_not_stop_a_mount() {
    let volume = Volume::new();
    let options = MountOptions { max_in_flight: 2, ..MountOptions::default() };
    let (one, two) = (volume.mount(), volume.mount_with(options));
    for i in 0..8 {
        fs::write(one.path(format!("{i}")), vec![i as u8; 10_000]).unwrap();
    }
    let stall = volume.store.stall(Operation::Get, 1);
    let readers: Vec<_> = (0..8)
        .map(|i| {
            let path = two.path(format!("{i}"));
            std::thread::spawn(move || assert_eq!(fs::read(path).unwrap(), vec![i as u8; 10_000]))
        })
        .collect();
    assert!(volume.runtime.block_on(stall.reached()));
    stall.release();
    for reader in readers {
        reader.join().unwrap();
    }
}
