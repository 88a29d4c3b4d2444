//! The reconcilers against a real API server, without kubelet and controllers: what those would do, the test does.

mod cluster;
mod volumes;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use cluster::Cluster;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolume, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use nokvfs_api::{Condition, ConditionStatus, MetadataServer, NoKVMount, names, types};
use nokvfs_operator::context::Context;
use nokvfs_operator::desired::Defaults;
use nokvfs_operator::metrics::Metrics;
use nokvfs_operator::options::Release;
use nokvfs_operator::{declared, release, run};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use volumes::{InMemory, Volumes};

const NS: &str = "tier";

fn api<K>(client: &Client) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), NS)
}

/// Waits until `check` holds for the object, `None` if there is none.
async fn until<K>(api: &Api<K>, name: &str, what: &str, check: impl Fn(Option<&K>) -> bool) -> Option<K>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut last = None;
    for _ in 0..300 {
        last = api.get_opt(name).await.unwrap();
        if check(last.as_ref()) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what} did not come; the last state of {name} is {last:?}");
}

fn ready(conditions: &[Condition]) -> Option<(ConditionStatus, &str)> {
    let ready = conditions.iter().find(|condition| condition.kind == types::READY)?;
    Some((ready.status, &ready.reason))
}

fn server_is(reason: &'static str) -> impl Fn(Option<&MetadataServer>) -> bool {
    move |server| {
        let status = server.and_then(|server| server.status.as_ref());
        status.and_then(|status| ready(&status.conditions)).is_some_and(|(_, found)| found == reason)
    }
}

fn mount_is(status: ConditionStatus, reason: &'static str) -> impl Fn(Option<&NoKVMount>) -> bool {
    move |mount| {
        let found = mount.and_then(|mount| mount.status.as_ref()).and_then(|found| ready(&found.conditions));
        found == Some((status, reason))
    }
}

fn server(name: &str) -> MetadataServer {
    let spec = json!({"objectStore": {"endpoint": "http://s3:9000", "bucket": "bucket", "credentialsSecret": {"name": "keys"}}});
    MetadataServer::new(name, serde_json::from_value(spec).unwrap())
}

fn mount(name: &str, server: &str, policy: &str) -> NoKVMount {
    let spec = json!({"metadataServer": {"name": server}, "deletionPolicy": policy, "quota": {"bytes": "1Gi"}});
    NoKVMount::new(name, serde_json::from_value(spec).unwrap())
}

async fn create<K>(api: &Api<K>, object: &K) -> Result<K, String>
where
    K: serde::Serialize + DeserializeOwned + Clone + Debug,
{
    api.create(&PostParams::default(), object).await.map_err(|error| error.to_string())
}

async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> Result<K, String>
where
    K: DeserializeOwned + Clone + Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map_err(|error| error.to_string())
}

async fn events(client: &Client, reason: &str) -> usize {
    let all = api::<Event>(client).list(&ListParams::default()).await.unwrap();
    all.items.iter().filter(|event| event.reason.as_deref() == Some(reason)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_against_a_real_apiserver() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Some(cluster) = Cluster::start().await else {
        eprintln!("skipped: etcd and kube-apiserver are not in the cache's bin; make tools builds them");
        return;
    };
    let client = &cluster.client;
    definitions(client).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    create(&namespaces, &serde_json::from_value(json!({"metadata": {"name": NS}})).unwrap()).await.unwrap();
    let volumes = Arc::new(Volumes::default());
    let defaults = Defaults { image: "nokv/nokv-fs:test".into(), pull_policy: None, pull_secrets: vec![] };
    let connector = Arc::new(InMemory(volumes.clone()));
    let metrics = Arc::new(Metrics::default());
    let ctx = Arc::new(Context::new(client.clone(), defaults, connector, metrics.clone(), "test".into()));
    let stop = CancellationToken::new();
    let controllers = tokio::spawn(run::controllers(ctx, stop.clone()));

    wrong_specs_are_refused(client).await;
    a_server_tells_what_it_lacks_and_then_serves(client).await;
    a_mount_becomes_a_volume(client, &volumes).await;
    nothing_happens_while_nothing_changes(&metrics).await;
    deletion_waits_for_claims_and_keeps_data(client, &volumes).await;
    a_mount_goes_with_its_server(client).await;
    a_volume_that_is_gone_is_not_made_anew(client, &volumes).await;
    servers_of_the_chart_are_made(client).await;
    a_release_leaves_no_finalizer(client).await;

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), controllers).await.expect("the controllers end").unwrap();
}

