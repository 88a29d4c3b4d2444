//! Registers the driver with the kubelet, which watches a directory for sockets and asks who is there.

use std::path::PathBuf;

use nokvfs_api::names::DRIVER;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::proto::registration::registration_server::Registration;
use crate::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};

/// The CSI versions that the kubelet may ask for.
const VERSIONS: [&str; 1] = ["1.0.0"];

/// The name of the socket in the kubelet's registration directory.
///
/// The kubelet's gRPC client sends the socket's path as `:authority`, with `/` as `%2F`. A strict HTTP/2 server refuses
/// that as a malformed host (kubernetes/kubernetes#108254). With an `@` in the file name all of the path is user
/// information, which may be percent-encoded, and the driver's name is the host.
pub fn socket_name() -> String {
    format!("reg@{DRIVER}-reg.sock")
}

/// Answers the kubelet.
#[derive(Clone, Debug)]
pub struct RegistrationService {
    endpoint: PathBuf,
    refused: mpsc::Sender<String>,
}

impl RegistrationService {
    /// `endpoint` is the driver's socket as the kubelet sees it; what the kubelet refuses is sent to `refused`.
    pub fn new(endpoint: PathBuf, refused: mpsc::Sender<String>) -> Self {
        RegistrationService { endpoint, refused }
    }
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("registered with the kubelet");
        } else if self.refused.try_send(status.error).is_err() {
            tracing::debug!("an earlier refusal is being handled");
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
