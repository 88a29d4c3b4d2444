use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use nokvfs_api::{Condition, ConditionStatus, MetadataServer, NoKVMount, VolumeHandle, names, reasons, types};
use nokvfs_types::{MountId, VolumeId, VolumeInfo, VolumeSpec, VolumeState, VolumeUsage};

use crate::certificates::{Authority, Role, text};
use crate::desired::{Defaults, Inputs, desired};
use crate::mount_status::{MAX_NODES, Seen, Trouble, mount_status};
use crate::status::{Observed, StorageState, Unready, status};

fn now() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

fn server(extra: serde_json::Value) -> MetadataServer {
    let mut spec = serde_json::json!({
        "objectStore": {"endpoint": "https://s3.example.com", "bucket": "b", "credentialsSecret": {"name": "keys"}},
    });
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let mut server = MetadataServer::new("m", serde_json::from_value(spec).unwrap());
    server.metadata.namespace = Some("ns".into());
    server.metadata.uid = Some("u".into());
    server.metadata.generation = Some(3);
    server
}

fn defaults() -> Defaults {
    Defaults {
        image: "nokv/nokv-fs:1".into(),
        pull_policy: Some("IfNotPresent".into()),
        pull_secrets: vec!["pull".into()],
    }
}

fn inputs() -> Inputs {
    Inputs { secrets_digest: "d".into(), claim_templates: None, storage: true }
}

#[test]
fn a_server_becomes_a_pod_without_privileges_and_a_claim_that_outlives_it() {
    let all = desired(&server(serde_json::json!({})), &defaults(), &inputs());
    let set = all.pods.unwrap();
    let owner = &set.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("MetadataServer", "u", Some(true)));
    let spec = set.spec.unwrap();
    assert_eq!((spec.replicas, spec.service_name.as_deref()), (Some(1), Some("m-pods")));
    let retention = spec.persistent_volume_claim_retention_policy.unwrap();
    assert_eq!((retention.when_deleted.as_deref(), retention.when_scaled.as_deref()), (Some("Retain"), Some("Retain")));
    let claim = spec.volume_claim_templates.unwrap().remove(0).spec.unwrap();
    assert_eq!(claim.resources.unwrap().requests.unwrap()["storage"].0, "10Gi");
    assert_eq!(claim.storage_class_name, None);
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "pull");
    let security = pod.security_context.unwrap();
    assert_eq!((security.run_as_non_root, security.fs_group), (Some(true), Some(65532)));
    let container = &pod.containers[0];
    assert_eq!(container.image.as_deref(), Some("nokv/nokv-fs:1"));
    let security = container.security_context.as_ref().unwrap();
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(security.capabilities.as_ref().unwrap().drop.as_deref(), Some(&["ALL".to_owned()][..]));
}

#[test]
fn the_arguments_are_what_serve_takes() {
    let server = server(serde_json::json!({"resources": {"limits": {"memory": "2Gi"}}}));
    let set = desired(&server, &defaults(), &inputs()).pods.unwrap();
    let args = set.spec.unwrap().template.spec.unwrap().containers[0].args.clone().unwrap();
    let expected = [
        "serve",
        "--data=/data/metadata",
        "--listen=0.0.0.0:7440",
        "--http=0.0.0.0:7441",
        "--tls-cert=/etc/nokv/tls/tls.crt",
        "--tls-key=/etc/nokv/tls/tls.key",
        "--tls-client-ca=/etc/nokv/tls/ca.crt",
        "--s3-endpoint=https://s3.example.com",
        "--s3-bucket=b",
        "--s3-region=us-east-1",
        "--s3-path-style=true",
        "--s3-access-key-file=/etc/nokv/s3/accessKey",
        "--s3-secret-key-file=/etc/nokv/s3/secretKey",
        "--log-format=json",
        "--memory-limit=2147483648",
    ];
    assert_eq!(args, expected);
}

