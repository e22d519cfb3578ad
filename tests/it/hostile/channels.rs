//! Receivers of alerts in bad hands: an attempt to deliver ends by its channel's deadline, is delivered only when the
//! receiver said so, and tells no secret.

use std::{
    path::Path,
    sync::Arc,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bongsu::{
    alert::{Message, message::Attempted},
    notify::{CHANNEL_KINDS, Channel, ChannelKind, email},
    options::Options,
    protocol::{Net, wire::NetOptions},
    value::{Masker, Secret},
};
use futures_util::future::join_all;

use super::{SECRET, SLACK};
use crate::harness::{
    hostile::{ACTS, Act, Peer, Plan},
    polite::Login,
};

/// A message as the store keeps it.
const MESSAGE: &str = include_str!("../../../fuzz/corpus/columns/message");

/// Answers of the receiver before it turns; sending a mail takes seven.
const TURNS: usize = 8;

/// Of these, the one by which it is taken: greeting, EHLO, AUTH, MAIL, RCPT and DATA come before.
const ACCEPTED: usize = 7;

/// The protocol that a kind of channel speaks, its options for a receiver at this place, and its own deadline.
fn spoken(kind: &ChannelKind, place: &str) -> (&'static str, String, Duration) {
    match kind.name {
        "webhook" => (
            "http",
            format!("{{ url: 'http://{place}/hook', username: probe, password: {SECRET}, timeout: 500ms }}"),
            Duration::from_millis(500),
        ),
        "email" => (
            "smtp",
            format!(
                "{{ url: 'smtp://{place}', username: probe, password: {SECRET}, from: a@example.com, to: [b@example.com] }}"
            ),
            email::DELIVERY_MAX,
        ),
        other => panic!("say here what the channel `{other}` speaks"),
    }
}

fn built(kind: &ChannelKind, yaml: &str) -> Arc<dyn Channel> {
    let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let channel = (kind.build)(&mut Options::new(&value, Vec::new(), Path::new("/"), &mut problems));
    channel.unwrap_or_else(|| panic!("{yaml}: {problems:?}"))
}

async fn deliver(kind: &ChannelKind, turn: usize, act: Act) {
    let name = format!("{}, turn {turn}, {act:?}", kind.name);
    let (protocol, ..) = spoken(kind, "");
    let peer = Peer::start(Plan { protocol, login: Login::Plain, turn, act, tls: None, by_command: false });
    let (_, yaml, deadline) = spoken(kind, &peer.address.to_string());
    let channel = built(kind, &yaml);
    // What the receiver echoes is masked; what we say ourselves needs no mask.
    let masker = if act == Act::Echo { Masker::new([Secret::new(SECRET)]) } else { Masker::default() };
    let nameservers = vec![([192, 0, 2, 1], 53).into()];
    let net = Net::new(NetOptions { nameservers, masker: masker.clone() }).expect("a net");
    let message: Message = serde_json::from_str(MESSAGE).expect("a message of the store");
    let begun = Instant::now();
    let attempted = tokio::time::timeout(deadline + SLACK, channel.deliver(&net, &message)).await;
    let attempted = attempted.unwrap_or_else(|_| panic!("{name}: no end {:?} after it began", begun.elapsed()));
    let error = match attempted {
        Attempted::Delivered => {
            // Of HTTP, a status is an answer, whatever comes behind it; of a mail, its acceptance.
            let said_yes = match kind.name {
                // Half of the acceptance with anything behind it is one, and so is all of it byte by byte.
                "email" => {
                    peer.notes.answers.load(SeqCst) + usize::from(matches!(act, Act::Echo | Act::Drip)) >= ACCEPTED
                }
                _ => matches!(
                    act,
                    Act::Half | Act::HalfAndClose | Act::EndlessLines | Act::EndlessLargeLines | Act::Echo
                ),
            };
            assert!(said_yes, "{name}: delivered, and nobody said so");
            return;
        }
        Attempted::Retry { error, .. } | Attempted::Refused { error } => error,
    };
    assert!(!error.is_empty(), "{name}");
    // As the worker does before it is written down.
    let error = masker.mask(&error).into_owned();
    for secret in [SECRET.into(), STANDARD.encode(SECRET), STANDARD.encode(format!("\0probe\0{SECRET}"))] {
        assert!(!error.contains(&secret), "{name}: {error}");
    }
}

#[test]
fn an_alert_to_a_hostile_receiver_ends_and_tells_no_secret() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let cases = CHANNEL_KINDS.iter().flat_map(|kind| {
        let turns = if kind.name == "email" { TURNS } else { 1 };
        (0..turns).flat_map(move |turn| ACTS.map(|act| (*kind, turn, act)))
    });
    // All at once: most of them wait for the end of a mail's time, half a minute.
    let count =
        runtime.expect("a runtime").block_on(join_all(cases.map(|(kind, turn, act)| deliver(kind, turn, act)))).len();
    println!("{count} alerts to hostile receivers");
}
