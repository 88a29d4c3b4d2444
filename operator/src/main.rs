//! `nokv-operator`.

use clap::Parser;
use nokvfs_operator::options::{Command, LogFormat, Options};
use nokvfs_operator::{release, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let logs = tracing_subscriber::fmt().with_env_filter(options.log.as_str()).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider is installed already");
    }
    match options.command {
        Command::Run(run) => {
            let stop = CancellationToken::new();
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let stopping = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stopping.cancel();
            });
            run::run(kube::Client::try_default().await?, *run, stop).await
        }
        Command::Release(options) => release::release(kube::Client::try_default().await?, &options).await,
        Command::Crds => {
            for (_, definition) in nokvfs_api::yaml::definitions() {
                print!("---\n{}", serde_yaml::to_string(&definition)?);
            }
            Ok(())
        }
    }
}