#[test]
fn storage_decides_on_claims() {
    let ephemeral = server(serde_json::json!({"storage": {"ephemeral": true}}));
    let spec = desired(&ephemeral, &defaults(), &inputs()).pods.unwrap().spec.unwrap();
    assert_eq!(spec.volume_claim_templates, None);
    let volumes = spec.template.spec.unwrap().volumes.unwrap();
    assert!(volumes.iter().any(|volume| volume.name == "data" && volume.empty_dir.is_some()));

    let waiting = Inputs { storage: false, ..inputs() };
    assert_eq!(desired(&server(serde_json::json!({})), &defaults(), &waiting).pods, None);

    // A StatefulSet that is there keeps its templates, whatever the spec says by now.
    let first = desired(&server(serde_json::json!({})), &defaults(), &inputs()).pods.unwrap().spec.unwrap();
    let again = Inputs { claim_templates: first.volume_claim_templates.clone(), ..inputs() };
    let named = server(serde_json::json!({"storage": {"storageClassName": "fast"}}));
    let second = desired(&named, &defaults(), &again).pods.unwrap().spec.unwrap();
    assert_eq!(second.volume_claim_templates, first.volume_claim_templates);
}

#[test]
fn services_budget_and_policy() {
    let all = desired(&server(serde_json::json!({"networkPolicy": true})), &defaults(), &inputs());
    assert_eq!(all.headless.metadata.name.as_deref(), Some("m-pods"));
    assert_eq!(all.headless.spec.unwrap().cluster_ip.as_deref(), Some("None"));
    let ports: Vec<i32> = all.service.spec.unwrap().ports.unwrap().iter().map(|port| port.port).collect();
    assert_eq!(ports, [7440, 7441]);
    assert!(all.budget.spec.unwrap().max_unavailable.is_some());
    // The operator and the kubelet ask the HTTP port from wherever they are.
    let rule = all.policy.unwrap().spec.unwrap().ingress.unwrap().remove(0);
    assert_eq!(rule.from, None);
    let open: Vec<_> = rule.ports.unwrap().into_iter().filter_map(|port| port.port).collect();
    assert_eq!(open, [7440, 7441].map(IntOrString::Int));
    assert_eq!(desired(&server(serde_json::json!({})), &defaults(), &inputs()).policy, None);
}

fn observed() -> Observed {
    Observed {
        storage: StorageState::Bound,
        credentials: None,
        certificates: None,
        certificates_end: Some(now()),
        apply: None,
        ready: 1,
        unready: None,
        current: true,
        volumes: 2,
    }
}

fn condition<'a>(all: &'a [Condition], kind: &str) -> &'a Condition {
    all.iter().find(|condition| condition.kind == kind).unwrap()
}

#[test]
fn a_server_that_serves_is_ready() {
    let status = status(&server(serde_json::json!({})), &observed(), now());
    assert_eq!(status.endpoint.as_deref(), Some("m.ns.svc:7440"));
    assert_eq!((status.observed_generation, status.volumes, status.ready_replicas), (Some(3), 2, 1));
    let states: Vec<_> =
        status.conditions.iter().map(|condition| (condition.kind.as_str(), condition.status)).collect();
    assert_eq!(
        states,
        [
            (types::STORAGE_READY, ConditionStatus::True),
            (types::CERTIFICATES_READY, ConditionStatus::True),
            (types::RECONCILING, ConditionStatus::False),
            (types::READY, ConditionStatus::True),
        ]
    );
}

#[test]
fn what_keeps_a_server_from_serving_is_said_with_what_to_do() {
    let cases: [(Observed, &str, &str); 6] = [
        (
            Observed { storage: StorageState::NoClass, ready: 0, ..observed() },
            reasons::NO_STORAGE_CLASS,
            "spec.storage.storageClassName",
        ),
        (
            Observed { storage: StorageState::UnknownClass("x".into()), ready: 0, ..observed() },
            reasons::NO_STORAGE_CLASS,
            "\"x\"",
        ),
        (Observed { storage: StorageState::Pending, ready: 0, ..observed() }, reasons::PODS_NOT_READY, "data-m-0"),
        (Observed { credentials: Some("make it".into()), ..observed() }, reasons::CREDENTIALS_MISSING, "make it"),
        (Observed { apply: Some("refused".into()), ..observed() }, reasons::APPLY_FAILED, "refused"),
        (Observed { ready: 0, ..observed() }, reasons::PODS_NOT_READY, "kubectl logs m-0"),
    ];
    for (observed, reason, words) in cases {
        let status = status(&server(serde_json::json!({})), &observed, now());
        let ready = condition(&status.conditions, types::READY);
        assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::False, reason));
        assert!(ready.message.contains(words), "{}", ready.message);
        assert_eq!(condition(&status.conditions, types::RECONCILING).status, ConditionStatus::True);
    }
}

