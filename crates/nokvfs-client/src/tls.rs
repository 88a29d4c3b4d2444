//! Mutual TLS towards the server.

use std::fmt;
use std::sync::Arc;

use nokvfs_types::MetaError;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::Endpoint;

/// Certificates and key, PEM texts.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificates of the authority that signed the server's.
    pub ca: String,
    /// The client's certificate chain.
    pub cert: String,
    /// Its private key.
    pub key: String,
    /// The name that the server's certificate must hold; `None`: the endpoint's host.
    pub server_name: Option<String>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// What a connection needs to shake hands.
#[derive(Clone)]
pub(crate) struct TlsConnector {
    pub(crate) connector: tokio_rustls::TlsConnector,
    pub(crate) name: ServerName<'static>,
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TlsConnector {
    /// Reads certificates and key.
    pub(crate) fn new(config: &TlsConfig, endpoint: &Endpoint) -> Result<Self, MetaError> {
        let refuse = |what: &str, why: &dyn fmt::Display| MetaError::Invalid(format!("TLS {what}: {why}"));
        let mut roots = RootCertStore::empty();
        for cert in certificates("CA", &config.ca)? {
            roots.add(cert).map_err(|error| refuse("CA", &error))?;
        }
        let key = PrivateKeyDer::from_pem_slice(config.key.as_bytes()).map_err(|error| refuse("key", &error))?;
        let client = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| refuse("versions", &error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates("certificate", &config.cert)?, key)
            .map_err(|error| refuse("certificate", &error))?;
        let host = match (&config.server_name, endpoint) {
            (Some(name), _) => name.clone(),
            (None, Endpoint::Tcp { host, .. }) => host.clone(),
            (None, Endpoint::Unix(_)) => {
                return Err(MetaError::Invalid("TLS over a Unix socket needs the server's name".into()));
            }
        };
        let name = ServerName::try_from(host).map_err(|error| refuse("server name", &error))?;
        Ok(TlsConnector { connector: Arc::new(client).into(), name })
    }
}

fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, MetaError> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certs {
        Ok(certs) if !certs.is_empty() => Ok(certs),
        Ok(_) => Err(MetaError::Invalid(format!("TLS {what}: no certificate in the PEM text"))),
        Err(error) => Err(MetaError::Invalid(format!("TLS {what}: {error}"))),
    }
}
