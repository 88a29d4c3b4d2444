//! The Secrets of a MetadataServer: its authority and its certificates; and those of NoKVMounts.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PostParams};
use kube::{Resource, ResourceExt};
use nokvfs_api::{MetadataServer, names};

use crate::certificates::{self, Authority, Role, text};
use crate::context::{Context, Result, apply_params};
use crate::desired::{labels, owned};

/// The Secrets of a server, all present.
pub struct ServerSecrets {
    /// The server's own certificate.
    pub server: Secret,
    /// The control certificate.
    pub control: Secret,
    /// The mount certificate.
    pub mount: Secret,
}

impl ServerSecrets {
    /// When the first of them ends.
    pub fn end(&self) -> Option<Timestamp> {
        [&self.server, &self.control, &self.mount].into_iter().filter_map(certificates::end).min()
    }
}

/// Makes what is missing and renews what ends soon.
pub async fn ensure(ctx: &Context, server: &MetadataServer, now: Timestamp) -> Result<ServerSecrets> {
    let (name, namespace) = (server.name_any(), server.namespace().unwrap_or_default());
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &namespace);
    let authority = authority(&api, &name, &namespace, now).await?;
    let mut all = vec![];
    for role in Role::ALL {
        let secret_name = role.secret(&name);
        let present = api.get_opt(&secret_name).await?;
        all.push(match present {
            Some(secret) if authority.still_good(&secret, role, &name, &namespace, now) => secret,
            _ => {
                let issued = authority.issue(role, &name, &namespace, now)?;
                let mut metadata = owned(server, secret_name);
                metadata.annotations = Some(issued.annotations);
                ctx.apply(&Secret {
                    metadata,
                    data: Some(issued.data),
                    type_: Some("kubernetes.io/tls".into()),
                    ..Secret::default()
                })
                .await?
            }
        });
    }
    let [server, control, mount] = all.try_into().unwrap_or_else(|_| unreachable!("one Secret per role"));
    Ok(ServerSecrets { server, control, mount })
}

/// The authority is made once and never overwritten, and it has no owner: volumes that outlive the server's resource
/// (an uninstall, a reinstall) hold its certificate.
async fn authority(api: &Api<Secret>, name: &str, namespace: &str, now: Timestamp) -> Result<Authority> {
    let secret_name = names::ca_secret(name);
    if let Some(secret) = api.get_opt(&secret_name).await? {
        return Ok(Authority::from_secret(&secret)?);
    }
    let authority = Authority::generate(name, namespace, now)?;
    let secret = Secret {
        metadata: kube::api::ObjectMeta {
            name: Some(secret_name.clone()),
            namespace: Some(namespace.into()),
            labels: Some(labels(name)),
            ..Default::default()
        },
        data: Some(authority.data()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    };
    // Created, not applied: of two operators at once, one wins and the other reads.
    match api.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(authority),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Ok(Authority::from_secret(&api.get(&secret_name).await?)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// The S3 keys of a server, or what is wrong with their Secret.
pub async fn credentials(
    ctx: &Context,
    server: &MetadataServer,
) -> Result<std::result::Result<(String, String), String>> {
    let name = &server.spec.object_store.credentials_secret.name;
    let namespace = server.namespace().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &namespace);
    let Some(secret) = api.get_opt(name).await? else {
        return Ok(Err(format!(
            "there is no Secret {name:?} in {namespace}: make it with the keys {} and {} (spec.objectStore.credentialsSecret)",
            names::KEY_ACCESS_KEY,
            names::KEY_SECRET_KEY
        )));
    };
    let take = |key: &str| {
        text(&secret, key).ok_or_else(|| format!("the Secret {name:?} in {namespace} has no key {key}: add it"))
    };
    Ok(take(names::KEY_ACCESS_KEY).and_then(|access| Ok((access, take(names::KEY_SECRET_KEY)?))))
}

/// Applies a Secret that belongs to a NoKVMount.
pub async fn apply_owned<K>(ctx: &Context, owner: &K, mut secret: Secret) -> Result<()>
where
    K: Resource<DynamicType = ()>,
{
    secret.metadata.owner_references = owner.controller_owner_ref(&()).map(|reference| vec![reference]);
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &namespace);
    api.patch(secret.metadata.name.as_deref().unwrap_or_default(), &apply_params(), &Patch::Apply(&secret)).await?;
    Ok(())
}
