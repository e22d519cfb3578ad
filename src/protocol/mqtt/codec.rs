//! MQTT without a network: what to write for what we want, what was heard in what came in, for both versions.
//!
//! Packet identifiers, acknowledgements and the state of QoS 2 are `mqtt-protocol-core`'s; this module hides which
//! version is spoken, and turns everything a peer may do wrong into a [`Breach`]. It never blocks and reads no clock.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::{
    self, Connection,
    common::Cursor,
    connection::{ConnectionOptions, Event},
    packet::{GenericPacketTrait, MessageExpiryInterval, Packet, Property, Qos, RetainHandling, SubEntry, SubOpts},
    packet::{v3_1_1, v5_0},
    result_code::MqttError,
    role::Client,
};

use super::Version;
use crate::{
    delivery::ledger::FORGET_AFTER,
    observation::{Kind, one_line},
    protocol::{Arrival, Nature},
    value::Secret,
};

/// Largest packet accepted. Tracers take two kilobytes; a stranger's message on the same topic may be larger, and a
/// hostile length field must not make us hold 256 MB.
pub const PACKET_BYTES_MAX: u32 = 1024 * 1024;

/// Most QoS 1 and 2 messages the server may have in flight to us at once.
const RECEIVE_MAX: u16 = 100;

/// Longest reason string of a server that is kept, in characters.
const WORDS_CHARS_MAX: usize = 200;

/// CONNACK's first byte (MQTT 5 and 3.1.1, section 3.2.1): the only one with which a server may begin.
const CONNACK: u8 = 0x20;

/// Who we say we are.
#[derive(Clone, Debug)]
pub struct Login {
    /// Unique among the server's clients.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Seconds between two packets of ours at most; 0 turns it off.
    pub keep_alive_s: u16,
}

/// What the server answered to CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connack {
    /// 0 is yes; what else it means depends on the version.
    pub code: u8,
    /// Answered in the form of MQTT 3.1.1 to a client that spoke MQTT 5.
    pub old_form: bool,
    /// The server's own words.
    pub words: Option<String>,
    /// The keep alive the server wants instead of ours, in seconds.
    pub keep_alive_s: Option<u16>,
    /// The highest quality of service it takes.
    pub qos_max: Option<u8>,
}

/// An acknowledgement of a message, or of a step of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of which packet.
    pub id: u16,
    /// 0x80 and above is a refusal.
    pub code: u8,
    /// The server's own words.
    pub words: Option<String>,
}

/// A packet that came in, whatever the version.
#[derive(Clone, Debug)]
pub enum Heard {
    /// Answer to CONNECT.
    Connack(Connack),
    /// A message at QoS 1 was taken.
    Puback(Ack),
    /// A message at QoS 2 was taken.
    Pubrec(Ack),
    /// … and released.
    Pubcomp(Ack),
    /// Answer to SUBSCRIBE: its first and only code.
    Suback(Ack),
    /// Answer to UNSUBSCRIBE.
    Unsuback,
    /// Answer to PINGREQ.
    Pingresp,
    /// A message.
    Publish(Arrival),
    /// The server says goodbye (MQTT 5).
    Disconnect {
        /// Why.
        code: u8,
        /// In its own words.
        words: Option<String>,
    },
    /// Something without meaning for a client of our kind.
    Other,
}

/// The server broke the protocol, or a packet of ours cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The class.
    pub kind: Kind,
    /// In words.
    pub text: String,
}

impl Breach {
    fn protocol(text: impl Into<String>) -> Self {
        Self { kind: Kind::Protocol, text: text.into() }
    }
}

/// Both directions of one connection.
pub struct Codec {
    core: Box<Connection<Client>>,
    version: Version,
    connected: bool,
    /// What came in and is no whole packet yet; at most one of [`PACKET_BYTES_MAX`] and what was read with it.
    held: BytesMut,
    out: BytesMut,
}

impl Codec {
    /// A connection not yet begun.
    pub fn new(version: Version) -> Self {
        let options = ConnectionOptions::new().maximum_packet_size_recv(PACKET_BYTES_MAX).receive_maximum(RECEIVE_MAX);
        let spoken = match version {
            Version::V5 => mqtt::Version::V5_0,
            Version::V311 => mqtt::Version::V3_1_1,
        };
        let mut core = Connection::with_options(spoken, options);
        core.set_auto_pub_response(true);
        Self { core: Box::new(core), version, connected: false, held: BytesMut::new(), out: BytesMut::new() }
    }

