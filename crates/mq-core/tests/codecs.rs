//! Codecs: values come back as they were, and hostile bytes are errors, not panics or memory.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(all(feature = "json", feature = "postcard", feature = "bincode"))]

use std::collections::BTreeMap;

use mq_core::{
    ErrorKind,
    codec::{BincodeCodec, Codec, JsonCodec, PostcardCodec},
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    note: String,
    lines: Vec<(String, i32)>,
    tags: BTreeMap<String, Option<bool>>,
}

fn orders() -> impl Strategy<Value = Order> {
    let lines = prop::collection::vec((".{0,8}", any::<i32>()), 0..4);
    let tags = prop::collection::btree_map(".{0,4}", any::<Option<bool>>(), 0..4);
    (any::<u64>(), ".{0,20}", lines, tags).prop_map(|(id, note, lines, tags)| Order {
        id,
        note,
        lines,
        tags,
    })
}

fn comes_back<C: Codec>(order: &Order) {
    let bytes = C::encode(order).expect("encodes");
    assert_eq!(&C::decode::<Order>(&bytes).expect("decodes"), order);
    let mut longer = bytes.to_vec();
    longer.push(b'!');
    let error = C::decode::<Order>(&longer).expect_err("bytes are left over");
    assert_eq!(error.kind(), ErrorKind::Codec);
}

fn ends_in_bounds<C: Codec>(bytes: &[u8]) {
    if let Err(error) = C::decode::<Order>(bytes) {
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(!error.is_retryable());
    }
}

proptest! {
    #[test]
    fn a_value_comes_back_as_it_was(order in orders()) {
        comes_back::<JsonCodec>(&order);
        comes_back::<PostcardCodec>(&order);
        comes_back::<BincodeCodec>(&order);
    }

    #[test]
    fn any_bytes_end_as_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        ends_in_bounds::<JsonCodec>(&bytes);
        ends_in_bounds::<PostcardCodec>(&bytes);
        ends_in_bounds::<BincodeCodec>(&bytes);
    }
}

#[test]
fn a_length_that_lies_is_refused_before_it_is_allocated() {
    // bincode, standard configuration: 253 announces a u64, here a string of 2^60 bytes.
    let mut lie = vec![253];
    lie.extend((1_u64 << 60).to_le_bytes());
    let error = BincodeCodec::decode::<String>(&lie).expect_err("a lie");
    assert!(error.to_string().contains("bincode"), "{error}");
    // postcard: the same as a varint.
    let lie = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
    assert!(PostcardCodec::decode::<String>(&lie).is_err());
    // More elements than bytes, each of no size.
    let mut units = vec![253];
    units.extend((1_u64 << 60).to_le_bytes());
    assert!(BincodeCodec::decode::<Vec<u8>>(&units).is_err());
}
