//! One connection of the broker: the codec in between a socket and the hub.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use mqtt_protocol_core::mqtt::{
    Connection, Version,
    common::Cursor,
    connection::{ConnectionOptions, Event, TimerKind, role::Server},
    packet::{GenericPacketTrait, Packet, Property, Qos, SubEntry, v3_1_1, v5_0},
    result_code::{
        ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, SubackReasonCode, SubackReturnCode,
        UnsubackReasonCode,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};

use super::{
    Fault, Shared,
    hub::{Delivery, Published, QUEUE_MAX, SessionId, Told, is_filter},
};
use crate::clock;

/// Longest packet taken; a tracer with all its samples has some hundred bytes.
const PACKET_BYTES_MAX: u32 = 256 * 1_024;

/// First byte of a CONNECT packet.
const CONNECT: u8 = 0x10;

/// How long a client may take to say CONNECT.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long a client may take to read what it is sent.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// Messages sent to a client and not acknowledged; more wait in its queue.
const IN_FLIGHT_MAX: usize = 100;

/// How long a frozen connection is held; whoever still waits then has long given it up.
const FROZEN_MAX: Duration = Duration::from_secs(300);

/// Bytes read at a time.
const READ_BYTES: usize = 8 * 1_024;

/// Serves one connection to its end.
pub async fn run(stream: TcpStream, shared: Arc<Shared>) {
    let fault = shared.fault.subscribe();
    let mut session = Session {
        stream,
        codec: Codec::with_options(
            Version::Undetermined,
            ConnectionOptions::new().maximum_packet_size_recv(PACKET_BYTES_MAX),
        ),
        fault,
        id: None,
        told: None,
        waiting: VecDeque::new(),
        in_flight: 0,
        silence_ends: Some(clock::instant() + CONNECT_MAX),
        first: true,
        ended: false,
        shared,
    };
    session.codec.set_auto_pub_response(true);
    session.codec.set_auto_ping_response(true);
    session.run().await;
    if let Some(id) = session.id {
        session.shared.hub().leave(id);
    }
}

type Codec = Connection<Server>;

struct Session {
    stream: TcpStream,
    codec: Codec,
    shared: Arc<Shared>,
    fault: watch::Receiver<Fault>,
    /// Set once logged in.
    id: Option<SessionId>,
    told: Option<mpsc::Receiver<Told>>,
    /// Messages not yet due, or for which the client has no room, in order of their time.
    waiting: VecDeque<(Instant, Delivery)>,
    in_flight: usize,
    /// When a client that says nothing is given up.
    silence_ends: Option<Instant>,
    /// Until the first byte has come.
    first: bool,
    ended: bool,
}

/// What a session waited for.
enum Next {
    Read(usize),
    Told(Option<Told>),
    Due,
    Silent,
    FaultChanged,
}

impl Session {
    async fn run(&mut self) {
        let mut buffer = vec![0; READ_BYTES];
        while !self.ended {
            if *self.fault.borrow_and_update() == Fault::Freeze {
                if !matches!(timeout(FROZEN_MAX, self.fault.changed()).await, Ok(Ok(()))) {
                    return;
                }
                continue;
            }
            match self.next(&mut buffer).await {
                Next::Read(0) => return,
                Next::Told(Some(Told::TakenOver) | None) => {
                    self.goodbye(DisconnectReasonCode::SessionTakenOver).await;
                    return;
                }
                Next::Read(count) => self.received(&buffer[..count]).await,
                Next::Told(Some(Told::Deliver(delivery))) => self.enqueue(delivery),
                Next::Due => self.deliver_due().await,
                Next::Silent => {
                    self.goodbye(DisconnectReasonCode::KeepAliveTimeout).await;
                    return;
                }
                Next::FaultChanged => {}
            }
        }
    }

    /// Waits for whatever comes first. Safe to drop at any point: no byte and no message is taken and lost.
    async fn next(&mut self, buffer: &mut [u8]) -> Next {
        let due = self.waiting.front().map(|(due, _)| *due).filter(|_| self.has_room());
        let listening = self.waiting.len() < QUEUE_MAX;
        tokio::select! {
            read = self.stream.read(buffer) => Next::Read(read.unwrap_or(0)),
            told = next_told(&mut self.told), if listening => Next::Told(told),
            () = until(due) => Next::Due,
            () = until(self.silence_ends) => Next::Silent,
            _ = self.fault.changed() => Next::FaultChanged,
        }
    }