#[test]
fn a_store_that_cannot_be_reached_is_a_reason_of_its_own() {
    let told = Some(Unready::ObjectStore("the S3 object store can't be reached: refused".into()));
    let away = Observed { ready: 0, unready: told.clone(), ..observed() };
    let other = Observed { ready: 0, unready: Some(Unready::Other("it is stopping".into())), ..observed() };
    let cases: [(Observed, &str, &[&str]); 4] = [
        (
            away.clone(),
            reasons::OBJECT_STORE_UNREACHABLE,
            &["the S3 object store can't be reached: refused; check spec.objectStore", "the pod m-0"],
        ),
        (other, reasons::PODS_NOT_READY, &["m-0 is not ready: it is stopping", "kubectl logs m-0"]),
        // What the server can't know goes first.
        (Observed { credentials: Some("make it".into()), ..away.clone() }, reasons::CREDENTIALS_MISSING, &["make it"]),
        (Observed { ready: 1, ..away }, reasons::AS_DESIRED, &["serving"]),
    ];
    for (observed, reason, words) in cases {
        let status = status(&server(serde_json::json!({})), &observed, now());
        let ready = condition(&status.conditions, types::READY);
        assert_eq!(ready.reason, reason);
        for word in words {
            assert!(ready.message.contains(word), "{word} is not in {}", ready.message);
        }
    }
}

#[test]
fn the_same_state_gives_the_same_status_at_any_time() {
    let mut server = server(serde_json::json!({}));
    let first = status(&server, &observed(), now());
    server.status = Some(first.clone());
    assert_eq!(status(&server, &observed(), now() + 24.hours()), first);
}

fn secret(authority: &Authority, role: Role, at: Timestamp) -> Secret {
    let issued = authority.issue(role, "m", "ns", at).unwrap();
    Secret {
        metadata: ObjectMeta { annotations: Some(issued.annotations), ..ObjectMeta::default() },
        data: Some(issued.data),
        ..Secret::default()
    }
}

#[test]
fn certificates_are_renewed_in_time_and_when_their_purpose_changes() {
    let authority = Authority::generate("m", "ns", now()).unwrap();
    let kept = Secret { data: Some(authority.data()), ..Secret::default() };
    let read = Authority::from_secret(&kept).unwrap();
    let cert = secret(&read, Role::Server, now());
    let good = |days: i64| authority.still_good(&cert, Role::Server, "m", "ns", now() + (days * 24).hours());
    assert!(good(0) && good(200));
    assert!(!good(250) && !good(400));
    assert!(!authority.still_good(&cert, Role::Mount, "m", "ns", now()));
    assert!(!authority.still_good(&cert, Role::Server, "m", "other", now()));
    let other = Authority::generate("m", "ns", now()).unwrap();
    assert!(!other.still_good(&cert, Role::Server, "m", "ns", now()));
    let error = Authority::from_secret(&Secret::default()).unwrap_err();
    assert!(error.to_string().contains("restore"), "{error}");
}

