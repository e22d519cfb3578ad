//! `dns`: one question to one name server, and what its answer must be.
//!
//! Success proves that this name server answers this question as expected. It does not prove that others do, nor that
//! what the answer points to works.
//!
//! The dialogue (RFC 1035, 5452, 6891, 7766, 7858): resolve (only if the server is given by name) → connect and tls
//! (only over TCP and TLS) → exchange: one question, with a random id from a random port. Datagrams that carry another
//! id or another question are not the answer and are passed over. An answer that was truncated to fit a datagram is
//! asked for again over TCP, as every client does. There is no retransmission: a lost datagram is a failed attempt.
//!
//! Bounds: one datagram of [`UDP_BYTES_MAX`] bytes announced, 64 KiB over TCP (RFC 1035, section 4.2.2), [`FOREIGN_MAX`]
//! datagrams passed over. Nothing is left on the server.
//!
//! ```yaml
//! dns: { server: "192.0.2.53", name: mail.example.com, type: MX, expect: { contains: ["10 mx.example.com"] } }
//! ```

#[doc(hidden)]
pub mod fuzz;
mod options;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
};

use self::options::{DnsOptions, Over, RCODES, from_url, question, server, wanted};
use crate::{
    clock,
    observation::{Kind, Phase, Reason, one_line},
    options::Options,
    protocol::{
        Attempt, Boxed, Probe, Protocol,
        matcher::SHOWN_CHARS_MAX,
        wire::{Stream, TlsClient, host_and_port},
    },
};

/// Largest datagram announced to the server: one that is not fragmented on the way (DNS flag day 2020).
pub const UDP_BYTES_MAX: u16 = 1_232;

/// Most foreign datagrams passed over in one attempt; more are an attack, and the answer is then not to be trusted.
pub const FOREIGN_MAX: usize = 100;

/// Most CNAMEs followed within one answer: resolvers give up earlier.
const CHAIN_MAX: usize = 16;

/// Most answers that a reason or a detail lists.
const SHOWN_MAX: usize = 6;

/// The registry's entry.
pub static DNS: Protocol = Protocol {
    name: "dns",
    schemes: &["dns"],
    summary: "ask a name server and test its answer",
    proves: "This name server answers this question as expected. It does not prove that other name servers do, nor that \
             what the answer points to works.",
    example: "- name: mx\n  dns: { server: \"192.0.2.53\", name: example.com, type: MX, expect: { contains: [\"10 mx.example.com\"] } }\n",
    probe_schema: Some(|generator| generator.subschema_for::<DnsOptions>()),
    send_schema: None,
    receive_schema: None,
    probe: Some(|options| Some(Box::new(DnsProbe::build(options)?))),
    send: None,
    receive: None,
};

/// A resolved `dns` probe.
struct DnsProbe {
    server: Option<(String, u16)>,
    over: Over,
    question: Query,
    tls: TlsClient,
    wanted: Wanted,
}

/// What the answer must be, resolved.
#[derive(Clone, Debug)]
struct Wanted {
    rcode: ResponseCode,
    contains: Vec<String>,
    equals: Option<Vec<String>>,
    at_least: usize,
}

impl DnsProbe {
    fn build(options: &mut Options<'_>) -> Option<Self> {
        let mut raw: DnsOptions = options.read()?;
        if let Some(url) = raw.url.take() {
            from_url(options, &url, &mut raw)?;
        }
        let server = server(options, raw.server.as_deref(), raw.over);
        let question = question(options, raw.name.as_deref(), raw.record.as_deref());
        let tls = raw.tls.client(&mut options.child("tls"), &[]);
        let wanted = wanted(options, raw.expect);
        Some(Self { server: server?, over: raw.over, question: question?, tls: tls?, wanted: wanted? })
    }

