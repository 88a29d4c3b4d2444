//! From local files into a volume.

use std::fs::Metadata;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::BytesMut;
use futures::StreamExt;
use nokvfs_client::Fs;
use nokvfs_types::{FileKind, SetAttr, SetTime, Timestamp};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::atomic::Staged;
use super::{Progress, PutArgs, STEP};
use crate::files::{destination, within};

/// Entries that the walk is ahead of the copying.
const AHEAD: usize = 256;

/// An entry to copy. Directories come before what is in them.
struct Item {
    local: PathBuf,
    remote: PathBuf,
    meta: Metadata,
}

/// Copies.
pub async fn put(args: PutArgs) -> anyhow::Result<()> {
    let progress = Progress::new()?;
    within(&args.volume, false, async |fs| {
        let jobs = usize::from(args.jobs);
        if args.atomic {
            let [source] = args.sources.as_slice() else { bail!("--atomic takes one source, and its place as TO") };
            let staged = Staged::new(&fs, &args.to).await?;
            copy_all(&fs, walk(vec![(source.clone(), staged.path().to_owned())]), jobs, &progress).await?;
            return match progress.failed() {
                0 => staged.publish(&fs).await,
                _ => staged.drop(&fs).await,
            };
        }
        let into = fs.stat(&args.to).await.is_ok_and(|attr| attr.kind == FileKind::Directory);
        ensure!(into || args.sources.len() == 1, "{} is no directory; several sources need one", args.to.display());
        let mut roots = Vec::new();
        for source in &args.sources {
            let named = std::path::absolute(source).with_context(|| source.display().to_string())?;
            roots.push((source.clone(), destination(&fs, &named, &args.to).await?));
        }
        copy_all(&fs, walk(roots), jobs, &progress).await
    })
    .await?;
    progress.finish()
}

async fn copy_all(
    fs: &Fs,
    items: mpsc::Receiver<anyhow::Result<Item>>,
    jobs: usize,
    progress: &Progress,
) -> anyhow::Result<()> {
    // Directories are made by the stream itself, in order, so that each is there before its entries.
    let files = futures::stream::unfold(items, async |mut items| {
        loop {
            if progress.gives_up() {
                return None;
            }
            let item = match items.recv().await? {
                Ok(item) => item,
                Err(error) => {
                    progress.ended(Err(error));
                    continue;
                }
            };
            if !item.meta.is_dir() {
                return Some((item, items));
            }
            let mode = mode_of(&item.meta);
            if let Err(error) = fs.mkdir_all(&item.remote, mode).await {
                progress.ended(Err(error.into()));
            }
        }
    });
    files
        .for_each_concurrent(jobs, |item| async move {
            let copied = copy(fs, &item, progress).await;
            progress.ended(copied.with_context(|| item.local.display().to_string()));
        })
        .await;
    Ok(())
}

fn mode_of(meta: &Metadata) -> u16 {
    u16::try_from(meta.mode() & 0o7777).unwrap_or(0o644)
}

async fn copy(fs: &Fs, item: &Item, progress: &Progress) -> anyhow::Result<()> {
    let kind = item.meta.file_type();
    if kind.is_symlink() {
        let target = tokio::fs::read_link(&item.local).await?;
        match fs.lstat(&item.remote).await {
            Ok(there) if there.kind == FileKind::Symlink => fs.remove(&item.remote).await?,
            Ok(_) => bail!("{} is there and no link", item.remote.display()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        fs.symlink(target.into_os_string().into_vec(), &item.remote).await?;
        return Ok(());
    }
    ensure!(kind.is_file(), "neither file, folder nor link; such are not copied");
    progress.expect(item.meta.len());
    let mut file = tokio::fs::File::open(&item.local).await?;
    let mut writer = fs.create(&item.remote, mode_of(&item.meta)).await?;
    let mut sent = 0;
    let sending = async {
        loop {
            let mut step = BytesMut::with_capacity(STEP);
            while step.len() < STEP && file.read_buf(&mut step).await? > 0 {}
            if step.is_empty() {
                break;
            }
            let len = step.len();
            writer.write(step.freeze()).await?;
            sent += len as u64;
            progress.moved(len);
        }
        // What changed while it was read would be neither the old file nor the new one.
        let now = file.metadata().await?;
        let same = now.len() == sent && now.modified()? == item.meta.modified()?;
        ensure!(same, "it changed while it was copied ({sent} bytes were read); copy it again");
        Ok(())
    };
    if let Err(error) = sending.await {
        writer.abort().await?;
        return Err(error);
    }
    let made = writer.commit().await?;
    ensure!(made.size == sent, "{} has {} bytes instead of {sent}", item.remote.display(), made.size);
    let mtime = Timestamp::from(item.meta.modified()?);
    fs.set_attr(&item.remote, SetAttr { mtime: Some(SetTime::At(mtime)), ..SetAttr::default() }).await?;
    Ok(())
}

/// Walks on a thread of its own. Memory is one open folder per level and [`AHEAD`] entries.
fn walk(roots: Vec<(PathBuf, PathBuf)>) -> mpsc::Receiver<anyhow::Result<Item>> {
    let (items, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let items = Arc::new(items);
        for (local, remote) in roots {
            // A source that is a link names what it points to.
            let meta = std::fs::metadata(&local);
            if !visit(&items, local, remote, meta) {
                return;
            }
        }
    });
    receiver
}

/// Sends an entry and those below it; false once nobody listens.
fn visit(
    items: &mpsc::Sender<anyhow::Result<Item>>,
    local: PathBuf,
    remote: PathBuf,
    meta: std::io::Result<Metadata>,
) -> bool {
    let mut levels: Vec<(std::fs::ReadDir, PathBuf)> = Vec::new();
    let mut next = Some((local, remote, meta));
    loop {
        if let Some((local, remote, meta)) = next.take() {
            let dir = meta.as_ref().is_ok_and(Metadata::is_dir).then(|| (local.clone(), remote.clone()));
            let item = meta.with_context(|| local.display().to_string()).map(|meta| Item { local, remote, meta });
            if items.blocking_send(item).is_err() {
                return false;
            }
            if let Some((local, remote)) = dir {
                match std::fs::read_dir(&local) {
                    Ok(entries) => levels.push((entries, remote)),
                    Err(error) => {
                        if !fail(items, &local, error) {
                            return false;
                        }
                    }
                }
            }
        }
        let Some((entries, remote)) = levels.last_mut() else { return true };
        match entries.next() {
            None => drop(levels.pop()),
            Some(Ok(entry)) => next = Some((entry.path(), remote.join(entry.file_name()), entry.metadata())),
            Some(Err(error)) => {
                let remote = remote.clone();
                if !fail(items, &remote, error) {
                    return false;
                }
            }
        }
    }
}

fn fail(items: &mpsc::Sender<anyhow::Result<Item>>, path: &Path, error: std::io::Error) -> bool {
    items.blocking_send(Err(anyhow::Error::from(error).context(path.display().to_string()))).is_ok()
}
