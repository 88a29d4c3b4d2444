//! The StatefulSet of a MetadataServer.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction, KeyToPath, LocalObjectReference,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use nokvfs_api::{MetadataServer, Resources, names, parse_bytes};

use super::{Defaults, Inputs, labels, owned, selector};

pub const DATA_VOLUME: &str = "data";
const DATA_DIR: &str = "/data";
const TLS_DIR: &str = "/etc/nokv/tls";
const S3_DIR: &str = "/etc/nokv/s3";
/// The unprivileged user of all our images.
const USER: i64 = 65532;

pub fn stateful_set(server: &MetadataServer, defaults: &Defaults, inputs: &Inputs) -> StatefulSet {
    let name = server.metadata.name.clone().unwrap_or_default();
    let annotations = BTreeMap::from([("nokv.io/secrets-digest".to_owned(), inputs.secrets_digest.clone())]);
    StatefulSet {
        metadata: owned(server, name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(server.spec.replicas),
            service_name: Some(names::pods_service(&name)),
            selector: LabelSelector { match_labels: Some(selector(&name)), ..LabelSelector::default() },
            // Deleting the resource or the chart never deletes metadata.
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".into()),
                when_scaled: Some("Retain".into()),
            }),
            volume_claim_templates: claim_templates(server, inputs),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels(&name)),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(server, &name, defaults)),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn claim_templates(server: &MetadataServer, inputs: &Inputs) -> Option<Vec<PersistentVolumeClaim>> {
    let storage = &server.spec.storage;
    if storage.ephemeral {
        return None;
    }
    if inputs.claim_templates.is_some() {
        return inputs.claim_templates.clone();
    }
    Some(vec![PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(DATA_VOLUME.into()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(storage.size.clone()))])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }])
}

fn pod(server: &MetadataServer, name: &str, defaults: &Defaults) -> PodSpec {
    let spec = &server.spec;
    let pull_secrets =
        if spec.image_pull_secrets.is_empty() { &defaults.pull_secrets } else { &spec.image_pull_secrets };
    let mut volumes = vec![
        secret_volume(
            "tls",
            names::server_tls_secret(name),
            &[names::KEY_TLS_CERT, names::KEY_TLS_KEY, names::KEY_CA_CERT],
        ),
        secret_volume(
            "s3",
            spec.object_store.credentials_secret.name.clone(),
            &[names::KEY_ACCESS_KEY, names::KEY_SECRET_KEY],
        ),
        Volume { name: "tmp".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
    ];
    if spec.storage.ephemeral {
        let size_limit = Some(Quantity(spec.storage.size.clone()));
        let empty_dir = Some(EmptyDirVolumeSource { size_limit, medium: None });
        volumes.push(Volume { name: DATA_VOLUME.into(), empty_dir, ..Volume::default() });
    }
    PodSpec {
        containers: vec![container(server, defaults)],
        volumes: Some(volumes),
        image_pull_secrets: (!pull_secrets.is_empty())
            .then(|| pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()),
        node_selector: (!spec.node_selector.is_empty()).then(|| spec.node_selector.clone()),
        tolerations: (!spec.tolerations.is_empty()).then(|| spec.tolerations.clone()),
        priority_class_name: spec.priority_class_name.clone(),
        // The server asks nothing of the API.
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        // A drain ends with a sync and a checkpoint.
        termination_grace_period_seconds: Some(60),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

fn container(server: &MetadataServer, defaults: &Defaults) -> Container {
    let spec = &server.spec;
    let resources = sized(&spec.resources);
    Container {
        name: "server".into(),
        image: Some(spec.image.clone().unwrap_or_else(|| defaults.image.clone())),
        image_pull_policy: spec.image_pull_policy.clone().or_else(|| defaults.pull_policy.clone()),
        args: Some(arguments(server, &resources)),
        ports: Some(vec![port("rpc", names::RPC_PORT), port("http", names::HTTP_PORT)]),
        resources: Some(resources.requirements()),
        // Why it ended is told in the pod's status, and from there in the server's condition.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        // A journal that is read at start may be long; until then neither of the others is asked.
        startup_probe: Some(probe("/healthz", 5, 120)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 5, 2)),
        volume_mounts: Some(vec![
            mount(DATA_VOLUME, DATA_DIR, false),
            mount("tls", TLS_DIR, true),
            mount("s3", S3_DIR, true),
            mount("tmp", "/tmp", false),
        ]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn arguments(server: &MetadataServer, resources: &Resources) -> Vec<String> {
    let store = &server.spec.object_store;
    let mut all = vec![
        "serve".to_owned(),
        // Below the volume's root, which on many file systems holds lost+found.
        format!("--data={DATA_DIR}/metadata"),
        format!("--listen=0.0.0.0:{}", names::RPC_PORT),
        format!("--http=0.0.0.0:{}", names::HTTP_PORT),
        format!("--tls-cert={TLS_DIR}/{}", names::KEY_TLS_CERT),
        format!("--tls-key={TLS_DIR}/{}", names::KEY_TLS_KEY),
        format!("--tls-client-ca={TLS_DIR}/{}", names::KEY_CA_CERT),
        format!("--s3-endpoint={}", store.endpoint),
        format!("--s3-bucket={}", store.bucket),
        format!("--s3-region={}", store.region),
        format!("--s3-path-style={}", store.path_style),
        format!("--s3-access-key-file={S3_DIR}/{}", names::KEY_ACCESS_KEY),
        format!("--s3-secret-key-file={S3_DIR}/{}", names::KEY_SECRET_KEY),
        "--log-format=json".to_owned(),
    ];
    if !store.prefix.is_empty() {
        all.push(format!("--s3-prefix={}", store.prefix));
    }
    if let Some(bytes) = resources.limits.get("memory").and_then(|text| parse_bytes(text).ok()) {
        all.push(format!("--memory-limit={bytes}"));
    }
    all
}

/// The spec's resources, or ones that serve about a million files: without a memory limit the server can't size itself.
fn sized(resources: &Resources) -> Resources {
    let text =
        |all: &[(&str, &str)]| all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut sized = resources.clone();
    if sized.requests.is_empty() {
        sized.requests = text(&[("cpu", "100m"), ("memory", "256Mi")]);
    }
    if sized.limits.is_empty() {
        sized.limits = text(&[("memory", "1Gi")]);
    }
    sized
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort { name: Some(name.into()), container_port: number.into(), ..ContainerPort::default() }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("http".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn secret_volume(name: &str, secret: String, keys: &[&str]) -> Volume {
    let items = keys.iter().map(|key| KeyToPath { key: (*key).into(), path: (*key).into(), mode: None }).collect();
    Volume {
        name: name.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            items: Some(items),
            default_mode: Some(0o440),
            optional: None,
        }),
        ..Volume::default()
    }
}
