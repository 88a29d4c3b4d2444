//! Of options, certificates' names and the object store's answers.

use std::sync::Arc;
use std::time::Duration;

use nokvfs_object::MemoryStore;

use crate::options::{Listen, check_listen};
use crate::peer::Role;
use crate::probe::{StoreProbe, Trouble, news};

fn listen(text: &str) -> Listen {
    text.parse().expect(text)
}

#[test]
fn plain_tcp_is_for_loopback_only() {
    assert!(check_listen(&[listen("127.0.0.1:0"), listen("unix:/run/x"), listen("[::1]:0")], false).is_ok());
    assert!(check_listen(&[listen("0.0.0.0:7440")], true).is_ok());
    let error = check_listen(&[listen("127.0.0.1:0"), listen(":7440")], false).expect_err("reachable from outside");
    assert!(error.to_string().contains("tls-cert"), "{error}");
    assert!(check_listen(&[], true).is_err());
}

#[test]
fn what_is_no_address_is_refused() {
    for text in ["", "unix:relative", "127.0.0.1", "127.0.0.1:x"] {
        assert!(text.parse::<Listen>().is_err(), "{text}");
    }
}

fn certificate(names: &[&str]) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "nokv-control");
    for name in names {
        params.distinguished_name.push(rcgen::DnType::CommonName, *name);
    }
    let key = rcgen::KeyPair::generate().expect("key");
    params.self_signed(&key).expect("certificate").der().to_vec()
}

#[test]
fn the_common_name_is_the_role() {
    assert_eq!(Role::of_certificate(&certificate(&["nokv-control"])), Ok(Role::Control));
    assert_eq!(Role::of_certificate(&certificate(&["nokv-mount"])), Ok(Role::Mount));
    for name in ["nokv-server", "nokv-control ", "nokv-contro", ""] {
        assert!(Role::of_certificate(&certificate(&[name])).is_err(), "{name:?}");
    }
    assert!(Role::of_certificate(&certificate(&[])).is_err(), "another attribute is no common name");
}

#[test]
fn a_damaged_certificate_is_refused_and_never_panics() {
    let good = certificate(&["nokv-control"]);
    for end in 0..good.len() / 2 {
        assert!(Role::of_certificate(&good[..end]).is_err());
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        // Where the name itself is untouched the role may stand: the signature is the TLS library's to check.
        drop(Role::of_certificate(&bad));
    }
}

#[test]
fn the_log_tells_the_first_answer_and_each_change_once() {
    let failed = |text: &str| Err(Trouble::Unreachable(text.into()));
    assert!(news(&Err(Trouble::NotAsked), &failed("refused")), "also when it never answered");
    assert!(news(&Err(Trouble::NotAsked), &Ok(())));
    assert!(news(&Ok(()), &failed("refused")) && news(&failed("refused"), &Ok(())));
    assert!(!news(&Ok(()), &Ok(())));
    assert!(!news(&failed("request 1"), &failed("request 2")));
}

#[test]
fn a_store_that_was_not_asked_is_not_called_unreachable() {
    let probe = StoreProbe::new(Arc::new(MemoryStore::new()), Duration::from_secs(60));
    assert_eq!(probe.answer(), Err(Trouble::NotAsked));
    for trouble in [Trouble::NotAsked, Trouble::Stale] {
        assert!(!trouble.to_string().contains("can't be reached"), "{trouble}");
    }
}
