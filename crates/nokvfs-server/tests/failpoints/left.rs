//! What an ended process left: the history that it acknowledged, and after collection exactly the objects that are named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_body::{Bodies, BodyOptions, ReadStream};
use nokvfs_meta::commit::Committer;
use nokvfs_meta::service::{MetadataService, VolumeService};
use nokvfs_meta::{Engine, LocalService};
use nokvfs_object::{ObjectStore, S3Store};
use nokvfs_types::{FileKind, InodeId, MetaError, VolumeState};

use crate::child::{PATIENCE, context, engine_options, request, spec};
use crate::fsck;
use crate::script::{Seen, Step, Tree, steps, trees};

pub async fn look(dir: &Path, objects: Arc<S3Store>, done: usize) -> Result<(), String> {
    let store = Arc::clone(&objects) as Arc<dyn ObjectStore>;
    let engine = open(dir, &store, PATIENCE).await?;
    compare(&read(&engine, &store).await?, done)?;
    close(engine).await?;
    // Nobody is left: all sessions are soon over.
    let engine = open(dir, &store, Duration::from_millis(200)).await?;
    quiet(&engine).await?;
    close(engine).await?;
    let records = {
        let (store, _committer) =
            Committer::open(engine_options(dir, PATIENCE).store).map_err(|error| format!("again: {error}"))?;
        fsck::read(&*store).map_err(|error| format!("records: {error}"))?
    };
    let mut wrong = records.wrong();
    if records.sessions + records.orphans.len() > 0 {
        wrong.push(format!("{} sessions and {} orphans stay", records.sessions, records.orphans.len()));
    }
    let named = records.named();
    let there = list(&objects).await?;
    wrong.extend(named.difference(&there).map(|key| format!("{key} is named and not there")));
    // The marker of a volume whose making was cut off stays: some bytes that nobody reads.
    let left = there.difference(&named).filter(|key| !key.starts_with("owners/"));
    wrong.extend(left.map(|key| format!("{key} is there and not named")));
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

async fn open(dir: &Path, store: &Arc<dyn ObjectStore>, expiry: Duration) -> Result<Arc<Engine>, String> {
    Engine::open(engine_options(dir, expiry), Arc::clone(store)).await.map_err(|error| format!("open: {error}"))
}

async fn close(engine: Arc<Engine>) -> Result<(), String> {
    engine.close().await.map_err(|error| format!("close: {error}"))
}

async fn list(objects: &S3Store) -> Result<BTreeSet<String>, String> {
    let (mut keys, mut after) = (BTreeSet::new(), None::<String>);
    loop {
        let page = objects.list("", after.as_deref(), 1000).await.map_err(|error| format!("list: {error}"))?;
        keys.extend(page.objects.iter().map(|object| object.key.clone()));
        after = page.objects.last().map(|object| object.key.clone());
        if !page.more {
            return Ok(keys);
        }
    }
}

/// Waits until nothing is left to collect.
async fn quiet(engine: &Engine) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let figures = engine.figures();
        let volumes = engine.list_volumes(None, 100).await.map_err(|error| error.to_string())?;
        let deleting = volumes.iter().any(|volume| volume.state == VolumeState::Deleting);
        if (figures.sessions, figures.orphans, figures.garbage, figures.unswept) == (0, 0, 0, 0) && !deleting {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("never quiet: {figures:?}, {volumes:?}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn read(engine: &Arc<Engine>, objects: &Arc<dyn ObjectStore>) -> Result<Tree, String> {
    let volumes = engine.list_volumes(None, 100).await.map_err(|error| error.to_string())?;
    if !volumes.iter().any(|volume| volume.spec.name == "v") {
        return Ok(None);
    }
    let failed = |what: &str, error: MetaError| format!("{what}: {error}");
    let volume = engine.create_volume(spec("v")).await.map_err(|error| failed("volume", error))?;
    let service =
        LocalService::open(Arc::clone(engine), request(&volume)).await.map_err(|error| failed("session", error))?;
    let meta = Arc::clone(&service) as Arc<dyn MetadataService>;
    let bodies = Bodies::new(meta, Arc::clone(objects), BodyOptions::default()).map_err(|error| error.to_string())?;
    let mut tree = BTreeMap::new();
    let mut dirs = vec![(String::new(), InodeId::ROOT)];
    while let Some((path, dir)) = dirs.pop() {
        let page = service.readdir(&context(), dir, 0, 1000, true).await.map_err(|error| failed(&path, error))?;
        for entry in page.entries {
            let path = if path.is_empty() { entry.name.to_string() } else { format!("{path}/{}", entry.name) };
            let seen = match entry.kind {
                FileKind::Directory => {
                    dirs.push((path.clone(), entry.inode));
                    Seen::Dir
                }
                FileKind::File => {
                    let size = entry.attr.as_ref().map_or(0, |attr| attr.size);
                    let content =
                        content(&bodies, entry.inode, size).await.map_err(|error| format!("{path}: {error}"))?;
                    let xattr = service.getxattr(&context(), entry.inode, b"user.x").await.ok();
                    Seen::File(content, xattr.map(|value| value.to_vec()))
                }
                _ => Seen::Symlink,
            };
            tree.insert(path, seen);
        }
    }
    drop(bodies);
    service.close().await.map_err(|error| failed("closing", error))?;
    Ok(Some(tree))
}

async fn content(bodies: &Arc<Bodies>, inode: InodeId, size: u64) -> Result<Vec<u8>, String> {
    let file = bodies.open(&context(), inode).await.map_err(|error| error.to_string())?;
    let (stream, mut bytes) = (ReadStream::new(), Vec::new());
    while (bytes.len() as u64) < size {
        let read =
            file.read(&context(), &stream, bytes.len() as u64, 1 << 20).await.map_err(|error| error.to_string())?;
        if read.is_empty() {
            return Err(format!("{} of {size} bytes", bytes.len()));
        }
        bytes.extend_from_slice(&read);
    }
    Ok(bytes)
}

/// The tree is what was acknowledged, perhaps with the step under way, perhaps without creations that were answered early
/// just before.
fn compare(found: &Tree, done: usize) -> Result<(), String> {
    let steps = steps();
    let trees = trees(&steps);
    let oldest = (0..done).rev().take_while(|at| steps[*at].is_early()).last().unwrap_or(done);
    let newest = (done + 1).min(steps.len());
    let candidates = &trees[oldest..=newest];
    if candidates.contains(found) {
        return Ok(());
    }
    let under_way: Option<&Step> = steps.get(done);
    let Some(found) = found else { return Err("the volume is gone".into()) };
    let empty = BTreeMap::new();
    let of = |tree: &Tree, path: &String| tree.as_ref().unwrap_or(&empty).get(path).cloned();
    let all: BTreeSet<&String> = found.keys().chain(candidates.iter().flatten().flat_map(BTreeMap::keys)).collect();
    let wrong: Vec<_> = all
        .into_iter()
        .filter(|path| candidates.iter().all(|tree| of(tree, path) != found.get(*path).cloned()))
        .map(|path| format!("{path} is {}", brief(found.get(path))))
        .collect();
    if wrong.is_empty() && under_way.is_some_and(|step| !step.is_atomic()) {
        return Ok(());
    }
    Err(format!("under way: {under_way:?}; wrong: {wrong:?} (empty: each is right, not together)"))
}

fn brief(seen: Option<&Seen>) -> String {
    match seen {
        Some(Seen::File(content, xattr)) => format!("a file of {} bytes, attribute {}", content.len(), xattr.is_some()),
        other => format!("{other:?}"),
    }
}
