//! Processes, mounts and a whole cluster, all gone when the test ends, however it ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Nothing that a test waits for takes longer, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A mount older than this is aborted, so that a test that hangs in it fails instead.
const WATCHDOG: Duration = Duration::from_secs(150);

/// The binary, without the environment's settings.
pub fn nokv_fs<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nokv-fs"));
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs a command that ends by itself.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    nokv_fs(args).output().expect("the binary runs")
}

/// Runs a command that must succeed; answers what it printed.
pub fn ok<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    let output = run(args);
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A daemon of ours.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it logs goes to `log`.
    pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, log: &Path) -> Self {
        let err = File::options().create(true).append(true).open(log).expect("a log file");
        let mut child = nokv_fs(args).stdout(Stdio::piped()).stderr(err).spawn().expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Process { child, lines, log: log.to_owned() }
    }

    /// Waits for the line `ready ...`; answers what follows.
    pub fn ready(&self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line.strip_prefix("ready ").unwrap_or_else(|| panic!("it printed {line}")).to_owned(),
            Err(_) => panic!("it is not ready: {}", self.log()),
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: a system call on a child that was not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{}", io::Error::last_os_error());
    }

    /// Asks it to end and waits.
    pub fn end(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        let status = exit(&mut self.child, PATIENCE).unwrap_or_else(|| panic!("it does not end: {}", self.log()));
        assert!(status.success(), "{status}: {}", self.log());
        status
    }

    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // A stopped process dies of SIGKILL, too.
            let ended = self.child.kill().and_then(|()| self.child.wait());
            if let Err(error) = ended {
                eprintln!("pid {}: {error}", self.child.id());
            }
        }
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Waits for a child's end.
pub fn exit(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return Some(status);
        }
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A directory that something of ours may be mounted at.
pub struct MountPoint {
    dir: PathBuf,
    _alive: mpsc::Sender<()>,
}

impl MountPoint {
    pub fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).expect("a mount point");
        let (alive, gone) = mpsc::channel::<()>();
        let watched = dir.clone();
        std::thread::spawn(move || {
            if gone.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{} is aborted after {WATCHDOG:?}", watched.display());
                abort(&watched);
            }
        });
        MountPoint { dir, _alive: alive }
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The device of the filesystem that is mounted, so that nobody mistakes the directory below for it.
    pub fn device(&self) -> u64 {
        fs::metadata(&self.dir).expect("the mount answers").dev()
    }

    pub fn mounted(&self) -> bool {
        !minors(&self.dir).is_empty()
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        abort(&self.dir);
        while self.mounted() {
            let done = Command::new("umount").arg("-l").arg(&self.dir).stderr(Stdio::null()).status();
            if !done.is_ok_and(|status| status.success()) {
                break;
            }
        }
    }
}

/// Device minors of all that is mounted at `dir`: the names of their FUSE connections.
fn minors(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let at = dir.to_str().expect("a plain path");
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = fields.filter(|fields| fields.get(4) == Some(&at));
    ours.filter_map(|fields| Some(fields.get(2)?.split_once(':')?.1.to_owned())).collect()
}

/// Ends FUSE connections: everybody who waits in them gets an error.
fn abort(dir: &Path) {
    let connections = Path::new("/sys/fs/fuse/connections");
    if fs::read_dir(connections).is_ok_and(|mut entries| entries.next().is_none()) {
        let done =
            Command::new("mount").args(["-t", "fusectl", "fusectl"]).arg(connections).stderr(Stdio::null()).status();
        drop(done);
    }
    for minor in minors(dir) {
        // It ends by itself meanwhile, as a rule.
        drop(fs::write(connections.join(minor).join("abort"), "1"));
    }
}

/// A folder of a test with everything it needs.
pub struct Bench {
    pub root: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        // SAFETY: no preconditions.
        assert_eq!(unsafe { libc::geteuid() }, 0, "kernel mounts need root");
        Bench { root: tempfile::Builder::new().prefix("nokv-").tempdir().expect("a folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a plain path").to_owned()
    }

    pub fn mount_point(&self, name: &str) -> MountPoint {
        MountPoint::new(self.path(name))
    }

