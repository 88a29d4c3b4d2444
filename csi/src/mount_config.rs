//! From what Kubernetes hands over (volume attributes and the stage Secret) to what the mounter needs.

use std::collections::HashMap;

use nokvfs_api::{VolumeAttributes, VolumeHandle, names};
use nokvfs_protocol::mounter::{MountConfig, S3Config, Secret, TlsConfig};
use tonic::Status;

/// Longest `client` text that a metadata server takes.
const MAX_CLIENT: usize = 256;

/// Builds the mounter's configuration.
pub fn mount_config(
    handle: &VolumeHandle,
    context: &HashMap<String, String>,
    secrets: &HashMap<String, String>,
    node: &str,
    read_only: bool,
) -> Result<MountConfig, Status> {
    let attributes = VolumeAttributes::from_map(|key| context.get(key).map(String::as_str)).map_err(|key| {
        Status::invalid_argument(format!(
            "volumeAttributes of {handle} lack a usable {key:?}: delete the PersistentVolume and let NoKV make it again"
        ))
    })?;
    let secret = |key: &'static str| {
        secrets.get(key).filter(|value| !value.is_empty()).map(Secret::new).ok_or_else(|| {
            Status::failed_precondition(format!(
                "the Secret of {handle} lacks {key:?}: the PersistentVolume's nodeStageSecretRef (and nodePublishSecretRef) must name its <name>-stage Secret"
            ))
        })
    };
    if attributes.volume != handle.volume {
        let message = format!("volumeAttributes name volume {}, the handle is {handle}", attributes.volume);
        return Err(Status::invalid_argument(message));
    }
    let tls = match secrets.get(names::KEY_CA_CERT) {
        None => None,
        Some(ca) => Some(TlsConfig {
            ca: ca.clone(),
            cert: secret(names::KEY_TLS_CERT)?.reveal().to_owned(),
            key: secret(names::KEY_TLS_KEY)?,
            server_name: None,
        }),
    };
    let client = match context.get("csi.storage.k8s.io/pod.name") {
        Some(pod) => format!("{node}/{pod}"),
        None => node.to_owned(),
    };
    let cut = client.floor_char_boundary(MAX_CLIENT);
    Ok(MountConfig {
        server: attributes.server,
        volume: attributes.volume,
        token: secret(self::names::KEY_TOKEN)?,
        tls,
        s3: S3Config {
            endpoint: attributes.s3_endpoint,
            bucket: attributes.s3_bucket,
            prefix: attributes.s3_prefix,
            region: attributes.s3_region,
            path_style: attributes.s3_path_style,
            access_key: secret(self::names::KEY_ACCESS_KEY)?,
            secret_key: secret(self::names::KEY_SECRET_KEY)?,
        },
        read_only,
        client: client[..cut].to_owned(),
        buffer_bytes: None,
    })
}
