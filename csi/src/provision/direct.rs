//! Volumes of one metadata server that is named by flags, on machines without Kubernetes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nokvfs_api::{VolumeAttributes, VolumeHandle, names};
use nokvfs_client::{Endpoint, RemoteVolumes, TlsConfig};
use nokvfs_meta::service::VolumeService;
use nokvfs_types::{MetaError, VolumeInfo, VolumeState};
use tonic::Status;

use super::{Page, Provisioned, Provisioner, Wanted, create_on};
use crate::errors::from_meta;
use crate::parameters::Parameters;
use crate::stage_secrets::StageSecrets;
use crate::volume_id::{identity, server_name};

/// Stands for namespace and MetadataServer in handles.
const PLACE: &str = "direct";

/// How long the server may take to come up.
const CONNECT: Duration = Duration::from_secs(60);

/// How long it may take to say that it lives.
const PING: Duration = Duration::from_secs(5);

/// Listing tokens are this and the hex of the last name.
const TOKEN_PREFIX: &str = "after-";

/// The S3 store of the server's volumes.
#[derive(Clone, Debug)]
pub struct S3Store {
    /// URL.
    pub endpoint: String,
    /// Bucket.
    pub bucket: String,
    /// Key prefix.
    pub prefix: String,
    /// Region.
    pub region: String,
    /// Bucket in the path.
    pub path_style: bool,
    /// Keys `accessKey` and `secretKey`, and those of the TLS of mounts: what stage Secrets hold beside the token.
    pub secrets: HashMap<String, String>,
}

/// One server's volumes.
#[derive(Debug)]
pub struct Direct {
    server: String,
    volumes: RemoteVolumes,
    store: S3Store,
    secrets: StageSecrets,
}

impl Direct {
    /// Connects to the server.
    pub async fn connect(
        server: &str,
        tls: Option<TlsConfig>,
        store: S3Store,
        secrets: StageSecrets,
    ) -> anyhow::Result<Self> {
        let endpoint: Endpoint = server.parse()?;
        let volumes = RemoteVolumes::connect(endpoint, tls, Instant::now() + CONNECT).await?;
        Ok(Direct { server: server.to_owned(), volumes, store, secrets })
    }

    fn describe(&self, info: &VolumeInfo) -> Provisioned {
        let handle = VolumeHandle { namespace: PLACE.into(), server: PLACE.into(), volume: info.id.to_string() };
        let attributes = VolumeAttributes {
            server: self.server.clone(),
            volume: handle.volume.clone(),
            s3_endpoint: self.store.endpoint.clone(),
            s3_bucket: self.store.bucket.clone(),
            s3_prefix: self.store.prefix.clone(),
            s3_region: self.store.region.clone(),
            s3_path_style: self.store.path_style,
        };
        Provisioned { handle, quota: info.spec.quota_bytes, context: attributes.to_map().into_iter().collect() }
    }

    async fn ping(&self) -> Result<(), Status> {
        let pinged = self.volumes.ping(Instant::now() + PING).await;
        pinged.map_err(|error| from_meta(&format!("metadata server {}", self.server), &error))
    }
}

#[async_trait::async_trait]
impl Provisioner for Direct {
    async fn create(&self, wanted: &Wanted) -> Result<Provisioned, Status> {
        let (info, token) = create_on(&self.volumes, server_name(&wanted.name), wanted).await?;
        let volume = self.describe(&info);
        let mut secret = self.store.secrets.clone();
        secret.insert(names::KEY_TOKEN.to_owned(), token.to_hex());
        self.secrets.write(&volume.handle, secret).await?;
        Ok(volume)
    }

    async fn delete(&self, handle: &VolumeHandle) -> Result<(), Status> {
        if handle.server != PLACE || handle.namespace != PLACE {
            return Ok(());
        }
        match self.volumes.delete_volume(identity(handle)?).await {
            Ok(()) | Err(MetaError::NotFound) => self.secrets.remove(handle).await,
            Err(error) => Err(from_meta(&format!("deleting {handle}"), &error)),
        }
    }

    async fn get(&self, handle: &VolumeHandle) -> Result<Provisioned, Status> {
        let info = self.volumes.volume(identity(handle)?).await;
        match info.map_err(|error| from_meta(&format!("volume {handle}"), &error))? {
            info if info.state == VolumeState::Active && handle.server == PLACE => Ok(self.describe(&info)),
            _ => Err(Status::not_found(format!("volume {handle} is deleted"))),
        }
    }

    async fn list(&self, token: &str, limit: u32) -> Result<Page, Status> {
        let after = match token {
            "" => None,
            token => Some(
                decode(token)
                    .ok_or_else(|| Status::aborted("starting_token is not one of this driver: list from the start"))?,
            ),
        };
        let infos = self.volumes.list_volumes(after.as_deref(), limit).await;
        let infos = infos.map_err(|error| from_meta("listing volumes", &error))?;
        let next = match infos.last() {
            Some(last) if infos.len() == limit as usize => format!("{TOKEN_PREFIX}{}", hex::encode(&last.spec.name)),
            _ => String::new(),
        };
        let active = infos.iter().filter(|info| info.state == VolumeState::Active);
        Ok(Page { volumes: active.map(|info| self.describe(info)).collect(), next })
    }

    async fn check(&self, _: &Parameters) -> Result<(), Status> {
        self.ping().await
    }

    async fn ready(&self) -> Result<(), Status> {
        self.ping().await
    }
}

fn decode(token: &str) -> Option<String> {
    String::from_utf8(hex::decode(token.strip_prefix(TOKEN_PREFIX)?).ok()?).ok()
}
