//! MQTT 5 and MQTT 3.1.1 (OASIS standards; section numbers are the same in both unless said otherwise).
//!
//! As a probe, success proves that the broker accepts the login and answers a ping; it does not prove that it
//! delivers. As the two sides of a delivery it proves that a subscriber gets what a publisher sends.
//!
//! | step | packets | section | phase |
//! |---|---|---|---|
//! | log in | CONNECT, CONNACK | 3.1, 3.2 | `login` |
//! | no-op of the probe | PINGREQ, PINGRESP | 3.12, 3.13 | `exchange` |
//! | listen | SUBSCRIBE, SUBACK | 3.8, 3.9 | `exchange` |
//! | send | PUBLISH, PUBACK (QoS 1) or PUBREC, PUBREL, PUBCOMP (QoS 2) | 3.3–3.7, 4.3 | `send` |
//! | goodbye | UNSUBSCRIBE, UNSUBACK, DISCONNECT | 3.10, 3.11, 3.14 | `close` |
//!
//! Sessions are clean, without a will, and end with their connection, so nothing is left on the server: messages are
//! never retained, in MQTT 5 they also expire after an hour should a subscriber with a stored session be away. At
//! QoS 0 nothing is acknowledged; a message then counts as accepted when the PINGREQ sent after it is answered, as a
//! server reads packets in order.
//!
//! Without `version:`, MQTT 5 is tried first. A server that answers with "unsupported protocol version", in the form
//! of MQTT 3.1.1, or by closing the connection gets a second connection with MQTT 3.1.1 in the same attempt, and the
//! details say so.
//!
//! Bounds: packets of 1 MiB, 100 messages in flight to us; a server that begins with anything but CONNACK, or breaks
//! the protocol later, is told as `protocol`.
//!
//! ```yaml
//! - name: broker
//!   mqtt: { url: "mqtts://broker.example.com", username: probe, password: "${env:MQTT_PASSWORD}" }
//! ```

mod codec;
#[doc(hidden)]
pub mod fuzz;
mod options;
mod session;
mod words;

use self::{
    codec::{Ack, Connack},
    options::{Broker, Place, RawProbe, RawSend},
    session::{Fault, Session},
};
use super::{Arrival, Attempt, Boxed, Probe, Protocol, ReceiveSession, Receiver, SendFailure, SendSession, Sender};
use crate::{
    clock,
    delivery::Carries,
    observation::{Accept, Kind, Phase, Reason},
};

/// The entry of the registry.
pub static MQTT: Protocol = Protocol {
    name: "mqtt",
    schemes: &["mqtt", "mqtts"],
    summary: "MQTT 5 and 3.1.1 brokers: login and ping, publish, subscribe",
    proves: "A probe proves that the broker accepts the login and answers a ping, not that it delivers. A delivery \
             from mqtt to mqtt proves that a subscriber gets what a publisher sends, unchanged and in time.",
    example: "\
- name: broker
  mqtt: { url: \"mqtts://broker.example.com\", username: probe, password: \"${env:MQTT_PASSWORD}\" }
",
    probe_schema: Some(|g| g.subschema_for::<RawProbe>()),
    send_schema: Some(|g| g.subschema_for::<RawSend>()),
    receive_schema: Some(|g| g.subschema_for::<RawSend>()),
    probe: Some(|options| Some(Box::new(Broker::read(options)?))),
    send: Some(|options| Some(Box::new(Publisher(Place::to_send(options)?)))),
    receive: Some(|options| Some(Box::new(Subscriber(Place::to_receive(options)?)))),
};

/// Longest payload sent: beyond what any tracer needs, below what common brokers take by default.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Longest wait for the goodbye of a receiving session: it says nothing about the delivery any more.
const GOODBYE_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// A version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
    V311,
}

