//! `tls`: the handshake, and how long the certificate still holds.
//!
//! Success proves that a new connection is accepted, that the chain leads to a root trusted here, that the certificate
//! is for this name, for use by a server, and valid for at least `days` more, and that the version and the ALPN
//! protocol are as wanted. It does not prove that anything answers behind the handshake.
//!
//! The dialogue (RFC 8446, 5280, 6125, 7301): resolve → connect → tls. Nothing is sent after the handshake, and nothing
//! is left on the server.
//!
//! Beside the server's own certificate, those above it that it sends are looked at: the whole chain fails when one of
//! them ends. One that has already ended does no harm when the rest was accepted without it.
//!
//! ```yaml
//! tls: { url: "tls://mx.example.com:465", days: 14 }
//! ```

use rustls::pki_types::CertificateDer;
use schemars::JsonSchema;
use serde::Deserialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    observation::{Kind, Phase, Reason, TlsFacts},
    options::Options,
    protocol::{
        Attempt, Boxed, Probe, Protocol,
        wire::{Address, Endpoint, Scheme, TlsOptions, days_between, expiry},
    },
    value::Timestamp,
};

/// Days by default: the usual automatic renewal comes a month before the end, so two weeks mean that it has failed.
pub const DAYS: u32 = 14;

/// Longest name of an ALPN protocol (RFC 7301, section 3.1).
const ALPN_BYTES_MAX: usize = 255;

const SCHEMES: &[Scheme] = &[Scheme { name: "tls", port: Some(443), tls: true }];

/// The registry's entry.
pub static TLS: Protocol = Protocol {
    name: "tls",
    schemes: &["tls"],
    summary: "make a TLS handshake and test the certificate",
    proves: "The certificate's chain leads to a trusted root, it is for this name and valid long enough, and the \
             handshake agrees on the version and ALPN protocol wanted. It does not prove that anything answers behind \
             the handshake.",
    example: "- name: certificate\n  tls: { url: \"tls://mx.example.com:465\", days: 14 }\n",
    probe_schema: Some(|generator| generator.subschema_for::<TlsProbeOptions>()),
    send_schema: None,
    receive_schema: None,
    probe: Some(|options| Some(Box::new(TlsProbe::build(options)?))),
    send: None,
    receive: None,
};

/// Options of `tls`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsProbeOptions {
    /// Where to connect: `tls://host:port`; without a port, 443.
    pub url: String,
    /// Least number of days that the certificate, and those above it, must still be valid for (default 14).
    #[serde(default = "days")]
    pub days: u32,
    /// ALPN protocols to offer, such as `h2`; one of them must be agreed on.
    #[serde(default)]
    pub alpn: Vec<String>,
    /// Whom to trust, which name to expect, which version to insist on.
    #[serde(default)]
    pub tls: TlsOptions,
}

fn days() -> u32 {
    DAYS
}

/// A resolved `tls` probe.
struct TlsProbe {
    endpoint: Endpoint,
    days: u32,
    alpn: Vec<String>,
}

impl TlsProbe {
    fn build(options: &mut Options<'_>) -> Option<Self> {
        let raw: TlsProbeOptions = options.read()?;
        let address = Address::read(options, "url", &raw.url, SCHEMES);
        let bad = raw.alpn.iter().find(|name| name.is_empty() || name.len() > ALPN_BYTES_MAX);
        if bad.is_some() {
            let text = format!("the name of an ALPN protocol has 1 to {ALPN_BYTES_MAX} bytes");
            options.problem("alpn", text, Some("write names such as h2 or http/1.1"));
        }
        let alpn: Vec<&str> = raw.alpn.iter().map(String::as_str).collect();
        let tls = raw.tls.client(&mut options.child("tls"), &alpn);
        if bad.is_some() {
            return None;
        }
        let (address, tls) = (address?, tls?);
        Some(Self { endpoint: address.endpoint(Some(tls)), days: raw.days, alpn: raw.alpn })
    }

