//! `lmtp` against a real dovecot, and the logins of `smtp` against a postfix that asks it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bongsu::{
    clock,
    delivery::{CheckKey, Identity, Key, Seen, tracer},
    observation::{Integrity, Kind, Outcome, Phase},
    options::Options,
    protocol::{
        self, Attempt, Net,
        wire::{Family, NetOptions},
    },
};
use mail_parser::MessageParser;

use crate::harness::{Server, daemon::until, free_port, postfix::Postfix, probing::probe, scratch, write};

/// Longest an answer of a server may take on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A dovecot that takes mail for everybody and knows everybody by the password `geheim`.
struct Store {
    _server: Server,
    lmtp: SocketAddr,
    sasl: PathBuf,
    mail: PathBuf,
}

impl Store {
    fn start() -> Self {
        let scratch = scratch();
        let port = free_port();
        let (sasl, mail) = (scratch.path().join("run/sasl"), scratch.path().join("mail"));
        fs::create_dir(&mail).expect("own directory");
        fs::set_permissions(&mail, fs::Permissions::from_mode(0o777)).expect("own directory");
        let conf = write(scratch.path(), "d.conf", &configuration(scratch.path(), port));
        let lmtp = ([127, 0, 0, 1], port).into();
        let args = ["-F", "-c", conf.to_str().expect("a plain path")];
        let server = Server::start("dovecot-lmtpd", "/usr/sbin/dovecot", &args, scratch, lmtp);
        // The master opens the port before the process that answers is ready.
        until("dovecot greets", || probe("lmtp", &format!("url: 'lmtp://{lmtp}'")).outcome() == Outcome::Ok);
        Self { _server: server, lmtp, sasl, mail }
    }

    /// A user's mails.
    fn mails(&self, user: &str) -> Vec<Vec<u8>> {
        let files = fs::read_dir(self.mail.join(user).join("new")).into_iter().flatten().flatten();
        files.map(|file| fs::read(file.path()).expect("a mail is readable")).collect()
    }
}

fn configuration(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        "base_dir = {dir}/run
state_dir = {dir}/state
log_path = /dev/stderr
protocols = lmtp
listen = 127.0.0.1
ssl = no
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
auth_failure_delay = 0
mail_location = maildir:{dir}/mail/%n
first_valid_uid = 0
default_internal_user = nobody
default_login_user = nobody
default_internal_group = nogroup
passdb {{
  driver = static
  args = password=geheim
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={dir}/mail/%n allow_all_users=yes
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service lmtp {{
  user = nobody
  inet_listener lmtp {{
    port = {port}
  }}
}}
service auth {{
  unix_listener {dir}/run/sasl {{
    mode = 0666
  }}
}}
"
    )
}

#[tokio::test]
async fn mails_lie_in_their_mailboxes_when_they_are_acknowledged() {
    let store = tokio::task::spawn_blocking(Store::start).await.expect("dovecot starts");
    let yaml =
        format!("{{ url: 'lmtp://{}', from: a@example.com, to: [kim@example.com, lee@example.com] }}", store.lmtp);
    let value = serde_yaml::from_str(&yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let build = protocol::by_name("lmtp").and_then(|p| p.send).expect("a protocol that can send");
    let sender = build(&mut Options::new(&value, Vec::new(), Path::new("/"), &mut problems));
    let sender = sender.unwrap_or_else(|| panic!("{problems:?}"));
    let key = Key::new(&[3; 32]);
    let check = CheckKey::new(&key, &"mail/store".parse().expect("a name"));
    let net = Net::new(NetOptions::default()).expect("a resolver");
    let mut cx = Attempt::new(net, Family::Any, clock::now(), clock::instant(), true);
    let opened = tokio::time::timeout(ANSWER_MAX, sender.open(&mut cx)).await.expect("dovecot answers");
    let mut session = opened.expect("it opens");
    for sequence in 1..=3 {
        let identity = Identity { check, sequence, sent_at: clock::now(), nonce: sequence };
        let payload = tracer::compose(&key, &identity, sender.carries()).payload;
        let sent = tokio::time::timeout(ANSWER_MAX, session.send(&mut cx, &payload)).await.expect("dovecot answers");
        assert_eq!(sent, Ok(()));
        // No wait: the acknowledgement says that they are there.
        for user in ["kim", "lee"] {
            let mails = store.mails(user);
            assert_eq!(mails.len(), usize::try_from(sequence).expect("small"), "{user}");
            let mut seen = mails.iter().map(|mail| {
                let mail = MessageParser::default().parse(mail).expect("a mail");
                tracer::recognise(&key, check, mail.body_text(0).expect("a body").as_bytes())
            });
            let equal = |seen: Seen| matches!(seen, Seen::Ours(found) if found.integrity == Integrity::Equal);
            assert!(seen.all(equal));
        }
    }
    session.close(&mut cx).await;
    let (observation, _) = cx.finish(Ok(()), clock::instant(), None);
    let accepted = observation.details["lmtp_accepted"].as_str().expect("a text").to_owned();
    assert!(accepted.starts_with("250 2.0.0 <lee@example.com>"), "{accepted}");
}

#[test]
fn logins_of_smtp_are_those_of_a_real_server() {
    let store = Store::start();
    let postfix = Postfix::start_with(&format!(
        "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\nsmtpd_error_sleep_time = 0",
        store.sasl.display()
    ));
    let url = format!("url: 'smtp://127.0.0.1:{}', username: probe", postfix.port);
    for (auth, name) in [
        ("", "SCRAM-SHA-256"),
        (", auth: scram-sha-256", "SCRAM-SHA-256"),
        (", auth: scram-sha-1", "SCRAM-SHA-1"),
        (", auth: cram-md5", "CRAM-MD5"),
        (", auth: login", "LOGIN"),
        (", auth: plain", "PLAIN"),
    ] {
        let seen = probe("smtp", &format!("{{ {url}, password: geheim{auth} }}"));
        assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
        assert_eq!(seen.observation.details["smtp_login"], name);
        let wrong = probe("smtp", &format!("{{ {url}, password: falsch{auth} }}"));
        let reason = wrong.reason();
        assert_eq!((reason.phase, reason.kind), (Phase::Login, Kind::Rejected), "{wrong:?}");
        assert!(reason.text.starts_with(&format!("login by {name} refused: 535 5.7.8 ")), "{reason}");
        for said in seen.transcript.iter().chain(&wrong.transcript) {
            assert!(!said.text.contains("geheim") && !said.text.contains("falsch"), "{}", said.text);
        }
    }
    let seen = probe("smtp", &format!("{{ {url}, password: geheim, auth: xoauth2 }}"));
    assert!(seen.reason().text.contains("does not offer XOAUTH2 here; offered: "), "{seen:?}");
}
