//! A TCP proxy that cuts connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Cuts each connection once so many bytes went through in either direction; a new limit for each connection.
pub struct Proxy {
    pub address: SocketAddr,
    pub cuts: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl Proxy {
    pub async fn start(target: SocketAddr, limit: impl Fn(u64) -> u64 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let cuts = Arc::new(AtomicU64::new(0));
        let stop = CancellationToken::new();
        let counter = Arc::clone(&cuts);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            for number in 0.. {
                let (near, _) = listener.accept().await.expect("accept");
                let Ok(far) = TcpStream::connect(target).await else { continue };
                let left = Arc::new(AtomicU64::new(limit(number)));
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                    let (up, down) = (pump(near_read, far_write, &left), pump(far_read, near_write, &left));
                    // The first end ends both, in the middle of whatever is under way.
                    tokio::select! { () = up => {}, () = down => {} }
                    counter.fetch_add(1, Ordering::Relaxed);
                });
            }
        }));
        Proxy { address, cuts, _stop: stop.drop_guard() }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, left: &AtomicU64) {
    let mut buffer = [0; 512];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let allowed =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(read as u64)));
        let pass = allowed.expect("always some").min(read as u64) as usize;
        if to.write_all(&buffer[..pass]).await.is_err() || pass < read {
            return;
        }
    }
}
