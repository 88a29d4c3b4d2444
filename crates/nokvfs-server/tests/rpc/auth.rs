//! Who may what.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_client::{Endpoint, RemoteOptions, RemoteService, RemoteVolumes, TlsConfig};
use nokvfs_meta::service::{MetadataService, VolumeService};
use nokvfs_protocol::{Answer, Call, SessionRef};
use nokvfs_server::{Limits, ServeOptions, Server};
use nokvfs_types::{
    Ack, Caller, Heartbeat, InodeId, MetaError, Mutation, Name, NewNode, OpId, SessionId, SessionRequest, Stamp, Token,
    VolumeId,
};

use tokio::io::AsyncReadExt;

use crate::backend::TestBackend;
use crate::certs::Authority;
use crate::raw::Raw;
use crate::{ctx, endpoint, options, request, start};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn connect(endpoint: &Endpoint, tls: TlsConfig) -> Result<RemoteVolumes, MetaError> {
    RemoteVolumes::connect(endpoint.clone(), Some(tls), soon()).await
}

async fn secured(backend: &Arc<TestBackend>, authority: &Authority, dir: &tempfile::TempDir) -> Server {
    let limits = Limits { tls_interval: Duration::from_millis(20), ..Limits::default() };
    start(backend, ServeOptions { tls: Some(authority.server(dir.path())), limits, ..options() }).await
}

#[tokio::test]
async fn a_certificates_role_decides() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().expect("dir");
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    let server = secured(&backend, &authority, &dir).await;
    let endpoint = endpoint(&server);

    let control = connect(&endpoint, authority.client("nokv-control")).await.expect("control");
    assert_eq!(control.list_volumes(None, 10).await.expect("list"), std::slice::from_ref(&volume.0));

    let mount = connect(&endpoint, authority.client("nokv-mount")).await.expect("mount may connect");
    assert!(matches!(mount.list_volumes(None, 10).await, Err(MetaError::Unauthorized(_))));
    assert!(matches!(mount.volume(volume.0.id).await, Err(MetaError::Unauthorized(_))));
    assert!(matches!(mount.create_volume(volume.0.spec.clone()).await, Err(MetaError::Unauthorized(_))));
    assert!(matches!(mount.set_quota(volume.0.id, 1, 1).await, Err(MetaError::Unauthorized(_))));
    assert!(matches!(mount.delete_volume(volume.0.id).await, Err(MetaError::Unauthorized(_))));
    let options = RemoteOptions::default();
    let service =
        RemoteService::open(endpoint.clone(), Some(authority.client("nokv-mount")), request(&volume), options).await;
    service.expect("a session").getattr(&ctx(1, Duration::from_secs(5)), InodeId::ROOT).await.expect("getattr");

    for name in ["nokv-server", "nokv-controller", "Nokv-control", ""] {
        let refused = connect(&endpoint, authority.client(name)).await;
        assert!(matches!(refused, Err(MetaError::Unauthorized(_))), "{name:?}: {refused:?}");
    }
    let (cert, key) = stranger.issue("nokv-control");
    let refused = connect(&endpoint, TlsConfig { cert, key, ..authority.client("nokv-control") }).await;
    assert!(matches!(refused, Err(MetaError::Unauthorized(_))), "another authority's certificate: {refused:?}");
    let refused = connect(&endpoint, stranger.client("nokv-control")).await;
    assert!(matches!(refused, Err(MetaError::Unauthorized(_))), "a client that does not trust the server: {refused:?}");
    let named = TlsConfig { server_name: Some("other.test".into()), ..authority.client("nokv-control") };
    assert!(matches!(connect(&endpoint, named).await, Err(MetaError::Unauthorized(_))), "another server's name");
    let named = TlsConfig { server_name: Some("server.test".into()), ..authority.client("nokv-control") };
    connect(&endpoint, named).await.expect("the server's name");
    let mut plain = Raw::connect(server.addr().expect("address")).await;
    plain.send(1, &Call::Ping).await;
    let mut answer = Vec::new();
    plain.stream.read_to_end(&mut answer).await.expect("the server hangs up");
    // 21 is the type of a TLS alert (RFC 8446, 5.1).
    assert!(answer.is_empty() || answer[0] == 21, "an answer without TLS: {answer:?}");
}

