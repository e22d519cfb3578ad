//! SMTP (RFC 5321): a mail server greets, offers, lets log in, and takes a mail.
//!
//! As a probe, success proves that the server greets, makes the TLS handshake where it is asked to, accepts the login
//! if there is one, and answers; it does not prove that a mail is taken, let alone delivered. Sending proves that a mail
//! is taken for a recipient; with a receiver (`imap`, `pop3`) that it arrives.
//!
//! | step | commands | RFC | phase |
//! |---|---|---|---|
//! | greeting | the server's 220 | 5321, 3.1 | `greeting` |
//! | what is offered | EHLO (HELO where it is unknown) | 5321, 4.1.1.1 | `exchange` |
//! | TLS | STARTTLS, the handshake, EHLO again | 3207 | `exchange`, `tls`, `exchange` |
//! | log in | AUTH | 4954, and `sasl` | `login` |
//! | no-op of the probe | NOOP | 5321, 4.1.1.9 | `exchange` |
//! | send | MAIL (SIZE, BODY, SMTPUTF8, RET, ENVID), RCPT (NOTIFY), DATA, the mail, `.` | 5321, 3.3; 1870, 6152, 6531, 3461 | `send` |
//! | next mail | RSET after one that was not taken | 5321, 4.1.1.5 | `send` |
//! | goodbye | QUIT, whose answer a probe does not wait for | 5321, 4.1.1.10 | `close` |
//!
//! A reply of 5yz to any step of sending is `rejected`, one of 4yz `deferred`; what the server said is the reason, with
//! its enhanced status code (RFC 2034, RFC 3463). A connection that ends, or is silent, once the mail is on its way
//! leaves `uncertain` what has become of it. Of several recipients one that is taken is enough; the others are told.
//!
//! Without encryption no password goes over the wire as it is, but to this machine itself or where `auth:` asks for
//! it. TLS asked for by the URL and not offered is a failure, never a fallback to plain text.
//!
//! What it leaves on the server is the mail in its recipient's mailbox, which a receiver takes away.
//!
//! Bounds: lines of 4 KiB and 100 lines a reply; 16 recipients; payloads of 64 KiB.
//!
//! ```yaml
//! - name: submission
//!   smtp: { url: "smtp+starttls://mx.example.com", username: probe, password: "${env:SMTP_PASSWORD}" }
//! ```

mod dialogue;
#[doc(hidden)]
pub mod fuzz;
mod login;
mod options;
mod reply;
mod transaction;

use std::sync::Arc;

pub use self::{
    dialogue::Dialect,
    options::{RawProbe, RawSend, Server},
};
use self::{
    dialogue::open,
    options::{Envelope, Written},
    transaction::{GOODBYE_MAX, Mailing},
};
use super::{Attempt, Boxed, Carries, Probe, Protocol, SendSession, Sender, mail::compose::LINE_BYTES_MAX};
use crate::{
    observation::{Phase, Reason},
    options::Options,
};

/// The entry of the registry.
pub static SMTP: Protocol = Protocol {
    name: "smtp",
    schemes: &["smtp", "smtp+starttls", "smtps"],
    summary: "SMTP mail servers: greeting, STARTTLS or TLS, login, and sending mail",
    proves: "A probe proves that the server greets, makes the TLS handshake, accepts the login and answers, not that it \
             takes mail. Sending proves that it takes a mail for a recipient; only a delivery with a receiver proves \
             that the mail arrives.",
    example: "\
- name: submission
  smtp: { url: \"smtp+starttls://mx.example.com\", username: probe, password: \"${env:SMTP_PASSWORD}\" }
",
    probe_schema: Some(|g| g.subschema_for::<RawProbe>()),
    send_schema: Some(|g| g.subschema_for::<RawSend>()),
    receive_schema: None,
    probe: Some(|options| Some(Box::new(Server::read(options, Dialect::Smtp)?))),
    send: Some(|options| Some(Box::new(Mailer::read(options, Dialect::Smtp)?))),
    receive: None,
};

/// Longest payload sent: beyond what any tracer needs, far below what mail servers take.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

impl Probe for Server {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
        Box::pin(async move {
            let mut dialogue = open(self, cx).await?;
            cx.phase(Phase::Exchange);
            let reply = dialogue.command(cx, "NOOP").await.map_err(|fault| fault.reason(cx))?;
            if !reply.is_done() {
                return Err(cx.fail(reply.kind(), format!("NOOP refused: {}", reply.text())));
            }
            cx.phase(Phase::Close);
            let _ = tokio::time::timeout(GOODBYE_MAX, dialogue.leave(cx)).await;
            cx.end_phase();
            Ok(())
        })
    }
}

/// Sends mail through a server.
pub struct Mailer {
    server: Server,
    envelope: Arc<Envelope>,
}

impl Mailer {
    /// Reads the options of a sender.
    pub fn read(options: &mut Options<'_>, dialect: Dialect) -> Option<Self> {
        let (server, envelope) = Envelope::read(options, dialect)?;
        Some(Self { server, envelope: Arc::new(envelope) })
    }
}

impl Sender for Mailer {
    fn target(&self) -> String {
        self.server.target.clone()
    }

    fn carries(&self) -> Carries {
        let line_bytes_max = match self.envelope.written {
            Written::Auto | Written::EightBit => LINE_BYTES_MAX,
            Written::QuotedPrintable | Written::Base64 => PAYLOAD_BYTES_MAX,
        };
        Carries { unicode: true, lines: true, line_bytes_max, bytes_max: PAYLOAD_BYTES_MAX }
    }

    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn SendSession>, Reason>> {
        Box::pin(async move {
            let dialogue = open(&self.server, cx).await?;
            Ok(Box::new(Mailing::new(dialogue, self.envelope.clone())) as Box<dyn SendSession>)
        })
    }
}

#[cfg(test)]
mod tests;
