//! Real outages, scaled down to seconds and replayed through the daemon against real servers: what is told of them, what
//! is stored, and how soon.

mod letters;
mod login;
mod loss;
mod six_minutes;

use std::time::Duration;

use bongsu::{clock, value::Timestamp};
use mail_parser::MessageParser;
use serde_json::Value;

use crate::harness::{
    daemon::{Daemon, Place, until},
    dovecot::{Dovecot, PASSWORD},
    http::{Answer, Web},
    lmtp_proxy::LmtpProxy,
    mangler::Rates,
    postfix::Postfix,
};

/// Whom alerts go to.
const ON_CALL: &str = "oncall";

/// Longest a telling may take after the true beginning: far beyond what it takes, and far below an operator's patience.
const TOLD_MAX: Duration = Duration::from_secs(60);

/// A mail system: postfix, which asks dovecot who may log in, and hands mails to dovecot through a proxy. Alerts pass the
/// proxy untouched.
struct MailSystem {
    dovecot: Dovecot,
    proxy: LmtpProxy,
    postfix: Postfix,
}

impl MailSystem {
    fn start() -> Self {
        // dovecot makes an address wait that failed before: what is looked at here is the refusal itself.
        let dovecot =
            Dovecot::start_with("service anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}");
        let proxy = LmtpProxy::start(dovecot.lmtp, 1, Rates::default());
        let postfix = Postfix::start_with(&format!(
            "virtual_transport = lmtp:inet:{}\nsmtp_line_length_limit = 0\nlmtp_line_length_limit = 0\n\
             smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n\
             smtpd_sasl_security_options = noanonymous",
            proxy.address,
            dovecot.sasl.display()
        ));
        Self { dovecot, proxy, postfix }
    }

    /// The options of a delivery from submission to mailbox, with these further ones.
    fn delivery(&self, more: &str) -> String {
        let (smtp, imap) = (self.postfix.port, self.dovecot.imap);
        format!(
            "delivery: {{ send: {{ smtp: {{ url: 'smtp://127.0.0.1:{smtp}', username: probe, password: {PASSWORD}, \
             auth: plain, from: bongsu@example.com, to: probe@example.com }} }}, \
             receive: {{ imap: {{ url: 'imap://{imap}', username: probe, password: {PASSWORD} }} }}, {more} }}"
        )
    }
}

/// A daemon with its checks, and those who are told: a webhook, and a mailbox behind a real mail server.
struct Stage {
    mail: MailSystem,
    hook: Web,
    place: Place,
}

/// One alert as the webhook got it.
struct Told {
    kind: String,
    text: String,
    alert: Value,
}

impl Stage {
    /// With these checks, an interval, what makes them down and degraded (YAML of `defaults`), and a repeat of alerts.
    fn new(mail: MailSystem, services: &[(&str, String)], defaults: &str, steps: &str) -> Self {
        let hook = Web::start(Answer::Status(200));
        let config = format!(
            "channels:\n  hook: {{ webhook: {{ url: \"{}\" }} }}\n  mail: {{ email: {{ url: \"smtp://127.0.0.1:{}\", \
             from: \"봉수 <bongsu@example.com>\", to: [{ON_CALL}@example.com] }} }}\n\
             routes: [ {{ steps: [ {steps} ] }} ]\ndefaults: {{ {defaults} }}\n",
            hook.url("/"),
            mail.postfix.port,
        );
        let place = Place::new(&config, "service: none\nchecks: []\n");
        std::fs::remove_file(place.dir.path().join("checks/all.yaml")).expect("own file");
        for (service, check) in services {
            let text = format!("service: {service}\nchecks: [ {{ name: way, {check} }} ]\n");
            crate::harness::write(place.dir.path(), &format!("checks/{service}.yaml"), &text);
        }
        Self { mail, hook, place }
    }

