//! Before an uninstall: nothing may be left that only the operator could finish.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use nokvfs_api::{NoKVMount, names};
use tokio::time::{Instant, sleep};

use crate::options::Release;

const PAUSE: Duration = Duration::from_secs(1);
const PAGE: u32 = 500;

/// Refuses while pods use volumes; then stops the operator and takes its finalizers off. No volume is deleted by this.
pub async fn release(client: Client, options: &Release) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(options.wait_seconds);
    loop {
        let users = pods_with_volumes(&client).await?;
        if users.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            bail!(
                "these pods use volumes of {}: {}. Uninstalling would take their file system away: delete them first, \
                 or uninstall with --no-hooks if they may break",
                names::DRIVER,
                users.into_iter().take(20).collect::<Vec<_>>().join(", ")
            );
        }
        sleep(PAUSE).await;
    }
    stop_operator(&client, options, deadline).await?;
    let released = take_finalizers(&client).await?;
    tracing::info!(released, "no pod uses a volume, the operator is stopped, no finalizer is left; all data stays");
    Ok(())
}

/// Pods that use a claim bound to a volume of our driver.
async fn pods_with_volumes(client: &Client) -> anyhow::Result<Vec<String>> {
    let mut claims = BTreeSet::new();
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = volumes.list(&params).await.context("listing PersistentVolumes")?;
        for volume in page.items {
            let Some(spec) =
                volume.spec.filter(|spec| spec.csi.as_ref().is_some_and(|csi| csi.driver == names::DRIVER))
            else {
                continue;
            };
            if let Some(claim) = spec.claim_ref {
                claims.insert((claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default()));
            }
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => break,
        }
    }
    let mut users = vec![];
    let namespaces: BTreeSet<&String> = claims.iter().map(|(namespace, _)| namespace).collect();
    for namespace in namespaces {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        for pod in pods.list(&ListParams::default()).await.context("listing pods")?.items {
            let finished = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
            let uses = volumes.iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
            let ours = uses.into_iter().any(|claim| claims.contains(&(namespace.clone(), claim.claim_name.clone())));
            if ours && !matches!(finished, Some("Succeeded" | "Failed")) {
                users.push(format!("{namespace}/{}", pod.name_any()));
            }
        }
    }
    Ok(users)
}

async fn stop_operator(client: &Client, options: &Release, deadline: Instant) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &options.namespace);
    let patch = serde_json::json!({"spec": {"replicas": 0}});
    match deployments.patch_scale(&options.deployment, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error).context("stopping the operator"),
    }
    loop {
        let left = deployments.get_opt(&options.deployment).await?.and_then(|deployment| deployment.status);
        if left.and_then(|status| status.replicas).unwrap_or(0) == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("the operator did not stop within {} s: see its pod, then uninstall again", options.wait_seconds);
        }
        sleep(PAUSE).await;
    }
}

async fn take_finalizers(client: &Client) -> anyhow::Result<usize> {
    let all: Api<NoKVMount> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    let mut released = 0;
    loop {
        let page = match all.list(&params).await {
            Ok(page) => page,
            // No definition, no resources.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(released),
            Err(error) => return Err(error).context("listing NoKVMounts"),
        };
        for mount in page.items {
            let keep: Vec<&String> = mount.finalizers().iter().filter(|name| *name != names::MOUNT_FINALIZER).collect();
            if keep.len() == mount.finalizers().len() {
                continue;
            }
            let api: Api<NoKVMount> = Api::namespaced(client.clone(), &mount.namespace().unwrap_or_default());
            let patch = serde_json::json!({"metadata": {"finalizers": keep}});
            match api.patch(&mount.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => released += 1,
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error).context("taking a finalizer off"),
            }
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(released),
        }
    }
}
