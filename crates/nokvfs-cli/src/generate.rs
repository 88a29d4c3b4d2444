//! Completion scripts and man pages, made from the command line's own definition.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Options;

/// `completions`
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
}

/// `man`
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Folder for the pages; made if it is missing
    dir: PathBuf,
}

/// Prints the script.
pub fn completions(args: CompletionArgs) -> anyhow::Result<()> {
    clap_complete::generate(args.shell, &mut Options::command(), "nokv-fs", &mut std::io::stdout().lock());
    Ok(())
}

/// Writes one page a command.
pub fn man(args: ManArgs) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.dir).with_context(|| format!("folder {}", args.dir.display()))?;
    clap_mangen::generate_to(Options::command(), &args.dir)
        .with_context(|| format!("man pages in {}", args.dir.display()))?;
    Ok(())
}
