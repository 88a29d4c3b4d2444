//! The way to a server's volumes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use nokvfs_api::names;
use nokvfs_client::{RemoteVolumes, TlsConfig};
use nokvfs_meta::service::{MetaResult, VolumeService};
use nokvfs_types::MetaError;
use parking_lot::Mutex;

use crate::certificates::text;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Most connections kept; one per MetadataServer is used.
const MAX_KEPT: usize = 256;

/// Reaches metadata servers. A boundary of its own since tests have no cluster DNS.
#[async_trait::async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Volumes of the server `name` in `namespace`, with the certificate of its control Secret.
    async fn connect(&self, name: &str, namespace: &str, control: &Secret) -> MetaResult<Arc<dyn VolumeService>>;
}

/// Namespace and name of a server.
type ServerKey = (String, String);
/// The version of the control Secret that a connection was made with, and the connection.
type Kept = (String, Arc<RemoteVolumes>);

/// Keeps one connection per server and certificate.
#[derive(Default)]
pub struct ByService {
    kept: Mutex<HashMap<ServerKey, Kept>>,
}

/// The client's certificates in a TLS Secret.
pub fn tls(control: &Secret) -> MetaResult<TlsConfig> {
    let take = |key: &str| {
        let name = control.metadata.name.as_deref().unwrap_or_default();
        text(control, key).ok_or_else(|| MetaError::Invalid(format!("the Secret {name} has no {key}")))
    };
    Ok(TlsConfig {
        ca: take(names::KEY_CA_CERT)?,
        cert: take(names::KEY_TLS_CERT)?,
        key: take(names::KEY_TLS_KEY)?,
        server_name: None,
    })
}

#[async_trait::async_trait]
impl Connector for ByService {
    async fn connect(&self, name: &str, namespace: &str, control: &Secret) -> MetaResult<Arc<dyn VolumeService>> {
        let key = (namespace.to_owned(), name.to_owned());
        let version = control.metadata.resource_version.clone().unwrap_or_default();
        if let Some((kept_version, volumes)) = self.kept.lock().get(&key)
            && *kept_version == version
        {
            return Ok(volumes.clone());
        }
        let endpoint = names::endpoint(name, namespace).parse()?;
        let volumes = Arc::new(RemoteVolumes::connect(endpoint, Some(tls(control)?), Instant::now() + CONNECT).await?);
        let mut kept = self.kept.lock();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, (version, volumes.clone()));
        Ok(volumes)
    }
}
