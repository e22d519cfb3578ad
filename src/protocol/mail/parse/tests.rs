//! Mails as servers, gateways and people make them.

use proptest::prelude::*;
use serde_json::json;

use super::{path::HOPS_MAX, *};
use crate::{
    delivery::{Carries, CheckKey, Identity, Key, Seen, tracer::HEADER},
    value::Timestamp,
};

fn key() -> Key {
    Key::new(&[7; 32])
}

fn check() -> CheckKey {
    CheckKey::new(&key(), &"mail/round-trip".parse().expect("a name"))
}

/// A tracer as a sender that carries everything composes it.
fn tracer() -> String {
    let identity =
        Identity { check: check(), sequence: 3, sent_at: Timestamp::from_millis(1_795_359_000_000), nonce: 9 };
    let carries = Carries { unicode: true, lines: true, line_bytes_max: 1 << 16, bytes_max: 1 << 16 };
    String::from_utf8(tracer::compose(&key(), &identity, carries).payload).expect("text")
}

fn recognised(read: &Read) -> Option<Integrity> {
    match tracer::recognise(&key(), check(), &read.payload) {
        Seen::Ours(found) => Some(found.integrity),
        _ => None,
    }
}

const WORDS: &str = "=?UTF-8?B?67SJ7IiYIMOpIPCflKU=?=";

/// The headers of a tracer mail, with these lines above and the body's own below.
fn headers(above: &str, body: &str) -> String {
    format!(
        "{above}From: <probe@example.com>\r\nTo: <probe@example.com>\r\nSubject: bongsu tracer\r\n {WORDS}\r\n\
         Message-ID: <1@example.com>\r\nX-Bongsu-Tracer: 1\r\nX-Bongsu-Header: {WORDS}\r\n\
         Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n{body}"
    )
}

fn crlf(text: &str) -> String {
    text.replace('\n', "\r\n")
}

fn plain() -> String {
    let body = crlf(&tracer());
    headers(
        "",
        &format!("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{body}\r\n"),
    )
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(bytes);
    text.as_bytes().chunks(76).map(|line| format!("{}\r\n", String::from_utf8_lossy(line))).collect()
}

fn quoted_printable(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for byte in text.bytes() {
        if byte == b'\n' {
            out.push_str("\r\n");
            column = 0;
            continue;
        }
        let piece = match byte {
            b'!'..=b'~' if byte != b'=' => char::from(byte).to_string(),
            other => format!("={other:02X}"),
        };
        if column + piece.len() > 75 {
            out.push_str("=\r\n");
            column = 0;
        }
        column += piece.len();
        out.push_str(&piece);
    }
    out + "\r\n"
}

#[test]
fn a_tracer_is_read_in_every_encoding() {
    let tracer = tracer();
    let html = format!("<html><body><p>{}</p></body></html>", tracer.replace('&', "&amp;").replace('\n', "<br>\n"));
    let kind = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding:";
    let bodies = [
        format!("{kind} 8bit\r\n\r\n{}\r\n", crlf(&tracer)),
        format!("{kind} base64\r\n\r\n{}", base64(crlf(&tracer).as_bytes())),
        format!("{kind} quoted-printable\r\n\r\n{}", quoted_printable(&tracer)),
        // A gateway put a footer behind it, as a part of its own.
        format!(
            "Content-Type: multipart/mixed; boundary=\"b\"\r\n\r\n--b\r\n{kind} 8bit\r\n\r\n{}\r\n--b\r\n\
             Content-Type: text/plain\r\n\r\nThis mail was scanned.\r\n--b--\r\n",
            crlf(&tracer)
        ),
        // One that says something first, and makes the text a file.
        format!(
            "Content-Type: multipart/mixed; boundary=\"b\"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nCaution: external\r\n\
             --b\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
            base64(tracer.as_bytes())
        ),
        format!(
            "Content-Type: multipart/alternative; boundary=\"b\"\r\n\r\n--b\r\n{kind} base64\r\n\r\n{}--b\r\n\
             Content-Type: text/html; charset=utf-8\r\n\r\n{}\r\n--b--\r\n",
            base64(tracer.as_bytes()),
            crlf(&html)
        ),
    ];
    for body in bodies {
        let read = read(headers("", &body).as_bytes());
        assert_eq!(recognised(&read), Some(Integrity::Equal), "{body}\n{:?}", String::from_utf8_lossy(&read.payload));
        assert_eq!((&read.nature, read.beside), (&Nature::Message, Some((Integrity::Equal, WORDS_HEADER))), "{body}");
    }
    // In HTML alone it is known, whatever became of its spaces.
    let only = read(headers("", &format!("Content-Type: text/html; charset=utf-8\r\n\r\n{html}")).as_bytes());
    assert!(recognised(&only).is_some(), "{:?}", String::from_utf8_lossy(&only.payload));
}

