//! Servers that are killed, stores that stop.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::fixture::{Cluster, PATIENCE, check, content, exit, store};

#[test]
fn a_killed_metadata_server_loses_nothing() {
    let mut cluster = Cluster::new();
    let mount = cluster.bench.mount_point("m");
    let serving = cluster.mount(&mount);
    let device = mount.device();
    let ends = AtomicBool::new(false);
    // Outside the filesystem: what fsync and close returned for.
    let manifest = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (mount, ends, manifest) = (&mount, &ends, &manifest);
            scope.spawn(move || {
                for number in 0.. {
                    if ends.load(Ordering::Acquire) {
                        break;
                    }
                    let (name, len) = (format!("w{writer}-{number}"), 500 + number * 37 % 9000);
                    store(mount.path(), device, &name, &content(&name, len), true).expect("calls wait and go on");
                    manifest.lock().expect("a list").push((name, len));
                }
            });
        }
        let mut seen = 0;
        for _ in 0..10 {
            // Killed while it works, not while everybody waits.
            let until = Instant::now() + PATIENCE;
            while manifest.lock().expect("a list").len() < seen + 10 {
                assert!(Instant::now() < until, "no file was stored since the last kill");
                std::thread::sleep(Duration::from_millis(5));
            }
            cluster.kill_server();
            cluster.serve();
            seen = manifest.lock().expect("a list").len();
        }
        ends.store(true, Ordering::Release);
    });
    let manifest = manifest.into_inner().expect("a list");
    println!("{} files over 10 kills", manifest.len());
    // A second mount has nothing cached.
    let other = cluster.bench.mount_point("other");
    let second = cluster.mount(&other);
    for (name, len) in &manifest {
        check(other.path(), name, &content(name, *len));
    }
    let found = fs::read_dir(other.path()).expect("listed").count();
    assert_eq!(found, manifest.len());
    second.end();
    serving.end();
}

#[test]
fn a_stopped_store_delays_and_loses_nothing() {
    let cluster = Cluster::new();
    let mount = cluster.bench.mount_point("m");
    let serving = cluster.mount(&mount);
    let device = mount.device();
    store(mount.path(), device, "before", &content("before", 4000), true).expect("stored");
    cluster.store.signal(libc::SIGSTOP);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store(mount.path(), device, "during", &content("during", 3 << 20), true));
        let mut stuck = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", "count=4", "conv=fsync"])
            .arg(format!("of={}", mount.path().join("stuck").display()))
            .stderr(Stdio::null())
            .spawn()
            .expect("dd");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(exit(&mut stuck, Duration::ZERO), None, "it waits for the store");
        stuck.kill().expect("killed");
        let died = exit(&mut stuck, Duration::from_secs(5));
        assert!(died.is_some(), "a killed process must not hang in the mount");
        fs::metadata(mount.path().join("before")).expect("metadata goes on");
        std::thread::sleep(Duration::from_secs(6));
        assert!(!waiting.is_finished(), "fsync can't return before the store has the bytes");
        cluster.store.signal(libc::SIGCONT);
        waiting.join().expect("a thread").expect("it goes on");
    });
    check(mount.path(), "before", &content("before", 4000));
    check(mount.path(), "during", &content("during", 3 << 20));
    serving.end();
}
