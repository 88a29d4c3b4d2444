//! The command line.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nokvfs_api::names;
use nokvfs_client::TlsConfig;

use crate::provision::S3Store;

/// CSI driver csi.nokv.io.
#[derive(Debug, Parser)]
#[command(name = "nokv-csi", version, about, max_term_width = 100)]
pub struct Options {
    /// What is logged: a level, or levels by module
    #[arg(long, global = true, env = "NOKV_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Form of the log lines
    #[arg(long, global = true, env = "NOKV_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to be.
    #[command(subcommand)]
    pub mode: Mode,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For log collectors.
    Json,
}

/// One binary, two programs.
#[derive(Debug, Subcommand)]
pub enum Mode {
    /// Make and delete volumes
    Controller(Box<ControllerOptions>),
    /// Mount volumes on this node (privileged)
    Node(NodeOptions),
    /// Look at a path and print what it shows; the node plugin starts this as a child
    #[command(hide = true)]
    Look {
        /// The path
        path: PathBuf,
    },
}

/// The controller's flags.
#[derive(Debug, Args)]
pub struct ControllerOptions {
    /// Socket of the CSI services
    #[arg(long, env = "NOKV_ENDPOINT", value_parser = unix_socket, value_name = "unix:///PATH")]
    pub endpoint: PathBuf,
    /// Namespace in which NoKVMounts and stage Secrets are made
    #[arg(
        long,
        env = "NOKV_NAMESPACE",
        value_name = "NAME",
        required_unless_present = "server",
        conflicts_with = "server"
    )]
    pub namespace: Option<String>,
    /// Address of /healthz and /readyz
    #[arg(long, env = "NOKV_HTTP", default_value = "127.0.0.1:7443", value_name = "ADDR")]
    pub http: SocketAddr,
    /// Without Kubernetes: the one server.
    #[command(flatten)]
    pub direct: DirectOptions,
}

/// A metadata server named by flags, instead of a cluster's.
#[derive(Debug, Args)]
pub struct DirectOptions {
    /// Without Kubernetes: the metadata server, HOST:PORT
    #[arg(long, env = "NOKV_SERVER", value_name = "ADDR", requires_all = ["s3_endpoint", "s3_bucket", "s3_access_key_file", "s3_secret_key_file", "stage_secrets_dir"])]
    pub server: Option<String>,
    /// Certificates that signed the server's (PEM); turns TLS on
    #[arg(long, env = "NOKV_TLS_CA", value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    pub tls_ca: Option<PathBuf>,
    /// The client's certificate (PEM), of the role nokv-control
    #[arg(long, env = "NOKV_TLS_CERT", value_name = "FILE", requires = "tls_ca")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "NOKV_TLS_KEY", value_name = "FILE", requires = "tls_ca")]
    pub tls_key: Option<PathBuf>,
    /// URL of the server's S3 store
    #[arg(long, env = "NOKV_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Bucket
    #[arg(long, env = "NOKV_S3_BUCKET", value_name = "NAME")]
    pub s3_bucket: Option<String>,
    /// Put before every key
    #[arg(long, env = "NOKV_S3_PREFIX", default_value = "", value_name = "PREFIX")]
    pub s3_prefix: String,
    /// Region that requests are signed for
    #[arg(long, env = "NOKV_S3_REGION", default_value = "us-east-1", value_name = "NAME")]
    pub s3_region: String,
    /// Bucket in the path rather than in the host name
    #[arg(long, env = "NOKV_S3_PATH_STYLE", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub s3_path_style: bool,
    /// File that holds the access key
    #[arg(long, env = "NOKV_S3_ACCESS_KEY_FILE", value_name = "FILE")]
    pub s3_access_key_file: Option<PathBuf>,
    /// File that holds the secret key
    #[arg(long, env = "NOKV_S3_SECRET_KEY_FILE", value_name = "FILE")]
    pub s3_secret_key_file: Option<PathBuf>,
    /// Without Kubernetes: where stage Secrets are kept for the node plugin
    #[arg(long, env = "NOKV_STAGE_SECRETS_DIR", value_name = "DIR")]
    pub stage_secrets_dir: Option<PathBuf>,
}

