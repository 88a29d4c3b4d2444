//! The stage Secret: what a node needs, besides the volume attributes, to mount a volume.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;

use crate::names;

/// The contents of a stage Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct StageCredentials {
    /// The volume's token, 64 hex digits.
    pub token: String,
    /// PEM of the authority that signed the server's certificate.
    pub ca: String,
    /// PEM of the mount's certificate.
    pub cert: String,
    /// PEM of its private key.
    pub key: String,
    /// S3 access key.
    pub access_key: String,
    /// S3 secret key.
    pub secret_key: String,
}

/// A key that a stage Secret lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageError {
    key: &'static str,
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stage secret has no usable key {:?}: it must be the one made for this volume", self.key)
    }
}

impl std::error::Error for StageError {}

impl fmt::Debug for StageCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StageCredentials(..)")
    }
}

impl StageCredentials {
    /// Reads what the kubelet passes to NodeStageVolume.
    pub fn from_map<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, StageError> {
        let take = |key: &'static str| {
            get(key).map(str::to_owned).filter(|text| !text.trim().is_empty()).ok_or(StageError { key })
        };
        Ok(StageCredentials {
            token: take(names::KEY_TOKEN)?,
            ca: take(names::KEY_CA_CERT)?,
            cert: take(names::KEY_TLS_CERT)?,
            key: take(names::KEY_TLS_KEY)?,
            access_key: take(names::KEY_ACCESS_KEY)?,
            secret_key: take(names::KEY_SECRET_KEY)?,
        })
    }

    fn entries(&self) -> [(&'static str, &str); 6] {
        [
            (names::KEY_TOKEN, &self.token),
            (names::KEY_CA_CERT, &self.ca),
            (names::KEY_TLS_CERT, &self.cert),
            (names::KEY_TLS_KEY, &self.key),
            (names::KEY_ACCESS_KEY, &self.access_key),
            (names::KEY_SECRET_KEY, &self.secret_key),
        ]
    }
}

/// The stage Secret of a volume.
pub fn stage_secret(
    name: &str,
    namespace: &str,
    labels: BTreeMap<String, String>,
    credentials: &StageCredentials,
) -> Secret {
    let data = credentials.entries().into_iter();
    Secret {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        data: Some(data.map(|(key, text)| (key.into(), ByteString(text.as_bytes().to_vec()))).collect()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}
