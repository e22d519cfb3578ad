//! A proxy between an MQTT broker (3.1.1 or 5, without TLS) and its clients that drops, repeats, swaps, alters and
//! delays what the broker delivers, by the plan of a [`Mangler`], and accounts for it. All other packets pass as they
//! are. Put the subscribers behind it; publishers may come either way.
//!
//! Packet identifiers (section 2.2.1) belong to the broker, which counts on their acknowledgement. So:
//!
//! - what passes or is altered keeps its quality of service and its identifier, and the client acknowledges it;
//! - what is dropped or kept is acknowledged to the broker by the proxy itself (PUBACK, or PUBREC and PUBCOMP), and
//!   what was kept goes to the client at QoS 0 later, which needs no identifier;
//! - a repetition goes at QoS 0 as well, behind the original: with the original's identifier a QoS 2 client would
//!   rightly take it for the same message, with another one it would acknowledge what the broker never sent.
//!
//! A message is one by its token, whoever sees it: each connection suffers the same, the account counts it once, and a
//! kept one leaves for all connections that are then open and subscribed to its topic, as the one it was held on may
//! be gone. One that leaves when nobody is subscribed is told by [`MqttProxy::missed`]. Topic aliases of MQTT 5 are
//! written out, since a packet that sets one may be dropped.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::{self, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    broker::{packet, text},
    mangler::{Account, Alteration, Deed, Leaving, Mangler, Message, Rates, Verdict, token_in},
};

/// Longest wait for a peer that does not read; the lock is held meanwhile.
const WRITE_MAX: Duration = Duration::from_secs(5);

/// A message on its way to a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Publish {
    topic: String,
    /// The properties of MQTT 5, as they came, without a topic alias; empty for 3.1.1.
    properties: Vec<u8>,
    payload: Vec<u8>,
}

impl Message for Publish {
    fn altered(&self, how: Alteration) -> Option<Self> {
        Some(Self { payload: how.of(&self.payload)?, ..self.clone() })
    }
}

impl Publish {
    /// As a packet; `head` holds the flags of the fixed header and, above QoS 0, the identifier.
    fn encoded(&self, flags: u8, id: Option<[u8; 2]>, version: u8) -> Vec<u8> {
        let mut body = (self.topic.len() as u16).to_be_bytes().to_vec();
        body.extend(self.topic.as_bytes());
        body.extend(id.iter().flatten());
        if version == 5 {
            body.extend(length(self.properties.len()));
            body.extend(&self.properties);
        }
        body.extend(&self.payload);
        framed(0x30 | flags, &body)
    }
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    version: u8,
    filters: Vec<String>,
    aliases: HashMap<u16, String>,
    /// Identifiers at QoS 2 that the proxy has received in the client's stead.
    released_here: HashSet<[u8; 2]>,
}

struct State {
    mangler: Mangler<Publish>,
    connections: HashMap<u64, Connection>,
    next: u64,
    /// Kept messages and the connections that have got them.
    delivered: HashSet<(String, u64)>,
    missed: BTreeSet<String>,
}

struct Shared {
    state: Mutex<State>,
    woken: Condvar,
    over: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }
}

/// A running proxy; ends with its value.
pub struct MqttProxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl MqttProxy {
    /// Listens on a free port of the loopback and forwards to the broker at `target`.
    pub fn start(target: SocketAddr, seed: u64, rates: Rates) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = State {
            mangler: Mangler::new(seed, rates),
            connections: HashMap::new(),
            next: 0,
            delivered: HashSet::new(),
            missed: BTreeSet::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), woken: Condvar::new(), over: AtomicBool::new(false) });
        let clock = shared.clone();
        thread::spawn(move || keep_time(&clock));
        let all = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if all.over.load(SeqCst) {
                    return;
                }
                if let Ok(server) = TcpStream::connect(target) {
                    // A connection that cannot be shared is closed by dropping it.
                    drop(join(client, server, &all));
                }
            }
        });
        Self { address, shared }
    }

    /// Other rates for the messages from now on.
    pub fn now(&self, rates: Rates) {
        self.shared.state().mangler.now(rates);
    }

    /// Lets all that are kept go now.
    pub fn release(&self) {
        self.shared.state().mangler.release(Instant::now());
        self.shared.woken.notify_all();
    }

    /// What was done so far.
    pub fn account(&self) -> Account {
        self.shared.state().mangler.account()
    }

    /// Kept messages that left when nobody was subscribed to their topic.
    pub fn missed(&self) -> BTreeSet<String> {
        self.shared.state().missed.clone()
    }

    /// Cuts all connections that are open now.
    pub fn cut(&self) {
        for connection in self.shared.state().connections.values() {
            end(&connection.client);
            end(&connection.server);
        }
    }
}

