//! Reconciles NoKVMounts: claims the volume on its server, makes its stage Secret and PersistentVolume, reports.
//!
//! On deletion the finalizer waits while the PersistentVolume is bound. With `Retain` it then releases at once, whether
//! the server lives or not. With `Delete` it goes on trying until the server deleted the volume; only if there is no such
//! MetadataServer any more it releases, with a warning, since nobody is left who could delete.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use nokvfs_api::{
    DeletionPolicy, MetadataServer, NoKVMount, StageCredentials, VolumeHandle, names, parse_bytes, persistent_volume,
    reasons, stage_secret,
};
use nokvfs_meta::service::VolumeService;
use nokvfs_types::{MetaError, VolumeInfo, VolumeSpec};

use crate::certificates::text;
use crate::context::{Context, Error, Result, apply_params, key};
use crate::mount_status::{Seen, Trouble, mount_status, was_ready};
use crate::secrets;

/// How often usage is read.
const REFRESH: Duration = Duration::from_secs(60);
/// How often a deletion that waits looks again.
const WAITING: Duration = Duration::from_secs(10);

type Outcome<T> = std::result::Result<T, Stop>;

/// Why a round ends early.
enum Stop {
    /// Told in the status.
    Trouble(Trouble),
    /// Not told.
    Error(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Error(error.into())
    }
}

fn trouble<T>(reason: &'static str, message: impl Into<String>) -> Outcome<T> {
    Err(Stop::Trouble(Trouble { reason, message: message.into() }))
}

/// What the server answered, as trouble of the mount.
fn refused(server: &str, error: MetaError) -> Stop {
    let (reason, message) = match error {
        MetaError::Unavailable(_) | MetaError::Deadline(_) => {
            (reasons::SERVER_NOT_READY, format!("the MetadataServer {server} does not answer: {error}"))
        }
        MetaError::Exists => (
            reasons::VOLUME_FAILED,
            format!(
                "{server} has a volume of this name with another root directory: give spec.root as it was made, or take another name"
            ),
        ),
        other => (reasons::VOLUME_FAILED, format!("{server}: {other}")),
    };
    Stop::Trouble(Trouble { reason, message })
}

/// One round for one mount.
pub async fn reconcile(mount: Arc<NoKVMount>, ctx: Arc<Context>) -> Result<Action> {
    let _timer = ctx.metrics.reconcile("NoKVMount");
    let managed = mount.labels().get(names::LABEL_CSI_MANAGED).is_some_and(|yes| yes == "true");
    if mount.metadata.deletion_timestamp.is_some() {
        return delete(&mount, &ctx).await;
    }
    let (name, own) = (mount.name_any(), mount.namespace().unwrap_or_default());
    let target = &mount.spec.metadata_server;
    let server = format!("{}/{}", target.namespace.as_deref().unwrap_or(&own), target.name);
    let outcome = match if managed { observe(&mount, &ctx).await } else { converge(&mount, &ctx).await } {
        Ok(seen) => Ok(seen),
        Err(Stop::Trouble(trouble)) => Err(trouble),
        Err(Stop::Error(error)) => return Err(error),
    };
    let new = mount_status(&mount, &server, outcome.as_ref(), Timestamp::now());
    let changed = mount.status.as_ref().and_then(|old| was_ready(&old.conditions)) != was_ready(&new.conditions);
    if mount.status.as_ref() != Some(&new) {
        let api: Api<NoKVMount> = Api::namespaced(ctx.client.clone(), &own);
        let patch = serde_json::json!({"apiVersion": "nokv.io/v1alpha1", "kind": "NoKVMount", "status": new});
        match api.patch_status(&name, &apply_params(), &Patch::Apply(&patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Action::await_change()),
            Err(error) => return Err(error.into()),
        }
    }
    match outcome {
        Ok(seen) => {
            if changed {
                let note = format!("volume {} on {server} can be mounted", seen.handle.volume);
                ctx.tell(&*mount, EventType::Normal, "VolumeReady", "Reconcile", &note).await;
            }
            ctx.succeeded(&key(&*mount));
            Ok(Action::requeue(REFRESH))
        }
        Err(trouble) => {
            if changed {
                ctx.tell(&*mount, EventType::Warning, trouble.reason, "Reconcile", &trouble.message).await;
            }
            Err(Error::Waits(trouble.message))
        }
    }
}

