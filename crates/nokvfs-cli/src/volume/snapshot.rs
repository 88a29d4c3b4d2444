//! Snapshots of volumes, and volumes made from them.

use std::path::PathBuf;

use anyhow::bail;
use clap::Subcommand;
use nokvfs_client::RemoteVolumes;
use nokvfs_meta::service::SnapshotService;
use nokvfs_types::{CloneSpec, SnapshotInfo};
use serde::Serialize;

use super::{find, parse_bytes, show, write_token};
use crate::output::{self, Format};

/// `volume snapshot`
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Keep the volume as it is now, or answer the snapshot of that name
    Create {
        /// Name or UUID
        volume: String,
        /// Name of the snapshot: a-z, 0-9, '.' and '-'
        name: String,
    },
    /// List the snapshots of a volume, oldest first
    List {
        /// Name or UUID; of a deleted volume the UUID
        volume: String,
    },
    /// Delete a snapshot, and what only it kept
    Delete {
        /// Name or UUID; of a deleted volume the UUID
        volume: String,
        /// Name of the snapshot
        name: String,
        /// Do it without asking
        #[arg(long)]
        yes: bool,
    },
}

/// `volume clone`
#[derive(Debug, clap::Args)]
pub struct CloneArgs {
    /// Name or UUID of the volume to clone
    source: String,
    /// Name of the new volume
    name: String,
    /// Snapshot of the source; without it the source as it is now
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Most bytes of the new volume; without it there is no limit
    #[arg(long, value_parser = parse_bytes, default_value = "0")]
    quota: u64,
    /// Most inodes of the new volume; without it there is no limit
    #[arg(long, default_value_t = 0)]
    quota_inodes: u64,
    /// File that the new volume's token is written to (mode 0600)
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
}

/// A snapshot, as it is printed.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    volume: String,
    created: String,
    used_bytes: u64,
    used_inodes: u64,
    clones: u32,
}

impl From<SnapshotInfo> for Row {
    fn from(info: SnapshotInfo) -> Self {
        let created = jiff::Timestamp::from_nanosecond(info.created.0.into());
        Row {
            name: info.name,
            volume: info.volume.to_string(),
            created: created.map_or_else(|_| info.created.0.to_string(), |time| format!("{time:.0}")),
            used_bytes: info.usage.bytes,
            used_inodes: info.usage.inodes,
            clones: info.clones,
        }
    }
}

/// Carries the action out.
pub async fn run(volumes: &RemoteVolumes, action: Action, format: Format) -> anyhow::Result<()> {
    match action {
        Action::Create { volume, name } => {
            let id = find(volumes, &volume).await?;
            print(format, vec![volumes.create_snapshot(id, &name).await?.into()])
        }
        Action::List { volume } => {
            let id = find(volumes, &volume).await?;
            print(format, volumes.list_snapshots(id).await?.into_iter().map(Row::from).collect())
        }
        Action::Delete { volume, name, yes } => {
            let id = find(volumes, &volume).await?;
            if !yes {
                bail!("this deletes snapshot {name} of volume {volume} ({id}); add --yes to do it");
            }
            Ok(volumes.delete_snapshot(id, &name).await?)
        }
    }
}

/// Clones a volume.
pub async fn clone(volumes: &RemoteVolumes, args: CloneArgs, format: Format) -> anyhow::Result<()> {
    let CloneArgs { source, name, snapshot, quota, quota_inodes, token_file } = args;
    let source = find(volumes, &source).await?;
    let spec = CloneSpec { source, snapshot, name, quota_bytes: quota, quota_inodes };
    let (info, token) = volumes.clone_volume(spec).await?;
    write_token(&token_file, &token)?;
    show(format, &[info.into()])
}

fn print(format: Format, rows: Vec<Row>) -> anyhow::Result<()> {
    output::print(format, &rows, |rows| {
        let mut text = format!("{:20}  {:>12}  {:>9}  {:>6}  {}\n", "CREATED", "USED", "INODES", "CLONES", "NAME");
        for row in rows {
            let used = output::bytes(row.used_bytes);
            text.push_str(&format!(
                "{:20}  {used:>12}  {:>9}  {:>6}  {}\n",
                row.created, row.used_inodes, row.clones, row.name
            ));
        }
        text
    })
}
