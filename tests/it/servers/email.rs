//! Alerts by e-mail through a real postfix.

use std::{path::Path, sync::Arc};

use bongsu::{
    alert::{Alert, Message, MessageId, MessageKind, MessageState, message::Attempted},
    incident::{Edge, IncidentId, Severity},
    notify::{Channel, by_name},
    options::Options,
    protocol::{Net, wire::NetOptions},
    value::{Masker, Timestamp},
};
use mail_parser::MessageParser;

use crate::harness::postfix::Postfix;

fn net() -> Arc<Net> {
    Net::new(NetOptions { nameservers: Vec::new(), masker: Masker::default() }).expect("the system can resolve names")
}

fn channel(yaml: &str) -> Arc<dyn Channel> {
    let value = serde_yaml::from_str(yaml).expect("well-formed YAML");
    let mut problems = Vec::new();
    let kind = by_name("email").expect("a kind of channel");
    let channel = (kind.build)(&mut Options::new(&value, Vec::new(), Path::new("/"), &mut problems));
    channel.unwrap_or_else(|| panic!("{problems:?}"))
}

fn message(kind: MessageKind, position: u32) -> Message {
    let at = Timestamp::from_millis(1_795_359_000_000);
    let end = Edge { after: Some(at), by: at + std::time::Duration::from_secs(15_600) };
    let name = |text: &str| text.parse().expect("a good name");
    let alert = Alert {
        kind,
        incident: Some(IncidentId(3)),
        vantage: name("seoul-1"),
        service: name("카카오톡"),
        title: "카카오톡".into(),
        labels: Default::default(),
        severity: Severity::Down,
        cause: "보내기: login: 535 5.7.8 .\nno".into(),
        started: Edge { after: None, by: at },
        ended: kind.is_final().then_some(end),
        unwatched: false,
        duration_ms: 15_600_000,
        checks: Vec::new(),
        acknowledged_by: None,
        next: None,
        instead_of: None,
        others: Default::default(),
        at,
    };
    Message {
        id: MessageId(1),
        key: format!("seoul-1.3.ops-mail.{position}"),
        channel: name("ops-mail"),
        thread: "seoul-1.3".into(),
        position,
        alert,
        created_at: at,
        state: MessageState::Pending,
        attempts: 0,
        next_at: at,
        last_error: None,
        settled_at: None,
        handed_over: false,
    }
}

#[tokio::test]
async fn an_incident_is_one_thread_in_the_mailbox() {
    let postfix = Postfix::start();
    let net = net();
    let ca = postfix.certificate();
    let options = |url: &str| {
        format!(
            "url: {url}\nfrom: 봉수 <bongsu@example.com>\nto: [oncall@example.com]\ntls: {{ ca: {} }}\ntimezone: Asia/Seoul",
            ca.display()
        )
    };
    let by_starttls = channel(&options(&format!("smtp+starttls://localhost:{}", postfix.port)));
    let by_tls = channel(&options(&format!("smtps://localhost:{}", postfix.tls_port)));
    assert_eq!(by_starttls.deliver(&net, &message(MessageKind::Problem, 0)).await, Attempted::Delivered);
    postfix.wait_for_mails(1);
    assert_eq!(by_tls.deliver(&net, &message(MessageKind::Recovery, 1)).await, Attempted::Delivered);
    let mails = postfix.wait_for_mails(2);
    let first = MessageParser::default().parse(&mails[0]).expect("a mail");
    let second = MessageParser::default().parse(&mails[1]).expect("a mail");
    assert_eq!(first.subject(), Some("[DOWN] 카카오톡: 보내기: login: 535 5.7.8 . no"));
    assert_eq!(second.subject(), Some("[UP] 카카오톡: after 4h20m"));
    assert_eq!(second.in_reply_to().as_text(), first.message_id());
    assert_eq!(second.references().as_text(), first.message_id());
    assert_eq!(first.from().and_then(|a| a.first()).and_then(|a| a.name()), Some("봉수"));
    let plain = second.body_text(0).expect("plain text");
    assert!(plain.starts_with("카카오톡 is up again after 4h20m."), "{plain}");
    assert!(plain.contains("between 2026-11-22 23:50:00 KST and 2026-11-23 04:10:00 KST"), "{plain}");
    assert!(second.body_html(0).expect("HTML").contains("카카오톡"));
    for mail in [&first, &second] {
        let raw = String::from_utf8_lossy(mail.raw_message());
        assert!(raw.contains("with ESMTPS"), "{raw}");
    }
}

#[tokio::test]
async fn a_real_server_refuses_defers_and_goes_away() {
    let mut postfix = Postfix::start_with(
        "smtpd_recipient_restrictions = check_recipient_access inline:{ { grey@example.com = 450 4.7.1 greylisted } }",
    );
    let net = net();
    let to =
        |to: &str| channel(&format!("url: smtp://127.0.0.1:{}\nfrom: bongsu@example.com\nto: [{to}]", postfix.port));
    let message = message(MessageKind::Problem, 0);
    let relayed = to("someone@elsewhere.example").deliver(&net, &message).await;
    assert!(matches!(&relayed, Attempted::Refused { error } if error.contains("Relay access denied")), "{relayed:?}");
    let partly = to("someone@elsewhere.example, oncall@example.com").deliver(&net, &message).await;
    assert_eq!(partly, Attempted::Delivered, "the good address gets it");
    postfix.wait_for_mails(1);
    let grey = to("grey@example.com").deliver(&net, &message).await;
    assert!(matches!(&grey, Attempted::Retry { error, .. } if error.contains("450 4.7.1")), "{grey:?}");
    let untrusted = channel(&format!(
        "url: smtp+starttls://localhost:{}\nfrom: bongsu@example.com\nto: [oncall@example.com]",
        postfix.port
    ));
    let untrusted = untrusted.deliver(&net, &message).await;
    assert!(matches!(&untrusted, Attempted::Retry { error, .. } if error.contains("tls: ")), "{untrusted:?}");
    let channel = to("oncall@example.com");
    postfix.stop();
    let gone = channel.deliver(&net, &message).await;
    assert!(matches!(&gone, Attempted::Retry { error, .. } if error.contains("connection refused")), "{gone:?}");
    assert_eq!(postfix.mails().len(), 1, "one mail for the one good address");
}
