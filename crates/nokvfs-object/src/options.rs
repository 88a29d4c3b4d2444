//! Construction options of the S3 store and their validation.

use std::fmt;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::ObjectError;

/// How to reach a bucket. Validated by [`S3Options::validate`]; every error names the option at fault.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Options {
    /// `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    pub endpoint: String,
    /// Bucket; must exist.
    pub bucket: String,
    /// Every key lives under `PREFIX/` in the bucket; empty: at its root.
    pub prefix: String,
    /// Region that requests are signed for.
    pub region: String,
    /// `ENDPOINT/BUCKET/KEY` rather than `BUCKET.ENDPOINT/KEY`.
    pub path_style: bool,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// PEM certificates that sign the endpoint's; the system's if none.
    pub ca: Option<String>,
    /// No call takes longer, retries and waits included.
    pub deadline: Duration,
    /// Requests on the wire at once; further ones wait.
    pub max_in_flight: usize,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            bucket: String::new(),
            prefix: String::new(),
            region: "us-east-1".to_owned(),
            path_style: true,
            access_key: String::new(),
            secret_key: String::new(),
            ca: None,
            deadline: Duration::from_secs(60),
            // 64 requests of 4 MiB blocks are 256 MiB in flight, and enough small ones to hide 10 ms at 6k/s.
            max_in_flight: 64,
        }
    }
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .field("ca", &self.ca.is_some())
            .field("deadline", &self.deadline)
            .field("max_in_flight", &self.max_in_flight)
            .finish_non_exhaustive()
    }
}

impl S3Options {
    /// Refuses options that can't work, naming the first that is wrong.
    pub fn validate(&self) -> Result<(), ObjectError> {
        self.validate_endpoint()?;
        self.validate_bucket()?;
        let prefix = self.key_prefix();
        if prefix.len() > 512 || prefix.chars().any(char::is_control) || prefix.contains("//") {
            return Err(wrong("prefix", "at most 512 bytes, no control characters, no empty components", &self.prefix));
        }
        if self.region.is_empty() || !self.region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(wrong("region", "letters, digits and '-', for example us-east-1", &self.region));
        }
        for (option, value) in [("access_key", &self.access_key), ("secret_key", &self.secret_key)] {
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
                let text = "is empty or has blanks or line breaks in it; set it to the key alone";
                return Err(ObjectError::Invalid(format!("S3 option {option} {text}")));
            }
        }
        if let Some(ca) = &self.ca {
            let count = CertificateDer::pem_slice_iter(ca.as_bytes()).try_fold(0, |n, cert| cert.map(|_| n + 1));
            if !matches!(count, Ok(1..)) {
                return Err(ObjectError::Invalid("S3 option ca: not a PEM file of certificates".to_owned()));
            }
        }
        if self.deadline < Duration::from_millis(100) || self.deadline > Duration::from_secs(3600) {
            return Err(wrong("deadline", "100 ms to 1 h", &format!("{:?}", self.deadline)));
        }
        if self.max_in_flight == 0 || self.max_in_flight > 4096 {
            return Err(wrong("max_in_flight", "1 to 4096", &self.max_in_flight.to_string()));
        }
        Ok(())
    }

    fn validate_endpoint(&self) -> Result<(), ObjectError> {
        let expected = "http://HOST[:PORT] or https://HOST[:PORT]";
        let uri = self.endpoint.parse::<http::Uri>();
        let uri = uri.map_err(|_| wrong("endpoint", expected, &self.endpoint))?;
        let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'));
        if !scheme || !host || uri.path().len() > 1 || uri.query().is_some() {
            return Err(wrong("endpoint", expected, &self.endpoint));
        }
        Ok(())
    }

    fn validate_bucket(&self) -> Result<(), ObjectError> {
        let name = self.bucket.as_bytes();
        let inner = name.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
        let ends =
            name.first().is_some_and(u8::is_ascii_alphanumeric) && name.last().is_some_and(u8::is_ascii_alphanumeric);
        if !(3..=63).contains(&name.len()) || !inner || !ends {
            return Err(wrong("bucket", "3 to 63 of a-z, 0-9, '-' and '.'", &self.bucket));
        }
        Ok(())
    }

    /// The prefix as keys begin with it: `""` or `"a/b/"`.
    pub(crate) fn key_prefix(&self) -> String {
        let prefix = self.prefix.trim_matches('/');
        if prefix.is_empty() { String::new() } else { format!("{prefix}/") }
    }

    pub(crate) fn is_https(&self) -> bool {
        self.endpoint.len() >= 8 && self.endpoint[..8].eq_ignore_ascii_case("https://")
    }
}

fn wrong(option: &str, expected: &str, value: &str) -> ObjectError {
    ObjectError::Invalid(format!("S3 option {option}: expected {expected}, not {value:?}"))
}
