//! What pods show, and real answers over loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{ANSWER_MAX, Finding, PATIENCE, TEXT_MAX, ask, reason_of};
use crate::status::Unready;

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "m-0"}, "status": status})).unwrap()
}

/// A pod that runs, with its one container in `state`.
fn running(ready: bool, state: Value, last: Value) -> Pod {
    pod(json!({
        "phase": "Running",
        "podIP": "10.0.0.7",
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        "containerStatuses": [{
            "name": "server", "image": "i", "imageID": "", "ready": ready, "restartCount": 0,
            "state": state, "lastState": last,
        }],
    }))
}

fn known(pod: &Pod) -> String {
    match reason_of(pod) {
        Some(Finding::Known(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_that_runs_and_is_not_ready_is_asked() {
    let up = json!({"running": {}});
    assert_eq!(reason_of(&running(false, up.clone(), json!({}))), Some(Finding::Ask("10.0.0.7".parse().unwrap())));
    assert_eq!(reason_of(&running(true, up, json!({}))), None);
    assert_eq!(
        reason_of(&pod(json!({"phase": "Running", "podIP": "fd00::7"}))),
        Some(Finding::Ask("fd00::7".parse().unwrap()))
    );
    for nothing in
        [json!({}), json!({"phase": "Pending"}), json!({"phase": "Running"}), json!({"phase": "Running", "podIP": ""})]
    {
        assert_eq!(reason_of(&pod(nothing.clone())), None, "{nothing}");
    }
    assert_eq!(reason_of(&Pod::default()), None);
}

#[test]
fn a_container_that_waits_is_named_with_the_reason() {
    for reason in ["ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError"] {
        let waiting = json!({"waiting": {"reason": reason, "message": "no\nsuch  thing"}});
        let text = known(&running(false, waiting, json!({})));
        assert_eq!(text, format!("the container server waits: {reason}: no such thing"));
    }
    let bare = json!({"waiting": {"reason": "ImagePullBackOff"}});
    assert_eq!(known(&running(false, bare, json!({}))), "the container server waits: ImagePullBackOff");
    let starting = pod(json!({
        "phase": "Pending",
        "containerStatuses": [{
            "name": "server", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}},
        }],
    }));
    assert_eq!(reason_of(&starting), None);
}

#[test]
fn a_container_that_ended_is_named_with_how() {
    let ended = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    assert_eq!(
        known(&running(false, ended.clone(), json!({}))),
        "the container server ended with exit code 137: OOMKilled"
    );
    let told = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "the folder is in use"}});
    let text = known(&running(false, told, json!({})));
    assert_eq!(text, "the container server ended with exit code 1: Error: the folder is in use");
    let again = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
    let text = known(&running(false, again, ended));
    assert_eq!(
        text,
        "the container server waits: CrashLoopBackOff: back-off 10s; it ended before with exit code 137: OOMKilled"
    );
    let init = pod(json!({
        "phase": "Pending",
        "initContainerStatuses": [{
            "name": "proxy", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
        }],
    }));
    assert_eq!(reason_of(&init), None, "it did what it was for");
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "ü".repeat(5000)}});
    let text = known(&running(false, waiting, json!({})));
    assert_eq!(text.chars().count(), TEXT_MAX + 1);
    assert!(text.ends_with('…'), "{text}");
}

/// A server whose `/readyz` gives `answer`.
async fn serving<A: IntoResponse + Clone + Send + Sync + 'static>(answer: A) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let router = Router::new().route("/readyz", get(move || async move { answer }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    at
}

#[tokio::test]
async fn the_header_decides_and_the_body_is_the_text() {
    const AWAY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    let store = serving((AWAY, [("x-nokv-reason", "ObjectStoreUnreachable")], "can't be\nreached: \u{1b}[1mx\n")).await;
    let told = ask(store, PATIENCE).await.unwrap();
    assert_eq!(told, Some(Unready::ObjectStore("can't be reached: [1mx".into())));
    for at in [
        serving((AWAY, "the server is stopping\n")).await,
        serving((AWAY, [("x-nokv-reason", "SomethingNew")], "the server is stopping\n")).await,
    ] {
        assert_eq!(ask(at, PATIENCE).await.unwrap(), Some(Unready::Other("the server is stopping".into())));
    }
    assert_eq!(ask(serving((AWAY, " \n")).await, PATIENCE).await.unwrap(), None, "no text is no reason");
}

#[tokio::test]
async fn only_a_503_is_a_reason() {
    for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::FOUND] {
        let at = serving((status, [("x-nokv-reason", "ObjectStoreUnreachable")], "text")).await;
        assert_eq!(ask(at, PATIENCE).await.unwrap(), None, "{status}");
    }
}

#[tokio::test]
async fn no_more_than_the_limit_is_read() {
    let largest = serving((StatusCode::SERVICE_UNAVAILABLE, "x".repeat(ANSWER_MAX))).await;
    assert!(ask(largest, PATIENCE).await.unwrap().is_some());
    let larger = serving((StatusCode::SERVICE_UNAVAILABLE, "x".repeat(ANSWER_MAX + 1))).await;
    let error = ask(larger, PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("limit"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_silent_or_away_costs_no_more_than_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = silent.local_addr().unwrap();
    let began = Instant::now();
    let error = ask(at, Duration::from_millis(100)).await.unwrap_err();
    assert!(error.to_string().contains("in time"), "{error}");
    assert!(began.elapsed() < PATIENCE);
    drop(silent);
    assert!(ask(at, PATIENCE).await.unwrap_err().to_string().contains("connecting"));
}
