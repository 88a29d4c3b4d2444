//! `dev`: ends, kills and restarts.

use std::fs;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::fixture::{Bench, check, content, run, store, text};

#[test]
fn files_survive_sigterm_and_kill() {
    let bench = Bench::new();
    let mount = bench.mount_point("m");
    let dev = bench.dev(&mount);
    let (small, large) = (content("small", 700), content("large", 9 << 20));
    store(mount.path(), mount.device(), "small", &small, false).expect("stored");
    fs::create_dir(mount.path().join("d")).expect("a directory");
    store(&mount.path().join("d"), mount.device(), "large", &large, false).expect("stored");
    dev.end();
    assert!(!mount.mounted(), "SIGTERM unmounts");

    let dev = bench.dev(&mount);
    check(mount.path(), "small", &small);
    check(mount.path(), "d/large", &large);
    store(mount.path(), mount.device(), "later", &small, true).expect("stored");
    let mut open = fs::File::create(mount.path().join("open")).expect("created");
    open.write_all(&large).expect("written");
    dev.kill();
    let dead = fs::metadata(mount.path()).expect_err("a dead mount");
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    drop(open);

    let dev = bench.dev(&mount);
    assert!(dev.log().contains("detaching a dead mount"), "{}", dev.log());
    check(mount.path(), "small", &small);
    check(mount.path(), "d/large", &large);
    check(mount.path(), "later", &small);
    store(mount.path(), mount.device(), "last", &small, false).expect("stored");
    let mut names: Vec<_> =
        fs::read_dir(mount.path()).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["d", "last", "later", "open", "small"]);
    dev.end();
}

#[test]
fn a_data_folder_belongs_to_one_process() {
    let bench = Bench::new();
    let mount = bench.mount_point("m");
    let other = bench.mount_point("other");
    let dev = bench.dev(&mount);
    let refused = run(["dev", &bench.text("other"), "--data", &bench.text("data")]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains(&format!("in use by pid {}", dev.pid())), "{said}");
    assert!(!other.mounted());
    store(mount.path(), mount.device(), "untouched", b"x", true).expect("the first goes on");
    dev.end();
}

#[test]
fn sigterm_loses_nothing_that_close_returned_for() {
    let bench = Bench::new();
    let mount = bench.mount_point("m");
    let dev = bench.dev(&mount);
    let device = mount.device();
    let ends = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (mount, ends) = (&mount, &ends);
                scope.spawn(move || {
                    let mut names = Vec::new();
                    for number in 0.. {
                        let name = format!("w{writer}-{number}");
                        let len = if number % 8 == 0 { 5 << 20 } else { 3000 };
                        match store(mount.path(), device, &name, &content(&name, len), false) {
                            Ok(()) => names.push((name, len)),
                            Err(_) if ends.load(Ordering::Acquire) => break,
                            Err(error) => panic!("{name}: {error}"),
                        }
                    }
                    names
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(2));
        ends.store(true, Ordering::Release);
        dev.end();
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect::<Vec<_>>()
    });
    assert!(acknowledged.len() > 8, "{} files", acknowledged.len());
    let dev = bench.dev(&mount);
    for (name, len) in &acknowledged {
        check(mount.path(), name, &content(name, *len));
    }
    println!("{} files were acknowledged before SIGTERM, all are whole", acknowledged.len());
    dev.end();
}

#[test]
fn an_open_directory_does_not_hold_up_the_end() {
    let bench = Bench::new();
    let mount = bench.mount_point("m");
    let dev = bench.dev(&mount);
    store(mount.path(), mount.device(), "f", b"kept", false).expect("stored");
    let held = fs::File::open(mount.path()).expect("opened");
    dev.end();
    assert!(!mount.mounted());
    let gone: io::Error = held.sync_all().expect_err("nobody serves it");
    assert_eq!(gone.raw_os_error(), Some(libc::ENOTCONN), "{gone}");
    let dev = bench.dev(&mount);
    check(mount.path(), "f", b"kept");
    dev.end();
}