    async fn attempt(&self, cx: &mut Attempt) -> Result<(), Reason> {
        let (host, port) = match &self.server {
            Some(server) => server.clone(),
            None => {
                let first = cx.net().resolver().servers().first().copied();
                let first = first.ok_or_else(|| cx.fail(Kind::Own, "the system has no name server to ask"))?;
                (first.ip().to_string(), first.port())
            }
        };
        let id = u16::from_le_bytes(clock::random_bytes());
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.question.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        message.set_edns(edns);
        let bytes = message.to_vec().map_err(|e| cx.fail(Kind::Own, format!("the question cannot be written: {e}")))?;
        let asked =
            format!("{} {} to {}", shown(&self.question.name), self.question.query_type, host_and_port(&host, port));
        let answer = match self.over {
            Over::Udp => {
                let addresses = cx.resolve(&host).await?;
                let (answer, ip) = self.by_udp_to_any(cx, &addresses, port, &bytes, id, &asked).await?;
                if answer.metadata.truncation {
                    cx.note("the answer is truncated; asking again over TCP");
                    cx.detail("truncated", true);
                    let stream = cx.connect(&ip.to_string(), port).await?;
                    self.by_stream(cx, stream, &bytes, id, &asked).await?
                } else {
                    answer
                }
            }
            Over::Tcp | Over::Tls => {
                let mut stream = cx.connect(&host, port).await?;
                if self.over == Over::Tls {
                    stream = cx.tls(stream, &self.tls, &host).await?;
                }
                self.by_stream(cx, stream, &bytes, id, &asked).await?
            }
        };
        cx.end_phase();
        let evidence = Evidence::of(&answer, &self.question);
        cx.detail("rcode", rcode_text(evidence.rcode));
        cx.detail("answers", evidence.listed());
        cx.received(format!("{} {}", rcode_text(evidence.rcode), evidence.listed()));
        judge(&self.wanted, &evidence).map_err(|text| cx.fail(Kind::Unexpected, text))
    }

    /// Asks the first of the server's addresses that there is a way to.
    async fn by_udp_to_any(
        &self,
        cx: &mut Attempt,
        addresses: &[IpAddr],
        port: u16,
        question: &[u8],
        id: u16,
        asked: &str,
    ) -> Result<(Message, IpAddr), Reason> {
        let mut failure = cx.fail(Kind::NoAddress, "the name server has no address");
        for ip in addresses {
            match self.by_udp(cx, SocketAddr::new(*ip, port), question, id, asked).await {
                Ok(answer) => return Ok((answer, *ip)),
                Err(reason) if reason.kind == Kind::Unreachable => failure = reason,
                Err(reason) => return Err(reason),
            }
        }
        Err(failure)
    }

    async fn by_udp(
        &self,
        cx: &mut Attempt,
        server: SocketAddr,
        question: &[u8],
        id: u16,
        asked: &str,
    ) -> Result<Message, Reason> {
        cx.phase(Phase::Exchange);
        cx.set_address(server);
        cx.sent(format!("{asked}, by UDP"));
        let local: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // The kernel picks a random port and, once connected, drops what comes from anybody else.
        let socket = UdpSocket::bind((local, 0)).await.map_err(|e| cx.io(&e))?;
        socket.connect(server).await.map_err(|e| cx.io(&e))?;
        socket.send(question).await.map_err(|e| cx.io(&e))?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        let mut last = String::new();
        for _ in 0..FOREIGN_MAX {
            let read = socket.recv(&mut buffer).await.map_err(|e| cx.io(&e))?;
            match self.fitting(&buffer[..read], id) {
                Ok(answer) => return Ok(answer),
                Err(why) => {
                    cx.note(format!("a datagram is passed over: {why}"));
                    cx.awaits(format!("what came was not the answer: {why}"));
                    last = why;
                }
            }
        }
        Err(cx.fail(Kind::Protocol, format!("{FOREIGN_MAX} datagrams came and none was the answer: {last}")))
    }

    /// Over TCP and TLS, each message follows its length in two bytes (RFC 1035, section 4.2.2).
    async fn by_stream(
        &self,
        cx: &mut Attempt,
        mut stream: Stream,
        question: &[u8],
        id: u16,
        asked: &str,
    ) -> Result<Message, Reason> {
        cx.phase(Phase::Exchange);
        cx.sent(format!("{asked}, by {}", if self.over == Over::Tls { "TLS" } else { "TCP" }));
        let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
        let framed = [&length.to_be_bytes()[..], question].concat();
        stream.write_all(&framed).await.map_err(|e| cx.io(&e))?;
        stream.flush().await.map_err(|e| cx.io(&e))?;
        let mut length = [0; 2];
        stream.read_exact(&mut length).await.map_err(|e| cx.io(&e))?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).await.map_err(|e| cx.io(&e))?;
        self.fitting(&answer, id).map_err(|why| cx.fail(Kind::Protocol, format!("not a proper answer: {why}")))
    }

    fn fitting(&self, bytes: &[u8], id: u16) -> Result<Message, String> {
        fits(&self.question, bytes, id)
    }
}

impl Probe for DnsProbe {
    fn target(&self) -> String {
        let server = self.server.as_ref().map_or(String::new(), |(host, port)| host_and_port(host, *port));
        format!("dns://{server}/{}?type={}", shown(&self.question.name), self.question.query_type)
    }

    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
        Box::pin(self.attempt(cx))
    }
}

