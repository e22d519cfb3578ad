//! `http` against a real nginx, plain and by TLS.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bongsu::{
    observation::{Kind, Outcome, Phase},
    protocol::wire::Family,
};

use crate::harness::{
    Server,
    certs::Authority,
    free_port,
    probing::{Probing, probe},
    scratch, write,
};

/// What an attempt should tell.
type Told = Result<(), (Kind, &'static str)>;

/// A running nginx: its plain port, its TLS port, and the PEM file of the authority behind the latter.
pub struct Nginx {
    server: Server,
    pub plain: u16,
    tls: u16,
    ca: String,
}

pub fn nginx() -> Nginx {
    let dir = scratch();
    let path = dir.path().display().to_string();
    let (plain, tls) = (free_port(), free_port());
    let authority = Authority::new();
    let pair = authority.server(&["localhost", "127.0.0.1"], -1, 40);
    write(dir.path(), "cert.pem", &pair.certificate);
    write(dir.path(), "key.pem", &pair.key);
    let ca = write(dir.path(), "ca.pem", &authority.pem()).display().to_string();
    write(dir.path(), "users", "probe:{PLAIN}word\n");
    write(dir.path(), "www/big.txt", &"0123456789".repeat(300_000));
    let config = format!(
        r#"
daemon off; pid {path}/pid; error_log stderr warn; worker_processes 1; user nobody nogroup;
events {{ worker_connections 64; }}
http {{
  access_log off; ssl_protocols TLSv1.2 TLSv1.3; client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f;
  uwsgi_temp_path {path}/u; scgi_temp_path {path}/s; default_type text/plain; gzip on; gzip_types text/plain;
  server {{
    listen 127.0.0.1:{plain}; listen [::1]:{plain}; listen 127.0.0.1:{tls} ssl http2; listen [::1]:{tls} ssl http2;
    ssl_certificate {path}/cert.pem; ssl_certificate_key {path}/key.pem; root {path}/www;
    location = / {{ return 200 "all beacons quiet\n"; }}
    location = /json {{ default_type application/json; return 200 '{{"ok": false, "queue": {{"depth": 3}}}}'; }}
    location = /500 {{ return 500; }}
    location = /old {{ return 301 /; }}
    location = /loop {{ return 302 /loop2; }}
    location = /loop2 {{ return 302 /loop; }}
    location = /up {{ return 307 https://localhost:{tls}/; }}
    location = /method {{ return 200 $request_method; }}
    location = /private {{ auth_basic "x"; auth_basic_user_file {path}/users; try_files /big.txt =404; }}
  }}
}}
"#
    );
    let config = write(dir.path(), "nginx.conf", &config).display().to_string();
    let ready = SocketAddr::from((Ipv4Addr::LOCALHOST, plain));
    let args = ["-p", &path, "-c", &config, "-e", "stderr"];
    let server = Server::start("nginx-light", "nginx", &args, dir, ready);
    Nginx { server, plain, tls, ca }
}

#[test]
fn a_real_web_server_is_judged() {
    let nginx = nginx();
    let base = format!("http://127.0.0.1:{}", nginx.plain);
    let table: &[(&str, &str, Told)] = &[
        ("/", "expect: { status: 200, body: { contains: beacons } }", Ok(())),
        ("/", "expect: { headers: { server: { matches: '^nginx' } }, body: { equals: all beacons quiet } }", Ok(())),
        ("/", "version: 1.1", Ok(())),
        ("/500", "", Err((Kind::Unexpected, "status 500, expected 2xx, 3xx"))),
        ("/500", "expect: { status: 5xx }", Ok(())),
        ("/none", "", Err((Kind::Unexpected, "status 404, expected 2xx, 3xx"))),
        ("/old", "expect: { status: 200 }", Ok(())),
        ("/old", "expect: { status: 301 }", Ok(())),
        ("/loop", "", Err((Kind::Protocol, "redirect loop: back to http://127.0.0.1:"))),
        ("/json", "expect: { body: { json: { $.queue.depth: { at_most: 5 } } } }", Ok(())),
        (
            "/json",
            "expect: { body: { json: { $.ok: true } } }",
            Err((Kind::Unexpected, "$.ok is false, expected true")),
        ),
        ("/method", "method: HEAD", Ok(())),
        ("/method", "{ method: PUT, body: x, expect: { body: { equals: PUT } } }", Ok(())),
        ("/private", "", Err((Kind::Unexpected, "status 401, expected 2xx, 3xx"))),
        ("/private", "{ username: probe, password: word }", Ok(())),
        ("/big.txt", "", Ok(())),
        ("/big.txt", "expect: { body: { contains: z } }", Err((Kind::TooLarge, "the body is longer than body_max"))),
        ("/big.txt", "{ body_max: 4000000, expect: { body: { matches: '^[0-9]+$' } } }", Ok(())),
    ];
    for (path, rest, expected) in table {
        let rest = rest.trim_matches(['{', '}']);
        // Braces of an `expect` that ends the options are its own.
        let rest =
            if rest.matches('{').count() > rest.matches('}').count() { format!("{rest}}}") } else { rest.into() };
        let seen = probe("http", &format!("{{ url: \"{base}{path}\", {rest} }}"));
        match expected {
            Ok(()) => assert_eq!(seen.outcome(), Outcome::Ok, "{path} {rest}: {seen:?}"),
            Err((kind, text)) => {
                assert_eq!(seen.reason().kind, *kind, "{path} {rest}: {seen:?}");
                assert!(seen.reason().text.starts_with(text), "{path} {rest}: {seen:?}");
            }
        }
    }
}

#[test]
fn phases_are_told_apart_by_tls_over_either_version() {
    let nginx = nginx();
    for (version, agreed) in [("1.1", "http/1.1"), ("2", "h2")] {
        let yaml = format!(
            "{{ url: \"https://localhost:{}/\", version: {version}, tls: {{ ca: {} }}, expect: {{ certificate_days: 30 }} }}",
            nginx.tls, nginx.ca
        );
        let seen = probe("http", &yaml);
        assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
        assert_eq!(seen.phases(), [Phase::Resolve, Phase::Connect, Phase::Tls, Phase::Exchange], "{seen:?}");
        let facts = seen.observation.tls.as_ref().expect("facts of TLS");
        assert_eq!((facts.version.as_str(), facts.alpn.as_deref()), ("1.3", Some(agreed)));
        assert_eq!(facts.days_left, Some(40));
        assert_eq!(facts.issuer.as_deref(), Some("CN=bongsu test CA"));
        // No time is lost between the phases.
        let sum: Duration = seen.observation.phases.iter().map(|p| p.took).sum();
        assert!(seen.observation.duration < sum + Duration::from_millis(100), "{seen:?}");
    }
    let yaml = format!(
        "{{ url: \"https://localhost:{}/\", tls: {{ ca: {} }}, expect: {{ certificate_days: 60 }} }}",
        nginx.tls, nginx.ca
    );
    let seen = probe("http", &yaml);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Tls, Kind::Certificate), "{seen:?}");
    assert!(seen.reason().text.starts_with("the certificate is valid for 40 more days"), "{seen:?}");

    let seen = probe("http", &format!("url: \"https://localhost:{}/\"", nginx.tls));
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Tls, Kind::Certificate), "{seen:?}");
    assert!(seen.reason().text.contains("issuer is not trusted here"), "{seen:?}");
    assert_eq!(seen.observation.tls.as_ref().and_then(|t| t.days_left), Some(40), "told although refused: {seen:?}");

    let yaml = format!("{{ url: \"http://127.0.0.1:{}/up\", tls: {{ ca: {} }} }}", nginx.plain, nginx.ca);
    let seen = probe("http", &yaml);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert!(seen.phases().contains(&Phase::Tls));
}

