//! The dialogue that SMTP and LMTP share: commands, replies, and the way to a session that can send.
//!
//! Every wait may be dropped: a reply that was not waited for is `owed`, and read before the next one.

use super::{
    login::log_in,
    options::Server,
    reply::{Breach, Extensions, Partial, REPLY_LINE_BYTES_MAX, Reply},
};
use crate::{
    observation::{Kind, Phase, Reason},
    protocol::{
        Attempt,
        lines::{Broken, Lines},
        wire::Stream,
    },
};

/// Which of the two is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// RFC 5321.
    Smtp,
    /// RFC 2033.
    Lmtp,
}

impl Dialect {
    /// What names of details begin with.
    pub fn word(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Lmtp => "lmtp",
        }
    }

    fn hello(self) -> &'static str {
        match self {
            Self::Smtp => "EHLO",
            Self::Lmtp => "LHLO",
        }
    }
}

/// Why a dialogue is over.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The stream ended or failed.
    Broken(Broken),
    /// The server broke the protocol.
    Breach(Breach),
}

impl Fault {
    /// As a reason at the current phase.
    pub fn reason(&self, cx: &Attempt) -> Reason {
        match self {
            Self::Broken(broken) => broken.reason(cx),
            Self::Breach(breach) => cx.fail(breach.kind, &breach.text),
        }
    }

    /// As a reason for someone who waits outside of an attempt.
    pub fn at(&self, phase: Phase) -> Reason {
        match self {
            Self::Broken(broken) => broken.at(phase),
            Self::Breach(breach) => Reason::new(phase, breach.kind, &breach.text),
        }
    }
}

/// A connection on which commands are answered by replies.
pub struct Dialogue {
    /// Which of the two is spoken.
    pub dialect: Dialect,
    /// What the server offers.
    pub extensions: Extensions,
    /// Whether TLS protects the connection.
    pub encrypted: bool,
    /// The stream; a mail is written to it as it is.
    pub lines: Lines,
    partial: Partial,
    /// Replies that are still to come.
    owed: usize,
    fault: Option<Breach>,
}

impl Dialogue {
    /// Over a fresh stream; the server's greeting is awaited.
    pub fn new(stream: Stream, dialect: Dialect, encrypted: bool) -> Self {
        Self::over(Lines::new(stream, REPLY_LINE_BYTES_MAX), dialect, encrypted, 1)
    }

    fn over(lines: Lines, dialect: Dialect, encrypted: bool, owed: usize) -> Self {
        let (extensions, partial) = (Extensions::default(), Partial::default());
        Self { dialect, extensions, encrypted, lines, partial, owed, fault: None }
    }

    /// How many replies are still to come.
    pub fn owed(&self) -> usize {
        self.owed
    }

    /// Queues a command, or whatever is answered by so many replies.
    pub fn ask(&mut self, bytes: &[u8], replies: usize) {
        self.lines.push(bytes);
        self.owed += replies;
    }

    /// The next reply, whatever it answers. A fault stays: the dialogue is over.
    ///
    /// # Errors
    /// When the stream ends, or what comes is no reply.
    pub async fn next_reply(&mut self) -> Result<Reply, Fault> {
        if let Some(breach) = &self.fault {
            return Err(Fault::Breach(breach.clone()));
        }
        loop {
            let line = self.lines.line().await.map_err(Fault::Broken)?;
            match self.partial.feed(&line) {
                Ok(None) => {}
                Ok(Some(reply)) => {
                    self.owed = self.owed.saturating_sub(1);
                    return Ok(reply);
                }
                Err(breach) => {
                    self.fault = Some(breach.clone());
                    return Err(Fault::Breach(breach));
                }
            }
        }
    }

    /// The next reply, into the transcript.
    ///
    /// # Errors
    /// As [`Dialogue::next_reply`].
    pub async fn heard(&mut self, cx: &mut Attempt) -> Result<Reply, Fault> {
        let reply = self.next_reply().await?;
        for line in &reply.lines {
            cx.received(format!("{} {line}", reply.code));
        }
        Ok(reply)
    }

    /// Says a command, and hears the reply to it.
    ///
    /// # Errors
    /// As [`Dialogue::next_reply`].
    pub async fn command(&mut self, cx: &mut Attempt, line: &str) -> Result<Reply, Fault> {
        self.say(cx, line, line).await?;
        self.heard(cx).await
    }

    /// The same for credentials: neither they nor the challenge are in the transcript.
    ///
    /// # Errors
    /// As [`Dialogue::next_reply`].
    pub async fn command_hidden(&mut self, cx: &mut Attempt, line: &str, shown: &str) -> Result<Reply, Fault> {
        self.say(cx, line, shown).await?;
        let reply = self.next_reply().await?;
        cx.received(if reply.code == 334 { "334 (challenge)".into() } else { reply.text() });
        Ok(reply)
    }

