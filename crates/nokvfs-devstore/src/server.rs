//! The HTTP server around the bucket.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::disk::Disk;
use crate::service::Bucket;
use crate::{DevStoreError, DevStoreOptions};

/// Connections at once; further ones wait in the listen queue.
const CONNECTIONS: usize = 1024;
/// An idle client may take this long to send a request's head; longer than ours keep connections idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// What is being served at shutdown may take this long to end.
const DRAIN: Duration = Duration::from_secs(10);
/// Rest after a failed accept: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The one pair of keys. The library's own answers NotSignedUp to a wrong key, S3 InvalidAccessKeyId.
struct KeyPair {
    access: String,
    secret: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for KeyPair {
    async fn get_secret_key(&self, access_key: &str) -> s3s::S3Result<SecretKey> {
        if access_key == self.access {
            return Ok(self.secret.clone());
        }
        Err(s3s::s3_error!(InvalidAccessKeyId, "the trial store has another access key"))
    }
}

/// An open trial store.
pub struct DevStore {
    service: S3Service,
}

impl std::fmt::Debug for DevStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevStore").finish_non_exhaustive()
    }
}

impl DevStore {
    /// Opens the store: locks its directory and reads its index. Blocks; 100,000 objects take about a second.
    pub fn open(options: DevStoreOptions) -> Result<Self, DevStoreError> {
        options.validate()?;
        let disk = Arc::new(Disk::open(&options.dir, &options.bucket)?);
        let mut builder = S3ServiceBuilder::new(Bucket::new(disk, options.bucket));
        builder.set_auth(KeyPair { access: options.access_key, secret: options.secret_key.into() });
        Ok(Self { service: builder.build() })
    }

    /// Serves until `shutdown`, then ends what is under way. The directory is free again on return.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), DevStoreError> {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let accept = async {
                let permit = Arc::clone(&slots).acquire_owned().await.ok()?;
                match listener.accept().await {
                    Ok((stream, _)) => Some((stream, permit)),
                    Err(error) => {
                        tracing::warn!(%error, "can't accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        None
                    }
                }
            };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept => accepted,
            };
            if let Some((stream, permit)) = accepted {
                self.spawn(stream, permit, &graceful, &mut tasks);
            }
        }
        drop(listener);
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("connections were still busy at shutdown");
        }
        tasks.shutdown().await;
        // The committer ends its batch; joining it blocks.
        if let Err(error) = tokio::task::spawn_blocking(move || drop(self)).await {
            tracing::error!(%error, "closing the trial store");
        }
        Ok(())
    }

    fn spawn(
        &self,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
        tasks: &mut tokio::task::JoinSet<()>,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(512 << 10);
        let connection = http.serve_connection(TokioIo::new(stream), self.service.clone());
        let connection = graceful.watch(connection);
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
            drop(permit);
        });
    }
}
