//! One mail after another over a session: MAIL, RCPT, DATA (RFC 5321, section 3.3), and what its end means.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    dialogue::{Dialect, Dialogue, Fault},
    options::Envelope,
    reply::Reply,
};
use crate::{
    clock,
    observation::{Accept, Kind, Phase, Reason},
    protocol::{
        Attempt, Boxed, SendFailure, SendSession,
        mail::compose::{self, Encoding, Letter},
    },
    value::TimeSpan,
};

/// Longest silence before a NOOP. Servers wait five minutes for a command (RFC 5321, section 4.5.3.2.7), and count
/// commands that do nothing.
const NOOP_EVERY: Duration = Duration::from_secs(120);

/// Longest wait for the answer to such a NOOP.
const NOOP_ANSWER_MAX: Duration = Duration::from_secs(30);

/// Longest wait for the answer to QUIT: it says nothing about the service any more.
pub const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// An open session that sends.
pub struct Mailing {
    dialogue: Dialogue,
    envelope: Arc<Envelope>,
    /// Where in the stream the latest mail begins.
    content_at: Option<u64>,
    /// A transaction has been begun that the next one must not find.
    begun: bool,
    /// From DATA until its last reply: dropped within, the session is of no use any more.
    within_data: bool,
    left_out: Vec<String>,
    /// When something was last said.
    spoken_at: Instant,
}

impl Mailing {
    /// Over a session that is greeted and logged in.
    pub fn new(dialogue: Dialogue, envelope: Arc<Envelope>) -> Self {
        let spoken_at = clock::instant();
        let (begun, within_data) = (false, false);
        Self { dialogue, envelope, content_at: None, begun, within_data, left_out: Vec::new(), spoken_at }
    }

    async fn mail(&mut self, cx: &mut Attempt, payload: &[u8]) -> Result<(), SendFailure> {
        self.content_at = None;
        self.left_out.clear();
        if self.within_data {
            let reason = cx.fail(Kind::Closed, "the session was left in the middle of a mail");
            return Err(SendFailure { accept: Accept::Unreachable, reason });
        }
        let id = compose::id(payload, clock::random_seed());
        let mail = self.compose(cx, payload, &id)?;
        if self.begun {
            self.expect(cx, "RSET", Reply::is_done).await?;
        }
        self.begun = true;
        let from = self.mail_command(&mail, &id);
        self.expect(cx, &from, Reply::is_done).await?;
        let taken = self.recipients(cx).await?;
        self.within_data = true;
        let goes_on = self.expect(cx, "DATA", |reply| reply.code == 354).await;
        if let Err(failure) = goes_on {
            self.within_data = false;
            return Err(failure);
        }
        self.content(cx, &mail, taken).await
    }

    /// Composes the mail as the server can take it.
    fn compose(&mut self, cx: &mut Attempt, payload: &[u8], id: &str) -> Result<Vec<u8>, SendFailure> {
        let (envelope, offered) = (&self.envelope, &self.dialogue.extensions);
        let refused = |text: String, cx: &Attempt| {
            Err(SendFailure { accept: Accept::Rejected, reason: cx.fail(Kind::Rejected, text) })
        };
        let eight_bit = offered.offers("8BITMIME");
        let by_default = if eight_bit { Encoding::EightBit } else { Encoding::QuotedPrintable };
        let encoding = envelope.written.fixed().unwrap_or(by_default);
        if encoding == Encoding::EightBit && !eight_bit {
            return refused("the server does not offer 8BITMIME, and `encoding: 8bit` was asked for".into(), cx);
        }
        let utf8 = offered.offers("SMTPUTF8");
        let ascii = envelope.from.is_ascii() && envelope.to.iter().all(|to| to.is_ascii());
        if !ascii && !utf8 {
            return refused("the server does not offer SMTPUTF8, which an address beyond ASCII needs".into(), cx);
        }
        let raw_header = envelope.smtputf8 && utf8 && eight_bit;
        let letter =
            Letter { from: &envelope.from, to: &envelope.to, at: clock::now(), id, encoding, raw_header, payload };
        let mail = letter.compose();
        if let Some(max) = offered.size_bytes_max.filter(|max| mail.len() as u64 > *max) {
            return refused(format!("the server takes mails of up to {max} bytes; this one has {}", mail.len()), cx);
        }
        if envelope.smtputf8 && !raw_header {
            self.left_out.push("header-8bit".into());
        }
        if envelope.dsn.is_some() && !offered.offers("DSN") {
            self.left_out.push("dsn".into());
        }
        self.detail(cx, "encoding", encoding.word());
        Ok(mail)
    }

