//! LMTP (RFC 2033): a mail store takes a mail for its users' mailboxes.
//!
//! It is SMTP with LHLO in place of EHLO and, after the mail, one reply for each recipient taken, which says that the
//! mail is in that mailbox or is not; so sending proves more than by SMTP, where a queue may lie behind the word
//! "accepted". The dialogue, its phases, its bounds and the options are those of [`smtp`](super::smtp). The port
//! should not be reachable for strangers, and there is no TLS; a login is made where the options name one.
//!
//! What it leaves on the server is the mail in its recipient's mailbox, which a receiver takes away.
//!
//! ```yaml
//! - name: mail-store
//!   lmtp: { url: "lmtp://store.example.com" }
//! ```

use super::{
    Protocol,
    smtp::{Dialect, Mailer, RawProbe, RawSend, Server},
};

/// The entry of the registry.
pub static LMTP: Protocol = Protocol {
    name: "lmtp",
    schemes: &["lmtp"],
    summary: "LMTP mail stores: greeting, and sending mail into mailboxes",
    proves: "A probe proves that the mail store greets and answers. Sending proves that it has put the mail into a \
             mailbox; a delivery with a receiver, that a user finds it there.",
    example: "\
- name: mail-store
  lmtp: { url: \"lmtp://store.example.com\" }
",
    probe_schema: Some(|g| g.subschema_for::<RawProbe>()),
    send_schema: Some(|g| g.subschema_for::<RawSend>()),
    receive_schema: None,
    probe: Some(|options| Some(Box::new(Server::read(options, Dialect::Lmtp)?))),
    send: Some(|options| Some(Box::new(Mailer::read(options, Dialect::Lmtp)?))),
    receive: None,
};