#[test]
fn a_charset_is_honoured() {
    // 봉수 in EUC-KR and in ISO-2022-KR's sibling of the web, and é in Latin-1.
    let table: [(&str, &[u8], &str); 3] = [
        ("euc-kr", b"\xba\xc0\xbc\xf6", "봉수"),
        ("ks_c_5601-1987", b"\xba\xc0\xbc\xf6", "봉수"),
        ("iso-8859-1", b"caf\xe9", "café"),
    ];
    for (charset, bytes, text) in table {
        let mut mail = format!("Subject: x\r\nContent-Type: text/plain; charset={charset}\r\n\r\n").into_bytes();
        mail.extend_from_slice(bytes);
        assert_eq!(read(&mail).payload, text.as_bytes(), "{charset}");
    }
}

#[test]
fn headers_beside_the_text_are_judged() {
    let table = [
        (
            WORDS,
            "bongsu tracer =?UTF-8?Q?=EB=B4=89=EC=88=98_=C3=A9_=F0=9F=94=A5?=",
            "",
            (Integrity::Equal, WORDS_HEADER),
        ),
        (WORDS, "[list] bongsu tracer =?UTF-8?B?67SJ7IiYIMOpIPCflKU=?=", "", (Integrity::Equal, WORDS_HEADER)),
        (WORDS, "***SPAM*** bongsu tracer 봉수 é 🔥 [EXTERNAL]", "", (Integrity::Equal, WORDS_HEADER)),
        ("?? e ?", "bongsu tracer 봉수 é 🔥", "", (Integrity::Corrupt, WORDS_HEADER)),
        ("?? ? ?", "bongsu tracer 봉수 é 🔥", "", (Integrity::Transcoded, WORDS_HEADER)),
        (WORDS, "bongsu tracer ?? ? ?", "", (Integrity::Transcoded, "Subject")),
        (WORDS, "bongsu tracer", "", (Integrity::Truncated, "Subject")),
        (WORDS, "removed by policy", "", (Integrity::Corrupt, "Subject")),
        (WORDS, "bongsu tracer 봉수 é 🔥", "X-Bongsu-Utf8: 봉수 é 🔥\r\n", (Integrity::Equal, WORDS_HEADER)),
        (WORDS, "bongsu tracer 봉수 é 🔥", "X-Bongsu-Utf8: ?????? ?? ????\r\n", (Integrity::Transcoded, RAW_HEADER)),
        (WORDS, "bongsu tracer 봉수 é 🔥", "X-Bongsu-Utf8: 봉수 é\r\n", (Integrity::Truncated, RAW_HEADER)),
        (
            WORDS,
            "bongsu tracer 봉수 é 🔥",
            "X-Bongsu-Utf8: \u{1107}\u{1169}\u{11bc}수 é 🔥\r\n",
            (Integrity::Normalised, RAW_HEADER),
        ),
    ];
    for (encoded, subject, more, expected) in table {
        let mail = format!("Subject: {subject}\r\nX-Bongsu-Header: {encoded}\r\nX-Bongsu-Tracer: 1\r\n{more}\r\nx");
        assert_eq!(read(mail.as_bytes()).beside, Some(expected), "{mail}");
    }
    assert_eq!(read(b"Subject: lunch\r\n\r\nat noon?").beside, None);
    assert_eq!(HEADER, "봉수 é 🔥", "what the table is made of");
}

/// A report as postfix, exim and Exchange write it; `original` is its last part with its type.
fn report(from: &str, status: &str, original: &str) -> String {
    format!(
        "Return-Path: <>\r\nFrom: {from}\r\nSubject: Undelivered Mail Returned to Sender\r\n\
         Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"4F/mx.example.com\"\r\n\r\n\
         This is a MIME-encapsulated message.\r\n\r\n--4F/mx.example.com\r\nContent-Description: Notification\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\r\nI'm sorry to have to inform you …\r\n\r\n\
         --4F/mx.example.com\r\nContent-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n\r\n\
         Reporting-MTA: dns; mx.example.com\r\nArrival-Date: Sun, 22 Nov 2026 12:00:00 +0900 (KST)\r\n\r\n{status}\r\n\
         --4F/mx.example.com\r\n{original}\r\n--4F/mx.example.com--\r\n"
    )
}

