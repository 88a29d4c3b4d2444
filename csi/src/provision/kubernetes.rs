//! Volumes of the cluster's MetadataServers. Each gets a NoKVMount, so that `kubectl get nokvmounts` shows it, and a
//! stage Secret that the StorageClass names by the PersistentVolume's name.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt};
use nokvfs_api::{
    MetadataServer, NoKVMount, NoKVMountSpec, Quota, RootDirectory, ServerRef, StageCredentials, VolumeAttributes,
    VolumeHandle, names, stage_secret,
};
use nokvfs_client::{Endpoint, RemoteVolumes, TlsConfig};
use nokvfs_meta::service::VolumeService;
use nokvfs_types::{MetaError, Token, VolumeInfo, VolumeState};
use tonic::{Code, Status};

use super::{Page, Provisioned, Provisioner, Wanted, create_on};
use crate::errors::from_meta;
use crate::parameters::Parameters;
use crate::volume_id::identity;

/// Field manager of what this controller applies.
const MANAGER: &str = "nokv-csi";

/// Longest name of a NoKVMount.
const MAX_MOUNT_NAME: usize = 57;

/// csi-provisioner itself waits 60 s: an answer that says why must come before.
const CONNECT: Duration = Duration::from_secs(15);

/// The cluster's volumes.
pub struct Kubernetes {
    client: Client,
    namespace: String,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// NoKVMounts and Secrets are made in `namespace`, the release's.
    pub fn new(client: Client, namespace: String) -> Self {
        Kubernetes { client, namespace }
    }

    fn mounts(&self) -> Api<NoKVMount> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn server(&self, namespace: &str, name: &str, missing: Code) -> Result<MetadataServer, Status> {
        let servers: Api<MetadataServer> = Api::namespaced(self.client.clone(), namespace);
        let server = servers.get_opt(name).await.map_err(|error| from_kube("reading the MetadataServer", &error))?;
        server.ok_or_else(|| {
            let message = format!("there is no MetadataServer {name:?} in namespace {namespace:?}: see kubectl get metadataservers -A, and the StorageClass's parameters metadataServer and metadataServerNamespace");
            Status::new(missing, message)
        })
    }

    /// The server that a StorageClass names, with its namespace.
    async fn chosen(&self, parameters: &Parameters) -> Result<(MetadataServer, String, String), Status> {
        let name = parameters.server.clone().ok_or_else(|| {
            Status::invalid_argument("the StorageClass lacks the parameter metadataServer: name a MetadataServer")
        })?;
        let namespace = parameters.namespace.clone().unwrap_or_else(|| self.namespace.clone());
        let server = self.server(&namespace, &name, Code::InvalidArgument).await?;
        if !server.spec.admits(&namespace, &self.namespace) {
            return Err(Status::failed_precondition(format!(
                "MetadataServer {namespace}/{name} does not admit namespace {}: add it to its spec.allowedNamespaces",
                self.namespace
            )));
        }
        Ok((server, namespace, name))
    }

    async fn connect(&self, namespace: &str, server: &str) -> Result<RemoteVolumes, Status> {
        let control = self.secret(namespace, &names::control_tls_secret(server)).await?;
        let tls = TlsConfig {
            ca: text(&control, names::KEY_CA_CERT)?,
            cert: text(&control, names::KEY_TLS_CERT)?,
            key: text(&control, names::KEY_TLS_KEY)?,
            server_name: None,
        };
        let endpoint: Endpoint = names::endpoint(server, namespace)
            .parse()
            .map_err(|error: nokvfs_client::EndpointError| Status::internal(error.to_string()))?;
        RemoteVolumes::connect(endpoint, Some(tls), Instant::now() + CONNECT).await.map_err(|error| {
            from_meta(&format!("MetadataServer {namespace}/{server} (see kubectl -n {namespace} get metadataserver {server} -o wide)"), &error)
        })
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Secret, Status> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = secrets.get_opt(name).await.map_err(|error| from_kube("reading a Secret", &error))?;
        secret.ok_or_else(|| {
            Status::failed_precondition(format!(
                "Secret {namespace}/{name} is not there yet: see the conditions of the MetadataServers in {namespace}"
            ))
        })
    }

    async fn credentials(
        &self,
        server: &MetadataServer,
        namespace: &str,
        token: &Token,
    ) -> Result<StageCredentials, Status> {
        let mount = self.secret(namespace, &names::mount_tls_secret(&server.name_any())).await?;
        let store = self.secret(namespace, &server.spec.object_store.credentials_secret.name).await?;
        Ok(StageCredentials {
            token: token.to_hex(),
            ca: text(&mount, names::KEY_CA_CERT)?,
            cert: text(&mount, names::KEY_TLS_CERT)?,
            key: text(&mount, names::KEY_TLS_KEY)?,
            access_key: text(&store, names::KEY_ACCESS_KEY)?,
            secret_key: text(&store, names::KEY_SECRET_KEY)?,
        })
    }

