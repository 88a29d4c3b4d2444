//! Wrong options, dead and stalling endpoints, servers that fail first, lost replies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nokvfs_object::{Fault, FaultStore, MemoryStore, ObjectError, ObjectStore, Operation, S3Options, S3Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Trial, options};

fn store(options: S3Options) -> S3Store {
    S3Store::new(options).expect("options")
}

/// An option's name, and what makes it wrong.
type Case = (&'static str, fn(&mut S3Options));

#[test]
fn a_wrong_option_is_named_and_secrets_stay_hidden() {
    let good = options(9000);
    let cases: [Case; 9] = [
        ("endpoint", |o| o.endpoint = "127.0.0.1:9000".into()),
        ("endpoint", |o| o.endpoint = "http://h/path".into()),
        ("bucket", |o| o.bucket = "No_Bucket".into()),
        ("prefix", |o| o.prefix = "a//b".into()),
        ("region", |o| o.region = String::new()),
        ("secret_key", |o| o.secret_key = "hush\n".into()),
        ("ca", |o| o.ca = Some("no PEM".into())),
        ("deadline", |o| o.deadline = Duration::ZERO),
        ("max_in_flight", |o| o.max_in_flight = 0),
    ];
    for (name, spoil) in cases {
        let mut options = good.clone();
        spoil(&mut options);
        let error = options.validate().expect_err(name).to_string();
        assert!(error.contains(&format!("S3 option {name}")) && !error.contains("hush"), "{error}");
    }
    let text = format!("{good:?} {:?}", store(good.clone()));
    assert!(text.contains("127.0.0.1") && !text.contains("a-secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_is_wrong() {
    let trial = Trial::start().await;
    let wrong = |spoil: fn(&mut S3Options)| {
        let mut options = options(trial.port);
        spoil(&mut options);
        store(options)
    };
    let key = wrong(|o| o.access_key = "other".into()).check().await.expect_err("key");
    assert!(matches!(&key, ObjectError::Denied(text) if text.contains("InvalidAccessKeyId")), "{key}");
    let secret = wrong(|o| o.secret_key = "other".into()).check().await.expect_err("secret");
    assert!(matches!(&secret, ObjectError::Denied(text) if text.contains("SignatureDoesNotMatch")), "{secret}");
    let bucket = wrong(|o| o.bucket = "other".into()).check().await.expect_err("bucket");
    assert!(matches!(&bucket, ObjectError::Invalid(text) if text.contains("NoSuchBucket")), "{bucket}");
    trial.stop().await;
}

#[tokio::test]
async fn a_dead_endpoint_fails_within_the_deadline() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let store = store(S3Options { deadline: Duration::from_millis(500), ..options(port) });
    let error = tokio::time::timeout(Duration::from_secs(10), store.get("key", None)).await.expect("ends");
    assert!(matches!(&error, Err(ObjectError::Unavailable(text)) if text.contains("refused")), "{error:?}");
    let check = store.check().await.expect_err("dead");
    assert!(check.to_string().contains("is the endpoint right"), "{check}");
}

#[tokio::test]
async fn a_server_that_never_answers_fails_within_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let store = store(S3Options { deadline: Duration::from_millis(600), max_in_flight: 1, ..options(port) });
    let (first, second) = (store.get("key", None), store.put("key", Bytes::from_static(b"x")));
    let both = tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(first, second) });
    let (first, second) = both.await.expect("ends");
    assert!(first.expect_err("stalls").is_transient() && second.expect_err("waits").is_transient());
    drop(listener);
}

/// Passes connections on to `port`, but spoils the first `bad` ones.
async fn proxy(port: u16, bad: usize, spoil: Spoil) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let own = listener.local_addr().expect("an address").port();
    let met = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&met);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let spoil = if number < bad { spoil } else { Spoil::Nothing };
            tokio::spawn(serve(client, port, spoil));
        }
    });
    (own, met)
}

