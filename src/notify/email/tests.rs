//! E-mail by real sockets: a scripted mail server, and mails read back by another library.

use std::path::Path;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use super::*;
use crate::{
    alert::MessageKind,
    notify::{testing, text::tests::alert},
    options::Segment,
    value::Masker,
};

/// A scripted mail server: the first line of the script is its greeting; then, for each command, the first entry
/// whose command the line begins with gives the answer. `None` hangs, an empty answer closes.
struct Script {
    greeting: &'static str,
    answers: Vec<(&'static str, Option<&'static str>)>,
}

/// An obliging server, with these exceptions.
fn script(exceptions: &[(&'static str, Option<&'static str>)]) -> Script {
    let mut answers = exceptions.to_vec();
    answers.extend([
        ("EHLO", Some("250-mx.example.com\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n")),
        ("AUTH", Some("235 2.7.0 in\r\n")),
        ("MAIL", Some("250 2.1.0 ok\r\n")),
        ("RCPT", Some("250 2.1.5 ok\r\n")),
        ("DATA", Some("354 go on\r\n")),
        (".", Some("250 2.0.0 queued\r\n")),
        ("QUIT", Some("221 bye\r\n")),
    ]);
    Script { greeting: "220 mx.example.com\r\n", answers }
}

/// Serves one connection; returns the commands and the mail.
async fn serve(listener: &TcpListener, script: Script) -> Vec<String> {
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut stream = BufReader::new(stream);
    let mut said = Vec::new();
    let _ = stream.write_all(script.greeting.as_bytes()).await;
    let mut in_mail = false;
    loop {
        let mut line = String::new();
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            return said;
        }
        let command = line.trim_end().to_owned();
        said.push(command.clone());
        if in_mail && command != "." {
            continue;
        }
        let Some((_, answer)) = script.answers.iter().find(|(start, _)| command.starts_with(start)) else {
            let _ = stream.write_all(b"502 what?\r\n").await;
            continue;
        };
        in_mail = command == "DATA" && answer.is_some_and(|a| a.starts_with('3'));
        match answer {
            Some("") => return said,
            Some(answer) => {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
            None => {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                return said;
            }
        }
    }
}

const PARTIES: &str = "from: 봉수 <bongsu@example.com>\nto: [a@example.com, b@example.com]\n";

/// Delivers the message once to each of these servers, over the same channel.
async fn play(scheme: &str, more: &str, scripts: Vec<Script>) -> (Vec<Attempted>, Vec<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let yaml = format!("url: {scheme}://127.0.0.1:{port}\nhelo: bongsu.example.com\n{PARTIES}{more}");
    let channel = testing::build(&EMAIL, &yaml, Path::new(".")).expect("good options");
    let net = testing::net(Masker::default());
    let message = testing::message(alert(MessageKind::Problem));
    let times = scripts.len();
    let deliver = async {
        let mut results = Vec::new();
        for _ in 0..times {
            results.push(channel.deliver(&net, &message).await);
        }
        results
    };
    let serving = async {
        let mut said = Vec::new();
        for script in scripts {
            said.push(serve(&listener, script).await);
        }
        said
    };
    tokio::join!(deliver, serving)
}

#[tokio::test]
async fn a_mail_goes_through_the_whole_dialogue() {
    let (results, said) = play("smtp", "username: u\npassword: p\ncc: [c@example.com]", vec![script(&[])]).await;
    assert_eq!(results, [Attempted::Delivered]);
    let commands: Vec<&str> = said[0].iter().map(String::as_str).collect();
    assert_eq!(
        commands[..7],
        [
            "EHLO bongsu.example.com",
            "AUTH PLAIN AHUAcA==",
            "MAIL FROM:<bongsu@example.com>",
            "RCPT TO:<a@example.com>",
            "RCPT TO:<b@example.com>",
            "RCPT TO:<c@example.com>",
            "DATA"
        ]
    );
    assert_eq!(commands.last(), Some(&"QUIT"));
    assert!(commands.contains(&"X-Bongsu-Key: seoul-1.12.ops.0"), "{commands:?}");
}

