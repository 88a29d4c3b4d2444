//! Bytes from a peer: whatever they are, they are read, refused, or waited for, and never panic.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nokvfs_types::{InodeId, MetaError, Name, OpId, SessionId};
use proptest::prelude::*;

use crate::call::{Answer, Call, SessionRef};
use crate::golden_test::{answers, calls, errors};
use crate::{
    FrameKind, Hello, HelloReply, MAX_FRAME, MAX_HELLO, MAX_REQUEST, ProtocolError, decode_reply, decode_request,
    encode_reply, encode_request, take_frame, wire,
};

fn request_bytes(call: &Call) -> BytesMut {
    let mut out = BytesMut::new();
    encode_request(&mut out, 7, Duration::from_millis(1500), call).expect("encode");
    out
}

fn reply_bytes(reply: &Result<Answer, MetaError>) -> BytesMut {
    let mut out = BytesMut::new();
    encode_reply(&mut out, 9, reply);
    out
}

#[test]
fn every_call_arrives_as_it_was_sent() {
    for (name, call) in calls() {
        let frame = take_frame(&mut request_bytes(&call), MAX_REQUEST).expect(name).expect(name);
        assert_eq!((frame.id, frame.kind), (7, FrameKind::Request));
        let request = decode_request(frame.message).expect(name);
        assert_eq!((request.call, request.timeout), (call, Duration::from_millis(1500)), "{name}");
    }
}

#[test]
fn every_answer_and_error_arrives_as_it_was_sent() {
    let answers = answers().into_iter().map(|(_, answer)| Ok(answer));
    for reply in answers.chain(errors().into_iter().map(Err)) {
        let frame = take_frame(&mut reply_bytes(&reply), MAX_FRAME).expect("frame").expect("whole");
        assert_eq!((frame.id, frame.kind), (9, FrameKind::Reply));
        assert_eq!(decode_reply(frame.message), Ok(reply));
    }
}

#[test]
fn frames_come_whole_however_the_bytes_are_cut() {
    let all: Vec<Bytes> = calls().iter().map(|(_, call)| request_bytes(call).freeze()).collect();
    let stream: Vec<u8> = all.concat();
    for step in [1, 3, 7, 64, stream.len()] {
        let mut buffer = BytesMut::new();
        let mut frames = 0;
        for piece in stream.chunks(step) {
            buffer.extend_from_slice(piece);
            while take_frame(&mut buffer, MAX_REQUEST).expect("frame").is_some() {
                frames += 1;
            }
        }
        assert_eq!((frames, buffer.len()), (all.len(), 0));
    }
}

#[test]
fn frames_that_are_none_are_refused() {
    let take = |bytes: &[u8]| take_frame(&mut BytesMut::from(bytes), 100);
    assert_eq!(take(&[0, 0, 0, 101]), Err(ProtocolError::TooLarge { len: 101, max: 100 }));
    assert!(matches!(take(&[0, 0, 0, 8]), Err(ProtocolError::NotAFrame(_))));
    assert!(matches!(take(&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 5]), Err(ProtocolError::NotAFrame(_))));
    assert!(matches!(take(b"GET / HTTP/1.1\r\n"), Err(ProtocolError::TooLarge { .. })));
    assert_eq!(take(&[0, 0, 0, 50, 1]), Ok(None));
}

#[test]
fn a_frame_that_claims_much_reserves_no_more_than_the_limit() {
    let mut buffer = BytesMut::from(&[0u8, 0, 0x0f, 0xff][..]);
    assert_eq!(take_frame(&mut buffer, MAX_HELLO), Ok(None));
    assert!(buffer.capacity() <= 2 * MAX_HELLO);
}

#[test]
fn versions_are_agreed_on() {
    let hello = |version_min, version_max| Hello { version_min, version_max, features: 0, agent: String::new() };
    assert_eq!(hello(1, 9).agree(), Ok(1));
    assert!(matches!(hello(2, 9).agree(), Err(ProtocolError::Version { theirs_min: 2, .. })));
    let mut out = BytesMut::new();
    hello(1, 9).encode(&mut out).expect("encode");
    let frame = take_frame(&mut out, MAX_HELLO).expect("frame").expect("whole");
    assert_eq!(Hello::decode(frame.message), Ok(hello(1, 9)));
}

