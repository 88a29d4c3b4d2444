//! Everything that a volume needs, each as a process of its own: trial store, metadata server, mounter, controller and
//! node plugin. Ended, and every mount below its directory detached, when dropped.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use nokvfs_csi::mounts::mountinfo;
use tonic::transport::{Channel, Endpoint};

/// A debug build of all of them comes up well within this.
const START: Duration = Duration::from_secs(60);

pub struct Stack {
    pub dir: tempfile::TempDir,
    running: BTreeMap<&'static str, Child>,
    server: SocketAddr,
}

impl Stack {
    pub fn start() -> Stack {
        assert!(rustix::process::geteuid().is_root(), "mounting needs root");
        let dir = tempfile::tempdir().unwrap();
        let mut stack = Stack { server: free_address(), running: BTreeMap::new(), dir };
        for name in ["kubelet", "secrets", "metadata", "objects"] {
            std::fs::create_dir(stack.path(name)).unwrap();
        }
        std::fs::write(stack.path("access"), "access-key").unwrap();
        std::fs::write(stack.path("secret"), "secret-key-of-the-trial-store").unwrap();
        let store = free_address();
        let s3 = [
            format!("--s3-endpoint=http://{store}"),
            "--s3-bucket=sanity".to_owned(),
            format!("--s3-access-key-file={}", stack.path("access").display()),
            format!("--s3-secret-key-file={}", stack.path("secret").display()),
        ];
        let fs = nokv_fs();
        stack.run(
            "trial-store",
            Command::new(&fs)
                .arg("trial-store")
                .arg(format!("--data={}", stack.path("objects").display()))
                .args([format!("--listen={store}"), "--bucket=sanity".to_owned()])
                .arg(format!("--access-key-file={}", stack.path("access").display()))
                .arg(format!("--secret-key-file={}", stack.path("secret").display())),
        );
        await_port(store);
        stack.run(
            "serve",
            Command::new(&fs)
                .arg("serve")
                .arg(format!("--data={}", stack.path("metadata").display()))
                .args([format!("--listen={}", stack.server), format!("--http={}", free_address())])
                .args(&s3),
        );
        await_port(stack.server);
        stack.start_mounter();
        stack.run(
            "controller",
            csi()
                .arg("controller")
                .arg(format!("--endpoint=unix://{}", stack.path("controller.sock").display()))
                .args([format!("--http={}", free_address()), format!("--server={}", stack.server)])
                .arg(format!("--stage-secrets-dir={}", stack.path("secrets").display()))
                .args(&s3),
        );
        await_socket(&stack.path("controller.sock"));
        stack.start_node();
        stack
    }

    pub fn start_mounter(&mut self) {
        let socket = self.path("mounter.sock");
        self.run(
            "mounter",
            Command::new(nokv_fs())
                .arg("mounter")
                .arg(format!("--socket={}", socket.display()))
                .arg(format!("--http={}", free_address())),
        );
        await_socket(&socket);
    }

    pub fn start_node(&mut self) {
        let socket = self.path("node.sock");
        self.run(
            "node",
            csi()
                .arg("node")
                .arg(format!("--endpoint=unix://{}", socket.display()))
                .args(["--node-id=node-1".to_owned(), format!("--http={}", free_address())])
                .arg(format!("--mounter-socket={}", self.path("mounter.sock").display()))
                .arg(format!("--kubelet-dir={}", self.path("kubelet").display()))
                .arg(format!("--stage-secrets-dir={}", self.path("secrets").display())),
        );
        await_socket(&socket);
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.running.remove(name).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    pub async fn channel(&self, socket: &str) -> Channel {
        let path = self.path(socket);
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://socket").connect_with_connector(connector).await.unwrap()
    }

    fn run(&mut self, name: &'static str, command: &mut Command) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.path(name).with_extension("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.running.insert(name, command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in self.running.keys() {
                let log = std::fs::read_to_string(self.path(name).with_extension("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- {name}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
        // Mounts first: a server that is gone would let their flush wait.
        for mount in mountinfo::read().unwrap_or_default().iter().rev() {
            if mount.point.starts_with(self.path("kubelet")) {
                let _ = rustix::mount::unmount(&mount.point, rustix::mount::UnmountFlags::DETACH);
            }
        }
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // What a failed test leaves may be immutable.
        let _ = Command::new("chattr").args(["-R", "-i"]).arg(self.path("kubelet")).status();
    }
}

fn csi() -> Command {
    Command::new(env!("CARGO_BIN_EXE_nokv-csi"))
}

/// Built beside the driver.
fn nokv_fs() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_nokv-csi")).with_file_name("nokv-fs");
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn await_port(address: SocketAddr) {
    await_that(&address.to_string(), || TcpStream::connect(address).is_ok());
}

fn await_socket(path: &Path) {
    await_that(&path.display().to_string(), || UnixStream::connect(path).is_ok());
}

fn await_that(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + START;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}