    /// Starts the daemon and waits until every check has been good for a while.
    fn play(&self) -> Daemon {
        let daemon = self.place.start();
        until("all checks are good", || {
            let good = "SELECT min((SELECT count(*) FROM observations o
                        WHERE o.check_name = c.check_name AND o.outcome = 'ok')) FROM checks c";
            self.number(good) >= 4 && self.place.query("SELECT DISTINCT state FROM checks") == ["up"]
        });
        daemon
    }

    fn number(&self, sql: &str) -> u64 {
        self.place.query(sql).first().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    fn row(&self, sql: &str) -> String {
        self.place.query(sql).first().cloned().unwrap_or_default()
    }

    fn told(&self) -> Vec<Told> {
        let told = |alert: Value| Told {
            kind: alert["kind"].as_str().unwrap_or_default().to_owned(),
            text: alert["text"].as_str().unwrap_or_default().to_owned(),
            alert,
        };
        self.hook.accepted().iter().map(|r| told(r.json())).collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.told().into_iter().map(|t| t.kind).collect()
    }

    /// The subjects in the mailbox, oldest first.
    fn subjects(&self) -> Vec<String> {
        let subject = |mail: &Vec<u8>| {
            let parsed = MessageParser::default().parse(mail).expect("a mail");
            parsed.subject().unwrap_or_default().to_owned()
        };
        self.mail.dovecot.mails(ON_CALL, "INBOX").iter().map(subject).collect()
    }

    /// Waits until this was told by both ways; says how long after `onset` the webhook and the mailbox had it.
    fn wait_for(&self, story: &str, onset: Timestamp, kinds: &[&str]) {
        until(&format!("{story}: the webhook has {kinds:?}"), || self.kinds() == kinds);
        let by_hook = clock::now().since(onset);
        until(&format!("{story}: the mailbox has {kinds:?}"), || self.subjects().len() == kinds.len());
        let by_mail = clock::now().since(onset);
        println!("{story}: {:?} told {by_hook:?} after the fact, in the mailbox after {by_mail:?}", kinds.last());
        assert!(by_hook < TOLD_MAX, "{story}: {by_hook:?}");
    }

    /// The whole story from beginning to end is one incident, told once each time, by all accounts of it.
    fn is_one_incident(&self, severity: &str) {
        let all = self.place.json(&["incidents"]);
        let incidents = all.as_array().expect("a list").clone();
        assert_eq!(incidents.len(), 1, "{all}");
        assert_eq!((&incidents[0]["worst"], &incidents[0]["open"]), (&severity.into(), &false.into()), "{all}");
        let outbox = self.place.query("SELECT channel || ' ' || kind || ' ' || state FROM outbox ORDER BY id");
        assert_eq!(outbox.len(), self.kinds().len() * 2, "{outbox:?}");
        assert!(outbox.iter().all(|row| row.ends_with(" delivered")), "{outbox:?}");
        let recoveries = |kinds: &[String]| kinds.iter().filter(|k| *k == "recovery").count();
        assert_eq!(recoveries(&self.kinds()), 1);
        assert_eq!(self.subjects().iter().filter(|s| s.starts_with("[UP] ")).count(), 1);
        let status = self.place.json(&["status"]);
        let states: Vec<&Value> = status["checks"].as_array().expect("a list").iter().map(|c| &c["state"]).collect();
        assert!(states.iter().all(|state| *state == "up"), "{status}");
    }
}

impl Drop for Stage {
    /// Of a test that fails, what the store holds tells why.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seen = "SELECT at || ' ' || check_name || ' ' || outcome || ' ' || coalesce(fate, '-') || ' ' || \
                        coalesce(duplicates, 0) || ' ' || coalesce(login, '-') || ' ' || latency_ms || ' ' || \
                        coalesce(reason, '') FROM observations ORDER BY id";
            let story = "SELECT at || ' ' || entry || ' ' || text FROM incident_timeline";
            eprintln!("{:#?}\n{:#?}\n{:?}", self.place.query(seen), self.place.query(story), self.subjects());
        }
    }
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|e| panic!("`{text}` is no time: {e}"))
}
