//! The Node service: what the kubelet asks on each node. It keeps nothing between calls but which ones run: the mount
//! table and the mounter tell the rest, so a restart forgets nothing.

mod mounter;
mod publish;
mod stage;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use nokvfs_api::VolumeHandle;
use tonic::{Code, Request, Response, Status};

pub use mounter::Mounter;
pub use publish::Target;
pub use stage::{StageRequest, Stager};

use crate::capability::Access;
use crate::in_flight::InFlight;
use crate::mounts::State;
use crate::proto::csi::node_server::Node;
use crate::proto::csi::node_service_capability::rpc::Type as Capability;
use crate::proto::csi::volume_health::VolumeHealthEntry;
use crate::proto::csi::volume_usage::Unit;
use crate::proto::csi::*;
use crate::stage_secrets::StageSecrets;
use crate::volume_id::parse_handle;

/// Serves the Node service.
#[derive(Clone, Debug)]
pub struct NodeService {
    stager: Arc<Stager>,
    in_flight: InFlight,
    secrets: Option<StageSecrets>,
}

impl NodeService {
    /// `secrets` replaces what the kubelet would pass, where there is none.
    pub fn new(stager: Stager, secrets: Option<StageSecrets>) -> Self {
        NodeService { stager: Arc::new(stager), in_flight: InFlight::default(), secrets }
    }

    fn path(&self, what: &str, path: &str) -> Result<PathBuf, Status> {
        if path.is_empty() {
            return Err(Status::invalid_argument(format!("{what} is missing")));
        }
        self.stager.mounts.dir.resolve(path).ok_or_else(|| {
            Status::invalid_argument(format!("{what} {path:?} is not below the kubelet's directory: see --kubelet-dir"))
        })
    }

    async fn request(
        &self,
        handle: VolumeHandle,
        access: Access,
        context: HashMap<String, String>,
        secrets: HashMap<String, String>,
    ) -> Result<StageRequest, Status> {
        let secrets = match &self.secrets {
            Some(store) if secrets.is_empty() => store.read(&handle).await?,
            _ => secrets,
        };
        Ok(StageRequest { handle, access, context, secrets })
    }
}