async fn definitions(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (_, definition) in nokvfs_api::yaml::definitions() {
        let name = definition.name_any();
        api.patch(&name, &PatchParams::apply("test"), &Patch::Apply(&definition)).await.unwrap();
        until(&api, &name, "the definition", |found| {
            let conditions = found.and_then(|found| found.status.as_ref()?.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Established" && one.status == "True"))
        })
        .await;
    }
}

async fn wrong_specs_are_refused(client: &Client) {
    let servers = api::<MetadataServer>(client);
    let mut two = server("two");
    two.spec.replicas = 2;
    let error = create(&servers, &two).await.unwrap_err();
    assert!(error.contains("replicas must be 1"), "{error}");
    let error = create(&servers, &server("Bad.Name")).await.unwrap_err();
    assert!(error.contains("Bad.Name"), "{error}");
    let mut url = server("url");
    url.spec.object_store.endpoint = "s3:9000".into();
    let error = create(&servers, &url).await.unwrap_err();
    assert!(error.contains("endpoint is a URL"), "{error}");
    create(&servers, &server("fixed")).await.unwrap();
    let error = merge(&servers, "fixed", json!({"spec": {"objectStore": {"bucket": "other"}}})).await.unwrap_err();
    assert!(error.contains("the object store can't be changed"), "{error}");
    servers.delete("fixed", &DeleteParams::default()).await.unwrap();
    let mut root = mount("root", "m", "Retain");
    root.spec.root.mode = "rwx".into();
    let error = create(&api::<NoKVMount>(client), &root).await.unwrap_err();
    assert!(error.contains("spec.root.mode"), "{error}");
}

async fn a_server_tells_what_it_lacks_and_then_serves(client: &Client) {
    let servers = api::<MetadataServer>(client);
    create(&servers, &server("m")).await.unwrap();
    until(&servers, "m", "the missing Secret", server_is("CredentialsMissing")).await;
    let keys = json!({"metadata": {"name": "keys"}, "stringData": {"accessKey": "a", "secretKey": "s"}});
    create(&api::<Secret>(client), &serde_json::from_value(keys).unwrap()).await.unwrap();
    until(&servers, "m", "the missing StorageClass", server_is("NoStorageClass")).await;
    assert!(api::<StatefulSet>(client).get_opt("m").await.unwrap().is_none());
    let class = json!({"metadata": {"name": "fast"}, "provisioner": "example.com/fast"});
    let classes: Api<StorageClass> = Api::all(client.clone());
    create(&classes, &serde_json::from_value(class).unwrap()).await.unwrap();
    merge(&servers, "m", json!({"spec": {"storage": {"storageClassName": "fast"}}})).await.unwrap();
    let set = until(&api::<StatefulSet>(client), "m", "the StatefulSet", |set| set.is_some()).await.unwrap();
    assert_eq!(set.owner_references()[0].kind, "MetadataServer");
    for service in ["m", "m-pods"] {
        until(&api::<Service>(client), service, "the Service", |found| found.is_some()).await;
    }
    until(&api::<PodDisruptionBudget>(client), "m", "the budget", |found| found.is_some()).await;
    for secret in ["m-server-tls", "m-control-tls", "m-mount-tls"] {
        let secret = api::<Secret>(client).get(secret).await.unwrap();
        assert_eq!(secret.owner_references()[0].name, "m");
        assert!(secret.data.unwrap()["tls.crt"].0.starts_with(b"-----BEGIN CERTIFICATE"));
    }
    assert!(api::<Secret>(client).get("m-ca").await.unwrap().owner_references().is_empty());
    let status = json!({"status": {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "observedGeneration": set.metadata.generation}});
    let sets = api::<StatefulSet>(client);
    sets.patch_status("m", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let server = until(&servers, "m", "readiness", server_is("AsDesired")).await.unwrap();
    let status = server.status.unwrap();
    assert_eq!(
        (status.endpoint.as_deref(), status.observed_generation),
        (Some("m.tier.svc:7440"), server.metadata.generation)
    );
    assert!(events(client, "NoStorageClass").await > 0);
    assert!(events(client, "AsDesired").await > 0);
}

async fn a_mount_becomes_a_volume(client: &Client, volumes: &Volumes) {
    let mounts = api::<NoKVMount>(client);
    create(&mounts, &mount("data", "m", "Delete")).await.unwrap();
    let data = until(&mounts, "data", "the volume", mount_is(ConditionStatus::True, "AsDesired")).await.unwrap();
    assert_eq!(data.finalizers(), [names::MOUNT_FINALIZER]);
    let status = data.status.clone().unwrap();
    let id = volumes.all.lock()["tier.data"].id.to_string();
    assert_eq!((status.volume.as_deref(), status.server.as_deref()), (Some(id.as_str()), Some("tier/m")));
    assert_eq!((status.used.as_deref(), status.capacity.as_deref()), (Some("1Mi"), Some("1Gi")));
    let all: Api<PersistentVolume> = Api::all(client.clone());
    let volume = all.get("tier.data").await.unwrap();
    assert_eq!(volume.spec.unwrap().csi.unwrap().volume_handle, format!("tier.m.{id}"));
    let secret = api::<Secret>(client).get("data-stage").await.unwrap();
    assert_eq!(secret.owner_references()[0].kind, "NoKVMount");
    assert_eq!(secret.data.unwrap()["token"].0, "07".repeat(32).into_bytes());

    merge(&mounts, "data", json!({"spec": {"quota": {"bytes": "2Gi", "inodes": 50}}})).await.unwrap();
    let grown = |mount: Option<&NoKVMount>| {
        mount.and_then(|mount| mount.status.as_ref()).is_some_and(|status| status.capacity.as_deref() == Some("2Gi"))
    };
    until(&mounts, "data", "the larger quota", grown).await;
    assert_eq!(volumes.all.lock()["tier.data"].spec.quota_inodes, 50);
    assert_eq!(all.get("tier.data").await.unwrap().spec.unwrap().capacity.unwrap()["storage"].0, "2Gi");

    create(&mounts, &mount("lost", "nowhere", "Retain")).await.unwrap();
    until(&mounts, "lost", "the unknown server", mount_is(ConditionStatus::False, "MetadataServerNotFound")).await;
    assert!(events(client, "MetadataServerNotFound").await > 0);
    mounts.delete("lost", &DeleteParams::default()).await.unwrap();
    until(&mounts, "lost", "its end", |found| found.is_none()).await;
}

fn rounds(metrics: &Metrics) -> u64 {
    let text = metrics.render();
    let lines = text.lines().filter(|line| line.starts_with("nokv_operator_reconciles_total"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// A status that wakes its own writer would make hundreds of rounds in this time.
async fn nothing_happens_while_nothing_changes(metrics: &Metrics) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = rounds(metrics);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = rounds(metrics);
    assert!(after - before <= 3, "{} rounds without a change", after - before);
}

async fn deletion_waits_for_claims_and_keeps_data(client: &Client, volumes: &Volumes) {
    let (mounts, all) = (api::<NoKVMount>(client), Api::<PersistentVolume>::all(client.clone()));
    create(&mounts, &mount("kept", "m", "Retain")).await.unwrap();
    until(&mounts, "kept", "the volume", mount_is(ConditionStatus::True, "AsDesired")).await;
    let claim = json!({"spec": {"claimRef": {"namespace": NS, "name": "claim", "kind": "PersistentVolumeClaim"}}});
    merge(&all, "tier.kept", claim).await.unwrap();
    let phase = |phase: &str| json!({"status": {"phase": phase}});
    all.patch_status("tier.kept", &PatchParams::default(), &Patch::Merge(&phase("Bound"))).await.unwrap();
    mounts.delete("kept", &DeleteParams::default()).await.unwrap();
    until(&mounts, "kept", "the wait", mount_is(ConditionStatus::False, "DeletionWaits")).await;
    assert!(all.get_opt("tier.kept").await.unwrap().is_some());
    all.patch_status("tier.kept", &PatchParams::default(), &Patch::Merge(&phase("Released"))).await.unwrap();
    until(&mounts, "kept", "its end", |found| found.is_none()).await;
    assert!(volumes.all.lock().contains_key("tier.kept"), "Retain keeps the volume");

    mounts.delete("data", &DeleteParams::default()).await.unwrap();
    until(&mounts, "data", "its end", |found| found.is_none()).await;
    assert!(!volumes.all.lock().contains_key("tier.data"), "Delete deletes it");
}

async fn a_mount_goes_with_its_server(client: &Client) {
    let (servers, mounts) = (api::<MetadataServer>(client), api::<NoKVMount>(client));
    let mut other = server("other");
    other.spec.storage.ephemeral = true;
    create(&servers, &other).await.unwrap();
    create(&mounts, &mount("orphan", "other", "Delete")).await.unwrap();
    until(&mounts, "orphan", "the volume", mount_is(ConditionStatus::True, "AsDesired")).await;
    servers.delete("other", &DeleteParams::default()).await.unwrap();
    until(&servers, "other", "the server's end", |found| found.is_none()).await;
    mounts.delete("orphan", &DeleteParams::default()).await.unwrap();
    until(&mounts, "orphan", "its end", |found| found.is_none()).await;
    assert_eq!(events(client, "DataLeft").await, 1);
}

async fn a_volume_that_is_gone_is_not_made_anew(client: &Client, volumes: &Volumes) {
    let mounts = api::<NoKVMount>(client);
    create(&mounts, &mount("gone", "m", "Retain")).await.unwrap();
    until(&mounts, "gone", "the volume", mount_is(ConditionStatus::True, "AsDesired")).await;
    volumes.all.lock().remove("tier.gone");
    merge(&mounts, "gone", json!({"spec": {"quota": {"bytes": "3Gi"}}})).await.unwrap();
    until(&mounts, "gone", "the missing volume", mount_is(ConditionStatus::False, "VolumeMissing")).await;
    assert!(!volumes.all.lock().contains_key("tier.gone"));
}

async fn servers_of_the_chart_are_made(client: &Client) {
    let spec = "storage: {ephemeral: true}\nobjectStore: {endpoint: 'http://s3:9000', bucket: bucket, credentialsSecret: {name: keys}}\n";
    let map = json!({"metadata": {"name": "nokv-servers"}, "data": {"nokv.yaml": spec}});
    let map = create(&api::<ConfigMap>(client), &serde_json::from_value(map).unwrap()).await.unwrap();
    assert_eq!(declared::apply(client, NS, "nokv-servers").await.unwrap(), 1);
    let made = api::<MetadataServer>(client).get("nokv").await.unwrap();
    assert_eq!(Some(&made.owner_references()[0].uid), map.metadata.uid.as_ref());
    until(&api::<StatefulSet>(client), "nokv", "its StatefulSet", |set| set.is_some()).await;
}

async fn a_release_leaves_no_finalizer(client: &Client) {
    let options = Release { namespace: NS.into(), deployment: "nokv-operator".into(), wait_seconds: 5 };
    release::release(client.clone(), &options).await.unwrap();
    let mounts = api::<NoKVMount>(client).list(&ListParams::default()).await.unwrap();
    assert!(!mounts.items.is_empty());
    assert!(mounts.items.iter().all(|mount| mount.finalizers().is_empty()));
}
