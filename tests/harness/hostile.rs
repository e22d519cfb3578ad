//! A server that behaves up to a certain moment, and then in one of the ways in which servers that are broken, or in
//! bad hands, do not.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::polite::{Login, Next, Polite, named, polite};

/// What a server does once it turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing: the good server goes on.
    Good,
    /// Says nothing more, and keeps the connection.
    Silence,
    /// One byte each second of what it should say.
    Drip,
    /// Half of what it should say, and nothing more.
    Half,
    /// Half of what it should say, and hangs up.
    HalfAndClose,
    /// Hangs up.
    Close,
    /// Resets the connection.
    Reset,
    /// A line that never ends.
    EndlessLine,
    /// An answer of lines (headers, packets) that never ends.
    EndlessLines,
    /// The same of parts as large as the protocol has them.
    EndlessLargeLines,
    /// Random bytes, and then silence.
    Garbage,
    /// Random bytes without end.
    EndlessGarbage,
    /// All that it has heard, again and again.
    Echo,
    /// What it says to a client of TLS that it refuses.
    TlsAlert,
    /// Speaks in plain text whatever it hears.
    PlainText,
    /// Says this, and then hangs up.
    Say(&'static [u8]),
}

/// All that can follow upon good behaviour.
pub const ACTS: [Act; 12] = [
    Act::Silence,
    Act::Drip,
    Act::Half,
    Act::HalfAndClose,
    Act::Close,
    Act::Reset,
    Act::EndlessLine,
    Act::EndlessLines,
    Act::EndlessLargeLines,
    Act::Garbage,
    Act::EndlessGarbage,
    Act::Echo,
];

/// What a server is made of.
#[derive(Clone)]
pub struct Plan {
    /// Whose server it plays.
    pub protocol: &'static str,
    /// How clients are let in.
    pub login: Login,
    /// After so many good answers it turns.
    pub turn: usize,
    /// To this.
    pub act: Act,
    /// The certificate it shows when TLS is begun.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether TLS is begun by a command, after a greeting.
    pub by_command: bool,
}

/// What it does, seen from outside.
#[derive(Default)]
pub struct Notes {
    /// How many connections came to the turn.
    pub turned: AtomicUsize,
    /// How many answers were given before.
    pub answers: AtomicUsize,
    /// Whether a client has begun TLS.
    pub secured: AtomicBool,
    /// All that clients said.
    pub heard: Mutex<Vec<u8>>,
    over: AtomicBool,
}

/// A running server; ends with its value.
pub struct Peer {
    pub address: SocketAddr,
    pub notes: Arc<Notes>,
}

/// Longest a connection is kept that nobody closes.
const KEPT_MAX: Duration = Duration::from_secs(30);

impl Peer {
    /// Starts one, for TCP and UDP at the same port.
    pub fn start(plan: Plan) -> Self {
        let (listener, datagrams) = both();
        let address = listener.local_addr().expect("a bound listener has an address");
        let notes = Arc::new(Notes::default());
        let (all, plans) = (notes.clone(), plan.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if all.over.load(SeqCst) {
                    return;
                }
                let (notes, plan) = (all.clone(), plans.clone());
                thread::spawn(move || Connection::new(stream, plan, notes).run());
            }
        });
        let all = notes.clone();
        thread::spawn(move || answer_datagrams(&datagrams, &plan, &all));
        Self { address, notes }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.notes.over.store(true, SeqCst);
        // Both loops look up at what comes.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
        let _ = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.send_to(b"over", self.address));
    }
}

/// A port of the kernel's choice that is free for both.
fn both() -> (TcpListener, UdpSocket) {
    (0..50)
        .find_map(|_| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
            let port = listener.local_addr().ok()?.port();
            Some((listener, UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?))
        })
        .expect("loopback has a port that is free for TCP and UDP")
}

fn random_bytes(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..length).map(|_| random.u8(..)).collect()
}

