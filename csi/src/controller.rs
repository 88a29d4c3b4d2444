//! The Controller service: makes, deletes and lists volumes.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Request, Response, Status};

use crate::capability::Access;
use crate::in_flight::InFlight;
use crate::parameters::{Parameters, Size};
use crate::proto::csi::controller_server::Controller;
use crate::proto::csi::controller_service_capability::rpc::Type as Capability;
use crate::proto::csi::*;
use crate::provision::{Provisioned, Provisioner, Wanted};
use crate::volume_id::{check_name, parse_handle};

/// Most volumes of one reply: about 500 bytes each, well below gRPC's 4 MiB.
const MAX_PAGE: u32 = 1_000;

/// Below the 60 s of csi-provisioner, so that it hears why. What was begun is found again by the next call.
const CALL: Duration = Duration::from_secs(50);

/// Serves the Controller service.
#[derive(Clone, Debug)]
pub struct ControllerService {
    provisioner: Arc<dyn Provisioner>,
    in_flight: InFlight,
}

impl ControllerService {
    /// Volumes come from `provisioner`.
    pub fn new(provisioner: Arc<dyn Provisioner>) -> Self {
        ControllerService { provisioner, in_flight: InFlight::default() }
    }
}

#[tonic::async_trait]
impl Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let asked = request.into_inner();
        check_name(&asked.name)?;
        Access::check_all(&asked.volume_capabilities)?;
        if asked.volume_content_source.is_some() {
            return Err(Status::invalid_argument(
                "volumes from snapshots or other volumes are not supported: remove dataSource",
            ));
        }
        if !asked.mutable_parameters.is_empty() {
            return Err(Status::invalid_argument(
                "VolumeAttributesClasses are not supported: remove volumeAttributesClassName",
            ));
        }
        let wanted = Wanted {
            size: Size::parse(asked.capacity_range.as_ref())?,
            parameters: Parameters::parse(&asked.parameters)?,
            name: asked.name,
        };
        let _running = self.in_flight.volume(&wanted.name)?;
        let volume = bounded(self.provisioner.create(&wanted)).await?;
        tracing::info!(name = wanted.name, volume = %volume.handle, "volume is there");
        Ok(Response::new(CreateVolumeResponse { volume: Some(to_volume(volume)) }))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let id = request.into_inner().volume_id;
        let handle = match parse_handle(&id, Code::NotFound) {
            // A handle that is none of ours names nothing that could be deleted.
            Err(status) if status.code() == Code::NotFound => return Ok(Response::new(DeleteVolumeResponse {})),
            other => other?,
        };
        let _running = self.in_flight.volume(&id)?;
        bounded(self.provisioner.delete(&handle)).await?;
        tracing::info!(volume = %handle, "volume is deleted");
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let asked = request.into_inner();
        let handle = parse_handle(&asked.volume_id, Code::NotFound)?;
        if asked.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("volume_capabilities is empty"));
        }
        bounded(self.provisioner.get(&handle)).await?;
        let refusal = Access::check_all(&asked.volume_capabilities)
            .and_then(|()| Parameters::parse(&asked.parameters).map(drop))
            .err();
        let response = match refusal {
            Some(status) => {
                ValidateVolumeCapabilitiesResponse { confirmed: None, message: status.message().to_owned() }
            }
            None => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(validate_volume_capabilities_response::Confirmed {
                    volume_context: asked.volume_context,
                    volume_capabilities: asked.volume_capabilities,
                    parameters: asked.parameters,
                    mutable_parameters: asked.mutable_parameters,
                }),
                message: String::new(),
            },
        };
        Ok(Response::new(response))
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let asked = request.into_inner();
        let limit = match u32::try_from(asked.max_entries) {
            Err(_) => return Err(Status::invalid_argument("max_entries is negative")),
            Ok(0) => MAX_PAGE,
            Ok(limit) => limit.min(MAX_PAGE),
        };
        let page = bounded(self.provisioner.list(&asked.starting_token, limit)).await?;
        let entry = |volume| list_volumes_response::Entry { volume: Some(to_volume(volume)), status: None };
        let entries = page.volumes.into_iter().map(entry).collect();
        Ok(Response::new(ListVolumesResponse { entries, next_token: page.next }))
    }

    async fn get_capacity(
        &self,
        request: Request<GetCapacityRequest>,
    ) -> Result<Response<GetCapacityResponse>, Status> {
        let asked = request.into_inner();
        let mut available_capacity = 0;
        if asked.volume_capabilities.is_empty() || Access::check_all(&asked.volume_capabilities).is_ok() {
            bounded(self.provisioner.check(&Parameters::parse(&asked.parameters)?)).await?;
            // An S3 store has no size; quotas are limits, nothing is set aside for a new volume.
            available_capacity = i64::MAX;
        }
        Ok(Response::new(GetCapacityResponse {
            available_capacity,
            maximum_volume_size: None,
            minimum_volume_size: None,
        }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let capabilities = [
            Capability::CreateDeleteVolume,
            Capability::ListVolumes,
            Capability::GetCapacity,
            Capability::GetVolume,
            Capability::SingleNodeMultiWriter,
        ];
        let capability = |kind: Capability| ControllerServiceCapability {
            r#type: Some(controller_service_capability::Type::Rpc(controller_service_capability::Rpc {
                r#type: kind.into(),
            })),
        };
        let capabilities = capabilities.into_iter().map(capability).collect();
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn controller_get_volume(
        &self,
        request: Request<ControllerGetVolumeRequest>,
    ) -> Result<Response<ControllerGetVolumeResponse>, Status> {
        let handle = parse_handle(&request.into_inner().volume_id, Code::NotFound)?;
        let volume = bounded(self.provisioner.get(&handle)).await?;
        let status = controller_get_volume_response::VolumeStatus::default();
        Ok(Response::new(ControllerGetVolumeResponse { volume: Some(to_volume(volume)), status: Some(status) }))
    }
}

async fn bounded<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(CALL, call).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!(
            "no answer within {CALL:?} from API server or metadata server: it is tried again"
        )))
    })
}

fn to_volume(volume: Provisioned) -> Volume {
    Volume {
        capacity_bytes: i64::try_from(volume.quota).unwrap_or(i64::MAX),
        volume_id: volume.handle.to_string(),
        volume_context: volume.context,
        content_source: None,
        accessible_topology: Vec::new(),
    }
}
