//! The Identity service: who the driver is, what it can do, and whether it works.

use nokvfs_api::names::DRIVER;
use tonic::{Request, Response, Status};

use crate::health::Health;
use crate::proto::csi::identity_server::Identity;
use crate::proto::csi::plugin_capability::service::Type as Capability;
use crate::proto::csi::*;

/// Serves the Identity service.
#[derive(Clone, Debug)]
pub struct IdentityService {
    health: Health,
}

impl IdentityService {
    /// `health` answers probes.
    pub fn new(health: Health) -> Self {
        IdentityService { health }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: Default::default(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service = plugin_capability::Service { r#type: Capability::ControllerService.into() };
        let capability = PluginCapability { r#type: Some(plugin_capability::Type::Service(service)) };
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities: vec![capability] }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        // Not an error: the CO restarts a plugin that fails its probe, which helps nobody while a server is away.
        let ready = match self.health.check().await {
            Ok(()) => true,
            Err(status) => {
                tracing::warn!(error = status.message(), "not ready");
                false
            }
        };
        Ok(Response::new(ProbeResponse { ready: Some(ready) }))
    }
}
