//! What the tests of protocols that fetch mail share: a session as a delivery holds it, and mails to find.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bongsu::{
    clock,
    observation::Reason,
    options::Options,
    protocol::{self, Arrival, Attempt, Net, ReceiveSession, wire::Family, wire::NetOptions},
};
use serde_json::Value;

/// Longest wait for what must come.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long nothing must come.
pub const QUIET: Duration = Duration::from_millis(700);

/// How often it is looked whether something has become so.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A session as it opened.
pub type Session = Box<dyn ReceiveSession>;

/// Opens a session of this protocol with these options.
pub async fn open(protocol: &str, yaml: &str) -> Result<Session, Reason> {
    let value = serde_yaml::from_str(&format!("{{ {yaml} }}")).expect("well-formed YAML");
    let mut problems = Vec::new();
    let build = protocol::by_name(protocol).and_then(|p| p.receive).expect("it can receive");
    let receiver = build(&mut Options::new(&value, Vec::new(), Path::new("/"), &mut problems));
    let receiver = receiver.unwrap_or_else(|| panic!("{yaml}: {problems:?}"));
    let net = Net::new(NetOptions::default()).expect("a resolver");
    let mut cx = Attempt::new(net, Family::Any, clock::now(), Instant::now(), true);
    tokio::time::timeout(WAIT_MAX, receiver.open(&mut cx)).await.expect("an answer in time")
}

/// The next mail, which must come.
pub async fn next(session: &mut Session) -> Arrival {
    let waited = tokio::time::timeout(WAIT_MAX, session.next()).await.expect("it comes in time");
    waited.unwrap_or_else(|reason| panic!("the session ended: {reason}"))
}

/// Nothing comes; the wait is dropped, as callers do.
pub async fn quiet(session: &mut Session) {
    let came = tokio::time::timeout(QUIET, session.next()).await;
    assert!(came.is_err(), "{came:?}");
}

/// Nothing comes until this is so, which the session sees to while it is waited for.
pub async fn quiet_until(session: &mut Session, what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < WAIT_MAX, "waited in vain: {what}");
        let came = tokio::time::timeout(LOOK_EVERY, session.next()).await;
        assert!(came.is_err(), "{came:?}");
    }
}

/// Why the session ends.
pub async fn end(session: &mut Session) -> Reason {
    loop {
        let came = tokio::time::timeout(WAIT_MAX, session.next()).await.expect("an end in time");
        if let Err(reason) = came {
            return reason;
        }
    }
}

/// A mail that has the form of a tracer, with this after the marker.
pub fn tracer(text: &str) -> Vec<u8> {
    format!(
        "Received: by mx.example.com with SMTP id 1; Sun, 22 Nov 2026 03:00:01 +0000\r\n\
         Received: by relay.example.com with SMTP id 1; Sun, 22 Nov 2026 03:00:00 +0000\r\n\
         From: probe@example.com\r\nSubject: bongsu tracer\r\n =?UTF-8?B?67SJ7IiYIMOpIPCflKU=?=\r\nX-Bongsu-Tracer: 1\r\n\
         X-Bongsu-Header: =?UTF-8?B?67SJ7IiYIMOpIPCflKU=?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nbongsu1.{text}\r\n"
    )
    .into_bytes()
}

/// A mail of somebody else.
pub fn stranger(text: &str) -> Vec<u8> {
    format!("From: friend@example.com\r\nSubject: lunch\r\n\r\n{text}\r\n").into_bytes()
}

/// The text that came, without the line end that mail adds.
pub fn text(arrival: &Arrival) -> String {
    String::from_utf8_lossy(&arrival.payload).trim_end().to_owned()
}

/// A detail by its name.
pub fn detail(arrival: &Arrival, name: &str) -> Option<Value> {
    arrival.details.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
}