/// Runs to its end even if the caller goes away: half a mount is worse than one nobody waited for.
async fn uncancelled<T: Send + 'static>(
    operation: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    tokio::spawn(operation).await.map_err(|error| Status::internal(error.to_string()))?
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let asked = request.into_inner();
        if asked.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let path = self.path("staging_target_path", &asked.staging_target_path)?;
        let access = Access::check(asked.volume_capability.as_ref())?;
        let handle = parse_handle(&asked.volume_id, Code::NotFound)?;
        let running = self.in_flight.volume(&asked.volume_id)?;
        let stage = self.request(handle, access, asked.volume_context, asked.secrets).await?;
        let stager = self.stager.clone();
        uncancelled(async move {
            let _running = running;
            stager.stage(&path, &stage).await.map(drop)
        })
        .await?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let asked = request.into_inner();
        if asked.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let path = self.path("staging_target_path", &asked.staging_target_path)?;
        let running = self.in_flight.volume(&asked.volume_id)?;
        let stager = self.stager.clone();
        uncancelled(async move {
            let _running = running;
            stager.unstage(&path, &asked.volume_id).await
        })
        .await?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let asked = request.into_inner();
        if asked.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let path = self.path("target_path", &asked.target_path)?;
        let access = Access::check(asked.volume_capability.as_ref())?;
        let stage_path = self.path("staging_target_path", &asked.staging_target_path)?;
        let handle = parse_handle(&asked.volume_id, Code::NotFound)?;
        // A single writer's targets are counted, and a dead stage is made again: then nothing else may run beside.
        let running = match self.stager.state(&stage_path, &asked.volume_id).await? {
            State::Alive(..) if !access.single_writer => self.in_flight.target(&asked.volume_id, &asked.target_path)?,
            _ => self.in_flight.volume(&asked.volume_id)?,
        };
        let read_only = asked.readonly || access.read_only;
        let stage = self.request(handle, access, asked.volume_context, asked.secrets).await?;
        let stager = self.stager.clone();
        uncancelled(async move {
            let _running = running;
            stager.publish(Target { stage: &stage_path, path: &path, read_only }, &stage).await
        })
        .await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let asked = request.into_inner();
        if asked.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let path = self.path("target_path", &asked.target_path)?;
        let running = self.in_flight.target(&asked.volume_id, &asked.target_path)?;
        let stager = self.stager.clone();
        uncancelled(async move {
            let _running = running;
            stager.unpublish(&path, &asked.volume_id).await
        })
        .await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let asked = request.into_inner();
        if asked.volume_id.is_empty() || asked.volume_path.is_empty() {
            return Err(Status::invalid_argument("volume_id or volume_path is missing"));
        }
        let missing = || Status::not_found(format!("{} is not mounted at {}", asked.volume_id, asked.volume_path));
        let path = self.stager.mounts.dir.resolve(&asked.volume_path).ok_or_else(missing)?;
        match self.stager.state(&path, &asked.volume_id).await? {
            State::Alive(_, look) => Ok(Response::new(NodeGetVolumeStatsResponse {
                usage: vec![usage(look.bytes, Unit::Bytes), usage(look.inodes, Unit::Inodes)],
            })),
            State::Absent | State::Foreign(_) => Err(missing()),
            State::Dead => Err(Status::unavailable(format!("{} lost its daemon", asked.volume_id))),
            State::Hung => Err(stage::hung(&path, &asked.volume_id)),
        }
    }

    async fn node_get_volume_health(
        &self,
        request: Request<NodeGetVolumeHealthRequest>,
    ) -> Result<Response<NodeGetVolumeHealthResponse>, Status> {
        let asked = request.into_inner();
        if asked.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let health_statuses = self.health(&asked).await?;
        Ok(Response::new(NodeGetVolumeHealthResponse {
            volume_health: Some(VolumeHealth { volume_id: asked.volume_id, health_statuses }),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities = [
            Capability::StageUnstageVolume,
            Capability::GetVolumeStats,
            Capability::GetVolumeHealth,
            Capability::SingleNodeMultiWriter,
        ];
        let capability = |kind: Capability| NodeServiceCapability {
            r#type: Some(node_service_capability::Type::Rpc(node_service_capability::Rpc { r#type: kind.into() })),
        };
        let capabilities = capabilities.into_iter().map(capability).collect();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.stager.node.clone(),
            max_volumes_per_node: self.stager.mounter.capacity().await?,
            accessible_topology: None,
        }))
    }
}

impl NodeService {
    /// What is wrong with a volume on this node; empty if nothing is.
    async fn health(&self, asked: &NodeGetVolumeHealthRequest) -> Result<Vec<VolumeHealthEntry>, Status> {
        let named = [&asked.volume_publish_path, &asked.staging_target_path].into_iter().find(|path| !path.is_empty());
        let missing = || Status::not_found(format!("{} is not mounted on this node", asked.volume_id));
        let path = match named {
            Some(path) => self.stager.mounts.dir.resolve(path).ok_or_else(missing)?,
            None => {
                let mounts =
                    self.stager.mounts.of(&asked.volume_id).map_err(|error| Status::internal(error.to_string()))?;
                mounts.into_iter().next().ok_or_else(missing)?.point
            }
        };
        let entry = |status: VolumeHealthErrorType, reason: &str, message: String| VolumeHealthEntry {
            status: status.into(),
            reason: reason.to_owned(),
            message,
        };
        let state = self.stager.state(&path, &asked.volume_id).await?;
        Ok(match state {
            State::Absent | State::Foreign(_) => return Err(missing()),
            State::Dead => {
                let message =
                    "no daemon serves the mount any more: delete the pods that use it on this node".to_owned();
                vec![entry(VolumeHealthErrorType::Inaccessible, "DaemonLost", message)]
            }
            State::Hung => {
                let message =
                    "the mount did not answer within 5 s: check its metadata server and the S3 store".to_owned();
                vec![entry(VolumeHealthErrorType::Inaccessible, "NotAnswering", message)]
            }
            State::Alive(..) => {
                match self.stager.mounter.served(&asked.volume_id).await?.and_then(|state| state.trouble) {
                    Some(trouble) => vec![entry(VolumeHealthErrorType::Degraded, "Trouble", trouble)],
                    None => Vec::new(),
                }
            }
        })
    }
}

fn usage((total, free): (u64, u64), unit: Unit) -> VolumeUsage {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    VolumeUsage {
        available: number(free),
        total: number(total),
        used: number(total.saturating_sub(free)),
        unit: unit.into(),
    }
}
