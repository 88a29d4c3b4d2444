//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nokvfs_types::MetaError;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connection::Shared;
use crate::probe::{StoreProbe, Trouble};

/// Volumes whose usage is shown: more would make the page long and Prometheus slow.
const VOLUMES_MAX: u32 = 1000;
/// The content type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Header of a 503 of `/readyz`: the reason in one word for programs, where they should know it; the body is for people.
/// The operator reads it (operator/src/readiness.rs), and it may be older or newer than this server: neither the name nor
/// the words may change.
const REASON: &str = "x-nokv-reason";
/// A word of [`REASON`]; `reasons::OBJECT_STORE_UNREACHABLE` of nokvfs-api.
const OBJECT_STORE_UNREACHABLE: &str = "ObjectStoreUnreachable";

#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) shared: Arc<Shared>,
    pub(crate) probe: Arc<StoreProbe>,
}

/// Why requests can't be served.
#[derive(Debug)]
enum Unready {
    /// The server itself.
    Server(String),
    /// The object store.
    Store(Trouble),
}

impl Status {
    /// Whether requests can be served, down to the object store.
    fn ready(&self) -> Result<(), Unready> {
        if self.shared.draining.is_cancelled() {
            return Err(Unready::Server("the server is stopping".to_owned()));
        }
        self.shared.backend.health().map_err(Unready::Server)?;
        self.probe.answer().map_err(Unready::Store)
    }
}

impl IntoResponse for Unready {
    fn into_response(self) -> Response {
        match self {
            Unready::Server(text) => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")).into_response(),
            Unready::Store(trouble) => {
                // Not to have been asked in time says nothing about the store.
                let reason = matches!(trouble, Trouble::Unreachable(_)).then_some([(REASON, OBJECT_STORE_UNREACHABLE)]);
                (StatusCode::SERVICE_UNAVAILABLE, reason, format!("{trouble}\n")).into_response()
            }
        }
    }
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, status: Status, stop: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(status);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn readyz(State(status): State<Status>) -> Response {
    match status.ready() {
        Ok(()) => "ok\n".into_response(),
        Err(unready) => unready.into_response(),
    }
}

async fn metrics(State(status): State<Status>) -> Response {
    let volumes = match status.shared.backend.list_volumes(None, VOLUMES_MAX).await {
        Ok(volumes) => volumes,
        // The other figures are worth showing when the store is in trouble.
        Err(MetaError::Unavailable(_)) => Vec::new(),
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    let figures = status.shared.backend.figures();
    match status.shared.metrics.render(figures, status.ready().is_ok(), &volumes) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