    /// `dev` at `mount`.
    pub fn dev(&self, mount: &MountPoint) -> Process {
        let process = Process::start(
            ["dev", mount.path().to_str().expect("plain"), "--data", &self.text("data")],
            &self.path("dev.log"),
        );
        process.ready();
        process
    }
}

/// A metadata server, a trial store and one volume on them.
pub struct Cluster {
    pub server: Option<Process>,
    pub store: Process,
    pub address: String,
    pub endpoint: String,
    pub volume: String,
    pub bench: Bench,
}

impl Cluster {
    pub fn new() -> Self {
        let bench = Bench::new();
        fs::write(bench.path("access"), "ACCESSKEY0001\n").expect("written");
        fs::write(bench.path("secret"), "secret-key-of-a-test-0001\n").expect("written");
        let (data, access, secret) = (bench.text("objects"), bench.text("access"), bench.text("secret"));
        let args = ["trial-store", "--data", &data, "--listen", "127.0.0.1:0", "--bucket", "trial"];
        let keys = ["--access-key-file", &access, "--secret-key-file", &secret];
        let store = Process::start(args.into_iter().chain(keys), &bench.path("store.log"));
        let endpoint = format!("http://{}", store.ready());
        let mut cluster =
            Cluster { server: None, store, address: "127.0.0.1:0".into(), endpoint, volume: String::new(), bench };
        cluster.serve();
        let token = cluster.bench.text("token");
        let made =
            ok(["--output", "json", "volume", "--server", &cluster.address, "create", "v", "--token-file", &token]);
        let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
        cluster.volume = made[0]["id"].as_str().expect("an id").to_owned();
        cluster
    }

    /// Starts the server, again at the address it had.
    pub fn serve(&mut self) {
        let data = self.bench.text("meta");
        let args = ["serve", "--data", &data, "--listen", &self.address, "--http", "127.0.0.1:0"].map(str::to_owned);
        let server = Process::start(args.into_iter().chain(self.s3()), &self.bench.path("server.log"));
        self.address = server.ready();
        self.server = Some(server);
    }

    pub fn kill_server(&mut self) {
        self.server.take().expect("a server").kill();
    }

    pub fn s3(&self) -> Vec<String> {
        let (access, secret) = (self.bench.text("access"), self.bench.text("secret"));
        let flags = ["--s3-endpoint", &self.endpoint, "--s3-bucket", "trial", "--s3-access-key-file", &access];
        flags.into_iter().chain(["--s3-secret-key-file", &secret]).map(str::to_owned).collect()
    }

    /// Flags of everything that opens the volume.
    pub fn volume(&self) -> Vec<String> {
        let token = self.bench.text("token");
        let flags = ["--server", &self.address, "--volume", &self.volume, "--token-file", &token];
        flags.into_iter().map(str::to_owned).chain(self.s3()).collect()
    }

    /// A command on paths of the volume.
    pub fn args<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        args.into_iter().map(str::to_owned).chain(self.volume()).collect()
    }

    pub fn mount(&self, at: &MountPoint) -> Process {
        let name = format!("{}.log", at.path().file_name().and_then(OsStr::to_str).expect("a name"));
        let process = Process::start(self.args(["mount", at.path().to_str().expect("plain")]), &self.bench.path(&name));
        process.ready();
        process
    }
}

/// Content that tells which file it belongs to and where it starts.
pub fn content(name: &str, len: usize) -> Vec<u8> {
    name.bytes().chain([b'\n']).cycle().take(len).collect()
}

/// Creates a file in the mounted filesystem; what this returned `Ok` for is acknowledged.
pub fn store(dir: &Path, device: u64, name: &str, bytes: &[u8], fsync: bool) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(dir.join(name))?;
    if file.metadata()?.dev() != device {
        return Err(io::Error::other("the mount is gone; this is the directory below"));
    }
    file.write_all(bytes)?;
    if fsync {
        file.sync_all()?;
    }
    // SAFETY: the descriptor is ours; drop would hide close's error.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Checks that a file is there, whole.
pub fn check(dir: &Path, name: &str, bytes: &[u8]) {
    let found = fs::read(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(found == bytes, "{name}: {} bytes instead of {}, or others", found.len(), bytes.len());
}
