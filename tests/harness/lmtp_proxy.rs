//! An LMTP server (RFC 2033) between a mail server and a mailbox server that drops, repeats, swaps, alters and delays
//! mails by the plan of a [`Mangler`], and accounts for it. It can also refuse them for a while, as greylisting does,
//! or for good, or hang.
//!
//! postfix: `virtual_transport = lmtp:inet:127.0.0.1:PORT`. What goes on at once is handed over before the sender gets
//! its answer, which is then the mailbox server's own; what is dropped or kept is accepted with 250, and kept mails are
//! handed over later, each failure told by [`LmtpProxy::failures`]. Mails are handed over one at a time, so that the
//! account's order is the order in which they arrived. A mail is one by the token in its body: a second transaction
//! with the same token suffers the same, so a check's mails must have one recipient each. A mail from nobody (`<>`) is a
//! server's report about another, which it quotes: it passes, unchanged and uncounted.
//!
//! A body in quoted-printable or base64 is decoded to look for the token and to alter the text, and encoded again the
//! same way; 7bit and 8bit are taken as they stand, and as UTF-8. Of a mail with several parts only text that stands
//! in plain is found and altered. Headers are never changed. The lane within which mails are swapped is the recipient.

use std::{
    collections::HashSet,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::mangler::{Account, Alteration, Leaving, Mangler, Message, Rates, Verdict, find, token_in};

/// Longest wait for the mailbox server.
const ONWARD_MAX: Duration = Duration::from_secs(30);

/// How often a hanging connection looks whether it may end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How mails are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// By the plan.
    #[default]
    Plan,
    /// A pair of sender and recipient that was never seen gets 451 4.7.1; from the second time on, by the plan.
    Greylist,
    /// This reply to each recipient.
    AtRecipient(&'static str),
    /// This reply to the mail's data.
    AtData(&'static str),
    /// None after the mail's data; the connection is closed when told otherwise.
    Hang,
}

/// A mail in transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The address within `MAIL FROM:<…>`.
    pub from: String,
    /// The addresses within `RCPT TO:<…>`.
    pub to: Vec<String>,
    /// Header and body, with CRLF, dots not doubled.
    pub data: Vec<u8>,
}

/// How a body is encoded for transport (RFC 2045, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Plain,
    QuotedPrintable,
    Base64,
}

impl Mail {
    fn token(&self) -> Option<String> {
        let (_, body, encoding) = self.parts();
        token_in(&decode(body, encoding)).or_else(|| token_in(&self.data))
    }

    /// Header with its empty line, body, and how that is encoded.
    fn parts(&self) -> (&[u8], &[u8], Encoding) {
        let end = find(&self.data, b"\r\n\r\n").map_or(self.data.len(), |at| at + 4);
        let (header, body) = self.data.split_at(end);
        let lower = String::from_utf8_lossy(header).to_ascii_lowercase();
        let named = |word: &str| {
            lower.lines().any(|l| l.strip_prefix("content-transfer-encoding:").is_some_and(|v| v.trim() == word))
        };
        let encoding = match () {
            () if named("quoted-printable") => Encoding::QuotedPrintable,
            () if named("base64") => Encoding::Base64,
            () => Encoding::Plain,
        };
        (header, body, encoding)
    }
}

impl Message for Mail {
    fn altered(&self, how: Alteration) -> Option<Self> {
        let (header, body, encoding) = self.parts();
        let body = encode(&how.of(&decode(body, encoding))?, encoding);
        Some(Self { data: [header, &body].concat(), ..self.clone() })
    }
}

struct State {
    mangler: Mangler<Mail>,
    answer: Answer,
    known: HashSet<(String, String)>,
    /// How often a mail that is no bounce was refused or hung up on, as told.
    turned: usize,
    failures: Vec<String>,
    settle: Option<Box<dyn FnMut() + Send>>,
}

struct Shared {
    state: Mutex<State>,
    woken: Condvar,
    over: AtomicBool,
    target: SocketAddr,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }
}

