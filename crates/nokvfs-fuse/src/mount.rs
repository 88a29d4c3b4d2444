//! A mount that is being served.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionACL};
use nokvfs_body::Bodies;
use nokvfs_meta::service::MetadataService;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::UnmountFlags;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::core::Core;
use crate::device::{open_and_mount, unmount};
use crate::filesystem::Front;
use crate::{FuseError, MountOptions};

/// The kernel sends its first message while it mounts, so it is there already.
const HANDSHAKE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// `None` while the session runs, then how it ended.
type End = Option<Result<(), String>>;

/// A mount that is being served. Dropping it does not end it; the process's end does.
#[derive(Debug)]
pub struct Mount {
    core: Arc<Core>,
    /// Where it is mounted, if this process mounted it.
    dir: Option<PathBuf>,
    end: watch::Receiver<End>,
}

/// Mounts at `dir` and serves: by mount(2) where this process may, else with fusermount3.
pub fn mount(
    dir: &Path,
    service: Arc<dyn MetadataService>,
    bodies: Arc<Bodies>,
    options: MountOptions,
    runtime: Handle,
) -> Result<Mount, FuseError> {
    let dir = dir.canonicalize().map_err(|source| FuseError::Mount { dir: dir.to_owned(), source })?;
    // SAFETY: geteuid has no preconditions and can't fail.
    let mounted = if unsafe { libc::geteuid() } == 0 {
        let fd = open_and_mount(&dir, &options)?;
        serve(options, service, bodies, runtime, |front, config| from_fd(front, fd, config)).inspect_err(|_| {
            // Nobody serves it, so nothing can be lost; the first error tells more than a second one.
            let _ = unmount(&dir, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
        })
    } else {
        options.validate()?;
        let at = dir.clone();
        serve(options, service, bodies, runtime, move |front, config| {
            Session::new(front, &at, config).map_err(|source| FuseError::Mount { dir: at.clone(), source })
        })
    };
    mounted.map(|mount| Mount { dir: Some(dir), ..mount })
}

/// Serves a descriptor of `/dev/fuse` that a privileged process has mounted and nobody has read from. That process
/// unmounts it, too: [`Mount::unmount`] then only publishes what is unpublished.
pub fn serve_fd(
    fd: OwnedFd,
    service: Arc<dyn MetadataService>,
    bodies: Arc<Bodies>,
    options: MountOptions,
    runtime: Handle,
) -> Result<Mount, FuseError> {
    options.validate()?;
    serve(options, service, bodies, runtime, |front, config| from_fd(front, fd, config))
}

fn from_fd(front: Front, fd: OwnedFd, config: &Config) -> Result<Session<Front>, FuseError> {
    let mut ready = [PollFd::new(&fd, PollFlags::IN)];
    let count =
        rustix::event::poll(&mut ready, Some(&HANDSHAKE)).map_err(|errno| FuseError::Handshake(errno.into()))?;
    if count == 0 {
        return Err(FuseError::Handshake(io::Error::new(io::ErrorKind::TimedOut, "the kernel sent nothing")));
    }
    Session::from_fd(front, fd, config.acl, config.clone()).map_err(FuseError::Handshake)
}

fn serve(
    options: MountOptions,
    service: Arc<dyn MetadataService>,
    bodies: Arc<Bodies>,
    runtime: Handle,
    start: impl FnOnce(Front, &Config) -> Result<Session<Front>, FuseError>,
) -> Result<Mount, FuseError> {
    let config = config(&options);
    let core = Core::new(service, bodies, options, runtime);
    let session = start(Front::new(Arc::clone(&core)), &config)?;
    *core.notifier.lock() = Some(session.notifier());
    let at_end = Arc::clone(&core);
    let (ended, end) = watch::channel(None);
    std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || {
            let result = session.run().map_err(|error| error.to_string());
            if let Err(error) = &result {
                tracing::error!("FUSE session ended: {error}");
            }
            // It holds the device: while that is open, the kernel waits for answers that nobody gives any more.
            *at_end.notifier.lock() = None;
            ended.send_replace(Some(result));
        })
        .map_err(FuseError::Handshake)?;
    Ok(Mount { core, dir: None, end })
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.n_threads = Some(options.threads);
    config.clone_fd = options.threads > 1;
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.mount_options = vec![
        MountOption::FSName(options.fs_name.clone()),
        MountOption::Subtype(options.subtype.clone()),
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    if options.default_permissions {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    config
}

impl Mount {
    /// Waits until the mount is gone: unmounted here or by someone else.
    pub async fn wait(&self) -> Result<(), FuseError> {
        let mut end = self.end.clone();
        let ended = end.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(error))) => Err(FuseError::Session(error.clone())),
            Ok(None) | Err(_) => Err(FuseError::Session("its thread is gone".to_owned())),
        }
    }

    /// Whether the mount is gone.
    pub fn finished(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Publishes everything that was written.
    pub async fn flush(&self, within: Duration) -> Result<(), FuseError> {
        self.core.bodies.shutdown(Instant::now() + within).await.map_err(FuseError::Unpublished)
    }

    /// Publishes everything, unmounts and waits for the end. A mount that is in use is detached: no new process gets in,
    /// and those that have files open can go on while this process lives. If unpublished writes are left, the mount
    /// stays as it is. One that [`serve_fd`] serves is only published.
    pub async fn unmount(&self, within: Duration) -> Result<(), FuseError> {
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now());
        self.flush(left()).await?;
        let Some(dir) = self.dir.clone().filter(|_| !self.finished()) else { return Ok(()) };
        let detached = tokio::task::spawn_blocking(move || {
            let result = match unmount(&dir, UnmountFlags::NOFOLLOW) {
                Ok(()) => Ok(()),
                Err(_) => unmount(&dir, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
            };
            result.map_err(|source| FuseError::Unmount { dir, source })
        });
        match detached.await {
            Ok(result) => result?,
            Err(error) => return Err(FuseError::Session(error.to_string())),
        }
        match tokio::time::timeout(left(), self.wait()).await {
            Ok(ended) => {
                // What came in while it was being unmounted.
                self.flush(left()).await?;
                ended
            }
            Err(_) => {
                self.flush(Duration::from_secs(1)).await?;
                Err(FuseError::StillOpen(within))
            }
        }
    }
}
