//! A mount whose store does not do what it should: what was acknowledged is there, and wrong bytes are never shown.

use std::fs;
use std::time::{Duration, Instant};

use crate::fixture::{Cluster, MountPoint, check, content, store};
use crate::s3_proxy::{Fault, Plan, Proxy};

/// No operation takes longer: the store's deadline, and a bit.
const LIMIT: Duration = Duration::from_secs(75);

/// Files of one round: small ones, which share objects, and some of several blocks.
const FILES: [usize; 6] = [100, 3000, 120_000, 700_000, (4 << 20) + 1, 9 << 20];

fn write_all(mount: &MountPoint, round: &str) {
    let device = mount.device();
    std::thread::scope(|scope| {
        for (number, len) in FILES.into_iter().enumerate() {
            scope.spawn(move || {
                let (name, begun) = (format!("{round}-{number}"), Instant::now());
                let stored = store(mount.path(), device, &name, &content(&name, len), number % 2 == 0);
                stored.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(begun.elapsed() < LIMIT, "{name} took {:?}", begun.elapsed());
            });
        }
    });
}

fn check_all(mount: &MountPoint, round: &str) {
    for (number, len) in FILES.into_iter().enumerate() {
        let name = format!("{round}-{number}");
        check(mount.path(), &name, &content(&name, len));
    }
}

#[test]
fn a_store_that_fails_now_and_then_delays_and_loses_nothing() {
    let mut cluster = Cluster::new();
    let direct = cluster.endpoint.clone();
    let proxy = Proxy::start(direct.strip_prefix("http://").expect("HTTP"));
    let (at, reader) = (cluster.bench.mount_point("m"), cluster.bench.mount_point("reader"));
    cluster.endpoint = format!("http://{}", proxy.address);
    let serving = cluster.mount(&at);
    cluster.endpoint = direct;
    let other = cluster.mount(&reader);
    let second = Duration::from_secs(1);
    let rounds = [
        ("503", Fault::Status(503), 3),
        ("429", Fault::Status(429), 3),
        ("500", Fault::Status(500), 4),
        ("reset", Fault::Reset, 3),
        ("lost", Fault::LostAnswer, 3),
        ("late", Fault::Late(second), 4),
        ("slow", Fault::SlowClose(second), 2),
    ];
    for (name, fault, nth) in rounds {
        let begun = Instant::now();
        proxy.plan(Some(Plan { fault, nth }));
        write_all(&at, name);
        let faults = proxy.take_faults();
        proxy.plan(None);
        check_all(&reader, name);
        println!("{name}: {faults} faults, {:?}", begun.elapsed());
        assert!(faults > 0, "{name}: no request met it");
    }
    // All fails for a while.
    proxy.plan(Some(Plan { fault: Fault::Reset, nth: 1 }));
    std::thread::scope(|scope| {
        scope.spawn(|| write_all(&at, "outage"));
        std::thread::sleep(Duration::from_secs(5));
        proxy.plan(None);
    });
    assert!(proxy.take_faults() > 0);
    check_all(&reader, "outage");
    other.end();
    serving.end();
}

#[test]
fn wrong_bytes_are_never_shown() {
    let mut cluster = Cluster::new();
    let direct = cluster.endpoint.clone();
    let proxy = Proxy::start(direct.strip_prefix("http://").expect("HTTP"));
    let at = cluster.bench.mount_point("m");
    let writer = cluster.mount(&at);
    write_all(&at, "f");
    writer.end();
    cluster.endpoint = format!("http://{}", proxy.address);
    let mut refused = 0;
    for (round, (fault, nth)) in
        [(Fault::Flip, 1), (Fault::Flip, 2), (Fault::Truncate, 2), (Fault::Truncate, 3)].into_iter().enumerate()
    {
        let reader = cluster.bench.mount_point(&format!("r{round}"));
        let mount = cluster.mount(&reader);
        proxy.plan(Some(Plan { fault, nth }));
        for (number, len) in FILES.into_iter().enumerate() {
            let (name, begun) = (format!("f-{number}"), Instant::now());
            match fs::read(reader.path().join(&name)) {
                Ok(bytes) => assert!(bytes == content(&name, len), "{fault:?}: {name} is wrong"),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{fault:?}: {name}: {error}");
                    refused += 1;
                }
            }
            assert!(begun.elapsed() < LIMIT, "{fault:?}: {name} took {:?}", begun.elapsed());
        }
        println!("{fault:?} in {nth}: {} faults, {refused} reads refused so far", proxy.take_faults());
        proxy.plan(None);
        check_all(&reader, "f");
        mount.end();
    }
    assert!(refused > 0, "nothing was noticed");
}