#[tokio::test]
async fn changed_certificates_are_used_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().expect("dir");
    let backend = TestBackend::new();
    let server = secured(&backend, &old, &dir).await;
    let endpoint = endpoint(&server);
    let before = connect(&endpoint, old.client("nokv-control")).await.expect("the old authority");
    std::fs::write(dir.path().join("tls.crt"), "no certificate").expect("write");
    tokio::time::sleep(Duration::from_millis(100)).await;
    connect(&endpoint, old.client("nokv-control")).await.expect("what can't be used changes nothing");
    new.server(dir.path());
    let until = soon();
    while connect(&endpoint, new.client("nokv-control")).await.is_err() {
        assert!(Instant::now() < until, "the new authority is not taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(connect(&endpoint, old.client("nokv-control")).await.is_err(), "the old authority is trusted no more");
    before.ping(soon()).await.expect("an open connection stays");
}

#[tokio::test]
async fn forged_volumes_and_tokens_open_nothing() {
    let backend = TestBackend::new();
    let (mine, other) = (backend.add_volume("mine"), backend.add_volume("other"));
    let server = start(&backend, options()).await;
    let mut raw = Raw::greeted(server.addr().expect("address")).await;
    let good = request(&mine);
    let forged = [
        SessionRequest { token: Token([0; 32]), ..good.clone() },
        SessionRequest { token: other.1, ..good.clone() },
        SessionRequest { volume: other.0.id, ..good.clone() },
        SessionRequest { volume: VolumeId::random(), ..good.clone() },
    ];
    for request in &forged {
        assert!(matches!(raw.call(&Call::OpenSession(request.clone())).await, Err(MetaError::Unauthorized(_))));
    }
    let Ok(Answer::Session(grant)) = raw.call(&Call::OpenSession(good)).await else { panic!("a session") };
    // Nor do they attach to, or take over, a session that is there.
    let mut thief = Raw::greeted(server.addr().expect("address")).await;
    for request in forged {
        let request = SessionRequest { resume: Some((grant.session, grant.generation)), ..request };
        assert!(matches!(thief.call(&Call::AttachSession(request.clone())).await, Err(MetaError::Unauthorized(_))));
        assert!(matches!(thief.call(&Call::OpenSession(request)).await, Err(MetaError::Unauthorized(_))));
    }
    let stolen = SessionRequest { resume: Some((grant.session, grant.generation)), ..request(&other) };
    assert!(matches!(thief.call(&Call::AttachSession(stolen)).await, Err(MetaError::Unauthorized(_))));
}

#[tokio::test]
async fn a_session_of_another_connection_is_refused_in_every_call() {
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    let server = start(&backend, options()).await;
    let mut owner = Raw::greeted(server.addr().expect("address")).await;
    let Ok(Answer::Session(grant)) = owner.call(&Call::OpenSession(request(&volume))).await else {
        panic!("a session")
    };
    let mut thief = Raw::greeted(server.addr().expect("address")).await;
    let inode = InodeId::ROOT;
    let name = || Name::try_from("stolen").expect("name");
    for session in [
        SessionRef { session: grant.session, generation: grant.generation },
        SessionRef { session: SessionId(999), generation: 1 },
    ] {
        let stamp =
            Stamp { session: session.session, generation: session.generation, slot: 0, sequence: 1, op: OpId(1) };
        let caller = Caller { uid: 0, gid: 0, groups: [].into() };
        let create = Mutation::Create {
            parent: inode,
            name: name(),
            node: NewNode::File,
            mode: 0,
            open_existing: false,
            ack: Ack::Durable,
        };
        let calls = [
            Call::Heartbeat(session, Heartbeat::default()),
            Call::CloseSession(session),
            Call::Lookup(session, inode, name()),
            Call::Getattr(session, inode),
            Call::Readdir { session, inode, after: 0, limit: 1, attrs: false },
            Call::Readlink(session, inode),
            Call::Getxattr(session, inode, "user.k".into()),
            Call::Listxattr(session, inode),
            Call::Body(session, inode, 0),
            Call::Statfs(session),
            Call::Mutate(stamp, caller, create),
        ];
        for call in calls {
            assert!(matches!(thief.call(&call).await, Err(MetaError::Unauthorized(_))), "{}", call.name());
        }
    }
    assert!(backend.effects().is_empty());
    // Another generation than the one held is no better.
    let newer = SessionRef { session: grant.session, generation: grant.generation + 1 };
    assert!(matches!(owner.call(&Call::Getattr(newer, inode)).await, Err(MetaError::Unauthorized(_))));
    let mine = SessionRef { session: grant.session, generation: grant.generation };
    assert!(owner.call(&Call::Getattr(mine, inode)).await.is_ok());
}
