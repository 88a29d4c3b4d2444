//! Of endpoints, slots and the open table.

use std::time::{Duration, Instant};

use nokvfs_meta::{OpenTable, Slots};
use nokvfs_types::{HeartbeatReply, InodeId, MetaError, OpId, SessionId};

use crate::Endpoint;

#[test]
fn endpoints_are_read_and_written_alike() {
    for text in ["localhost:7440", "10.0.0.1:1", "[::1]:7440", "m.ns.svc:7440", "unix:/run/nokv.sock"] {
        assert_eq!(text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()), Ok(text.to_owned()));
    }
}

#[test]
fn what_is_no_endpoint_is_refused() {
    for text in [
        "",
        "host",
        "host:",
        ":7440",
        "host:0",
        "host:70000",
        "unix:relative",
        "::1:7440",
        "a b:1",
        "http://h:1",
        "[x:1",
    ] {
        assert!(text.parse::<Endpoint>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn a_slot_carries_one_request_and_then_the_next_sequence() {
    let slots = Slots::new(SessionId(7), 3, 1);
    let soon = || Instant::now() + Duration::from_millis(20);
    let slot = slots.take(soon()).await.expect("free");
    let first = slot.stamp(OpId(11));
    assert_eq!((first.slot, first.sequence, first.generation), (0, 1, 3));
    assert!(matches!(slots.take(soon()).await, Err(MetaError::Deadline(_))), "the only slot is taken");
    drop(slot);
    assert_eq!(slots.take(soon()).await.expect("free again").stamp(OpId(12)).sequence, 2);
}

#[test]
fn an_orphan_is_open_until_the_last_close() {
    let table = OpenTable::default();
    let asked = HeartbeatReply { orphans: vec![InodeId(5), InodeId(6)] };
    table.opened(InodeId(5));
    table.opened(InodeId(5));
    table.closed(InodeId(5));
    assert_eq!(table.answer(&asked).open, [InodeId(5)]);
    table.closed(InodeId(5));
    table.closed(InodeId(6));
    assert_eq!(table.answer(&asked).closed, asked.orphans);
}