    /// A NoKVMount that somebody made by hand has a volume of its own.
    async fn refuse_foreign(&self, name: &str) -> Result<(), Status> {
        let found = self.mounts().get_opt(name).await.map_err(|error| from_kube("reading the NoKVMount", &error))?;
        match found {
            Some(mount) if mount.labels().get(names::LABEL_CSI_MANAGED).map(String::as_str) != Some("true") => {
                let place = &self.namespace;
                Err(Status::already_exists(format!("NoKVMount {place}/{name} exists and was not made for a claim")))
            }
            _ => Ok(()),
        }
    }

    /// What makes the volume visible and mountable: NoKVMount and stage Secret.
    async fn record(&self, name: &str, mount: NoKVMount, credentials: &StageCredentials) -> Result<(), Status> {
        let labels = mount.metadata.labels.clone().unwrap_or_default();
        let secret = stage_secret(&names::mount_stage_secret(name), &self.namespace, labels, credentials);
        let apply = PatchParams::apply(MANAGER).force();
        let secrets = self.secrets();
        let applied = secrets.patch(&names::mount_stage_secret(name), &apply, &Patch::Apply(&secret)).await;
        applied.map_err(|error| from_kube("applying the stage Secret", &error))?;
        let applied = self.mounts().patch(name, &apply, &Patch::Apply(&mount)).await;
        applied.map_err(|error| from_kube("applying the NoKVMount", &error)).map(drop)
    }

    fn describe(handle: VolumeHandle, info: &VolumeInfo, server: &MetadataServer) -> Provisioned {
        let attributes = VolumeAttributes::new(&handle, &server.spec.object_store);
        Provisioned { handle, quota: info.spec.quota_bytes, context: attributes.to_map().into_iter().collect() }
    }

