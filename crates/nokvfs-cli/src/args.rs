//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::output::Format;

/// Filesystem for AI training and agent workspaces: metadata in Holt, bytes in S3, mounted by FUSE.
#[derive(Debug, Parser)]
#[command(name = "nokv-fs", version, args_override_self = true, max_term_width = 110)]
pub struct Options {
    /// YAML file with the command's flags as keys; flags and environment variables go before it
    #[arg(long, global = true, env = "NOKV_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, env = "NOKV_OUTPUT", value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Which log lines are written, as a tracing filter (for example info,nokvfs_fuse=debug)
    #[arg(long, global = true, env = "NOKV_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How log lines are written
    #[arg(long, global = true, env = "NOKV_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Forms of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a metadata server
    Serve(crate::serve::Args),
    /// Run the trial S3 store: one folder, one bucket, one key pair; for tests and first steps
    TrialStore(crate::trial_store::Args),
    /// Mount a volume at a directory and serve it until it is unmounted
    Mount(crate::mount::Args),
    /// Unmount a directory; a dead mount is detached
    Umount(crate::mount::UmountArgs),
    /// Serve mounts that a privileged node plugin hands over by a Unix socket
    Mounter(crate::mounter::Args),
    /// The whole filesystem in one process: metadata, trial store and a mount at DIR
    Dev(crate::dev::Args),
    /// Create, list, inspect, resize and delete volumes
    Volume(crate::volume::Args),
    /// List a directory of a volume
    Ls(crate::files::LsArgs),
    /// Show what is known of a path of a volume
    Stat(crate::files::PathArgs),
    /// Write a file of a volume to standard output
    Cat(crate::files::PathArgs),
    /// Make a directory in a volume
    Mkdir(crate::files::MkdirArgs),
    /// Remove a path of a volume
    Rm(crate::files::RmArgs),
    /// Move a path within a volume
    Mv(crate::files::MvArgs),
    /// Copy local files and folders into a volume
    Put(crate::transfer::PutArgs),
    /// Copy files and folders of a volume to local ones
    Get(crate::transfer::GetArgs),
    /// Look for contradictions in a server's metadata, and for missing and lost objects
    Fsck(crate::fsck::Args),
    /// Read every byte of a volume or a snapshot, so that damaged data is found
    Scrub(crate::scrub::Args),
    /// Tell whether a server is healthy
    Status(crate::status::Args),
    /// Print a shell's completion script
    Completions(crate::generate::CompletionArgs),
    /// Write the man pages into a folder
    Man(crate::generate::ManArgs),
}
