//! What changed between two moments of a volume.
//!
//! Both trees are walked together. A file is the same if its inode has not been written since; one that has another path
//! was renamed. Holds one directory of each level and what changed.

use std::collections::BTreeMap;

use anyhow::Result;
use nokvfs_types::{Attr, FileKind, InodeId};
use serde::Serialize;

use super::walk::{Tree, join};
use crate::connection::{CredentialArgs, ServerArgs};
use crate::output::{self, Format};

/// `volume diff`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Snapshot to begin with
    #[arg(long, value_name = "NAME")]
    from: String,
    /// Snapshot to end with; without it the volume as it is now
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    #[command(flatten)]
    volume: CredentialArgs,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Added,
    Deleted,
    Renamed,
    Modified,
    Attributes,
}

/// A changed path.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Change {
    path: String,
    change: Kind,
    /// Where it was, if it was renamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<String>,
}

/// Carries the command out.
pub async fn run(server: &ServerArgs, args: Args, format: Format) -> Result<()> {
    let old = Tree::open(server, &args.volume, Some(args.from)).await?;
    let new = Tree::open(server, &args.volume, args.to).await?;
    let changes = compare(&old, &new).await?;
    old.close().await?;
    new.close().await?;
    output::print(format, &changes, |changes| changes.iter().map(line).collect())
}

fn line(change: &Change) -> String {
    let mark = match change.change {
        Kind::Added => 'A',
        Kind::Deleted => 'D',
        Kind::Renamed => 'R',
        Kind::Modified => 'M',
        Kind::Attributes => 'm',
    };
    match &change.was {
        Some(was) => format!("{mark} {was} -> {}\n", change.path),
        None => format!("{mark} {}\n", change.path),
    }
}

/// Entries that one of the trees has and the other has not, by path.
#[derive(Default)]
struct Apart {
    gone: BTreeMap<String, Attr>,
    come: BTreeMap<String, Attr>,
}

async fn compare(old: &Tree, new: &Tree) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    let mut apart = Apart::default();
    both(old, new, String::new(), &mut apart, &mut changes).await?;
    // A file with several names that lost one was not renamed: only what has one name on each side is.
    let mut by_inode: BTreeMap<InodeId, Vec<&String>> = BTreeMap::new();
    for (path, attr) in &apart.gone {
        by_inode.entry(attr.inode).or_default().push(path);
    }
    let mut moved = Vec::new();
    for (path, attr) in &apart.come {
        match by_inode.get(&attr.inode).map(Vec::as_slice) {
            Some([was]) => moved.push(((*was).clone(), path.clone())),
            _ => changes.push(Change { path: path.clone(), change: Kind::Added, was: None }),
        }
    }
    for (was, path) in moved {
        if let (Some(before), Some(after)) = (apart.gone.remove(&was), apart.come.remove(&path)) {
            // Being moved changes the change time.
            let before = Attr { ctime: after.ctime, ..before };
            changes.extend(changed(&path, &before, &after));
            changes.push(Change { path, change: Kind::Renamed, was: Some(was) });
        }
    }
    changes.extend(apart.gone.into_keys().map(|path| Change { path, change: Kind::Deleted, was: None }));
    changes.sort();
    Ok(changes)
}

/// Compares what is below a path that both have as a directory.
async fn both(old: &Tree, new: &Tree, top: String, apart: &mut Apart, changes: &mut Vec<Change>) -> Result<()> {
    let mut dirs = vec![(top, InodeId::ROOT, InodeId::ROOT)];
    while let Some((path, before, after)) = dirs.pop() {
        let (was, mut is) = (old.list(before).await?, new.list(after).await?);
        for (name, before) in was {
            let path = join(&path, &name);
            match is.remove(&name) {
                Some(after) if after.inode == before.inode => {
                    changes.extend(changed(&path, &before, &after));
                    if after.kind == FileKind::Directory {
                        dirs.push((path, before.inode, after.inode));
                    }
                }
                other => {
                    if let Some(after) = other {
                        one(new, path.clone(), after, &mut apart.come).await?;
                    }
                    one(old, path, before, &mut apart.gone).await?;
                }
            }
        }
        for (name, after) in is {
            one(new, join(&path, &name), after, &mut apart.come).await?;
        }
    }
    Ok(())
}

/// An entry with everything below it.
async fn one(tree: &Tree, path: String, attr: Attr, found: &mut BTreeMap<String, Attr>) -> Result<()> {
    let mut left = vec![(path, attr)];
    while let Some((path, attr)) = left.pop() {
        if attr.kind == FileKind::Directory {
            for (name, below) in tree.list(attr.inode).await? {
                left.push((join(&path, &name), below));
            }
        }
        found.insert(path, attr);
    }
    Ok(())
}

fn changed(path: &str, before: &Attr, after: &Attr) -> Option<Change> {
    let is_dir = after.kind == FileKind::Directory;
    if before.version == after.version {
        return None;
    }
    let body = !is_dir && (before.size, before.mtime, before.mapped) != (after.size, after.mtime, after.mapped);
    let owner = (before.mode, before.uid, before.gid) != (after.mode, after.uid, after.gid);
    let change = match (body, owner || (!is_dir && before.ctime != after.ctime)) {
        (true, _) => Kind::Modified,
        (false, true) => Kind::Attributes,
        (false, false) => return None,
    };
    Some(Change { path: path.to_owned(), change, was: None })
}