#[test]
fn bounces_name_the_message_and_why() {
    let whole = format!("Content-Type: message/rfc822\r\n\r\n{}", plain());
    let encoded = format!(
        "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n{}",
        base64(plain().as_bytes())
    );
    let postfix = "Final-Recipient: rfc822; probe@example.com\r\nAction: failed\r\nStatus: 5.2.2\r\n\
                   Remote-MTA: dns; lmtp.example.com\r\nDiagnostic-Code: smtp; 552 5.2.2 <probe@example.com> Quota\r\n    exceeded\r\n";
    let exim = "Action: failed\r\nFinal-Recipient: rfc822;probe@example.com\r\nStatus: 5.0.0\r\n";
    let exchange = "Final-Recipient: rfc822;probe@example.com\r\nAction: failed\r\nStatus: 5.1.10\r\n\
                    Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup\r\n";
    let one_of_two =
        format!("Final-Recipient: rfc822; a@example.com\r\nAction: delivered\r\nStatus: 2.0.0\r\n\r\n{postfix}");
    let table = [
        (postfix, &whole, "5.2.2 mailbox full: 552 5.2.2 <probe@example.com> Quota exceeded"),
        (postfix, &encoded, "5.2.2 mailbox full: 552 5.2.2 <probe@example.com> Quota exceeded"),
        (exim, &whole, "5.0.0"),
        (
            exchange,
            &whole,
            "5.1.10 no such mailbox: 550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
        ),
        (one_of_two.as_str(), &whole, "5.2.2 mailbox full: 552 5.2.2 <probe@example.com> Quota exceeded"),
    ];
    for (status, original, line) in table {
        let read = read(report("MAILER-DAEMON@mx.example.com (Mail Delivery System)", status, original).as_bytes());
        assert_eq!(read.nature, Nature::Bounce(line.into()));
        assert_eq!(recognised(&read), Some(Integrity::Equal));
        assert_eq!(read.beside, None);
    }
}

#[test]
fn of_a_bounce_with_headers_alone_the_token_can_be_known() {
    let status = "Final-Recipient: rfc822; a@b\r\nAction: failed\r\nStatus: 5.7.1\r\n";
    let returned = |headers: &str| format!("Content-Type: text/rfc822-headers\r\n\r\n{headers}");
    let without = read(report("MAILER-DAEMON@x", status, &returned(&headers("", ""))).as_bytes());
    assert_eq!((recognised(&without), &without.nature), (None, &Nature::Bounce("5.7.1 refused by policy".into())));
    // The Message-ID holds the token, and so does the identifier of the envelope (RFC 3464, section 2.2.1).
    let token = tracer()[..tracer::TOKEN_BYTES].to_owned();
    let with = headers("", "").replace("<1@", &format!("<{token}@"));
    let cut = format!("Content-Type: message/rfc822\r\n\r\n{with}\r\n\r\n[text omitted]");
    let by_envelope = report("MAILER-DAEMON@x", status, "")
        .replace("Arrival-Date", &format!("Original-Envelope-Id: {token}\r\nArrival-Date"));
    for mail in
        [report("MAILER-DAEMON@x", status, &returned(&with)), report("MAILER-DAEMON@x", status, &cut), by_envelope]
    {
        let named = read(mail.as_bytes());
        assert!(recognised(&named).is_some() && matches!(named.nature, Nature::Bounce(_)), "{mail}");
    }
    // And a mail whose text a filter replaced is ours, and not what was sent.
    let emptied = read(format!("{with}\r\n\r\nThe text was removed.\r\n").as_bytes());
    assert_eq!((recognised(&emptied), emptied.nature), (Some(Integrity::Corrupt), Nature::Message));
}

