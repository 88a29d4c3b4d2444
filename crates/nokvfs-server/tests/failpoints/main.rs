//! A process is ended at each failpoint; what it left on its disk and in its store is opened again.
//!
//! `NOKV_TEST_SEED` picks at which visits (usual: 1), `NOKV_TEST_ROUNDS` how often all points are tried (usual: 1).

mod child;
#[path = "../../../nokvfs-meta/tests/fsck/mod.rs"]
mod fsck;
mod left;
mod living;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nokvfs_devstore::{DevStore, DevStoreOptions};
use nokvfs_object::{S3Options, S3Store};
use tokio_util::sync::CancellationToken;

const DIR: &str = "NOKV_TEST_CRASH_DIR";
const STORE: &str = "NOKV_TEST_CRASH_STORE";
/// Children at once: they wait most of the time.
const PARALLEL: usize = 5;

/// Objects of one run: below a prefix of its own.
fn objects(endpoint: &str, prefix: &str) -> Arc<S3Store> {
    let options = S3Options {
        endpoint: endpoint.to_owned(),
        bucket: "bucket".to_owned(),
        prefix: prefix.to_owned(),
        access_key: "access".to_owned(),
        secret_key: "a-secret".to_owned(),
        deadline: Duration::from_secs(20),
        ..S3Options::default()
    };
    Arc::new(S3Store::new(options).expect("options"))
}

/// The process that is ended: it does nothing unless the test below starts it.
#[test]
fn child() {
    let (Ok(dir), Ok(store)) = (std::env::var(DIR), std::env::var(STORE)) else { return };
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (endpoint, prefix) = store.split_once(' ').expect("endpoint and prefix");
        child::Child::start(Path::new(&dir), objects(endpoint, prefix)).await.run().await;
    });
    for (point, count) in nokvfs_failpoint::visits() {
        println!("visited {point} {count}");
    }
}

/// Points by the source: name and file.
fn declared() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut dirs: Vec<_> =
        std::fs::read_dir(crates).expect("crates").map(|dir| dir.expect("one").path().join("src")).collect();
    while let Some(dir) = dirs.pop() {
        if dir.ends_with("nokvfs-failpoint/src") || !dir.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("source");
            for call in text.split("failpoint!(\"").skip(1) {
                let name = call.split('"').next().expect("a name");
                let before = found.insert(name.to_owned(), path.display().to_string());
                assert!(before.is_none(), "{name} is there twice: {} and {before:?}", path.display());
            }
        }
    }
    found
}

/// What a child told before it ended.
struct Told {
    done: usize,
    visits: BTreeMap<String, u64>,
    aborted: bool,
    log: String,
}

fn run(dir: &Path, store: &str, point: Option<&str>) -> Result<Told, String> {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env(DIR, dir).env(STORE, store);
    if let Some(point) = point {
        command.env("NOKV_FAILPOINT", point);
    }
    // Pipes: the limit on files that the child sets itself must not hit its log.
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut log = child.stderr.take().expect("its log");
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).map(|_| text)
    });
    let mut told = Told { done: 0, visits: BTreeMap::new(), aborted: false, log: String::new() };
    for line in BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok) {
        if let Some(number) = line.strip_prefix("done ") {
            told.done = number.parse().expect("a number");
        } else if let Some((point, count)) = line.strip_prefix("visited ").and_then(|rest| rest.split_once(' ')) {
            told.visits.insert(point.to_owned(), count.parse().expect("a number"));
        }
    }
    let status = child.wait().expect("waited for");
    told.aborted = std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGABRT);
    told.log = log.join().expect("a reader").unwrap_or_default();
    match status.success() || told.aborted {
        true => Ok(told),
        false => Err(format!("{status} after step {}: {}", told.done, told.log)),
    }
}

/// Ends a child at one visit of a point and looks at what it left.
fn end_at(endpoint: &str, point: &str, visit: u64) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a folder");
    let prefix = format!("{}-{visit}", point.replace('.', "-"));
    let told = run(dir.path(), &format!("{endpoint} {prefix}"), Some(&format!("{point}:{visit}")))?;
    // Some visits depend on timing: then it ran to its end, and all must be there.
    let steps = script::steps();
    if !told.aborted && told.done < steps.len() {
        return Err(format!("it ended after step {}: {}", told.done, told.log));
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let looked = async {
        tokio::time::timeout(4 * child::PATIENCE, left::look(dir.path(), objects(endpoint, &prefix), told.done)).await
    };
    let looked = runtime.block_on(looked).unwrap_or_else(|_| Err("looking at it does not end".into()));
    looked.map_err(|error| {
        format!("after step {} ({:?} done): {error}", told.done, told.done.checked_sub(1).map(|at| &steps[at]))
    })
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
fn whatever_point_a_process_ends_at_nothing_acknowledged_is_lost() {
    let home = tempfile::tempdir().expect("a folder");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let options = DevStoreOptions {
        dir: home.path().join("objects"),
        bucket: "bucket".to_owned(),
        access_key: "access".to_owned(),
        secret_key: "a-secret".to_owned(),
    };
    let store = DevStore::open(options).expect("opened");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let stop = CancellationToken::new();
    runtime.spawn(store.serve(listener, stop.clone()));

    let begun = Instant::now();
    let whole = home.path().join("whole");
    std::fs::create_dir(&whole).expect("a folder");
    let visits = run(&whole, &format!("{endpoint} whole"), None).expect("the whole").visits;
    let declared = declared();
    let missed: Vec<_> = declared.keys().filter(|point| !visits.contains_key(*point)).collect();
    assert!(missed.is_empty(), "never visited: {missed:?}");
    let unknown: BTreeSet<_> = visits.keys().filter(|point| !declared.contains_key(*point)).collect();
    assert!(unknown.is_empty(), "not in the source: {unknown:?}");
    assert!(declared.len() >= 60, "{} points", declared.len());

    let (seed, rounds) = (setting("NOKV_TEST_SEED", 1), setting("NOKV_TEST_ROUNDS", 1));
    let ends: Vec<(String, u64)> = (seed..seed + rounds)
        .flat_map(|seed| visits.iter().map(move |(point, count)| (point.clone(), pick(seed, point, *count))))
        .collect();
    println!("{} points, {} ends, the whole takes {:?}", declared.len(), ends.len(), begun.elapsed());
    let (queue, wrong) = (Mutex::new(ends.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("whole").next();
                    let Some((point, visit)) = next else { return };
                    if let Err(error) = end_at(&endpoint, &point, visit) {
                        wrong.lock().expect("whole").push(format!("{point}:{visit}: {error}"));
                    }
                }
            });
        }
    });
    stop.cancel();
    let wrong = wrong.into_inner().expect("whole");
    println!("seed {seed}, {rounds} rounds: {} wrong, {:?}", wrong.len(), begun.elapsed());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One visit of a point, by the seed.
fn pick(seed: u64, point: &str, count: u64) -> u64 {
    let mut hash = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in point.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    1 + (hash >> 17) % count
}
