//! `nokv-fs put` and `nokv-fs get`: local files and folders into a volume and back, without a mount.
//!
//! A file appears at its destination whole or not at all. Mode and modification time come along; links are copied as
//! links. A failed file does not stop the others, unless many fail.

mod atomic;
mod get;
mod put;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};

use crate::connection::VolumeArgs;

pub use get::get;
pub use put::put;

/// After so many failed files the rest is not tried.
const FAILURES_MAX: u64 = 20;
/// Bytes of one step.
const STEP: usize = 1 << 20;

/// `put`
#[derive(Debug, clap::Args)]
pub struct PutArgs {
    /// Local files and folders
    #[arg(required = true)]
    sources: Vec<PathBuf>,
    /// Path in the volume; a directory takes the sources into it
    to: PathBuf,
    /// Show the source at TO all at once, when every file of it is stored, in place of what is there; or not at all
    #[arg(long)]
    atomic: bool,
    /// Files at once; each holds about 2 MiB
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    #[command(flatten)]
    volume: VolumeArgs,
}

/// `get`
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// Path in the volume: a file or a directory with everything below it
    from: PathBuf,
    /// Local path; a folder takes the source into it
    to: PathBuf,
    /// Files at once; each holds about 2 MiB
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    #[command(flatten)]
    volume: VolumeArgs,
}

/// What was copied so far. The bar shows itself on a terminal only.
struct Progress {
    bar: ProgressBar,
    files: AtomicU64,
    failed: AtomicU64,
}

impl Progress {
    fn new() -> anyhow::Result<Self> {
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template(
            "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg}",
        )?);
        Ok(Progress { bar, files: AtomicU64::new(0), failed: AtomicU64::new(0) })
    }

    /// A file was found.
    fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    fn moved(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    /// Notes how a file ended.
    fn ended(&self, result: anyhow::Result<()>) {
        match result {
            Ok(()) => {
                let files = self.files.fetch_add(1, Ordering::Relaxed) + 1;
                self.bar.set_message(format!("{files} files"));
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.bar.suspend(|| eprintln!("nokv-fs: {error:#}"));
            }
        }
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn gives_up(&self) -> bool {
        self.failed.load(Ordering::Relaxed) >= FAILURES_MAX
    }

    fn finish(&self) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        let (files, failed) = (self.files.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        if failed > 0 {
            let rest = if self.gives_up() { "; the rest was not tried" } else { "" };
            bail!("{failed} files were not copied, {files} were{rest}; what is copied is whole, so repeat the command");
        }
        tracing::info!(files, "copied");
        Ok(())
    }
}
