//! `nokv-fs serve`: a metadata server.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use nokvfs_server::{Limits, Listen, Server, ServerOptions, TlsFiles};

use crate::connection::S3Args;
use crate::signals::Ends;
use crate::volume::parse_bytes;

/// How long requests in flight may take to finish once a signal came; below the 30 s that Kubernetes grants a pod.
const DRAIN: Duration = Duration::from_secs(20);

/// `serve`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the metadata; made if it is missing
    #[arg(long, env = "NOKV_DATA", value_name = "DIR")]
    data: PathBuf,
    /// Address to take requests at, ADDRESS:PORT or unix:/PATH; may be given several times
    #[arg(long, env = "NOKV_LISTEN", default_value = "127.0.0.1:7440", value_name = "ADDR", value_delimiter = ',')]
    listen: Vec<Listen>,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "NOKV_HTTP", default_value = "127.0.0.1:7441", value_name = "ADDR")]
    http: SocketAddr,
    /// Certificate chain of this server (PEM); turns mutual TLS on
    #[arg(long, env = "NOKV_TLS_CERT", value_name = "FILE", requires_all = ["tls_key", "tls_client_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "NOKV_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificates that signed the clients' (PEM)
    #[arg(long, env = "NOKV_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    #[command(flatten)]
    s3: S3Args,
    /// Memory of the whole process
    #[arg(long, env = "NOKV_MEMORY_LIMIT", value_parser = parse_bytes, default_value = "1GiB", value_name = "SIZE")]
    memory_limit: u64,
}

impl Args {
    fn options(self) -> anyhow::Result<ServerOptions> {
        let tls = match (self.tls_cert, self.tls_key, self.tls_client_ca) {
            (Some(cert), Some(key), Some(client_ca)) => Some(TlsFiles { cert, key, client_ca }),
            _ => None,
        };
        let options = ServerOptions {
            data: self.data,
            listen: self.listen,
            http: Some(self.http),
            tls,
            s3: self.s3.options()?,
            memory_limit: self.memory_limit,
            limits: Limits::default(),
        };
        options.validate()?;
        Ok(options)
    }
}

/// Serves until a signal comes.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut ends = Ends::new()?;
    let server = Server::start(args.options()?).await?;
    let addresses: Vec<String> = server.addresses().iter().map(Listen::to_string).collect();
    println!("ready {}", addresses.join(" "));
    std::io::stdout().flush().context("standard output")?;
    tracing::info!(addresses = addresses.join(" "), http = ?server.http_addr(), "the metadata server serves");
    let signal = ends.wait().await;
    tracing::info!(signal, "the metadata server ends");
    server.shutdown(DRAIN).await
}
