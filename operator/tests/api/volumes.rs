//! Volumes in memory behind the operator's own boundary: this tier is about the API server. The remote service is
//! tested where it is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use nokvfs_meta::service::{MetaResult, VolumeService};
use nokvfs_operator::volumes::{Connector, tls};
use nokvfs_types::{MetaError, MountId, Token, VolumeId, VolumeInfo, VolumeSpec, VolumeState, VolumeUsage};
use parking_lot::Mutex;

#[derive(Debug, Default)]
pub struct Volumes {
    pub all: Mutex<BTreeMap<String, VolumeInfo>>,
}

pub struct InMemory(pub Arc<Volumes>);

#[async_trait::async_trait]
impl Connector for InMemory {
    async fn connect(&self, _: &str, _: &str, control: &Secret) -> MetaResult<Arc<dyn VolumeService>> {
        tls(control)?;
        Ok(self.0.clone())
    }
}

impl Volumes {
    fn find<T>(&self, id: VolumeId, then: impl FnOnce(&mut VolumeInfo) -> T) -> MetaResult<T> {
        self.all.lock().values_mut().find(|info| info.id == id).map(then).ok_or(MetaError::NotFound)
    }
}

#[async_trait::async_trait]
impl VolumeService for Volumes {
    async fn create_volume(&self, spec: VolumeSpec) -> MetaResult<(VolumeInfo, Token)> {
        let mut all = self.all.lock();
        let number = MountId(all.len() as u64 + 1);
        let info = all.entry(spec.name.clone()).or_insert_with(|| VolumeInfo {
            id: VolumeId::random(),
            mount: number,
            spec,
            state: VolumeState::Active,
            usage: VolumeUsage { bytes: 1 << 20, inodes: 3 },
            sessions: 1,
            origins: Vec::new(),
        });
        Ok((info.clone(), Token([7; 32])))
    }

    async fn volume(&self, id: VolumeId) -> MetaResult<VolumeInfo> {
        self.find(id, |info| info.clone())
    }

    async fn list_volumes(&self, _: Option<&str>, _: u32) -> MetaResult<Vec<VolumeInfo>> {
        Ok(self.all.lock().values().cloned().collect())
    }

    async fn set_quota(&self, id: VolumeId, bytes: u64, inodes: u64) -> MetaResult<VolumeInfo> {
        self.find(id, |info| {
            (info.spec.quota_bytes, info.spec.quota_inodes) = (bytes, inodes);
            info.clone()
        })
    }

    async fn delete_volume(&self, id: VolumeId) -> MetaResult<()> {
        self.all.lock().retain(|_, info| info.id != id);
        Ok(())
    }
}