    /// Whether the client takes another message: MQTT 5 lets it set a lower limit (3.1.2.11.3).
    fn has_room(&self) -> bool {
        self.in_flight < IN_FLIGHT_MAX && self.codec.get_receive_maximum_vacancy_for_send() != Some(0)
    }

    fn enqueue(&mut self, delivery: Delivery) {
        let due = clock::instant() + delivery.after;
        let place = self.waiting.partition_point(|(other, _)| *other <= due);
        self.waiting.insert(place, (due, delivery));
    }

    async fn deliver_due(&mut self) {
        let now = clock::instant();
        while !self.ended
            && self.has_room()
            && let Some((_, delivery)) = self.waiting.pop_front_if(|(due, _)| *due <= now)
        {
            let id = if delivery.qos == Qos::AtMostOnce { None } else { self.codec.acquire_packet_id().ok() };
            let Some(packet) = self.publish_packet(&delivery, id) else { continue };
            let mut events = self.codec.send(packet);
            if matches!(events[..], [Event::NotifyError(MqttError::PacketTooLarge)]) {
                // Larger than the client takes: it is not sent, and that is no error (MQTT 5, 3.1.2.11.4).
                events = id.map(|id| self.codec.release_packet_id(id)).unwrap_or_default();
            }
            self.in_flight += usize::from(id.is_some());
            self.handle(events).await;
        }
    }

    fn publish_packet(&self, delivery: &Delivery, id: Option<u16>) -> Option<Packet> {
        let message = &delivery.message;
        let packet: Packet = match self.codec.get_protocol_version() {
            Version::V5_0 => {
                let packet = v5_0::Publish::builder().topic_name(message.topic.as_str()).ok()?;
                let packet = packet.qos(delivery.qos).retain(delivery.retain).payload(message.payload.clone());
                let packet = packet.props(message.properties.clone());
                let packet = if let Some(id) = id { packet.packet_id(id) } else { packet };
                packet.build().ok()?.into()
            }
            Version::V3_1_1 | Version::Undetermined => {
                let packet = v3_1_1::Publish::builder().topic_name(message.topic.as_str()).ok()?;
                let packet = packet.qos(delivery.qos).retain(delivery.retain).payload(message.payload.clone());
                let packet = if let Some(id) = id { packet.packet_id(id) } else { packet };
                packet.build().ok()?.into()
            }
        };
        Some(packet)
    }

    async fn received(&mut self, bytes: &[u8]) {
        // Whoever does not begin with CONNECT speaks another protocol, and may wait for us to say so.
        if std::mem::take(&mut self.first) && bytes[0] != CONNECT {
            self.ended = true;
        }
        let mut cursor = Cursor::new(bytes);
        while !self.ended && (cursor.position() as usize) < bytes.len() {
            let events = self.codec.recv(&mut cursor);
            self.handle(events).await;
        }
    }

    /// Does what the codec asks for, and what the packets it lets through ask for.
    async fn handle(&mut self, events: Vec<Event>) {
        let mut events = VecDeque::from(events);
        while let Some(event) = events.pop_front() {
            match event {
                Event::NotifyPacketReceived(packet) => {
                    let replies = self.packet(packet);
                    for reply in replies {
                        events.extend(self.codec.send(reply));
                    }
                }
                Event::RequestSendPacket { packet, .. } => self.write(&packet).await,
                Event::NotifyPacketIdReleased(_) => self.in_flight = self.in_flight.saturating_sub(1),
                Event::RequestTimerReset { kind: TimerKind::PingreqRecv, duration_ms } => {
                    self.silence_ends = Some(clock::instant() + Duration::from_millis(duration_ms));
                }
                Event::RequestTimerCancel(TimerKind::PingreqRecv) => self.silence_ends = None,
                // The others are timers of a client.
                Event::RequestTimerReset { .. } | Event::RequestTimerCancel(_) => {}
                // The codec has told a client that can be told.
                Event::NotifyError(_) | Event::RequestClose => self.ended = true,
            }
        }
    }

    async fn write(&mut self, packet: &Packet) {
        let bytes = packet.to_continuous_buffer();
        if !matches!(timeout(WRITE_MAX, self.stream.write_all(&bytes)).await, Ok(Ok(()))) {
            self.ended = true;
        }
    }

