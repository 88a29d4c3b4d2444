use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("nokv-mounter-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("mounter.sock")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn config() -> MountConfig {
    MountConfig {
        server: "m.ns.svc:7440".into(),
        volume: "0b66c5d4-5f0c-4d0a-9c8f-1f6c3b1a2d3e".into(),
        token: Secret::new("ab".repeat(32)),
        tls: Some(TlsConfig {
            ca: "-----BEGIN CERTIFICATE-----\nca\n-----END CERTIFICATE-----\n".into(),
            cert: "cert\n".into(),
            key: Secret::new("key line\n".repeat(2000)),
            server_name: None,
        }),
        s3: S3Config {
            endpoint: "http://127.0.0.1:9000".into(),
            bucket: "b".into(),
            prefix: "p/".into(),
            region: "us-east-1".into(),
            path_style: true,
            access_key: Secret::new("AKIATEST"),
            secret_key: Secret::new("topsecret"),
        },
        read_only: false,
        client: "node-1".into(),
        buffer_bytes: None,
    }
}

#[test]
fn a_descriptor_and_its_request_arrive_together() {
    let dir = Dir::new("fd");
    let listener = MounterListener::bind(&dir.socket()).unwrap();
    let server = std::thread::spawn(move || {
        let mut connection = listener.accept(soon()).unwrap().unwrap();
        let (request, fd) = connection.recv_with_fd(soon()).unwrap();
        connection.reply(&Reply::Mounted, soon()).unwrap();
        (request, fd)
    });
    let mut file: File = rustix::fs::memfd_create("passed", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into();
    file.write_all(b"through the socket").unwrap();
    let request = Request::Mount { volume_handle: "ns.m.v".into(), config: Box::new(config()) };
    assert_eq!(MounterClient::call(&dir.socket(), &request, Some(file.as_fd()), soon()).unwrap(), Reply::Mounted);
    let (received, fd) = server.join().unwrap();
    assert_eq!(received, request);
    let mut file = File::from(fd.unwrap());
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the socket");
}

#[test]
fn a_received_descriptor_does_not_leak_into_children() {
    let dir = Dir::new("cloexec");
    let listener = MounterListener::bind(&dir.socket()).unwrap();
    let mut client = MounterClient::connect(&dir.socket(), soon()).unwrap();
    let file = File::open("/dev/null").unwrap();
    client.send_with_fd(&Request::Ping, Some(file.as_fd()), soon()).unwrap();
    let mut connection = listener.accept(soon()).unwrap().unwrap();
    let fd: OwnedFd = connection.recv_with_fd(soon()).unwrap().1.unwrap();
    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn every_wait_ends_at_its_deadline() {
    let dir = Dir::new("deadline");
    let listener = MounterListener::bind(&dir.socket()).unwrap();
    let short = || Instant::now() + Duration::from_millis(20);
    assert!(listener.accept(short()).unwrap().is_none());
    let mut client = MounterClient::connect(&dir.socket(), soon()).unwrap();
    assert!(matches!(client.receive(short()), Err(WireError::Deadline(_))));
    let mut connection = listener.accept(soon()).unwrap().unwrap();
    assert!(matches!(connection.recv_with_fd(short()), Err(WireError::Deadline(_))));
}

#[test]
fn a_half_sent_message_and_an_endless_one_are_refused() {
    let dir = Dir::new("cut");
    let listener = MounterListener::bind(&dir.socket()).unwrap();
    let mut raw = std::os::unix::net::UnixStream::connect(dir.socket()).unwrap();
    raw.write_all(b"{\"request\":").unwrap();
    drop(raw);
    let mut connection = listener.accept(soon()).unwrap().unwrap();
    assert!(matches!(connection.recv_with_fd(soon()), Err(WireError::Closed)));

    let mut raw = std::os::unix::net::UnixStream::connect(dir.socket()).unwrap();
    let writer = std::thread::spawn(move || raw.write_all(&vec![b'x'; MAX_LINE * 2]));
    let mut connection = listener.accept(soon()).unwrap().unwrap();
    assert!(matches!(connection.recv_with_fd(soon()), Err(WireError::TooLong)));
    drop(connection);
    assert!(writer.join().unwrap().is_err());
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let dir = Dir::new("bind");
    let dead = std::os::unix::net::UnixListener::bind(dir.socket()).unwrap();
    drop(dead);
    let error = MounterClient::connect(&dir.socket(), soon()).unwrap_err();
    assert!(error.to_string().contains("is its container running"), "{error}");
    let listener = MounterListener::bind(&dir.socket()).unwrap();
    assert!(matches!(MounterListener::bind(&dir.socket()), Err(WireError::InUse(_))));
    assert!(MounterClient::connect(listener.path(), soon()).is_ok());
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let shown = format!("{:?}", Request::Mount { volume_handle: "h".into(), config: Box::new(config()) });
    for secret in ["abab", "key line", "AKIATEST", "topsecret"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn the_json_is_as_agreed() {
    let ping = serde_json::to_string(&Request::Ping).unwrap();
    assert_eq!(ping, r#"{"request":"ping"}"#);
    let unmount = serde_json::to_string(&Request::Unmount { volume_handle: "a.b.c".into() }).unwrap();
    assert_eq!(unmount, r#"{"request":"unmount","volumeHandle":"a.b.c"}"#);
    let failed = serde_json::to_string(&Reply::Failed { kind: Failure::Unavailable, reason: "r".into() }).unwrap();
    assert_eq!(failed, r#"{"reply":"failed","kind":"unavailable","reason":"r"}"#);
    let mounts =
        Reply::Mounts { mounts: vec![MountState { volume_handle: "a.b.c".into(), connected: true, trouble: None }] };
    let text = serde_json::to_string(&mounts).unwrap();
    assert_eq!(text, r#"{"reply":"mounts","mounts":[{"volumeHandle":"a.b.c","connected":true,"trouble":null}]}"#);
    let surplus = serde_json::to_string(&Request::Mount { volume_handle: "h".into(), config: Box::new(config()) })
        .unwrap()
        .replace("\"readOnly\"", "\"readonly\"");
    assert!(serde_json::from_str::<Request>(&surplus).is_err());
}