    async fn say(&mut self, cx: &mut Attempt, line: &str, shown: &str) -> Result<(), Fault> {
        let verb = shown.split([' ', ':']).next().unwrap_or_default();
        // The steps of a login after its first have no name.
        let verb = if verb.starts_with('(') { "the latest step of AUTH" } else { verb };
        cx.awaits(format!("{verb} was not answered"));
        while self.owed > 0 {
            self.next_reply().await?;
        }
        cx.sent(shown);
        self.ask(format!("{line}\r\n").as_bytes(), 1);
        Ok(())
    }

    /// What the server offers: EHLO, and HELO where EHLO is unknown; LHLO in LMTP.
    async fn hello(&mut self, cx: &mut Attempt, name: &str) -> Result<(), Reason> {
        let verb = self.dialect.hello();
        let mut reply = self.command(cx, &format!("{verb} {name}")).await.map_err(|fault| fault.reason(cx))?;
        // RFC 5321, section 3.2: a server that does not know it may know HELO. Which code it says so by differs.
        let unknown = reply.code / 100 == 5 && self.dialect == Dialect::Smtp;
        if unknown {
            cx.note("EHLO refused; trying HELO");
            reply = self.command(cx, &format!("HELO {name}")).await.map_err(|fault| fault.reason(cx))?;
        }
        if !reply.is_done() {
            let verb = if unknown { "HELO" } else { verb };
            return Err(cx.fail(reply.kind(), format!("{verb} {name} refused: {}", reply.text())));
        }
        self.extensions = if unknown { Extensions::default() } else { Extensions::read(&reply) };
        Ok(())
    }

    /// Tells what the server offers.
    fn tell(&self, cx: &mut Attempt) {
        let word = self.dialect.word();
        cx.detail(&format!("{word}_extensions"), self.extensions.told());
        if let Some(size) = self.extensions.size_bytes_max {
            cx.detail(&format!("{word}_size_bytes_max"), size);
        }
        if !self.extensions.auth.is_empty() {
            cx.detail(&format!("{word}_auth"), self.extensions.auth.join(" "));
        }
    }

    /// Says goodbye without waiting for the answer, which would count as the service's time: a server may keep it back
    /// for a while (exim: 200 ms), as nothing depends on it. The caller bounds the wait for the network.
    pub async fn leave(&mut self, cx: &mut Attempt) {
        if self.say(cx, "QUIT", "QUIT").await.is_ok() {
            self.lines.shut().await;
        }
    }

    /// Says goodbye and waits for the answer; the caller bounds the wait.
    pub async fn quit(&mut self, cx: &mut Attempt) {
        if self.command(cx, "QUIT").await.is_ok() {
            self.lines.shut().await;
        }
    }
}

/// Connects, greets, begins TLS if the server's options want it by command, and logs in if they name a login.
///
/// # Errors
/// Where it broke, and why.
pub async fn open(server: &Server, cx: &mut Attempt) -> Result<Dialogue, Reason> {
    let stream = cx.dial(&server.endpoint).await?;
    let mut dialogue = Dialogue::new(stream, server.dialect, server.endpoint.tls.is_some());
    cx.phase(Phase::Greeting);
    let greeting = dialogue.heard(cx).await.map_err(|fault| fault.reason(cx))?;
    if greeting.code != 220 {
        return Err(cx.fail(greeting.kind(), format!("the server does not serve: {}", greeting.text())));
    }
    cx.detail(&format!("{}_greeting", server.dialect.word()), &*greeting.lines[0]);
    cx.phase(Phase::Exchange);
    dialogue.hello(cx, &server.hello).await?;
    if let Some(tls) = &server.starttls {
        if !dialogue.extensions.offers("STARTTLS") {
            cx.phase(Phase::Tls);
            let text = format!("the server does not offer STARTTLS; it offers {}", dialogue.extensions.told());
            return Err(cx.fail(Kind::Unexpected, text));
        }
        let reply = dialogue.command(cx, "STARTTLS").await.map_err(|fault| fault.reason(cx))?;
        if reply.code != 220 {
            cx.phase(Phase::Tls);
            return Err(cx.fail(reply.kind(), format!("STARTTLS refused: {}", reply.text())));
        }
        let lines = dialogue.lines.start_tls(cx, tls, &server.endpoint.host).await?;
        // What was said before TLS must be forgotten (RFC 3207, section 4.2).
        dialogue = Dialogue::over(lines, server.dialect, true, 0);
        cx.phase(Phase::Exchange);
        dialogue.hello(cx, &server.hello).await?;
    }
    dialogue.tell(cx);
    if let Some(login) = &server.login {
        log_in(&mut dialogue, cx, login).await?;
    }
    cx.end_phase();
    Ok(dialogue)
}