    /// Bytes that wait to be written.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// CONNECT: a clean session without a will (section 3.1).
    pub fn connect(&mut self, login: &Login) -> Result<(), Breach> {
        macro_rules! connect {
            ($packet:ident, $clean:ident) => {{
                let mut c = $packet::Connect::builder().client_id(&login.client_id).map_err(refused)?.$clean(true);
                c = c.keep_alive(login.keep_alive_s);
                if let Some(name) = &login.username {
                    c = c.user_name(name).map_err(refused)?;
                }
                if let Some(password) = &login.password {
                    c = c.password(password.expose().as_bytes().to_vec()).map_err(refused)?;
                }
                self.core.checked_send(c.build().map_err(refused)?)
            }};
        }
        let events = match self.version {
            Version::V5 => connect!(v5_0, clean_start),
            Version::V311 => connect!(v3_1_1, clean_session),
        };
        self.queue(events)
    }

    /// PINGREQ (section 3.12).
    pub fn ping(&mut self) -> Result<(), Breach> {
        let events = match self.version {
            Version::V5 => self.core.checked_send(v5_0::Pingreq::builder().build().map_err(refused)?),
            Version::V311 => self.core.checked_send(v3_1_1::Pingreq::builder().build().map_err(refused)?),
        };
        self.queue(events)
    }

    /// PUBLISH, not retained (section 3.3); its packet identifier, if it has one.
    pub fn publish(&mut self, topic: &str, qos: u8, payload: &[u8]) -> Result<Option<u16>, Breach> {
        let id = if qos == 0 { None } else { Some(self.core.acquire_packet_id().map_err(refused)?) };
        macro_rules! publish {
            ($packet:ident) => {
                $packet::Publish::builder()
                    .topic_name(topic)
                    .map_err(refused)?
                    .qos(quality(qos))
                    .retain(false)
                    .packet_id(id)
                    .payload(payload.to_vec())
            };
        }
        let events = match self.version {
            Version::V5 => {
                // A tracer nobody waits for any more must not lie in the queue of an absent subscriber.
                let expiry = u32::try_from(FORGET_AFTER.as_secs()).unwrap_or(u32::MAX);
                let expiry = Property::MessageExpiryInterval(MessageExpiryInterval::new(expiry).map_err(refused)?);
                self.core.checked_send(publish!(v5_0).props(vec![expiry]).build().map_err(refused)?)
            }
            Version::V311 => self.core.checked_send(publish!(v3_1_1).build().map_err(refused)?),
        };
        self.queue(events).map(|()| id)
    }

    /// SUBSCRIBE to one filter, without retained messages where the version can say so (section 3.8).
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> Result<(), Breach> {
        let id = self.core.acquire_packet_id().map_err(refused)?;
        let options = SubOpts::new().set_qos(quality(qos));
        let events = match self.version {
            Version::V5 => {
                let options = options.set_rh(RetainHandling::DoNotSendRetained);
                let entries = vec![SubEntry::new(filter, options).map_err(refused)?];
                let packet = v5_0::Subscribe::builder().entries(entries).packet_id(id).build();
                self.core.checked_send(packet.map_err(refused)?)
            }
            Version::V311 => {
                let entries = vec![SubEntry::new(filter, options).map_err(refused)?];
                let packet = v3_1_1::Subscribe::builder().entries(entries).packet_id(id).build();
                self.core.checked_send(packet.map_err(refused)?)
            }
        };
        self.queue(events)
    }

    /// UNSUBSCRIBE from one filter (section 3.10).
    pub fn unsubscribe(&mut self, filter: &str) -> Result<(), Breach> {
        let id = self.core.acquire_packet_id().map_err(refused)?;
        macro_rules! unsubscribe {
            ($packet:ident) => {{
                let packet = $packet::Unsubscribe::builder().packet_id(id).entries(vec![filter]).map_err(refused)?;
                self.core.checked_send(packet.build().map_err(refused)?)
            }};
        }
        let events = match self.version {
            Version::V5 => unsubscribe!(v5_0),
            Version::V311 => unsubscribe!(v3_1_1),
        };
        self.queue(events)
    }

    /// DISCONNECT (section 3.14).
    pub fn disconnect(&mut self) -> Result<(), Breach> {
        let events = match self.version {
            Version::V5 => self.core.checked_send(v5_0::Disconnect::builder().build().map_err(refused)?),
            Version::V311 => self.core.checked_send(v3_1_1::Disconnect::builder().build().map_err(refused)?),
        };
        self.queue(events)
    }

