//! `nokv-fs scrub`: reads every byte of every file of a volume or of a snapshot, so that each digest is verified.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::bail;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use nokvfs_client::{Fs, Listing};
use nokvfs_types::FileKind;
use serde::Serialize;

use crate::connection::VolumeArgs;
use crate::files::within;
use crate::output::{self, Format};

/// Bytes that are read at a time: what a damaged range is told in.
const STEP: u32 = 1 << 20;
/// Damaged ranges after which the rest of a file is not read.
const RANGES: usize = 16;
/// Damaged files after which no more are read.
const FILES: usize = 10_000;

/// `scrub`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Path in the volume: a file, or a directory with everything below it
    #[arg(default_value = "/")]
    path: PathBuf,
    /// Files at once; each holds some MiB
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    #[command(flatten)]
    volume: VolumeArgs,
}

/// What was read, as it is printed.
#[derive(Debug, Default, Serialize)]
struct Report {
    files: u64,
    bytes: u64,
    damaged: Vec<Damage>,
}

#[derive(Debug, Serialize)]
struct Damage {
    path: String,
    /// First and last byte that could not be read; none where the whole file or directory could not be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<(u64, u64)>,
    error: String,
}

/// Reads everything and tells what can't be read; a failure if there is such.
pub async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let scrub = Scrub::new()?;
    within(&args.volume, true, async |fs| {
        let attr = fs.stat(&args.path).await?;
        let walk = Walk { fs: &fs, scrub: &scrub, levels: Vec::new(), first: Some((args.path.clone(), attr.kind)) };
        let files = futures::stream::unfold(walk, async |mut walk| walk.next().await.map(|path| (path, walk)));
        files.for_each_concurrent(usize::from(args.jobs), |path| scrub.file(&fs, path)).await;
        Ok(())
    })
    .await?;
    scrub.bar.finish_and_clear();
    let report = scrub.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    let damaged = report.damaged.len();
    output::print(format, &report, text)?;
    if damaged > 0 {
        bail!("{damaged} places can't be read; restore these files from a snapshot or a copy: docs/troubleshooting.md");
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for damage in &report.damaged {
        let range = damage.range.map_or_else(String::new, |(first, last)| format!(" bytes {first} to {last}:"));
        text.push_str(&format!("damaged {}:{range} {}\n", damage.path, damage.error));
    }
    text.push_str(&format!("{} files, {} read\n", report.files, output::bytes(report.bytes)));
    text
}

struct Scrub {
    bar: ProgressBar,
    report: Mutex<Report>,
}

impl Scrub {
    fn new() -> anyhow::Result<Self> {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {binary_bytes} {binary_bytes_per_sec} {msg}")?);
        Ok(Scrub { bar, report: Mutex::default() })
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self, path: &Path, range: Option<(u64, u64)>, error: &dyn std::fmt::Display) {
        let path = path.display().to_string();
        self.report().damaged.push(Damage { path, range, error: error.to_string() });
    }

    fn gives_up(&self) -> bool {
        self.report().damaged.len() >= FILES
    }

    /// Reads a file.
    async fn file(&self, fs: &Fs, path: PathBuf) {
        let reader = match fs.open(&path).await {
            Ok(reader) => reader,
            // Removed meanwhile.
            Err(error) if error.is_not_found() => return,
            Err(error) => return self.damaged(&path, None, &error),
        };
        let (size, mut at, mut ranges) = (reader.attr().size, 0, 0);
        while at < size && ranges < RANGES {
            let len = u64::from(STEP).min(size - at);
            match reader.read_at(at, len as u32).await {
                // It was cut meanwhile.
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => {
                    at += bytes.len() as u64;
                    self.report().bytes += bytes.len() as u64;
                    self.bar.inc(bytes.len() as u64);
                }
                Err(error) => {
                    self.damaged(&path, Some((at, at + len - 1)), &error);
                    ranges += 1;
                    at += len;
                }
            }
        }
        let mut report = self.report();
        report.files += 1;
        self.bar.set_message(format!("{} files", report.files));
    }
}

/// Goes through directories; holds one page of entries per level.
struct Walk<'a> {
    fs: &'a Fs,
    scrub: &'a Scrub,
    levels: Vec<(Listing, PathBuf)>,
    first: Option<(PathBuf, FileKind)>,
}

impl Walk<'_> {
    /// The next regular file.
    async fn next(&mut self) -> Option<PathBuf> {
        loop {
            if self.scrub.gives_up() {
                return None;
            }
            let (path, kind) = match self.first.take() {
                Some(first) => first,
                None => {
                    let (listing, below) = self.levels.last_mut()?;
                    match listing.next().await {
                        Ok(Some(entry)) => (below.join(OsStr::from_bytes(entry.name.as_bytes())), entry.kind),
                        Ok(None) => {
                            self.levels.pop();
                            continue;
                        }
                        Err(error) => {
                            let (_, below) = self.levels.pop()?;
                            self.scrub.damaged(&below, None, &error);
                            continue;
                        }
                    }
                }
            };
            match kind {
                FileKind::File => return Some(path),
                FileKind::Directory => match self.fs.list(&path).await {
                    Ok(listing) => self.levels.push((listing, path)),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => self.scrub.damaged(&path, None, &error),
                },
                _ => {}
            }
        }
    }
}
