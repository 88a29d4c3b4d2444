//! One served mount, and the health endpoint of all.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use nokvfs_body::{Bodies, BodyOptions};
use nokvfs_client::{RemoteOptions, RemoteService, TlsConfig};
use nokvfs_fuse::{Mount, MountOptions};
use nokvfs_meta::service::MetadataService;
use nokvfs_object::{ObjectError, S3Options, S3Store};
use nokvfs_protocol::mounter::{Failure, MountConfig, MountState};
use nokvfs_types::{MetaError, SessionRequest, Token};
use tokio::net::TcpListener;

use super::Mounter;
use crate::mount::FLUSH;

/// How often ended mounts are looked for.
const REAP: Duration = Duration::from_secs(1);

/// A mount and all that serves it.
#[derive(Debug)]
pub struct Served {
    service: Arc<RemoteService>,
    bodies: Arc<Bodies>,
    mount: Mount,
}

type Refusal = (Failure, anyhow::Error);

impl Served {
    /// Opens the session, then answers the kernel on `fd`.
    pub async fn start(config: MountConfig, fd: OwnedFd) -> Result<Self, Refusal> {
        let invalid = |text: String| (Failure::Invalid, anyhow!(text));
        let volume = config.volume.parse().map_err(|_| invalid(format!("volume {:?} is no UUID", config.volume)))?;
        let token = Token::from_hex(config.token.reveal()).ok_or_else(|| invalid("token: not 64 hex digits".into()))?;
        let endpoint =
            config.server.parse().map_err(|error| invalid(format!("server {:?}: {error}", config.server)))?;
        let store = S3Store::new(s3_options(&config)).map_err(of_store)?;
        let request = SessionRequest {
            volume,
            token,
            client: config.client.clone(),
            read_only: config.read_only,
            snapshot: None,
            resume: None,
        };
        let tls = config.tls.as_ref().map(|tls| TlsConfig {
            ca: tls.ca.clone(),
            cert: tls.cert.clone(),
            key: tls.key.reveal().to_owned(),
            server_name: tls.server_name.clone(),
        });
        let service =
            RemoteService::open(endpoint, tls, request, RemoteOptions::default()).await.map_err(of_metadata)?;
        store.check().await.map_err(of_store)?;
        let budget = config.buffer_bytes.unwrap_or(224 << 20);
        let options =
            BodyOptions { write_buffer: budget * 3 / 7, read_buffer: budget * 4 / 7, ..BodyOptions::default() };
        let started = start_mount(&service, store, options, config.read_only, fd);
        match started {
            Ok((bodies, mount)) => Ok(Served { service, bodies, mount }),
            Err(error) => {
                if let Err(error) = service.close().await {
                    tracing::warn!(%error, "the session of a failed mount was not closed; it expires");
                }
                Err((Failure::Internal, error))
            }
        }
    }

    /// Whether the kernel's side still stands.
    pub fn connected(&self) -> bool {
        !self.mount.finished()
    }

    /// How the mount fares.
    pub fn state(&self, handle: &str) -> MountState {
        MountState {
            volume_handle: handle.to_owned(),
            connected: self.connected(),
            trouble: self.service.trouble().map(|error| error.to_string()),
        }
    }

    /// Makes everything durable; the mount goes on.
    pub async fn flush(&self) -> anyhow::Result<()> {
        Ok(self.mount.flush(FLUSH).await?)
    }

    /// Makes everything durable and ends the session. May be called again after an error.
    pub async fn end(&self) -> anyhow::Result<()> {
        self.flush().await?;
        match self.service.close().await {
            Ok(()) | Err(MetaError::SessionExpired(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn start_mount(
    service: &Arc<RemoteService>,
    store: S3Store,
    options: BodyOptions,
    read_only: bool,
    fd: OwnedFd,
) -> anyhow::Result<(Arc<Bodies>, Mount)> {
    let metadata: Arc<dyn MetadataService> = service.clone();
    let bodies = Bodies::new(metadata.clone(), Arc::new(store), options)?;
    let options = MountOptions { read_only, ..MountOptions::default() };
    let mount = nokvfs_fuse::serve_fd(fd, metadata, bodies.clone(), options, tokio::runtime::Handle::current())?;
    Ok((bodies, mount))
}

fn s3_options(config: &MountConfig) -> S3Options {
    S3Options {
        endpoint: config.s3.endpoint.clone(),
        bucket: config.s3.bucket.clone(),
        prefix: config.s3.prefix.clone(),
        region: config.s3.region.clone(),
        path_style: config.s3.path_style,
        access_key: config.s3.access_key.reveal().to_owned(),
        secret_key: config.s3.secret_key.reveal().to_owned(),
        ..S3Options::default()
    }
}

fn of_store(error: ObjectError) -> Refusal {
    let kind = match &error {
        ObjectError::Denied(_) => Failure::Unauthorized,
        ObjectError::Invalid(_) | ObjectError::NotFound(_) => Failure::Invalid,
        ObjectError::Unavailable(_) | ObjectError::Deadline(_) => Failure::Unavailable,
    };
    (kind, anyhow::Error::from(error).context("S3 store"))
}

fn of_metadata(error: MetaError) -> Refusal {
    let kind = match &error {
        MetaError::Unauthorized(_) => Failure::Unauthorized,
        MetaError::NotFound => Failure::NotFound,
        MetaError::Busy(_) => Failure::Busy,
        MetaError::Unavailable(_) | MetaError::Deadline(_) => Failure::Unavailable,
        MetaError::Invalid(_) => Failure::Invalid,
        _ => Failure::Internal,
    };
    (kind, anyhow::Error::from(error).context("metadata server"))
}

/// Answers `/healthz`, `/readyz` and `/metrics`.
pub async fn health(listener: TcpListener, mounter: Arc<Mounter>) {
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/metrics", get(|State(mounter): State<Arc<Mounter>>| async move { metrics(&mounter).await }))
        .with_state(mounter);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the health endpoint ended");
    }
}

/// Looks for ended mounts, for as long as the process lives.
pub async fn reap(mounter: Arc<Mounter>) {
    let mut ticks = tokio::time::interval(REAP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        mounter.reap().await;
    }
}

async fn metrics(mounter: &Mounter) -> String {
    let mounts = mounter.mounts.lock().await;
    let (mut connected, mut dirty) = (0, 0);
    for state in mounts.values() {
        if let super::State::Served(served) = state {
            connected += usize::from(served.connected());
            dirty += served.bodies.dirty();
        }
    }
    format!(
        "# TYPE nokv_mounter_mounts gauge\nnokv_mounter_mounts {}\n# TYPE nokv_mounter_connected gauge\n\
         nokv_mounter_connected {connected}\n# TYPE nokv_mounter_dirty_files gauge\nnokv_mounter_dirty_files {dirty}\n",
        mounts.len()
    )
}
