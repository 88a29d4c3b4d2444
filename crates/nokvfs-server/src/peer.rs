//! Who is at the other end of a connection, by its certificate.

use nokvfs_types::MetaError;

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything: volumes, and sessions with a volume's token.
    Control,
    /// Sessions with a volume's token.
    Mount,
}

impl Role {
    /// The role of a verified certificate.
    pub(crate) fn of_certificate(der: &[u8]) -> Result<Self, MetaError> {
        match common_name(der) {
            Some(b"nokv-control") => Ok(Role::Control),
            Some(b"nokv-mount") => Ok(Role::Mount),
            name => {
                let name = String::from_utf8_lossy(name.unwrap_or_default()).chars().take(64).collect::<String>();
                let text =
                    format!("the certificate's common name {name:?} is no role; it must be nokv-control or nokv-mount");
                Err(MetaError::Unauthorized(text))
            }
        }
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
/// 2.5.4.3, the object identifier of a common name (RFC 5280, appendix A).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The subject's common name; `None` if there is none, or more than one.
fn common_name(der: &[u8]) -> Option<&[u8]> {
    // Certificate and its signed part (RFC 5280, 4.1): version, serial, algorithm, issuer, validity, subject.
    let mut certificate = Der(der);
    let mut signed = Der(Der(certificate.take(SEQUENCE)?).take(SEQUENCE)?);
    if signed.0.first() == Some(&VERSION) {
        signed.take(VERSION)?;
    }
    signed.take(INTEGER)?;
    for _ in ["algorithm", "issuer", "validity"] {
        signed.take(SEQUENCE)?;
    }
    let mut subject = Der(signed.take(SEQUENCE)?);
    let mut found = None;
    while !subject.0.is_empty() {
        let mut set = Der(subject.take(SET)?);
        while !set.0.is_empty() {
            let mut attribute = Der(set.take(SEQUENCE)?);
            if attribute.take(OBJECT_ID)? == COMMON_NAME {
                let (_, value) = attribute.next()?;
                if found.replace(value).is_some() {
                    return None;
                }
            }
        }
    }
    found
}

/// What is left of a DER encoding.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element's tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let len = match first {
            0..=0x7f => usize::from(first),
            // Certificates are far below 2^32 bytes.
            0x81..=0x84 => {
                let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = after;
                digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit))
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The next element's content, if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().and_then(|(found, content)| (found == tag).then_some(content))
    }
}