#[test]
fn both_families_are_told_apart() {
    let nginx = nginx();
    for (family, address) in [(Family::V4, "127.0.0.1"), (Family::V6, "[::1]")] {
        let probing = Probing { family, ..Probing::default() };
        let seen = probing.run("http", &format!("url: \"http://localhost:{}/\"", nginx.plain));
        assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
        let expected = format!("{address}:{}", nginx.plain);
        assert_eq!(seen.observation.address.map(|a| a.to_string()), Some(expected));
    }
}

#[test]
fn a_stopped_and_a_hung_server_are_told_apart() {
    let mut nginx = nginx();
    let url =
        |scheme: &str, port: u16| format!("{{ url: \"{scheme}://127.0.0.1:{port}/\", tls: {{ ca: {} }} }}", nginx.ca);
    let (http, https) = (url("http", nginx.plain), url("https", nginx.tls));
    let probing = Probing { timeout: Duration::from_secs(2), ..Probing::default() };
    // The workers answer, so they are the ones to stop; the kernel still accepts connections for them.
    let master = nginx.server.id().to_string();
    let signal = |name: &str| {
        let status = std::process::Command::new("pkill").args([name, "-P", &master]).status();
        assert!(status.expect("procps is there").success(), "pkill {name}");
    };
    assert_eq!(probe("http", &http).outcome(), Outcome::Ok, "a worker is there");
    signal("-STOP");
    let seen = probing.run("http", &http);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Exchange, Kind::Timeout), "{seen:?}");
    let seen = probing.run("http", &https);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Tls, Kind::Timeout), "{seen:?}");
    assert_eq!(probing.run("tcp", &format!("url: tcp://127.0.0.1:{}", nginx.plain)).outcome(), Outcome::Ok);
    signal("-CONT");
    assert_eq!(probe("http", &http).outcome(), Outcome::Ok);
    nginx.server.stop();
    let seen = probing.run("http", &http);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Connect, Kind::Refused), "{seen:?}");
    assert!(seen.reason().text.contains("127.0.0.1"), "{seen:?}");
}
