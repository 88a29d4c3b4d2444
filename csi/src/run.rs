//! Starts a mode and ends it on SIGTERM.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::controller::ControllerService;
use crate::health::Health;
use crate::identity::IdentityService;
use crate::mounts::Mounts;
use crate::mounts::kubelet_dir::KubeletDir;
use crate::mounts::probe::Prober;
use crate::node::{Mounter, NodeService, Stager};
use crate::options::{ControllerOptions, NodeOptions};
use crate::proto::csi::controller_server::ControllerServer;
use crate::proto::csi::identity_server::IdentityServer;
use crate::proto::csi::node_server::NodeServer;
use crate::proto::registration::registration_server::RegistrationServer;
use crate::provision::{Direct, Kubernetes, Provisioner};
use crate::registration::{RegistrationService, socket_name};
use crate::sockets::listen;
use crate::stage_secrets::StageSecrets;

/// Calls that run when the signal comes may end within this time; a mount that is under way takes 40 s at most.
const DRAIN: Duration = Duration::from_secs(45);

/// Runs the controller until it is told to stop.
pub async fn controller(options: ControllerOptions) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let provisioner: Arc<dyn Provisioner> = match &options.direct.server {
        Some(server) => {
            let dir = options.direct.stage_secrets_dir.clone().context("--stage-secrets-dir is missing")?;
            let (tls, store) = (options.direct.tls()?, options.direct.store()?);
            Arc::new(Direct::connect(server, tls, store, StageSecrets::new(dir)).await?)
        }
        None => {
            let namespace = options.namespace.clone().context("--namespace is missing")?;
            let client = kube::Client::try_default().await.context("the API server of this cluster")?;
            Arc::new(Kubernetes::new(client, namespace))
        }
    };
    let health = Health::Controller(provisioner.clone());
    let sockets = listen(&options.endpoint).await?;
    let http = tokio::spawn(health.clone().serve(options.http, stop.clone()));
    tracing::info!(endpoint = %options.endpoint.display(), "the controller serves");
    let grpc = Server::builder()
        .add_service(IdentityServer::new(IdentityService::new(health)))
        .add_service(ControllerServer::new(ControllerService::new(provisioner)))
        .serve_with_incoming_shutdown(sockets, stop.clone().cancelled_owned());
    drain(grpc, stop).await?;
    http.await?.with_context(|| format!("--http {}", options.http))
}

/// Runs the node plugin until it is told to stop, or the kubelet refuses it.
pub async fn node(options: NodeOptions) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let mounter = Mounter::new(options.mounter_socket);
    let dir = KubeletDir::new(&options.kubelet_dir)
        .with_context(|| format!("--kubelet-dir {}", options.kubelet_dir.display()))?;
    let program = std::env::current_exe().context("the path of this program")?;
    let stager =
        Stager { mounts: Mounts::new(dir, Prober::new(program)), mounter: mounter.clone(), node: options.node_id };
    let service = NodeService::new(stager, options.stage_secrets_dir.map(StageSecrets::new));
    let health = Health::Node(mounter);
    let sockets = listen(&options.endpoint).await?;
    let http = tokio::spawn(health.clone().serve(options.http, stop.clone()));
    let (refuse, mut refused) = mpsc::channel(1);
    // Held here too, so that without a registration nothing is taken for a refusal.
    let registration = match (options.registration_dir, options.kubelet_csi_path) {
        (Some(dir), Some(endpoint)) => {
            let path = dir.join(socket_name());
            let sockets = listen(&path).await?;
            let service = RegistrationService::new(endpoint, refuse.clone());
            let served = Server::builder()
                .add_service(RegistrationServer::new(service))
                .serve_with_incoming_shutdown(sockets, stop.clone().cancelled_owned());
            Some((tokio::spawn(served), path))
        }
        _ => None,
    };
    tracing::info!(endpoint = %options.endpoint.display(), "the node plugin serves");
    let grpc = Server::builder()
        .add_service(IdentityServer::new(IdentityService::new(health)))
        .add_service(NodeServer::new(service))
        .serve_with_incoming_shutdown(sockets, stop.clone().cancelled_owned());
    let refusal = tokio::select! {
        ended = drain(grpc, stop.clone()) => { ended?; None }
        reason = refused.recv() => reason,
    };
    drop(refuse);
    stop.cancel();
    http.await?.with_context(|| format!("--http {}", options.http))?;
    if let Some((served, path)) = registration {
        served.await??;
        // The kubelet takes a socket that vanishes for a plugin that went away.
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    match refusal {
        None => Ok(()),
        Some(reason) => {
            anyhow::bail!("the kubelet refused the registration ({reason}): started again, it asks once more")
        }
    }
}

/// Serves until it ends, or for [`DRAIN`] after the signal.
async fn drain(
    serving: impl Future<Output = Result<(), tonic::transport::Error>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        served = serving => Ok(served?),
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => {
            tracing::warn!("calls did not end within {DRAIN:?} of the signal");
            Ok(())
        }
    }
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("stopping");
        told.cancel();
    });
    Ok(stop)
}