    /// PUBREL after a PUBREC that was no refusal but not plain success either: "no matching subscribers" is followed
    /// by PUBREL like success is (section 4.3.3), which the library takes for a refusal.
    pub fn release(&mut self, id: u16) -> Result<(), Breach> {
        self.core.register_packet_id(id).map_err(refused)?;
        let packet = v5_0::Pubrel::builder().packet_id(id).build().map_err(refused)?;
        let events = self.core.checked_send(packet);
        self.queue(events)
    }

    /// What was heard in bytes that came in at `at`. What was heard before a breach comes with it.
    pub fn feed(&mut self, bytes: &[u8], at: Instant) -> (Vec<Heard>, Option<Breach>) {
        let mut heard = Vec::new();
        let breach = self.feed_into(bytes, at, &mut heard).err();
        (heard, breach)
    }

    fn feed_into(&mut self, bytes: &[u8], at: Instant, heard: &mut Vec<Heard>) -> Result<(), Breach> {
        self.held.extend_from_slice(bytes);
        if !self.connected {
            match (self.held.first(), self.held.get(1)) {
                (Some(&CONNACK), None) | (None, _) => return Ok(()),
                // A server of MQTT 3.1.1 answers MQTT 5 in its own form: two bytes, no properties.
                (Some(&CONNACK), Some(2)) if self.version == Version::V5 => {
                    if let Some(code) = self.held.get(3) {
                        heard.push(Heard::Connack(Connack { code: *code, old_form: true, ..Connack::default() }));
                    }
                    return Ok(());
                }
                (Some(&CONNACK), Some(_)) => {}
                (Some(_), _) => return Err(not_mqtt(&self.held)),
            }
        }
        while let Some(length) = frame(&self.held)? {
            let packet = self.held.split_to(length);
            check_identifier(&packet)?;
            for event in self.core.recv(&mut Cursor::new(&packet[..])) {
                match event {
                    Event::NotifyPacketReceived(packet) => heard.push(self.understood(packet, at)?),
                    Event::RequestSendPacket { packet, .. } => self.write(&packet),
                    Event::NotifyError(error) => return Err(came_wrong(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn queue(&mut self, events: Vec<Event>) -> Result<(), Breach> {
        for event in events {
            match event {
                Event::RequestSendPacket { packet, .. } => self.write(&packet),
                Event::NotifyError(error) => return Err(refused(error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&mut self, packet: &Packet) {
        self.out.extend_from_slice(&packet.to_continuous_buffer());
    }

    fn understood(&mut self, packet: Packet, at: Instant) -> Result<Heard, Breach> {
        let heard = understood(packet, at);
        if matches!(heard, Heard::Connack(_)) == self.connected {
            let what = if self.connected { "a second CONNACK" } else { "a packet before CONNACK" };
            return Err(Breach::protocol(format!("the server sent {what}")));
        }
        self.connected = true;
        Ok(heard)
    }
}

/// Length of the packet at the start of `held`, when it is there as a whole (section 2.1.4; 2.2.3 in 3.1.1).
fn frame(held: &[u8]) -> Result<Option<usize>, Breach> {
    let mut length = 0_usize;
    for (n, byte) in held.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            let whole = n + 2 + length;
            if whole > PACKET_BYTES_MAX as usize {
                return Err(came_wrong(MqttError::PacketTooLarge));
            }
            return Ok((held.len() >= whole).then_some(whole));
        }
    }
    if held.len() > 4 { Err(came_wrong(MqttError::MalformedPacket)) } else { Ok(None) }
}

/// Packet identifiers are never 0 (section 2.2.1; 2.3.1 in 3.1.1). The library takes such a packet and panics when
/// it builds the answer.
fn check_identifier(packet: &[u8]) -> Result<(), Breach> {
    let body = packet.iter().skip(1).position(|b| b & 0x80 == 0).map_or(&[][..], |n| &packet[n + 2..]);
    let at = match packet[0] >> 4 {
        3 if packet[0] & 0b110 != 0 => match body {
            [high, low, ..] => 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Ok(()),
        },
        4..=7 | 9 | 11 => 0,
        _ => return Ok(()),
    };
    match body.get(at..at + 2) {
        Some([0, 0]) => Err(Breach::protocol("the server broke MQTT: packet identifier 0")),
        // Too short, which the library refuses.
        _ => Ok(()),
    }
}

fn quality(qos: u8) -> Qos {
    match qos {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    }
}

/// A packet of ours that the library will not send.
fn refused(error: MqttError) -> Breach {
    match error {
        MqttError::PacketTooLarge => {
            Breach { kind: Kind::TooLarge, text: "the message is larger than the server takes".into() }
        }
        other => Breach::protocol(format!("the packet cannot be sent: {other}")),
    }
}

fn came_wrong(error: MqttError) -> Breach {
    match error {
        MqttError::PacketTooLarge => Breach {
            kind: Kind::TooLarge,
            text: format!("the server sent a packet of more than {PACKET_BYTES_MAX} bytes"),
        },
        other => Breach::protocol(format!("the server broke MQTT: {other}")),
    }
}

fn not_mqtt(head: &[u8]) -> Breach {
    const SHOWN_BYTES_MAX: usize = 40;
    let shown = String::from_utf8_lossy(&head[..head.len().min(SHOWN_BYTES_MAX)]).into_owned();
    Breach::protocol(format!("what answers is no MQTT server: it says {:?} where CONNACK is due", one_line(&shown, 40)))
}

fn words(props: &[Property]) -> Option<String> {
    props.iter().find_map(|p| match p {
        Property::ReasonString(text) => Some(one_line(text.val(), WORDS_CHARS_MAX)),
        _ => None,
    })
}

fn understood(packet: Packet, at: Instant) -> Heard {
    let ack = |id, code: Option<u8>, words| Ack { id, code: code.unwrap_or(0), words };
    macro_rules! message {
        ($p:ident) => {
            Heard::Publish(Arrival {
                nature: if $p.retain() { Nature::Kept } else { Nature::Message },
                // The flag tells what the server believes; whether a copy came before is seen by its tracer.
                details: if $p.dup() { vec![("mqtt_dup", true.into())] } else { Vec::new() },
                ..Arrival::live(at, Bytes::copy_from_slice($p.payload().as_slice()))
            })
        };
    }
    // Absent properties say nothing.
    macro_rules! said {
        ($p:ident) => {
            $p.props().as_ref().and_then(|props| words(props))
        };
    }
    match packet {
        Packet::V3_1_1Connack(p) => Heard::Connack(Connack { code: p.return_code() as u8, ..Connack::default() }),
        Packet::V5_0Connack(p) => Heard::Connack(connack(&p)),
        Packet::V3_1_1Puback(p) => Heard::Puback(ack(p.packet_id(), None, None)),
        Packet::V5_0Puback(p) => Heard::Puback(ack(p.packet_id(), p.reason_code().map(|c| c as u8), said!(p))),
        Packet::V3_1_1Pubrec(p) => Heard::Pubrec(ack(p.packet_id(), None, None)),
        Packet::V5_0Pubrec(p) => Heard::Pubrec(ack(p.packet_id(), p.reason_code().map(|c| c as u8), said!(p))),
        Packet::V3_1_1Pubcomp(p) => Heard::Pubcomp(ack(p.packet_id(), None, None)),
        Packet::V5_0Pubcomp(p) => Heard::Pubcomp(ack(p.packet_id(), p.reason_code().map(|c| c as u8), said!(p))),
        Packet::V3_1_1Suback(p) => Heard::Suback(ack(p.packet_id(), p.return_codes().first().map(|c| *c as u8), None)),
        Packet::V5_0Suback(p) => {
            Heard::Suback(ack(p.packet_id(), p.reason_codes().first().map(|c| *c as u8), words(p.props())))
        }
        Packet::V3_1_1Unsuback(_) | Packet::V5_0Unsuback(_) => Heard::Unsuback,
        Packet::V3_1_1Pingresp(_) | Packet::V5_0Pingresp(_) => Heard::Pingresp,
        Packet::V3_1_1Publish(p) => message!(p),
        Packet::V5_0Publish(p) => message!(p),
        Packet::V5_0Disconnect(p) => {
            Heard::Disconnect { code: p.reason_code().map_or(0, |c| c as u8), words: said!(p) }
        }
        _ => Heard::Other,
    }
}

fn connack(packet: &v5_0::Connack) -> Connack {
    let mut connack = Connack { code: packet.reason_code() as u8, words: words(packet.props()), ..Connack::default() };
    for property in packet.props() {
        match property {
            Property::ServerKeepAlive(seconds) => connack.keep_alive_s = Some(seconds.val()),
            Property::MaximumQos(qos) => connack.qos_max = Some(qos.val()),
            _ => {}
        }
    }
    connack
}

/// Takes `n` bytes off the front once they are written.
pub fn written(out: &mut BytesMut, n: usize) {
    out.advance(n);
}
