//! Why a server's pod is not ready: what Kubernetes says of it, or else what the server itself answers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use nokvfs_api::{MetadataServer, names, reasons};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::status::Unready;

/// How long a server may take to answer; a round of reconciling waits for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer that is read: what listens there need not be our server.
const ANSWER_MAX: usize = 4096;
/// Most characters of a reason: what to do comes after it, and an event holds 1 KiB.
const TEXT_MAX: usize = 512;
/// Header of a server's 503: the reason in one word, set by crates/nokvfs-server/src/http.rs. Servers of another version
/// may lack it or know more words.
const REASON: &str = "x-nokv-reason";

/// What a pod shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Why it is not ready.
    Known(String),
    /// It runs and is not ready: the server there knows why.
    Ask(IpAddr),
}

/// Why the pod of `server` is not ready. None if it is, or if nobody tells: that is no reason to stop a reconcile.
pub(crate) async fn unready(client: &Client, server: &MetadataServer) -> Option<Unready> {
    let name = server.name_any();
    let api: Api<Pod> = Api::namespaced(client.clone(), &server.namespace().unwrap_or_default());
    // A list with one name in it: the operator may list pods and not get them. The label keeps out another's pod.
    let params = ListParams::default()
        .fields(&format!("metadata.name={name}-0"))
        .labels(&format!("{}={name}", names::LABEL_SERVER));
    let pods = match api.list(&params).await {
        Ok(pods) => pods,
        Err(error) => {
            tracing::debug!(server = name, %error, "the pod can't be looked at");
            return None;
        }
    };
    match reason_of(pods.items.first()?)? {
        Finding::Known(text) => Some(Unready::Other(text)),
        Finding::Ask(ip) => ask(SocketAddr::new(ip, names::HTTP_PORT), PATIENCE).await.unwrap_or_else(|error| {
            tracing::debug!(server = name, %ip, error = format!("{error:#}"), "the server does not tell why it is not ready");
            None
        }),
    }
}

/// What `pod` shows of why it is not ready. None if it is ready or still on its way.
pub(crate) fn reason_of(pod: &Pod) -> Option<Finding> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    if let Some(text) = containers.filter_map(trouble).next() {
        return Some(Finding::Known(clean(&text)));
    }
    let ready =
        status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if ready || status.phase.as_deref() != Some("Running") {
        return None;
    }
    Some(Finding::Ask(status.pod_ip.as_deref()?.parse().ok()?))
}

/// Why a container does not run, if it should and does not.
fn trouble(container: &ContainerStatus) -> Option<String> {
    let (name, state) = (&container.name, container.state.as_ref()?);
    if let Some(ContainerStateTerminated { exit_code: 1.., .. }) = &state.terminated {
        return Some(format!("the container {name} ended with {}", end(state)?));
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    // The normal way of a pod that starts.
    if matches!(reason, "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let mut text = format!("the container {name} waits: {reason}");
    if let Some(message) = &waiting.message {
        text.push_str(": ");
        text.push_str(message);
    }
    // That it is started again and again says less than why it ended.
    if let Some(end) = container.last_state.as_ref().and_then(end) {
        text.push_str("; it ended before with ");
        text.push_str(&end);
    }
    Some(text)
}

/// How a container ended.
fn end(state: &ContainerState) -> Option<String> {
    let ended = state.terminated.as_ref()?;
    let mut text = format!("exit code {}", ended.exit_code);
    for more in [&ended.reason, &ended.message].into_iter().flatten() {
        text.push_str(": ");
        text.push_str(more);
    }
    Some(text)
}

/// Asks the server at `at` why it is not ready. None if it is by now.
pub(crate) async fn ask(at: SocketAddr, patience: Duration) -> anyhow::Result<Option<Unready>> {
    tokio::time::timeout(patience, exchange(at)).await.context("no answer in time")?
}

async fn exchange(at: SocketAddr) -> anyhow::Result<Option<Unready>> {
    let stream = TcpStream::connect(at).await.context("connecting")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Dropped with this call, the connection with it, whatever the other side does.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let request =
        Request::get("/readyz").header(HOST, at.to_string()).header(CONNECTION, "close").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SERVICE_UNAVAILABLE {
        return Ok(None);
    }
    let store = response.headers().get(REASON).is_some_and(|reason| reason == reasons::OBJECT_STORE_UNREACHABLE);
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?.to_bytes();
    let text = clean(&String::from_utf8_lossy(&body));
    Ok(match text.is_empty() {
        true => None,
        false if store => Some(Unready::ObjectStore(text)),
        false => Some(Unready::Other(text)),
    })
}

/// One line for a condition: it ends up in terminals and tables.
fn clean(text: &str) -> String {
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = printable.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests;
