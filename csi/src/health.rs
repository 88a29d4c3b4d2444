//! Whether the driver can do its work: for csi Probe and `/healthz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::node::Mounter;
use crate::provision::Provisioner;

/// Longest time that a check may take; the kubelet's probes wait that long in the chart.
const CHECK: Duration = Duration::from_secs(8);

/// What must answer.
#[derive(Clone, Debug)]
pub enum Health {
    /// The metadata server, or the API server.
    Controller(Arc<dyn Provisioner>),
    /// The mounter.
    Node(Mounter),
}

impl Health {
    /// Asks it.
    pub async fn check(&self) -> Result<(), Status> {
        let asked = async {
            match self {
                Health::Controller(provisioner) => provisioner.ready().await,
                Health::Node(mounter) => mounter.ping().await,
            }
        };
        tokio::time::timeout(CHECK, asked)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {CHECK:?}"))))
    }

    /// Serves `/healthz` (the process answers) and `/readyz` (what it needs answers too).
    pub async fn serve(self, address: SocketAddr, stop: CancellationToken) -> std::io::Result<()> {
        let router =
            Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(readyz)).with_state(self);
        let listener = tokio::net::TcpListener::bind(address).await?;
        axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    match health.check().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(status) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", status.message())),
    }
}