#[tokio::test]
async fn replies_are_judged_by_what_they_are_about() {
    let greeted = |greeting| Script { greeting, ..script(&[]) };
    // the server; whether it is tried again; what is told
    let table = [
        (greeted("554 5.7.1 listed\r\n"), true, "greeting: 554 5.7.1 listed"),
        (greeted("421 busy\r\n"), true, "greeting: 421 busy"),
        (greeted("HTTP/1.1 400 Bad Request\r\n"), true, "greeting: "),
        (greeted(""), true, "greeting: "),
        (script(&[("EHLO", Some("550 who?\r\n"))]), true, "greeting: 550 who?"),
        (script(&[("AUTH", Some("535 5.7.8 bad\r\n"))]), true, "login: AUTH as u: 535 5.7.8 bad"),
        (script(&[("EHLO", Some("250 mx\r\n"))]), true, "login: the server offers neither AUTH PLAIN nor AUTH LOGIN"),
        (script(&[("MAIL", Some("451 later\r\n"))]), true, "MAIL FROM: 451 later"),
        (script(&[("MAIL", Some("550 5.1.8 no\r\n"))]), false, "MAIL FROM: 550 5.1.8 no"),
        (
            script(&[("RCPT", Some("550 5.1.1 none\r\n"))]),
            false,
            "a@example.com: 550 5.1.1 none; b@example.com: 550 5.1.1 none",
        ),
        (script(&[("RCPT", Some("450 grey\r\n"))]), true, "a@example.com: 450 grey; b@example.com: 450 grey"),
        (script(&[("DATA", Some("554 no\r\n"))]), false, "DATA: 554 no"),
        (script(&[(".", Some("552-5.3.4 too\r\n552 5.3.4 large\r\n"))]), false, "the mail: 552 5.3.4 too"),
        (script(&[(".", Some("452 full\r\n"))]), true, "the mail: 452 full"),
        (script(&[(".", Some(""))]), true, "the mail: the server closed the connection"),
        (script(&[("MAIL", Some("nonsense\r\n"))]), true, "MAIL FROM: "),
    ];
    for (script, again, expected) in table {
        // An empty greeting with a closed connection: the script ends at once.
        let (results, _) = if script.greeting.is_empty() {
            closing().await
        } else {
            play("smtp", "username: u\npassword: p", vec![script]).await
        };
        let (retry, error) = match &results[0] {
            Attempted::Delivered => panic!("delivered where `{expected}` is expected"),
            Attempted::Retry { error, .. } => (true, error),
            Attempted::Refused { error } => (false, error),
        };
        assert_eq!(retry, again, "{error}");
        assert!(error.starts_with("127.0.0.1:") && error.contains(expected), "`{error}` lacks `{expected}`");
    }
}

async fn closing() -> (Vec<Attempted>, Vec<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let yaml = format!("url: smtp://127.0.0.1:{port}\n{PARTIES}");
    let channel = testing::build(&EMAIL, &yaml, Path::new(".")).expect("good options");
    let net = testing::net(Masker::default());
    let message = testing::message(alert(MessageKind::Problem));
    let accept = async { drop(listener.accept().await.expect("a connection")) };
    let (result, ()) = tokio::join!(channel.deliver(&net, &message), accept);
    (vec![result], Vec::new())
}

#[tokio::test]
async fn one_bad_recipient_does_not_keep_the_mail_from_the_others() {
    let refused = script(&[("RCPT TO:<a@", Some("550 5.1.1 none\r\n"))]);
    let (results, said) = play("smtp", "", vec![refused]).await;
    assert_eq!(results, [Attempted::Delivered]);
    assert!(said[0].iter().any(|line| line == "DATA"));

    let deferred = script(&[("RCPT TO:<a@", Some("450 4.2.0 greylisted\r\n"))]);
    let (results, said) = play("smtp", "", vec![deferred, script(&[])]).await;
    let Attempted::Retry { error, .. } = &results[0] else { panic!("{results:?}") };
    assert!(error.ends_with("a@example.com: 450 4.2.0 greylisted (1 others have it)"), "{error}");
    assert_eq!(results[1], Attempted::Delivered);
    let again: Vec<&String> = said[1].iter().filter(|line| line.starts_with("RCPT")).collect();
    assert_eq!(again, ["RCPT TO:<a@example.com>"], "who has it is not sent it again");
}

#[tokio::test]
async fn without_starttls_nothing_is_sent() {
    let (results, said) = play("smtp+starttls", "username: u\npassword: p", vec![script(&[])]).await;
    assert!(
        matches!(&results[0], Attempted::Retry { error, .. } if error.contains("does not offer STARTTLS")),
        "{results:?}"
    );
    assert_eq!(said[0], ["EHLO bongsu.example.com"], "no password, no mail");
    let injected =
        script(&[("EHLO", Some("250-mx\r\n250 STARTTLS\r\n")), ("STARTTLS", Some("220 go\r\n250 injected\r\n"))]);
    let (results, _) = play("smtp+starttls", "", vec![injected]).await;
    assert!(matches!(&results[0], Attempted::Retry { error, .. } if error.contains("plain text after")), "{results:?}");
    let endless = Script { greeting: ENDLESS.get_or_init(|| "220-x\r\n".repeat(20_000)), ..script(&[]) };
    let (results, _) = play("smtp+starttls", "", vec![endless]).await;
    assert!(matches!(&results[0], Attempted::Retry { error, .. } if error.contains("no end")), "{results:?}");
}

static ENDLESS: std::sync::OnceLock<String> = std::sync::OnceLock::new();

