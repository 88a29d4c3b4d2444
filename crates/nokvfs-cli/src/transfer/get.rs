//! From a volume into local files.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use nokvfs_client::{Fs, Listing};
use nokvfs_types::{Attr, FileKind};
use tokio::io::AsyncWriteExt;

use super::{GetArgs, Progress};
use crate::files::within;

/// An entry to copy.
struct Item {
    remote: PathBuf,
    local: PathBuf,
    attr: Attr,
}

/// Copies.
pub async fn get(args: GetArgs) -> anyhow::Result<()> {
    let progress = Progress::new()?;
    within(&args.volume, true, async |fs| {
        let attr = fs.stat(&args.from).await?;
        let local = match (tokio::fs::metadata(&args.to).await, args.from.file_name()) {
            (Ok(meta), Some(name)) if meta.is_dir() => args.to.join(name),
            _ => args.to.clone(),
        };
        let walk = Walk {
            fs: &fs,
            progress: &progress,
            levels: Vec::new(),
            root: Some(Item { remote: args.from.clone(), local, attr }),
        };
        let files = futures::stream::unfold(walk, async |mut walk| walk.next().await.map(|item| (item, walk)));
        let progress = &progress;
        let fs = &fs;
        files
            .for_each_concurrent(usize::from(args.jobs), |item| async move {
                let copied = copy(fs, &item, progress).await;
                progress.ended(copied.with_context(|| item.remote.display().to_string()));
            })
            .await;
        Ok(())
    })
    .await?;
    progress.finish()
}

/// Memory is one page of entries per level.
struct Walk<'a> {
    fs: &'a Fs,
    progress: &'a Progress,
    levels: Vec<(Listing, PathBuf, PathBuf)>,
    root: Option<Item>,
}

impl Walk<'_> {
    /// The next entry that is no directory. Directories are made on the way, each before its entries.
    async fn next(&mut self) -> Option<Item> {
        loop {
            if self.progress.gives_up() {
                return None;
            }
            let item = match self.root.take() {
                Some(root) => root,
                None => match self.step().await? {
                    Ok(Some(item)) => item,
                    Ok(None) => continue,
                    Err(error) => {
                        self.levels.pop();
                        self.progress.ended(Err(error));
                        continue;
                    }
                },
            };
            if item.attr.kind != FileKind::Directory {
                return Some(item);
            }
            let remote = item.remote.display().to_string();
            if let Err(error) = self.enter(item).await.context(remote) {
                self.progress.ended(Err(error));
            }
        }
    }

    /// The next entry of the innermost directory, `None` at its end; nothing once all are done.
    async fn step(&mut self) -> Option<anyhow::Result<Option<Item>>> {
        let (listing, remote, local) = self.levels.last_mut()?;
        let entry = match listing.next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                self.levels.pop();
                return Some(Ok(None));
            }
            Err(error) => return Some(Err(error.into())),
        };
        let name = OsStr::from_bytes(entry.name.as_bytes());
        let (remote, local) = (remote.join(name), local.join(name));
        let attr = match entry.attr {
            Some(attr) => attr,
            None => match self.fs.lstat(&remote).await {
                Ok(attr) => attr,
                Err(error) if error.is_not_found() => return Some(Ok(None)), // removed meanwhile
                Err(error) => {
                    self.progress.ended(Err(error.into()));
                    return Some(Ok(None));
                }
            },
        };
        Some(Ok(Some(Item { remote, local, attr })))
    }

    async fn enter(&mut self, item: Item) -> anyhow::Result<()> {
        match tokio::fs::create_dir(&item.local).await {
            // The owner must be able to fill it.
            Ok(()) => tokio::fs::set_permissions(&item.local, mode_of(&item.attr, 0o700)).await?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let there = tokio::fs::metadata(&item.local).await?;
                ensure!(there.is_dir(), "{} is there and no folder", item.local.display());
            }
            Err(error) => return Err(error).with_context(|| item.local.display().to_string()),
        }
        self.levels.push((self.fs.list(&item.remote).await?, item.remote, item.local));
        Ok(())
    }
}

fn mode_of(attr: &Attr, more: u32) -> Permissions {
    Permissions::from_mode(u32::from(attr.mode) | more)
}

async fn copy(fs: &Fs, item: &Item, progress: &Progress) -> anyhow::Result<()> {
    let temporary = temporary(&item.local)?;
    let made = match item.attr.kind {
        FileKind::File => fill(fs, item, &temporary, progress).await,
        FileKind::Symlink => {
            let target = fs.readlink(&item.remote).await?;
            tokio::fs::symlink(OsStr::from_bytes(&target), &temporary).await.map_err(anyhow::Error::from)
        }
        _ => bail!("neither file, directory nor link; such are not copied"),
    };
    let placed = match made {
        Ok(()) => tokio::fs::rename(&temporary, &item.local).await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    if let Err(error) = placed {
        return match tokio::fs::remove_file(&temporary).await {
            Err(left) if left.kind() != ErrorKind::NotFound => {
                Err(error.context(format!("{} is left behind ({left})", temporary.display())))
            }
            _ => Err(error),
        };
    }
    Ok(())
}

/// A name beside the destination that nobody else uses.
fn temporary(local: &Path) -> anyhow::Result<PathBuf> {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers from the kernel: {error}"))?;
    Ok(local.with_file_name(format!(".nokv-{}", hex::encode(random))))
}

async fn fill(fs: &Fs, item: &Item, temporary: &Path, progress: &Progress) -> anyhow::Result<()> {
    let mut reader = fs.open(&item.remote).await?;
    let attr = reader.attr();
    progress.expect(attr.size);
    let mut options = tokio::fs::OpenOptions::new();
    // Private until it is whole and has its own mode.
    let mut file = options.write(true).create_new(true).mode(0o600).open(temporary).await?;
    let mut got = 0;
    loop {
        let step = reader.next().await?;
        if step.is_empty() {
            break;
        }
        file.write_all(&step).await?;
        got += step.len() as u64;
        progress.moved(step.len());
    }
    ensure!(got == attr.size, "{got} bytes came instead of {}; it changed meanwhile, copy it again", attr.size);
    file.flush().await?;
    let file = file.into_std().await;
    let (mtime, mode) = (SystemTime::from(attr.mtime), mode_of(&attr, 0));
    tokio::task::spawn_blocking(move || {
        file.set_permissions(mode)?;
        file.set_modified(mtime)?;
        file.sync_all()
    })
    .await??;
    Ok(())
}