#[test]
fn a_client_believes_the_server_by_the_name_of_its_service() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    let authority = Authority::generate("m", "ns", now()).unwrap();
    let pem = |secret: &Secret| {
        CertificateDer::from_pem_slice(text(secret, names::KEY_TLS_CERT).unwrap().as_bytes()).unwrap()
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.cert.as_bytes()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now().as_second() as u64));
    let server = pem(&secret(&authority, Role::Server, now()));
    let believes = |cert: &CertificateDer<'_>, name: &'static str| {
        use rustls::client::danger::ServerCertVerifier;
        verifier.verify_server_cert(cert, &[], &ServerName::try_from(name).unwrap(), &[], at).is_ok()
    };
    for name in ["m", "m.ns", "m.ns.svc", "m.ns.svc.cluster.local", "m-0.m-pods.ns.svc", "localhost"] {
        assert!(believes(&server, name), "{name}");
    }
    assert!(!believes(&server, "other.ns.svc"));
    // A mount's certificate is no server's.
    assert!(!believes(&pem(&secret(&authority, Role::Mount, now())), "m.ns.svc"));
}

fn mount() -> NoKVMount {
    let spec = serde_json::json!({"metadataServer": {"name": "m"}});
    let mut mount = NoKVMount::new("data", serde_json::from_value(spec).unwrap());
    mount.metadata.generation = Some(7);
    mount
}

fn seen() -> Seen {
    let id = VolumeId::random();
    let spec = VolumeSpec {
        name: "team.data".into(),
        quota_bytes: 10 << 30,
        quota_inodes: 0,
        root_mode: 0o777,
        root_uid: 0,
        root_gid: 0,
    };
    let usage = VolumeUsage { bytes: 3 << 29, inodes: 4 };
    Seen {
        handle: VolumeHandle { namespace: "ns".into(), server: "m".into(), volume: id.to_string() },
        info: VolumeInfo {
            id,
            mount: MountId(1),
            spec,
            state: VolumeState::Active,
            usage,
            sessions: 2,
            origins: Vec::new(),
        },
        persistent_volume: Some("team.data".into()),
        nodes: (0..100).map(|number| format!("node{number}")).collect(),
    }
}

#[test]
fn a_mount_shows_what_its_volume_uses() {
    let status = mount_status(&mount(), "ns/m", Ok(&seen()), now());
    assert_eq!((status.used.as_deref(), status.capacity.as_deref()), (Some("1.5Gi"), Some("10Gi")));
    assert_eq!((status.used_inodes, status.sessions, status.observed_generation), (Some(4), Some(2), Some(7)));
    assert_eq!(status.nodes.len(), MAX_NODES);
    assert_eq!(condition(&status.conditions, types::READY).status, ConditionStatus::True);
}

#[test]
fn trouble_never_forgets_a_volume() {
    let mut mount = mount();
    let seen = seen();
    mount.status = Some(mount_status(&mount, "ns/m", Ok(&seen), now()));
    let away = Trouble { reason: reasons::SERVER_NOT_READY, message: "away".into() };
    let status = mount_status(&mount, "ns/m", Err(&away), now());
    assert_eq!(status.volume_handle, Some(seen.handle.to_string()));
    assert_eq!(condition(&status.conditions, types::READY).status, ConditionStatus::False);
    assert_eq!(condition(&status.conditions, types::VOLUME_READY).status, ConditionStatus::Unknown);
}

#[test]
fn declared_servers_belong_to_their_config_map() {
    let mut map = ConfigMap::default();
    map.metadata.name = Some("nokv-servers".into());
    map.metadata.namespace = Some("ns".into());
    map.metadata.uid = Some("u".into());
    let good = "objectStore: {endpoint: http://s:9000, bucket: b, credentialsSecret: {name: k}}\nresources:\n  limits: {memory: 1Gi}\n";
    let entries = BTreeMap::from([("nokv.yaml".to_owned(), good.to_owned())]);
    let server = crate::declared::parse(&map, &entries).unwrap().remove(0);
    assert_eq!((server.metadata.name.as_deref(), server.metadata.namespace.as_deref()), (Some("nokv"), Some("ns")));
    assert_eq!(server.metadata.owner_references.unwrap()[0].kind, "ConfigMap");
    let entries = BTreeMap::from([("nokv.yaml".to_owned(), "storage: 1".to_owned())]);
    let error = crate::declared::parse(&map, &entries).unwrap_err().to_string();
    assert!(error.contains("nokv.yaml") && error.contains("metadataServers"), "{error}");
}