#[test]
fn a_long_agent_is_cut_at_a_character() {
    assert_eq!(Hello::ours(&"\u{20ac}".repeat(100)).agent.len(), 255);
}

#[test]
fn a_request_that_is_too_large_is_not_sent() {
    let name = Name::try_from("f").expect("name");
    let call = Call::Getxattr(session(), InodeId(2), Bytes::from(vec![b'x'; MAX_REQUEST]));
    let mut out = request_bytes(&Call::Lookup(session(), InodeId(1), name));
    let before = out.clone();
    assert_eq!(encode_request(&mut out, 8, Duration::ZERO, &call), Err(MetaError::TooLarge));
    assert_eq!(out, before);
}

#[test]
fn an_answer_that_is_too_large_becomes_an_error() {
    let mut out = reply_bytes(&Ok(Answer::Names(vec![Bytes::from(vec![b'x'; 255]); 40_000])));
    let frame = take_frame(&mut out, MAX_FRAME).expect("frame").expect("whole");
    assert!(matches!(decode_reply(frame.message), Ok(Err(MetaError::Internal(_)))));
}

fn session() -> SessionRef {
    SessionRef { session: SessionId(3), generation: 1 }
}

fn session_message() -> Option<wire::SessionRef> {
    Some(wire::SessionRef { session: 3, generation: 1 })
}

fn decode(call: wire::request::Call) -> Result<Call, MetaError> {
    let message = wire::Request { timeout_ms: 1, call: Some(call) };
    decode_request(prost::Message::encode_to_vec(&message).into()).map(|request| request.call)
}

fn mutate(mutation: wire::mutate_call::Mutation) -> wire::MutateCall {
    let caller = Some(wire::Caller { uid: 0, gid: 0, groups: Vec::new() });
    let op = OpId(1).0;
    wire::MutateCall { session: session_message(), slot: 0, sequence: 1, op, caller, mutation: Some(mutation) }
}

