//! The server's side of mutual TLS; certificates are read again when their files change.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use crate::options::{OptionsError, TlsFiles};

/// What the files held when they were last good.
#[derive(PartialEq, Eq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

/// Makes TLS of accepted connections, with the newest good certificates.
pub(crate) struct ReloadingTls {
    files: TlsFiles,
    current: RwLock<(Pem, TlsAcceptor)>,
}

impl fmt::Debug for ReloadingTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadingTls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ReloadingTls {
    /// Reads the files.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, OptionsError> {
        let pem = read(&files)?;
        let acceptor = build(&pem)?;
        Ok(ReloadingTls { files, current: RwLock::new((pem, acceptor)) })
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.current.read().1.clone()
    }

    /// Looks at the files again and again. What can't be used leaves the last good certificates in place.
    pub(crate) async fn keep_fresh(&self, interval: Duration) {
        let mut troubled = false;
        loop {
            tokio::time::sleep(interval).await;
            let files = self.files.clone();
            let loaded = match tokio::task::spawn_blocking(move || read(&files)).await {
                Ok(read) => read.and_then(|pem| self.replace(pem)),
                Err(error) => Err(OptionsError::new("tls", error.to_string())),
            };
            match &loaded {
                Ok(true) => tracing::info!("TLS certificates were read again"),
                // Told once, not at each look.
                Err(error) if !troubled => {
                    tracing::error!(%error, "TLS certificates changed and can't be used; the old ones stay");
                }
                Ok(false) | Err(_) => {}
            }
            troubled = loaded.is_err();
        }
    }

    /// Takes what was read, if it is new; answers whether it was.
    fn replace(&self, pem: Pem) -> Result<bool, OptionsError> {
        if self.current.read().0 == pem {
            return Ok(false);
        }
        let acceptor = build(&pem)?;
        *self.current.write() = (pem, acceptor);
        Ok(true)
    }
}

fn read(files: &TlsFiles) -> Result<Pem, OptionsError> {
    let read = |option: &'static str, path: &Path| {
        std::fs::read(path).map_err(|error| OptionsError::new(option, format!("{}: {error}", path.display())))
    };
    Ok(Pem {
        cert: read("tls-cert", &files.cert)?,
        key: read("tls-key", &files.key)?,
        client_ca: read("tls-client-ca", &files.client_ca)?,
    })
}

fn build(pem: &Pem) -> Result<TlsAcceptor, OptionsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for cert in certificates("tls-client-ca", &pem.client_ca)? {
        roots.add(cert).map_err(|error| OptionsError::new("tls-client-ca", error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| OptionsError::new("tls-client-ca", error.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_slice(&pem.key).map_err(|error| OptionsError::new("tls-key", error.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OptionsError::new("tls", error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates("tls-cert", &pem.cert)?, key)
        .map_err(|error| OptionsError::new("tls-cert", error.to_string()))?;
    // A resumed TLS session would outlive a change of the authority.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(option: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, OptionsError> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certs {
        Ok(certs) if !certs.is_empty() => Ok(certs),
        Ok(_) => Err(OptionsError::new(option, "the file holds no certificate")),
        Err(error) => Err(OptionsError::new(option, error.to_string())),
    }
}
