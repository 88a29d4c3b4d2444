//! Mounts and servers that are killed again and again under writers. What fsync and close returned for is written down
//! outside, and must be there, whole, in a mount that has nothing cached.
//!
//! `NOKV_TEST_KILLS` sets how many kills there are.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use nokvfs_meta::commit::Committer;
use nokvfs_meta::store::StoreOptions;
use nokvfs_object::{ObjectStore, S3Options, S3Store};

use crate::fixture::{Cluster, MountPoint, PATIENCE, Process, check, content, exit};
use crate::fsck;

/// Writes small files and now and then one of some megabytes; each in a folder of its own that is synced as well, or moved
/// to its name. Prints name and length once all of that returned. Ends when its mount does.
const WRITER: &str = r#"
cd "$1" && i=0
while :; do
    i=$((i + 1)); name=$2-$i; len=$((700 + i * 1237 % 90000))
    [ $((i % 12)) = 0 ] && len=$((5000000 + i))
    case $((i % 3)) in
    0) mkdir "d$name" && sync "d$name" && cd "d$name" || exit 1
       yes "$name" | head -c $len | dd of="$name" iflag=fullblock conv=excl,fsync status=none || exit 1
       sync . && cd .. || exit 1
       echo "d$name/$name $len";;
    1) yes "$name" | head -c $len | dd of="t$name" iflag=fullblock conv=excl,fsync status=none || exit 1
       mv "t$name" "$name" && sync . || exit 1
       echo "$name $len";;
    2) yes "$name" | head -c $len | dd of="$name" iflag=fullblock conv=excl,fsync status=none || exit 1
       echo "$name $len";;
    esac
done
"#;

type Written = (String, usize);

fn writer(dir: &Path, prefix: &str, told: Sender<Written>) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", WRITER, "sh"]).arg(dir).arg(prefix).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a shell");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let Some((name, len)) = line.split_once(' ') else { continue };
            // The test is over.
            if told.send((name.to_owned(), len.parse().expect("a length"))).is_err() {
                return;
            }
        }
    });
    child
}

/// A mount with writers.
struct Running {
    mount: Process,
    at: MountPoint,
    writers: Vec<Child>,
    told: Receiver<Written>,
}

impl Running {
    fn start(cluster: &Cluster, round: u64) -> Self {
        let at = cluster.bench.mount_point(&format!("m{round}"));
        let mount = cluster.mount(&at);
        let (sender, told) = mpsc::channel();
        let writers = (0..3).map(|number| writer(at.path(), &format!("r{round}w{number}"), sender.clone())).collect();
        Running { mount, at, writers, told }
    }

    fn more(&self, manifest: &mut Vec<Written>, count: usize) {
        for _ in 0..count {
            manifest.push(self.told.recv_timeout(PATIENCE).expect("no file was stored for a minute"));
        }
    }

    /// Kills the mount; all writers fail, none hangs.
    fn kill(self, manifest: &mut Vec<Written>) {
        self.mount.kill();
        for mut writer in self.writers {
            if exit(&mut writer, Duration::from_secs(10)).is_none() {
                writer.kill().expect("killed");
                panic!("a writer hangs in a mount that was killed");
            }
        }
        drop(self.at);
        manifest.extend(self.told.iter());
    }
}

fn expected(name: &str, len: usize) -> Vec<u8> {
    content(name.rsplit('/').next().expect("a name"), len)
}

#[test]
fn whatever_is_killed_nothing_that_fsync_returned_for_is_lost() {
    let kills: u64 =
        std::env::var("NOKV_TEST_KILLS").map_or(60, |text| text.parse().expect("NOKV_TEST_KILLS is a number"));
    let begun = Instant::now();
    let mut cluster = Cluster::new();
    let mut manifest: Vec<Written> = Vec::new();
    let mut running = Running::start(&cluster, 0);
    let mut done = 0;
    while done < kills {
        let from = manifest.len();
        // Killed while they work, at another moment each time.
        running.more(&mut manifest, 4 + (done as usize * 7) % 25);
        let kind = done % 3;
        if kind == 1 {
            cluster.kill_server();
            cluster.serve();
            running.more(&mut manifest, 4);
            done += 1;
            continue;
        }
        if kind == 2 {
            cluster.kill_server();
            done += 1;
        }
        running.kill(&mut manifest);
        done += 1;
        if kind == 2 {
            cluster.serve();
        }
        running = Running::start(&cluster, done);
        for (name, len) in &manifest[from..] {
            check(running.at.path(), name, &expected(name, *len));
        }
    }
    running.kill(&mut manifest);
    let at = cluster.bench.mount_point("last");
    let mount = cluster.mount(&at);
    for (name, len) in &manifest {
        check(at.path(), name, &expected(name, *len));
    }
    mount.end();
    println!("{done} kills, {} files, all whole, {:?}", manifest.len(), begun.elapsed());
    cluster.kill_server();
    check_records(&cluster);
}

/// All records agree, and each object that they name is there.
fn check_records(cluster: &Cluster) {
    let options = StoreOptions { low_water: 0, ..StoreOptions::new(cluster.bench.path("meta"), 256 << 20) };
    let (store, committer) = Committer::open(options).expect("opened");
    let found = fsck::read(&*store).expect("records");
    drop((store, committer));
    let wrong = found.wrong();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let key = |name| fs::read_to_string(cluster.bench.path(name)).expect("a key").trim().to_owned();
    let options = S3Options {
        endpoint: cluster.endpoint.clone(),
        bucket: "trial".into(),
        access_key: key("access"),
        secret_key: key("secret"),
        ..S3Options::default()
    };
    let objects: Arc<dyn ObjectStore> = Arc::new(S3Store::new(options).expect("options"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let named = found.named();
    for object in &named {
        runtime.block_on(objects.head(object)).unwrap_or_else(|error| panic!("{object} is named: {error}"));
    }
    println!("{} objects are named, all are there", named.len());
}
