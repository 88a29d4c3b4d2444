//! Certificates of a test.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use nokvfs_client::TlsConfig;
use nokvfs_server::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key.
    pub fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::DnsName("server.test".try_into().expect("name")),
        ];
        let key = KeyPair::generate().expect("key");
        let cert = params.signed_by(&key, &self.issuer).expect("certificate");
        (cert.pem(), key.serialize_pem())
    }

    /// What a client needs that trusts this authority and was certified by it.
    pub fn client(&self, name: &str) -> TlsConfig {
        let (cert, key) = self.issue(name);
        TlsConfig { ca: self.pem.clone(), cert, key, server_name: None }
    }

    /// Files of a server that trusts this authority and was certified by it.
    pub fn server(&self, dir: &Path) -> TlsFiles {
        let (cert, key) = self.issue("nokv-server");
        let files = TlsFiles { cert: dir.join("tls.crt"), key: dir.join("tls.key"), client_ca: dir.join("ca.crt") };
        std::fs::write(&files.key, key).expect("write");
        std::fs::write(&files.cert, cert).expect("write");
        std::fs::write(&files.client_ca, &self.pem).expect("write");
        files
    }
}
