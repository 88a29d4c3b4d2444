//! MetadataServers that the chart declares.
//!
//! Helm can't install a resource together with its definition in one release. So the chart writes specs into a ConfigMap,
//! and the operator makes the resources, owned by the ConfigMap: uninstalling removes them, and with them all workload;
//! claims, authority and bucket stay.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use nokvfs_api::{MetadataServer, MetadataServerSpec};

/// Manager of the declared fields; what someone else adds to a declared server stays.
const MANAGER: &str = "nokv-chart";

/// Makes or updates all servers of the ConfigMap.
pub async fn apply(client: &Client, namespace: &str, name: &str) -> anyhow::Result<usize> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get(name).await?;
    let servers: Api<MetadataServer> = Api::namespaced(client.clone(), namespace);
    let entries = map.data.clone().unwrap_or_default();
    for server in parse(&map, &entries)? {
        let params = PatchParams::apply(MANAGER).force();
        servers.patch(&server.name_any(), &params, &Patch::Apply(&server)).await?;
    }
    Ok(entries.len())
}

/// Reads the entries `<name>.yaml`, each the spec of one server.
pub fn parse(
    map: &ConfigMap,
    entries: &std::collections::BTreeMap<String, String>,
) -> anyhow::Result<Vec<MetadataServer>> {
    let owner = OwnerReference {
        api_version: ConfigMap::api_version(&()).into(),
        kind: ConfigMap::kind(&()).into(),
        name: map.name_any(),
        uid: map.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let mut all = vec![];
    for (file, text) in entries {
        let spec: MetadataServerSpec = serde_yaml::from_str(text).map_err(|error| {
            anyhow::anyhow!(
                "{file} of the ConfigMap {}: {error}; correct metadataServers in the chart's values",
                map.name_any()
            )
        })?;
        let mut server = MetadataServer::new(file.strip_suffix(".yaml").unwrap_or(file), spec);
        server.metadata = ObjectMeta {
            name: server.metadata.name,
            namespace: map.namespace(),
            labels: map.metadata.labels.clone(),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        };
        all.push(server);
    }
    Ok(all)
}