    async fn attempt(&self, cx: &mut Attempt) -> Result<(), Reason> {
        let _stream = cx.dial(&self.endpoint).await?;
        let links = links(&cx.chain());
        let at = cx.at();
        cx.detail("chain", links.iter().map(|link| link.subject.as_str()).collect::<Vec<_>>().join(" ← "));
        let facts = cx.tls_facts().cloned();
        judge(facts.as_ref(), &links, &self.alpn, self.days, at).map_err(|(kind, text)| {
            let reason = cx.fail(kind, text);
            Reason { phase: Phase::Tls, ..reason }
        })
    }
}

impl Probe for TlsProbe {
    fn target(&self) -> String {
        format!("tls://{}", self.endpoint)
    }

    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
        Box::pin(self.attempt(cx))
    }
}

/// One certificate of a chain.
#[derive(Clone, Debug)]
struct Link {
    subject: String,
    not_after: Timestamp,
}

fn links(chain: &[CertificateDer<'_>]) -> Vec<Link> {
    let parsed = chain.iter().filter_map(|der| X509Certificate::from_der(der).ok());
    parsed
        .map(|(_, certificate)| Link { subject: certificate.subject().to_string(), not_after: expiry(&certificate) })
        .collect()
}

/// Judges an accepted handshake.
fn judge(
    facts: Option<&TlsFacts>,
    links: &[Link],
    alpn: &[String],
    days: u32,
    at: Timestamp,
) -> Result<(), (Kind, String)> {
    let agreed = facts.and_then(|facts| facts.alpn.as_deref());
    if !alpn.is_empty() && agreed.is_none() {
        let text = format!("no ALPN protocol was agreed on, expected {}", alpn.join(" or "));
        return Err((Kind::Unexpected, text));
    }
    let Some(leaf) = links.first() else {
        return Err((Kind::Certificate, "the certificate cannot be read".into()));
    };
    let left = |link: &Link| days_between(at, link.not_after);
    let ends = |link: &Link| {
        let until = link.not_after.to_seconds_text();
        match left(link) {
            days if days < 0 => format!("ended on {until}"),
            days => format!("is valid for {days} more days (until {until})"),
        }
    };
    if left(leaf) < i64::from(days) {
        return Err((Kind::Certificate, format!("the certificate {}, expected at least {days} more", ends(leaf))));
    }
    let above = links[1..].iter().filter(|link| link.not_after > at).min_by_key(|link| link.not_after);
    match above {
        Some(link) if left(link) < i64::from(days) => {
            let text =
                format!("the certificate above it, {}, {}, expected at least {days} more", link.subject, ends(link));
            Err((Kind::Certificate, text))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::{problems, run, serve, silent};

    fn link(subject: &str, days: i64) -> Link {
        Link { subject: subject.into(), not_after: Timestamp::from_millis(days * 86_400_000) }
    }

    #[test]
    fn handshakes_are_judged() {
        let at = Timestamp::from_millis(100 * 86_400_000);
        let facts = |alpn: Option<&str>| TlsFacts {
            version: "1.3".into(),
            cipher: None,
            alpn: alpn.map(Into::into),
            subject: None,
            issuer: None,
            not_after: None,
            days_left: None,
        };
        let good = || vec![link("CN=a", 190), link("CN=ca", 1_000)];
        let h2: &[&str] = &["h2"];
        type Row = (Option<&'static str>, Vec<Link>, &'static [&'static str], u32, Result<(), &'static str>);
        let table: &[Row] = &[
            (None, good(), &[], 14, Ok(())),
            (Some("h2"), good(), h2, 14, Ok(())),
            (None, good(), h2, 14, Err("no ALPN protocol was agreed on, expected h2")),
            (None, vec![link("CN=a", 114)], &[], 14, Ok(())),
            (
                None,
                vec![link("CN=a", 113)],
                &[],
                14,
                Err(
                    "the certificate is valid for 13 more days (until 1970-04-24 00:00:00Z), expected at least 14 more",
                ),
            ),
            (
                None,
                vec![link("CN=a", 50)],
                &[],
                0,
                Err("the certificate ended on 1970-02-20 00:00:00Z, expected at least 0 more"),
            ),
            (
                None,
                vec![link("CN=a", 190), link("CN=ca", 105)],
                &[],
                14,
                Err(
                    "the certificate above it, CN=ca, is valid for 5 more days (until 1970-04-16 00:00:00Z), expected at least 14 more",
                ),
            ),
            // A cross-signature that has ended, sent for old clients.
            (None, vec![link("CN=a", 190), link("CN=old", 50)], &[], 14, Ok(())),
            (None, vec![], &[], 14, Err("the certificate cannot be read")),
        ];
        for (n, (agreed, links, alpn, days, expected)) in table.iter().enumerate() {
            let alpn: Vec<String> = alpn.iter().map(ToString::to_string).collect();
            let got = judge(Some(&facts(*agreed)), links, &alpn, *days, at).map_err(|(_, text)| text);
            assert_eq!(got, expected.map_err(String::from), "row {n}");
        }
    }

    #[test]
    fn peers_without_tls_are_told_apart() {
        use std::io::Write;
        let table = [
            (
                // What is left unread at a close makes it a reset.
                serve(|mut s| {
                    let _ = s.shutdown(std::net::Shutdown::Write);
                    let _ = std::io::copy(&mut s, &mut std::io::sink());
                }),
                Kind::Closed,
                "closed the connection during the TLS handshake",
            ),
            (serve(|mut s| drop(s.write_all(b"\xff".repeat(300).as_slice()))), Kind::Handshake, "does not speak TLS"),
            (
                serve(|mut s| {
                    use std::io::Read;
                    let _ = s.read(&mut [0; 1]);
                    // Closing with a zero linger time resets the connection.
                    let socket = socket2::SockRef::from(&s);
                    socket.set_linger(Some(std::time::Duration::ZERO)).expect("a socket");
                }),
                Kind::Reset,
                "reset the connection during the TLS handshake",
            ),
            // The alert handshake_failure (RFC 8446, section 6).
            (
                serve(|mut s| {
                    use std::io::Read;
                    let _ = s.read(&mut [0; 1024]);
                    drop(s.write_all(&[21, 3, 3, 0, 2, 2, 40]));
                    let _ = s.read(&mut [0; 1024]);
                }),
                Kind::Handshake,
                "alert HandshakeFailure",
            ),
            (silent(), Kind::Timeout, "TLS handshake from 127.0.0.1:"),
        ];
        for (address, kind, text) in table {
            let seen = run(&TLS, &format!("url: tls://{address}"), 400);
            assert_eq!((seen.reason().phase, seen.reason().kind), (Phase::Tls, kind), "{seen:?}");
            assert!(seen.reason().text.contains(text), "{seen:?}");
        }
    }

    #[test]
    fn mistakes_in_the_options_are_told() {
        let table = [
            ("url: https://h", "url: the scheme `https` does not fit here"),
            ("{ url: 'tls://h', alpn: [''] }", "alpn: the name of an ALPN protocol"),
            ("{ url: 'tls://h', tls: { min_version: 1.1 } }", "tls.min_version: `1.1` is no version of TLS"),
            ("{ url: 'tls://h', tls: { key: a.pem } }", "tls.key: a key needs its certificate"),
            ("{ url: 'tls://h', tls: { server_name: 'a b' } }", "tls.server_name: `a b` is no host name"),
            ("{ url: 'tls://h', days: -1 }", "days: the number -1 does not fit"),
        ];
        for (yaml, expected) in table {
            let got = problems(&TLS, yaml);
            assert!(got.iter().any(|p| p.contains(expected)), "{yaml}: {got:?}");
        }
    }
}
