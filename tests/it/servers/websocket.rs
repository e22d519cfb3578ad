//! `websocket` against a real server, as a probe and as both sides of a delivery.
use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bongsu::{
    check::{Answer, Ask, Settings},
    observation::{Accept, Fate, Integrity, Kind, Observation, Outcome, Phase, Side},
};

use crate::harness::{build, context, proxy::Proxy, settings, websocket::WebSocketServer};

async fn probe(yaml: &str) -> Answer {
    let settings = settings(Duration::from_secs(5));
    build("websocket", yaml, &settings).attempt(context(&settings)).await
}

async fn failure(yaml: &str) -> (Phase, Kind, String) {
    let o = probe(yaml).await.observation;
    assert_eq!(o.outcome, Outcome::Failed, "{yaml}");
    let reason = o.reason.expect("a failure has a reason");
    (reason.phase, reason.kind, reason.text)
}

fn phases(o: &Observation) -> Vec<Phase> {
    o.phases.iter().map(|p| p.phase).collect()
}

#[tokio::test]
async fn the_upgrade_the_ping_and_the_goodbye_are_made() {
    let server = WebSocketServer::start();
    let Answer { observation: o, transcript } = probe(&format!("url: 'ws://{}/echo'", server.address)).await;
    assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None));
    assert_eq!(phases(&o), [Phase::Resolve, Phase::Connect, Phase::Exchange, Phase::Close]);
    assert_eq!(o.address, Some(server.address));
    let said: Vec<&str> = transcript.iter().map(|l| l.text.as_str()).collect();
    assert!(["Ping", "Pong", "Close 1000"].iter().all(|t| said.contains(t)), "{said:?}");

    let url = format!("url: 'wss://{}/echo'", server.tls);
    let o = probe(&format!("{{ {url}, tls: {{ ca: '{}' }} }}", server.certificate.display())).await.observation;
    assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None));
    assert!(o.tls.as_ref().is_some_and(|t| t.version == "1.3" && t.days_left > Some(1)), "{:?}", o.tls);
    assert!(phases(&o).contains(&Phase::Tls));
    let (phase, kind, _) = failure(&format!("{{ {url} }}")).await;
    assert_eq!((phase, kind), (Phase::Tls, Kind::Certificate));
    // WebSocket without TLS to the TLS port.
    assert_eq!(failure(&format!("url: 'ws://{}/echo'", server.tls)).await.0, Phase::Exchange);
    assert!(!server.server.log().contains("Error"), "{}", server.server.log());
}

#[tokio::test]
async fn refusals_are_told_with_their_status() {
    let server = WebSocketServer::start();
    let at = |path: &str| format!("url: 'ws://{}{path}'", server.address);
    let rejected = |text: &str| (Phase::Exchange, Kind::Rejected, text.to_owned());
    assert_eq!(failure(&at("/gated")).await, rejected("upgrade refused: 401 Unauthorized: a token is missing"));
    assert_eq!(failure(&at("/nowhere")).await, rejected("upgrade refused: 404 Not Found"));
    let page = "no upgrade: the server answered 200 OK with text/html, expected 101";
    assert_eq!(failure(&at("/")).await, (Phase::Exchange, Kind::Unexpected, page.into()));
    for (token, outcome) in [("geheim", Outcome::Ok), ("falsch1", Outcome::Failed)] {
        let yaml = format!("{{ {}, headers: {{ Authorization: 'Bearer {token}' }} }}", at("/gated"));
        let Answer { observation: o, transcript } = probe(&yaml).await;
        assert_eq!(o.outcome, outcome, "{:?}", o.reason);
        assert!(!format!("{o:?} {transcript:?}").contains(token));
    }
}

#[tokio::test]
async fn subprotocols_are_agreed_on_or_missed() {
    let server = WebSocketServer::start();
    let at = |names: &str| format!("{{ url: 'ws://{}/echo', subprotocol: {names} }}", server.address);
    for (names, agreed) in [("chat.v1", "chat.v1"), ("[chat.v9, chat.v2]", "chat.v2")] {
        let o = probe(&at(names)).await.observation;
        assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None), "{names}");
        assert_eq!(o.details["subprotocol"], agreed);
    }
    let text = "the server agreed on no subprotocol; offered: mqtt";
    assert_eq!(failure(&at("mqtt")).await, (Phase::Exchange, Kind::Unexpected, text.into()));
}

