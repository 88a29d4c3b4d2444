//! `nokv-csi`: the CSI driver csi.nokv.io.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use nokvfs_csi::mounts::probe;
use nokvfs_csi::options::{LogFormat, Mode, Options};
use nokvfs_csi::run;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let options = Options::parse();
    // The child's standard output is its answer, and it starts no threads.
    if let Mode::Look { path } = &options.mode {
        return ended(probe::child(path));
    }
    if let Err(error) = log(&options) {
        return ended(Err(error));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(error.into())),
    };
    ended(runtime.block_on(async {
        match options.mode {
            Mode::Controller(options) => Box::pin(run::controller(*options)).await,
            Mode::Node(options) => Box::pin(run::node(options)).await,
            Mode::Look { path } => probe::child(&path),
        }
    }))
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nokv-csi: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(options: &Options) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&options.log)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
