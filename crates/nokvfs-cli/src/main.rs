//! `nokv-fs`: the metadata server, mounts and tools of a NoKV filesystem in one program.
//!
//! Owns: command-line parsing, configuration, and the wiring of server, client, mount and object store.
//! Must not: know metadata semantics, layouts, object providers, or how the kernel is answered.

mod args;
mod config;
mod connection;
mod dev;
mod files;
mod fsck;
mod generate;
mod logging;
mod mount;
mod mounter;
mod output;
mod scrub;
mod serve;
mod signals;
mod status;
mod transfer;
mod trial_store;
mod volume;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

use args::{Command, Options};

fn main() -> ExitCode {
    let options = match config::parse(std::env::args_os().collect()) {
        Ok(options) => options,
        Err(refused) => return refused.report(),
    };
    logging::start(&options);
    // One provider for the whole process; a second would make rustls refuse to choose.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nokv-fs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    let Options { command, output, .. } = options;
    match command {
        Command::Completions(args) => return generate::completions(args),
        Command::Man(args) => return generate::man(args),
        Command::Umount(args) => return mount::umount(args),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async move {
        match command {
            Command::Serve(args) => serve::run(args).await,
            Command::TrialStore(args) => trial_store::run(args).await,
            Command::Mount(args) => mount::run(args).await,
            Command::Mounter(args) => mounter::run(args).await,
            Command::Dev(args) => dev::run(args).await,
            Command::Volume(args) => volume::run(args, output).await,
            Command::Ls(args) => files::ls(args, output).await,
            Command::Stat(args) => files::stat(args, output).await,
            Command::Cat(args) => files::cat(args).await,
            Command::Mkdir(args) => files::mkdir(args).await,
            Command::Rm(args) => files::rm(args).await,
            Command::Mv(args) => files::mv(args).await,
            Command::Put(args) => transfer::put(args).await,
            Command::Get(args) => transfer::get(args).await,
            Command::Fsck(args) => fsck::run(args, output).await,
            Command::Scrub(args) => scrub::run(args, output).await,
            Command::Status(args) => status::run(args, output).await,
            Command::Completions(_) | Command::Man(_) | Command::Umount(_) => {
                unreachable!("handled before the runtime")
            }
        }
    });
    // A blocking thread that hangs in a dead mount must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result
}
