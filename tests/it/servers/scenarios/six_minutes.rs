//! Most attempts fail for a while, from a moment between two of them on, as in May 2024 at KakaoTalk.

use std::time::Duration;

use bongsu::clock;

use super::{MailSystem, Stage, time};
use crate::harness::{
    daemon::until,
    mosquitto::{Mosquitto, Users},
    proxy::Proxy,
};

/// Four of five connections are turned away. The first runs are too short for an outage, and later two in a row pass.
const PLAN: &str = "xxx.xx.xxxxxxx.xxxx..xxxxxx.xxxxx.xxxx..xxxxxx.xxx";

#[test]
fn six_minutes_are_one_outage_told_from_its_true_start() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let front = Proxy::start(broker.address);
    let side = |address| format!("{{ mqtt: {{ url: 'mqtt://{address}', topic: t, version: 5 }} }}");
    let (send, receive) = (side(front.address), side(broker.address));
    let check = format!("delivery: {{ send: {send}, receive: {receive}, slow: 5s, lost_after: 30s }}");
    let defaults = "every: 2s, timeout: 2s, outage: { confirm_every: 300ms }";
    let stage = Stage::new(MailSystem::start(), &[("chat", check)], defaults, "{ after: 0s, to: [hook, mail] }");
    let daemon = stage.play();
    let onset = clock::now();
    front.turn_away(PLAN);
    let turned = clock::now();
    until("it is told", || stage.kinds().first().is_some_and(|kind| kind == "problem"));
    println!("R7: told {:?} after the first failure", clock::now().since(onset));
    println!("{}", stage.told()[0].text);
    until("the plan has come to its end", || front.planned() == 0);
    let over = clock::now();
    stage.wait_for("R7", over, &["problem", "recovery"]);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());

    // Five in a row make it down; what came through in between makes it neither younger nor several.
    assert_eq!(stage.row("SELECT worst || ' ' || phase FROM incident_checks"), "down login");
    let failed = "FROM observations WHERE outcome = 'failed'";
    let planned = PLAN.chars().filter(|c| *c == 'x').count() as u64;
    assert_eq!(stage.number(&format!("SELECT count(*) {failed}")), planned);
    let sql = format!(
        "SELECT count(*) FROM incidents i
         WHERE i.started_by = (SELECT min(at) {failed})
           AND i.started_after = (SELECT max(at) FROM observations WHERE outcome = 'ok' AND at < i.started_by)
           AND i.ended_after = (SELECT max(at) {failed})
           AND i.ended_by = (SELECT min(at) FROM observations WHERE outcome = 'ok' AND at > i.ended_after)"
    );
    let edges = "SELECT started_after || ' ' || started_by || ' ' || ended_after || ' ' || ended_by FROM incidents";
    let seen = "SELECT at || ' ' || outcome FROM observations ORDER BY id";
    assert_eq!(stage.number(&sql), 1, "{} {:#?}", stage.row(edges), stage.place.query(seen));
    let edge = |column: &str| time(&stage.row(&format!("SELECT {column} FROM incidents")));
    // An attempt that had begun before the outage may be its first victim.
    assert!(edge("started_after") <= turned && edge("started_by") + Duration::from_secs(4) >= onset, "{onset}");
    assert!(edge("ended_after") <= over && edge("ended_by") >= edge("ended_after"), "{over}");
    let shown = String::from_utf8_lossy(&stage.place.run(&["incidents", "show", "1"]).stdout).into_owned();
    println!("{shown}");
    let _daemon = stage.place.start();
    stage.is_one_incident("down");
}