#[tokio::test]
async fn exchanges_are_held() {
    let server = WebSocketServer::start();
    let at = |path: &str, steps: &str| format!("{{ url: 'ws://{}{path}', exchange: [{steps}] }}", server.address);
    let good = [
        at("/echo", "{ send: '봉수' }, { expect: 봉 }, { send: abc }, { expect_regex: '^a.c$' }"),
        at("/echo", r#"{ send: '{"n": 5}' }, { expect_json: { $.n: { at_least: 5 } } }"#),
        at("/room", r#"{ send: '{"type": "login", "token": "geheim"}' }, { expect_json: { $.type: welcome } }"#),
    ];
    for yaml in good {
        let o = probe(&yaml).await.observation;
        assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None), "{yaml}");
    }
    let refused = at("/room", r#"{ send: '{"type": "login", "token": "x"}' }, { expect: welcome }"#);
    let text = "the server closed the session: against its policy (code 1008): wrong token; expected a frame with \
                \"welcome\", got nothing";
    assert_eq!(failure(&refused).await, (Phase::Exchange, Kind::Rejected, text.into()));
    let settings = settings(Duration::from_secs(2));
    let ask = build("websocket", &at("/echo", "{ send: a }, { expect: b }"), &settings);
    let reason = ask.attempt(context(&settings)).await.observation.reason.expect("a failure has a reason");
    assert_eq!(reason.kind, Kind::Timeout);
    assert!(reason.text.ends_with("within 2s; expected a frame with \"b\", got \"a\""), "{}", reason.text);
}

#[tokio::test]
async fn close_codes_are_told_in_words() {
    let server = WebSocketServer::start();
    for (code, kind, words) in [
        (1000, Kind::Closed, "normal end"),
        (1001, Kind::Closed, "the server is going away"),
        (1008, Kind::Rejected, "against its policy"),
        (1011, Kind::Closed, "internal error of the server"),
        (1013, Kind::Deferred, "try again later"),
        (4001, Kind::Closed, "the application's own code"),
    ] {
        let told = failure(&format!("url: 'ws://{}/close/{code}/because'", server.address)).await;
        let text = format!("the server closed the session: {words} (code {code}): because");
        assert_eq!(told, (Phase::Exchange, kind, text));
    }
}

#[tokio::test]
async fn a_frozen_server_and_a_stopped_one_are_told_apart() {
    let mut server = WebSocketServer::start();
    let settings = settings(Duration::from_secs(2));
    let ask = build("websocket", &format!("url: 'ws://{}/echo'", server.address), &settings);
    server.server.signal("STOP");
    let reason = ask.attempt(context(&settings)).await.observation.reason.expect("a failure has a reason");
    assert_eq!((reason.phase, reason.kind), (Phase::Exchange, Kind::Timeout));
    assert!(reason.text.contains("within 2s"), "{}", reason.text);
    server.server.stop();
    let reason = ask.attempt(context(&settings)).await.observation.reason.expect("a failure has a reason");
    assert_eq!((reason.phase, reason.kind), (Phase::Connect, Kind::Refused));
}

struct Bench {
    ask: Arc<dyn Ask>,
    settings: Settings,
}

impl Bench {
    fn new(send: &str, receive: &str, more: &str) -> Self {
        let settings = settings(Duration::from_secs(5));
        let yaml =
            format!("{{ send: {{ websocket: {{ {send} }} }}, receive: {{ websocket: {{ {receive} }} }}{more} }}");
        Self { ask: build("delivery", &yaml, &settings), settings }
    }

    async fn attempt(&self) -> Observation {
        self.ask.attempt(context(&self.settings)).await.observation
    }
}

#[tokio::test]
async fn messages_arrive_from_client_to_client() {
    let server = WebSocketServer::start();
    let all = format!("url: 'ws://{}/all'", server.address);
    let encrypted = format!("url: 'wss://{}/all', tls: {{ ca: '{}' }}", server.tls, server.certificate.display());
    let room = format!(
        r#"url: 'ws://{}/room', first: [{{ send: '{{"type": "login", "token": "geheim"}}' }}, {{ expect: welcome }}]"#,
        server.address
    );
    let say = r#"message: '{"type": "say", "text": "{{message}}"}', ack: { expect_json: { $.type: ack } }"#;
    let table = [
        (all.clone(), all.clone()),
        (format!("{all}, binary: true"), all.clone()),
        (encrypted.clone(), all.clone()),
        (all.clone(), encrypted),
        (format!("{room}, {say}"), format!("{room}, field: $.text")),
        (format!("{room}, {say}"), format!("{room}, field: /text")),
    ];
    for (send, receive) in table {
        let bench = Bench::new(&send, &receive, "");
        for sequence in 1..=2 {
            let o = bench.attempt().await;
            assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None), "{send} to {receive}");
            let d = o.delivery.expect("a message was sent");
            assert_eq!((d.fate, d.accept, d.integrity), (Fate::Arrived, Accept::Accepted, Some(Integrity::Equal)));
            assert_eq!((d.sequence, d.duplicates, d.foreign, d.reordered), (sequence, 0, 0, 0));
            assert_eq!(d.left_out, Vec::<String>::new());
            let sides: BTreeSet<Side> =
                o.phases.iter().filter(|p| p.phase == Phase::Login).filter_map(|p| p.side).collect();
            assert_eq!(sides.len(), if send.contains("first") { 2 } else { 0 });
        }
    }
}

