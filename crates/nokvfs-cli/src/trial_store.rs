//! `nokv-fs trial-store`: the trial S3 store as a process of its own.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use nokvfs_devstore::{DevStore, DevStoreOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connection::read_small;
use crate::signals::Ends;

/// `trial-store`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the objects; made if it is missing
    #[arg(long, env = "NOKV_DATA", value_name = "DIR")]
    data: PathBuf,
    /// Address to listen on
    #[arg(long, env = "NOKV_LISTEN", default_value = "127.0.0.1:9000", value_name = "ADDR")]
    listen: String,
    /// The one bucket
    #[arg(long, env = "NOKV_BUCKET", default_value = "nokv", value_name = "NAME")]
    bucket: String,
    /// File that holds the access key
    #[arg(long, env = "NOKV_ACCESS_KEY_FILE", value_name = "FILE")]
    access_key_file: PathBuf,
    /// File that holds the secret key
    #[arg(long, env = "NOKV_SECRET_KEY_FILE", value_name = "FILE")]
    secret_key_file: PathBuf,
}

/// Serves until a signal comes.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut ends = Ends::new()?;
    let options = DevStoreOptions {
        dir: args.data,
        bucket: args.bucket,
        access_key: read_small(&args.access_key_file)?.trim().to_owned(),
        secret_key: read_small(&args.secret_key_file)?.trim().to_owned(),
    };
    let store = tokio::task::spawn_blocking(|| DevStore::open(options)).await??;
    let listener = TcpListener::bind(&args.listen).await.with_context(|| format!("--listen {}", args.listen))?;
    let address = listener.local_addr()?;
    println!("ready {address}");
    std::io::stdout().flush()?;
    tracing::info!(%address, "the trial store serves");
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(store.serve(listener, shutdown.clone()));
    let signal = ends.wait().await;
    tracing::info!(signal, "the trial store ends");
    shutdown.cancel();
    serving.await??;
    Ok(())
}