/// What is broken, how, and the error that it gets.
type Refusal = (&'static str, wire::request::Call, fn(&MetaError) -> bool);

fn refused() -> Vec<Refusal> {
    use wire::mutate_call::Mutation as M;
    use wire::request::Call as C;
    let invalid: fn(&MetaError) -> bool = |error| matches!(error, MetaError::Invalid(_));
    let too_long: fn(&MetaError) -> bool = |error| *error == MetaError::NameTooLong;
    let lookup = |parent, name: &[u8]| {
        C::Lookup(wire::LookupCall { session: session_message(), parent, name: Bytes::copy_from_slice(name) })
    };
    let publish = |extents: &[(u64, u64, u64, u64)]| {
        let extent = |&(offset, len, slice_offset, slice_len): &(u64, u64, u64, u64)| wire::Extent {
            offset,
            len,
            upload: 1,
            inode: 2,
            chunk: 0,
            slice_offset,
            slice_len,
        };
        let extents = extents.iter().map(extent).collect();
        C::Mutate(mutate(M::Publish(wire::Publish { inode: 2, truncate: None, size: 9, written: 0, extents })))
    };
    let create = |kind, mode, target: usize, rdev| {
        let name = Bytes::from_static(b"n");
        let target = Bytes::from(vec![b't'; target]);
        C::Mutate(mutate(M::Create(wire::Create {
            parent: 1,
            name,
            kind,
            mode,
            open_existing: false,
            target,
            rdev,
            early: false,
            restore: 0,
        })))
    };
    let xattr = |name: usize, value: usize| {
        let (name, value) = (Bytes::from(vec![b'n'; name]), Bytes::from(vec![b'v'; value]));
        C::Mutate(mutate(M::SetXattr(wire::SetXattr { inode: 2, name, value, mode: 1 })))
    };
    let remove = M::Unlink(wire::Remove { parent: 1, name: Bytes::from_static(b"n") });
    vec![
        ("inode 0", lookup(0, b"n"), invalid),
        ("empty name", lookup(1, b""), invalid),
        ("dot", lookup(1, b"."), invalid),
        ("slash", lookup(1, b"a/b"), invalid),
        ("nul", lookup(1, b"a\0"), invalid),
        ("long name", lookup(1, &[b'n'; 256]), too_long),
        ("no session", C::Statfs(wire::StatfsCall { session: None }), invalid),
        ("empty extent", publish(&[(0, 0, 0, 1)]), invalid),
        ("extent past u64", publish(&[(u64::MAX, 2, 0, 9)]), invalid),
        ("extent across chunks", publish(&[((64 << 20) - 1, 2, 0, 9)]), invalid),
        ("extents unsorted", publish(&[(5, 2, 0, 9), (0, 2, 0, 9)]), invalid),
        ("extents overlap", publish(&[(0, 3, 0, 9), (2, 2, 0, 9)]), invalid),
        ("extent past its slice", publish(&[(0, 3, 7, 9)]), invalid),
        ("slice past u64", publish(&[(0, 3, u64::MAX, u64::MAX)]), invalid),
        ("kind", create(0, 0, 0, 0), invalid),
        ("unknown kind", create(99, 0, 0, 0), invalid),
        ("mode", create(1, 0o10000, 0, 0), invalid),
        ("target of a file", create(1, 0, 3, 0), invalid),
        ("device number of a file", create(1, 0, 0, 3), invalid),
        ("empty target", create(3, 0, 0, 0), |error| *error == MetaError::NotFound),
        ("long target", create(3, 0, 4096, 0), too_long),
        ("long xattr name", xattr(256, 0), too_long),
        ("empty xattr name", xattr(0, 0), invalid),
        ("large xattr", xattr(1, (32 << 10) + 1), |error| *error == MetaError::AttributeTooLarge),
        ("slot", C::Mutate(wire::MutateCall { slot: 256, ..mutate(remove.clone()) }), invalid),
        ("no caller", C::Mutate(wire::MutateCall { caller: None, ..mutate(remove.clone()) }), invalid),
        ("no mutation", C::Mutate(wire::MutateCall { mutation: None, ..mutate(remove) }), invalid),
        ("short volume id", C::Volume(wire::VolumeCall { id: Bytes::from_static(&[1; 15]) }), invalid),
        ("list of none", C::ListVolumes(wire::ListVolumesCall { after: None, limit: 0 }), invalid),
        ("list of too many", C::ListVolumes(wire::ListVolumesCall { after: None, limit: 1001 }), invalid),
    ]
}

#[test]
fn what_breaks_a_rule_is_refused_with_its_error() {
    for (what, call, expected) in refused() {
        let error = decode(call).expect_err(what);
        assert!(expected(&error), "{what}: {error:?}");
    }
}

#[test]
fn a_token_shows_in_no_debug_text() {
    for (name, call) in calls() {
        let shown = format!("{call:?}").to_lowercase();
        assert!(!shown.contains("abababab") && !shown.contains("171, 171"), "{name}: {shown}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        drop(decode_request(bytes.clone()));
        drop(decode_reply(bytes.clone()));
        drop(Hello::decode(bytes.clone()));
        drop(HelloReply::decode(bytes.clone()));
        let mut buffer = BytesMut::from(bytes.as_ref());
        while let Ok(Some(_)) = take_frame(&mut buffer, MAX_FRAME) {}
    }

    /// Close to what is right, so that the checks behind the decoder are reached too.
    #[test]
    fn damaged_messages_are_survived(which in 0usize..1000, at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()) {
        let calls = calls();
        let answers = answers();
        let mut frames = [request_bytes(&calls[which % calls.len()].1), reply_bytes(&Ok(answers[which % answers.len()].1.clone()))];
        for frame in &mut frames {
            let at = 13 + at.index(frame.len() - 12);
            if at < frame.len() {
                if cut { frame.truncate(at) } else { frame[at] = with }
            }
            let message = frame.split_off(13).freeze();
            drop(decode_request(message.clone()));
            drop(decode_reply(message));
        }
    }
}
