//! The custom resource definitions as YAML.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{MetadataServer, NoKVMount};

/// Each definition with the name of its file. They survive `helm uninstall`, and the resources with them.
pub fn definitions() -> Vec<(&'static str, CustomResourceDefinition)> {
    let mut all = vec![("metadataservers.yaml", MetadataServer::crd()), ("nokvmounts.yaml", NoKVMount::crd())];
    for (_, definition) in &mut all {
        let annotations = definition.metadata.annotations.get_or_insert_default();
        annotations.insert("helm.sh/resource-policy".into(), "keep".into());
        let labels = definition.metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/part-of".into(), "nokv".into());
    }
    all
}
