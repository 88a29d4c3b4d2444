use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Server};

use crate::proto::registration::registration_client::RegistrationClient;
use crate::proto::registration::registration_server::RegistrationServer;
use crate::proto::registration::{InfoRequest, RegistrationStatus};
use crate::registration::{RegistrationService, socket_name};
use crate::sockets::listen;

async fn dial(path: &Path) -> RegistrationClient<Channel> {
    let path = path.to_path_buf();
    let path_text = path.display().to_string();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // As the kubelet's client does it: the escaped path is the authority.
    let authority = path_text.replace('/', "%2F");
    let channel =
        Endpoint::from_shared(format!("http://{authority}")).unwrap().connect_with_connector(connector).await.unwrap();
    RegistrationClient::new(channel)
}

#[tokio::test]
async fn the_kubelet_learns_the_endpoint_and_its_refusal_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(socket_name());
    let (refuse, mut refused) = mpsc::channel(1);
    let service = RegistrationService::new(PathBuf::from("/var/lib/kubelet/plugins/csi.nokv.io/csi.sock"), refuse);
    let sockets = listen(&path).await.unwrap();
    let served =
        tokio::spawn(Server::builder().add_service(RegistrationServer::new(service)).serve_with_incoming(sockets));
    let mut kubelet = dial(&path).await;
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.nokv.io"));
    assert_eq!(info.endpoint, "/var/lib/kubelet/plugins/csi.nokv.io/csi.sock");
    assert_eq!(info.supported_versions, ["1.0.0"]);
    let told = |plugin_registered, error: &str| RegistrationStatus { plugin_registered, error: error.to_owned() };
    kubelet.notify_registration_status(told(true, "")).await.unwrap();
    assert!(refused.try_recv().is_err());
    kubelet.notify_registration_status(told(false, "no such node")).await.unwrap();
    assert_eq!(refused.recv().await.unwrap(), "no such node");
    served.abort();
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("csi.sock");
    drop(listen(&path).await.unwrap());
    let living = listen(&path).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(listen(&path).await.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(living);
    let file = dir.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    assert_eq!(listen(&file).await.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
}