#[test]
fn bounces_in_words_are_known() {
    let quoted = plain();
    let qmail = format!(
        "Return-Path: <>\r\nFrom: MAILER-DAEMON@mx.example.com\r\nSubject: failure notice\r\n\r\n\
         Hi. This is the qmail-send program at mx.example.com.\r\n\r\n<probe@example.com>:\r\n\
         203.0.113.9 does not like recipient.\r\nRemote host said: 550 sorry, no mailbox here by that name (#5.1.1)\r\n\r\n\
         --- Below this line is a copy of the message.\r\n\r\n{quoted}"
    );
    let exim = format!(
        "From: Mail Delivery System <postmaster@mx.example.com>\r\nX-Failed-Recipients: probe@example.com\r\n\
         Subject: Mail delivery failed: returning message to sender\r\nAuto-Submitted: auto-replied\r\n\r\n\
         A message that you sent could not be delivered.\r\n\r\n  probe@example.com\r\n    mailbox is full: retry timeout exceeded\r\n\r\n{quoted}"
    );
    let nobody = format!(
        "Return-Path: <>\r\nFrom: gate@example.com\r\nSubject: cannot deliver\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nerror 5.4.7 (expired)\r\n\
         --b\r\nContent-Type: message/rfc822\r\n\r\n{quoted}\r\n--b--\r\n"
    );
    let table = [
        (qmail, "Remote host said: 550 sorry, no mailbox here by that name (#5.1.1)"),
        (exim, "Mail delivery failed: returning message to sender"),
        (nobody, "error 5.4.7 (expired)"),
    ];
    for (mail, line) in table {
        let read = read(mail.as_bytes());
        assert_eq!(read.nature, Nature::Bounce(line.into()));
        assert!(recognised(&read).is_some(), "{mail}");
    }
}

#[test]
fn what_machines_and_people_answer_is_no_arrival() {
    let text = crlf(&tracer());
    let quoted: String = text.split_inclusive('\n').map(|line| format!("> {line}")).collect();
    let delayed = "Final-Recipient: rfc822; a@b\r\nAction: delayed\r\nStatus: 4.4.1\r\n";
    let delivered = "Final-Recipient: rfc822; a@b\r\nAction: delivered\r\nStatus: 2.1.5\r\n";
    let whole = format!("Content-Type: message/rfc822\r\n\r\n{}", plain());
    let mails = [
        format!(
            "Return-Path: <>\r\nFrom: probe@example.com\r\nAuto-Submitted: auto-replied (vacation)\r\nSubject: Away\r\n\r\nI am away.\r\n\r\n{text}"
        ),
        format!("From: a@b\r\nPrecedence: auto_reply\r\nSubject: Away\r\n\r\n{text}"),
        format!("From: a@b\r\nX-Autoreply: yes\r\nSubject: Away\r\n\r\n{text}"),
        format!(
            "From: a@b\r\nIn-Reply-To: <1@example.com>\r\nSubject: Re: bongsu tracer\r\n\r\nWhat is this?\r\n{text}"
        ),
        format!("From: a@b\r\nSubject: Re: bongsu tracer\r\n\r\nWhat is this?\r\n{quoted}"),
        report("MAILER-DAEMON@x", delayed, &whole),
        report("MAILER-DAEMON@x", delivered, &whole),
        format!(
            "From: a@b\r\nContent-Type: multipart/report; report-type=disposition-notification; boundary=b\r\n\r\n\
             --b\r\nContent-Type: text/plain\r\n\r\nread\r\n--b\r\nContent-Type: message/disposition-notification\r\n\r\n\
             Disposition: manual-action/MDN-sent-manually; displayed\r\n\r\n--b\r\n{whole}\r\n--b--\r\n"
        ),
    ];
    for mail in mails {
        assert_eq!(read(mail.as_bytes()).nature, Nature::Kept, "{mail}");
    }
    // A tracer that was sent from nobody, or through a gateway that took its headers away, is one all the same.
    let message = [
        format!("Return-Path: <>\r\n{}", plain()),
        format!("From: probe@example.com\r\nSubject: bongsu tracer\r\n\r\n{text}"),
    ];
    for mail in message {
        let read = read(mail.as_bytes());
        assert_eq!((recognised(&read), read.nature), (Some(Integrity::Equal), Nature::Message), "{mail}");
    }
}

