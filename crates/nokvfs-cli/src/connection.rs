//! Flags that say where a server, a volume and a bucket are, and the connections made from them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nokvfs_body::{Bodies, BodyOptions};
use nokvfs_client::{Endpoint, RemoteOptions, RemoteService, RemoteVolumes, TlsConfig};
use nokvfs_meta::service::MetadataService;
use nokvfs_object::{S3Options, S3Store};
use nokvfs_types::{SessionRequest, Token, VolumeId};

/// A file that holds a secret or a certificate is small.
const MAX_FILE: u64 = 1 << 20;

/// Where the metadata server is.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// Metadata server: HOST:PORT or unix:/PATH
    #[arg(long, env = "NOKV_SERVER", default_value = "127.0.0.1:7440", value_name = "ADDR")]
    pub server: String,
    /// Certificates that signed the server's (PEM); turns TLS on
    #[arg(long, env = "NOKV_TLS_CA", value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    pub tls_ca: Option<PathBuf>,
    /// This client's certificate (PEM)
    #[arg(long, env = "NOKV_TLS_CERT", value_name = "FILE", requires = "tls_ca")]
    pub tls_cert: Option<PathBuf>,
    /// This client's private key (PEM)
    #[arg(long, env = "NOKV_TLS_KEY", value_name = "FILE", requires = "tls_ca")]
    pub tls_key: Option<PathBuf>,
    /// Name in the server's certificate, where it is not the host of the address
    #[arg(long, env = "NOKV_TLS_SERVER_NAME", value_name = "NAME", requires = "tls_ca")]
    pub tls_server_name: Option<String>,
    /// How long to wait for the server, in seconds
    #[arg(long, env = "NOKV_TIMEOUT", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

impl ServerArgs {
    /// The address.
    pub fn endpoint(&self) -> anyhow::Result<Endpoint> {
        self.server.parse().with_context(|| format!("--server {}", self.server))
    }

    /// The certificates, if TLS is on.
    pub fn tls(&self) -> anyhow::Result<Option<TlsConfig>> {
        let (Some(ca), Some(cert), Some(key)) = (&self.tls_ca, &self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        Ok(Some(TlsConfig {
            ca: read_small(ca)?,
            cert: read_small(cert)?,
            key: read_small(key)?,
            server_name: self.tls_server_name.clone(),
        }))
    }

    /// How long a call may take.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// A connection for volume control.
    pub async fn volumes(&self) -> anyhow::Result<RemoteVolumes> {
        RemoteVolumes::connect(self.endpoint()?, self.tls()?, Instant::now() + self.patience())
            .await
            .with_context(|| format!("metadata server {}", self.server))
    }
}

/// Where the bytes are.
#[derive(Clone, Debug, clap::Args)]
pub struct S3Args {
    /// URL of the S3 store
    #[arg(long, env = "NOKV_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: String,
    /// Bucket
    #[arg(long, env = "NOKV_S3_BUCKET", value_name = "NAME")]
    pub s3_bucket: String,
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
    pub s3_access_key_file: PathBuf,
    /// File that holds the secret key
    #[arg(long, env = "NOKV_S3_SECRET_KEY_FILE", value_name = "FILE")]
    pub s3_secret_key_file: PathBuf,
    /// Certificates that signed an https store's (PEM), where they are not the system's
    #[arg(long, env = "NOKV_S3_CA", value_name = "FILE")]
    pub s3_ca: Option<PathBuf>,
}

impl S3Args {
    /// Reads the key files and checks everything.
    pub fn options(&self) -> anyhow::Result<S3Options> {
        let options = S3Options {
            endpoint: self.s3_endpoint.clone(),
            bucket: self.s3_bucket.clone(),
            prefix: self.s3_prefix.clone(),
            region: self.s3_region.clone(),
            path_style: self.s3_path_style,
            access_key: read_small(&self.s3_access_key_file)?.trim().to_owned(),
            secret_key: read_small(&self.s3_secret_key_file)?.trim().to_owned(),
            ca: self.s3_ca.as_deref().map(read_small).transpose()?,
            ..S3Options::default()
        };
        options.validate()?;
        Ok(options)
    }
}

/// A volume and what opens it.
#[derive(Clone, Debug, clap::Args)]
pub struct CredentialArgs {
    /// Identity of the volume (UUID), as `nokv-fs volume create` prints it
    #[arg(long, env = "NOKV_VOLUME", value_name = "UUID")]
    pub volume: VolumeId,
    /// File that holds the volume's token
    #[arg(long, env = "NOKV_TOKEN_FILE", value_name = "FILE")]
    pub token_file: PathBuf,
}

/// A volume or a snapshot of it, and the bucket.
#[derive(Clone, Debug, clap::Args)]
pub struct VolumeArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub credential: CredentialArgs,
    /// Read this snapshot of the volume instead of what it is now
    #[arg(long, env = "NOKV_SNAPSHOT", value_name = "NAME")]
    pub snapshot: Option<String>,
    #[command(flatten)]
    pub s3: S3Args,
}

/// A session with the bodies of its files.
pub struct Connected {
    /// The session.
    pub service: Arc<RemoteService>,
    /// The bodies.
    pub bodies: Arc<Bodies>,
}

impl ServerArgs {
    /// Opens a session on a volume or a snapshot of it.
    pub async fn session(
        &self,
        credential: &CredentialArgs,
        read_only: bool,
        snapshot: Option<String>,
    ) -> anyhow::Result<Arc<RemoteService>> {
        let token = read_small(&credential.token_file)?;
        let Some(token) = Token::from_hex(&token) else {
            bail!("--token-file {}: not a token (64 hex digits)", credential.token_file.display());
        };
        let volume = credential.volume;
        let request = SessionRequest { volume, token, client: client_name(), read_only, snapshot, resume: None };
        let options = RemoteOptions { open_timeout: self.patience() };
        RemoteService::open(self.endpoint()?, self.tls()?, request, options)
            .await
            .with_context(|| format!("volume {volume} on {}", self.server))
    }
}

impl VolumeArgs {
    /// Opens a session on the volume, or on the snapshot that is named.
    pub async fn connect(&self, read_only: bool, options: BodyOptions) -> anyhow::Result<Connected> {
        let store = S3Store::new(self.s3.options()?)?;
        let service = self.server.session(&self.credential, read_only, self.snapshot.clone()).await?;
        store.check().await.with_context(|| format!("bucket {} on {}", self.s3.s3_bucket, self.s3.s3_endpoint))?;
        let bodies = Bodies::new(service.clone() as Arc<dyn MetadataService>, Arc::new(store), options)?;
        Ok(Connected { service, bodies })
    }
}

impl Connected {
    /// Makes everything durable and ends the session.
    pub async fn close(self, patience: Duration) -> anyhow::Result<()> {
        self.bodies.shutdown(Instant::now() + patience).await?;
        self.service.close().await?;
        Ok(())
    }
}

/// Who this is, for people who look at a server's sessions.
pub fn client_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host} pid {}", std::process::id())
}

/// Reads a small text file whole.
pub fn read_small(path: &Path) -> anyhow::Result<String> {
    let show = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("file {show}"))?.len();
    if size > MAX_FILE {
        bail!("file {show} has {size} bytes; at most {MAX_FILE} are read");
    }
    std::fs::read_to_string(path).with_context(|| format!("file {show}"))
}
