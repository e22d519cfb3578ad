//! `tls` and `tcp` against a real nginx with good and bad certificates.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use bongsu::observation::{Kind, Outcome, Phase};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::harness::{
    Server,
    certs::{Authority, Pair, self_signed},
    free_port,
    probing::probe,
    scratch, write,
};

/// One nginx with a TLS port for each of these certificates; the ports, the server, and a directory's path.
fn nginx(pairs: &[Pair], authority: &Authority) -> (Vec<u16>, Server, String) {
    let dir = scratch();
    let path = dir.path().display().to_string();
    let ports: Vec<u16> = pairs.iter().map(|_| free_port()).collect();
    let mut servers = String::new();
    for (n, (pair, port)) in pairs.iter().zip(&ports).enumerate() {
        write(dir.path(), &format!("{n}.pem"), &pair.certificate);
        write(dir.path(), &format!("{n}.key"), &pair.key);
        servers.push_str(&format!(
            "server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {path}/{n}.pem; \
             ssl_certificate_key {path}/{n}.key; ssl_client_certificate {path}/ca.pem; ssl_verify_client optional; \
             location = /who {{ return 200 \"$ssl_client_s_dn\n\"; }} location / {{ return 200 \"ok\\n\"; }} }}\n"
        ));
    }
    write(dir.path(), "ca.pem", &authority.pem());
    let config = format!(
        "daemon off; pid {path}/pid; error_log stderr warn; worker_processes 1; user nobody nogroup;
        events {{ worker_connections 64; }}
        http {{ access_log off; ssl_protocols TLSv1.2 TLSv1.3; client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f;
        uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;\n{servers} }}"
    );
    let config = write(dir.path(), "nginx.conf", &config).display().to_string();
    let ready = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0]));
    let server = Server::start("nginx-light", "nginx", &["-p", &path, "-c", &config, "-e", "stderr"], dir, ready);
    (ports, server, path)
}

#[test]
fn certificates_are_judged_and_told_exactly() {
    let authority = Authority::new();
    let local = &["localhost", "127.0.0.1"];
    let pairs = [
        authority.server(local, -1, 40),
        authority.server(local, -30, -3),
        authority.server(local, 3, 40),
        authority.server(&["mx.example.com", "*.example.net"], -1, 40),
        self_signed(local, false),
        self_signed(local, true),
        authority.client(local),
        authority.server(local, -1, 5),
        authority.server_below(local, 300),
        authority.server_below(local, 5),
    ];
    let (ports, _server, path) = nginx(&pairs, &authority);
    let trusted = format!("tls: {{ ca: {path}/ca.pem }}");
    let table: &[(usize, String, Result<(), &str>)] = &[
        (0, trusted.clone(), Ok(())),
        (0, "tls: { insecure: true }".into(), Ok(())),
        (
            0,
            String::new(),
            Err("the certificate's issuer is not trusted here, or its chain is incomplete: CN=bongsu test CA"),
        ),
        (0, format!("days: 60, {trusted}"), Err("the certificate is valid for 40 more days (until ")),
        (0, format!("alpn: [h2], {trusted}"), Ok(())),
        (0, format!("alpn: [imap], {trusted}"), Err("")),
        (0, format!("tls: {{ ca: {path}/ca.pem, min_version: 1.3 }}"), Ok(())),
        (
            0,
            format!("tls: {{ ca: {path}/ca.pem, server_name: mx.example.org }}"),
            Err("the certificate is for localhost, 127.0.0.1, not for mx.example.org"),
        ),
        (1, trusted.clone(), Err("the certificate expired 2 days ago, on ")),
        (1, "tls: { insecure: true }".into(), Err("the certificate ended on ")),
        (2, trusted.clone(), Err("the certificate is not valid before ")),
        (3, trusted.clone(), Err("the certificate is for mx.example.com, *.example.net, not for localhost")),
        (3, format!("tls: {{ ca: {path}/ca.pem, server_name: a.example.net }}"), Ok(())),
        (4, trusted.clone(), Err("the certificate is self-signed and not trusted here")),
        (5, trusted.clone(), Err("the certificate is self-signed")),
        (4, format!("tls: {{ ca: {path}/4.pem }}"), Ok(())),
        (5, format!("tls: {{ ca: {path}/5.pem }}"), Ok(())),
        (5, format!("tls: {{ ca: {path}/5.pem, server_name: other.test }}"), Err("the certificate is for localhost, ")),
        (6, trusted.clone(), Err("the certificate is not for use by a server")),
        (7, trusted.clone(), Err("the certificate is valid for 5 more days (until ")),
        (7, format!("days: 5, {trusted}"), Ok(())),
        (8, trusted.clone(), Ok(())),
        (9, trusted, Err("the certificate above it, CN=bongsu test intermediate, is valid for 5 more days")),
    ];
    for (n, rest, expected) in table {
        let seen = probe("tls", &format!("{{ url: \"tls://localhost:{}\", {rest} }}", ports[*n]));
        match expected {
            Ok(()) => assert_eq!(seen.outcome(), Outcome::Ok, "{n} {rest}: {seen:?}"),
            Err(text) => {
                assert_eq!(seen.reason().phase, Phase::Tls, "{n} {rest}: {seen:?}");
                let kind = if text.is_empty() { Kind::Handshake } else { Kind::Certificate };
                assert_eq!(seen.reason().kind, kind, "{n} {rest}: {seen:?}");
                assert!(seen.reason().text.starts_with(text), "{n} {rest}: {seen:?}");
                let facts = seen.observation.tls.as_ref().and_then(|facts| facts.not_after);
                assert_eq!(facts.is_some(), !text.is_empty(), "told although refused: {seen:?}");
            }
        }
    }
    let seen = probe("tls", &format!("{{ url: \"tls://127.0.0.1:{}\", tls: {{ ca: {path}/ca.pem }} }}", ports[8]));
    let facts = seen.observation.tls.as_ref().expect("facts of TLS");
    assert_eq!((facts.version.as_str(), facts.cipher.as_deref()), ("1.3", Some("TLS_AES_256_GCM_SHA384")));
    assert_eq!(seen.observation.details["chain"], "CN=localhost ← CN=bongsu test intermediate");
}

