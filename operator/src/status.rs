//! The status of a MetadataServer, as a pure function of what was observed.

use jiff::Timestamp;
use nokvfs_api::{
    Condition, ConditionStatus, MetadataServer, MetadataServerStatus, names, reasons, set_condition, types,
};

/// Whether a server has somewhere to put its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageState {
    /// An emptyDir, as asked for.
    Ephemeral,
    /// The claim is bound.
    Bound,
    /// The claim is not bound yet.
    Pending,
    /// No StorageClass is named and the cluster has no default.
    NoClass,
    /// The named StorageClass does not exist.
    UnknownClass(String),
}

impl StorageState {
    /// Whether pods can be started on it.
    pub fn usable(&self) -> bool {
        !matches!(self, StorageState::NoClass | StorageState::UnknownClass(_))
    }
}

/// Why the pod of a server is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unready {
    /// The server says that it can't reach its object store, in these words.
    ObjectStore(String),
    /// Anything else that the server or Kubernetes says.
    Other(String),
}

/// What the cluster shows of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its storage.
    pub storage: StorageState,
    /// What is wrong with the credentials' Secret, if anything.
    pub credentials: Option<String>,
    /// What is wrong with the certificates, if anything.
    pub certificates: Option<String>,
    /// When the first certificate ends.
    pub certificates_end: Option<Timestamp>,
    /// What could not be applied, if anything.
    pub apply: Option<String>,
    /// Ready pods.
    pub ready: i32,
    /// Why no pod is ready, where someone tells.
    pub unready: Option<Unready>,
    /// Whether the StatefulSet has rolled out the latest template.
    pub current: bool,
    /// NoKVMounts that name the server.
    pub volumes: i64,
}

/// The status that `server` should show now.
pub fn status(server: &MetadataServer, observed: &Observed, now: Timestamp) -> MetadataServerStatus {
    let name = server.metadata.name.clone().unwrap_or_default();
    let namespace = server.metadata.namespace.clone().unwrap_or_default();
    let mut conditions = server.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let mut put = |kind: &str, verdict: &Verdict| {
        let condition = Condition {
            kind: kind.into(),
            status: verdict.status,
            reason: verdict.reason.into(),
            message: verdict.message.clone(),
            last_transition_time: now.to_string(),
            observed_generation: server.metadata.generation,
        };
        set_condition(&mut conditions, condition);
    };
    let storage = storage(server, &observed.storage);
    let certificates = certificates(observed);
    let ready = ready(observed, &storage, &certificates, &name);
    let settled = ready.status == ConditionStatus::True && observed.current;
    put(types::STORAGE_READY, &storage);
    put(types::CERTIFICATES_READY, &certificates);
    put(types::RECONCILING, &reconciling(settled, &ready));
    put(types::READY, &ready);
    MetadataServerStatus {
        observed_generation: server.metadata.generation,
        endpoint: Some(names::endpoint(&name, &namespace)),
        ready_replicas: observed.ready,
        volumes: observed.volumes,
        certificates_end: observed.certificates_end.map(|end| end.to_string()),
        conditions,
    }
}

struct Verdict {
    status: ConditionStatus,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn good(message: &str) -> Self {
        Verdict { status: ConditionStatus::True, reason: reasons::AS_DESIRED, message: message.into() }
    }

    fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Verdict { status: ConditionStatus::False, reason, message: message.into() }
    }
}

fn storage(server: &MetadataServer, state: &StorageState) -> Verdict {
    let claim = crate::desired::claim(server.metadata.name.as_deref().unwrap_or_default());
    match state {
        StorageState::Ephemeral => {
            Verdict::good("metadata is in an emptyDir and lost with the pod, as spec.storage.ephemeral asks")
        }
        StorageState::Bound => Verdict::good(&format!("the claim {claim} is bound")),
        StorageState::Pending => Verdict::bad(
            reasons::CLAIM_PENDING,
            format!("the claim {claim} is not bound yet; `kubectl describe pvc {claim}` tells why"),
        ),
        StorageState::NoClass => Verdict::bad(
            reasons::NO_STORAGE_CLASS,
            "the cluster has no default StorageClass: set spec.storage.storageClassName to one that `kubectl get storageclass` \
             lists, or mark one as default; for a trial that may lose everything make the server with spec.storage.ephemeral: true",
        ),
        StorageState::UnknownClass(class) => Verdict::bad(
            reasons::NO_STORAGE_CLASS,
            format!(
                "there is no StorageClass {class:?}: make it, or make the server anew with one that `kubectl get storageclass` lists"
            ),
        ),
    }
}

fn certificates(observed: &Observed) -> Verdict {
    match &observed.certificates {
        None => Verdict::good("certificates are valid and renewed in time"),
        Some(trouble) => Verdict::bad(reasons::INVALID, trouble),
    }
}

fn ready(observed: &Observed, storage: &Verdict, certificates: &Verdict, name: &str) -> Verdict {
    if let Some(trouble) = &observed.apply {
        return Verdict::bad(reasons::APPLY_FAILED, trouble);
    }
    if let Some(trouble) = &observed.credentials {
        return Verdict::bad(reasons::CREDENTIALS_MISSING, trouble);
    }
    for part in [certificates, storage] {
        // A claim may wait for its first pod: that alone says nothing about the server.
        if part.status == ConditionStatus::False && part.reason != reasons::CLAIM_PENDING {
            return Verdict::bad(part.reason, &part.message);
        }
    }
    if observed.ready > 0 {
        return Verdict::good("serving");
    }
    let waits = match storage.status {
        ConditionStatus::False => format!("; {}", storage.message),
        _ => String::new(),
    };
    let (logs, pod) = (format!("`kubectl logs {name}-0`"), format!("`kubectl describe pod {name}-0`"));
    match &observed.unready {
        Some(Unready::ObjectStore(text)) => Verdict::bad(
            reasons::OBJECT_STORE_UNREACHABLE,
            format!(
                "{text}; check spec.objectStore (endpoint, bucket, region), the credentials' Secret and the network from \
                 the pod {name}-0"
            ),
        ),
        Some(Unready::Other(text)) => Verdict::bad(
            reasons::PODS_NOT_READY,
            format!("the pod {name}-0 is not ready: {text}; {logs} and {pod} tell more{waits}"),
        ),
        None => Verdict::bad(
            reasons::PODS_NOT_READY,
            format!("the pod {name}-0 is not ready: {logs} and {pod} tell why{waits}"),
        ),
    }
}

fn reconciling(settled: bool, ready: &Verdict) -> Verdict {
    if settled {
        return Verdict {
            status: ConditionStatus::False,
            reason: reasons::AS_DESIRED,
            message: "nothing left to do".into(),
        };
    }
    Verdict { status: ConditionStatus::True, reason: ready.reason, message: ready.message.clone() }
}
