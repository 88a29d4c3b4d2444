//! A client without manners.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use nokvfs_protocol::{Answer, Call, Hello, HelloReply, MAX_FRAME, decode_reply, encode_request, take_frame};
use nokvfs_types::MetaError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Raw {
    pub stream: TcpStream,
    buffer: BytesMut,
}

impl Raw {
    /// Connects without a greeting.
    pub async fn connect(address: SocketAddr) -> Self {
        Raw { stream: TcpStream::connect(address).await.expect("connect"), buffer: BytesMut::new() }
    }

    /// Connects and greets.
    pub async fn greeted(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address).await;
        let reply = raw.greet().await;
        assert_eq!(reply.refused, None);
        raw
    }

    pub async fn greet(&mut self) -> HelloReply {
        let mut out = BytesMut::new();
        Hello::ours("raw").encode(&mut out).expect("hello");
        self.stream.write_all(&out).await.expect("write");
        let (_, message) = self.frame().await.expect("a reply to the greeting");
        HelloReply::decode(message).expect("hello reply")
    }

    /// The next frame; `None` if the server hangs up.
    pub async fn frame(&mut self) -> Option<(u64, bytes::Bytes)> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer, MAX_FRAME).expect("frame") {
                return Some((frame.id, frame.message));
            }
            let read = tokio::time::timeout(Duration::from_secs(10), self.stream.read_buf(&mut self.buffer));
            match read.await.expect("the server answers or hangs up") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    pub async fn send(&mut self, id: u64, call: &Call) {
        let mut out = BytesMut::new();
        encode_request(&mut out, id, Duration::from_secs(10), call).expect("encode");
        self.stream.write_all(&out).await.expect("write");
    }

    pub async fn call(&mut self, call: &Call) -> Result<Answer, MetaError> {
        self.send(1, call).await;
        let (_, message) = self.frame().await.expect("a reply");
        decode_reply(message).expect("reply")
    }
}
