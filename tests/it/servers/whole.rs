//! The whole path of the binary with real servers, as an operator would run it: a configuration in YAML, servers that
//! fail, alerts by a real mail server and a signed webhook, and a daemon that is killed meanwhile.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bongsu::{clock, value::Timestamp};
use mail_parser::MessageParser;
use ring::hmac;

use super::http::{Nginx, nginx};
use crate::harness::{
    broker::{Broker, Manner},
    certs::Authority,
    daemon::{Daemon, Place, until},
    free_udp_port,
    http::{Answer, Request, Web},
    mosquitto::{Mosquitto, Users},
    postfix::Postfix,
    proxy::Proxy,
    scratch, write,
};

/// The webhook's secret, in the form of Standard Webhooks.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// No verdict but up and down: a busy machine may be slow.
const ONLY_OUTAGES: &str = "degraded: { slow: off, loss: off, duplicates: off }";

fn kinds(hook: &Web) -> Vec<String> {
    hook.accepted().iter().map(|r| r.json()["kind"].as_str().unwrap_or("?").to_owned()).collect()
}

fn number(place: &Place, sql: &str) -> u64 {
    place.query(sql).first().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|e| panic!("`{text}` is no time: {e}"))
}

/// Checks a signature by the specification alone: HMAC-SHA256 over id, timestamp and body, joined by full stops.
fn verify(request: &Request) {
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_else(|| panic!("no {name}: {request:?}"));
    let (id, second) = (header("webhook-id"), header("webhook-timestamp"));
    let encoded = SECRET.strip_prefix("whsec_").expect("the form of the standard");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(encoded).expect("Base64"));
    let signature = header("webhook-signature");
    let signature = STANDARD.decode(signature.strip_prefix("v1,").expect("version 1")).expect("Base64");
    let signed = [format!("{id}.{second}.").as_bytes(), &request.body].concat();
    hmac::verify(&key, &signed, &signature).unwrap_or_else(|_| panic!("a wrong signature: {request:?}"));
    let told = second.parse::<i64>().expect("seconds");
    assert!((clock::now().as_millis() / 1_000 - told).abs() < 300, "a timestamp of another time: {second}");
    assert_eq!(request.json()["key"], id.as_str());
}

/// A web server, a broker with a login, a mail server and a webhook's receiver, and what an operator writes for them.
struct Site {
    // Held for its process: the check of it must stay up.
    _nginx: Nginx,
    broker: Mosquitto,
    postfix: Postfix,
    hook: Web,
    place: Place,
}

