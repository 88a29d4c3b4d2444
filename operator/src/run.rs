//! Wires the reconcilers, the Lease and the HTTP port.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::Api;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{Controller, Predicate, WatchStreamExt, predicates, watcher};
use kube::{Client, Resource, ResourceExt};
use kube_lease_manager::LeaseManagerBuilder;
use nokvfs_api::{MetadataServer, NoKVMount, names};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Error, key};
use crate::desired::Defaults;
use crate::metrics::Metrics;
use crate::options::Run;
use crate::volumes::ByService;
use crate::{declared, http, mount, server};

/// Rounds at a time; each holds little but a connection.
const CONCURRENCY: u16 = 8;
/// Changes of one object within this become one round.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How long a leader that lost the API may go on; others take over after it.
const LEASE_SECONDS: u64 = 15;
/// How long the rounds at work may take to end after a signal.
const DRAIN: Duration = Duration::from_secs(20);

/// Works until `stop`, if it gets the Lease.
pub async fn run(client: Client, options: Run, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    let ready = Arc::new(AtomicBool::new(false));
    let listener =
        tokio::net::TcpListener::bind(options.http).await.with_context(|| format!("listening on {}", options.http))?;
    let serving = tokio::spawn(http::serve(listener, metrics.clone(), ready.clone(), stop.clone()));
    let manager = LeaseManagerBuilder::new(client.clone(), &options.lease)
        .with_namespace(&options.namespace)
        .with_identity(&options.identity)
        .with_duration(LEASE_SECONDS)
        .with_grace(LEASE_SECONDS / 3)
        .build()
        .await
        .context("the Lease can't be read or made: may the service account do that?")?;
    ready.store(true, Ordering::Relaxed);
    let (mut leads, lease) = manager.watch().await;
    tokio::select! {
        leading = leads.wait_for(|leads| *leads) => { leading.context("the Lease")?; }
        () = stop.cancelled() => {}
    }
    if !stop.is_cancelled() {
        tracing::info!(lease = options.lease, identity = options.identity, "leading");
        metrics.lead(true);
        let defaults = Defaults {
            image: options.image.clone(),
            pull_policy: options.image_pull_policy.clone(),
            pull_secrets: options.image_pull_secrets.iter().filter(|name| !name.is_empty()).cloned().collect(),
        };
        let connector = Arc::new(ByService::default());
        let ctx =
            Arc::new(Context::new(client.clone(), defaults, connector, metrics.clone(), options.identity.clone()));
        let work = CancellationToken::new();
        let controllers = tokio::spawn(controllers(ctx, work.clone()));
        let declaring = tokio::spawn(declare(client, options, work.clone()));
        tokio::select! {
            () = stop.cancelled() => {}
            _ = leads.wait_for(|leads| !*leads) => bail!("the Lease was lost: starting again"),
        }
        work.cancel();
        if tokio::time::timeout(DRAIN, controllers).await.is_err() {
            tracing::warn!("rounds did not end in time");
        }
        declaring.abort();
    }
    // Without a receiver the Lease is given back, and another operator needs not wait for its end.
    drop(leads);
    match tokio::time::timeout(DRAIN, lease).await {
        Ok(Ok(Ok(_))) => {}
        other => tracing::warn!(?other, "the Lease was not given back; it ends by itself"),
    }
    metrics.lead(false);
    serving.await?.context("HTTP")
}

/// Keeps the chart's MetadataServers up, at start and whenever their ConfigMap changes.
async fn declare(client: Client, options: Run, stop: CancellationToken) {
    let Some(name) = options.declared else { return };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &options.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = std::pin::pin!(watcher(maps, config).default_backoff().applied_objects());
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = stop.cancelled() => return,
        };
        match change {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "watching the declared servers");
                continue;
            }
            None => return,
        }
        // The definitions may be younger than we are: what fails is tried again until it works.
        while let Err(error) = declared::apply(&client, &options.namespace, &name).await {
            tracing::warn!(error = format!("{error:#}"), "the chart's MetadataServers could not be made yet");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(3)) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Runs both reconcilers until `stop`.
pub async fn controllers(ctx: Arc<Context>, stop: CancellationToken) {
    let client = ctx.client.clone();
    let ours = watcher::Config::default().labels(names::LABEL_SERVER);
    let (servers, server_store) = changes::<MetadataServer>(Api::all(client.clone()));
    let of_mount = |mount: NoKVMount| {
        let target = &mount.spec.metadata_server;
        let namespace = target.namespace.clone().or_else(|| mount.namespace()).unwrap_or_default();
        Some(ObjectRef::<MetadataServer>::new(&target.name).within(&namespace))
    };
    let server_controller = Controller::for_stream(servers, server_store)
        .owns(Api::<StatefulSet>::all(client.clone()), ours.clone())
        .owns(Api::<Service>::all(client.clone()), ours.clone())
        .watches_stream(generations(Api::<NoKVMount>::all(client.clone())), of_mount)
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(server::reconcile, after_error, ctx.clone())
        .for_each(|_| std::future::ready(()));

    let (mounts, mount_store) = changes::<NoKVMount>(Api::all(client.clone()));
    let of_server = {
        let store = mount_store.clone();
        move |server: MetadataServer| mounts_of(&store, &server)
    };
    let ready_servers = watcher(Api::<MetadataServer>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .predicate_filter(readiness.combine(predicates::generation), Default::default());
    let mount_controller = Controller::for_stream(mounts, mount_store)
        .watches_stream(ready_servers, of_server)
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(mount::reconcile, after_error, ctx)
        .for_each(|_| std::future::ready(()));
    tokio::join!(server_controller, mount_controller);
}

fn after_error<K>(object: Arc<K>, error: &Error, ctx: Arc<Context>) -> Action
where
    K: Resource<DynamicType = ()>,
{
    let key = key(&*object);
    let pause = ctx.failed(&key);
    ctx.metrics.failure(if key.starts_with("NoKVMount") { "NoKVMount" } else { "MetadataServer" });
    tracing::warn!(object = key, %error, pause_s = pause.as_secs(), "will be tried again");
    Action::requeue(pause)
}

fn generations<K>(api: Api<K>) -> impl Stream<Item = Result<K, watcher::Error>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    watcher(api, watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .predicate_filter(predicates::generation, Default::default())
}

/// Changes of spec, labels and annotations, not of status: our own writing must not wake us.
fn changes<K>(api: Api<K>) -> (impl Stream<Item = Result<K, watcher::Error>> + Send + 'static, Store<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let filter = predicates::generation.combine(predicates::labels).combine(predicates::annotations);
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(filter, Default::default());
    (stream, reader)
}

fn readiness(server: &MetadataServer) -> Option<u64> {
    Some(u64::try_from(server.status.as_ref().map_or(0, |status| status.ready_replicas)).unwrap_or(0))
}

fn mounts_of(store: &Store<NoKVMount>, server: &MetadataServer) -> Vec<ObjectRef<NoKVMount>> {
    let uses = |mount: &Arc<NoKVMount>| {
        let target = &mount.spec.metadata_server;
        target.name == server.name_any() && target.namespace.clone().or_else(|| mount.namespace()) == server.namespace()
    };
    store.state().iter().filter(|mount| uses(mount)).map(|mount| ObjectRef::from_obj(&**mount)).collect()
}
