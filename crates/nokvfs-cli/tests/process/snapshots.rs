//! Snapshots, clones and rollback through the command line, mounts and tools, with real bytes.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::fixture::{Cluster, MountPoint, Process, check, content, ok, run, store, text};

/// What the test's trees hold: a file of several blocks, one in a pack, one that is only in the past.
const LARGE: usize = (9 << 20) + 1234;

fn control(cluster: &Cluster, args: &[&str]) -> serde_json::Value {
    let args = ["--output", "json", "volume", "--server", &cluster.address].into_iter().chain(args.iter().copied());
    serde_json::from_str(&ok(args)).expect("JSON")
}

/// Flags of a volume, or of the token of another one.
fn opens(cluster: &Cluster, volume: &str, token: &str) -> Vec<String> {
    let token = cluster.bench.text(token);
    let flags = ["--server", &cluster.address, "--volume", volume, "--token-file", &token];
    flags.into_iter().map(str::to_owned).chain(cluster.s3()).collect()
}

fn mount(cluster: &Cluster, at: &MountPoint, flags: Vec<String>) -> Process {
    let args = ["mount".to_owned(), at.path().to_str().expect("plain").to_owned()].into_iter().chain(flags);
    let name = format!("{}.log", at.path().file_name().and_then(|name| name.to_str()).expect("a name"));
    let process = Process::start(args, &cluster.bench.path(&name));
    process.ready();
    process
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("plain"))
        .collect();
    names.sort();
    names
}

fn lines(cluster: &Cluster, more: &[&str]) -> Vec<String> {
    let token = cluster.bench.text("token");
    let diff = ["volume", "--server", &cluster.address, "diff", "--volume", &cluster.volume, "--token-file", &token];
    ok(diff.into_iter().chain(more.iter().copied())).lines().map(str::to_owned).collect()
}

#[test]
fn a_volume_is_kept_cloned_compared_and_rolled_back() {
    let cluster = Cluster::new();
    let now = cluster.bench.mount_point("now");
    let serving = cluster.mount(&now);
    let large = content("large", LARGE);
    store(now.path(), now.device(), "large", &large, true).expect("stored");
    store(now.path(), now.device(), "small", b"before", true).expect("stored");
    store(now.path(), now.device(), "gone", b"only in the past", true).expect("stored");
    fs::create_dir(now.path().join("dir")).expect("a folder");
    store(&now.path().join("dir"), now.device(), "moved", b"moved", true).expect("stored");
    let made = control(&cluster, &["snapshot", "create", "v", "first"]);
    assert_eq!((made[0]["name"].as_str(), made[0]["used_inodes"].as_u64()), (Some("first"), Some(6)), "{made}");
    assert_eq!(control(&cluster, &["snapshot", "create", "v", "first"])[0]["created"], made[0]["created"]);

    // The volume goes on.
    File::options().write(true).open(now.path().join("large")).expect("open").write_all_at(b"NEW", 5 << 20).expect("w");
    fs::write(now.path().join("small"), b"after").expect("written");
    fs::remove_file(now.path().join("gone")).expect("removed");
    fs::rename(now.path().join("dir/moved"), now.path().join("elsewhere")).expect("moved");
    store(now.path(), now.device(), "come", b"new", true).expect("stored");
    let mut newer = large.clone();
    newer[5 << 20..][..3].copy_from_slice(b"NEW");
    assert_eq!(
        lines(&cluster, &["--from", "first"]),
        ["A /come", "R /dir/moved -> /elsewhere", "D /gone", "M /large", "M /small"]
    );

    // The past, mounted: as it was, and unchangeable.
    let past = cluster.bench.mount_point("past");
    let showing = mount(&cluster, &past, cluster.args(["--snapshot", "first"]));
    assert_eq!(names(past.path()), ["dir", "gone", "large", "small"]);
    check(past.path(), "large", &large);
    check(past.path(), "small", b"before");
    check(&past.path().join("dir"), "moved", b"moved");
    assert_eq!(fs::write(past.path().join("x"), b"").expect_err("read-only").kind(), ErrorKind::ReadOnlyFilesystem);
    let held = run(["volume", "--server", &cluster.address, "snapshot", "delete", "v", "first", "--yes"]);
    assert!(!held.status.success() && text(&held.stderr).contains("mounted"), "{}", text(&held.stderr));
    assert!(run(cluster.args(["cat", "/small", "--snapshot", "first"])).stdout == b"before");

    // A clone of it, changed on its own.
    let token = cluster.bench.text("clone-token");
    let clone = control(&cluster, &["clone", "v", "copy", "--snapshot", "first", "--token-file", &token]);
    assert_eq!(clone[0]["used_bytes"], made[0]["used_bytes"]);
    let id = clone[0]["id"].as_str().expect("an id");
    let copy = cluster.bench.mount_point("copy");
    let copying = mount(&cluster, &copy, opens(&cluster, id, "clone-token"));
    check(copy.path(), "large", &large);
    File::options()
        .write(true)
        .open(copy.path().join("large"))
        .expect("open")
        .write_all_at(b"COPY", 7 << 20)
        .expect("w");
    fs::remove_file(copy.path().join("small")).expect("removed");
    store(copy.path(), copy.device(), "own", b"own", true).expect("stored");
    let mut copied = large.clone();
    copied[7 << 20..][..4].copy_from_slice(b"COPY");
    check(copy.path(), "large", &copied);
    assert_eq!(names(copy.path()), ["dir", "gone", "large", "own"]);
    check(now.path(), "large", &newer);
    check(past.path(), "large", &large);
    showing.end();

    // Back to what it was.
    let busy = run(["volume", "--server", &cluster.address, "rollback", "v", "first", "--yes"]);
    assert!(!busy.status.success() && text(&busy.stderr).contains("mounted"), "{}", text(&busy.stderr));
    serving.end();
    control(&cluster, &["snapshot", "create", "v", "second"]);
    control(&cluster, &["rollback", "v", "first", "--yes"]);
    let again = cluster.mount(&now);
    assert_eq!(names(now.path()), ["dir", "gone", "large", "small"]);
    check(now.path(), "large", &large);
    store(now.path(), now.device(), "later", b"later", true).expect("stored");
    assert!(run(cluster.args(["cat", "/come", "--snapshot", "second"])).stdout == b"new");
    let listed = control(&cluster, &["snapshot", "list", "v"]);
    let listed: Vec<_> =
        listed.as_array().expect("rows").iter().map(|row| row["name"].as_str().expect("name")).collect();
    assert_eq!(listed, ["first", "second"]);
    again.end();

    // The source goes, what was made from it stays.
    ok(["volume", "--server", &cluster.address, "delete", "v", "--yes"]);
    check(copy.path(), "large", &copied);
    check(copy.path(), "gone", b"only in the past");
    copying.end();
    let copying = mount(&cluster, &copy, opens(&cluster, id, "clone-token"));
    check(copy.path(), "large", &copied);
    copying.end();
}