/// The answer, if these bytes are the answer to this question (RFC 5452, section 9.1).
fn fits(question: &Query, bytes: &[u8], id: u16) -> Result<Message, String> {
    let message = Message::from_vec(bytes).map_err(|e| format!("it cannot be read ({e})"))?;
    if message.metadata.id != id {
        return Err("it carries another id".into());
    }
    if message.metadata.message_type != MessageType::Response {
        return Err("it is no response".into());
    }
    // A server that could not even read the question may leave it out.
    let failed = message.metadata.response_code != ResponseCode::NoError;
    match &message.queries[..] {
        [query] if query.query_type == question.query_type && query.name == question.name => Ok(message),
        [] if failed => Ok(message),
        _ => Err("it answers another question".into()),
    }
}

/// A name without its final dot; the root is the dot.
fn shown(name: &Name) -> String {
    let text = name.to_utf8();
    if name.is_root() { ".".into() } else { text.strip_suffix('.').map_or(text.clone(), Into::into) }
}

fn rcode_text(code: ResponseCode) -> String {
    let known = RCODES.iter().find(|(_, known)| *known == code);
    known.map_or_else(|| format!("rcode {}", u16::from(code)), |(word, _)| (*word).to_owned())
}

/// What an answer holds.
#[derive(Clone, Debug)]
struct Evidence {
    rcode: ResponseCode,
    /// The records of the type asked for; the CNAMEs on the way to them are left out.
    answers: Vec<String>,
}

impl Evidence {
    fn of(answer: &Message, question: &Query) -> Self {
        let asked = question.query_type;
        let names = chain(answer, question);
        let fits = |found: RecordType| found == asked || asked == RecordType::ANY;
        // A record of any other name answers another question (RFC 2181, section 5.4.1).
        let records = answer.answers.iter().filter(|r| fits(r.data.record_type()) && names.contains(&&r.name));
        let answers = records.map(|record| record.data.to_string()).collect();
        Self { rcode: answer.metadata.response_code, answers }
    }

    fn listed(&self) -> String {
        listed(&self.answers)
    }
}

/// The name asked for and those its CNAMEs lead to, in whatever order they stand (RFC 1034, section 3.6.2).
fn chain<'a>(answer: &'a Message, question: &'a Query) -> Vec<&'a Name> {
    let mut names = vec![&question.name];
    if question.query_type == RecordType::CNAME {
        return names;
    }
    while names.len() <= CHAIN_MAX {
        let next = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if names.last() == Some(&&record.name) => Some(&target.0),
            _ => None,
        });
        match next {
            Some(name) if !names.contains(&name) => names.push(name),
            _ => break,
        }
    }
    names
}

fn listed(answers: &[String]) -> String {
    let mut list: Vec<String> = answers.iter().take(SHOWN_MAX).map(|a| one_line(a, SHOWN_CHARS_MAX)).collect();
    if answers.len() > SHOWN_MAX {
        list.push(format!("{} more", answers.len() - SHOWN_MAX));
    }
    if list.is_empty() { "no records".into() } else { list.join(", ") }
}

/// Records in one spelling: no quotes, no final dots, names in lower case, addresses as they are usually written.
fn normal(record: &str) -> String {
    if let Ok(address) = record.trim().parse::<IpAddr>() {
        return address.to_string();
    }
    let words = record.split_whitespace().map(|word| word.trim_matches('"').trim_end_matches('.').to_lowercase());
    words.collect::<Vec<_>>().join(" ")
}

fn judge(wanted: &Wanted, evidence: &Evidence) -> Result<(), String> {
    if evidence.rcode != wanted.rcode {
        return Err(format!("{}, expected {}", rcode_text(evidence.rcode), rcode_text(wanted.rcode)));
    }
    let found: Vec<String> = evidence.answers.iter().map(|a| normal(a)).collect();
    if let Some(missing) = wanted.contains.iter().find(|record| !found.contains(&normal(record))) {
        return Err(format!("{}, expected {missing} among them", evidence.listed()));
    }
    if let Some(all) = &wanted.equals {
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list.dedup();
            list
        };
        if sorted(found) != sorted(all.iter().map(|record| normal(record)).collect()) {
            return Err(format!("{}, expected {}", evidence.listed(), listed(all)));
        }
    }
    if evidence.answers.len() < wanted.at_least {
        return Err(format!("{}, expected at least {}", evidence.listed(), wanted.at_least));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