/// The server that a mount names, if it may use it.
async fn server_of(mount: &NoKVMount, ctx: &Context) -> Outcome<MetadataServer> {
    let target = &mount.spec.metadata_server;
    let own = mount.namespace().unwrap_or_default();
    let namespace = target.namespace.clone().unwrap_or_else(|| own.clone());
    let api: Api<MetadataServer> = Api::namespaced(ctx.client.clone(), &namespace);
    let Some(server) = api.get_opt(&target.name).await? else {
        return trouble(
            reasons::SERVER_NOT_FOUND,
            format!(
                "there is no MetadataServer {:?} in the namespace {namespace}: make it, or correct spec.metadataServer",
                target.name
            ),
        );
    };
    if !server.spec.admits(&namespace, &own) {
        return trouble(
            reasons::NAMESPACE_NOT_ALLOWED,
            format!(
                "the MetadataServer {namespace}/{} does not admit this namespace: add {own:?} to its spec.allowedNamespaces",
                target.name
            ),
        );
    }
    Ok(server)
}

async fn volumes_of(server: &MetadataServer, ctx: &Context) -> Outcome<Arc<dyn VolumeService>> {
    let (name, namespace) = (server.name_any(), server.namespace().unwrap_or_default());
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &namespace);
    let Some(control) = api.get_opt(&names::control_tls_secret(&name)).await? else {
        return trouble(
            reasons::SERVER_NOT_READY,
            format!("the MetadataServer {namespace}/{name} has no certificates yet"),
        );
    };
    ctx.connector
        .connect(&name, &namespace, &control)
        .await
        .map_err(|error| refused(&format!("{namespace}/{name}"), error))
}

/// A mount of the CSI controller: reports, and keeps certificates and S3 keys of its stage Secret current.
async fn observe(mount: &NoKVMount, ctx: &Context) -> Outcome<Seen> {
    let (name, own) = (mount.name_any(), mount.namespace().unwrap_or_default());
    let Some(volume) = mount.labels().get(names::LABEL_CSI_VOLUME) else {
        return trouble(
            reasons::INVALID,
            format!("the label {} is missing: the CSI controller writes it", names::LABEL_CSI_VOLUME),
        );
    };
    let server = server_of(mount, ctx).await?;
    let handle = VolumeHandle {
        namespace: server.namespace().unwrap_or_default(),
        server: server.name_any(),
        volume: volume.clone(),
    };
    let volumes = volumes_of(&server, ctx).await?;
    let info = lookup(&*volumes, &handle).await?;
    refresh(&server, ctx, &own, &names::mount_stage_secret(&name)).await?;
    // csi-provisioner names the volume as it asked for it, and so is the mount named.
    let all: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let volume = all.get_opt(&name).await?;
    let nodes = nodes(volume.as_ref(), ctx).await?;
    Ok(Seen { handle, info, persistent_volume: volume.map(|volume| volume.name_any()), nodes })
}