    /// Tells an MQTT 5 client why its connection ends; MQTT 3.1.1 has no words for it.
    async fn goodbye(&mut self, why: DisconnectReasonCode) {
        if self.id.is_some()
            && self.codec.get_protocol_version() == Version::V5_0
            && let Ok(packet) = v5_0::Disconnect::builder().reason_code(why).build()
        {
            let events = self.codec.send(packet.into());
            self.handle(events).await;
        }
    }

    /// What a client's packet is answered with. Acknowledgements of messages come from the codec itself.
    fn packet(&mut self, packet: Packet) -> Vec<Packet> {
        match packet {
            Packet::V3_1_1Connect(connect) => {
                let refusal = if connect.client_id().is_empty() && !connect.clean_session() {
                    Some(ConnectReturnCode::IdentifierRejected)
                } else {
                    self.refusal(connect.user_name(), connect.password()).map(|refusal| match refusal {
                        Refusal::Login => ConnectReturnCode::NotAuthorized,
                        Refusal::Overload => ConnectReturnCode::ServerUnavailable,
                    })
                };
                self.logged_in(connect.client_id(), connect.keep_alive(), refusal.is_none());
                let code = refusal.unwrap_or(ConnectReturnCode::Accepted);
                let reply = v3_1_1::Connack::builder().session_present(false).return_code(code).build();
                reply.into_iter().map(Packet::from).collect()
            }
            Packet::V5_0Connect(connect) => {
                let refusal = self.refusal(connect.user_name(), connect.password()).map(|refusal| match refusal {
                    Refusal::Login => ConnectReasonCode::NotAuthorized,
                    Refusal::Overload => ConnectReasonCode::ServerUnavailable,
                });
                let client = self.logged_in(connect.client_id(), connect.keep_alive(), refusal.is_none());
                self.connack(client, connect.client_id().is_empty(), refusal).into_iter().collect()
            }
            Packet::V3_1_1Publish(publish) => {
                let (topic, payload) = (publish.topic_name(), publish.payload().as_slice());
                self.published(topic, payload, publish.qos(), publish.retain(), Vec::new());
                Vec::new()
            }
            Packet::V5_0Publish(publish) => {
                let (topic, payload) = (publish.topic_name(), publish.payload().as_slice());
                let passed_on = |p: &&Property| !matches!(p, Property::TopicAlias(_));
                let properties = publish.props().iter().filter(passed_on).cloned().collect();
                self.published(topic, payload, publish.qos(), publish.retain(), properties);
                Vec::new()
            }
            Packet::V3_1_1Subscribe(subscribe) => {
                let granted = self.subscribe(subscribe.entries());
                let codes = granted.into_iter().map(|qos| match qos {
                    Some(Qos::AtMostOnce) => SubackReturnCode::SuccessMaximumQos0,
                    Some(Qos::AtLeastOnce) => SubackReturnCode::SuccessMaximumQos1,
                    Some(Qos::ExactlyOnce) => SubackReturnCode::SuccessMaximumQos2,
                    None => SubackReturnCode::Failure,
                });
                let reply = v3_1_1::Suback::builder().packet_id(subscribe.packet_id()).return_codes(codes.collect());
                reply.build().into_iter().map(Packet::from).collect()
            }
            Packet::V5_0Subscribe(subscribe) => {
                let granted = self.subscribe(subscribe.entries());
                let codes = subscribe.entries().iter().zip(granted).map(|(entry, qos)| match qos {
                    Some(Qos::AtMostOnce) => SubackReasonCode::GrantedQos0,
                    Some(Qos::AtLeastOnce) => SubackReasonCode::GrantedQos1,
                    Some(Qos::ExactlyOnce) => SubackReasonCode::GrantedQos2,
                    None if is_shared(entry.topic_filter()) => SubackReasonCode::SharedSubscriptionsNotSupported,
                    None if !is_filter(entry.topic_filter()) => SubackReasonCode::TopicFilterInvalid,
                    None => SubackReasonCode::QuotaExceeded,
                });
                let reply = v5_0::Suback::builder().packet_id(subscribe.packet_id()).reason_codes(codes.collect());
                reply.build().into_iter().map(Packet::from).collect()
            }
            Packet::V3_1_1Unsubscribe(unsubscribe) => {
                for filter in unsubscribe.entries() {
                    self.unsubscribe(filter.as_str());
                }
                let reply = v3_1_1::Unsuback::builder().packet_id(unsubscribe.packet_id()).build();
                reply.into_iter().map(Packet::from).collect()
            }
            Packet::V5_0Unsubscribe(unsubscribe) => {
                let code = |was: bool| {
                    if was { UnsubackReasonCode::Success } else { UnsubackReasonCode::NoSubscriptionExisted }
                };
                let codes = unsubscribe.entries().iter().map(|f| code(self.unsubscribe(f.as_str()))).collect();
                let reply = v5_0::Unsuback::builder().packet_id(unsubscribe.packet_id()).reason_codes(codes);
                reply.build().into_iter().map(Packet::from).collect()
            }
            Packet::V3_1_1Disconnect(_) | Packet::V5_0Disconnect(_) | Packet::V5_0Auth(_) => {
                self.ended = true;
                Vec::new()
            }
            // Acknowledgements and pings, which the codec has dealt with.
            _ => Vec::new(),
        }
    }

