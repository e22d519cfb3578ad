//! The proxies of messages against real servers: what they say they did is what a reader sees.
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bongsu::observation::{Delivery, Fate, Integrity};

use crate::harness::{
    broker::{packet, text},
    build, context,
    daemon::until,
    lmtp_proxy::{Answer, LmtpProxy},
    mangler::{Account, Alteration, Deed, Rates, judged, sequence, tracer},
    mosquitto::{Mosquitto, Users, publish},
    mqtt_proxy::MqttProxy,
    postfix::Postfix,
    settings,
};

const TOPIC: &str = "bongsu/시험";

fn rates() -> Rates {
    Rates {
        drop: 0.1,
        repeat: 0.1,
        swap: 0.1,
        alter: 0.1,
        delay: 0.1,
        delay_by: Duration::from_millis(300),
        alteration: Alteration::Words,
        hold_max: Duration::from_secs(2),
    }
}

/// What a reader got: sequence and integrity, in order.
type Got = Arc<Mutex<Vec<(u64, Integrity)>>>;

/// A plain subscriber of MQTT 3.1.1 that acknowledges what it gets.
fn subscriber(address: SocketAddr, qos: u8) -> Got {
    let mut stream = TcpStream::connect(address).expect("the proxy listens");
    stream.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00").expect("CONNECT");
    assert_eq!(packet(&mut stream).expect("CONNACK"), (0x20, vec![0, 0]));
    let filter = [&[0, 1][..], &(TOPIC.len() as u16).to_be_bytes(), TOPIC.as_bytes(), &[qos]].concat();
    stream.write_all(&[&[0x82, filter.len() as u8][..], &filter].concat()).expect("SUBSCRIBE");
    assert_eq!(packet(&mut stream).expect("SUBACK"), (0x90, vec![0, 1, qos]));
    let got = Got::default();
    let all = got.clone();
    thread::spawn(move || {
        while let Ok((first, body)) = packet(&mut stream) {
            assert_eq!(text(&body), TOPIC.as_bytes());
            let mut at = 2 + TOPIC.len();
            if first & 6 != 0 {
                let _ = stream.write_all(&[0x40, 2, body[at], body[at + 1]]);
                at += 2;
            }
            all.lock().expect("no panic").extend(judged(&body[at..]));
        }
    });
    got
}

/// How many copies of each sequence number an account promises.
fn promised(account: &Account) -> BTreeMap<u64, usize> {
    let copies = |token: &String| if account.of(Deed::Repeated).contains(token) { 2 } else { 1 };
    account.left.iter().map(|token| (sequence(token), copies(token))).collect()
}

/// Waits until a reader got as much as the account promises, and compares.
fn compare(account: impl Fn() -> Account, got: &Got, count: usize) {
    let total = |account: &Account| promised(account).values().sum::<usize>();
    until("all that leaves has arrived", || {
        let account = account();
        let settled = account.seen.len() == count && account.left.len() + account.of(Deed::Dropped).len() == count;
        settled && got.lock().expect("no panic").len() >= total(&account)
    });
    let account = account();
    let got = got.lock().expect("no panic").clone();
    let mut copies: BTreeMap<u64, usize> = BTreeMap::new();
    for (sequence, integrity) in &got {
        *copies.entry(*sequence).or_default() += 1;
        let altered = account.sequences(Deed::Altered).contains(sequence);
        assert_eq!(*integrity, if altered { Integrity::Corrupt } else { Integrity::Equal }, "{sequence}");
    }
    assert_eq!(copies, promised(&account));
}

fn first_arrivals(got: &Got) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    got.lock().expect("no panic").iter().map(|(n, _)| *n).filter(|n| seen.insert(*n)).collect()
}

#[test]
fn mqtt_messages_are_mangled_as_accounted() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let proxy = MqttProxy::start(broker.address, 1, rates());
    let got = subscriber(proxy.address, 1);
    for n in 0..200 {
        publish(broker.address, TOPIC, &tracer(n), false);
    }
    compare(|| proxy.account(), &got, 200);
    let account = proxy.account();
    let left: Vec<u64> = account.left.iter().map(|token| sequence(token)).collect();
    assert_eq!(first_arrivals(&got), left);
    for deed in [Deed::Dropped, Deed::Repeated, Deed::Swapped, Deed::Altered, Deed::Delayed] {
        assert!(account.of(deed).len() > 4, "{deed:?}: {}", account.of(deed).len());
    }
    assert_eq!(proxy.missed(), BTreeSet::new());
    // The broker is owed no acknowledgement: twice as many as it holds in flight still pass.
    proxy.now(Rates { drop: 1.0, ..Rates::default() });
    for n in 200..240 {
        publish(broker.address, TOPIC, &tracer(n), false);
    }
    until("the dropped ones were seen", || proxy.account().seen.len() == 240);
    proxy.now(Rates::default());
    publish(broker.address, TOPIC, b"a stranger's", false);
    publish(broker.address, TOPIC, &tracer(240), false);
    until("the last one passes", || first_arrivals(&got).last() == Some(&240));
}

