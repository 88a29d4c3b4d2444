//! Locks of processes on two mounts, while the server between them is killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::{Cluster, PATIENCE, exit};

/// Takes a lock, says so in a file beside the mounts, and keeps it.
const HOLD: &str = "import fcntl, sys, time
file = open(sys.argv[1], 'a')
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
open(sys.argv[3], 'x').close()
time.sleep(1000)";

/// Answers 9 if the lock is someone else's.
const TRY: &str = "import fcntl, sys
try:
    getattr(fcntl, sys.argv[2])(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(9)";

fn python(program: &str, file: &Path, family: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg("-c").arg(program).arg(file).arg(family).stdin(Stdio::null());
    command
}

fn hold(file: &Path, family: &str, held: &Path) -> Child {
    python(HOLD, file, family).arg(held).spawn().expect("python runs")
}

fn tried(file: &Path, family: &str) -> Option<i32> {
    python(TRY, file, family).status().expect("python runs").code()
}

fn wait_for(path: &Path) {
    let until = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < until, "no {}", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn locks_outlive_a_killed_server_and_go_with_their_process() {
    let mut cluster = Cluster::new();
    let (first, second) = (cluster.bench.mount_point("a"), cluster.bench.mount_point("b"));
    let (one, two) = (cluster.mount(&first), cluster.mount(&second));
    for family in ["flock", "lockf"] {
        let file = |at: &Path| at.join(family);
        let (held, next) =
            (cluster.bench.path(&format!("{family}-held")), cluster.bench.path(&format!("{family}-next")));
        let mut holder = hold(&file(first.path()), family, &held);
        wait_for(&held);
        assert_eq!(tried(&file(second.path()), family), Some(9));
        let mut waiter = hold(&file(second.path()), family, &next);
        cluster.kill_server();
        cluster.serve();
        assert_eq!(tried(&file(first.path()), family), Some(9), "the restart lost a lock");
        assert_eq!(tried(&file(second.path()), family), Some(9), "the restart lost a lock");
        assert!(!next.exists(), "two hold the lock");
        holder.kill().expect("killed");
        exit(&mut holder, PATIENCE).expect("it ends");
        wait_for(&next);
        assert_eq!(tried(&file(first.path()), family), Some(9));
        waiter.kill().expect("killed");
        exit(&mut waiter, PATIENCE).expect("it ends");
        let until = Instant::now() + PATIENCE;
        while tried(&file(first.path()), family) != Some(0) {
            assert!(Instant::now() < until, "a dead process holds the lock");
        }
    }
    one.end();
    two.end();
    cluster.server.take().expect("a server").end();
}
