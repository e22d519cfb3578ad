//! Kept sessions against real servers that close them, restart, or fall silent: each is told as a reconnection, and no
//! message is lost by it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bongsu::{
    check::{Ask, Settings},
    observation::{Accept, Fate, Kind, Observation, Outcome, Phase, Side},
};

use crate::harness::{
    build, context,
    dovecot::{Dovecot, PASSWORD},
    mosquitto::{Mosquitto, Users},
    proxy::Proxy,
    settings,
};

struct Bench {
    ask: Arc<dyn Ask>,
    settings: Settings,
}

impl Bench {
    fn new(send: &str, receive: &str) -> Self {
        let settings = settings(Duration::from_secs(20));
        let yaml = format!(
            "{{ send: {send}, receive: {receive}, sessions: kept, login_every: off, slow: 20s, lost_after: 30s }}"
        );
        Self { ask: build("delivery", &yaml, &settings), settings }
    }

    async fn attempt(&self) -> Observation {
        self.ask.attempt(context(&self.settings)).await.observation
    }

    /// Attempts until one is good again; what its predecessors showed, and it.
    async fn recover(&self) -> (Vec<Observation>, Observation) {
        let mut bad = Vec::new();
        loop {
            let o = self.attempt().await;
            if o.outcome == Outcome::Ok {
                return (bad, o);
            }
            bad.push(o);
            assert!(bad.len() < 20, "{bad:#?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Between attempts, as long as this.
    async fn idle(&self, span: Duration) {
        let _ = tokio::time::timeout(span, async { while self.ask.afterwards().await.is_some() {} }).await;
    }
}

fn good(o: &Observation) {
    assert_eq!((o.outcome, &o.reason), (Outcome::Ok, &None));
    assert_eq!(o.delivery.as_ref().map(|d| d.fate), Some(Fate::Arrived));
}

/// The sides whose session was opened anew: just those to which this attempt connected.
fn reconnected(o: &Observation) -> Vec<Side> {
    let d = o.delivery.as_ref().expect("a message was sent");
    let mut sides: Vec<Side> = d.reconnections.iter().map(|r| r.side).collect();
    let connects = o.phases.iter().filter(|p| p.phase == Phase::Connect);
    let mut connected: Vec<Side> = connects.filter_map(|p| p.side).collect();
    sides.sort();
    connected.sort();
    assert_eq!(sides, connected, "{o:?}");
    assert!(d.reconnections.iter().all(|r| !r.why.is_empty()), "{d:?}");
    sides
}

fn mqtt(address: SocketAddr, more: &str) -> String {
    format!("{{ mqtt: {{ url: 'mqtt://{address}', topic: bongsu/kept{more} }} }}")
}

fn mail(lmtp: SocketAddr, imap: SocketAddr, more: &str) -> (String, String) {
    (
        format!("{{ lmtp: {{ url: 'lmtp://{lmtp}', from: probe@example.com, to: probe@example.com }} }}"),
        format!("{{ imap: {{ url: 'imap://{imap}', username: probe, password: {PASSWORD}{more} }} }}"),
    )
}

#[tokio::test]
async fn sessions_are_kept_and_log_in_once() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let dovecot = Dovecot::start();
    let (send, receive) = mail(dovecot.lmtp, dovecot.imap, "");
    let one = mqtt(broker.address, "");
    for bench in [Bench::new(&one, &one), Bench::new(&send, &receive)] {
        for n in 1..=5 {
            let o = bench.attempt().await;
            good(&o);
            assert_eq!(o.phases.iter().any(|p| p.phase == Phase::Login || p.phase == Phase::Connect), n == 1, "{o:?}");
            assert_eq!(o.delivery.map(|d| (d.sequence, d.reconnections.len())), Some((n, 0)));
            bench.idle(Duration::from_millis(50)).await;
        }
        bench.ask.close().await;
    }
    assert_eq!(dovecot.mails("probe", "INBOX").len(), 0, "nothing is left");
}

#[tokio::test]
async fn a_session_cut_while_idle_is_opened_anew_without_a_failure() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let dovecot = Dovecot::start();
    let ends = [broker.address, broker.address, dovecot.lmtp, dovecot.imap].map(Proxy::start);
    let [up, down, lmtp, imap] = &ends;
    let (send, receive) = mail(lmtp.address, imap.address, "");
    let benches = [
        (Bench::new(&mqtt(up.address, ""), &mqtt(down.address, "")), up, down),
        (Bench::new(&send, &receive), lmtp, imap),
    ];
    for (bench, sending, receiving) in &benches {
        good(&bench.attempt().await);
        for (cut, expected) in [
            (vec![receiving], vec![Side::Receive]),
            (vec![sending], vec![Side::Send]),
            (vec![sending, receiving], vec![Side::Send, Side::Receive]),
        ] {
            cut.iter().for_each(|proxy| proxy.cut());
            // Somebody listens between attempts, and sees it.
            bench.idle(Duration::from_millis(300)).await;
            let o = bench.attempt().await;
            good(&o);
            assert_eq!(reconnected(&o), expected);
            let o = bench.attempt().await;
            good(&o);
            assert_eq!(reconnected(&o), [], "it is told once");
        }
        bench.ask.close().await;
    }
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let mut broker = Mosquitto::start(Users::Anyone, "");
    let mut dovecot = Dovecot::start();
    let (send, receive) = mail(dovecot.lmtp, dovecot.imap, "");
    let one = mqtt(broker.address, "");
    let benches = [Bench::new(&one, &one), Bench::new(&send, &receive)];
    for (n, bench) in benches.iter().enumerate() {
        good(&bench.attempt().await);
        let server = if n == 0 { &mut broker.server } else { &mut dovecot.server };
        server.stop();
        bench.idle(Duration::from_millis(300)).await;
        let o = bench.attempt().await;
        let reason = o.reason.clone().expect("nobody listens");
        assert_eq!((o.outcome, reason.kind), (Outcome::Failed, Kind::Refused), "{reason}");
        assert_eq!(reason.phase, Phase::Connect);
        // dovecot lets its readers stay when it stops; then it is the sending side that is refused.
        let accept = o.delivery.map(|d| d.accept);
        assert!(accept.is_none_or(|accept| accept == Accept::Unreachable), "{accept:?}");
        server.restart();
        let (_, o) = bench.recover().await;
        let sides = reconnected(&o);
        assert!(sides.contains(&Side::Send) && (n == 1 || sides.len() == 2), "{sides:?}");
        bench.ask.close().await;
    }
}

#[tokio::test]
async fn a_peer_that_fell_silent_is_noticed_by_the_keep_alive() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let dovecot = Dovecot::start();
    let (down, imap) = (Proxy::start(broker.address), Proxy::start(dovecot.imap));
    let (send, receive) = mail(dovecot.lmtp, imap.address, ", keep_alive: 5s");
    let benches = [
        (Bench::new(&mqtt(broker.address, ""), &mqtt(down.address, ", keep_alive: 2s")), &down, 8),
        (Bench::new(&send, &receive), &imap, 25),
    ];
    for (bench, proxy, noticed_s) in &benches {
        good(&bench.attempt().await);
        // The connection stands, and nothing comes through it any more.
        proxy.hold();
        bench.idle(Duration::from_secs(*noticed_s)).await;
        proxy.release();
        let o = bench.attempt().await;
        good(&o);
        assert_eq!(reconnected(&o), [Side::Receive]);
        let why = &o.delivery.as_ref().expect("a message was sent").reconnections[0].why;
        assert!(why.contains("within"), "it says how long it was waited for: {why}");
        bench.ask.close().await;
    }
}
