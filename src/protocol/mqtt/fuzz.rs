//! What fuzzing feeds to the parsers of this module; `fuzz/targets.rs` names it.

use super::{
    Version,
    codec::{Codec, Login},
};
use crate::{clock, observation::Kind};

/// Packets, before and after the login, in one piece and byte by byte.
pub fn packets(data: &[u8]) {
    for (version, connack) in [(Version::V5, &[0x20, 3, 0, 0, 0][..]), (Version::V311, &[0x20, 2, 0, 0])] {
        heard(version, &[], &mut data.chunks(3));
        let whole = heard(version, connack, &mut std::iter::once(data));
        assert_eq!(heard(version, connack, &mut data.chunks(1)), whole, "the pieces do not matter");
    }
}

/// How much was heard before the breach, and its class: its words quote as much as had come.
fn heard(version: Version, connack: &[u8], pieces: &mut dyn Iterator<Item = &[u8]>) -> (usize, Option<Kind>) {
    let login = Login { client_id: "fuzz".into(), username: None, password: None, keep_alive_s: 60 };
    let mut codec = Codec::new(version);
    codec.connect(&login).expect("a good login");
    codec.feed(connack, clock::instant());
    let _ = (codec.publish("t", 2, b"x"), codec.publish("t", 1, b"x"), codec.subscribe("t/#", 1), codec.ping());
    let mut count = 0;
    for piece in pieces {
        let (heard, breach) = codec.feed(piece, clock::instant());
        count += heard.len();
        if let Some(breach) = breach {
            return (count, Some(breach.kind));
        }
    }
    (count, None)
}
