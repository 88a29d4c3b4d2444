//! Prints what the trial store does on this disk: small durable puts, small and large gets.
//! Usage: `cargo run --release -p nokvfs-devstore --example throughput -- DIR`. Client and server share the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_devstore::{DevStore, DevStoreOptions};
use nokvfs_object::{ObjectError, ObjectStore, S3Options, S3Store};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args_os().nth(1).ok_or("usage: throughput DIR")?;
    let dir = tempfile::tempdir_in(base)?;
    let [bucket, access_key, secret_key] = ["bench", "access", "secret"].map(str::to_owned);
    let (bucket_name, access, secret) = (bucket.clone(), access_key.clone(), secret_key.clone());
    let store = DevStore::open(DevStoreOptions { dir: dir.path().to_owned(), bucket, access_key, secret_key })?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let options = S3Options {
        endpoint: format!("http://{}", listener.local_addr()?),
        bucket: bucket_name,
        access_key: access,
        secret_key: secret,
        ..S3Options::default()
    };
    let stop = CancellationToken::new();
    let served = tokio::spawn(store.serve(listener, stop.clone()));
    let client = Arc::new(S3Store::new(options)?);
    let time = run(64, 6400, &client, |client, n| async move {
        client.put(&format!("small/{n}"), Bytes::from(vec![1; 4096])).await
    });
    println!("4 KiB put x64: {:.0}/s", 6400.0 / time.await?.as_secs_f64());
    let time = run(32, 20_000, &client, |client, n| async move {
        client.get(&format!("small/{}", n % 6400), None).await.map(|_| ())
    });
    println!("4 KiB get x32: {:.0}/s", 20_000.0 / time.await?.as_secs_f64());
    let time = run(8, 64, &client, |client, n| async move {
        client.put(&format!("large/{n}"), Bytes::from(vec![2; 8 << 20])).await
    });
    println!("8 MiB put x8: {:.0} MiB/s", 512.0 / time.await?.as_secs_f64());
    let time =
        run(
            8,
            256,
            &client,
            |client, n| async move { client.get(&format!("large/{}", n % 64), None).await.map(|_| ()) },
        );
    println!("8 MiB get x8: {:.0} MiB/s", 2048.0 / time.await?.as_secs_f64());
    stop.cancel();
    served.await??;
    Ok(())
}

async fn run<F, Fut>(workers: u32, total: u32, client: &Arc<S3Store>, call: F) -> Result<Duration, ObjectError>
where
    F: Fn(Arc<S3Store>, u32) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), ObjectError>> + Send,
{
    let start = Instant::now();
    let workers = (0..workers).map(|worker| {
        let (client, call) = (Arc::clone(client), call.clone());
        tokio::spawn(async move {
            for n in (worker..total).step_by(workers as usize) {
                call(Arc::clone(&client), n).await?;
            }
            Ok(())
        })
    });
    for done in futures::future::join_all(workers).await {
        done.map_err(|error| ObjectError::Invalid(error.to_string()))??;
    }
    Ok(start.elapsed())
}
