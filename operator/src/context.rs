//! What all reconcilers share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use nokvfs_api::names;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::desired::Defaults;
use crate::metrics::Metrics;
use crate::volumes::Connector;

/// First and longest pause after a failed reconcile.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(120));
/// Most objects whose failures are counted, 64 bytes each or so; beyond, all counts start anew.
const MAX_FAILING: usize = 16_384;

/// What can stop a reconcile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error("API server: {0}")]
    Api(#[from] kube::Error),
    /// Certificates.
    #[error(transparent)]
    Certificates(#[from] crate::certificates::CertificateError),
    /// The resource is not usable; its status says why. Tried again with a growing pause.
    #[error("{0}")]
    Waits(String),
}

/// Answer of a reconcile step.
pub type Result<T> = std::result::Result<T, Error>;

/// What all reconcilers share.
pub struct Context {
    /// The API.
    pub client: Client,
    /// What the operator was told.
    pub defaults: Defaults,
    /// How metadata servers are reached.
    pub connector: Arc<dyn Connector>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    recorder: Recorder,
    failures: Mutex<HashMap<String, u32>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("defaults", &self.defaults).finish_non_exhaustive()
    }
}

impl Context {
    /// A context for the operator `identity`.
    pub fn new(
        client: Client,
        defaults: Defaults,
        connector: Arc<dyn Connector>,
        metrics: Arc<Metrics>,
        identity: String,
    ) -> Self {
        let reporter = Reporter { controller: names::FIELD_MANAGER.into(), instance: Some(identity) };
        let recorder = Recorder::new(client.clone(), reporter);
        Context { client, defaults, connector, metrics, recorder, failures: Mutex::default() }
    }

    /// Applies a namespaced object, taking over its fields.
    pub async fn apply<K>(&self, object: &K) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let meta = object.meta();
        let (name, namespace) = (meta.name.clone().unwrap_or_default(), meta.namespace.clone().unwrap_or_default());
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        Ok(api.patch(&name, &apply_params(), &Patch::Apply(object)).await?)
    }

    /// Tells what happened to an object. That an event can't be written never stops a reconcile.
    pub async fn tell<K>(&self, object: &K, kind: EventType, reason: &str, action: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let mut note = note.to_owned();
        // The API takes at most 1 KiB.
        while note.len() > 1000 {
            note.pop();
        }
        let event =
            Event { type_: kind, reason: reason.into(), note: Some(note), action: action.into(), secondary: None };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            tracing::warn!(%error, reason, "an event could not be written");
        }
    }

    /// Counts a failure of `object` and answers how long to wait before the next try.
    pub fn failed(&self, object: &str) -> Duration {
        let mut failures = self.failures.lock();
        if failures.len() >= MAX_FAILING && !failures.contains_key(object) {
            failures.clear();
        }
        let count = failures.entry(object.to_owned()).or_insert(0);
        *count = count.saturating_add(1);
        BACKOFF.0.saturating_mul(1 << (*count - 1).min(10)).min(BACKOFF.1)
    }

    /// Forgets the failures of `object`.
    pub fn succeeded(&self, object: &str) {
        self.failures.lock().remove(object);
    }
}

/// Server-side apply that takes over fields which someone else set by hand.
pub fn apply_params() -> PatchParams {
    PatchParams::apply(names::FIELD_MANAGER).force()
}

/// `kind namespace/name`, for logs and counts.
pub fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let meta = object.meta();
    let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    format!("{} {namespace}/{name}", K::kind(&()))
}
