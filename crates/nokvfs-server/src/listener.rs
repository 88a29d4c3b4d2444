//! Accepting connections.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nokvfs_types::MetaError;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::connection::{BoxStream, Shared, greet, serve};
use crate::options::Listen;
use crate::peer::Role;
use crate::tls::ReloadingTls;

/// Peers beyond the limit of connections that are told so at the same time; more are hung up on.
const REFUSALS: usize = 64;
/// The pause after a failed accept: out of descriptors, it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener, Option<Arc<ReloadingTls>>),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(crate) async fn bind(listen: &Listen, tls: Option<Arc<ReloadingTls>>) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?, tls)),
            Listen::Unix(path) => {
                remove_stale(path).await?;
                Ok(Listener::Unix(UnixListener::bind(path)?, path.clone()))
            }
        }
    }

    /// Where it listens, with the port that was chosen.
    pub(crate) fn address(&self) -> io::Result<Listen> {
        match self {
            Listener::Tcp(listener, _) => listener.local_addr().map(Listen::Tcp),
            Listener::Unix(_, path) => Ok(Listen::Unix(path.clone())),
        }
    }

    async fn accept(&self) -> io::Result<(Raw, String)> {
        match self {
            Listener::Tcp(listener, tls) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Raw { stream: Box::new(stream), tls: tls.clone() }, peer.to_string()))
            }
            Listener::Unix(listener, path) => {
                let (stream, _) = listener.accept().await?;
                Ok((Raw { stream: Box::new(stream), tls: None }, format!("unix:{}", path.display())))
            }
        }
    }

    /// Accepts until the server drains.
    pub(crate) async fn run(self, shared: Arc<Shared>, gate: Arc<Gate>, tasks: TaskTracker) {
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = shared.draining.cancelled() => break,
            };
            match accepted {
                Ok((raw, peer)) => {
                    // A connection costs one task here and one for its replies; its requests cost none.
                    let entering = welcome(Arc::clone(&shared), Arc::clone(&gate), raw, peer);
                    tasks.spawn(shared.killed.clone().run_until_cancelled_owned(entering));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Listener::Unix(_, path) = &self
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "removing the socket");
        }
    }
}

/// How many may be in.
#[derive(Debug)]
pub(crate) struct Gate {
    connections: Semaphore,
    refusals: Semaphore,
    limit: usize,
}

impl Gate {
    pub(crate) fn new(limit: usize) -> Self {
        Gate { connections: Semaphore::new(limit), refusals: Semaphore::new(REFUSALS), limit }
    }
}

/// An accepted stream.
struct Raw {
    stream: BoxStream,
    tls: Option<Arc<ReloadingTls>>,
}

async fn welcome(shared: Arc<Shared>, gate: Arc<Gate>, raw: Raw, peer: String) {
    let (permit, refused) = match gate.connections.try_acquire() {
        Ok(permit) => (permit, None),
        Err(_) => {
            shared.metrics.refused.inc();
            let text = format!("the server has its {} connections; close some or raise its limit", gate.limit);
            match gate.refusals.try_acquire() {
                Ok(permit) => (permit, Some(MetaError::Unavailable(text))),
                Err(_) => return,
            }
        }
    };
    let patience = shared.limits.handshake_timeout;
    match tokio::time::timeout(patience, enter(&shared, raw, refused)).await {
        Ok(Ok((stream, role, buffer))) => {
            shared.metrics.connections.inc();
            tracing::debug!(peer, ?role, "connected");
            serve(Arc::clone(&shared), stream, role, buffer).await;
            shared.metrics.connections.dec();
        }
        Ok(Err(error)) => tracing::info!(peer, %error, "refused"),
        Err(_) => tracing::info!(peer, "no greeting in time"),
    }
    drop(permit);
}

/// TLS, role and greeting.
async fn enter(
    shared: &Shared,
    raw: Raw,
    refused: Option<MetaError>,
) -> Result<(BoxStream, Role, bytes::BytesMut), MetaError> {
    let mut stream = raw.stream;
    let mut role = Ok(Role::Control);
    if let Some(tls) = raw.tls {
        let secured = tls.acceptor().accept(stream).await;
        let secured = secured.map_err(|error| MetaError::Unauthorized(format!("TLS: {error}")))?;
        role = match secured.get_ref().1.peer_certificates() {
            Some([certificate, ..]) => Role::of_certificate(certificate),
            _ => Err(MetaError::Unauthorized("no client certificate".into())),
        };
        stream = Box::new(secured);
    }
    let refused = refused.or_else(|| role.as_ref().err().cloned());
    let buffer = greet(&mut stream, &shared.limits, refused).await?;
    role.map(|role| (stream, role, buffer))
}

/// Removes a socket that nobody listens on. Anything else stays and makes the bind fail.
async fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there and no socket", path.display())))
        }
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            Err(error) => Err(error),
            Ok(_) => {
                Err(io::Error::new(io::ErrorKind::AddrInUse, format!("another process listens on {}", path.display())))
            }
        },
    }
}
