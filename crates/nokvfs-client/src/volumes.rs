//! Volumes of a remote server.

use std::time::{Duration, Instant};

use nokvfs_meta::service::{CheckService, MetaResult, SnapshotService, VolumeService};
use nokvfs_protocol::{Answer, Call};
use nokvfs_types::{CheckSpec, CheckStep, CloneSpec, MetaError, SnapshotInfo, Token, VolumeId, VolumeInfo, VolumeSpec};

use crate::channel::{Channel, Peer};
use crate::{Endpoint, TlsConfig, unexpected};

/// How long a call waits for its answer, reconnecting included.
const CALL: Duration = Duration::from_secs(20);

/// [`VolumeService`], [`SnapshotService`] and [`CheckService`] of a remote server. Every call is idempotent and repeated
/// when the connection is lost.
#[derive(Debug)]
pub struct RemoteVolumes {
    channel: Channel,
}

impl RemoteVolumes {
    /// Connects. With TLS the certificate must be one of the role `nokv-control`.
    ///
    /// # Errors
    /// [`MetaError::Unauthorized`] if the certificates are refused, [`MetaError::Unavailable`] if the server can't be
    /// reached until the deadline, [`MetaError::Invalid`] for certificates that can't be read.
    pub async fn connect(endpoint: Endpoint, tls: Option<TlsConfig>, deadline: Instant) -> MetaResult<RemoteVolumes> {
        let peer = Peer::new(endpoint, tls.as_ref(), concat!("nokv-control/", env!("CARGO_PKG_VERSION")))?;
        let connection = peer.connect_until(deadline).await?;
        Ok(RemoteVolumes { channel: Channel::keep(peer, connection, None) })
    }

    /// Asks whether the server answers.
    pub async fn ping(&self, deadline: Instant) -> MetaResult<()> {
        match self.channel.call(&Call::Ping, deadline).await? {
            Answer::Unit => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn call(&self, call: Call) -> MetaResult<Answer> {
        self.channel.call(&call, Instant::now() + CALL).await
    }
}

#[async_trait::async_trait]
impl VolumeService for RemoteVolumes {
    async fn create_volume(&self, spec: VolumeSpec) -> MetaResult<(VolumeInfo, Token)> {
        match self.call(Call::CreateVolume(spec)).await? {
            Answer::Created(info, token) => Ok((info, token)),
            other => Err(unexpected(&other)),
        }
    }

    async fn volume(&self, id: VolumeId) -> MetaResult<VolumeInfo> {
        match self.call(Call::Volume(id)).await? {
            Answer::Volume(info) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }

    async fn list_volumes(&self, after: Option<&str>, limit: u32) -> MetaResult<Vec<VolumeInfo>> {
        match self.call(Call::ListVolumes { after: after.map(str::to_owned), limit }).await? {
            Answer::Volumes(volumes) => Ok(volumes),
            other => Err(unexpected(&other)),
        }
    }

    async fn set_quota(&self, id: VolumeId, bytes: u64, inodes: u64) -> MetaResult<VolumeInfo> {
        match self.call(Call::SetQuota { id, bytes, inodes }).await? {
            Answer::Volume(info) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }

    async fn delete_volume(&self, id: VolumeId) -> MetaResult<()> {
        match self.call(Call::DeleteVolume(id)).await? {
            Answer::Unit => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

#[async_trait::async_trait]
impl SnapshotService for RemoteVolumes {
    async fn create_snapshot(&self, volume: VolumeId, name: &str) -> MetaResult<SnapshotInfo> {
        match self.call(Call::CreateSnapshot(volume, name.to_owned())).await? {
            Answer::Snapshot(info) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }

    async fn list_snapshots(&self, volume: VolumeId) -> MetaResult<Vec<SnapshotInfo>> {
        match self.call(Call::ListSnapshots(volume)).await? {
            Answer::Snapshots(infos) => Ok(infos),
            other => Err(unexpected(&other)),
        }
    }

    async fn delete_snapshot(&self, volume: VolumeId, name: &str) -> MetaResult<()> {
        match self.call(Call::DeleteSnapshot(volume, name.to_owned())).await? {
            Answer::Unit => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn clone_volume(&self, spec: CloneSpec) -> MetaResult<(VolumeInfo, Token)> {
        match self.call(Call::CloneVolume(spec)).await? {
            Answer::Created(info, token) => Ok((info, token)),
            other => Err(unexpected(&other)),
        }
    }

    async fn rollback_volume(&self, volume: VolumeId, snapshot: &str) -> MetaResult<VolumeInfo> {
        match self.call(Call::RollbackVolume(volume, snapshot.to_owned())).await? {
            Answer::Volume(info) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }
}

#[async_trait::async_trait]
impl CheckService for RemoteVolumes {
    async fn check(&self, run: u64, step: u32, spec: CheckSpec) -> MetaResult<CheckStep> {
        match self.call(Call::Check(run, step, spec)).await? {
            Answer::Check(step) => Ok(step),
            other => Err(unexpected(&other)),
        }
    }
}

impl From<crate::EndpointError> for MetaError {
    fn from(error: crate::EndpointError) -> Self {
        MetaError::Invalid(error.to_string())
    }
}
