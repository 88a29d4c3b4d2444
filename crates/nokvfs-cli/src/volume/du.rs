//! How much folders hold.

use std::collections::HashSet;

use anyhow::{Result, bail};
use nokvfs_types::{Attr, FileKind, InodeId};
use serde::Serialize;

use super::walk::{Tree, join};
use crate::connection::{CredentialArgs, ServerArgs};
use crate::output::{self, Format};

/// `volume du`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the volume
    #[arg(default_value = "/")]
    path: String,
    /// Snapshot to look at; without it the volume as it is now
    #[arg(long, env = "NOKV_SNAPSHOT", value_name = "NAME")]
    snapshot: Option<String>,
    #[command(flatten)]
    volume: CredentialArgs,
}

/// A folder or file, with everything below it.
#[derive(Clone, Debug, Default, Serialize)]
struct Row {
    path: String,
    /// Bytes that are charged to the volume's quota.
    used_bytes: u64,
    /// Sizes as stat(2) tells them.
    apparent_bytes: u64,
    inodes: u64,
}

impl Row {
    /// Counts an inode, unless a hard link showed it already.
    fn add(&mut self, attr: &Attr, linked: &mut HashSet<InodeId>) {
        if attr.kind != FileKind::Directory && attr.nlink > 1 && !linked.insert(attr.inode) {
            return;
        }
        self.inodes += 1;
        self.used_bytes += attr.mapped;
        if attr.kind == FileKind::File {
            self.apparent_bytes += attr.size;
        }
    }
}

/// Carries the command out: a row for each entry of the folder, and one for all of it.
pub async fn run(server: &ServerArgs, args: Args, format: Format) -> Result<()> {
    let tree = Tree::open(server, &args.volume, args.snapshot).await?;
    let mut dir = InodeId::ROOT;
    for part in args.path.split('/').filter(|part| !part.is_empty()) {
        let entries = tree.list(dir).await?;
        let found = entries.iter().find(|(name, _)| name.as_bytes() == part.as_bytes()).map(|(_, attr)| attr);
        match found {
            Some(attr) if attr.kind == FileKind::Directory => dir = attr.inode,
            _ => bail!("{}: no such folder in the volume", args.path),
        }
    }
    let top = args.path.trim_end_matches('/');
    let mut linked = HashSet::new();
    let mut all = Row { path: args.path.clone(), inodes: 1, ..Row::default() };
    let mut rows = Vec::new();
    for (name, attr) in tree.list(dir).await? {
        let mut row = Row { path: join(top, &name), ..Row::default() };
        let mut left = vec![attr];
        while let Some(attr) = left.pop() {
            row.add(&attr, &mut linked);
            if attr.kind == FileKind::Directory {
                left.extend(tree.list(attr.inode).await?.into_values());
            }
        }
        all.used_bytes += row.used_bytes;
        all.apparent_bytes += row.apparent_bytes;
        all.inodes += row.inodes;
        rows.push(row);
    }
    tree.close().await?;
    rows.push(all);
    output::print(format, &rows, |rows| {
        let mut text = format!("{:>12}  {:>12}  {:>9}  {}\n", "USED", "SIZE", "INODES", "PATH");
        for row in rows {
            let (used, size) = (output::bytes(row.used_bytes), output::bytes(row.apparent_bytes));
            text.push_str(&format!("{used:>12}  {size:>12}  {:>9}  {}\n", row.inodes, row.path));
        }
        text
    })
}
