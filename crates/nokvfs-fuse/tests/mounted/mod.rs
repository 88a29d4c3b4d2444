//! Real kernel mounts for tests, in temporary directories of their own. Whatever a test does, its mount is detached and
//! its connection aborted when it ends, so that no process stays in a dead mount.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_body::{Bodies, BodyOptions};
use nokvfs_fuse::{Mount, MountOptions};
use nokvfs_meta::service::{MetadataService, VolumeService};
use nokvfs_meta::{Engine, EngineOptions, LocalService};
use nokvfs_object::{FaultStore, MemoryStore};
use nokvfs_types::{SessionRequest, Token, VolumeId, VolumeSpec};
use tokio::runtime::Runtime;

/// A volume: its metadata in a store on disk, and its objects. Mount it as often as a test needs; each mount has a
/// session of its own.
pub struct Volume {
    pub runtime: Runtime,
    pub store: Arc<FaultStore>,
    pub engine: Arc<Engine>,
    id: VolumeId,
    token: Token,
    _data: tempfile::TempDir,
}

impl Volume {
    pub fn new() -> Self {
        Self::with_quota(0)
    }

    /// A volume for so many bytes; 0: no limit.
    pub fn with_quota(quota_bytes: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
        let data = tempfile::tempdir().unwrap();
        let spec = VolumeSpec {
            name: "test".into(),
            quota_bytes,
            quota_inodes: 0,
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
        };
        let (engine, info, token) = runtime.block_on(async {
            let engine = Engine::open(EngineOptions::new(data.path()), store.clone()).await.unwrap();
            let (info, token) = engine.create_volume(spec).await.unwrap();
            (engine, info, token)
        });
        Volume { runtime, store, engine, id: info.id, token, _data: data }
    }

    pub fn mount(&self) -> Mounted<'_> {
        self.mount_with(MountOptions::default())
    }

    pub fn mount_with(&self, options: MountOptions) -> Mounted<'_> {
        let temp = tempfile::Builder::new().prefix("nokv-mount-").tempdir().unwrap();
        let dir = temp.path().join("m");
        fs::create_dir(&dir).unwrap();
        let _inside = self.runtime.enter();
        let body = BodyOptions { write_buffer: 32 << 20, read_buffer: 32 << 20, ..BodyOptions::default() };
        let request = SessionRequest {
            volume: self.id,
            token: self.token,
            client: "test".into(),
            read_only: options.read_only,
            snapshot: None,
            resume: None,
        };
        let session = self.runtime.block_on(LocalService::open(self.engine.clone(), request)).unwrap();
        let service: Arc<dyn MetadataService> = session;
        let bodies = Bodies::new(service.clone(), self.store.clone(), body).unwrap();
        let mount = nokvfs_fuse::mount(&dir, service, bodies, options, self.runtime.handle().clone()).unwrap();
        let minor = minor_of(&dir);
        Mounted { mount, dir, minor, runtime: &self.runtime, temp: Some(temp) }
    }
}

/// A mount that goes when it is dropped.
pub struct Mounted<'a> {
    pub mount: Mount,
    dir: PathBuf,
    /// The device's minor number: its name in fusectl.
    minor: u32,
    runtime: &'a Runtime,
    temp: Option<tempfile::TempDir>,
}

impl Mounted<'_> {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    pub fn unmount(&self) {
        self.runtime.block_on(self.mount.unmount(Duration::from_secs(20))).unwrap();
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if !self.mount.finished() {
            let _ = nokvfs_fuse::detach(&self.dir);
            let ended = self
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(3), self.mount.wait()).await.is_ok() });
            if !ended {
                abort(self.minor);
            }
        }
        // Removing a directory that is still a mount would empty the volume instead.
        if let Some(temp) = self.temp.take()
            && !is_mounted(&self.dir)
        {
            temp.close().unwrap();
        }
    }
}

/// Cuts a connection off: every request of it fails, and nobody stays blocked in it.
fn abort(minor: u32) {
    let control = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "fusectl", "none"]).arg(control.path()).status().unwrap();
    assert!(mounted.success(), "fusectl can't be mounted");
    let _ = fs::write(control.path().join(minor.to_string()).join("abort"), "1");
    Command::new("umount").arg(control.path()).status().unwrap();
}

fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == dir.to_str())
}

/// From the mount table, which asks no filesystem.
fn minor_of(dir: &Path) -> u32 {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().rev().find(|line| line.split(' ').nth(4) == dir.to_str()).expect("is mounted");
    line.split(' ').nth(2).unwrap().split_once(':').unwrap().1.parse().unwrap()
}

/// The errno of a failed call.
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("must fail").raw_os_error().expect("is an errno")
}

/// Runs a Python program with arguments: for calls that std has not, in a process of its own.
pub fn python(program: &str, args: &[&Path]) -> String {
    let output = Command::new("python3").arg("-c").arg(program).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a child ends; `None` if it does not in time.
pub fn end_of(child: &mut std::process::Child, within: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + within;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Names in a directory, as often as they are listed.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}