/// A running proxy; ends with its value.
pub struct LmtpProxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl LmtpProxy {
    /// Listens on a free port of the loopback and hands mails over to the LMTP server at `target`.
    pub fn start(target: SocketAddr, seed: u64, rates: Rates) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let mangler = Mangler::new(seed, rates);
        let (known, failures) = (HashSet::new(), Vec::new());
        let state = State { mangler, answer: Answer::Plan, known, turned: 0, failures, settle: None };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), woken: Condvar::new(), over: AtomicBool::new(false), target });
        let clock = shared.clone();
        thread::spawn(move || keep_time(&clock));
        let all = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if all.over.load(SeqCst) {
                    return;
                }
                let shared = all.clone();
                // A sender that hangs up ends its thread, and that is all.
                thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Self { address, shared }
    }

    /// Other rates for the mails from now on.
    pub fn now(&self, rates: Rates) {
        self.shared.state().mangler.now(rates);
    }

    /// Another answer for the mails from now on.
    pub fn answer(&self, answer: Answer) {
        self.shared.state().answer = answer;
    }

    /// How often a mail that is no bounce was refused or hung up on, as told by [`LmtpProxy::answer`].
    pub fn turned(&self) -> usize {
        self.shared.state().turned
    }

    /// Has this done after each mail that is handed over, before the next one is.
    pub fn settle(&self, each: impl FnMut() + Send + 'static) {
        self.shared.state().settle = Some(Box::new(each));
    }

    /// Lets all that are kept go now.
    pub fn release(&self) {
        self.shared.state().mangler.release(Instant::now());
        self.shared.woken.notify_all();
    }

    /// The number of mails seen so far, to be asked for elsewhere.
    pub fn counter(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let shared = self.shared.clone();
        move || shared.state().mangler.seen()
    }

    /// What was done so far.
    pub fn account(&self) -> Account {
        self.shared.state().mangler.account()
    }

    /// What the mailbox server said to mails it did not take; a test that compares accounts wants none.
    pub fn failures(&self) -> Vec<String> {
        self.shared.state().failures.clone()
    }
}

impl Drop for LmtpProxy {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        self.shared.woken.notify_all();
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    // Three commands in one packet get three replies, and none is to wait for the other's acknowledgement.
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let mut envelope = (None, Vec::new());
    reply(&mut out, "220 proxy.test LMTP")?;
    while let Some(line) = line(&mut lines)? {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = text.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "LHLO" => {
                reply(&mut out, "250-proxy.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")?;
            }
            "MAIL" => {
                envelope = (Some(address(&text)), Vec::new());
                reply(&mut out, "250 2.1.0 ok")?;
            }
            "RCPT" => {
                let Some(from) = &envelope.0 else {
                    reply(&mut out, "503 5.5.1 MAIL first")?;
                    continue;
                };
                let to = address(&text);
                let said = at_recipient(shared, from, &to);
                if said.starts_with('2') {
                    envelope.1.push(to);
                }
                reply(&mut out, &said)?;
            }
            "DATA" => {
                let (Some(from), to @ [_, ..]) = (envelope.0.take(), envelope.1.as_slice()) else {
                    reply(&mut out, "503 5.5.1 no valid recipients")?;
                    continue;
                };
                reply(&mut out, "354 go on")?;
                let mail = Mail { from, to: to.to_vec(), data: data(&mut lines)? };
                for said in at_data(shared, &mail).ok_or(io::ErrorKind::ConnectionAborted)? {
                    reply(&mut out, &said)?;
                }
            }
            "RSET" => {
                envelope = (None, Vec::new());
                reply(&mut out, "250 2.0.0 ok")?;
            }
            "NOOP" => reply(&mut out, "250 2.0.0 ok")?,
            "QUIT" => return reply(&mut out, "221 2.0.0 bye"),
            _ => reply(&mut out, "500 5.5.2 unknown command")?,
        }
    }
    Ok(())
}

fn at_recipient(shared: &Shared, from: &str, to: &str) -> String {
    let mut state = shared.state();
    let is_new = state.known.insert((from.to_owned(), to.to_owned()));
    state.turned += usize::from(matches!(state.answer, Answer::AtRecipient(_)) && !from.is_empty());
    match state.answer {
        Answer::AtRecipient(said) => said.into(),
        Answer::Greylist if is_new => "451 4.7.1 greylisted, try again later".into(),
        _ => "250 2.1.5 ok".into(),
    }
}