#[tokio::test]
async fn what_is_lost_doubled_or_refused_is_told() {
    let server = WebSocketServer::start();
    let at = |path: &str| format!("url: 'ws://{}{path}'", server.address);
    let o = Bench::new(&at("/drop"), &at("/drop"), ", slow: 500ms, lost_after: 1s").attempt().await;
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((o.outcome, reason.phase, reason.kind), (Outcome::Failed, Phase::Deliver, Kind::Lost));
    let d = o.delivery.expect("a message was sent");
    assert_eq!((d.fate, d.accept), (Fate::Lost, Accept::Accepted));

    let bench = Bench::new(&at("/twice"), &at("/twice"), "");
    let d = bench.attempt().await.delivery.expect("a message was sent");
    let duplicates = if d.duplicates == 0 {
        // The second copy may come a moment after the verdict; then it is a correction.
        let correction = tokio::time::timeout(Duration::from_secs(20), bench.ask.afterwards()).await.expect("it comes");
        correction.expect("a second copy").delivery.duplicates
    } else {
        d.duplicates
    };
    assert_eq!(duplicates, 1);

    // The room's program cannot read what is no JSON, and ends.
    let room = format!(r#"{}, first: [{{ send: '{{"token": "geheim"}}' }}, {{ expect: welcome }}]"#, at("/room"));
    let o =
        Bench::new(&format!("{room}, ack: {{ expect: ack }}"), &room, ", slow: 500ms, lost_after: 1s").attempt().await;
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((o.outcome, reason.phase), (Outcome::Failed, Phase::Send));
    let text = "sending side: the server closed the session: internal error of the server (code 1011), before it";
    assert!(reason.text.starts_with(text), "{}", reason.text);
    let wrong = format!(r#"{}, first: [{{ send: '{{"token": "x"}}' }}, {{ expect: welcome }}]"#, at("/room"));
    let o = Bench::new(&at("/all"), &wrong, "").attempt().await;
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((reason.phase, reason.kind, o.delivery), (Phase::Login, Kind::Rejected, None));
    assert!(reason.text.starts_with("receiving side: the server closed the session: against its policy (code 1008)"));
}

#[tokio::test]
async fn a_message_whose_acknowledgement_is_held_back_is_uncertain() {
    let server = WebSocketServer::start();
    let proxy = Proxy::start(server.address);
    let settings = settings(Duration::from_secs(2));
    let at = |address| {
        let login = r#"first: [{ send: '{"type": "login", "token": "geheim"}' }, { expect: welcome }]"#;
        format!("url: 'ws://{address}/room', {login}")
    };
    let say = r#"message: '{"text": "{{message}}"}', ack: { expect_json: { $.type: ack } }"#;
    let send = format!("{{ websocket: {{ {}, {say} }} }}", at(proxy.address));
    let receive = format!("{{ websocket: {{ {}, field: /text }} }}", at(server.address));
    let ask = build("delivery", &format!("{{ send: {send}, receive: {receive} }}"), &settings);
    proxy.hold_from(r#""type": "ack""#);
    let o = ask.attempt(context(&settings)).await.observation;
    let d = o.delivery.expect("a message was sent");
    assert_eq!((o.outcome, d.accept, d.fate), (Outcome::Failed, Accept::Uncertain, Fate::Arrived));
    let reason = o.reason.expect("a failure has a reason");
    assert_eq!((reason.phase, reason.kind), (Phase::Send, Kind::Timeout));
    assert!(reason.text.contains("within 2s; no frame came with the expected $.type"), "{}", reason.text);
    proxy.release();
    let o = ask.attempt(context(&settings)).await.observation;
    assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None));
}

#[tokio::test]
async fn a_url_alone_is_enough() {
    let server = WebSocketServer::start();
    let ask = bongsu::check::from_url(&format!("ws://{}/echo", server.address)).expect("a good URL");
    assert_eq!((ask.kind(), ask.target()), ("websocket", format!("ws://{}/echo", server.address)));
    let settings = settings(Duration::from_secs(5));
    assert_eq!(ask.attempt(context(&settings)).await.observation.outcome, Outcome::Ok);
}
