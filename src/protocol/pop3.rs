//! POP3 (RFC 1939): the maildrop as its owner's program sees it.
//!
//! As a probe, success proves that a user gets in and that the maildrop can be opened. It does not prove that mail
//! arrives there. As the receiving side of a delivery it proves that a mail lies in the maildrop, with the text that was
//! sent.
//!
//! | step | commands | RFC | phase |
//! |---|---|---|---|
//! | greeting | +OK, CAPA | 1939 section 4, 2449 | `greeting` |
//! | TLS of `pop3+starttls` | STLS | 2595 section 4 | `tls` |
//! | log in | AUTH, or USER and PASS, or APOP where the connection is not encrypted | 5034, 1939 section 7 | `login` |
//! | no-op of the probe | STAT | 1939 section 5 | `exchange` |
//! | listen | LIST, UIDL, QUIT | 1939 sections 5 and 7 | `exchange` |
//! | wait | a new login at each poll, then what is new by RETR | 1939 section 5 | `deliver` |
//! | take off | DELE, done by QUIT | 1939 section 6 | – |
//! | goodbye | QUIT, whose answer a probe does not wait for | 1939 section 6 | `close` |
//!
//! A login sees the maildrop as it was when it began, so new mails need new logins; `poll` is their pace and the
//! grain of the latency that is measured. While a login lasts no other program can have one: it is kept short, and a
//! maildrop that another program holds (`[IN-USE]`) is tried again at the next poll, for two minutes.
//!
//! Mails stay on the server until the delivery discards them, which it does with its own alone. What an earlier run
//! left is known by its headers (TOP) and handed out like the rest.
//!
//! Bounds: 128 KiB of a mail (of a larger one the headers alone are read), 50,000 mails in the maildrop, 200 that were
//! there before, a minute for one login.
//!
//! ```yaml
//! - name: maildrop
//!   pop3: { url: "pop3s://mail.example.com", username: probe, password: "${credential:pop3}" }
//! ```

mod client;
#[doc(hidden)]
pub mod fuzz;
mod login;
mod options;
mod watch;

use std::sync::Arc;

use self::{
    options::{Place, RawProbe, RawReceive},
    watch::Watch,
};
use super::{
    Attempt, Boxed, Probe, Protocol, ReceiveSession, Receiver,
    mail::{account::Account, mailbox::Mailbox},
};
use crate::observation::{Phase, Reason};

/// Longest wait for the server to take the goodbye of a probe: it says nothing about the service any more.
const GOODBYE_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// The entry of the registry.
pub static POP3: Protocol = Protocol {
    name: "pop3",
    schemes: &["pop3", "pop3s", "pop3+starttls"],
    summary: "POP3 maildrops: login and state, wait for a mail",
    proves: "A probe proves that a user can log in and that the maildrop opens, not that mail arrives. A delivery that \
             ends in pop3 proves that the mail lies in the maildrop, unchanged; its latency is as fine as `poll`.",
    example: "\
- name: maildrop
  pop3: { url: \"pop3s://mail.example.com\", username: probe, password: \"${env:POP3_PASSWORD}\" }
",
    probe_schema: Some(|g| g.subschema_for::<RawProbe>()),
    send_schema: None,
    receive_schema: Some(|g| g.subschema_for::<RawReceive>()),
    probe: Some(|options| Some(Box::new(Login(options::read_probe(options)?)))),
    send: None,
    receive: Some(|options| Some(Box::new(Reader(Arc::new(options::read_receive(options)?))))),
};

struct Login(Account);

impl Probe for Login {
    fn target(&self) -> String {
        self.0.target.clone()
    }

    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
        Box::pin(async move {
            let mut session = login::log_in(&self.0, cx).await.map_err(login::NoLogin::reason)?;
            if self.0.login.is_some() {
                cx.phase(Phase::Exchange);
                let state = session.client.must(cx, "STAT").await.map_err(|fault| fault.reason(cx, "STAT"))?;
                // `+OK 3 1204`
                if let Some(Ok(count)) = state.text.split(' ').next().map(str::parse::<u64>) {
                    cx.detail("pop3_mails", count);
                }
            }
            cx.phase(Phase::Close);
            // A server that does not read has its connection closed all the same.
            let _ = tokio::time::timeout(GOODBYE_MAX, session.client.leave(cx)).await;
            cx.end_phase();
            Ok(())
        })
    }
}

struct Reader(Arc<Place>);

impl Receiver for Reader {
    fn target(&self) -> String {
        self.0.account.target.clone()
    }

    fn keeps(&self) -> bool {
        true
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn ReceiveSession>, Reason>> {
        Box::pin(async move {
            let watch = Watch::open(self.0.clone(), cx).await?;
            cx.end_phase();
            Ok(Box::new(Mailbox::new(|ends| watch.run(ends))) as Box<dyn ReceiveSession>)
        })
    }
}

#[cfg(test)]
mod tests;