    fn mail_command(&self, mail: &[u8], id: &str) -> String {
        let (envelope, offered) = (&self.envelope, &self.dialogue.extensions);
        let mut command = format!("MAIL FROM:<{}>", envelope.from);
        if offered.offers("SIZE") {
            command.push_str(&format!(" SIZE={}", mail.len()));
        }
        if !mail.is_ascii() && offered.offers("8BITMIME") {
            command.push_str(" BODY=8BITMIME");
        }
        if envelope.smtputf8 && offered.offers("SMTPUTF8") {
            command.push_str(" SMTPUTF8");
        }
        if let Some((parameters, _)) = envelope.dsn.as_ref().filter(|_| offered.offers("DSN")) {
            // Letters, digits, `.`, `-` and `_` need no xtext (RFC 3461, section 4).
            command.push_str(&format!("{parameters} ENVID={id}"));
        }
        command
    }

    /// RCPT for each; gives those the server takes, and fails when there are none.
    async fn recipients(&mut self, cx: &mut Attempt) -> Result<Vec<String>, SendFailure> {
        let envelope = self.envelope.clone();
        let dsn = envelope.dsn.as_ref().filter(|_| self.dialogue.extensions.offers("DSN"));
        let parameters = dsn.map_or("", |(_, parameters)| parameters);
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        for to in &envelope.to {
            let reply = self.command(cx, &format!("RCPT TO:<{to}>{parameters}")).await?;
            if reply.is_done() {
                taken.push(to.clone());
            } else {
                refused.push((to.clone(), reply));
            }
        }
        self.judge(cx, &taken, &refused)?;
        Ok(taken)
    }

    /// The mail itself, and the server's word on it: one, or in LMTP one for each recipient taken (RFC 2033, section
    /// 4.2).
    async fn content(&mut self, cx: &mut Attempt, mail: &[u8], to: Vec<String>) -> Result<(), SendFailure> {
        let replies = if self.dialogue.dialect == Dialect::Lmtp { to.len() } else { 1 };
        let begin = self.dialogue.lines.position();
        self.content_at = Some(begin);
        cx.awaits("the mail was sent, the server's word on it is missing");
        cx.sent(format!("(the mail, {} bytes)", mail.len()));
        cx.sent(".");
        self.dialogue.ask(&stuffed(mail), replies);
        let end = self.dialogue.lines.position();
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        let mut said = String::new();
        for to in to.into_iter().take(replies) {
            let reply = match self.dialogue.heard(cx).await {
                Ok(reply) => reply,
                Err(fault) => return Err(self.broken(cx, &fault)),
            };
            if reply.is_done() {
                said = reply.text();
                taken.push(to);
            } else {
                refused.push((to, reply));
            }
        }
        self.spoken_at = clock::instant();
        // Who answers before it has read everything would take the rest of the mail for commands.
        self.within_data = !self.dialogue.lines.is_written_beyond(end - 1);
        self.begun = !refused.is_empty();
        self.judge(cx, &taken, &refused)?;
        self.detail(cx, "accepted", said.as_str());
        Ok(())
    }

