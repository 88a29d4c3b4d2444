//! Volume attributes and the PersistentVolume of a NoKVMount.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeSpec, SecretReference};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ObjectMeta;

use crate::{NoKVMount, ObjectStore, VolumeHandle, names};

/// What a PersistentVolume says about its volume, without any secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeAttributes {
    /// `host:port` of the metadata server.
    pub server: String,
    /// The volume's UUID.
    pub volume: String,
    /// URL of the S3 store.
    pub s3_endpoint: String,
    /// Bucket.
    pub s3_bucket: String,
    /// Prefix of all keys.
    pub s3_prefix: String,
    /// Region.
    pub s3_region: String,
    /// Bucket in the path.
    pub s3_path_style: bool,
}

impl VolumeAttributes {
    /// Those of the volume `handle`, whose server keeps bytes in `store`.
    pub fn new(handle: &VolumeHandle, store: &ObjectStore) -> Self {
        VolumeAttributes {
            server: names::endpoint(&handle.server, &handle.namespace),
            volume: handle.volume.clone(),
            s3_endpoint: store.endpoint.clone(),
            s3_bucket: store.bucket.clone(),
            s3_prefix: store.prefix.clone(),
            s3_region: store.region.clone(),
            s3_path_style: store.path_style,
        }
    }

    /// As a PersistentVolume carries them.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let path_style = self.s3_path_style.to_string();
        [
            (names::ATTR_SERVER, &self.server),
            (names::ATTR_VOLUME, &self.volume),
            (names::ATTR_S3_ENDPOINT, &self.s3_endpoint),
            (names::ATTR_S3_BUCKET, &self.s3_bucket),
            (names::ATTR_S3_PREFIX, &self.s3_prefix),
            (names::ATTR_S3_REGION, &self.s3_region),
            (names::ATTR_S3_PATH_STYLE, &path_style),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
    }

    /// Reads them back. Answers the attribute that is missing or wrong.
    pub fn from_map<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, &'static str> {
        let take = |key: &'static str| get(key).filter(|text| !text.is_empty()).map(str::to_owned).ok_or(key);
        Ok(VolumeAttributes {
            server: take(names::ATTR_SERVER)?,
            volume: take(names::ATTR_VOLUME)?,
            s3_endpoint: take(names::ATTR_S3_ENDPOINT)?,
            s3_bucket: take(names::ATTR_S3_BUCKET)?,
            s3_prefix: get(names::ATTR_S3_PREFIX).unwrap_or_default().to_owned(),
            s3_region: take(names::ATTR_S3_REGION)?,
            s3_path_style: match get(names::ATTR_S3_PATH_STYLE) {
                Some("true") => true,
                Some("false") => false,
                _ => return Err(names::ATTR_S3_PATH_STYLE),
            },
        })
    }
}

/// Kubernetes wants a capacity of every PersistentVolume; a volume without a quota shows this one.
const UNLIMITED: &str = "1Pi";

/// The PersistentVolume of a NoKVMount. It keeps the data (`Retain`): the NoKVMount's deletion policy decides on that.
/// Reserved for no claim: one names it in `volumeName`.
pub fn persistent_volume(mount: &NoKVMount, handle: &VolumeHandle, store: &ObjectStore) -> PersistentVolume {
    let name = mount.metadata.name.clone().unwrap_or_default();
    let namespace = mount.metadata.namespace.clone().unwrap_or_default();
    let labels = BTreeMap::from([
        (names::LABEL_MOUNT.to_owned(), name.clone()),
        (names::LABEL_MOUNT_NAMESPACE.to_owned(), namespace.clone()),
    ]);
    let secret = SecretReference { name: Some(names::mount_stage_secret(&name)), namespace: Some(namespace.clone()) };
    let capacity = mount.spec.quota.bytes.clone().unwrap_or_else(|| UNLIMITED.into());
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(names::mount_volume(&namespace, &name)),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(vec!["ReadWriteMany".into()]),
            capacity: Some(BTreeMap::from([("storage".to_owned(), Quantity(capacity))])),
            persistent_volume_reclaim_policy: Some("Retain".into()),
            // No class: a claim that names the volume must say storageClassName: "" as well.
            storage_class_name: Some(String::new()),
            volume_mode: Some("Filesystem".into()),
            csi: Some(CSIPersistentVolumeSource {
                driver: names::DRIVER.into(),
                volume_handle: handle.to_string(),
                volume_attributes: Some(VolumeAttributes::new(handle, store).to_map()),
                // Publishing stages again after a mounter was restarted.
                node_publish_secret_ref: Some(secret.clone()),
                node_stage_secret_ref: Some(secret),
                ..CSIPersistentVolumeSource::default()
            }),
            ..PersistentVolumeSpec::default()
        }),
        ..PersistentVolume::default()
    }
}
