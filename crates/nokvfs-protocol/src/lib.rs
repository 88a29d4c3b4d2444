//! The framed metadata RPC, and the socket between node plugin and mounter.
//!
//! Owns: messages, their conversion from and to the types of the filesystem, frames, the handshake.
//! Must not: execute a request, open a network connection, know records or objects.
//! Invariants: bytes from a peer never panic and never reserve more than their own length and a constant factor; what a
//! message breaks (names, lengths, enums) is found here, before anything is done.

mod call;
mod codec;
mod convert;
mod errors;
mod frame;
mod hello;
pub mod mounter;

#[cfg(test)]
mod golden_test;
#[cfg(test)]
mod tests;

#[allow(missing_docs, clippy::all)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/nokv.metadata.v1.rs"));
}

pub use call::{Answer, Call, Incarnation, LockWait, Request, SessionRef};
pub use codec::{decode_reply, decode_request, encode_reply, encode_request};
pub use errors::ProtocolError;
pub use frame::{Frame, FrameKind, MAX_FRAME, MAX_HELLO, MAX_REQUEST, take_frame};
pub use hello::{FEATURES, Hello, HelloReply, VERSION_MAX, VERSION_MIN};
