//! Where volumes come from: a metadata server named by flags, or MetadataServers of a cluster.

mod direct;
mod kubernetes;

use std::collections::HashMap;

use nokvfs_api::VolumeHandle;
use nokvfs_meta::service::VolumeService;
use nokvfs_types::{MetaError, Token, VolumeInfo, VolumeSpec};
use tonic::Status;

pub use direct::{Direct, S3Store};
pub use kubernetes::Kubernetes;

use crate::errors::from_meta;
use crate::parameters::{Parameters, Size};

/// Root directory of a new volume: access is what the claim grants, and pods run under any user.
const ROOT_MODE: u16 = 0o777;

/// A volume that is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The CO's name for it.
    pub name: String,
    /// How large.
    pub size: Size,
    /// Of the StorageClass.
    pub parameters: Parameters,
}

/// A volume that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provisioned {
    /// Its handle.
    pub handle: VolumeHandle,
    /// Its quota in bytes; 0: none.
    pub quota: u64,
    /// Its attributes, for the nodes. Left empty in listings.
    pub context: HashMap<String, String>,
}

/// Part of a listing.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Volumes.
    pub volumes: Vec<Provisioned>,
    /// Where to go on; empty at the end.
    pub next: String,
}

/// Makes volumes and knows them. All of it is idempotent.
#[async_trait::async_trait]
pub trait Provisioner: std::fmt::Debug + Send + Sync + 'static {
    /// Makes the volume, or finds the one of that name.
    async fn create(&self, wanted: &Wanted) -> Result<Provisioned, Status>;

    /// Deletes the volume and what was made for it. One that is gone is fine.
    async fn delete(&self, handle: &VolumeHandle) -> Result<(), Status>;

    /// The volume, or `NOT_FOUND`.
    async fn get(&self, handle: &VolumeHandle) -> Result<Provisioned, Status>;

    /// At most `limit` volumes from `token` on (empty: from the start). `ABORTED` for a token that is none.
    async fn list(&self, token: &str, limit: u32) -> Result<Page, Status>;

    /// Whether volumes can be made with these parameters at the moment.
    async fn check(&self, parameters: &Parameters) -> Result<(), Status>;

    /// Whether what this provisioner itself needs can be reached.
    async fn ready(&self) -> Result<(), Status>;
}

/// Makes a volume on a server, or finds it, and checks that it is as large as was asked.
async fn create_on(volumes: &dyn VolumeService, name: String, wanted: &Wanted) -> Result<(VolumeInfo, Token), Status> {
    let action = format!("creating volume {}", wanted.name);
    let spec = VolumeSpec {
        name,
        quota_bytes: wanted.size.quota(),
        quota_inodes: wanted.parameters.quota_inodes,
        root_mode: ROOT_MODE,
        root_uid: 0,
        root_gid: 0,
    };
    let created = volumes.create_volume(spec).await.map_err(|error| match error {
        // One of that name is being deleted: the CO tries again.
        MetaError::Busy(_) => Status::aborted(format!("{action}: {error}")),
        _ => from_meta(&action, &error),
    })?;
    if !wanted.size.admits(created.0.spec.quota_bytes) {
        return Err(Status::already_exists(format!(
            "{action}: it exists with a quota of {} bytes, which is not what is asked for now",
            created.0.spec.quota_bytes
        )));
    }
    Ok(created)
}