#[test]
fn two_subscribers_suffer_the_same_and_it_is_counted_once() {
    let broker = Mosquitto::start(Users::Anyone, "");
    let proxy = MqttProxy::start(broker.address, 2, rates());
    let both = [subscriber(proxy.address, 0), subscriber(proxy.address, 1)];
    for n in 0..100 {
        publish(broker.address, TOPIC, &tracer(n), false);
    }
    for got in &both {
        compare(|| proxy.account(), got, 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bongsu_says_of_mqtt_5_is_what_was_done() {
    as_accounted("version: 5, qos: 2", Alteration::Normalise).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bongsu_says_of_mqtt_3_is_what_was_done() {
    as_accounted("version: 3.1.1, qos: 1", Alteration::QuestionMarks).await;
}

/// A delivery in mqtt through the proxy, its observations compared with the account.
async fn as_accounted(options: &str, alteration: Alteration) {
    let broker = Mosquitto::start(Users::Anyone, "");
    let (delay_by, hold_max) = (Duration::from_millis(1_700), Duration::from_secs(10));
    let proxy = MqttProxy::start(broker.address, 20, Rates { alteration, delay_by, hold_max, ..rates() });
    let settings = settings(Duration::from_secs(5));
    let place = |address| format!("{{ mqtt: {{ url: 'mqtt://{address}', topic: t, {options} }} }}");
    let (send, receive) = (place(broker.address), place(proxy.address));
    let yaml = format!("{{ send: {send}, receive: {receive}, slow: 1500ms, lost_after: 4s }}");
    let ask = build("delivery", &yaml, &settings);
    let mut said: BTreeMap<u64, Delivery> = BTreeMap::new();
    for _ in 0..25 {
        let o = ask.attempt(context(&settings)).await.observation;
        let d = o.delivery.unwrap_or_else(|| panic!("a message was sent: {:?}", o.reason));
        said.insert(d.sequence, d);
        // A second copy, or one that was booked as lost, comes as a correction.
        while let Ok(Some(correction)) = tokio::time::timeout(Duration::from_millis(50), ask.afterwards()).await {
            said.insert(correction.delivery.sequence, correction.delivery);
        }
    }
    while let Ok(Some(correction)) = tokio::time::timeout(Duration::from_secs(12), ask.afterwards()).await {
        said.insert(correction.delivery.sequence, correction.delivery);
    }
    let account = proxy.account();
    let having = |what: &dyn Fn(&Delivery) -> bool| -> BTreeSet<u64> {
        said.values().filter(|d| what(d)).map(|d| d.sequence).collect()
    };
    let kept = &account.sequences(Deed::Swapped) | &account.sequences(Deed::Held);
    assert_eq!(having(&|d| d.fate == Fate::Lost), account.sequences(Deed::Dropped));
    assert_eq!(having(&|d| d.duplicates > 0), account.sequences(Deed::Repeated));
    assert_eq!(having(&|d| d.integrity == Some(alteration.class())), account.sequences(Deed::Altered));
    assert_eq!(having(&|d| d.fate == Fate::Late), &account.sequences(Deed::Delayed) | &kept);
    let reordered: BTreeSet<u64> = account.reordered().iter().map(|token| sequence(token)).collect();
    assert_eq!(having(&|d| d.reordered > 0), reordered);
    assert_eq!(proxy.missed(), BTreeSet::new());
    for deed in [Deed::Dropped, Deed::Repeated, Deed::Swapped, Deed::Altered, Deed::Delayed] {
        assert!(!account.of(deed).is_empty(), "{deed:?}: the seed lets each happen");
    }
}

/// A mailbox server of one mailbox that takes every mail. A bounce quotes a tracer and is none.
fn mailbox() -> (SocketAddr, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    let got = Got::default();
    let all = got.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            take_mail(stream, &all);
        }
    });
    (address, got)
}

fn take_mail(mut stream: TcpStream, got: &Got) {
    let mut lines = BufReader::new(stream.try_clone().expect("a socket can be shared"));
    let mut say = |text: &str| stream.write_all(format!("{text}\r\n").as_bytes()).expect("the proxy listens");
    let mut next = || {
        let mut line = Vec::new();
        lines.read_until(b'\n', &mut line).expect("the proxy speaks");
        line
    };
    say("220 mailbox LMTP");
    let mut is_bounce = false;
    loop {
        let line = next();
        match line.get(..4) {
            Some(b"LHLO") => say("250-mailbox\r\n250 8BITMIME"),
            Some(b"DATA") => {
                say("354 go on");
                let mut mail = Vec::new();
                loop {
                    let line = next();
                    match line.as_slice() {
                        b".\r\n" => break,
                        [b'.', rest @ ..] => mail.extend(rest),
                        whole => mail.extend(whole),
                    }
                }
                got.lock().expect("no panic").extend(judged(&mail).filter(|_| !is_bounce));
                say("250 2.0.0 taken");
            }
            Some(b"QUIT") | None => return,
            said => {
                if said == Some(b"MAIL") {
                    is_bounce = line.starts_with(b"MAIL FROM:<>");
                }
                say("250 ok");
            }
        }
    }
}

/// Hands postfix mails with these tracers in one session.
fn post(port: u16, tracers: std::ops::Range<u64>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("postfix listens");
    let mut lines = BufReader::new(stream.try_clone().expect("a socket can be shared"));
    let mut hear = || {
        let mut line = String::new();
        while line.get(3..4) != Some(" ") {
            line.clear();
            lines.read_line(&mut line).expect("postfix answers");
        }
        line
    };
    assert!(hear().starts_with("220"));
    let mut ask = |text: &[u8], wanted: &str| {
        stream.write_all(text).expect("postfix listens");
        let said = hear();
        assert!(said.starts_with(wanted), "{said}");
    };
    ask(b"EHLO test.example.com\r\n", "250");
    for n in tracers {
        ask(b"MAIL FROM:<a@example.com> BODY=8BITMIME\r\n", "250");
        ask(b"RCPT TO:<probe@example.com>\r\n", "250");
        ask(b"DATA\r\n", "354");
        let text = String::from_utf8(tracer(n)).expect("a tracer is text").replace("\n.", "\n..").replace('\n', "\r\n");
        let header = "Subject: tracer\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit";
        ask(format!("{header}\r\n\r\n{text}\r\n.\r\n").as_bytes(), "250");
    }
    ask(b"QUIT\r\n", "221");
}

fn postfix_to(proxy: &LmtpProxy) -> Postfix {
    let more = [
        &format!("virtual_transport = lmtp:inet:127.0.0.1:{}", proxy.address.port()),
        // Long lines stay whole.
        "smtp_line_length_limit = 0\nlmtp_line_length_limit = 0",
        // A deferred mail is tried again soon; not at once, as it may then be found still being deferred, and waits
        // for five minutes.
        "minimal_backoff_time = 2s\nmaximal_backoff_time = 2s\nqueue_run_delay = 1s\ntransport_retry_time = 1s",
    ];
    Postfix::start_with(&more.join("\n"))
}

#[test]
fn mails_through_postfix_are_mangled_as_accounted() {
    let (address, got) = mailbox();
    let proxy = LmtpProxy::start(address, 4, rates());
    let postfix = postfix_to(&proxy);
    post(postfix.port, 0..100);
    compare(|| proxy.account(), &got, 100);
    assert_eq!(proxy.failures(), Vec::<String>::new());
    let account = proxy.account();
    let left: Vec<u64> = account.left.iter().map(|token| sequence(token)).collect();
    assert_eq!(first_arrivals(&got), left);
}

#[test]
fn a_mail_that_is_put_off_or_hung_up_on_comes_later() {
    let (address, got) = mailbox();
    let proxy = LmtpProxy::start(address, 5, Rates::default());
    let postfix = postfix_to(&proxy);
    proxy.answer(Answer::Greylist);
    let begun = Instant::now();
    post(postfix.port, 0..1);
    until("the greylisted mail has arrived", || first_arrivals(&got) == [0]);
    assert!(begun.elapsed() >= Duration::from_millis(900), "not at the first attempt");
    proxy.answer(Answer::Hang);
    post(postfix.port, 1..2);
    until("it hangs", || proxy.turned() > 0);
    assert_eq!(first_arrivals(&got), [0]);
    proxy.answer(Answer::Plan);
    until("the mail has arrived that was hung up on", || first_arrivals(&got) == [0, 1]);
    // What is refused for good never comes, and what is sent after it does.
    for answer in [Answer::AtRecipient("550 5.1.1 nobody here"), Answer::AtData("554 5.7.1 spam")] {
        let before = proxy.turned();
        proxy.answer(answer);
        post(postfix.port, 2..3);
        until("it is refused", || proxy.turned() > before);
    }
    proxy.answer(Answer::Plan);
    post(postfix.port, 3..4);
    until("the next mail has arrived", || first_arrivals(&got) == [0, 1, 3]);
}
