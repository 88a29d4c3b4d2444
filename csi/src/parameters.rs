//! What a StorageClass and a claim ask of a new volume.

use std::collections::HashMap;

use nokvfs_api::names;
use tonic::Status;

use crate::proto::csi::CapacityRange;

/// csi-provisioner adds these with `--extra-create-metadata`; they say who asked.
const METADATA: [&str; 3] =
    ["csi.storage.k8s.io/pvc/name", "csi.storage.k8s.io/pvc/namespace", "csi.storage.k8s.io/pv/name"];

/// Checked parameters of a StorageClass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Name of the MetadataServer.
    pub server: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Most inodes; 0: no limit.
    pub quota_inodes: u64,
}

impl Parameters {
    /// Reads them; an unknown one is refused, since a misspelt limit would silently be none.
    pub fn parse(parameters: &HashMap<String, String>) -> Result<Self, Status> {
        let mut parsed = Parameters::default();
        let mut unknown = Vec::new();
        for (key, value) in parameters {
            match key.as_str() {
                names::PARAM_SERVER => parsed.server = Some(name(key, value)?),
                names::PARAM_SERVER_NAMESPACE => parsed.namespace = Some(name(key, value)?),
                names::PARAM_QUOTA_INODES => {
                    parsed.quota_inodes = value.parse().ok().filter(|count| *count > 0).ok_or_else(|| {
                        Status::invalid_argument(format!(
                            "StorageClass parameter {key} is {value:?}, expected a count above 0"
                        ))
                    })?;
                }
                known if METADATA.contains(&known) => {}
                _ => unknown.push(key.as_str()),
            }
        }
        if unknown.is_empty() {
            return Ok(parsed);
        }
        unknown.sort_unstable();
        Err(Status::invalid_argument(format!(
            "unknown StorageClass parameters: {}; known are {}, {} and {}",
            unknown.join(", "),
            names::PARAM_SERVER,
            names::PARAM_SERVER_NAMESPACE,
            names::PARAM_QUOTA_INODES
        )))
    }
}

fn name(key: &str, value: &str) -> Result<String, Status> {
    if value.is_empty() {
        return Err(Status::invalid_argument(format!("StorageClass parameter {key} is empty: name a MetadataServer")));
    }
    Ok(value.to_owned())
}

/// How large a volume must and may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    required: u64,
    limit: u64,
}

impl Size {
    /// Reads a capacity range; none asks for nothing.
    pub fn parse(range: Option<&CapacityRange>) -> Result<Self, Status> {
        let Some(range) = range else { return Ok(Size::default()) };
        let number = |what: &str, value: i64| {
            u64::try_from(value).map_err(|_| Status::invalid_argument(format!("capacity_range.{what} is negative")))
        };
        let size = Size {
            required: number("required_bytes", range.required_bytes)?,
            limit: number("limit_bytes", range.limit_bytes)?,
        };
        if size.limit != 0 && size.limit < size.required {
            let message =
                format!("capacity_range: the limit of {} bytes is below the {} required", size.limit, size.required);
            return Err(Status::invalid_argument(message));
        }
        Ok(size)
    }

    /// The quota of a new volume; 0: none.
    pub fn quota(self) -> u64 {
        if self.required != 0 { self.required } else { self.limit }
    }

    /// Whether a volume with this quota (0: none) is what was asked for.
    pub fn admits(self, quota: u64) -> bool {
        let enough = quota == 0 || quota >= self.required;
        let within = self.limit == 0 || (quota != 0 && quota <= self.limit);
        enough && within
    }
}
