//! How a MetadataServer is reached, and by whom.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nokvfs_api::{MetadataServer, names};

use super::{owned, selector};

fn name(server: &MetadataServer) -> String {
    server.metadata.name.clone().unwrap_or_default()
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: number.into(),
        target_port: Some(IntOrString::String(name.into())),
        ..ServicePort::default()
    }
}

fn service(server: &MetadataServer, service: String) -> Service {
    Service {
        metadata: owned(server, service),
        spec: Some(ServiceSpec {
            selector: Some(selector(&name(server))),
            ports: Some(vec![port("rpc", names::RPC_PORT), port("http", names::HTTP_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

pub fn headless(server: &MetadataServer) -> Service {
    let mut headless = service(server, names::pods_service(&name(server)));
    if let Some(spec) = &mut headless.spec {
        spec.cluster_ip = Some("None".into());
        spec.publish_not_ready_addresses = Some(true);
    }
    headless
}

pub fn client(server: &MetadataServer) -> Service {
    service(server, name(server))
}

pub fn budget(server: &MetadataServer) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: owned(server, name(server)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector { match_labels: Some(selector(&name(server))), ..LabelSelector::default() }),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// Who may speak to a server is decided by its certificates; the policy only closes all other ports.
pub fn policy(server: &MetadataServer) -> NetworkPolicy {
    let port = |number: u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(number.into())),
        protocol: Some("TCP".into()),
        end_port: None,
    };
    NetworkPolicy {
        metadata: owned(server, name(server)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(selector(&name(server))),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: None,
                ports: Some(vec![port(names::RPC_PORT), port(names::HTTP_PORT)]),
            }]),
            egress: None,
        }),
    }
}
