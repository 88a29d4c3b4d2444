//! Servers that are killed, stores that stop.
//!
//! Whoever waits in the mount here is a process of its own: a fork of this one would copy its open files, closing them on
//! exec sends FUSE_FLUSH, and then starting the server would wait for the server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::fixture::{Cluster, PATIENCE, check, content, exit, store};

/// Writes files named `prefix`-number until the file `stop` is there, and prints each one's name and length once fsync
/// and close returned. Their content is that of [`content`].
const WRITER: &str = r#"
cd "$1" && i=0
while [ ! -e "$3" ]; do
    i=$((i + 1)); name=$2-$i; len=$((500 + i * 37 % 9000))
    yes "$name" | head -c $len | dd of="$name" iflag=fullblock conv=excl,fsync status=none || exit 1
    echo "$name $len"
done
"#;

/// A shell that writes. It ends by itself once its mount is gone.
fn writer(dir: &Path, prefix: &str, stop: &Path, acknowledged: mpsc::Sender<(String, usize)>) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", WRITER, "sh"]).arg(dir).arg(prefix).arg(stop).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a shell");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let (name, len) = line.split_once(' ').expect("name and length");
            acknowledged.send((name.to_owned(), len.parse().expect("a length"))).expect("the test listens");
        }
    });
    child
}

fn more(manifest: &mut Vec<(String, usize)>, files: &Receiver<(String, usize)>, count: usize) {
    for _ in 0..count {
        manifest.push(files.recv_timeout(PATIENCE).expect("no file was stored for a minute"));
    }
}

#[test]
fn a_killed_metadata_server_loses_nothing() {
    let mut cluster = Cluster::new();
    let mount = cluster.bench.mount_point("m");
    let serving = cluster.mount(&mount);
    let stop = cluster.bench.path("stop");
    let (sender, files) = mpsc::channel();
    let mut writers: Vec<Child> =
        (0..3).map(|number| writer(mount.path(), &format!("w{number}"), &stop, sender.clone())).collect();
    drop(sender);
    // Outside the filesystem: what fsync and close returned for.
    let mut manifest = Vec::new();
    for _ in 0..10 {
        // Killed while it works, not while everybody waits.
        more(&mut manifest, &files, 20);
        cluster.kill_server();
        manifest.extend(files.try_iter());
        cluster.serve();
    }
    more(&mut manifest, &files, 20);
    fs::write(&stop, "").expect("written");
    for writer in &mut writers {
        let status = exit(writer, PATIENCE).expect("it stops");
        assert!(status.success(), "calls wait and go on: {status}");
    }
    manifest.extend(files.iter());
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

fn dd(to: &Path, blocks: u32) -> Child {
    let mut command = Command::new("dd");
    command.args(["if=/dev/zero", "bs=64k", "conv=fsync"]).arg(format!("count={blocks}"));
    command.arg(format!("of={}", to.display())).stderr(Stdio::null()).spawn().expect("dd")
}

#[test]
fn a_stopped_store_delays_and_loses_nothing() {
    let cluster = Cluster::new();
    let mount = cluster.bench.mount_point("m");
    let serving = cluster.mount(&mount);
    store(mount.path(), mount.device(), "before", &content("before", 4000), true).expect("stored");
    cluster.store.signal(libc::SIGSTOP);
    let mut waiting = dd(&mount.path().join("during"), 48);
    let mut stuck = dd(&mount.path().join("stuck"), 4);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(exit(&mut stuck, Duration::ZERO), None, "it waits for the store");
    let killed = Instant::now();
    stuck.kill().expect("killed");
    let died = exit(&mut stuck, Duration::from_secs(5));
    assert!(died.is_some(), "a killed process must not hang in the mount");
    println!("a process in fsync died {:.1} s after SIGKILL", killed.elapsed().as_secs_f64());
    fs::metadata(mount.path().join("before")).expect("metadata goes on");
    std::thread::sleep(Duration::from_secs(28));
    assert_eq!(exit(&mut waiting, Duration::ZERO), None, "fsync can't return before the store has the bytes");
    cluster.store.signal(libc::SIGCONT);
    assert!(exit(&mut waiting, PATIENCE).expect("it goes on").success());
    check(mount.path(), "before", &content("before", 4000));
    check(mount.path(), "during", &vec![0; 48 << 16]);
    serving.end();
}