/// Brings the server's present certificates and S3 keys into a stage Secret that someone else made.
async fn refresh(server: &MetadataServer, ctx: &Context, namespace: &str, name: &str) -> Outcome<()> {
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    let Some(present) = api.get_opt(name).await? else {
        return trouble(
            reasons::INVALID,
            format!("the stage Secret {namespace}/{name} is gone: without it no node can mount the volume"),
        );
    };
    let Some(token) = text(&present, names::KEY_TOKEN) else {
        return trouble(reasons::INVALID, format!("the stage Secret {namespace}/{name} has no token"));
    };
    let wanted = stage_secret(name, namespace, Default::default(), &credentials(server, ctx, token).await?);
    if present.data != wanted.data {
        let patch = serde_json::json!({"data": wanted.data});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    Ok(())
}

async fn lookup(volumes: &dyn VolumeService, handle: &VolumeHandle) -> Outcome<VolumeInfo> {
    let server = format!("{}/{}", handle.namespace, handle.server);
    let Ok(id) = handle.volume.parse() else {
        return trouble(reasons::INVALID, format!("{:?} is no volume identity", handle.volume));
    };
    match volumes.volume(id).await {
        Ok(info) => Ok(info),
        Err(MetaError::NotFound) => trouble(
            reasons::VOLUME_MISSING,
            format!(
                "{server} has no volume {id}: was its metadata lost or the volume deleted? Restore the metadata, or delete this resource and make it anew, empty"
            ),
        ),
        Err(error) => Err(refused(&server, error)),
    }
}

/// Brings the volume, its Secret and its PersistentVolume to what the mount asks for.
async fn converge(mount: &NoKVMount, ctx: &Context) -> Outcome<Seen> {
    let (name, own) = (mount.name_any(), mount.namespace().unwrap_or_default());
    let server = server_of(mount, ctx).await?;
    let (server_name, server_namespace) = (server.name_any(), server.namespace().unwrap_or_default());
    let full = format!("{server_namespace}/{server_name}");
    let spec = volume_spec(mount)?;
    hold(mount, ctx).await?;
    let volumes = volumes_of(&server, ctx).await?;
    let all: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let present = all.get_opt(&names::mount_volume(&own, &name)).await?;
    // A volume that was known must still be there: one made anew under its name would show pods an empty directory.
    if let Some(known) = known(mount, present.as_ref()) {
        lookup(&*volumes, &known).await?;
    }
    let (mut info, token) = volumes.create_volume(spec.clone()).await.map_err(|error| refused(&full, error))?;
    if (info.spec.quota_bytes, info.spec.quota_inodes) != (spec.quota_bytes, spec.quota_inodes) {
        let changed = volumes.set_quota(info.id, spec.quota_bytes, spec.quota_inodes).await;
        info = changed.map_err(|error| refused(&full, error))?;
    }
    let handle = VolumeHandle { namespace: server_namespace, server: server_name, volume: info.id.to_string() };
    let labels = [(names::LABEL_MOUNT.to_owned(), name.clone())].into();
    let credentials = credentials(&server, ctx, token.to_hex()).await?;
    let secret = stage_secret(&names::mount_stage_secret(&name), &own, labels, &credentials);
    secrets::apply_owned(ctx, mount, secret).await?;
    let volume = persistent_volume(mount, &handle, &server.spec.object_store);
    let volume = all.patch(&volume.name_any(), &apply_params(), &Patch::Apply(&volume)).await?;
    let nodes = nodes(Some(&volume), ctx).await?;
    Ok(Seen { handle, info, persistent_volume: Some(volume.name_any()), nodes })
}

/// The handle that the mount had before, from its PersistentVolume or its status.
fn known(mount: &NoKVMount, volume: Option<&PersistentVolume>) -> Option<VolumeHandle> {
    let of_volume = volume.and_then(|volume| volume.spec.as_ref()?.csi.as_ref()).map(|csi| csi.volume_handle.clone());
    let of_status = mount.status.as_ref().and_then(|status| status.volume_handle.clone());
    of_volume.or(of_status)?.parse().ok()
}

fn volume_spec(mount: &NoKVMount) -> Outcome<VolumeSpec> {
    let spec = &mount.spec;
    let quota_bytes = match spec.quota.bytes.as_deref().map(parse_bytes) {
        None => 0,
        Some(Ok(bytes)) => bytes,
        Some(Err(error)) => return trouble(reasons::INVALID, format!("spec.quota.bytes: {error}")),
    };
    let Ok(root_mode) = u16::from_str_radix(&spec.root.mode, 8) else {
        return trouble(reasons::INVALID, "spec.root.mode: write an octal mode such as 0755");
    };
    let number = |what: &str, value: i64| match u32::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => trouble(reasons::INVALID, format!("spec.root.{what}: {value} is no id")),
    };
    Ok(VolumeSpec {
        name: names::mount_volume(&mount.namespace().unwrap_or_default(), &mount.name_any()),
        quota_bytes,
        quota_inodes: u64::try_from(spec.quota.inodes.unwrap_or(0)).unwrap_or(0),
        root_mode,
        root_uid: number("uid", spec.root.uid)?,
        root_gid: number("gid", spec.root.gid)?,
    })
}

async fn credentials(server: &MetadataServer, ctx: &Context, token: String) -> Outcome<StageCredentials> {
    let (name, namespace) = (server.name_any(), server.namespace().unwrap_or_default());
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &namespace);
    let mount = api.get_opt(&names::mount_tls_secret(&name)).await?.unwrap_or_default();
    let take = |key: &str| text(&mount, key);
    let (Some(ca), Some(cert), Some(key)) =
        (take(names::KEY_CA_CERT), take(names::KEY_TLS_CERT), take(names::KEY_TLS_KEY))
    else {
        return trouble(
            reasons::SERVER_NOT_READY,
            format!("the MetadataServer {namespace}/{name} has no certificates yet"),
        );
    };
    match secrets::credentials(ctx, server).await? {
        Ok((access_key, secret_key)) => Ok(StageCredentials { token, ca, cert, key, access_key, secret_key }),
        Err(message) => trouble(reasons::CREDENTIALS_MISSING, message),
    }
}

/// Nodes with pods that use the claim of the volume.
async fn nodes(volume: Option<&PersistentVolume>, ctx: &Context) -> Result<Vec<String>> {
    let claim = volume.and_then(|volume| volume.spec.as_ref()?.claim_ref.clone());
    let Some((namespace, claim)) = claim.and_then(|claim| Some((claim.namespace?, claim.name?))) else {
        return Ok(vec![]);
    };
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let pods = api.list(&ListParams::default().limit(500)).await?;
    let uses = |pod: &&Pod| {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        volumes
            .iter()
            .any(|volume| volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim))
    };
    let alive = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let used = pods.items.iter().filter(uses).filter(alive);
    let mut nodes: Vec<String> = used.filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    nodes.sort();
    nodes.dedup();
    Ok(nodes)
}

