//! `nokv-fs volume`: volumes of a server.

mod diff;
mod du;
mod snapshot;
mod walk;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use nokvfs_meta::service::{SnapshotService, VolumeService};
use nokvfs_types::{Token, VolumeId, VolumeInfo, VolumeSpec, VolumeState};
use serde::Serialize;

use crate::connection::ServerArgs;
use crate::output::{self, Format};

/// `volume`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a volume, or answer the one of that name
    Create {
        /// Name on the server: a-z, 0-9, '.' and '-'
        name: String,
        /// Most bytes, for example 10GiB; without it there is no limit
        #[arg(long, value_parser = parse_bytes, default_value = "0")]
        quota: u64,
        /// Most inodes; without it there is no limit
        #[arg(long, default_value_t = 0)]
        quota_inodes: u64,
        /// Mode of the root directory, octal
        #[arg(long, value_parser = parse_mode, default_value = "0777")]
        mode: u16,
        /// Owner of the root directory
        #[arg(long, default_value_t = 0)]
        uid: u32,
        /// Group of the root directory
        #[arg(long, default_value_t = 0)]
        gid: u32,
        /// File that the volume's token is written to (mode 0600); whoever has it may mount the volume
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
    },
    /// List volumes
    List,
    /// Show a volume
    Show {
        /// Name or UUID
        volume: String,
    },
    /// Change a volume's quota
    Quota {
        /// Name or UUID
        volume: String,
        /// Most bytes; 0: no limit
        #[arg(long, value_parser = parse_bytes)]
        bytes: u64,
        /// Most inodes; 0: no limit
        #[arg(long, default_value_t = 0)]
        inodes: u64,
    },
    /// Keep a volume as it is, list what is kept, and let it go
    Snapshot {
        #[command(subcommand)]
        action: snapshot::Action,
    },
    /// Make a writable volume that shows what another one does, at once
    Clone(snapshot::CloneArgs),
    /// Make a volume what it was at a snapshot
    Rollback {
        /// Name or UUID
        volume: String,
        /// Snapshot of the volume
        snapshot: String,
        /// Do it without asking
        #[arg(long)]
        yes: bool,
    },
    /// Tell what changed between two snapshots of a volume, or since one
    Diff(diff::Args),
    /// Tell how much the folders of a volume hold
    Du(du::Args),
    /// Delete a volume and everything in it
    Delete {
        /// Name or UUID
        volume: String,
        /// Do it without asking
        #[arg(long)]
        yes: bool,
    },
}

/// A volume, as it is printed.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    state: &'static str,
    used_bytes: u64,
    used_inodes: u64,
    quota_bytes: u64,
    quota_inodes: u64,
    sessions: u32,
}

impl From<VolumeInfo> for Row {
    fn from(info: VolumeInfo) -> Self {
        Row {
            id: info.id.to_string(),
            name: info.spec.name,
            state: match info.state {
                VolumeState::Active => "active",
                VolumeState::Deleting => "deleting",
                VolumeState::Hidden => "hidden",
            },
            used_bytes: info.usage.bytes,
            used_inodes: info.usage.inodes,
            quota_bytes: info.spec.quota_bytes,
            quota_inodes: info.spec.quota_inodes,
            sessions: info.sessions,
        }
    }
}

/// Carries the action out.
pub async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let Args { server, action } = args;
    let volumes = match action {
        // These read the volume in a session of their own.
        Action::Diff(args) => return diff::run(&server, args, format).await,
        Action::Du(args) => return du::run(&server, args, format).await,
        _ => server.volumes().await?,
    };
    match action {
        Action::Create { name, quota, quota_inodes, mode, uid, gid, token_file } => {
            let spec =
                VolumeSpec { name, quota_bytes: quota, quota_inodes, root_mode: mode, root_uid: uid, root_gid: gid };
            let (info, token) = volumes.create_volume(spec).await?;
            write_token(&token_file, &token)?;
            show(format, &[info.into()])
        }
        Action::List => {
            let rows: Vec<Row> = all(&volumes).await?.into_iter().map(Row::from).collect();
            show(format, &rows)
        }
        Action::Show { volume } => {
            let id = find(&volumes, &volume).await?;
            show(format, &[volumes.volume(id).await?.into()])
        }
        Action::Quota { volume, bytes, inodes } => {
            let id = find(&volumes, &volume).await?;
            show(format, &[volumes.set_quota(id, bytes, inodes).await?.into()])
        }
        Action::Snapshot { action } => snapshot::run(&volumes, action, format).await,
        Action::Clone(args) => snapshot::clone(&volumes, args, format).await,
        Action::Rollback { volume, snapshot, yes } => {
            let id = find(&volumes, &volume).await?;
            if !yes {
                bail!("this drops what volume {volume} ({id}) holds since snapshot {snapshot}; add --yes to do it");
            }
            show(format, &[volumes.rollback_volume(id, &snapshot).await?.into()])
        }
        Action::Diff(_) | Action::Du(_) => unreachable!("done before the connection for control"),
        Action::Delete { volume, yes } => {
            let id = find(&volumes, &volume).await?;
            if !yes {
                bail!("this deletes volume {volume} ({id}) and everything in it; add --yes to do it");
            }
            volumes.delete_volume(id).await?;
            Ok(())
        }
    }
}

async fn all(volumes: &dyn VolumeService) -> anyhow::Result<Vec<VolumeInfo>> {
    let mut found: Vec<VolumeInfo> = Vec::new();
    loop {
        let after = found.last().map(|info| info.spec.name.clone());
        let page = volumes.list_volumes(after.as_deref(), 1000).await?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page);
    }
}

/// The volume of a name or a UUID.
pub(crate) async fn find(volumes: &dyn VolumeService, text: &str) -> anyhow::Result<VolumeId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let found = all(volumes).await?.into_iter().find(|info| info.spec.name == text);
    found.map(|info| info.id).with_context(|| format!("no volume is named {text}; `nokv-fs volume list` shows all"))
}

fn write_token(path: &PathBuf, token: &Token) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("--token-file {}", path.display()))?;
    writeln!(file, "{}", token.to_hex())?;
    file.sync_all()?;
    Ok(())
}

fn show(format: Format, rows: &[Row]) -> anyhow::Result<()> {
    output::print(format, &rows, |rows| {
        let mut text =
            format!("{:36}  {:8}  {:>12}  {:>12}  {:>9}  {}\n", "ID", "STATE", "USED", "QUOTA", "INODES", "NAME");
        for row in rows.iter() {
            let quota = if row.quota_bytes == 0 { "-".to_owned() } else { output::bytes(row.quota_bytes) };
            let used = output::bytes(row.used_bytes);
            text.push_str(&format!(
                "{:36}  {:8}  {used:>12}  {quota:>12}  {:>9}  {}\n",
                row.id, row.state, row.used_inodes, row.name
            ));
        }
        text
    })
}

/// Reads a size: a number with an optional unit (K, M, G, T and their forms with B or iB: all powers of 1,024).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("'{text}' is no size; write for example 512MiB or 10GiB"))?;
    let unit = text[digits.len()..].to_ascii_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(format!("'{unit}' is no unit of size; use KiB, MiB, GiB, TiB or PiB")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is too large"))
}

/// Reads a mode, octal.
pub fn parse_mode(text: &str) -> Result<u16, String> {
    match u16::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("'{text}' is no mode; write it in octal, for example 0755")),
    }
}
