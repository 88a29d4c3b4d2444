//! `MetadataServer`: where metadata lives, and which S3 store holds the bytes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// A metadata server: its storage, its S3 store, its resources.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "nokv.io",
    version = "v1alpha1",
    kind = "MetadataServer",
    doc = "A metadata server of NoKV: holds the names and attributes of its volumes; their bytes are in S3.",
    namespaced,
    status = "MetadataServerStatus",
    derive = "PartialEq",
    shortname = "nms",
    category = "nokv",
    cel,
    validation = Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name of a MetadataServer is at most 40 of a-z, 0-9 and -, from a letter on: Services and volume handles carry it"),
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].status", name = "Ready", type_ = "string"),
    printcolumn(json_path = ".status.endpoint", name = "Endpoint", type_ = "string"),
    printcolumn(json_path = ".status.volumes", name = "Volumes", type_ = "integer"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].message", name = "Message", type_ = "string", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct MetadataServerSpec {
    /// Number of servers. Always 1: standbys don't exist yet.
    #[serde(default = "one")]
    #[x_kube(validation = Rule::new("self == 1").message("replicas must be 1: this version has no standbys"))]
    pub replicas: i32,
    /// Where the metadata is kept.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self.size == oldSelf.size && self.ephemeral == oldSelf.ephemeral && (!has(oldSelf.storageClassName) || (has(self.storageClassName) && self.storageClassName == oldSelf.storageClassName))").message("storage can't be changed, except to name a storageClassName where none was: resize the claim data-<name>-0 itself, or make a new MetadataServer"))]
    pub storage: Storage,
    /// The S3 store of all volumes on this server.
    pub object_store: ObjectStore,
    /// Other namespaces whose NoKVMounts may make volumes on this server and so get the S3 credentials; `*` admits all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_namespaces: Vec<String>,
    /// The image; the operator's own setting if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When to pull the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self in ['Always', 'IfNotPresent', 'Never']").message("imagePullPolicy is Always, IfNotPresent or Never"))]
    pub image_pull_policy: Option<String>,
    /// Secrets for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// What the server may use. The memory limit sizes its caches and how many records it takes.
    #[serde(default)]
    pub resources: Resources,
    /// Nodes that it may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "open_objects")]
    pub tolerations: Vec<Toleration>,
    /// Its PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Whether a NetworkPolicy admits nothing but the server's two ports.
    #[serde(default)]
    pub network_policy: bool,
}

/// Where metadata is kept.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("!(self.ephemeral && has(self.storageClassName))").message("ephemeral storage has no storageClassName: remove one of both"))]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of the claim.
    #[serde(default = "ten_gi")]
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$"))]
    pub size: String,
    /// StorageClass of the claim; the cluster's default one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Keep metadata in an emptyDir: ALL VOLUMES ARE LOST WITH THE POD. For trials only.
    #[serde(default)]
    pub ephemeral: bool,
}

/// An S3 store.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("self.endpoint == oldSelf.endpoint && self.bucket == oldSelf.bucket && self.prefix == oldSelf.prefix && self.region == oldSelf.region && self.pathStyle == oldSelf.pathStyle").message("the object store can't be changed: files and PersistentVolumes refer to it; make a new MetadataServer"))]
#[serde(rename_all = "camelCase")]
pub struct ObjectStore {
    /// URL.
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/ ]+/?$')").message("endpoint is a URL such as https://s3.example.com or http://store:9000, without a path"))]
    pub endpoint: String,
    /// Bucket. It must exist.
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,
    /// Put before every key, so that several servers can share a bucket.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub prefix: String,
    /// Region that requests are signed for.
    #[serde(default = "us_east_1")]
    pub region: String,
    /// Bucket in the path (most stores of one's own) instead of the host name (AWS).
    #[serde(default = "yes")]
    pub path_style: bool,
    /// Secret of the MetadataServer's namespace with the keys accessKey and secretKey.
    pub credentials_secret: CredentialsSecret,
}

/// Names a Secret of the same namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct CredentialsSecret {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Requests and limits, as in a container.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
pub struct Resources {
    /// What is set aside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
    /// What is allowed at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

/// What the operator observed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MetadataServerStatus {
    /// The generation that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `host:port` for mounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Servers that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// NoKVMounts that name this server.
    #[serde(default)]
    pub volumes: i64,
    /// When the first of its certificates ends (RFC 3339); they are renewed long before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates_end: Option<String>,
    /// Ready, Reconciling, StorageReady, CertificatesReady.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl Default for Storage {
    fn default() -> Self {
        Storage { size: ten_gi(), storage_class_name: None, ephemeral: false }
    }
}

impl Resources {
    /// As a container takes them.
    pub fn requirements(&self) -> ResourceRequirements {
        let quantities = |map: &BTreeMap<String, String>| {
            (!map.is_empty()).then(|| map.iter().map(|(name, text)| (name.clone(), Quantity(text.clone()))).collect())
        };
        ResourceRequirements { requests: quantities(&self.requests), limits: quantities(&self.limits), claims: None }
    }
}

impl MetadataServerSpec {
    /// Whether NoKVMounts of `namespace` may make volumes on this server, which itself is in `own`.
    pub fn admits(&self, own: &str, namespace: &str) -> bool {
        own == namespace || self.allowed_namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace)
    }
}

fn one() -> i32 {
    1
}

fn yes() -> bool {
    true
}

fn ten_gi() -> String {
    "10Gi".into()
}

fn us_east_1() -> String {
    "us-east-1".into()
}

/// A list of objects that the API server of the pods checks, not ours.
fn open_objects(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}
    })
}