    fn mount(&self, name: &str, handle: &VolumeHandle, info: &VolumeInfo) -> NoKVMount {
        let labels = BTreeMap::from([
            (names::LABEL_CSI_MANAGED.to_owned(), "true".to_owned()),
            (names::LABEL_MOUNT.to_owned(), name.to_owned()),
            (names::LABEL_MOUNT_NAMESPACE.to_owned(), self.namespace.clone()),
            (names::LABEL_CSI_VOLUME.to_owned(), handle.volume.clone()),
        ]);
        let quota = Quota {
            bytes: (info.spec.quota_bytes != 0).then(|| info.spec.quota_bytes.to_string()),
            inodes: i64::try_from(info.spec.quota_inodes).ok().filter(|inodes| *inodes != 0),
        };
        let spec = NoKVMountSpec {
            metadata_server: ServerRef { name: handle.server.clone(), namespace: Some(handle.namespace.clone()) },
            quota,
            deletion_policy: Default::default(),
            root: RootDirectory::default(),
        };
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        };
        NoKVMount { metadata, spec, status: None }
    }

    /// Removes NoKVMount and Secret of a volume, whatever their names are.
    async fn forget(&self, handle: &VolumeHandle) -> Result<(), Status> {
        let selector = ListParams::default().labels(&format!("{}={}", names::LABEL_CSI_VOLUME, handle.volume));
        let failed = |error: kube::Error| from_kube("removing what was made for the volume", &error);
        for mount in self.mounts().list(&selector).await.map_err(failed)? {
            removed(self.mounts().delete(&mount.name_any(), &DeleteParams::default()).await).map_err(failed)?;
        }
        for secret in self.secrets().list(&selector).await.map_err(failed)? {
            removed(self.secrets().delete(&secret.name_any(), &DeleteParams::default()).await).map_err(failed)?;
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Provisioner for Kubernetes {
    async fn create(&self, wanted: &Wanted) -> Result<Provisioned, Status> {
        let name = mount_name(&wanted.name)?;
        let (server, namespace, server_name) = self.chosen(&wanted.parameters).await?;
        self.refuse_foreign(name).await?;
        let volumes = self.connect(&namespace, &server_name).await?;
        let (info, token) = create_on(&volumes, names::mount_volume(&self.namespace, name), wanted).await?;
        let handle = VolumeHandle { namespace: namespace.clone(), server: server_name, volume: info.id.to_string() };
        let credentials = self.credentials(&server, &namespace, &token).await?;
        self.record(name, self.mount(name, &handle, &info), &credentials).await?;
        Ok(Self::describe(handle, &info, &server))
    }

    async fn delete(&self, handle: &VolumeHandle) -> Result<(), Status> {
        // Without its server the volume's data can't be deleted, and saying so would lose it for good.
        self.server(&handle.namespace, &handle.server, Code::FailedPrecondition).await?;
        let volumes = self.connect(&handle.namespace, &handle.server).await?;
        match volumes.delete_volume(identity(handle)?).await {
            Ok(()) | Err(MetaError::NotFound) => self.forget(handle).await,
            Err(error) => Err(from_meta(&format!("deleting {handle}"), &error)),
        }
    }

    async fn get(&self, handle: &VolumeHandle) -> Result<Provisioned, Status> {
        let server = self.server(&handle.namespace, &handle.server, Code::NotFound).await?;
        let volumes = self.connect(&handle.namespace, &handle.server).await?;
        let info = volumes.volume(identity(handle)?).await;
        match info.map_err(|error| from_meta(&format!("volume {handle}"), &error))? {
            info if info.state == VolumeState::Active => Ok(Self::describe(handle.clone(), &info, &server)),
            _ => Err(Status::not_found(format!("volume {handle} is deleted"))),
        }
    }

    async fn list(&self, token: &str, limit: u32) -> Result<Page, Status> {
        let mut params = ListParams::default().labels(&format!("{}=true", names::LABEL_CSI_MANAGED)).limit(limit);
        if !token.is_empty() {
            params = params.continue_token(token);
        }
        let mounts = self.mounts().list(&params).await.map_err(|error| match &error {
            kube::Error::Api(status) if !token.is_empty() && matches!(status.code, 400 | 410) => {
                Status::aborted("starting_token is not valid any more: list from the start")
            }
            _ => from_kube("listing NoKVMounts", &error),
        })?;
        let next = mounts.metadata.continue_.clone().unwrap_or_default();
        let volumes = mounts.iter().filter(|mount| mount.metadata.deletion_timestamp.is_none()).filter_map(listed);
        Ok(Page { volumes: volumes.collect(), next })
    }

    async fn check(&self, parameters: &Parameters) -> Result<(), Status> {
        if parameters.server.is_none() {
            return self.ready().await;
        }
        let (_, namespace, server) = self.chosen(parameters).await?;
        self.connect(&namespace, &server).await.map(drop)
    }

    async fn ready(&self) -> Result<(), Status> {
        let listed = self.mounts().list(&ListParams::default().limit(1)).await;
        listed.map(drop).map_err(|error| from_kube("listing NoKVMounts", &error))
    }
}

fn listed(mount: &NoKVMount) -> Option<Provisioned> {
    let server = &mount.spec.metadata_server;
    let handle = VolumeHandle {
        namespace: server.namespace.clone().or_else(|| mount.metadata.namespace.clone())?,
        server: server.name.clone(),
        volume: mount.labels().get(names::LABEL_CSI_VOLUME)?.clone(),
    };
    let quota = mount.spec.quota.bytes.as_deref().and_then(|bytes| nokvfs_api::parse_bytes(bytes).ok()).unwrap_or(0);
    Some(Provisioned { handle, quota, context: Default::default() })
}

/// The stage Secret is found by the PersistentVolume's name, so the NoKVMount must have it too.
fn mount_name(name: &str) -> Result<&str, Status> {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = name.len() <= MAX_MOUNT_NAME
        && name.bytes().all(|byte| edge(byte) || byte == b'-')
        && name.bytes().next().is_some_and(edge)
        && name.bytes().last().is_some_and(edge);
    if fits {
        return Ok(name);
    }
    Err(Status::invalid_argument(format!(
        "{name:?} can't name a NoKVMount (at most {MAX_MOUNT_NAME} of a-z, 0-9 and -): change --volume-name-prefix of csi-provisioner"
    )))
}

fn text(secret: &Secret, key: &str) -> Result<String, Status> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok()).filter(|text| !text.is_empty()).ok_or_else(|| {
        let name = format!("{}/{}", secret.namespace().unwrap_or_default(), secret.name_any());
        Status::failed_precondition(format!("Secret {name} has no usable key {key:?}: set it"))
    })
}

/// An object that is gone is removed.
fn removed<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

fn from_kube(action: &str, error: &kube::Error) -> Status {
    let code = match error {
        kube::Error::Api(status) if status.code == 403 => Code::PermissionDenied,
        kube::Error::Api(status) if status.code == 404 => Code::NotFound,
        kube::Error::Api(status) if status.code == 422 => Code::InvalidArgument,
        kube::Error::Api(status) if status.code == 409 => Code::Aborted,
        _ => Code::Unavailable,
    };
    Status::new(code, format!("{action}: {error}"))
}
