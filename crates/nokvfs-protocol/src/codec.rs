//! Requests and replies to frames and back.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nokvfs_types::MetaError;
use prost::Message;

use crate::call::{Answer, Call, Request};
use crate::convert::{answer_from_wire, answer_to_wire, call_from_wire, call_to_wire, error_from_wire, error_to_wire};
use crate::frame::{FrameKind, MAX_FRAME, MAX_REQUEST, put_frame};
use crate::{ProtocolError, wire};

/// Appends a request's frame to `out`.
///
/// # Errors
/// [`MetaError::TooLarge`] if the request is larger than a server takes; `out` is as before then.
pub fn encode_request(out: &mut BytesMut, id: u64, timeout: Duration, call: &Call) -> Result<(), MetaError> {
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let message = wire::Request { timeout_ms, call: Some(call_to_wire(call)) };
    put_frame(out, id, FrameKind::Request, &message, MAX_REQUEST).map_err(|_| MetaError::TooLarge)
}

/// Reads a request's message.
///
/// # Errors
/// What the request is to be answered with: [`MetaError::Invalid`], `NameTooLong` and the like.
pub fn decode_request(message: Bytes) -> Result<Request, MetaError> {
    let request = wire::Request::decode(message).map_err(|error| MetaError::Invalid(format!("request: {error}")))?;
    let call =
        request.call.ok_or_else(|| MetaError::Invalid("a request without a call that this server knows".into()))?;
    Ok(Request { timeout: Duration::from_millis(u64::from(request.timeout_ms)), call: call_from_wire(call)? })
}

/// Appends a reply's frame to `out`. An answer that is too long for a frame becomes an error.
pub fn encode_reply(out: &mut BytesMut, id: u64, reply: &Result<Answer, MetaError>) {
    let answer = match reply {
        Ok(answer) => answer_to_wire(answer),
        Err(error) => wire::reply::Answer::Error(error_to_wire(error)),
    };
    let message = wire::Reply { answer: Some(answer) };
    if let Err(error) = put_frame(out, id, FrameKind::Reply, &message, MAX_FRAME) {
        let error =
            error_to_wire(&MetaError::Internal(format!("the answer does not fit: {error}; ask for less at once")));
        let message = wire::Reply { answer: Some(wire::reply::Answer::Error(error)) };
        put_frame(out, id, FrameKind::Reply, &message, MAX_FRAME).expect("a short error fits a frame");
    }
}

/// Reads a reply's message.
///
/// # Errors
/// [`ProtocolError::Malformed`] if it can't be understood.
pub fn decode_reply(message: Bytes) -> Result<Result<Answer, MetaError>, ProtocolError> {
    let reply = wire::Reply::decode(message).map_err(|error| ProtocolError::Malformed(error.to_string()))?;
    let answer = reply.answer.ok_or_else(|| ProtocolError::Malformed("a reply without an answer".into()))?;
    match answer {
        wire::reply::Answer::Error(error) => error_from_wire(error).map(Err),
        answer => answer_from_wire(answer).map(Ok),
    }
    .map_err(|error| ProtocolError::Malformed(error.to_string()))
}
