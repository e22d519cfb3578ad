//! A scripted MQTT broker: it speaks just enough of MQTT 5 and 3.1.1 to misbehave in the ways real ones do.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As a broker should.
    Good,
    /// Accepts connections and never says anything.
    Silent,
    /// Acknowledges messages and drops them.
    Drops,
    /// Delivers every message twice.
    Twice,
    /// Delivers messages with other characters beyond ASCII.
    Transcodes,
    /// Delivers messages and never acknowledges them.
    NoAck,
    /// Hangs up on MQTT 5 without a word.
    HangsUpOn5,
    /// Answers MQTT 5 in the form of 3.1.1 with "unacceptable protocol version".
    Refuses5InOldForm,
    /// Answers MQTT 5 with reason code 0x84.
    Refuses5,
    /// Refuses every login with this code.
    RefusesLogin(u8),
    /// Refuses subscriptions.
    RefusesSubscriptions,
    /// Greets like another protocol.
    Greets(&'static str),
}

struct Subscriber {
    topic: Vec<u8>,
    version: u8,
    stream: TcpStream,
}

struct Shared {
    manner: Mutex<Manner>,
    subscribers: Mutex<Vec<Subscriber>>,
    over: AtomicBool,
}

/// A running broker; ends with its value.
pub struct Broker {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Broker {
    /// Starts one.
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            manner: Mutex::new(manner),
            subscribers: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let all = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if all.over.load(SeqCst) {
                    return;
                }
                let shared = all.clone();
                // A client that hangs up ends its thread, and that is all.
                thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Self { address, shared }
    }

    /// Changes how it behaves from now on.
    pub fn now(&self, manner: Manner) {
        *self.shared.manner.lock().expect("no panic") = manner;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let manner = || *shared.manner.lock().expect("no panic");
    if let Manner::Greets(text) = manner() {
        return stream.write_all(text.as_bytes());
    }
    let (_, connect) = packet(&mut stream)?;
    // Length, "MQTT", level.
    let version = connect[6];
    match manner() {
        Manner::Silent => loop {
            packet(&mut stream)?;
        },
        Manner::HangsUpOn5 if version == 5 => return Ok(()),
        Manner::Refuses5InOldForm if version == 5 => return stream.write_all(&[0x20, 2, 0, 1]),
        Manner::Refuses5 if version == 5 => return stream.write_all(&[0x20, 3, 0, 0x84, 0]),
        Manner::RefusesLogin(code) if version == 5 => return stream.write_all(&[0x20, 3, 0, code, 0]),
        Manner::RefusesLogin(code) => return stream.write_all(&[0x20, 2, 0, code]),
        _ if version == 5 => stream.write_all(&[0x20, 3, 0, 0, 0])?,
        _ => stream.write_all(&[0x20, 2, 0, 0])?,
    }
    loop {
        let (first, body) = packet(&mut stream)?;
        match first >> 4 {
            3 => published(first, &body, version, &mut stream, shared, manner())?,
            8 => subscribed(&body, version, &mut stream, shared, manner())?,
            // UNSUBSCRIBE
            10 if version == 5 => stream.write_all(&[0xb0, 4, body[0], body[1], 0, 0])?,
            10 => stream.write_all(&[0xb0, 2, body[0], body[1]])?,
            // PINGREQ
            12 => stream.write_all(&[0xd0, 0])?,
            // DISCONNECT
            14 => return Ok(()),
            _ => {}
        }
    }
}

fn subscribed(body: &[u8], version: u8, stream: &mut TcpStream, shared: &Shared, manner: Manner) -> io::Result<()> {
    let at = if version == 5 { 3 + usize::from(body[2]) } else { 2 };
    let topic = text(&body[at..]).to_vec();
    let code = if manner == Manner::RefusesSubscriptions { 0x80 } else { 0 };
    let mut subscribers = shared.subscribers.lock().expect("no panic");
    match version {
        5 => stream.write_all(&[0x90, 4, body[0], body[1], 0, code])?,
        _ => stream.write_all(&[0x90, 3, body[0], body[1], code])?,
    }
    subscribers.push(Subscriber { topic, version, stream: stream.try_clone()? });
    Ok(())
}

fn published(
    first: u8,
    body: &[u8],
    version: u8,
    stream: &mut TcpStream,
    shared: &Shared,
    manner: Manner,
) -> io::Result<()> {
    let topic = text(body);
    let mut at = 2 + topic.len();
    if first & 6 != 0 {
        if manner != Manner::NoAck {
            stream.write_all(&[0x40, 2, body[at], body[at + 1]])?;
        }
        at += 2;
    }
    if version == 5 {
        at += 1 + usize::from(body[at]);
    }
    let mut payload = body[at..].to_vec();
    if manner == Manner::Transcodes {
        let text = String::from_utf8_lossy(&payload);
        payload = text.chars().map(|c| if c.is_ascii() { c as u8 } else { b'?' }).collect();
    }
    let copies = match manner {
        Manner::Drops => 0,
        Manner::Twice => 2,
        _ => 1,
    };
    let mut subscribers = shared.subscribers.lock().expect("no panic");
    for _ in 0..copies {
        subscribers.retain_mut(|s| s.topic != topic || deliver(s, &payload).is_ok());
    }
    Ok(())
}

fn deliver(to: &mut Subscriber, payload: &[u8]) -> io::Result<()> {
    let mut body = (to.topic.len() as u16).to_be_bytes().to_vec();
    body.extend(&to.topic);
    if to.version == 5 {
        body.push(0);
    }
    body.extend(payload);
    let mut packet = vec![0x30];
    let mut length = body.len();
    while length >= 128 {
        packet.push((length % 128) as u8 | 0x80);
        length /= 128;
    }
    packet.push(length as u8);
    packet.extend(body);
    to.stream.write_all(&packet)
}

/// The text that begins here, by its length.
pub fn text(bytes: &[u8]) -> &[u8] {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    &bytes[2..2 + length]
}

/// The first byte of the next packet, and what follows its length.
pub fn packet(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let first = byte[0];
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((first, body))
}