#[test]
fn a_dialogue_with_a_real_server() {
    let authority = Authority::new();
    let (ports, _server, path) = nginx(&[authority.server(&["localhost"], -1, 40)], &authority);
    let dialogue = r#"[{ send: "GET / HTTP/1.0\r\nHost: a\r\n\r\n" }, { expect_regex: "^HTTP/1\\.1 200 " }, { expect: "\r\n\r\nok" }]"#;
    let yaml =
        format!("{{ url: \"tcps://localhost:{}\", tls: {{ ca: {path}/ca.pem }}, dialogue: {dialogue} }}", ports[0]);
    let seen = probe("tcp", &yaml);
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    assert_eq!(seen.phases(), [Phase::Resolve, Phase::Connect, Phase::Tls, Phase::Exchange]);
    let plain = format!("{{ url: \"tcp://localhost:{}\", dialogue: {dialogue} }}", ports[0]);
    let seen = probe("tcp", &plain);
    assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Exchange, Kind::Unexpected), "{seen:?}");
    assert!(seen.reason().text.contains("400 Bad Request"), "{seen:?}");
}

#[test]
fn a_client_certificate_is_shown() {
    let authority = Authority::new();
    let (ports, _server, path) = nginx(&[authority.server(&["localhost"], -1, 40)], &authority);
    let client = authority.client(&["probe.test"]);
    let directory = std::path::Path::new(&path);
    write(directory, "client.pem", &client.certificate);
    write(directory, "client.key", &client.key);
    let tls = format!("{{ ca: {path}/ca.pem, certificate: {path}/client.pem, key: {path}/client.key }}");
    let url = format!("https://localhost:{}/who", ports[0]);
    let seen =
        probe("http", &format!("{{ url: \"{url}\", tls: {tls}, expect: {{ body: {{ contains: CN=probe.test }} }} }}"));
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
}

#[test]
fn tls_begins_in_mid_dialogue() {
    let authority = Authority::new();
    let pair = authority.server(&["localhost"], -1, 40);
    let dir = scratch();
    let ca = write(dir.path(), "ca.pem", &authority.pem()).display().to_string();
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain.expect("certificates"), key)
        .expect("a proper pair");
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound listener has an address").port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(b"220 mx ready\r\n").expect("a greeting");
        let mut line = [0; 10];
        stream.read_exact(&mut line).expect("a command");
        assert_eq!(&line, b"STARTTLS\r\n");
        stream.write_all(b"220 go\r\n").expect("an answer");
        let connection = ServerConnection::new(Arc::new(config)).expect("a configuration");
        let mut stream = StreamOwned::new(connection, stream);
        let mut line = [0; 6];
        stream.read_exact(&mut line).expect("a command");
        assert_eq!(&line, b"NOOP\r\n");
        stream.write_all(b"250 ok\r\n").expect("an answer");
        stream.flush().expect("an answer");
        let _ = stream.read(&mut [0]);
    });
    let dialogue = r#"[{ expect: "ready\r\n" }, { send: "STARTTLS\r\n" }, { expect: "220 go\r\n" }, { starttls: true },
        { send: "NOOP\r\n" }, { expect: "250" }]"#;
    let seen =
        probe("tcp", &format!("{{ url: \"tcp://localhost:{port}\", tls: {{ ca: {ca} }}, dialogue: {dialogue} }}"));
    assert_eq!(seen.outcome(), Outcome::Ok, "{seen:?}");
    let expected = [Phase::Resolve, Phase::Connect, Phase::Greeting, Phase::Exchange, Phase::Tls, Phase::Exchange];
    assert_eq!(seen.phases(), expected);
}