/// Puts the finalizer on.
async fn hold(mount: &NoKVMount, ctx: &Context) -> Result<()> {
    if mount.finalizers().iter().any(|name| name == names::MOUNT_FINALIZER) {
        return Ok(());
    }
    let mut finalizers = mount.finalizers().to_vec();
    finalizers.push(names::MOUNT_FINALIZER.into());
    set_finalizers(mount, ctx, &finalizers).await
}

async fn set_finalizers(mount: &NoKVMount, ctx: &Context, finalizers: &[String]) -> Result<()> {
    let api: Api<NoKVMount> = Api::namespaced(ctx.client.clone(), &mount.namespace().unwrap_or_default());
    // The version makes it fail, and be tried again, if someone else changed the list meanwhile.
    let patch = serde_json::json!({"metadata": {
        "finalizers": finalizers, "resourceVersion": mount.metadata.resource_version, "uid": mount.metadata.uid,
    }});
    api.patch(&mount.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

async fn delete(mount: &NoKVMount, ctx: &Context) -> Result<Action> {
    if !mount.finalizers().iter().any(|name| name == names::MOUNT_FINALIZER) {
        return Ok(Action::await_change());
    }
    match release(mount, ctx).await {
        Ok(()) => {
            let rest: Vec<String> =
                mount.finalizers().iter().filter(|name| *name != names::MOUNT_FINALIZER).cloned().collect();
            set_finalizers(mount, ctx, &rest).await?;
            ctx.succeeded(&key(mount));
            Ok(Action::await_change())
        }
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::Trouble(trouble)) => {
            let target = &mount.spec.metadata_server;
            let own = mount.namespace().unwrap_or_default();
            let server = format!("{}/{}", target.namespace.as_deref().unwrap_or(&own), target.name);
            let new = mount_status(mount, &server, Err(&trouble), Timestamp::now());
            let changed =
                mount.status.as_ref().and_then(|old| was_ready(&old.conditions)) != was_ready(&new.conditions);
            if mount.status.as_ref() != Some(&new) {
                let api: Api<NoKVMount> = Api::namespaced(ctx.client.clone(), &own);
                let patch = serde_json::json!({"apiVersion": "nokv.io/v1alpha1", "kind": "NoKVMount", "status": new});
                api.patch_status(&mount.name_any(), &apply_params(), &Patch::Apply(&patch)).await?;
            }
            if changed {
                ctx.tell(mount, EventType::Warning, trouble.reason, "Delete", &trouble.message).await;
            }
            Ok(Action::requeue(WAITING))
        }
    }
}

/// Undoes what the mount made. Trouble means that the deletion waits.
async fn release(mount: &NoKVMount, ctx: &Context) -> Outcome<()> {
    let (name, own) = (mount.name_any(), mount.namespace().unwrap_or_default());
    let all: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let volume_name = names::mount_volume(&own, &name);
    let volume = all.get_opt(&volume_name).await?.filter(|volume| {
        volume.labels().get(names::LABEL_MOUNT) == Some(&name)
            && volume.labels().get(names::LABEL_MOUNT_NAMESPACE) == Some(&own)
    });
    if let Some(volume) = &volume {
        let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if let (true, Some(claim)) = (bound, claim) {
            let claim = format!(
                "{}/{}",
                claim.namespace.as_deref().unwrap_or_default(),
                claim.name.as_deref().unwrap_or_default()
            );
            return trouble(
                reasons::DELETION_WAITS,
                format!("the claim {claim} is bound to the volume: delete it first"),
            );
        }
    }
    if mount.spec.deletion_policy == DeletionPolicy::Delete
        && let Some(known) = known(mount, volume.as_ref())
    {
        delete_volume(mount, ctx, &known).await?;
    }
    if volume.is_some() {
        match all.delete(&volume_name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn delete_volume(mount: &NoKVMount, ctx: &Context, known: &VolumeHandle) -> Outcome<()> {
    let api: Api<MetadataServer> = Api::namespaced(ctx.client.clone(), &known.namespace);
    let Some(server) = api.get_opt(&known.server).await? else {
        let note = format!(
            "the MetadataServer {}/{} is gone: the data of volume {} could not be deleted and stays in its bucket",
            known.namespace, known.server, known.volume
        );
        ctx.tell(mount, EventType::Warning, "DataLeft", "Delete", &note).await;
        return Ok(());
    };
    let volumes = volumes_of(&server, ctx).await?;
    let Ok(id) = known.volume.parse() else {
        return Ok(());
    };
    match volumes.delete_volume(id).await {
        Ok(()) => Ok(()),
        Err(MetaError::Busy(what)) => {
            trouble(reasons::DELETION_WAITS, format!("the volume is in use ({what}): stop the pods that mount it"))
        }
        Err(error) => Err(refused(&format!("{}/{}", known.namespace, known.server), error)),
    }
}
