//! The certificate authority of a MetadataServer and the certificates it signs.
//!
//! Whether a certificate must be renewed is told by annotations on its Secret, not by parsing it.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use nokvfs_api::names;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// On a TLS Secret: when its certificate ends.
pub const ANNOTATION_END: &str = "nokv.io/certificate-end";
/// On a TLS Secret: what the certificate was made for. Another value means that it must be made anew.
pub const ANNOTATION_FOR: &str = "nokv.io/certificate-for";

const AUTHORITY_YEARS: i64 = 10;
const LEAF_DAYS: i64 = 365;
/// A leaf is renewed when this much of its life is left: enough for a long freeze of the cluster.
const RENEW_DAYS: i64 = 120;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The server's own.
    Server,
    /// Creates and deletes volumes.
    Control,
    /// Opens sessions.
    Mount,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 3] = [Role::Server, Role::Control, Role::Mount];

    /// The Secret that holds it.
    pub fn secret(self, server: &str) -> String {
        match self {
            Role::Server => names::server_tls_secret(server),
            Role::Control => names::control_tls_secret(server),
            Role::Mount => names::mount_tls_secret(server),
        }
    }

    fn common_name(self, server: &str) -> String {
        match self {
            Role::Server => server.to_owned(),
            Role::Control => names::CONTROL_COMMON_NAME.into(),
            Role::Mount => names::MOUNT_COMMON_NAME.into(),
        }
    }

    fn dns_names(self, server: &str, namespace: &str) -> Vec<String> {
        if self != Role::Server {
            return vec![];
        }
        let pods = names::pods_service(server);
        let mut all = vec![];
        for host in [server.to_owned(), format!("{server}-0.{pods}")] {
            for suffix in ["".to_owned(), format!(".{namespace}"), format!(".{namespace}.svc")] {
                all.push(format!("{host}{suffix}"));
            }
            all.push(format!("{host}.{namespace}.svc.cluster.local"));
        }
        all.push("localhost".into());
        all
    }
}

/// A certificate authority.
#[derive(Clone)]
pub struct Authority {
    /// Its certificate, PEM.
    pub cert: String,
    key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(..)")
    }
}

/// What can go wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The authority's Secret is there but holds something else.
    #[error("the Secret {0} lacks {1}: restore it from a backup, or delete it and restart all pods that use a volume")]
    Damaged(String, &'static str),
    /// A certificate could not be made.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A time out of range.
    #[error("the clock is wrong: {0}")]
    Clock(#[from] jiff::Error),
}

type Result<T> = std::result::Result<T, CertificateError>;

fn validity(params: &mut CertificateParams, now: Timestamp, span: jiff::Span) -> Result<Timestamp> {
    let now: Zoned = now.to_zoned(TimeZone::UTC);
    // A day back, for nodes whose clock is behind; whole days, since rcgen takes dates.
    let (start, end) = (now.checked_sub(1.day())?.date(), now.checked_add(span)?.date());
    params.not_before = rcgen::date_time_ymd(start.year().into(), start.month() as u8, start.day() as u8);
    params.not_after = rcgen::date_time_ymd(end.year().into(), end.month() as u8, end.day() as u8);
    Ok(end.to_zoned(TimeZone::UTC)?.timestamp())
}

impl Authority {
    /// A new one for the server.
    pub fn generate(server: &str, namespace: &str, now: Timestamp) -> Result<Self> {
        let mut params = CertificateParams::new(vec![])?;
        params.distinguished_name.push(DnType::CommonName, format!("nokv {namespace}/{server}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, now, AUTHORITY_YEARS.years())?;
        let key = KeyPair::generate()?;
        Ok(Authority { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    /// Reads one from its Secret.
    pub fn from_secret(secret: &Secret) -> Result<Self> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let take = |key: &'static str| text(secret, key).ok_or(CertificateError::Damaged(name.clone(), key));
        Ok(Authority { cert: take(names::KEY_CA_CERT)?, key: take(names::KEY_CA_KEY)? })
    }

    /// The entries of its Secret.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        entries([(names::KEY_CA_CERT, &self.cert), (names::KEY_CA_KEY, &self.key)])
    }

    /// Signs a certificate: the entries and annotations of its Secret.
    pub fn issue(&self, role: Role, server: &str, namespace: &str, now: Timestamp) -> Result<Issued> {
        let mut params = CertificateParams::new(role.dns_names(server, namespace))?;
        params.distinguished_name.push(DnType::CommonName, role.common_name(server));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match role {
            Role::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Control | Role::Mount => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let end = validity(&mut params, now, LEAF_DAYS.days())?;
        let key = KeyPair::generate()?;
        let issuer = Issuer::from_ca_cert_pem(&self.cert, KeyPair::from_pem(&self.key)?)?;
        let cert = params.signed_by(&key, &issuer)?.pem();
        Ok(Issued {
            data: entries([
                (names::KEY_TLS_CERT, &cert),
                (names::KEY_TLS_KEY, &key.serialize_pem()),
                (names::KEY_CA_CERT, &self.cert),
            ]),
            annotations: BTreeMap::from([
                (ANNOTATION_END.to_owned(), end.to_string()),
                (ANNOTATION_FOR.to_owned(), self.purpose(role, server, namespace)),
            ]),
        })
    }

    /// Whether the Secret's certificate serves on, or must be made anew.
    pub fn still_good(&self, secret: &Secret, role: Role, server: &str, namespace: &str, now: Timestamp) -> bool {
        let annotation = |key| secret.metadata.annotations.as_ref().and_then(|all| all.get(key));
        let complete = [names::KEY_TLS_CERT, names::KEY_TLS_KEY].iter().all(|key| text(secret, key).is_some());
        let lasts = end(secret).is_some_and(|end| end.duration_since(now).as_hours() > RENEW_DAYS * 24);
        complete
            && lasts
            && text(secret, names::KEY_CA_CERT).as_ref() == Some(&self.cert)
            && annotation(ANNOTATION_FOR) == Some(&self.purpose(role, server, namespace))
    }

    fn purpose(&self, role: Role, server: &str, namespace: &str) -> String {
        format!("{} {}", role.common_name(server), role.dns_names(server, namespace).join(" ")).trim_end().to_owned()
    }
}

/// A signed certificate, as its Secret holds it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// tls.crt, tls.key, ca.crt.
    pub data: BTreeMap<String, ByteString>,
    /// When it ends and what it is for.
    pub annotations: BTreeMap<String, String>,
}

/// When the certificate of a TLS Secret ends.
pub fn end(secret: &Secret) -> Option<Timestamp> {
    secret.metadata.annotations.as_ref()?.get(ANNOTATION_END)?.parse().ok()
}

/// A text entry of a Secret; empty ones count as absent.
pub fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    String::from_utf8(bytes.clone()).ok().filter(|text| !text.trim().is_empty())
}

fn entries<const N: usize>(all: [(&str, &str); N]) -> BTreeMap<String, ByteString> {
    all.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec()))).collect()
}
