//! A metadata server, a store, mounts and tools, as separate processes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use crate::fixture::{Cluster, check, content, ok, run, store, text};

#[test]
fn mounts_and_tools_see_the_same_volume() {
    let mut cluster = Cluster::new();
    assert!(ok(["status", "--server", &cluster.address]).contains("answers in"));
    let (first, second) = (cluster.bench.mount_point("a"), cluster.bench.mount_point("b"));
    let (one, two) = (cluster.mount(&first), cluster.mount(&second));
    let bytes = content("f", 300_000);
    store(first.path(), first.device(), "f", &bytes, false).expect("stored");
    check(second.path(), "f", &bytes);
    assert!(run(cluster.args(["cat", "/f"])).stdout == bytes);
    ok(cluster.args(["mkdir", "-p", "x/y"]));
    ok(cluster.args(["mv", "f", "x/y"]));
    let listed: serde_json::Value =
        serde_json::from_str(&ok(cluster.args(["--output", "json", "ls", "-R"]))).expect("JSON");
    let mut paths: Vec<_> =
        listed.as_array().expect("rows").iter().map(|row| row["path"].as_str().expect("a path")).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["x", "x/y", "x/y/f"]);
    let stat: serde_json::Value =
        serde_json::from_str(&ok(cluster.args(["--output", "json", "stat", "x/y/f"]))).expect("JSON");
    assert_eq!((stat["size"].as_u64(), stat["kind"].as_str()), (Some(300_000), Some("file")));
    let refused = run(cluster.args(["rm", "x"]));
    assert!(!refused.status.success() && text(&refused.stderr).contains("--recursive"), "{}", text(&refused.stderr));
    ok(cluster.args(["rm", "-r", "x"]));
    let gone = run(cluster.args(["stat", "x"]));
    assert_eq!(gone.status.code(), Some(1));
    one.end();
    two.end();
    cluster.server.take().expect("a server").end();
}

#[test]
fn folders_go_in_and_come_back_the_same() {
    let cluster = Cluster::new();
    let from = cluster.bench.path("from");
    fs::create_dir_all(from.join("sub/empty")).expect("folders");
    for (name, len) in [("a", 0), ("sub/b", 1), ("sub/large", (9 << 20) + 17)] {
        fs::write(from.join(name), content(name, len)).expect("written");
    }
    for number in 0..50 {
        fs::write(from.join(format!("sub/n{number}")), content("n", number * 1000)).expect("written");
    }
    fs::set_permissions(from.join("sub/b"), fs::Permissions::from_mode(0o750)).expect("a mode");
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    fs::File::options().write(true).open(from.join("sub/b")).and_then(|file| file.set_modified(then)).expect("a time");
    symlink("b", from.join("sub/link")).expect("a link");
    ok(cluster.args(["put", &cluster.bench.text("from"), "/into"]));
    let to = cluster.bench.path("to");
    ok(cluster.args(["get", "/into", &cluster.bench.text("to")]));
    let compared =
        std::process::Command::new("diff").arg("-r").arg("--no-dereference").args([&from, &to]).output().expect("diff");
    assert!(compared.status.success(), "{}", text(&compared.stdout));
    let meta = fs::metadata(to.join("sub/b")).expect("there");
    assert_eq!((meta.mode() & 0o7777, meta.modified().expect("a time")), (0o750, then));
    assert_eq!(fs::read_link(to.join("sub/link")).expect("a link").to_str(), Some("b"));
    // Once more, over what is there.
    ok(cluster.args(["put", &cluster.bench.text("from/sub"), "/into"]));
    ok(cluster.args(["get", "/into/sub", &cluster.bench.text("to")]));
    let missing = run(cluster.args(["put", &cluster.bench.text("nothing"), "/into"]));
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing.stderr));
}

#[test]
fn a_checkpoint_shows_whole_or_not_at_all() {
    let cluster = Cluster::new();
    let from = cluster.bench.path("ckpt");
    let write = |step: u8| {
        fs::create_dir_all(from.join("shards")).expect("folders");
        for shard in 0..40 {
            fs::write(from.join(format!("shards/{shard}")), vec![step; 100_000 + shard]).expect("written");
        }
        fs::write(from.join("step"), [step]).expect("written");
    };
    let dir = cluster.bench.mount_point("m");
    let mounted = cluster.mount(&dir);
    write(1);
    ok(cluster.args(["put", "--atomic", &cluster.bench.text("ckpt"), "/latest"]));
    // A reader sees all of one step or all of the other, at any time.
    let (stop, reader) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), dir.path().join("latest"));
    let stopped = stop.clone();
    let reading = std::thread::spawn(move || {
        let mut looks = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            // An open folder stays the one that was opened.
            let open = fs::File::open(&reader).expect("always there");
            let at = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
            let Ok(step) = fs::read(format!("{at}/step")) else { continue };
            let shards = (0..40).map(|shard| fs::read(format!("{at}/shards/{shard}")));
            for shard in shards {
                match shard {
                    Ok(bytes) => assert!(bytes.iter().all(|byte| *byte == step[0]), "two steps are mixed"),
                    // What was exchanged is being removed.
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
                }
            }
            looks += 1;
        }
        looks
    });
    for step in 2..5 {
        write(step);
        ok(cluster.args(["put", "--atomic", &cluster.bench.text("ckpt"), "/latest"]));
        let shown = ok(cluster.args(["ls", "-R", "/"]));
        assert!(!shown.contains(".put-"), "{shown}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reading.join().expect("no mix") > 0);
    // One that fails leaves what was there.
    std::os::unix::net::UnixListener::bind(from.join("socket")).expect("a file that is not copied");
    write(9);
    assert!(!run(cluster.args(["put", "--atomic", &cluster.bench.text("ckpt"), "/latest"])).status.success());
    assert_eq!(run(cluster.args(["cat", "/latest/step"])).stdout, [4]);
    assert!(!ok(cluster.args(["ls", "-R", "/"])).contains(".put-"));
    mounted.end();
}