impl Site {
    fn new() -> Self {
        let (nginx, hook) = (nginx(), Web::start(Answer::Status(200)));
        let broker = Mosquitto::start(Users::Named(&[("probe", "geheim")]), "");
        let postfix = Postfix::start();
        let config = format!(
            "channels:
  ops-mail:
    email: {{ url: \"smtp://127.0.0.1:{}\", from: \"봉수 <bongsu@example.com>\", to: [oncall@example.com] }}
  ops-hook:
    webhook: {{ url: \"{}\", secret: \"${{file:hook.secret}}\" }}
routes:
  - steps: [ {{ after: 0s, to: [ops-mail, ops-hook] }} ]
defaults: {{ every: 2s, timeout: 2s, outage: {{ failures: 3, recoveries: 2 }}, {ONLY_OUTAGES} }}
",
            postfix.port,
            hook.url("/alerts")
        );
        let web = format!(
            "service: web
checks:
  - name: front
    http: {{ url: \"http://127.0.0.1:{}/\", expect: {{ status: 200, body: {{ contains: beacons }} }} }}
",
            nginx.plain
        );
        let at = format!("url: \"mqtt://{}\", username: probe, password: \"${{file:../broker.pw}}\"", broker.address);
        let messages = format!(
            "service: messages
title: 메시지 중계
checks:
  - name: login
    mqtt: {{ {at} }}
  - name: round-trip
    delivery:
      send: {{ mqtt: {{ {at}, topic: bongsu/tracer }} }}
      receive: {{ mqtt: {{ {at}, topic: bongsu/tracer }} }}
      slow: 30s
      lost_after: 60s
"
        );
        let place = Place::new(&config, &web);
        write(place.dir.path(), "checks/messages.yaml", &messages);
        write(place.dir.path(), "broker.pw", "geheim\n");
        write(place.dir.path(), "hook.secret", SECRET);
        Self { _nginx: nginx, broker, postfix, hook, place }
    }

    fn number(&self, sql: &str) -> u64 {
        number(&self.place, sql)
    }

    /// What was told, each by its receiver's own account.
    fn told(&self) -> (usize, Vec<String>) {
        (self.postfix.mails().len(), kinds(&self.hook))
    }

    fn settled(&self) -> bool {
        self.number("SELECT count(*) FROM outbox WHERE state = 'pending'") == 0
    }

    fn kill_and_start(&self, daemon: &Daemon) -> Daemon {
        daemon.kill();
        assert!(self.place.dir.path().join("bongsu.sock").exists(), "a killed daemon leaves its socket");
        self.place.start()
    }

    /// Waits for this many further observations of a check.
    fn see(&self, check: &str, outcome: &str, count: u64) {
        let sql = format!("SELECT count(*) FROM observations WHERE check_name = '{check}' AND outcome = '{outcome}'");
        let before = self.number(&sql);
        until(&format!("{count} more of {check} {outcome}"), || self.number(&sql) >= before + count);
    }
}

#[test]
fn a_stopped_broker_is_one_incident_told_once_to_each_whatever_is_killed() {
    let mut site = Site::new();
    let daemon = site.place.start();
    let up = "SELECT count(*) FROM checks WHERE state = 'up'";
    until("all are up", || site.number(up) == 3);

    // The outage, and everybody told of it.
    let stopping = clock::now();
    site.broker.server.stop();
    let stopped = clock::now();
    until("both are told", || site.told() == (1, vec!["problem".into()]));
    until("both checks are in the incident", || site.place.query("SELECT checks FROM incidents") == ["2"]);
    until("the store knows", || site.settled());
    let open = "SELECT service || ' ' || state || ' ' || severity || ' ' || title FROM incidents";
    assert_eq!(site.place.query(open), ["messages open down 메시지 중계"]);
    assert_eq!(site.place.query("SELECT state FROM checks WHERE check_name = 'web/front'"), ["up"]);

    // Killed while it lasts: nothing is told twice, and the socket it left is no obstacle.
    let daemon = site.kill_and_start(&daemon);
    for check in ["messages/login", "messages/round-trip"] {
        site.see(check, "failed", 4);
    }
    let status = site.place.json(&["status"]);
    let state = |name: &str| {
        let all = status["checks"].as_array().expect("a list");
        all.iter().find(|c| c["check"] == name).map(|c| c["state"].clone()).unwrap_or_default()
    };
    assert_eq!((state("messages/login"), state("web/front")), ("down".into(), "up".into()), "{status}");
    assert_eq!(site.told(), (1, vec!["problem".into()]));
    assert_eq!(site.number("SELECT count(*) FROM outbox"), 2);

    // The recovery; one receiver takes it, the other hangs, and the daemon is killed while it does.
    site.hook.set(Answer::Nothing);
    let starting = clock::now();
    site.broker.server.restart();
    until("the incident is over", || site.place.query("SELECT state FROM incidents") == ["closed"]);
    until("the mail is told", || {
        site.number("SELECT count(*) FROM outbox WHERE channel = 'ops-mail' AND state = 'delivered'") == 2
    });
    until("the webhook was tried", || site.hook.requests().len() >= 2);
    daemon.kill();
    site.hook.set(Answer::Status(200));
    let daemon = site.place.start();
    until("the webhook has it", || kinds(&site.hook) == ["problem", "recovery"]);
    until("the store knows", || site.settled());
    site.see("messages/round-trip", "ok", 3);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert!(!site.place.dir.path().join("bongsu.sock").exists(), "a stopped daemon takes its socket away");
    assert_eq!(site.told(), (2, vec!["problem".into(), "recovery".into()]));
    let keys: BTreeSet<String> = site.hook.requests().iter().map(|r| r.key().to_owned()).collect();
    assert_eq!(keys.len(), 2, "the attempt that was cut off was repeated under its key");
    assert!(site.hook.requests().len() >= 3, "an attempt was cut off");
    assert_eq!(site.number("SELECT count(*) FROM incidents"), 1);
    assert_eq!(site.number("SELECT count(*) FROM observations WHERE check_name = 'web/front' AND outcome <> 'ok'"), 0);

    for request in site.hook.requests() {
        verify(&request);
    }
    edges_are_right(&site, (stopping, stopped), starting);
    mails_are_right(&site);
}

/// Both ends of the incident and its checks are what the observations say, and what was told is that.
fn edges_are_right(site: &Site, (stopping, stopped): (Timestamp, Timestamp), starting: Timestamp) {
    let of = "FROM observations o WHERE o.check_name = m.check_name AND o.outcome";
    let sql = format!(
        "SELECT count(*) FROM incident_checks m
         WHERE m.started_by = (SELECT min(at) {of} = 'failed')
           AND m.started_after = (SELECT max(at) {of} = 'ok' AND at < m.started_by)
           AND m.ended_after = (SELECT max(at) {of} = 'failed')
           AND m.ended_by = (SELECT min(at) {of} = 'ok' AND at > m.ended_after)"
    );
    let all = "SELECT check_name || ' ' || at || ' ' || outcome FROM observations ORDER BY check_name, at";
    assert_eq!(site.number(&sql), 2, "{:#?}", site.place.query(all));
    let edge = |column: &str| time(&site.place.query(&format!("SELECT {column} FROM incidents"))[0]);
    let (after, by) = (edge("started_after"), edge("started_by"));
    // An attempt that was on its way when the broker stopped began before that, at most by its time-out.
    assert!(after <= stopped && by + Duration::from_secs(2) >= stopping, "{after} {by}");
    assert!(after < by && by < starting, "{after} {by}");
    let (ended_after, ended_by) = (edge("ended_after"), edge("ended_by"));
    assert!(ended_after >= stopping && ended_by >= starting && ended_after < ended_by, "{ended_after} {ended_by}");

    let recovery = site.hook.accepted()[1].json();
    assert_eq!(time(recovery["started"]["by"].as_str().expect("a time")), by, "{recovery}");
    assert_eq!(time(recovery["ended"]["by"].as_str().expect("a time")), ended_by, "{recovery}");
    let duration_ms = ended_by.since(by).as_millis() as u64;
    assert_eq!(recovery["duration_ms"], duration_ms, "{recovery}");
    let in_view = site.place.query("SELECT CAST(round(duration_s * 1000) AS INTEGER) FROM incidents");
    assert_eq!(in_view, [duration_ms.to_string()]);
}

fn mails_are_right(site: &Site) {
    let mails = site.postfix.mails();
    let parse = |n: usize| MessageParser::default().parse(&mails[n]).expect("a mail");
    let (problem, recovery) = (parse(0), parse(1));
    let key = |n: usize| {
        let sql = format!("SELECT key FROM outbox WHERE channel = 'ops-mail' ORDER BY id LIMIT 1 OFFSET {n}");
        site.place.query(&sql)
    };
    for (n, mail) in [&problem, &recovery].into_iter().enumerate() {
        assert_eq!(mail.header_raw("X-Bongsu-Key").map(str::trim), key(n).first().map(String::as_str));
        assert_eq!(mail.header_raw("Auto-Submitted").map(str::trim), Some("auto-generated"));
        assert_eq!(mail.to().and_then(|a| a.first()).and_then(|a| a.address()), Some("oncall@example.com"));
    }
    assert!(problem.subject().is_some_and(|s| s.starts_with("[DOWN] 메시지 중계: ")), "{:?}", problem.subject());
    assert!(recovery.subject().is_some_and(|s| s.starts_with("[UP] 메시지 중계: after ")), "{:?}", recovery.subject());
    assert!(problem.message_id().is_some() && problem.in_reply_to().as_text().is_none());
    assert_eq!(recovery.in_reply_to().as_text(), problem.message_id());
    assert_eq!(recovery.references().as_text(), problem.message_id());
    assert_ne!(recovery.message_id(), problem.message_id());
    let lasted = site.hook.accepted()[1].json()["text"].as_str().unwrap_or_default().to_owned();
    let text = recovery.body_text(0).expect("plain text");
    let headline = lasted.lines().next().expect("a headline");
    assert!(text.starts_with("메시지 중계 is up again after ") && text.starts_with(headline), "{text}\n{lasted}");
}

#[test]
fn alerts_go_by_starttls_to_a_server_of_ones_own_authority_and_to_no_other() {
    let authority = Authority::new();
    let pair = authority.server(&["localhost"], -1, 30);
    let keys = scratch();
    let certificate = write(keys.path(), "cert.pem", &pair.certificate);
    let key = write(keys.path(), "key.pem", &pair.key);
    let (cert, key) = (certificate.display(), key.display());
    let postfix = Postfix::start_with(&format!("smtpd_tls_cert_file = {cert}\nsmtpd_tls_key_file = {key}"));
    let target = Web::start(Answer::Status(200));
    let email = |tls: &str| {
        let url = format!("smtp+starttls://localhost:{}", postfix.port);
        format!("email: {{ url: \"{url}\", from: bongsu@example.com, to: [oncall@example.com]{tls} }}")
    };
    let config = format!(
        "channels:\n  known: {{ {} }}\n  strange: {{ {} }}\nroutes: [ {{ steps: [ {{ after: 0s, to: [known, strange] }} ] }} ]\n",
        email(", tls: { ca: ca.pem }"),
        email("")
    );
    let checks = format!(
        "service: web\ndefaults: {{ every: 1s, outage: {{ failures: 2, recoveries: 2 }}, {ONLY_OUTAGES} }}\n\
         checks: [ {{ name: front, http: {{ url: \"{}\" }} }} ]\n",
        target.url("/")
    );
    let place = Place::new(&config, &checks);
    write(place.dir.path(), "ca.pem", &authority.pem());
    let daemon = place.start();
    until("the check is up", || place.query("SELECT state FROM checks") == ["up"]);
    target.set(Answer::Status(503));
    postfix.wait_for_mails(1);
    target.set(Answer::Status(200));
    let mails = postfix.wait_for_mails(2);
    until("the other was tried", || number(&place, "SELECT attempts FROM outbox WHERE channel = 'strange'") > 0);
    let error = place.query("SELECT last_error FROM outbox WHERE channel = 'strange' AND attempts > 0");
    assert!(error[0].contains("tls: ") && error[0].contains("not trusted"), "{error:?}");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let parse = |n: usize| MessageParser::default().parse(&mails[n]).expect("a mail");
    let (problem, recovery) = (parse(0), parse(1));
    assert_eq!(recovery.in_reply_to().as_text(), problem.message_id());
    for mail in &mails {
        let raw = String::from_utf8_lossy(mail);
        assert!(raw.contains("with ESMTPS") && raw.contains("TLSv1.3"), "{raw}");
    }
    assert_eq!(postfix.mails().len(), 2, "nothing went to a server that is not trusted");
}

/// A listener that accepts connections and never says a word. Its thread lives as long as the test.
fn silent_listener() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            kept.push(stream);
        }
    });
    address
}

#[test]
fn what_a_port_check_cannot_see_is_found() {
    let hook = Web::start(Answer::Status(200));
    let silent = silent_listener();
    let broker = Broker::start(Manner::Good);
    let config = format!(
        "channels: {{ hook: {{ webhook: {{ url: \"{}\" }} }} }}\nroutes: [ {{ steps: [ {{ after: 0s, to: [hook] }} ] }} ]\n\
         defaults: {{ every: 1s, timeout: 1s, outage: {{ failures: 3, recoveries: 2 }}, {ONLY_OUTAGES} }}\n",
        hook.url("/")
    );
    let checks = format!("service: port\nchecks: [ {{ name: tcp, tcp: {{ url: \"tcp://{silent}\" }} }} ]\n");
    let place = Place::new(&config, &checks);
    let files = [
        ("chat", format!("[ {{ name: login, mqtt: {{ url: \"mqtt://{silent}\" }} }} ]")),
        ("web", format!("[ {{ name: front, http: {{ url: \"http://{silent}/\" }} }} ]")),
        ("broker-port", format!("[ {{ name: tcp, tcp: {{ url: \"tcp://{}\" }} }} ]", broker.address)),
        ("broker-login", format!("[ {{ name: mqtt, mqtt: {{ url: \"mqtt://{}\" }} }} ]", broker.address)),
        (
            "broker",
            format!(
                "[ {{ name: round-trip, every: 3s, delivery: {{ send: {{ mqtt: {{ url: \"mqtt://{0}\", topic: t }} }}, \
                 receive: {{ mqtt: {{ url: \"mqtt://{0}\", topic: t }} }}, slow: 500ms, lost_after: 800ms }} }} ]",
                broker.address
            ),
        ),
    ];
    for (service, checks) in files {
        let text = format!("service: {service}\nchecks: {checks}\n");
        write(place.dir.path(), &format!("checks/{service}.yaml"), &text);
    }
    let _daemon = place.start();
    let state = |check: &str| place.query(&format!("SELECT state FROM checks WHERE check_name = '{check}'"));
    until("the round trip is up", || state("broker/round-trip") == ["up"]);
    // Every message is accepted from now on, and none is delivered.
    broker.now(Manner::Drops);
    until("all three are told", || kinds(&hook) == ["problem"; 3]);

    let found = "SELECT service FROM incidents ORDER BY service";
    assert_eq!(place.query(found), ["broker", "chat", "web"]);
    let reason = |check: &str| {
        let sql =
            format!("SELECT phase || ' ' || kind || ' ' || reason FROM incident_checks WHERE check_name = '{check}'");
        place.query(&sql).first().cloned().unwrap_or_default()
    };
    let (chat, web, broker_reason) = (reason("chat/login"), reason("web/front"), reason("broker/round-trip"));
    assert!(chat.starts_with("login timeout "), "{chat}");
    assert!(web.starts_with("exchange timeout "), "{web}");
    assert!(broker_reason.starts_with("deliver lost accepted by "), "{broker_reason}");
    assert!(number(&place, "SELECT count(*) FROM observations WHERE fate = 'lost' AND accept = 'accepted'") >= 3);
    for check in ["port/tcp", "broker-port/tcp", "broker-login/mqtt"] {
        let sql = |outcome: &str| {
            format!("SELECT count(*) FROM observations WHERE check_name = '{check}' AND outcome {outcome}")
        };
        assert_eq!((state(check), number(&place, &sql("<> 'ok'"))), (vec!["up".into()], 0), "{check}");
        assert!(number(&place, &sql("= 'ok'")) >= 3, "{check} was asked all the while");
    }
}

#[test]
fn a_late_arrival_corrects_the_loss_that_was_booked() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let proxy = Proxy::start(broker.address);
    let checks = format!(
        "service: messages\ndefaults: {{ every: 3s, timeout: 2s, outage: {{ failures: 2, confirm_every: 2s, recoveries: 2 }}, {ONLY_OUTAGES} }}\n\
         checks:\n  - name: round-trip\n    delivery:\n      send: {{ mqtt: {{ url: \"mqtt://{}\", topic: t }} }}\n      \
         receive: {{ mqtt: {{ url: \"mqtt://{}\", topic: t }} }}\n      slow: 500ms\n      lost_after: 1s\n",
        broker.address, proxy.address
    );
    let place = Place::new("", &checks);
    let _daemon = place.start();
    until("the check is up", || place.query("SELECT state FROM checks") == ["up"]);
    proxy.hold_from("bongsu1.");
    until("the loss is booked", || !place.query("SELECT id FROM observations WHERE fate = 'lost'").is_empty());
    let id = place.query("SELECT id FROM observations WHERE fate = 'lost' ORDER BY id LIMIT 1")[0].clone();
    let row = |columns: &str| place.query(&format!("SELECT {columns} FROM observations WHERE id = {id}"));
    assert_eq!(row("outcome || ' ' || kind"), ["failed lost"]);
    let sequence = row("sequence");
    proxy.release();
    until("it is corrected", || row("fate") == ["late"]);
    assert_eq!((row("outcome"), row("sequence")), (vec!["slow".into()], sequence));
    let latency_ms: f64 = row("latency_ms")[0].parse().expect("a number");
    assert!(latency_ms >= 1_000.0, "{latency_ms}");
    assert_eq!(row("duplicates"), ["0"]);
    until("the check is up again", || place.query("SELECT state FROM checks") == ["up"]);
    // What arrived in the end was not lost: the day's sums say so too.
    until("nothing is lost", || number(&place, "SELECT count(*) FROM observations WHERE fate = 'lost'") == 0);
    let sums = place.query("SELECT messages_lost || ' ' || (messages_late > 0) FROM availability_daily");
    assert!(sums.iter().all(|s| s.starts_with("0 ")) && sums.iter().any(|s| s == "0 1"), "{sums:?}");
}

#[test]
fn a_hung_name_server_is_named_and_delays_nobody_else() {
    // It takes questions and answers none.
    let server = SocketAddr::from(([127, 0, 0, 1], free_udp_port()));
    let socket = UdpSocket::bind(server).expect("the port is free");
    let target = Web::start(Answer::Status(200));
    let checks = format!(
        "service: web\ndefaults: {{ every: 3s, timeout: 3s, outage: {{ failures: 2, recoveries: 2 }}, {ONLY_OUTAGES} }}\nchecks:\n  \
         - {{ name: by-address, every: 1s, timeout: 1s, http: {{ url: \"{}\" }} }}\n{}",
        target.url("/"),
        (0..20)
            .map(|n| format!("  - {{ name: by-name-{n}, http: {{ url: \"http://host{n}.example.test/\" }} }}\n"))
            .collect::<String>()
    );
    let place = Place::with_agent(&format!(", nameservers: [\"{server}\"]"), "", &checks);
    let _daemon = place.start();
    let by_name = "FROM observations WHERE check_name <> 'web/by-address'";
    until("all names were asked for, twice", || number(&place, &format!("SELECT count(*) {by_name}")) >= 40);
    // The name server is the agent's own trouble: it says nothing about the targets.
    assert_eq!(place.query(&format!("SELECT DISTINCT outcome || ' ' || phase {by_name}")), ["unknown resolve"]);
    for reason in place.query(&format!("SELECT DISTINCT reason {by_name}")) {
        assert!(reason.contains(&format!("name server {server} did not answer within")), "{reason}");
    }
    assert_eq!(number(&place, "SELECT count(*) FROM incidents"), 0);
    let all = "SELECT at FROM observations WHERE check_name = 'web/by-address' ORDER BY id";
    let at: Vec<Timestamp> = place.query(all).iter().map(|at| time(at)).collect();
    assert!(at.len() >= 3, "{at:?}");
    let longest = at.windows(2).map(|pair| pair[1].since(pair[0])).max().expect("more than one");
    assert!(longest < Duration::from_millis(2_500), "a pause of {longest:?} between attempts due each second");
    assert_eq!(
        number(&place, "SELECT count(*) FROM observations WHERE check_name = 'web/by-address' AND outcome <> 'ok'"),
        0
    );
    let status = place.json(&["status"]);
    let late_ms = status["metrics"]["lateness"]["p99_ms"].as_f64().expect("it is measured");
    assert!(late_ms < 1_000.0, "attempts began {late_ms} ms late");
    socket.set_nonblocking(true).expect("own socket");
    assert!(socket.recv(&mut [0; 512]).is_ok(), "it was asked");
}