#[derive(Clone, Copy)]
enum Spoil {
    Nothing,
    /// Closes at once.
    Close,
    /// Answers 503.
    Busy,
    /// Passes the request on and swallows the reply.
    LoseReply,
}

async fn serve(mut client: TcpStream, port: u16, spoil: Spoil) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    match spoil {
        Spoil::Close => {}
        Spoil::Busy => {
            let mut request = vec![0; 16 << 10];
            client.read(&mut request).await.map(|_| ())?;
            client.write_all(b"HTTP/1.1 503 Slow Down\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await?;
        }
        Spoil::LoseReply => {
            let (mut from, _to) = client.split();
            let (mut answer, mut ask) = server.split();
            let mut reply = vec![0; 16 << 10];
            tokio::select! {
                done = tokio::io::copy(&mut from, &mut ask) => done.map(|_| ())?,
                done = answer.read(&mut reply) => done.map(|_| ())?,
            }
        }
        Spoil::Nothing => tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ())?,
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_retried() {
    let trial = Trial::start().await;
    for spoil in [Spoil::Close, Spoil::Busy] {
        let (port, met) = proxy(trial.port, 3, spoil).await;
        let store = store(options(port));
        store.put("key", Bytes::from_static(b"body")).await.expect("put");
        assert_eq!(store.get("key", None).await.expect("get"), "body");
        assert!(met.load(Ordering::SeqCst) >= 4);
    }
    trial.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_of_a_conditional_put_is_settled_by_the_content() {
    let trial = Trial::start().await;
    let (port, _) = proxy(trial.port, 1, Spoil::LoseReply).await;
    assert!(store(options(port)).put_if_absent("own", Bytes::from_static(b"own")).await.expect("put"));
    let direct = store(options(trial.port));
    direct.put("theirs", Bytes::from_static(b"theirs")).await.expect("put");
    let (port, _) = proxy(trial.port, 1, Spoil::LoseReply).await;
    assert!(!store(options(port)).put_if_absent("theirs", Bytes::from_static(b"own")).await.expect("put"));
    assert_eq!(direct.get("theirs", None).await.expect("get"), "theirs");
    trial.stop().await;
}

#[tokio::test]
async fn faults_happen_as_scripted() {
    let memory = Arc::new(MemoryStore::new());
    let store = Arc::new(FaultStore::new(memory.clone()));
    let lost = || ObjectError::Unavailable("scripted".into());
    store.inject(Operation::Put, 2, Fault::FailBefore(lost()));
    store.inject(Operation::Put, 3, Fault::FailAfter(lost()));
    store.put("1", Bytes::new()).await.expect("the first");
    store.put("2", Bytes::new()).await.expect_err("before");
    store.put("3", Bytes::new()).await.expect_err("after");
    assert_eq!(memory.keys(), ["1", "3"]);
    let stall = store.stall(Operation::Get, 1);
    let get = tokio::spawn({
        let store = store.clone();
        async move { store.get("1", None).await }
    });
    assert!(stall.reached().await && !get.is_finished());
    stall.release();
    get.await.expect("no panic").expect("released");
    store.inject_always(Operation::List, Fault::FailBefore(lost()));
    store.list("", None, 1).await.expect_err("always");
    store.heal();
    store.list("", None, 1).await.expect("healed");
    assert_eq!(store.calls(Operation::List), 2);
}

#[tokio::test]
async fn a_full_memory_store_refuses() {
    let store = MemoryStore::with_limit(10);
    store.put("a", Bytes::from(vec![0; 8])).await.expect("fits");
    store.put("b", Bytes::from(vec![0; 8])).await.expect_err("full");
    store.delete(&["a".to_owned()]).await.expect("delete");
    store.put("b", Bytes::from(vec![0; 8])).await.expect("fits again");
    assert_eq!((store.len(), store.bytes()), (1, 8));
}