    fn refusal(&self, username: Option<&str>, password: Option<&[u8]>) -> Option<Refusal> {
        let fits = self.shared.login.as_ref().is_none_or(|login| {
            username == Some(login.username.as_str()) && password == Some(login.password.as_bytes())
        });
        if self.shared.hub().overloaded() {
            Some(Refusal::Overload)
        } else if !fits || *self.fault.borrow() == Fault::RefuseLogin {
            Some(Refusal::Login)
        } else {
            None
        }
    }

    /// Books a login or its refusal; returns the client's identifier, made up if it has none.
    fn logged_in(&mut self, client: &str, keep_alive_s: u16, accepted: bool) -> String {
        if !accepted {
            self.shared.hub().count_refused();
            // The refusal is still to be written; the client then has until this to close.
            self.ended = true;
            return String::new();
        }
        let client =
            if client.is_empty() { format!("anonymous-{:016x}", clock::random_seed()) } else { client.to_owned() };
        if keep_alive_s == 0 {
            self.silence_ends = None;
        }
        let (id, told) = self.shared.hub().log_in(&client);
        (self.id, self.told) = (Some(id), Some(told));
        client
    }

    fn connack(&self, client: String, named_here: bool, refusal: Option<ConnectReasonCode>) -> Option<Packet> {
        use mqtt_protocol_core::mqtt::packet::{
            AssignedClientIdentifier, SessionExpiryInterval, SharedSubscriptionAvailable,
            SubscriptionIdentifierAvailable,
        };
        let mut properties: Vec<Property> = Vec::new();
        if refusal.is_none() {
            properties.push(SessionExpiryInterval::new(0).ok()?.into());
            properties.push(SharedSubscriptionAvailable::new(0).ok()?.into());
            properties.push(SubscriptionIdentifierAvailable::new(0).ok()?.into());
            if named_here {
                properties.push(AssignedClientIdentifier::new(client).ok()?.into());
            }
        }
        let code = refusal.unwrap_or(ConnectReasonCode::Success);
        let reply = v5_0::Connack::builder().session_present(false).reason_code(code).props(properties);
        reply.build().ok().map(Packet::from)
    }

    fn published(&mut self, topic: &str, payload: &[u8], qos: Qos, retain: bool, properties: Vec<Property>) {
        let Some(id) = self.id else { return };
        if topic.is_empty() || topic.contains(['+', '#']) {
            self.ended = true;
            return;
        }
        let message = Published { topic: topic.to_owned(), payload: payload.to_vec(), qos, retain, properties };
        self.shared.hub().publish(id, message);
    }

    /// For each entry the quality of service it was granted.
    fn subscribe(&self, entries: &[SubEntry]) -> Vec<Option<Qos>> {
        let Some(id) = self.id else { return vec![None; entries.len()] };
        let mut hub = self.shared.hub();
        let mut grant = |entry: &SubEntry| {
            let filter = entry.topic_filter();
            let granted = is_filter(filter) && !is_shared(filter) && hub.subscribe(id, entry);
            granted.then(|| entry.sub_opts().qos())
        };
        entries.iter().map(&mut grant).collect()
    }

    fn unsubscribe(&self, filter: &str) -> bool {
        self.id.is_some_and(|id| self.shared.hub().unsubscribe(id, filter))
    }
}

/// Why a login is turned away.
enum Refusal {
    Login,
    Overload,
}

fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

async fn next_told(told: &mut Option<mpsc::Receiver<Told>>) -> Option<Told> {
    match told {
        Some(told) => told.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
