//! Range maps and frames.

use proptest::prelude::*;

use crate::ranges::{At, RangeMap};
use crate::{FRAME_PAYLOAD, decode_frames, encode_frames, framed_len};

proptest! {
    #[test]
    fn a_range_map_is_an_array_of_cells(steps in prop::collection::vec((0u64..64, 0u64..32, any::<bool>()), 1..40)) {
        let mut map = RangeMap::default();
        let mut cells: Vec<Option<u64>> = vec![None; 100];
        for (number, (start, len, lay)) in (0u64..).zip(steps) {
            let value = number * 1000;
            if lay {
                map.lay(start, len, At(value));
            } else {
                map.remove(start..start + len);
            }
            for at in start..start + len {
                cells[at as usize] = lay.then_some(value + at - start);
            }
            for from in [0, start, start + 1] {
                let mut seen = vec![None; 100];
                for span in map.within(from..start + len + 3) {
                    for at in span.start..span.end() {
                        prop_assert!(seen[at as usize].is_none());
                        seen[at as usize] = Some(span.content.0 + at - span.start);
                    }
                }
                let to = ((start + len + 3) as usize).min(100);
                if (from as usize) < to {
                    prop_assert_eq!(&seen[from as usize..to], &cells[from as usize..to]);
                }
            }
            prop_assert_eq!(map.bytes() as usize, cells.iter().flatten().count());
            prop_assert_eq!(map.covers(start..start + len + 1), (start..=start + len).all(|at| cells[at as usize].is_some()));
        }
    }
}

#[test]
fn frames_have_golden_bytes() {
    let object = encode_frames("blocks/v/00/1/2/0/0", b"hello");
    assert_eq!(&object[..5], b"hello");
    assert_eq!(hex(&object[5..]), "e5772c2e6c0f74fc");
    assert_eq!(framed_len(5), 13);
    assert_eq!(framed_len(FRAME_PAYLOAD), FRAME_PAYLOAD + 8);
    assert_eq!(framed_len(FRAME_PAYLOAD + 1), FRAME_PAYLOAD + 17);
    assert_eq!(framed_len(0), 0);
}

#[test]
fn a_frame_is_valid_only_at_its_place() {
    let payload = super::bytes(1, 3 * FRAME_PAYLOAD as usize / 2);
    let object = encode_frames("a", &payload);
    let frame = FRAME_PAYLOAD as usize + 8;
    assert_eq!(decode_frames("a", 0, &object).unwrap().concat(), payload);
    assert_eq!(decode_frames("a", 1, &object[frame..]).unwrap().concat(), payload[FRAME_PAYLOAD as usize..]);
    assert!(decode_frames("b", 0, &object).is_err());
    assert!(decode_frames("a", 0, &object[frame..]).is_err());
    assert!(decode_frames("a", 0, &object[..frame - 1]).is_err());
    for at in [0, 1000, frame - 1, frame, object.len() - 1] {
        let mut damaged = object.to_vec();
        damaged[at] ^= 1;
        assert!(decode_frames("a", 0, &damaged).is_err(), "byte {at}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