/// The replies to a mail, one for each recipient (RFC 2033, section 4.2); `None` to close without one.
fn at_data(shared: &Shared, mail: &Mail) -> Option<Vec<String>> {
    let mut state = shared.state();
    state.turned += usize::from(matches!(state.answer, Answer::AtData(_) | Answer::Hang) && !mail.from.is_empty());
    match state.answer {
        Answer::AtData(said) => return Some(vec![said.to_owned(); mail.to.len()]),
        Answer::Hang => {
            drop(state);
            while shared.state().answer == Answer::Hang && !shared.over.load(SeqCst) {
                thread::sleep(LOOK_EVERY);
            }
            return None;
        }
        Answer::Plan | Answer::Greylist | Answer::AtRecipient(_) => {}
    }
    let token = mail.token().filter(|_| !mail.from.is_empty());
    let Some(token) = token else { return Some(onward(shared.target, mail)) };
    let lane = mail.to.join(",");
    let mut said = vec!["250 2.0.0 ok".to_owned(); mail.to.len()];
    if let Verdict::Go(leaving) = state.mangler.take(&token, &lane, mail, Instant::now()) {
        for leaving in leaving {
            let own = leaving.token == token;
            let answers = hand_over(&mut state, shared.target, &leaving);
            if own {
                said = answers;
            }
        }
    }
    shared.woken.notify_all();
    Some(said)
}

/// Lets kept mails go when their time has come.
fn keep_time(shared: &Shared) {
    let mut state = shared.state();
    while !shared.over.load(SeqCst) {
        for leaving in state.mangler.due(Instant::now()) {
            hand_over(&mut state, shared.target, &leaving);
        }
        let now = Instant::now();
        let wait = state.mangler.next_due().map_or(Duration::from_secs(1), |due| due.saturating_duration_since(now));
        state = shared.woken.wait_timeout(state, wait).expect("no panic").0;
    }
}

fn hand_over(state: &mut State, target: SocketAddr, leaving: &Leaving<Mail>) -> Vec<String> {
    let answers = onward(target, &leaving.message);
    let refused = answers.iter().filter(|said| !said.starts_with('2'));
    state.failures.extend(refused.map(|said| format!("{}: {said}", leaving.token)));
    if let Some(settle) = &mut state.settle {
        settle();
    }
    answers
}

/// Hands a mail over in a connection of its own; the replies, one for each recipient.
fn onward(target: SocketAddr, mail: &Mail) -> Vec<String> {
    let failed = |error: io::Error| vec![format!("451 4.4.1 {target}: {error}"); mail.to.len()];
    deliver(target, mail).unwrap_or_else(failed)
}

fn deliver(target: SocketAddr, mail: &Mail) -> io::Result<Vec<String>> {
    let mut stream = TcpStream::connect_timeout(&target, ONWARD_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ONWARD_MAX))?;
    stream.set_write_timeout(Some(ONWARD_MAX))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    said(&mut lines)?;
    let mut ask = |command: &str| -> io::Result<String> {
        reply(&mut stream, command)?;
        said(&mut lines)
    };
    ask("LHLO proxy.test")?;
    let from = ask(&format!("MAIL FROM:<{}>", mail.from))?;
    if !from.starts_with('2') {
        return Ok(vec![from; mail.to.len()]);
    }
    let mut answers = Vec::new();
    for to in &mail.to {
        answers.push(ask(&format!("RCPT TO:<{to}>"))?);
    }
    if answers.iter().any(|said| said.starts_with('2')) {
        let go_on = ask("DATA")?;
        if !go_on.starts_with('3') {
            return Ok(vec![go_on; mail.to.len()]);
        }
        stream.write_all(&stuffed(&mail.data))?;
        for answer in answers.iter_mut().filter(|said| said.starts_with('2')) {
            *answer = said(&mut lines)?;
        }
    }
    reply(&mut stream, "QUIT")?;
    Ok(answers)
}

/// A whole reply; of several lines, the last.
fn said(lines: &mut impl BufRead) -> io::Result<String> {
    loop {
        let text = line(lines)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let text = String::from_utf8_lossy(&text).trim_end().to_owned();
        if text.as_bytes().get(3) != Some(&b'-') {
            return Ok(text);
        }
    }
}

fn reply(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(format!("{text}\r\n").as_bytes())
}

/// A line with its end, or `None` after the last.
fn line(lines: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    lines.read_until(b'\n', &mut line)?;
    Ok(Some(line).filter(|line| !line.is_empty()))
}

/// What stands between the angle brackets.
fn address(command: &str) -> String {
    let inner = command.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or_else(String::new, |(address, _)| address.to_owned())
}

/// The mail's data up to the line with a dot, dots undoubled (RFC 5321, section 4.5.2).
fn data(lines: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        match line(lines)?.ok_or(io::ErrorKind::UnexpectedEof)?.as_slice() {
            b".\r\n" => return Ok(data),
            [b'.', rest @ ..] => data.extend(rest),
            whole => data.extend(whole),
        }
    }
}

