//! Generated from `proto/`: the documentation is the specification's.
#![allow(missing_docs, clippy::all)]

/// Container Storage Interface.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// The kubelet's plugin registration.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