    /// Whether anybody is left to get the mail; who is not is told.
    fn judge(&self, cx: &mut Attempt, taken: &[String], refused: &[(String, Reply)]) -> Result<(), SendFailure> {
        let several = self.envelope.to.len() > 1;
        let shown = |(to, reply): &(String, Reply)| {
            if several { format!("{to}: {}", reply.text()) } else { reply.text() }
        };
        if !refused.is_empty() && several {
            let all: Vec<String> = refused.iter().map(shown).collect();
            self.detail(cx, "refused", all.join("; "));
        }
        // One that is deferred may get it later: the others' refusal is not the whole story.
        let worst = refused.iter().find(|(_, reply)| reply.is_transient()).or(refused.first());
        match worst {
            Some(refusal) if taken.is_empty() => {
                Err(self.refusal(cx, &refusal.1, &format!("mail refused: {}", shown(refusal))))
            }
            _ => Ok(()),
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // Commands and their failures

    async fn command(&mut self, cx: &mut Attempt, line: &str) -> Result<Reply, SendFailure> {
        self.spoken_at = clock::instant();
        match self.dialogue.command(cx, line).await {
            Ok(reply) => Ok(reply),
            Err(fault) => Err(self.broken(cx, &fault)),
        }
    }

    async fn expect(&mut self, cx: &mut Attempt, line: &str, good: fn(&Reply) -> bool) -> Result<(), SendFailure> {
        let reply = self.command(cx, line).await?;
        if good(&reply) {
            return Ok(());
        }
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        Err(self.refusal(cx, &reply, &format!("{verb} refused: {}", reply.text())))
    }

    /// What a reply means that is not the one hoped for.
    fn refusal(&self, cx: &Attempt, reply: &Reply, text: &str) -> SendFailure {
        let accept = match reply.kind() {
            Kind::Deferred => Accept::Deferred,
            Kind::Rejected => Accept::Rejected,
            // Neither yes nor no: what has become of the mail is unknown once it is with the server.
            _ if self.message_left() => Accept::Uncertain,
            _ => Accept::Unreachable,
        };
        SendFailure { accept, reason: cx.fail(reply.kind(), text) }
    }

    /// What the end of the dialogue means.
    fn broken(&self, cx: &Attempt, fault: &Fault) -> SendFailure {
        let reason = fault.reason(cx);
        if !self.message_left() {
            return SendFailure { accept: Accept::Unreachable, reason };
        }
        let text = format!("{} before it acknowledged the mail", reason.text);
        SendFailure { accept: Accept::Uncertain, reason: Reason::new(reason.phase, reason.kind, text) }
    }

    fn detail(&self, cx: &mut Attempt, name: &str, value: impl Into<serde_json::Value>) {
        cx.detail(&format!("{}_{name}", self.dialogue.dialect.word()), value);
    }
}

impl SendSession for Mailing {
    fn send<'a>(&'a mut self, cx: &'a mut Attempt, payload: &'a [u8]) -> Boxed<'a, Result<(), SendFailure>> {
        Box::pin(async move {
            cx.phase(Phase::Send);
            self.mail(cx, payload).await?;
            cx.end_phase();
            Ok(())
        })
    }

    fn message_left(&self) -> bool {
        self.content_at.is_some_and(|begin| self.dialogue.lines.is_written_beyond(begin))
    }

    fn left_out(&self) -> Vec<String> {
        self.left_out.clone()
    }

    fn idle<'a>(&'a mut self) -> Boxed<'a, Reason> {
        Box::pin(async move {
            loop {
                let asked = self.dialogue.owed() > 0;
                let due = self.spoken_at + if asked { NOOP_ANSWER_MAX } else { NOOP_EVERY };
                match tokio::time::timeout_at(due.into(), self.dialogue.next_reply()).await {
                    // RFC 5321, section 3.8: a server that shuts down says so unasked.
                    Ok(Ok(reply)) if reply.code == 421 => {
                        let text = format!("the server ends the session: {}", reply.text());
                        return Reason::new(Phase::Send, Kind::Closed, text);
                    }
                    Ok(Ok(reply)) if !asked => {
                        let text = format!("the server says what it was not asked: {}", reply.text());
                        return Reason::new(Phase::Send, Kind::Protocol, text);
                    }
                    // Whatever it says of NOOP: it is there.
                    Ok(Ok(_)) => {}
                    Ok(Err(fault)) => return fault.at(Phase::Send),
                    Err(_) if asked => {
                        let text = format!("NOOP was not answered within {}", TimeSpan(NOOP_ANSWER_MAX));
                        return Reason::new(Phase::Send, Kind::Timeout, text);
                    }
                    Err(_) => {
                        self.dialogue.ask(b"NOOP\r\n", 1);
                        self.spoken_at = clock::instant();
                    }
                }
            }
        })
    }

    fn close<'a>(mut self: Box<Self>, cx: &'a mut Attempt) -> Boxed<'a, ()> {
        Box::pin(async move {
            cx.phase(Phase::Close);
            if !self.within_data {
                let _ = tokio::time::timeout(GOODBYE_MAX, self.dialogue.quit(cx)).await;
            }
            cx.end_phase();
        })
    }
}