/// The node plugin's flags.
#[derive(Debug, Args)]
pub struct NodeOptions {
    /// Socket of the CSI services
    #[arg(long, env = "NOKV_ENDPOINT", value_parser = unix_socket, value_name = "unix:///PATH")]
    pub endpoint: PathBuf,
    /// Name of this node
    #[arg(long, env = "NOKV_NODE_ID", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub node_id: String,
    /// Socket of the mounter
    #[arg(long, env = "NOKV_MOUNTER_SOCKET", value_name = "PATH")]
    pub mounter_socket: PathBuf,
    /// The kubelet's directory; staging and target paths are below it
    #[arg(long, env = "NOKV_KUBELET_DIR", default_value = "/var/lib/kubelet", value_name = "DIR")]
    pub kubelet_dir: PathBuf,
    /// Register with the kubelet in this directory (its plugins_registry)
    #[arg(long, env = "NOKV_REGISTRATION_DIR", value_name = "DIR", requires = "kubelet_csi_path")]
    pub registration_dir: Option<PathBuf>,
    /// The CSI socket as the kubelet sees it
    #[arg(long, env = "NOKV_KUBELET_CSI_PATH", value_name = "PATH")]
    pub kubelet_csi_path: Option<PathBuf>,
    /// Address of /healthz and /readyz
    #[arg(long, env = "NOKV_HTTP", default_value = "127.0.0.1:7444", value_name = "ADDR")]
    pub http: SocketAddr,
    /// Without Kubernetes: where the controller keeps stage Secrets
    #[arg(long, env = "NOKV_STAGE_SECRETS_DIR", value_name = "DIR")]
    pub stage_secrets_dir: Option<PathBuf>,
}

impl DirectOptions {
    /// The certificates, if TLS is on.
    pub fn tls(&self) -> anyhow::Result<Option<TlsConfig>> {
        let (Some(ca), Some(cert), Some(key)) = (&self.tls_ca, &self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        Ok(Some(TlsConfig { ca: read(ca)?, cert: read(cert)?, key: read(key)?, server_name: None }))
    }

    /// The S3 store and what stage Secrets hold beside the token.
    pub fn store(&self) -> anyhow::Result<S3Store> {
        let mut secrets = HashMap::new();
        let mut keep = |key: &str, text: String| secrets.insert(key.to_owned(), text);
        keep(names::KEY_ACCESS_KEY, read_flag("--s3-access-key-file", self.s3_access_key_file.as_deref())?);
        keep(names::KEY_SECRET_KEY, read_flag("--s3-secret-key-file", self.s3_secret_key_file.as_deref())?);
        if let Some(tls) = self.tls()? {
            keep(names::KEY_CA_CERT, tls.ca);
            keep(names::KEY_TLS_CERT, tls.cert);
            keep(names::KEY_TLS_KEY, tls.key);
        }
        Ok(S3Store {
            endpoint: self.s3_endpoint.clone().context("--s3-endpoint is missing")?,
            bucket: self.s3_bucket.clone().context("--s3-bucket is missing")?,
            prefix: self.s3_prefix.clone(),
            region: self.s3_region.clone(),
            path_style: self.s3_path_style,
            secrets,
        })
    }
}

fn read_flag(flag: &str, path: Option<&Path>) -> anyhow::Result<String> {
    let text = read(path.with_context(|| format!("{flag} is missing"))?)?;
    Ok(text.trim().to_owned())
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn unix_socket(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix://").unwrap_or(text) {
        path if path.starts_with('/') => Ok(path.into()),
        _ => Err("expected unix:///PATH".to_owned()),
    }
}
