//! `mounter`: descriptors of `/dev/fuse` over its socket.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Instant;

use nokvfs_fuse::MountOptions;
use nokvfs_protocol::mounter::{Failure, MountConfig, MounterClient, Reply, Request, S3Config, Secret};

use crate::fixture::{Cluster, MountPoint, PATIENCE, Process, check, content};

fn config(cluster: &Cluster) -> MountConfig {
    let read = |name: &str| fs::read_to_string(cluster.bench.path(name)).expect("a file").trim().to_owned();
    MountConfig {
        server: cluster.address.clone(),
        volume: cluster.volume.clone(),
        token: Secret::new(read("token")),
        tls: None,
        s3: S3Config {
            endpoint: cluster.endpoint.clone(),
            bucket: "trial".into(),
            prefix: String::new(),
            region: "us-east-1".into(),
            path_style: true,
            access_key: Secret::new(read("access")),
            secret_key: Secret::new(read("secret")),
        },
        read_only: false,
        client: "a test".into(),
        buffer_bytes: None,
    }
}

fn start(cluster: &Cluster, name: &str) -> Process {
    let socket = cluster.bench.text(name);
    let log = cluster.bench.path(&format!("{name}.log"));
    let process = Process::start(["mounter", "--socket", &socket, "--http", "127.0.0.1:0"], &log);
    process.ready();
    process
}

fn ask(cluster: &Cluster, socket: &str, request: &Request) -> Reply {
    MounterClient::call(&cluster.bench.path(socket), request, None, Instant::now() + PATIENCE).expect("an answer")
}

fn mount(cluster: &Cluster, socket: &str, at: &MountPoint, config: MountConfig) -> Reply {
    let fd = nokvfs_fuse::open_and_mount(at.path(), &MountOptions::default()).expect("mounted");
    let request = Request::Mount { volume_handle: "ns.m.v".into(), config: Box::new(config) };
    let deadline = Instant::now() + PATIENCE;
    MounterClient::call(&cluster.bench.path(socket), &request, Some(fd.as_fd()), deadline).expect("an answer")
}

#[test]
fn a_handed_over_mount_serves_flushes_and_ends() {
    let cluster = Cluster::new();
    let mounter = start(&cluster, "mounter.sock");
    let Reply::Pong { room, .. } = ask(&cluster, "mounter.sock", &Request::Ping) else { panic!("no pong") };
    assert!(room > 0);
    let at = cluster.bench.mount_point("m");
    assert_eq!(mount(&cluster, "mounter.sock", &at, config(&cluster)), Reply::Mounted);
    let bytes = content("f", 2 << 20);
    let mut open = File::create(at.path().join("f")).expect("created");
    open.write_all(&bytes).expect("written");
    let spare = cluster.bench.mount_point("spare");
    let again = mount(&cluster, "mounter.sock", &spare, config(&cluster));
    assert!(matches!(again, Reply::Failed { kind: Failure::Busy, .. }), "{again:?}");
    let Reply::Mounts { mounts } = ask(&cluster, "mounter.sock", &Request::List) else { panic!("no list") };
    assert_eq!(mounts.len(), 1);
    assert!(mounts[0].connected && mounts[0].trouble.is_none(), "{mounts:?}");
    // Neither closed nor synced: the flush alone makes it durable.
    let unmount = Request::Unmount { volume_handle: "ns.m.v".into() };
    assert_eq!(ask(&cluster, "mounter.sock", &unmount), Reply::Flushed);
    mounter.kill();
    drop(open);

    let at = cluster.bench.mount_point("again");
    let mounter = start(&cluster, "mounter.sock");
    assert_eq!(mount(&cluster, "mounter.sock", &at, config(&cluster)), Reply::Mounted);
    check(at.path(), "f", &bytes);
    drop(at);
    let until = Instant::now() + PATIENCE;
    while ask(&cluster, "mounter.sock", &Request::List) != (Reply::Mounts { mounts: Vec::new() }) {
        assert!(Instant::now() < until, "an unmounted volume is forgotten");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    mounter.end();
    assert!(!cluster.bench.path("mounter.sock").exists(), "the socket goes with it");
}

#[test]
fn a_refused_mount_says_why() {
    let cluster = Cluster::new();
    let mounter = start(&cluster, "mounter.sock");
    let refused = |change: &dyn Fn(&mut MountConfig)| {
        let at = cluster.bench.mount_point("m");
        let mut config = config(&cluster);
        change(&mut config);
        match mount(&cluster, "mounter.sock", &at, config) {
            Reply::Failed { kind, reason } => (kind, reason),
            other => panic!("{other:?}"),
        }
    };
    let (kind, reason) = refused(&|config| config.token = Secret::new("00".repeat(32)));
    assert_eq!(kind, Failure::Unauthorized, "{reason}");
    let (kind, reason) = refused(&|config| config.s3.secret_key = Secret::new("wrong"));
    assert_eq!(kind, Failure::Unauthorized, "{reason}");
    let (kind, reason) = refused(&|config| config.s3.bucket = "another".into());
    assert_eq!(kind, Failure::Invalid, "{reason}");
    let (kind, reason) = refused(&|config| config.volume = "no-uuid".into());
    assert_eq!(kind, Failure::Invalid, "{reason}");
    assert_eq!(ask(&cluster, "mounter.sock", &Request::List), Reply::Mounts { mounts: Vec::new() });
    mounter.end();
}