/// As DATA carries it: a dot before each line that begins with one, and the line that ends the mail (RFC 5321, section
/// 4.5.2). The mail's lines end with CRLF.
fn stuffed(mail: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(mail.len() + mail.len() / 64 + 3);
    for line in mail.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            data.push(b'.');
        }
        data.extend_from_slice(line);
    }
    data.extend_from_slice(b".\r\n");
    data
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::protocol::smtp::options::Written;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
    }

    /// A session whose last word was so long ago, and its peer.
    async fn idle_for(silence: Duration) -> (Mailing, DuplexStream) {
        let (near, mut far) = duplex(1_024);
        let mut dialogue = Dialogue::new(Box::new(near), Dialect::Smtp, false);
        far.write_all(b"220 hi\r\n").await.expect("room");
        assert_eq!(dialogue.next_reply().await.expect("a greeting").code, 220);
        let (from, to) = ("a@x.example".into(), vec!["b@x.example".into()]);
        let envelope = Envelope { from, to, dsn: None, written: Written::Auto, smtputf8: false };
        let mut mailing = Mailing::new(dialogue, Arc::new(envelope));
        mailing.spoken_at = clock::instant().checked_sub(silence).expect("the machine runs for some minutes");
        (mailing, far)
    }

    #[test]
    fn an_idle_session_is_kept_alive_and_its_end_noticed() {
        let short = Duration::from_millis(50);
        block_on(async {
            let (mut mailing, mut far) = idle_for(NOOP_EVERY).await;
            assert!(tokio::time::timeout(short, mailing.idle()).await.is_err(), "it waits for the answer");
            let mut heard = [0; 6];
            far.read_exact(&mut heard).await.expect("a command");
            assert_eq!(&heard, b"NOOP\r\n");
            // Dropped and asked anew, it does not ask the server again.
            assert!(tokio::time::timeout(short, mailing.idle()).await.is_err());
            far.write_all(b"250 Ok\r\n").await.expect("room");
            assert!(tokio::time::timeout(short, mailing.idle()).await.is_err());
            assert_eq!(mailing.dialogue.owed(), 0);
            far.write_all(b"421 4.4.2 timeout\r\n").await.expect("room");
            let reason = mailing.idle().await;
            assert_eq!(reason.kind, Kind::Closed);
            assert_eq!(reason.text, "the server ends the session: 421 4.4.2 timeout");
        });
        block_on(async {
            let (mut mailing, mut far) = idle_for(Duration::ZERO).await;
            far.write_all(b"250 what?\r\n").await.expect("room");
            assert_eq!(mailing.idle().await.kind, Kind::Protocol);
        });
        block_on(async {
            let (mut mailing, far) = idle_for(Duration::ZERO).await;
            drop(far);
            assert_eq!(mailing.idle().await.kind, Kind::Closed);
        });
        block_on(async {
            let (mut mailing, _far) = idle_for(NOOP_ANSWER_MAX).await;
            mailing.dialogue.ask(b"NOOP\r\n", 1);
            let reason = mailing.idle().await;
            assert_eq!((reason.kind, reason.text.as_str()), (Kind::Timeout, "NOOP was not answered within 30s"));
        });
    }

    #[test]
    fn dots_are_doubled_at_the_start_of_lines() {
        let table = [
            ("", ".\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("..a.\r\nb.\r\n\r\n.c\r\n", "...a.\r\nb.\r\n\r\n..c\r\n.\r\n"),
        ];
        for (mail, data) in table {
            assert_eq!(String::from_utf8_lossy(&stuffed(mail.as_bytes())), data, "{mail:?}");
        }
    }
}
