//! The mails of an incident, as their reader finds them: in a real mailbox, one thread, in plain text.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use bongsu::{clock, notify::text::columns};
use mail_parser::{MessageParser, MimeHeaders};

use super::{MailSystem, ON_CALL, Stage};
use crate::harness::{
    daemon::until,
    mangler::Rates,
    mosquitto::{Mosquitto, Users},
    mqtt_proxy::MqttProxy,
};

/// Columns of a text-only client on a terminal of 80, with room for a mark of quotation.
const COLUMNS_MAX: usize = 78;

/// The text part as a program that is not of this project reads it: Python's own library.
fn plain_text(mail: &[u8]) -> String {
    let script = "import sys, email, email.policy\n\
                  mail = email.message_from_binary_file(sys.stdin.buffer, policy=email.policy.default)\n\
                  assert not mail.defects, mail.defects\n\
                  part = mail.get_body(('plain',))\n\
                  assert not part.defects and part.get_content_charset() == 'utf-8'\n\
                  sys.stdout.buffer.write(part.get_content().encode())\n";
    let python = Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut python = python.expect("python3 is there; install the Debian package python3");
    python.stdin.take().expect("a pipe").write_all(mail).expect("it reads");
    let output = python.wait_with_output().expect("own child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(mail));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// How many threads a server makes of a mailbox (RFC 5256, section 4), and how many mails they hold.
fn threads(said: &str) -> (usize, usize) {
    let line = said.lines().find_map(|l| l.strip_prefix("* THREAD ")).unwrap_or_else(|| panic!("{said}"));
    let (mut depth, mut threads) = (0, 0);
    for c in line.chars() {
        match c {
            '(' => {
                threads += usize::from(depth == 0);
                depth += 1;
            }
            ')' => depth -= 1,
            _ => {}
        }
    }
    (threads, line.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).count())
}

#[test]
fn the_mails_of_an_incident_are_one_thread_that_reads_well_as_text() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let front = MqttProxy::start(broker.address, 1, Rates::default());
    let side = |address| format!("{{ mqtt: {{ url: 'mqtt://{address}', topic: t }} }}");
    let (send, receive) = (side(broker.address), side(front.address));
    let check = format!("delivery: {{ send: {send}, receive: {receive}, slow: 1500ms, lost_after: 3s }}");
    let defaults = "every: 1s, timeout: 1s, outage: { failures: 3, confirm_every: 500ms }";
    let steps = "{ after: 0s, to: [hook, mail], repeat: 10s }, { after: 1h, to: [hook] }";
    let mail = MailSystem::start();
    let stage = Stage::new(mail, &[("chat", check)], defaults, steps);
    let _daemon = stage.play();
    // First late, then gone, then well again.
    let onset = clock::now();
    front.now(Rates { delay: 1.0, delay_by: Duration::from_secs(2), ..Rates::default() });
    stage.wait_for("mails", onset, &["problem"]);
    let has = |word: &str| stage.subjects().iter().any(|s| s.starts_with(word));
    front.now(Rates { drop: 1.0, ..Rates::default() });
    until("it has become worse", || has("[NOW DOWN] "));
    until("it is told again", || has("[STILL DOWN] "));
    front.now(Rates::default());
    until("it is over", || has("[UP] "));
    until("all are settled", || stage.number("SELECT count(*) FROM outbox WHERE state = 'pending'") == 0);

    let mails = stage.mail.dovecot.mails(ON_CALL, "INBOX");
    println!("{:#?}", stage.subjects());
    let mut client = stage.mail.dovecot.client(ON_CALL);
    assert!(client.say("CAPABILITY").contains(" THREAD=REFERENCES"));
    client.say("EXAMINE INBOX");
    assert_eq!(threads(&client.say("THREAD REFERENCES UTF-8 ALL")), (1, mails.len()));
    assert!(mails.len() >= 4, "{:?}", stage.subjects());
    for mail in &mails {
        let parsed = MessageParser::default().parse(mail).expect("a mail");
        let text = plain_text(mail);
        println!("------ Subject: {}\n{text}", parsed.subject().unwrap_or_default());
        let first = &parsed.parts[parsed.text_body[0] as usize];
        assert_eq!(first.content_type().map(|c| (c.ctype(), c.subtype())), Some(("text", Some("plain"))));
        assert_eq!(parsed.body_text(0).expect("text").replace("\r\n", "\n"), text, "both readers agree");
        for line in text.lines().filter(|line| line.split_whitespace().count() > 1) {
            let wide = line.chars().map(columns).sum::<usize>();
            assert!(wide <= COLUMNS_MAX, "{wide} columns: {line}");
        }
        let broken = |c: char| c == '\u{fffd}' || (c.is_control() && c != '\n');
        assert!(!text.contains(broken) && !text.contains("</") && !text.contains("&amp;"), "{text}");
        // What, why, since when, how long, from where, and what it is called.
        for part in
            ["chat ", "\nCause      way: ", "\nBegan      20", "\nLasted     ", "\nSeen from  test-1", "incident #1"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let is_over = parsed.subject().is_some_and(|s| s.starts_with("[UP]"));
        assert_eq!(text.contains("\nTold next  hook, mail at "), !is_over, "{text}");
        assert_eq!(text.contains("bongsu incidents ack 1\n"), !is_over, "{text}");
        assert_eq!(text.contains("\nEnded      20"), is_over, "{text}");
    }
}
