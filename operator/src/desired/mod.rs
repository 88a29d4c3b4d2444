//! The objects of a MetadataServer, as a pure function of its spec and what was observed.

mod pods;
mod services;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ObjectMeta, Resource};
use nokvfs_api::{MetadataServer, names};

/// What the operator itself was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Image of servers whose spec names none.
    pub image: String,
    /// Its pull policy.
    pub pull_policy: Option<String>,
    /// Secrets for pulling it.
    pub pull_secrets: Vec<String>,
}

/// What the server's pods depend on besides the spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Changes when a mounted Secret does, and with it the pod: the new credentials then serve for certain.
    pub secrets_digest: String,
    /// Claim templates of the StatefulSet that is there already; Kubernetes refuses any change of them.
    pub claim_templates: Option<Vec<PersistentVolumeClaim>>,
    /// Whether the pods have somewhere to put metadata; without it there is no StatefulSet.
    pub storage: bool,
}

/// All objects of a MetadataServer but its Secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The server's pod. Absent until its storage is settled.
    pub pods: Option<StatefulSet>,
    /// Names the pods.
    pub headless: Service,
    /// What clients connect to.
    pub service: Service,
    /// Drains take one pod at a time.
    pub budget: PodDisruptionBudget,
    /// Only if asked for.
    pub policy: Option<NetworkPolicy>,
}

/// What the cluster must hold for `server`.
pub fn desired(server: &MetadataServer, defaults: &Defaults, inputs: &Inputs) -> Desired {
    Desired {
        pods: inputs.storage.then(|| pods::stateful_set(server, defaults, inputs)),
        headless: services::headless(server),
        service: services::client(server),
        budget: services::budget(server),
        policy: server.spec.network_policy.then(|| services::policy(server)),
    }
}

/// Labels that select the pods of a server; they can never change.
pub fn selector(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "nokv-metadata-server".to_owned()),
        (names::LABEL_SERVER.to_owned(), name.to_owned()),
    ])
}

/// Labels of everything made for a server.
pub fn labels(name: &str) -> BTreeMap<String, String> {
    let mut labels = selector(name);
    labels.insert("app.kubernetes.io/managed-by".into(), names::FIELD_MANAGER.into());
    labels.insert("app.kubernetes.io/part-of".into(), "nokv".into());
    labels
}

/// Metadata of an object that goes when the server's resource goes.
pub fn owned(server: &MetadataServer, name: String) -> ObjectMeta {
    let server_name = server.metadata.name.clone().unwrap_or_default();
    ObjectMeta {
        name: Some(name),
        namespace: server.metadata.namespace.clone(),
        labels: Some(labels(&server_name)),
        owner_references: server.controller_owner_ref(&()).map(|reference| vec![reference]),
        ..ObjectMeta::default()
    }
}

/// The name of a server's claim: `data` of its first pod.
pub fn claim(server: &str) -> String {
    format!("{}-{server}-0", pods::DATA_VOLUME)
}
