//! IMAP4rev1 and IMAP4rev2 (RFC 3501 and RFC 9051): the mailbox as its reader's program sees it.
//!
//! As a probe, success proves that a user gets in: the server greets, accepts the login and does its no-op. It does not
//! prove that mail arrives there. As the receiving side of a delivery it proves that a mail lies in the folder its
//! reader looks into, with the text that was sent.
//!
//! | step | commands | section of RFC 9051 | phase |
//! |---|---|---|---|
//! | greeting | OK, PREAUTH or BYE; CAPABILITY | 7.1, 6.1.1 | `greeting` |
//! | TLS of `imap+starttls` | STARTTLS, then the capabilities anew | 6.2.1 | `tls` |
//! | log in | AUTHENTICATE, or LOGIN where no mechanism is offered | 6.2.2, 6.2.3 | `login` |
//! | no-op of the probe | NOOP | 6.1.2 | `exchange` |
//! | listen | LIST (for several folders), SELECT, UID SEARCH SUBJECT | 6.3, 6.4.4 | `exchange` |
//! | wait | IDLE (RFC 2177), or NOOP at each poll; STATUS of other folders | 6.3.13, 6.3.11 | `deliver` |
//! | fetch | UID SEARCH, UID FETCH BODY.PEEK: flags stay as they are | 6.4.4, 6.4.5 | `deliver` |
//! | take off | UID STORE \Deleted, UID EXPUNGE (RFC 4315) | 6.4.6, 6.4.9 | – |
//! | goodbye | LOGOUT, whose answer a probe does not wait for | 6.1.3 | `close` |
//!
//! Mails stay on the server until the delivery discards them, which it does with its own alone; what an earlier run
//! left is found by its subject and handed out like the rest. Mails of strangers cost one bounded fetch and end no wait.
//!
//! A mail in the spam folder or the trash has arrived, with a flaw; a copy among the sent ones proves nothing. For
//! that, folders other than INBOX must be watched: `folders: all`, or a list of them.
//!
//! Bounds: 128 KiB of a mail, lines of 512 KiB, 50 folders, 200 mails that were there before in each; an answer to a
//! command is due within a minute at most, or the session counts as gone.
//!
//! ```yaml
//! - name: mailbox
//!   imap: { url: "imaps://mail.example.com", username: probe, password: "${credential:imap}" }
//! ```

mod answers;
mod client;
mod codec;
#[doc(hidden)]
pub mod fuzz;
mod folders;
mod login;
mod options;
mod take_off;
mod watch;

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
pub static IMAP: Protocol = Protocol {
    name: "imap",
    schemes: &["imap", "imaps", "imap+starttls"],
    summary: "IMAP mailboxes: login and no-op, wait for a mail in any folder",
    proves: "A probe proves that a user can log in and is served, not that mail arrives. A delivery that ends in imap \
             proves that the mail lies in the reader's mailbox, in which folder, and unchanged.",
    example: "\
- name: mailbox
  imap: { url: \"imaps://mail.example.com\", username: probe, password: \"${env:IMAP_PASSWORD}\" }
",
    probe_schema: Some(|g| g.subschema_for::<RawProbe>()),
    send_schema: None,
    receive_schema: Some(|g| g.subschema_for::<RawReceive>()),
    probe: Some(|options| Some(Box::new(Login(options::read_probe(options)?)))),
    send: None,
    receive: Some(|options| Some(Box::new(Reader(options::read_receive(options)?)))),
};

struct Login(Account);

impl Probe for Login {
    fn target(&self) -> String {
        self.0.target.clone()
    }

    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
        Box::pin(async move {
            let mut client = login::log_in(&self.0, cx).await?;
            cx.phase(Phase::Exchange);
            login::no_op(&mut client, cx).await?;
            cx.phase(Phase::Close);
            // A server that does not read has its connection closed all the same.
            let _ = tokio::time::timeout(GOODBYE_MAX, client.leave(cx)).await;
            cx.end_phase();
            Ok(())
        })
    }
}

struct Reader(Place);

impl Receiver for Reader {
    fn target(&self) -> String {
        self.0.account.target.clone()
    }

    fn keeps(&self) -> bool {
        true
    }

    fn open<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<Box<dyn ReceiveSession>, Reason>> {
        Box::pin(async move {
            let client = login::log_in(&self.0.account, cx).await?;
            cx.phase(Phase::Exchange);
            let watch = Watch::open(client, &self.0, cx).await?;
            cx.end_phase();
            Ok(Box::new(Mailbox::new(|ends| watch.run(ends))) as Box<dyn ReceiveSession>)
        })
    }
}

#[cfg(test)]
mod tests;
