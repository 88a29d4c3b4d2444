//! Disks without room under a real mount: a clear error soon, nothing lost, and all goes on once there is room.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::fixture::{Bench, Cluster, MountPoint, PATIENCE, Process, check, content, store};

/// A small file system of its own.
fn disk(at: &Path, mib: u64) -> MountPoint {
    let at = MountPoint::new(at.to_owned());
    tmpfs(at.path(), &format!("size={mib}m"));
    at
}

fn tmpfs(at: &Path, options: &str) {
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at).status().expect("mount");
    assert!(status.success(), "mount: {status}");
}

/// Stores files until one is refused; answers those that were stored and why.
fn store_until_refused(mount: &MountPoint, prefix: &str, len: usize) -> (Vec<String>, io::Error) {
    let (mut stored, device) = (Vec::new(), mount.device());
    for number in 0..10_000 {
        let name = format!("{prefix}{number}");
        let begun = Instant::now();
        match store(mount.path(), device, &name, &content(&name, len), true) {
            Ok(()) => stored.push(name),
            Err(error) => {
                assert!(begun.elapsed() < 2 * PATIENCE, "an error after {:?}", begun.elapsed());
                return (stored, error);
            }
        }
    }
    panic!("nothing was refused");
}

fn store_again(mount: &MountPoint, name: &str) {
    let end = Instant::now() + PATIENCE;
    let mut tries = 0;
    loop {
        tries += 1;
        let name = format!("{name}{tries}");
        match store(mount.path(), mount.device(), &name, &content(&name, 5000), true) {
            Ok(()) => return check(mount.path(), &name, &content(&name, 5000)),
            Err(error) => assert!(Instant::now() < end, "it does not recover: {error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_full_data_folder_is_told_and_recovers() {
    let bench = Bench::new();
    let data = disk(&bench.path("data"), 300);
    let mount = bench.mount_point("m");
    let dev = bench.dev(&mount);
    let (stored, error) = store_until_refused(&mount, "f", 1 << 20);
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    println!("{} files of 1 MiB, then {error}", stored.len());
    let whole = |mount: &MountPoint| stored.iter().for_each(|name| check(mount.path(), name, &content(name, 1 << 20)));
    whole(&mount);
    tmpfs(data.path(), "remount,size=600m");
    store_again(&mount, "more");
    whole(&mount);
    dev.end();
    let dev = bench.dev(&mount);
    whole(&mount);
    dev.end();
}

#[test]
fn a_full_stage_folder_fails_the_write_and_recovers() {
    let cluster = Cluster::new();
    let stage = disk(&cluster.bench.path("stage"), 12);
    let mount = cluster.bench.mount_point("m");
    let args = ["mount", mount.path().to_str().expect("plain"), "--stage-dir", stage.path().to_str().expect("plain")];
    let serving = Process::start(cluster.args(args), &cluster.bench.path("mount.log"));
    serving.ready();
    store(mount.path(), mount.device(), "before", &content("before", 3 << 20), true).expect("stored");
    // What is staged stays there. The pieces lie across the ends of blocks, and the folder holds three blocks.
    cluster.store.signal(libc::SIGSTOP);
    let mut large = File::create(mount.path().join("large")).expect("created");
    let bytes = content("large", 64 << 20);
    let mut written = large.write(&bytes[..8192]).expect("the first");
    let begun = Instant::now();
    let error = loop {
        match large.write(&bytes[written..written + (1 << 20)]) {
            Ok(more) => written += more,
            Err(error) => break error,
        }
    };
    println!("{written} bytes, then {error} after {:?}", begun.elapsed());
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    cluster.store.signal(libc::SIGCONT);
    large.sync_all().expect("what was written can be synced");
    drop(large);
    let found = fs::read(mount.path().join("large")).expect("read");
    assert!(found.len() >= written && found[..written] == bytes[..written], "{} of {written} bytes", found.len());
    store_again(&mount, "after");
    check(mount.path(), "before", &content("before", 3 << 20));
    store(mount.path(), mount.device(), "long", &content("long", 5 << 20), true).expect("there is room again");
    check(mount.path(), "long", &content("long", 5 << 20));
    serving.end();
}
