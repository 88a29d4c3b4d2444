//! Bad input: a clear message, the right exit code.

use std::fs;

use crate::fixture::{Bench, Cluster, run, text};

fn refused(args: &[String], code: i32, says: &[&str]) {
    let output = run(args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for part in says {
        assert!(said.contains(part), "{args:?}: {part:?} is missing in: {said}");
    }
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

#[test]
fn wrong_flags_and_files_are_refused_before_anything_starts() {
    let bench = Bench::new();
    refused(&owned(&["ls", "--no-such-flag"]), 2, &["--no-such-flag"]);
    refused(&owned(&["trial-store", "--listen", "127.0.0.1:0"]), 2, &["--data", "--access-key-file"]);
    refused(&owned(&["mount", "/nowhere", "--volume", "no-uuid"]), 2, &["--volume"]);
    fs::write(bench.path("broken.yaml"), "data: /x\nlisten: [1\nbucket: y\n").expect("written");
    refused(&owned(&["trial-store", "--config", &bench.text("broken.yaml")]), 2, &["broken.yaml", "line"]);
    fs::write(bench.path("typo.yaml"), "data: /x\nbuckt: y\n").expect("written");
    refused(&owned(&["trial-store", "--config", &bench.text("typo.yaml")]), 2, &["typo.yaml", "line 2", "buckt"]);
    refused(&owned(&["trial-store", "--config", &bench.text("none.yaml")]), 2, &["none.yaml", "No such file"]);
    let keys =
        ["--access-key-file", &bench.text("no-key"), "--secret-key-file", &bench.text("no-key")].map(str::to_owned);
    let store = owned(&["trial-store", "--data", &bench.text("d"), "--listen", "127.0.0.1:0"]);
    refused(&[store.as_slice(), keys.as_slice()].concat(), 1, &["no-key", "No such file"]);
    refused(&owned(&["umount", &bench.text("")]), 1, &["is no mount"]);
    refused(&owned(&["status", "--server", "127.0.0.1:1", "--timeout", "1"]), 1, &["127.0.0.1:1"]);
}

#[test]
fn a_server_is_not_open_to_the_network_without_tls() {
    let cluster = Cluster::new();
    let serve =
        owned(&["serve", "--data", &cluster.bench.text("other"), "--listen", "0.0.0.0:0", "--http", "127.0.0.1:0"]);
    refused(&[serve, cluster.s3()].concat(), 1, &["tls-cert"]);
}

#[test]
fn wrong_credentials_are_named() {
    let cluster = Cluster::new();
    fs::write(cluster.bench.path("wrong"), "00".repeat(32)).expect("written");
    let changed = |flag: &str, value: &str| {
        let mut args = cluster.args(["cat", "/f"]);
        let at = args.iter().position(|arg| arg == flag).expect("a flag");
        args[at + 1] = value.to_owned();
        args
    };
    refused(&changed("--token-file", &cluster.bench.text("wrong")), 1, &["volume", "token"]);
    refused(&changed("--token-file", &cluster.bench.text("access")), 1, &["not a token"]);
    refused(&changed("--s3-secret-key-file", &cluster.bench.text("missing")), 1, &["missing", "No such file"]);
    refused(&changed("--s3-bucket", "No Bucket"), 1, &["bucket"]);
    let mut mount = cluster.args(["mount", &cluster.bench.text("m")]);
    fs::create_dir(cluster.bench.path("m")).expect("a directory");
    let at = mount.iter().position(|arg| arg == "--s3-bucket").expect("a flag");
    mount[at + 1] = "another".into();
    refused(&mount, 1, &["another"]);
}
