//! `nokv-fs mount` and `nokv-fs umount`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nokvfs_body::BodyOptions;
use nokvfs_fuse::{FuseError, Mount, MountOptions};
use nokvfs_meta::service::MetadataService;

use crate::connection::VolumeArgs;
use crate::signals::Ends;
use crate::volume::parse_bytes;

/// How long an unmount may take to write everything out, before it says what is left.
pub const FLUSH: Duration = Duration::from_secs(120);

/// How long those that have files open may take to leave, once everything is written out.
const LEAVE: Duration = Duration::from_secs(5);

/// Limits of a mount.
#[derive(Clone, Debug, clap::Args)]
pub struct MountArgs {
    /// Refuse every change
    #[arg(long, env = "NOKV_READ_ONLY")]
    pub read_only: bool,
    /// Memory for writes that are not uploaded yet
    #[arg(long, env = "NOKV_WRITE_BUFFER", value_parser = parse_bytes, default_value = "128MiB", value_name = "SIZE")]
    pub write_buffer: u64,
    /// Memory for what was read and read ahead
    #[arg(long, env = "NOKV_READ_BUFFER", value_parser = parse_bytes, default_value = "128MiB", value_name = "SIZE")]
    pub read_buffer: u64,
    /// Folder for staged writes; without it they are in memory
    #[arg(long, env = "NOKV_STAGE_DIR", value_name = "DIR")]
    pub stage_dir: Option<PathBuf>,
    /// How long the kernel keeps attributes and names of shared directories, in milliseconds
    #[arg(long, env = "NOKV_TTL_MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=1000))]
    pub ttl_ms: u64,
}

impl MountArgs {
    /// Limits of the bodies.
    pub fn bodies(&self) -> BodyOptions {
        BodyOptions {
            write_buffer: self.write_buffer,
            read_buffer: self.read_buffer,
            stage_dir: self.stage_dir.clone(),
            ..BodyOptions::default()
        }
    }

    /// Limits of the mount.
    pub fn mount(&self) -> MountOptions {
        let ttl = Duration::from_millis(self.ttl_ms);
        MountOptions { read_only: self.read_only, attr_ttl: ttl, entry_ttl: ttl, ..MountOptions::default() }
    }
}

/// `mount`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to mount at
    dir: PathBuf,
    #[command(flatten)]
    volume: VolumeArgs,
    #[command(flatten)]
    mount: MountArgs,
}

/// `umount`
#[derive(Debug, clap::Args)]
pub struct UmountArgs {
    /// The mounted directory
    dir: PathBuf,
}

/// Serves the mount until a signal comes or somebody unmounts it.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut ends = Ends::new()?;
    detach_if_dead(&args.dir)?;
    let read_only = args.mount.read_only || args.volume.snapshot.is_some();
    let connected = args.volume.connect(read_only, args.mount.bodies()).await?;
    let service: Arc<dyn MetadataService> = connected.service.clone();
    let runtime = tokio::runtime::Handle::current();
    let options = MountOptions { read_only, ..args.mount.mount() };
    let mount = nokvfs_fuse::mount(&args.dir, service, connected.bodies.clone(), options, runtime)?;
    println!("ready {}", args.dir.display());
    std::io::stdout().flush()?;
    tokio::select! {
        signal = ends.wait() => {
            tracing::info!(signal, "unmounting");
            unmount(&mount).await?;
        }
        ended = mount.wait() => {
            ended?;
            tracing::info!("somebody unmounted it");
        }
        lost = connected.service.lost() => {
            nokvfs_fuse::detach(&args.dir)?;
            bail!("the session is gone: {lost}; mount the volume again");
        }
    }
    connected.close(FLUSH).await
}

/// Publishes everything, then unmounts. Files that others keep open don't hold it up: what they wrote is stored.
pub async fn unmount(mount: &Mount) -> anyhow::Result<()> {
    mount.flush(FLUSH).await?;
    match mount.unmount(LEAVE).await {
        Err(FuseError::StillOpen(_)) => {
            tracing::warn!("files are still open there; their processes get errors from now on");
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Detaches what a killed process left at `dir`.
pub fn detach_if_dead(dir: &std::path::Path) -> anyhow::Result<()> {
    if nokvfs_fuse::is_dead_mount(dir)? {
        tracing::warn!(dir = %dir.display(), "detaching a dead mount");
        nokvfs_fuse::detach(dir)?;
    }
    Ok(())
}

/// Unmounts. The mount's process then writes out what is left.
pub fn umount(args: UmountArgs) -> anyhow::Result<()> {
    let dir = &args.dir;
    if nokvfs_fuse::is_dead_mount(dir)? {
        nokvfs_fuse::detach(dir)?;
        return Ok(());
    }
    match rustix::mount::unmount(dir, rustix::mount::UnmountFlags::empty()) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => bail!("{} is in use; `fuser -vm {0}` shows by whom", dir.display()),
        Err(rustix::io::Errno::INVAL) => bail!("{} is no mount", dir.display()),
        Err(rustix::io::Errno::PERM) => {
            let done = std::process::Command::new("fusermount3").arg("-u").arg(dir).status();
            let done = done.context("not root, and fusermount3 can't be run: install fuse3")?;
            if !done.success() {
                bail!("fusermount3 -u {}: {done}", dir.display());
            }
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("umount {}", dir.display())),
    }
}
