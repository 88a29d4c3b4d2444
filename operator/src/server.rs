//! Reconciles MetadataServers. They carry no finalizer: what belongs to one goes by owner references, its claim and its
//! certificate authority stay, so that a server of the same name finds all volumes again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use nokvfs_api::{ConditionStatus, MetadataServer, NoKVMount, types};

use crate::context::{Context, Error, Result, apply_params, key};
use crate::desired::{self, Desired, Inputs};
use crate::status::{Observed, StorageState, status};
use crate::{readiness, secrets};

/// How often a server that is well is looked at: certificates are renewed and changed S3 keys found by this. Watching
/// Secrets instead would need the right to list all of the cluster's.
const CALM: Duration = Duration::from_secs(120);
/// How often one that waits for something nobody tells us about.
const WAITING: Duration = Duration::from_secs(10);

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// One round for one server.
pub async fn reconcile(server: Arc<MetadataServer>, ctx: Arc<Context>) -> Result<Action> {
    let _timer = ctx.metrics.reconcile("MetadataServer");
    if server.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    // Boxed: with an HTTP exchange in it, it is large.
    let observed = Box::pin(converge(&server, &ctx, now)).await?;
    let new = status(&server, &observed, now);
    let ready = |all: &[nokvfs_api::Condition]| {
        all.iter().find(|condition| condition.kind == types::READY).map(|ready| (ready.status, ready.reason.clone()))
    };
    let before = server.status.as_ref().and_then(|status| ready(&status.conditions));
    let after = ready(&new.conditions);
    let message =
        new.conditions.iter().find(|condition| condition.kind == types::READY).map(|ready| ready.message.clone());
    if server.status.as_ref() != Some(&new) {
        let api: Api<MetadataServer> = Api::namespaced(ctx.client.clone(), &server.namespace().unwrap_or_default());
        let patch = serde_json::json!({"apiVersion": "nokv.io/v1alpha1", "kind": "MetadataServer", "status": new});
        api.patch_status(&server.name_any(), &apply_params(), &Patch::Apply(&patch)).await?;
    }
    if before != after
        && let (Some((state, reason)), Some(message)) = (&after, message)
    {
        let kind = if *state == ConditionStatus::True { EventType::Normal } else { EventType::Warning };
        ctx.tell(&*server, kind, reason, "Reconcile", &message).await;
    }
    if let Some(trouble) = observed.apply {
        return Err(Error::Waits(trouble));
    }
    ctx.succeeded(&key(&*server));
    let well = after.is_some_and(|(state, _)| state == ConditionStatus::True) && observed.current;
    Ok(Action::requeue(if well { CALM } else { WAITING }))
}

/// Brings the cluster to what the server asks for, as far as it goes, and answers what is there.
async fn converge(server: &MetadataServer, ctx: &Context, now: Timestamp) -> Result<Observed> {
    let mut observed = Observed {
        storage: storage(server, ctx).await?,
        credentials: None,
        certificates: None,
        certificates_end: None,
        apply: None,
        ready: 0,
        unready: None,
        current: false,
        volumes: volumes(server, ctx).await?,
    };
    let secrets = match secrets::ensure(ctx, server, now).await {
        Ok(secrets) => Some(secrets),
        Err(Error::Certificates(error)) => {
            observed.certificates = Some(error.to_string());
            None
        }
        Err(error) => return Err(error),
    };
    let keys = match secrets::credentials(ctx, server).await? {
        Ok(keys) => Some(keys),
        Err(trouble) => {
            observed.credentials = Some(trouble);
            None
        }
    };
    let pods: Api<StatefulSet> = Api::namespaced(ctx.client.clone(), &server.namespace().unwrap_or_default());
    let present = pods.get_opt(&server.name_any()).await?;
    observed.certificates_end = secrets.as_ref().and_then(secrets::ServerSecrets::end);
    let inputs = Inputs {
        secrets_digest: digest(secrets.as_ref(), keys.as_ref()),
        claim_templates: present.as_ref().and_then(|set| set.spec.as_ref()?.volume_claim_templates.clone()),
        // A server that runs is never taken away because something it was made from is missing today.
        storage: secrets.is_some() && keys.is_some() && observed.storage.usable(),
    };
    match apply(ctx, server, &desired::desired(server, &ctx.defaults, &inputs)).await {
        Ok(applied) => {
            let has_pods = applied.is_some();
            let set = applied.or(present);
            let generation = set.as_ref().and_then(|set| set.metadata.generation);
            let status = set.and_then(|set| set.status).unwrap_or_default();
            observed.ready = status.ready_replicas.unwrap_or(0);
            observed.current = status.observed_generation == generation
                && status.updated_replicas.unwrap_or(0) == server.spec.replicas
                && observed.ready == server.spec.replicas;
            if has_pods && observed.ready == 0 {
                observed.unready = readiness::unready(&ctx.client, server).await;
            }
        }
        Err(error) => observed.apply = Some(format!("{error}; the operator goes on trying")),
    }
    Ok(observed)
}

