//! The running server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nokvfs_object::ObjectStore;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::connection::Shared;
use crate::http::{self, Status};
use crate::listener::{Gate, Listener};
use crate::metrics::Metrics;
use crate::options::{Limits, Listen, TlsFiles, check_limits, check_listen};
use crate::probe::StoreProbe;
use crate::tls::ReloadingTls;

/// How to serve metadata that is open already.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where requests are taken; at least one.
    pub listen: Vec<Listen>,
    /// Where `/healthz`, `/readyz` and `/metrics` answer.
    pub http: Option<SocketAddr>,
    /// Mutual TLS on TCP.
    pub tls: Option<TlsFiles>,
    /// Limits.
    pub limits: Limits,
}

/// A running server. Dropped without [`Server::shutdown`] it stops at once, as if killed.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<Listen>,
    http: Option<SocketAddr>,
    /// Accepting and connections.
    connections: TaskTracker,
    /// Probes, TLS files, HTTP.
    companions: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    /// Serves `backend`, whose bodies are in `store`.
    ///
    /// # Errors
    /// An option that can't work, or an address that can't be taken.
    pub async fn start_with(
        backend: Arc<dyn Backend>,
        store: Arc<dyn ObjectStore>,
        options: ServeOptions,
    ) -> anyhow::Result<Server> {
        check_listen(&options.listen, options.tls.is_some())?;
        check_limits(&options.limits)?;
        let tls = options.tls.map(ReloadingTls::load).transpose()?.map(Arc::new);
        let mut listeners = Vec::new();
        for listen in &options.listen {
            let bound = Listener::bind(listen, tls.clone()).await;
            listeners.push(bound.with_context(|| format!("listening on {listen}"))?);
        }
        let addresses = listeners.iter().map(Listener::address).collect::<Result<Vec<_>, _>>()?;
        let http = match options.http {
            Some(address) => {
                Some(TcpListener::bind(address).await.with_context(|| format!("listening on {address} for HTTP"))?)
            }
            None => None,
        };
        let server = Server {
            http: http.as_ref().map(TcpListener::local_addr).transpose()?,
            addresses,
            connections: TaskTracker::new(),
            companions: TaskTracker::new(),
            stop: CancellationToken::new(),
            shared: Arc::new(Shared {
                backend,
                metrics: Arc::new(Metrics::new()),
                limits: options.limits,
                draining: CancellationToken::new(),
                killed: CancellationToken::new(),
            }),
        };
        server.run(listeners, http, tls, store);
        Ok(server)
    }

    fn run(
        &self,
        listeners: Vec<Listener>,
        http: Option<TcpListener>,
        tls: Option<Arc<ReloadingTls>>,
        store: Arc<dyn ObjectStore>,
    ) {
        let limits = &self.shared.limits;
        let gate = Arc::new(Gate::new(limits.connections));
        for listener in listeners {
            let accepting = listener.run(Arc::clone(&self.shared), Arc::clone(&gate), self.connections.clone());
            self.connections.spawn(self.shared.killed.clone().run_until_cancelled_owned(accepting));
        }
        if let Some(tls) = tls {
            let interval = limits.tls_interval;
            let fresh = async move { tls.keep_fresh(interval).await };
            self.companions.spawn(self.stop.clone().run_until_cancelled_owned(fresh));
        }
        let probe = Arc::new(StoreProbe::new(store, limits.probe_interval));
        let asking = Arc::clone(&probe);
        let asking = async move { asking.keep_asking().await };
        self.companions.spawn(self.stop.clone().run_until_cancelled_owned(asking));
        if let Some(listener) = http {
            let status = Status { shared: Arc::clone(&self.shared), probe };
            let serving = http::serve(listener, status, self.stop.clone());
            let serving = async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "HTTP ended");
                }
            };
            self.companions.spawn(self.shared.killed.clone().run_until_cancelled_owned(serving));
        }
    }

    /// Where requests are taken, with ports that were chosen.
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    /// The first TCP address, if there is one.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addresses.iter().find_map(|listen| match listen {
            Listen::Tcp(address) => Some(*address),
            Listen::Unix(_) => None,
        })
    }

    /// Where HTTP answers.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Stops: takes no more requests, finishes those in flight, makes everything durable. `/readyz` fails from the
    /// start. What is not finished within `deadline` is cut off; then the error says so, and what was acknowledged is
    /// durable all the same.
    pub async fn shutdown(self, deadline: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + deadline;
        self.shared.draining.cancel();
        self.connections.close();
        let drained = tokio::time::timeout_at(end, self.connections.wait()).await.is_ok();
        let synced =
            tokio::time::timeout_at(end.max(Instant::now() + SYNC_LEAST), self.shared.backend.shutdown()).await;
        self.stop.cancel();
        self.companions.close();
        let stopped = tokio::time::timeout(SYNC_LEAST, self.companions.wait()).await.is_ok();
        synced.context("the metadata was not synced in time")?.context("the final sync failed")?;
        anyhow::ensure!(drained, "requests were still running after {} s and were cut off", deadline.as_secs());
        anyhow::ensure!(stopped, "background tasks did not end");
        Ok(())
    }
}

/// The final sync gets so long even if draining used the deadline up.
const SYNC_LEAST: Duration = Duration::from_secs(2);

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.draining.cancel();
        self.stop.cancel();
        self.shared.killed.cancel();
    }
}
