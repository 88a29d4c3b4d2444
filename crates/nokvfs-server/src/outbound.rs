//! Replies on their way out: collected, and written many at a time.

use std::time::Duration;

use bytes::BytesMut;
use nokvfs_failpoint::failpoint;
use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// While so many bytes wait, no further request is taken from the connection.
const FULL: usize = 8 << 20;
/// A buffer that grew beyond this is given back once it is empty.
const KEEP: usize = 256 << 10;

/// Bytes that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    state: Mutex<State>,
    changed: Notify,
    drained: Notify,
}

#[derive(Debug, Default)]
struct State {
    buffer: BytesMut,
    finished: bool,
}

impl Outbound {
    /// Appends; call [`Outbound::flush`] after the last of a batch.
    pub(crate) fn put(&self, encode: impl FnOnce(&mut BytesMut)) {
        encode(&mut self.state.lock().buffer);
    }

    /// Lets the writer write.
    pub(crate) fn flush(&self) {
        self.changed.notify_one();
    }

    /// Nothing more comes: the writer ends after what is there.
    pub(crate) fn finish(&self) {
        self.state.lock().finished = true;
        self.changed.notify_one();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.state.lock().buffer.len() >= FULL
    }

    /// Waits until the writer took what was there.
    pub(crate) async fn drained(&self) {
        self.drained.notified().await;
    }

    /// Writes until finished. A peer that takes nothing for `patience` ends the connection.
    pub(crate) async fn write_to(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        patience: Duration,
        end: &CancellationToken,
    ) {
        let mut batch = BytesMut::new();
        loop {
            let finished = {
                let mut state = self.state.lock();
                std::mem::swap(&mut state.buffer, &mut batch);
                state.finished
            };
            if !batch.is_empty() {
                self.drained.notify_one();
                if let Err(error) = write_all(writer, &batch, patience).await {
                    tracing::debug!(%error, "writing replies");
                    break;
                }
                failpoint!("server.answered");
                batch.clear();
                if batch.capacity() > KEEP {
                    batch = BytesMut::new();
                }
            } else if finished {
                // A peer that hung up already needs no goodbye.
                let _gone = tokio::time::timeout(patience, writer.shutdown()).await;
                break;
            } else {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = end.cancelled() => break,
                }
            }
        }
        end.cancel();
    }
}

/// Each step forward must come within `patience`; the whole may take longer.
async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    patience: Duration,
) -> std::io::Result<()> {
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    while !bytes.is_empty() {
        match tokio::time::timeout(patience, writer.write(bytes)).await.map_err(late)?? {
            0 => return Err(std::io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    tokio::time::timeout(patience, writer.flush()).await.map_err(late)?
}
