//! Names, labels, keys and ports that several programs must agree on.

/// The CSI driver.
pub const DRIVER: &str = "csi.nokv.io";
/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "nokv-operator";
/// Port of the metadata RPC.
pub const RPC_PORT: u16 = 7440;
/// Port of `/healthz`, `/readyz` and `/metrics`.
pub const HTTP_PORT: u16 = 7441;

/// On PersistentVolumes and Secrets: the NoKVMount they belong to.
pub const LABEL_MOUNT: &str = "nokv.io/mount";
/// Beside [`LABEL_MOUNT`]: its namespace.
pub const LABEL_MOUNT_NAMESPACE: &str = "nokv.io/mount-namespace";
/// On everything made for a MetadataServer: its name.
pub const LABEL_SERVER: &str = "nokv.io/metadata-server";
/// On NoKVMounts that the CSI controller made for a PersistentVolumeClaim: `true`. The operator only reports on those.
pub const LABEL_CSI_MANAGED: &str = "csi.nokv.io/managed";
/// On NoKVMounts of the CSI controller: the volume's UUID.
pub const LABEL_CSI_VOLUME: &str = "csi.nokv.io/volume";
/// Finalizer of NoKVMounts.
pub const MOUNT_FINALIZER: &str = "nokv.io/mount";

/// Common name of the certificate that may create and delete volumes.
pub const CONTROL_COMMON_NAME: &str = "nokv-control";
/// Common name of the certificate that may open sessions.
pub const MOUNT_COMMON_NAME: &str = "nokv-mount";

/// PEM of the certificate in a TLS Secret.
pub const KEY_TLS_CERT: &str = "tls.crt";
/// PEM of the private key in a TLS Secret.
pub const KEY_TLS_KEY: &str = "tls.key";
/// PEM of the authority's certificate.
pub const KEY_CA_CERT: &str = "ca.crt";
/// PEM of the authority's private key; only in the authority's Secret.
pub const KEY_CA_KEY: &str = "ca.key";
/// The volume's token in a stage Secret.
pub const KEY_TOKEN: &str = "token";
/// S3 access key, in the credentials Secret and in stage Secrets.
pub const KEY_ACCESS_KEY: &str = "accessKey";
/// S3 secret key, in the credentials Secret and in stage Secrets.
pub const KEY_SECRET_KEY: &str = "secretKey";

/// Volume attribute: `host:port` of the metadata server.
pub const ATTR_SERVER: &str = "server";
/// Volume attribute: the volume's UUID.
pub const ATTR_VOLUME: &str = "volume";
/// Volume attribute: URL of the S3 store.
pub const ATTR_S3_ENDPOINT: &str = "s3Endpoint";
/// Volume attribute: bucket.
pub const ATTR_S3_BUCKET: &str = "s3Bucket";
/// Volume attribute: prefix of all keys.
pub const ATTR_S3_PREFIX: &str = "s3Prefix";
/// Volume attribute: region.
pub const ATTR_S3_REGION: &str = "s3Region";
/// Volume attribute: `true` if the bucket is part of the path.
pub const ATTR_S3_PATH_STYLE: &str = "s3PathStyle";

/// StorageClass parameter: name of the MetadataServer.
pub const PARAM_SERVER: &str = "metadataServer";
/// StorageClass parameter: its namespace.
pub const PARAM_SERVER_NAMESPACE: &str = "metadataServerNamespace";
/// StorageClass parameter: most inodes of a volume.
pub const PARAM_QUOTA_INODES: &str = "quotaInodes";

/// The headless Service of a MetadataServer's pods.
pub fn pods_service(server: &str) -> String {
    format!("{server}-pods")
}

/// The Secret of a MetadataServer's certificate authority. Only the operator reads it.
pub fn ca_secret(server: &str) -> String {
    format!("{server}-ca")
}

/// The Secret of a MetadataServer's own certificate.
pub fn server_tls_secret(server: &str) -> String {
    format!("{server}-server-tls")
}

/// The Secret of the certificate for operator and CSI controller.
pub fn control_tls_secret(server: &str) -> String {
    format!("{server}-control-tls")
}

/// The Secret of the certificate for mounts.
pub fn mount_tls_secret(server: &str) -> String {
    format!("{server}-mount-tls")
}

/// `host:port` of a MetadataServer.
pub fn endpoint(server: &str, namespace: &str) -> String {
    format!("{server}.{namespace}.svc:{RPC_PORT}")
}

/// Name of a NoKVMount's volume on its server, and of its PersistentVolume. Namespaces hold no dot, so it is unique.
pub fn mount_volume(namespace: &str, mount: &str) -> String {
    format!("{namespace}.{mount}")
}

/// The stage Secret of a NoKVMount.
pub fn mount_stage_secret(mount: &str) -> String {
    format!("{mount}-stage")
}
