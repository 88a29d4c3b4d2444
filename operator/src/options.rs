//! Flags and environment.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Operator of MetadataServers and NoKVMounts.
#[derive(Debug, Parser)]
#[command(name = "nokv-operator", version)]
pub struct Options {
    /// Log filter, as RUST_LOG.
    #[arg(long, global = true, env = "NOKV_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Log format.
    #[arg(long, global = true, env = "NOKV_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Work as the operator.
    Run(Box<Run>),
    /// Before an uninstall: check that no pod uses a volume, stop the operator and take its finalizers off.
    Release(Release),
    /// Print the custom resource definitions.
    Crds,
}

/// Settings of the operator.
#[derive(Debug, Args)]
pub struct Run {
    /// Image of metadata servers whose spec names none.
    #[arg(long, env = "NOKV_IMAGE", value_name = "REF")]
    pub image: String,
    /// When to pull it.
    #[arg(long, env = "NOKV_IMAGE_PULL_POLICY", value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: Option<String>,
    /// Secrets for pulling it, separated by commas.
    #[arg(long, env = "NOKV_IMAGE_PULL_SECRETS", value_name = "NAMES", value_delimiter = ',')]
    pub image_pull_secrets: Vec<String>,
    /// The operator's own namespace.
    #[arg(long, env = "NOKV_NAMESPACE", value_name = "NAME")]
    pub namespace: String,
    /// This operator among several; its pod's name.
    #[arg(long, env = "NOKV_IDENTITY", value_name = "NAME")]
    pub identity: String,
    /// The Lease that decides which operator works.
    #[arg(long, env = "NOKV_LEASE", default_value = "nokv-operator", value_name = "NAME")]
    pub lease: String,
    /// ConfigMap of the own namespace whose entries are MetadataServer specs: each is kept up, and goes with the ConfigMap.
    #[arg(long, env = "NOKV_DECLARED", value_name = "NAME")]
    pub declared: Option<String>,
    /// Where /healthz, /readyz and /metrics are.
    #[arg(long, env = "NOKV_HTTP", default_value = "0.0.0.0:7443", value_name = "ADDR")]
    pub http: std::net::SocketAddr,
}

/// Settings of the release.
#[derive(Debug, Args)]
pub struct Release {
    /// The operator's namespace.
    #[arg(long, env = "NOKV_NAMESPACE", value_name = "NAME")]
    pub namespace: String,
    /// The operator's Deployment, scaled to nothing first.
    #[arg(long, env = "NOKV_DEPLOYMENT", value_name = "NAME")]
    pub deployment: String,
    /// How long pods may take to end and mounts to go, in seconds.
    #[arg(long, env = "NOKV_WAIT_SECONDS", default_value_t = 60, value_name = "SECONDS")]
    pub wait_seconds: u64,
}