/// The same acts, as far as datagrams can have them; only name servers have clients here.
fn answer_datagrams(socket: &UdpSocket, plan: &Plan, notes: &Notes) {
    let mut buffer = [0; 2_048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        if notes.over.load(SeqCst) {
            return;
        }
        let good = if length > 12 { named(&buffer[..length]) } else { Vec::new() };
        let answer = match plan.act {
            _ if plan.turn > 0 || plan.act == Act::Good => good,
            Act::Silence | Act::Drip | Act::Close | Act::Reset => {
                notes.turned.fetch_add(1, SeqCst);
                continue;
            }
            Act::Half | Act::HalfAndClose => good[..good.len() / 2].to_vec(),
            Act::Echo => buffer[..length].to_vec(),
            Act::EndlessGarbage | Act::EndlessLine | Act::EndlessLines | Act::EndlessLargeLines => {
                notes.turned.fetch_add(1, SeqCst);
                for n in 0..5_000 {
                    let _ = socket.send_to(&random_bytes(n % 1_400), from);
                }
                continue;
            }
            _ => random_bytes(512),
        };
        if plan.turn == 0 {
            notes.turned.fetch_add(1, SeqCst);
        } else {
            notes.answers.fetch_add(1, SeqCst);
        }
        let _ = socket.send_to(&answer, from);
    }
}

trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

struct Connection {
    /// Beneath TLS, if there is any.
    socket: TcpStream,
    wire: Box<dyn Wire>,
    plan: Plan,
    notes: Arc<Notes>,
    begun: Instant,
}

impl Connection {
    fn new(socket: TcpStream, plan: Plan, notes: Arc<Notes>) -> Self {
        // Short, so that the end of the test is seen.
        let _ = socket.set_read_timeout(Some(Duration::from_millis(100)));
        let _ = socket.set_write_timeout(Some(Duration::from_millis(500)));
        let _ = socket.set_nodelay(true);
        let wire = Box::new(socket.try_clone().expect("a socket can be shared"));
        Self { socket, wire, plan, notes, begun: Instant::now() }
    }

    fn is_over(&self) -> bool {
        self.notes.over.load(SeqCst) || self.begun.elapsed() > KEPT_MAX
    }

    fn run(mut self) {
        if self.plan.tls.is_some() && self.is_secured_first() {
            if self.plan.turn == 0 && self.plan.act != Act::Good {
                return self.turn(b"220 mx.example.com ready\r\n", None);
            }
            if !self.secure() {
                return;
            }
        }
        let Some(mut polite) = polite(self.plan.protocol, self.plan.login) else { return self.hold() };
        let mut heard = Vec::new();
        let greeting = polite.greeting();
        let mut next = if greeting.is_empty() { polite.answer(&mut heard) } else { Next::Say(greeting.into()) };
        loop {
            let (answer, then) = match next {
                Next::Wait => {
                    if !self.listen(&mut heard) {
                        return;
                    }
                    next = polite.answer(&mut heard);
                    continue;
                }
                Next::Say(answer) => (answer, ' '),
                Next::SayAndSecure(answer) => (answer, 's'),
                Next::Leave(answer) => (answer, 'l'),
            };
            if self.notes.answers.load(SeqCst) == self.plan.turn && self.plan.act != Act::Good {
                return self.turn(&answer, Some(&*polite));
            }
            self.notes.answers.fetch_add(1, SeqCst);
            if self.wire.write_all(&answer).and_then(|()| self.wire.flush()).is_err() || then == 'l' {
                return;
            }
            if then == 's' && !self.secure() {
                return;
            }
            next = polite.answer(&mut heard);
        }
    }

    /// Whether the client speaks first, and TLS.
    fn is_secured_first(&self) -> bool {
        let mut first = [0];
        while !self.plan.by_command && !self.is_over() {
            match self.socket.peek(&mut first) {
                Ok(_) => return first[0] == 0x16,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(_) => return false,
            }
        }
        false
    }