#[tokio::test]
async fn replies_without_an_end_are_bounded() {
    let endless = Script { greeting: ENDLESS.get_or_init(|| "220-x\r\n".repeat(20_000)), ..script(&[]) };
    let (results, _) = play("smtp", "", vec![endless]).await;
    assert!(matches!(&results[0], Attempted::Retry { error, .. } if error.contains("no end")), "{results:?}");
}

#[tokio::test]
async fn the_drop_folder_holds_one_mail_for_each_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let yaml = format!("url: \"file:mail/new\"\n{PARTIES}");
    let channel = testing::build(&EMAIL, &yaml, dir.path()).expect("good options");
    let net = testing::net(Masker::default());
    let message = testing::message(alert(MessageKind::Problem));
    for _ in 0..2 {
        assert_eq!(channel.deliver(&net, &message).await, Attempted::Delivered);
    }
    let files: Vec<_> = std::fs::read_dir(dir.path().join("mail/new")).expect("the folder").flatten().collect();
    assert_eq!(files.len(), 1);
    let bytes = std::fs::read(files[0].path()).expect("the mail");
    let mail = mail_parser::MessageParser::default().parse(&bytes).expect("a mail");
    assert_eq!(mail.subject(), Some("[DOWN] 회사 메일: submission: login: 535 5.7.8 <no> \"entry\" & more"));
    std::fs::remove_dir_all(dir.path().join("mail")).expect("own directory");
    std::fs::write(dir.path().join("mail"), "in the way").expect("own directory");
    let result = channel.deliver(&net, &message).await;
    assert!(matches!(&result, Attempted::Retry { error, .. } if error.contains("mail/new")), "{result:?}");
}

#[test]
fn the_target_names_no_secret() {
    let yaml = format!("url: \"smtps://u:hunter2@mx.example.com\"\n{PARTIES}");
    let channel = testing::build(&EMAIL, &yaml, Path::new(".")).expect("good options");
    assert_eq!(channel.target(), "mail to a@example.com, b@example.com by mx.example.com:465");
}

#[test]
fn mistakes_are_told_where_they_stand() {
    let table = [
        ("url: mx.example.com", "url: this is no URL of a mail server or a drop folder"),
        ("url: http://mx", "url: the scheme `http` does not fit here"),
        ("url: 'file:'", "url: the drop folder has no name"),
        ("{ url: 'smtp://mx', username: u }", "username: a user name needs its password"),
        ("{ url: 'smtp://mx', password: u }", "password: a password needs its user name"),
        ("{ url: 'smtp://mx', helo: 'a b' }", "helo: `a b` is no host name"),
        ("{ url: 'smtp://mx', timezone: KST }", "timezone: `KST` is no time zone"),
        ("{ url: 'smtp://mx', from: nobody }", "from: `nobody` is no mail address"),
        ("{ url: 'smtp://mx', from: \"a\\r\\nBcc: x <a@b>\" }", "from: `a  Bcc: x <a@b>` is no mail address"),
        ("{ url: 'smtp://mx', to: [] }", "to: nobody would get this mail"),
        ("{ url: 'smtp://mx', to: ['a b@c'] }", "to: `a b@c` is no mail address"),
        ("{ url: 'smtp://mx', cc: ['<>'] }", "cc: `<>` is no mail address"),
        ("{ url: 'smtp://mx', reply_to: x }", "reply_to: `x` is no mail address"),
        ("{ url: 'smtps://mx', tls: { ca: absent.pem } }", "tls.ca: ./absent.pem cannot be read"),
    ];
    for (yaml, expected) in table {
        let mut value: serde_yaml::Value = serde_yaml::from_str(yaml).expect("YAML");
        let map = value.as_mapping_mut().expect("a mapping");
        for (key, default) in [("from", "\"봉수\" <a@example.com>"), ("to", "[a@example.com]")] {
            if !map.contains_key(key) {
                map.insert(key.into(), serde_yaml::from_str(&default.replace('"', "")).expect("YAML"));
            }
        }
        let yaml = serde_yaml::to_string(&value).expect("YAML");
        let problems = testing::build(&EMAIL, &yaml, Path::new(".")).err().expect(expected);
        let problem = &problems[0];
        let path: Vec<&str> =
            problem.path.iter().map(|s| if let Segment::Key(key) = s { key.as_str() } else { "[]" }).collect();
        let told = format!("{}: {}", path.join("."), problem.text);
        assert!(told.starts_with(expected), "`{told}` is not `{expected}`");
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}

#[test]
fn every_kind_loads_its_own_example() {
    for kind in crate::notify::CHANNEL_KINDS {
        let value: serde_yaml::Value = serde_yaml::from_str(kind.example).expect("YAML");
        let options = serde_yaml::to_string(&value[kind.name]).expect("YAML");
        let channel = testing::build(kind, &options, Path::new(".")).expect(kind.name);
        assert_eq!(channel.kind(), kind.name);
        let schema = (kind.schema)(&mut schemars::SchemaGenerator::default());
        assert!(schema.as_value()["properties"]["url"].is_object(), "{}", kind.name);
    }
}