async fn apply(ctx: &Context, server: &MetadataServer, desired: &Desired) -> Result<Option<StatefulSet>> {
    ctx.apply(&desired.headless).await?;
    ctx.apply(&desired.service).await?;
    ctx.apply(&desired.budget).await?;
    match &desired.policy {
        Some(policy) => {
            ctx.apply(policy).await?;
        }
        None => remove_policy(ctx, server).await?,
    }
    match &desired.pods {
        Some(pods) => Ok(Some(ctx.apply(pods).await?)),
        None => Ok(None),
    }
}

async fn remove_policy(ctx: &Context, server: &MetadataServer) -> Result<()> {
    let api: Api<NetworkPolicy> = Api::namespaced(ctx.client.clone(), &server.namespace().unwrap_or_default());
    let ours = api.get_opt(&server.name_any()).await?.is_some_and(|policy| {
        policy.owner_references().iter().any(|owner| Some(&owner.uid) == server.metadata.uid.as_ref())
    });
    if ours {
        api.delete(&server.name_any(), &DeleteParams::default()).await?;
    }
    Ok(())
}

async fn storage(server: &MetadataServer, ctx: &Context) -> Result<StorageState> {
    if server.spec.storage.ephemeral {
        return Ok(StorageState::Ephemeral);
    }
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(ctx.client.clone(), &server.namespace().unwrap_or_default());
    let claim = claims.get_opt(&desired::claim(&server.name_any())).await?;
    if let Some(claim) = &claim {
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        if bound {
            return Ok(StorageState::Bound);
        }
    }
    let classes: Api<StorageClass> = Api::all(ctx.client.clone());
    match &server.spec.storage.storage_class_name {
        // The empty name means a volume that someone makes by hand.
        Some(name) if name.is_empty() => Ok(StorageState::Pending),
        Some(name) => Ok(match classes.get_opt(name).await? {
            Some(_) => StorageState::Pending,
            None => StorageState::UnknownClass(name.clone()),
        }),
        None => {
            let is_default =
                |class: &StorageClass| class.annotations().get(DEFAULT_CLASS).is_some_and(|yes| yes == "true");
            let any = classes.list(&ListParams::default()).await?.items.iter().any(is_default);
            Ok(if any { StorageState::Pending } else { StorageState::NoClass })
        }
    }
}

/// NoKVMounts that name the server.
async fn volumes(server: &MetadataServer, ctx: &Context) -> Result<i64> {
    let (name, own) = (server.name_any(), server.namespace().unwrap_or_default());
    let all: Api<NoKVMount> = Api::all(ctx.client.clone());
    let mut params = ListParams::default().limit(500);
    let mut count = 0;
    loop {
        let page = all.list(&params).await?;
        for mount in &page.items {
            let target = &mount.spec.metadata_server;
            let namespace = target.namespace.clone().or_else(|| mount.namespace());
            count += i64::from(target.name == name && namespace.as_deref() == Some(&own));
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(count),
        }
    }
}

/// Changes with what the pod mounts. Not reversible: 64 bits of keyed hash over certificates and keys.
fn digest(secrets: Option<&secrets::ServerSecrets>, keys: Option<&(String, String)>) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    if let Some(secrets) = secrets {
        secrets.server.data.iter().flatten().for_each(|(key, value)| (key, &value.0).hash(&mut hasher));
    }
    keys.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