#[test]
fn paths_are_read_of_many_servers() {
    let received = "\
Received: from mail.example.com ([192.0.2.7])\r\n\tby store.example.com with LMTP\r\n\tid abc;\r\n\tSun, 22 Nov 2026 12:00:09 +0900\r\n\
Received: from mx.example.com (mx.example.com [192.0.2.5]) (using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n\
\x20by mail.example.com (Postfix) with ESMTPS id 4C1; Sun, 22 Nov 2026 12:00:08 +0900 (KST)\r\n\
Received: from EX1.corp.example (10.0.0.1) by EX2.corp.example (10.0.0.2) with Microsoft SMTP Server\r\n\
\x20(version=TLS1_2, cipher=TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) id 15.2.1118.7; Sun, 22 Nov 2026 02:59:58 +0000\r\n\
Received: by 2002:a05:6e02:1a2d:b0:3a1 with SMTP id s13csp1; Sat, 21 Nov 2026 19:00:03 -0800 (PST)\r\n\
Received: from localhost by relay.example.org with local (Exim 4.96) (envelope-from <a@b>) id 1oX; Sun, 22 Nov 2026 03:00:01 +0000\r\n\
Received: (qmail 12345 invoked by uid 0); 22 Nov 2026 03:00:00 -0000\r\n";
    let read_path = |mail: &str| read(mail.as_bytes()).path;
    let path = read_path(&format!("{received}{}", plain())).expect("a path");
    let expected = json!([
        { "by": "?" },
        { "by": "relay.example.org", "after_s": 1 },
        { "by": "2002:a05:6e02:1a2d:b0:3a1", "after_s": 2 },
        { "by": "EX2.corp.example", "after_s": -5 },
        { "by": "mail.example.com", "after_s": 10 },
        { "by": "store.example.com", "after_s": 1 },
    ]);
    assert_eq!(path, expected);
    assert_eq!(read_path(&plain()), None);
    let looped: String = (0..40).map(|n| format!("Received: by mx{n}.example.com; never\r\n")).collect();
    let path = read_path(&format!("{looped}{}", plain())).expect("a path");
    assert_eq!(path.as_array().map(Vec::len), Some(HOPS_MAX + 1));
    assert_eq!((&path[0], &path[HOPS_MAX]), (&json!({ "by": "mx39.example.com" }), &json!({ "more": 28 })));
}

#[test]
fn what_is_worth_reading_is_told_by_headers() {
    let bounce = report("MAILER-DAEMON@x", "Action: failed\r\nStatus: 5.1.1\r\n", "");
    for (mail, worth) in [
        (plain().as_str(), true),
        (bounce.split("\r\n\r\n").next().expect("headers"), true),
        ("From: MAILER-DAEMON@x\r\nSubject: failure notice\r\n\r\n", true),
        ("From: a@b\r\nSubject: Re: bongsu tracer\r\n\r\n", true),
        ("From: a@b\r\nSubject: lunch\r\n\r\n", false),
        ("", false),
        ("\r\n\r\n", false),
    ] {
        assert_eq!(is_worth_reading(mail.as_bytes()), worth, "{mail}");
    }
}

#[test]
fn nesting_exhausts_nothing() {
    let one = "Content-Type: message/rfc822\r\n\r\n";
    let digest = "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\n";
    let multipart = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n";
    for (layer, times) in [(one, 99), (one, 5_000), (digest, 5_000), (multipart, 2_000)] {
        let mail = format!("Subject: x\r\n{}{}", layer.repeat(times), plain());
        let on_a_small_stack = std::thread::Builder::new().stack_size(512 * 1024).spawn(move || {
            let read = read(mail.as_bytes());
            assert!(read.payload.len() <= MAIL_BYTES_MAX);
        });
        on_a_small_stack.expect("a thread").join().expect("no panic");
    }
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = read(&bytes);
        let _ = is_worth_reading(&bytes);
    }

    #[test]
    fn a_mail_cut_or_changed_anywhere_is_read(
        which in 0..3_usize, at in 0..8_000_usize, byte in any::<u8>(), cut in any::<bool>()
    ) {
        let whole = format!("Content-Type: message/rfc822\r\n\r\n{}", plain());
        let mails = [plain(), report("MAILER-DAEMON@x", "Action: failed\r\nStatus: 5.1.1\r\n", &whole), format!("Received: by x; x\r\n{}", plain())];
        let mut mail = mails[which].clone().into_bytes();
        let at = at % mail.len();
        if cut { mail.truncate(at) } else { mail[at] = byte }
        let read = read(&mail);
        prop_assert!(read.payload.len() <= MAIL_BYTES_MAX);
    }
}