    fn secure(&mut self) -> bool {
        let Some(config) = self.plan.tls.clone() else { return false };
        self.notes.secured.store(true, SeqCst);
        let connection = ServerConnection::new(config).expect("a configuration");
        let socket = self.socket.try_clone().expect("a socket can be shared");
        let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
        let mut stream = StreamOwned::new(connection, socket);
        let done = stream.conn.complete_io(&mut stream.sock).is_ok();
        let _ = self.socket.set_read_timeout(Some(Duration::from_millis(100)));
        self.wire = Box::new(stream);
        done
    }

    /// Takes in what comes; whether the client is still there.
    fn listen(&mut self, heard: &mut Vec<u8>) -> bool {
        let mut chunk = [0; 16_384];
        while !self.is_over() {
            match self.wire.read(&mut chunk) {
                Ok(0) => return false,
                Ok(read) => {
                    heard.extend(&chunk[..read]);
                    self.notes.heard.lock().expect("nobody panics with it").extend(&chunk[..read]);
                    return true;
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(_) => return false,
            }
        }
        false
    }

    /// Keeps the connection until the client closes it.
    fn hold(&mut self) {
        while self.listen(&mut Vec::new()) {}
    }

    fn turn(&mut self, answer: &[u8], polite: Option<&dyn Polite>) {
        self.notes.turned.fetch_add(1, SeqCst);
        let half = &answer[..answer.len() / 2];
        match self.plan.act {
            Act::Good | Act::Silence => self.hold(),
            Act::Drip => {
                for byte in answer {
                    let second = Instant::now();
                    if self.wire.write_all(&[*byte]).is_err() {
                        return;
                    }
                    while second.elapsed() < Duration::from_secs(1) {
                        if self.is_over() {
                            return;
                        }
                        thread::sleep(Duration::from_millis(50));
                    }
                }
                self.hold();
            }
            Act::Half => {
                let _ = self.wire.write_all(half);
                self.hold();
            }
            Act::HalfAndClose => {
                let _ = self.wire.write_all(half);
                self.hang_up();
            }
            Act::Close => self.hang_up(),
            Act::Reset => {
                let _ = socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
            }
            Act::EndlessLine => {
                let end = answer.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(answer.len());
                // The whole of it may be all that is expected.
                self.pour(&answer[..end / 2], &[b'x'; 65_536]);
            }
            Act::EndlessLines => {
                let (first, again) = polite.map_or((&b""[..], &b"220-x\r\n"[..]), Polite::endless);
                self.pour(first, &again.repeat(65_536 / again.len()));
            }
            Act::EndlessLargeLines => {
                let (first, again) = polite.map_or((&b""[..], Vec::new()), Polite::large);
                self.pour(first, &again);
            }
            Act::Garbage => {
                let _ = self.wire.write_all(&random_bytes(4_096));
                self.hold();
            }
            Act::EndlessGarbage => self.pour(b"", &random_bytes(65_536)),
            Act::Echo => {
                let all = self.notes.heard.lock().expect("nobody panics with it").clone();
                let _ = self.wire.write_all(&[half, &all, b"\r\n"].concat());
                let mut heard = Vec::new();
                while self.listen(&mut heard) && self.wire.write_all(&heard).is_ok() {
                    heard.clear();
                }
            }
            // A fatal alert, handshake_failure (RFC 8446, section 6.2).
            Act::TlsAlert => self.say(&[0x15, 3, 3, 0, 2, 2, 40]),
            Act::PlainText => self.say(b"220 mx.example.com ready\r\n"),
            Act::Say(text) => self.say(text),
        }
    }

    fn say(&mut self, text: &[u8]) {
        let _ = self.wire.write_all(text);
        let _ = self.wire.flush();
        self.hang_up();
    }

    /// Sends the same again and again, to whoever reads it.
    fn pour(&mut self, first: &[u8], again: &[u8]) {
        if self.wire.write_all(first).is_err() {
            return;
        }
        while !self.is_over() {
            match self.wire.write_all(again) {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(_) => return,
                Ok(()) => {}
            }
        }
    }

    /// A clean end: what is still to be read would make it a reset.
    fn hang_up(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
        self.hold();
    }
}
