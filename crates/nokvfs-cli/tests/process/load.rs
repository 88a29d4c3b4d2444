//! Many clients, large files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Instant;

use crate::fixture::{Bench, check, content, store};

/// Files of one client.
const EACH: usize = 24;

#[test]
fn many_clients_in_one_directory_lose_no_file() {
    let bench = Bench::new();
    let mount = bench.mount_point("m");
    let dev = bench.dev(&mount);
    let dir = mount.path().join("shared");
    fs::create_dir(&dir).expect("a directory");
    let device = mount.device();
    let client = |client: usize, files: usize| {
        for file in 0..files {
            let name = format!("c{client}-{file}");
            store(&dir, device, &name, &content(&name, 1000), true).expect("stored");
        }
    };
    let started = Instant::now();
    client(0, 4 * EACH);
    let alone = (4 * EACH) as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for number in 1..=64 {
            scope.spawn(move || client(number, EACH));
        }
    });
    let together = (64 * EACH) as f64 / started.elapsed().as_secs_f64();
    println!(
        "create+write+fsync+close, mounted, strict, warm: 1 client {alone:.0}/s, 64 clients {together:.0}/s ({:.1}x)",
        together / alone
    );
    dev.kill();

    let dev = bench.dev(&mount);
    let dir = mount.path().join("shared");
    let found = fs::read_dir(&dir).expect("listed").count();
    assert_eq!(found, 68 * EACH);
    for (client, files) in (0..=64).map(|client| (client, if client == 0 { 4 * EACH } else { EACH })) {
        for file in 0..files {
            let name = format!("c{client}-{file}");
            check(&dir, &name, &content(&name, 1000));
        }
    }
    dev.end();
}

/// Memory is bounded by the write buffer (128 MiB), the read buffer (128 MiB), requests in flight and the trial store's,
/// whatever the file's size; so 1 GiB, eight times the buffers, shows the same as 4 GiB do. `NOKV_TEST_GIB=4` runs those.
#[test]
fn a_large_file_needs_constant_memory() {
    let gib: u64 = std::env::var("NOKV_TEST_GIB").map_or(1, |text| text.parse().expect("NOKV_TEST_GIB is a number"));
    let bench = Bench::new();
    let mount = bench.mount_point("m");
    let dev = bench.dev(&mount);
    let path = mount.path().join("large");
    let mut file = File::create(&path).expect("created");
    let mut step = vec![0u8; 1 << 20];
    let started = Instant::now();
    for number in 0..gib << 10 {
        fill(&mut step, number);
        file.write_all(&step).expect("written");
    }
    file.sync_all().expect("synced");
    let written = started.elapsed();
    // SAFETY: a system call on an open descriptor.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
    drop(file);
    let mut file = File::open(&path).expect("opened");
    let mut expected = vec![0u8; 1 << 20];
    let started = Instant::now();
    for number in 0..gib << 10 {
        fill(&mut expected, number);
        file.read_exact(&mut step).expect("read");
        assert!(step == expected, "MiB {number}");
    }
    assert_eq!(file.read(&mut step).expect("read"), 0);
    let read = started.elapsed();
    drop(file);
    let status = fs::read_to_string(format!("/proc/{}/status", dev.pid())).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    let mib = (gib << 10) as f64;
    println!(
        "{gib} GiB: written at {:.0} MiB/s, read at {:.0} MiB/s, peak memory {} MiB",
        mib / written.as_secs_f64(),
        mib / read.as_secs_f64(),
        peak >> 10
    );
    assert!(peak < 400 << 10, "peak memory {peak} KiB");
    dev.end();
}

/// A step that differs from all others, in all its 4 KiB blocks.
fn fill(step: &mut [u8], number: u64) {
    for (index, block) in step.chunks_exact_mut(4096).enumerate() {
        let stamp = (number << 8 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&stamp.to_le_bytes());
        }
    }
}