impl Drop for MqttProxy {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        self.shared.woken.notify_all();
        self.cut();
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn end(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

/// Forwards between a client and the broker, in two threads.
fn join(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    for stream in [&client, &server] {
        stream.set_write_timeout(Some(WRITE_MAX))?;
        stream.set_nodelay(true)?;
    }
    let (mut up, mut down) = (client.try_clone()?, server.try_clone()?);
    let mut state = shared.state();
    let id = state.next;
    state.next += 1;
    let (version, filters, aliases, released_here) = (0, Vec::new(), HashMap::new(), HashSet::new());
    state.connections.insert(id, Connection { client, server, version, filters, aliases, released_here });
    drop(state);
    let both = [shared.clone(), shared.clone()].map(|shared| {
        move |step: &mut dyn FnMut(&Shared) -> io::Result<()>| {
            while step(&shared).is_ok() {}
            if let Some(connection) = shared.state().connections.remove(&id) {
                end(&connection.client);
                end(&connection.server);
            }
        }
    });
    let [upward, downward] = both;
    thread::spawn(move || upward(&mut |shared| from_client(packet(&mut up)?, id, shared)));
    thread::spawn(move || downward(&mut |shared| from_broker(packet(&mut down)?, id, shared)));
    Ok(())
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

fn from_client((first, body): (u8, Vec<u8>), id: u64, shared: &Shared) -> io::Result<()> {
    let mut state = shared.state();
    let connection = state.connections.get_mut(&id).ok_or_else(gone)?;
    match first >> 4 {
        // CONNECT: after the protocol's name stands its level.
        1 => connection.version = body[2 + text(&body).len()],
        8 => connection.filters.extend(filters(&body, connection.version, 1)),
        10 => {
            let over = filters(&body, connection.version, 0);
            connection.filters.retain(|filter| !over.contains(filter));
        }
        _ => {}
    }
    connection.server.write_all(&framed(first, &body))
}

fn from_broker((first, body): (u8, Vec<u8>), id: u64, shared: &Shared) -> io::Result<()> {
    let mut state = shared.state();
    let State { mangler, connections, delivered, .. } = &mut *state;
    let connection = connections.get_mut(&id).ok_or_else(gone)?;
    // PUBREL for what the proxy received.
    if first >> 4 == 6 && connection.released_here.remove(&[body[0], body[1]]) {
        return connection.server.write_all(&[0x70, 2, body[0], body[1]]);
    }
    if first >> 4 != 3 {
        return connection.client.write_all(&framed(first, &body));
    }
    let (publish, packet_id) = taken_apart(first, &body, connection);
    let Some(token) = token_in(&publish.payload) else {
        return connection.client.write_all(&publish.encoded(first & 0x0f, packet_id, connection.version));
    };
    let verdict = mangler.take(&token, &publish.topic, &publish, Instant::now());
    shared.woken.notify_all();
    let mut own = Some(packet_id);
    if let Verdict::Go(leaving) = verdict {
        for Leaving { token: which, message, deed } in leaving {
            let as_it_came = matches!(deed, Deed::Passed | Deed::Altered | Deed::Repeated) && which == token;
            let packet = match own.take_if(|_| as_it_came) {
                Some(packet_id) => message.encoded(first & 0x0f, packet_id, connection.version),
                None if as_it_came || delivered.insert((which, id)) => message.encoded(0, None, connection.version),
                None => continue,
            };
            connection.client.write_all(&packet)?;
        }
    }
    match own {
        // The client never gets this packet, so the proxy acknowledges it.
        Some(Some([high, low])) if first & 6 == 2 => connection.server.write_all(&[0x40, 2, high, low]),
        Some(Some(packet_id @ [high, low])) => {
            connection.released_here.insert(packet_id);
            connection.server.write_all(&[0x50, 2, high, low])
        }
        _ => Ok(()),
    }
}

/// Lets kept messages go when their time has come.
fn keep_time(shared: &Shared) {
    let mut state = shared.state();
    while !shared.over.load(SeqCst) {
        let now = Instant::now();
        let State { mangler, connections, delivered, missed, .. } = &mut *state;
        for Leaving { token, message, .. } in mangler.due(now) {
            let mut reached = false;
            for (id, connection) in connections.iter_mut() {
                if !connection.filters.iter().any(|filter| covers(filter, &message.topic)) {
                    continue;
                }
                reached = true;
                if delivered.insert((token.clone(), *id)) {
                    // One that does not read any more is gone in a moment.
                    let _ = connection.client.write_all(&message.encoded(0, None, connection.version));
                }
            }
            if !reached {
                missed.insert(token);
            }
        }
        let wait = mangler.next_due().map_or(Duration::from_secs(1), |due| due.saturating_duration_since(now));
        state = shared.woken.wait_timeout(state, wait).expect("no panic").0;
    }
}

/// A PUBLISH (section 3.3) and its identifier, with its topic in full.
fn taken_apart(first: u8, body: &[u8], connection: &mut Connection) -> (Publish, Option<[u8; 2]>) {
    let mut topic = String::from_utf8_lossy(text(body)).into_owned();
    let mut rest = &body[2 + text(body).len()..];
    let mut id = None;
    if first & 6 != 0 {
        id = Some([rest[0], rest[1]]);
        rest = &rest[2..];
    }
    let mut properties = Vec::new();
    if connection.version == 5 {
        let (bytes, after) = counted(rest);
        rest = after;
        let alias;
        (properties, alias) = without_alias(bytes);
        match alias {
            Some(alias) if topic.is_empty() => topic = connection.aliases.get(&alias).cloned().unwrap_or_default(),
            Some(alias) => drop(connection.aliases.insert(alias, topic.clone())),
            None => {}
        }
    }
    (Publish { topic, properties, payload: rest.to_vec() }, id)
}

/// The properties of a PUBLISH (section 3.3.2.3) but for the topic alias, and that.
fn without_alias(mut rest: &[u8]) -> (Vec<u8>, Option<u16>) {
    let (mut kept, mut alias) = (Vec::new(), None);
    while let [kind, value @ ..] = rest {
        let text_bytes = |bytes: &[u8]| 2 + text(bytes).len();
        let bytes = match kind {
            0x01 => 1,
            0x02 => 4,
            0x03 | 0x08 | 0x09 => text_bytes(value),
            0x0b => value.iter().take_while(|b| **b & 0x80 != 0).count() + 1,
            0x23 => 2,
            0x26 => text_bytes(value) + text_bytes(&value[text_bytes(value)..]),
            other => panic!("a PUBLISH has no property 0x{other:02x}"),
        };
        if *kind == 0x23 {
            alias = Some(u16::from_be_bytes([value[0], value[1]]));
        } else {
            kept.extend(&rest[..=bytes]);
        }
        rest = &value[bytes..];
    }
    (kept, alias)
}

/// The filters of a SUBSCRIBE (each with a byte of options) or an UNSUBSCRIBE (without).
fn filters(body: &[u8], version: u8, options: usize) -> Vec<String> {
    let mut rest = &body[2..];
    if version == 5 {
        rest = counted(rest).1;
    }
    let mut filters = Vec::new();
    while !rest.is_empty() {
        filters.push(String::from_utf8_lossy(text(rest)).into_owned());
        rest = &rest[2 + text(rest).len() + options..];
    }
    filters
}

/// Whether a subscription to this filter gets messages of this topic (section 4.7).
fn covers(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        if levels.next().is_none_or(|level| wanted != "+" && wanted != level) {
            return false;
        }
    }
    levels.next().is_none()
}

/// The bytes counted by a variable byte integer (MQTT 5, section 1.5.5) at the start, and what follows them.
fn counted(bytes: &[u8]) -> (&[u8], &[u8]) {
    let digits = bytes.iter().take_while(|b| **b & 0x80 != 0).count() + 1;
    let length = bytes[..digits].iter().rev().fold(0, |sum, b| sum << 7 | usize::from(b & 0x7f));
    bytes[digits..].split_at(length)
}

fn length(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let digit = (length % 128) as u8;
        length /= 128;
        bytes.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            return bytes;
        }
    }
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], length(body.len()).as_slice(), body].concat()
}

mod tests {
    use super::*;

    #[test]
    fn filters_cover_topics() {
        let table = [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("#", "a/b", true),
            ("a/#", "a", true),
            ("a/#", "b/a", false),
        ];
        for (filter, topic, expected) in table {
            assert_eq!(covers(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn packets_come_out_as_they_came_in() {
        for bytes in [0, 1, 127, 128, 16_383, 16_384] {
            let body = vec![b'x'; bytes];
            let packet = framed(0, &body);
            let (inner, rest) = counted(&packet[1..]);
            assert_eq!((inner, rest), (body.as_slice(), &b""[..]));
        }
        // Message expiry, an alias, a user property.
        let properties = [&[2, 0, 0, 0, 9, 0x23, 0, 7, 0x26, 0, 1][..], b"k", &[0, 1], b"v"].concat();
        let (kept, alias) = without_alias(&properties);
        assert_eq!((kept.len(), alias), (properties.len() - 3, Some(7)));
    }
}