/// With dots doubled, and the line that ends the data.
fn stuffed(data: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(data.len() + 5);
    for line in data.split_inclusive(|b| *b == b'\n') {
        if line[0] == b'.' {
            stuffed.push(b'.');
        }
        stuffed.extend(line);
    }
    if !data.is_empty() && !stuffed.ends_with(b"\r\n") {
        stuffed.extend(b"\r\n");
    }
    stuffed.extend(b".\r\n");
    stuffed
}

fn decode(body: &[u8], encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Plain => body.to_vec(),
        Encoding::Base64 => {
            let letters: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
            STANDARD.decode(letters).unwrap_or_else(|_| body.to_vec())
        }
        Encoding::QuotedPrintable => {
            let mut text = Vec::new();
            let mut rest = body;
            while let [first, tail @ ..] = rest {
                let hex = || u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok();
                let (byte, taken) = match (first, tail, hex()) {
                    (b'=', [b'\r', b'\n', ..], _) => (None, 2),
                    (b'=', _, Some(byte)) => (Some(byte), 2),
                    _ => (Some(*first), 0),
                };
                text.extend(byte);
                rest = &tail[taken..];
            }
            text
        }
    }
}

fn encode(text: &[u8], encoding: Encoding) -> Vec<u8> {
    // RFC 2045: at most 76 characters in a line, in both encodings.
    const LINE_BYTES_MAX: usize = 76;
    match encoding {
        Encoding::Plain => text.to_vec(),
        Encoding::Base64 => {
            let letters = STANDARD.encode(text);
            letters.as_bytes().chunks(LINE_BYTES_MAX).flat_map(|line| [line, b"\r\n"].concat()).collect()
        }
        Encoding::QuotedPrintable => {
            let mut all = Vec::new();
            for line in text.split_inclusive(|b| *b == b'\n') {
                let (line, end) = line.strip_suffix(b"\r\n").map_or((line, &b""[..]), |line| (line, b"\r\n"));
                let mut width = 0;
                for (at, byte) in line.iter().enumerate() {
                    let last = at + 1 == line.len();
                    let plain = (b'!'..=b'~').contains(byte) && *byte != b'=' || *byte == b' ' && !last;
                    let shown = if plain { vec![*byte] } else { format!("={byte:02X}").into_bytes() };
                    if width + shown.len() >= LINE_BYTES_MAX {
                        all.extend(b"=\r\n");
                        width = 0;
                    }
                    width += shown.len();
                    all.extend(shown);
                }
                all.extend(end);
            }
            all
        }
    }
}

mod tests {
    use super::{
        super::mangler::{judged, tracer},
        *,
    };

    fn mail(encoding: Encoding) -> Mail {
        let payload = String::from_utf8(tracer(3)).expect("a tracer is text").replace('\n', "\r\n");
        let name = match encoding {
            Encoding::Plain => "8bit",
            Encoding::QuotedPrintable => "Quoted-Printable",
            Encoding::Base64 => "base64",
        };
        let header = format!("Subject: x\r\nContent-Transfer-Encoding: {name}\r\n\r\n");
        let data = [header.as_bytes(), &encode(format!("{payload}\r\n").as_bytes(), encoding)].concat();
        Mail { from: "a@example.com".into(), to: vec!["b@example.com".into()], data }
    }

    #[test]
    fn bodies_are_altered_in_every_encoding() {
        for encoding in [Encoding::Plain, Encoding::QuotedPrintable, Encoding::Base64] {
            let mail = mail(encoding);
            assert_eq!(mail.token(), token_in(&tracer(3)), "{encoding:?}");
            for how in [Alteration::Words, Alteration::Normalise, Alteration::QuestionMarks, Alteration::CutEnd] {
                let altered = mail.altered(how).expect("a tracer holds all samples");
                let (header, body, _) = altered.parts();
                assert_eq!(header, mail.parts().0);
                assert_eq!(judged(&decode(body, encoding)), Some((3, how.class())), "{encoding:?} {how:?}");
                let longest = body.split(|b| *b == b'\n').map(<[u8]>::len).max();
                assert!(encoding == Encoding::Plain || longest <= Some(77), "{longest:?}");
            }
        }
    }

    #[test]
    fn dots_are_doubled_and_undoubled() {
        for text in ["", "a\r\n", ".\r\n", "..b\r\n.c\r\n", "a\r\n.\r\nQUIT\r\n"] {
            let stuffed = stuffed(text.as_bytes());
            assert_eq!(data(&mut stuffed.as_slice()).expect("it ends"), text.as_bytes(), "{text:?}");
        }
        assert!(data(&mut &b"cut off\r\n"[..]).is_err());
    }
}