impl Version {
    fn as_str(self) -> &'static str {
        match self {
            Self::V5 => "5",
            Self::V311 => "3.1.1",
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Login

/// How a login in one version ended.
enum Tried {
    In(Box<Session>),
    /// The server does not speak this version; how it said so.
    WrongVersion(Reason),
    Failed(Reason),
}

/// Connects and logs in, in MQTT 3.1.1 if the server does not speak 5 and the options leave it open.
async fn log_in(broker: &Broker, cx: &mut Attempt) -> Result<Box<Session>, Reason> {
    let first = broker.version.unwrap_or(Version::V5);
    let refusal = match try_version(broker, first, cx).await? {
        Tried::In(session) => return Ok(session),
        Tried::Failed(reason) => return Err(reason),
        Tried::WrongVersion(reason) => reason,
    };
    if broker.version.is_some() {
        return Err(refusal);
    }
    cx.note(format!("MQTT 5: {}; trying MQTT 3.1.1", refusal.text));
    match try_version(broker, Version::V311, cx).await? {
        Tried::In(session) => {
            let text = format!("MQTT 5 was refused ({}); `version: 3.1.1` spares the first connection", refusal.text);
            cx.detail("mqtt_fallback", text);
            Ok(session)
        }
        Tried::WrongVersion(reason) | Tried::Failed(reason) => Err(reason),
    }
}

async fn try_version(broker: &Broker, version: Version, cx: &mut Attempt) -> Result<Tried, Reason> {
    let stream = cx.dial(&broker.endpoint).await?;
    cx.phase(Phase::Login);
    let login = broker.login(clock::random_seed());
    let mut session = Box::new(Session::new(stream, version));
    cx.sent(format!(
        "CONNECT MQTT {}, client {}, user {}, clean, keep alive {}s",
        version.as_str(),
        login.client_id,
        login.username.as_deref().unwrap_or("none"),
        login.keep_alive_s
    ));
    match session.connect(&login).await {
        Ok(connack) => {
            let said = connack_text(connack, version);
            cx.received(format!("CONNACK {said}"));
            if connack.code == 0 && !connack.old_form {
                cx.detail("mqtt_version", version.as_str());
                cx.end_phase();
                return Ok(Tried::In(session));
            }
            let reason = cx.fail(Kind::Rejected, format!("login refused: {said}"));
            let wrong = connack.old_form || connack.code == if version == Version::V5 { 0x84 } else { 1 };
            Ok(if wrong { Tried::WrongVersion(reason) } else { Tried::Failed(reason) })
        }
        Err(fault) => {
            let reason = fault.reason(cx);
            cx.note(&reason.text);
            // Servers older than MQTT 5 often hang up on it without a word.
            let hung_up = matches!(reason.kind, Kind::Closed | Kind::Reset) && version == Version::V5;
            Ok(if hung_up { Tried::WrongVersion(reason) } else { Tried::Failed(reason) })
        }
    }
}

/// What CONNACK says, in words and with its code.
fn connack_text(connack: &Connack, version: Version) -> String {
    let Connack { code, .. } = connack;
    if connack.old_form || version == Version::V311 {
        let form = if connack.old_form { ", in the form of MQTT 3.1.1" } else { "" };
        return format!("{} (return code {code}{form})", words::connect_return(*code));
    }
    with_words(format!("{} (reason code 0x{code:02x})", words::reason(*code)), connack.words.as_deref())
}

fn ack_text(ack: &Ack) -> String {
    with_words(format!("{} (reason code 0x{:02x})", words::reason(ack.code), ack.code), ack.words.as_deref())
}

fn with_words(text: String, words: Option<&str>) -> String {
    match words {
        Some(words) => format!("{text}: {words}"),
        None => text,
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Probe

impl Probe for Broker {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
        Box::pin(async move {
            let mut session = log_in(self, cx).await?;
            cx.phase(Phase::Exchange);
            cx.sent("PINGREQ");
            session.ping().await.map_err(|fault| fault.reason(cx))?;
            cx.received("PINGRESP");
            cx.phase(Phase::Close);
            cx.sent("DISCONNECT");
            session.disconnect().await;
            cx.end_phase();
            Ok(())
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Sending

struct Publisher(Place);

impl Sender for Publisher {
    fn target(&self) -> String {
        self.0.broker.target.clone()
    }

    fn carries(&self) -> Carries {
        Carries { unicode: true, lines: true, line_bytes_max: PAYLOAD_BYTES_MAX, bytes_max: PAYLOAD_BYTES_MAX }
    }

    fn is_exclusive(&self) -> bool {
        self.0.broker.is_exclusive()
    }

    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn SendSession>, Reason>> {
        Box::pin(async move {
            let session = log_in(&self.0.broker, cx).await?;
            let qos = session.connack.qos_max.map_or(self.0.qos, |max| max.min(self.0.qos));
            if qos < self.0.qos {
                cx.detail("mqtt_qos", format!("the server takes no more than {qos}; {} was asked for", self.0.qos));
            }
            let session = Publishing { session, topic: self.0.topic.clone(), qos, position: None };
            Ok(Box::new(session) as Box<dyn SendSession>)
        })
    }
}

struct Publishing {
    session: Box<Session>,
    topic: String,
    qos: u8,
    /// Where in the stream the latest message begins.
    position: Option<u64>,
}

impl Publishing {
    async fn publish(&mut self, cx: &mut Attempt, payload: &[u8]) -> Result<Ack, SendFailure> {
        self.position = None;
        let unsent = |fault: Fault, cx: &Attempt| {
            // What cannot be sent at all was refused by the limits the server named.
            SendFailure { accept: Accept::Rejected, reason: fault.reason(cx) }
        };
        let (id, position) =
            self.session.publish(&self.topic, self.qos, payload).map_err(|breach| unsent(breach.into(), cx))?;
        self.position = Some(position);
        cx.sent(format!("PUBLISH to {}, QoS {}, {} bytes", self.topic, self.qos, payload.len()));
        let acknowledged = match id {
            Some(id) => self.session.acknowledged(id).await,
            None => self.session.ping().await.map(|()| Ack { id: 0, code: 0, words: None }),
        };
        acknowledged.map_err(|fault| {
            let accept = match &fault {
                Fault::Ended { code, .. } if is_refusal(*code) => Accept::Rejected,
                _ if self.message_left() => Accept::Uncertain,
                _ => Accept::Unreachable,
            };
            let reason = fault.reason(cx);
            let text = format!("{} before it acknowledged the message", reason.text);
            let text = if accept == Accept::Uncertain { text } else { reason.text };
            let kind = if accept == Accept::Rejected { Kind::Rejected } else { reason.kind };
            SendFailure { accept, reason: Reason::new(reason.phase, kind, text) }
        })
    }
}

/// Whether a server that disconnects with this code did so because of the message it had just been sent.
fn is_refusal(code: u8) -> bool {
    matches!(code, 0x81 | 0x82 | 0x83 | 0x87 | 0x90 | 0x93 | 0x95 | 0x96 | 0x97 | 0x99 | 0x9a | 0x9b)
}

impl SendSession for Publishing {
    fn send<'a>(&'a mut self, cx: &'a mut Attempt, payload: &'a [u8]) -> Boxed<'a, Result<(), SendFailure>> {
        Box::pin(async move {
            cx.phase(Phase::Send);
            let ack = self.publish(cx, payload).await?;
            let answer = match self.qos {
                0 => "PINGRESP",
                1 => "PUBACK",
                _ => "PUBCOMP",
            };
            cx.received(format!("{answer} {}", ack_text(&ack)));
            if ack.code >= 0x80 {
                let reason = cx.fail(Kind::Rejected, format!("message refused: {}", ack_text(&ack)));
                return Err(SendFailure { accept: Accept::Rejected, reason });
            }
            if ack.code != 0 {
                cx.detail("mqtt_acknowledgement", ack_text(&ack));
            }
            cx.end_phase();
            Ok(())
        })
    }

    fn message_left(&self) -> bool {
        self.position.is_some_and(|position| self.session.is_written_beyond(position))
    }

    fn idle<'a>(&'a mut self) -> Boxed<'a, Reason> {
        Box::pin(async move {
            loop {
                if let Err(fault) = self.session.next().await {
                    return fault.at_delivery();
                }
            }
        })
    }

    fn close<'a>(mut self: Box<Self>, cx: &'a mut Attempt) -> Boxed<'a, ()> {
        Box::pin(async move {
            cx.phase(Phase::Close);
            cx.sent("DISCONNECT");
            self.session.disconnect().await;
            cx.end_phase();
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Receiving

struct Subscriber(Place);

impl Receiver for Subscriber {
    fn target(&self) -> String {
        self.0.broker.target.clone()
    }

    fn is_exclusive(&self) -> bool {
        self.0.broker.is_exclusive()
    }

    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn ReceiveSession>, Reason>> {
        Box::pin(async move {
            let mut session = log_in(&self.0.broker, cx).await?;
            cx.phase(Phase::Exchange);
            let Place { topic, qos, .. } = &self.0;
            cx.sent(format!("SUBSCRIBE to {topic}, QoS {qos}"));
            let ack = session.subscribe(topic, *qos).await.map_err(|fault| fault.reason(cx))?;
            if ack.code >= 0x80 {
                let said = ack_text(&ack);
                cx.received(format!("SUBACK {said}"));
                return Err(cx.fail(Kind::Rejected, format!("subscription to {topic} refused: {said}")));
            }
            cx.received(format!("SUBACK granted QoS {}", ack.code));
            cx.end_phase();
            Ok(Box::new(Subscribed { session, topic: topic.clone() }) as Box<dyn ReceiveSession>)
        })
    }
}

struct Subscribed {
    session: Box<Session>,
    topic: String,
}

impl ReceiveSession for Subscribed {
    fn next<'a>(&'a mut self) -> Boxed<'a, Result<Arrival, Reason>> {
        Box::pin(async move {
            loop {
                match self.session.next().await {
                    Ok(codec::Heard::Publish(arrival)) => return Ok(arrival),
                    Ok(_) => {}
                    Err(fault) => return Err(fault.at_delivery()),
                }
            }
        })
    }

    fn close<'a>(mut self: Box<Self>) -> Boxed<'a, ()> {
        Box::pin(async move {
            let goodbye = async {
                if self.session.unsubscribe(&self.topic).await.is_ok() {
                    self.session.disconnect().await;
                }
            };
            // A server that does not answer has its connection closed all the same, by dropping it.
            let _ = tokio::time::timeout(GOODBYE_MAX, goodbye).await;
        })
    }
}

#[cfg(test)]
mod tests;
