//! `nokv-fs fsck` and `nokv-fs scrub` on a server and a store of their own.

use std::fs;

use bytes::Bytes;
use nokvfs_object::{ObjectStore, S3Options, S3Store};
use serde_json::Value;

use crate::fixture::{Cluster, content, ok, run, text};

/// The cluster's bucket.
fn bucket(cluster: &Cluster) -> S3Store {
    let read = |name| fs::read_to_string(cluster.bench.path(name)).expect("a key").trim().to_owned();
    let options = S3Options {
        endpoint: cluster.endpoint.clone(),
        bucket: "trial".into(),
        path_style: true,
        access_key: read("access"),
        secret_key: read("secret"),
        ..S3Options::default()
    };
    S3Store::new(options).expect("a client")
}

#[test]
fn checks_find_missing_lost_and_damaged_objects() {
    let mut cluster = Cluster::new();
    let from = cluster.bench.path("from");
    fs::create_dir_all(&from).expect("a folder");
    // Long enough for objects of its own.
    let large = content("large", 3 << 20);
    fs::write(from.join("large"), &large).expect("written");
    fs::write(from.join("small"), content("small", 3000)).expect("written");
    ok(cluster.args(["put", from.to_str().expect("plain"), "/"]));
    let address = cluster.address.clone();
    let fsck = |more: &[&str]| run(["fsck", "--server", &address].into_iter().chain(more.iter().copied()));
    let clean = fsck(&["--volume", "v", "--objects", "--snapshots"]);
    assert!(clean.status.success(), "{}{}", text(&clean.stdout), text(&clean.stderr));
    assert!(text(&clean.stdout).starts_with("clean: "), "{}", text(&clean.stdout));
    ok(cluster.args(["scrub"]));

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = bucket(&cluster);
    let listed = runtime.block_on(store.list("blocks/", None, 1000)).expect("a listing");
    let victim = listed.objects.into_iter().max_by_key(|object| object.len).expect("objects").key;
    let good = runtime.block_on(store.get(&victim, None)).expect("an object");
    let mut bad = good.to_vec();
    bad[1_500_000] ^= 1;
    runtime.block_on(store.put(&victim, Bytes::from(bad))).expect("damaged");
    let damaged = run(cluster.args(["--output", "json", "scrub"]));
    assert_eq!(damaged.status.code(), Some(1), "{}", text(&damaged.stdout));
    let report: Value = serde_json::from_slice(&damaged.stdout).expect("JSON");
    let places = report["damaged"].as_array().expect("a list");
    assert_eq!(places.len(), 1, "{report}");
    assert!(places[0]["path"].as_str().expect("a path").ends_with("large"), "{report}");
    assert_eq!(places[0]["range"], serde_json::json!([1 << 20, (2 << 20) - 1]));

    runtime.block_on(store.delete(std::slice::from_ref(&victim))).expect("removed");
    let missing = fsck(&["--objects", "--output", "json"]);
    assert_eq!(missing.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&missing.stdout).expect("JSON");
    let rules: Vec<_> = report["findings"].as_array().expect("a list").iter().map(|found| &found["rule"]).collect();
    assert_eq!(rules, ["object-missing"], "{report}");
    runtime.block_on(store.put(&victim, good)).expect("back");
    ok(["fsck", "--server", &address, "--objects"]);
    let unknown = fsck(&["--volume", "nothing"]);
    assert!(text(&unknown.stderr).contains("volume list"), "{}", text(&unknown.stderr));
    cluster.server.take().expect("a server").end();
}
