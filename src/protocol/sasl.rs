//! SASL, the client's side: which mechanism is used, and what is said in it.
//!
//! Everything here is pure; a protocol (SMTP, IMAP, POP3, AMQP, XMPP) carries the bytes, in Base64 where it wants so.
//!
//! | mechanism | source | the password |
//! |---|---|---|
//! | `scram-sha-256`, `scram-sha-1` | RFC 7677, RFC 5802 | is proved, and the server proves in turn that it knows it |
//! | `plain`, `login` | RFC 4616, draft-murchison-sasl-login | goes over the wire as it is |
//! | `cram-md5` | RFC 2195 | is proved, in a way that can be guessed at offline |
//! | `xoauth2`, `oauthbearer` | Google's and Microsoft's documents, RFC 7628 | is an OAuth 2.0 access token, and goes over the wire |
//!
//! Where none is asked for, the best of the offered ones is used, in the order SCRAM-SHA-256, SCRAM-SHA-1, PLAIN,
//! LOGIN, CRAM-MD5. PLAIN and LOGIN are left out of that where others could listen: on a connection that is neither
//! encrypted nor ends on this machine ([`is_private`]). Whoever names a mechanism gets it wherever it is offered.
//! Tokens are used only where they are asked for, as nothing tells them from a password.
//!
//! SCRAM is spoken without channel binding. User name and password are prepared by SASLprep (RFC 4013); one that
//! SASLprep refuses goes unchanged, as servers that never prepare one would take it.

use std::net::SocketAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{digest, hmac, pbkdf2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{observation::one_line, value::Secret};

/// Fewest rounds of PBKDF2 accepted (RFC 7677, section 4): fewer would make the proof easy to guess at.
pub const ITERATIONS_MIN: u32 = 4_096;

/// Most rounds accepted: what OWASP asks of a server today. They cost a quarter of a second; a hostile server could
/// ask for an hour.
pub const ITERATIONS_MAX: u32 = 600_000;

/// Longest challenge that is looked at: a nonce, a salt and a number, or a few lines of JSON.
pub const CHALLENGE_BYTES_MAX: usize = 4_096;

/// Random bytes that make a nonce.
pub const NONCE_BYTES: usize = 18;

/// Longest list of offered mechanisms in an error, in characters.
const OFFER_CHARS_MAX: usize = 160;

/// How to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// The password as it is, in one message (RFC 4616).
    Plain,
    /// The password as it is, in two messages.
    Login,
    /// A challenge answered by an HMAC with MD5 (RFC 2195).
    #[serde(rename = "cram-md5")]
    CramMd5,
    /// A salted challenge with SHA-1, which both sides answer (RFC 5802).
    #[serde(rename = "scram-sha-1")]
    ScramSha1,
    /// A salted challenge with SHA-256, which both sides answer (RFC 7677).
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// An OAuth 2.0 access token, in the form of Google and Microsoft.
    #[serde(rename = "xoauth2")]
    XOAuth2,
    /// An OAuth 2.0 access token, in the form of RFC 7628.
    #[serde(rename = "oauthbearer")]
    OAuthBearer,
}

impl Mechanism {
    /// Best first; those that are never chosen unasked are not among them.
    const PREFERENCE: [Self; 5] = [Self::ScramSha256, Self::ScramSha1, Self::Plain, Self::Login, Self::CramMd5];

    /// The name registered with IANA, as servers offer it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::CramMd5 => "CRAM-MD5",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::XOAuth2 => "XOAUTH2",
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }

    /// Whether an onlooker learns the password.
    fn shows_password(self) -> bool {
        matches!(self, Self::Plain | Self::Login | Self::XOAuth2 | Self::OAuthBearer)
    }
}

/// Whether nobody but the two ends can read along: the connection is encrypted, or does not leave this machine.
pub fn is_private(encrypted: bool, peer: Option<SocketAddr>) -> bool {
    encrypted || peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

/// The mechanism to use: the one asked for, or the best of those offered. `private` is what [`is_private`] says.
///
/// # Errors
/// In words, when the server offers none that may be used.
pub fn choose<S: AsRef<str>>(offered: &[S], wanted: Option<Mechanism>, private: bool) -> Result<Mechanism, String> {
    let has = |mechanism: &Mechanism| offered.iter().any(|o| o.as_ref().eq_ignore_ascii_case(mechanism.name()));
    let names: Vec<&str> = offered.iter().map(AsRef::as_ref).collect();
    let list = if names.is_empty() { "none".into() } else { one_line(&names.join(", "), OFFER_CHARS_MAX) };
    if let Some(wanted) = wanted {
        let missing = || format!("the server does not offer {} here; offered: {list}", wanted.name());
        return if has(&wanted) { Ok(wanted) } else { Err(missing()) };
    }
    let mut usable = Mechanism::PREFERENCE.into_iter().filter(has);
    let Some(best) = usable.next() else {
        return Err(format!("the server offers no way to log in that is spoken here; offered: {list}"));
    };
    if private || !best.shows_password() {
        return Ok(best);
    }
    usable.find(|other| !other.shows_password()).ok_or_else(|| {
        format!(
            "the connection is not encrypted, so the password is not sent; use TLS, or say `auth: {}` to send it all the \
             same (offered: {list})",
            best.name().to_ascii_lowercase()
        )
    })
}

/// What to try when the server refused a mechanism that was chosen unasked; empty when there is nothing. Many a server
/// offers SCRAM for all its users, and can do it for none: it keeps hashes of its own, or asks PAM.
pub fn hint<S: AsRef<str>>(chosen: Mechanism, asked: Option<Mechanism>, offered: &[S], private: bool) -> &'static str {
    let has = |mechanism: Mechanism| offered.iter().any(|o| o.as_ref().eq_ignore_ascii_case(mechanism.name()));
    let proves = matches!(chosen, Mechanism::ScramSha256 | Mechanism::ScramSha1);
    match (asked, private && proves) {
        (None, true) if has(Mechanism::Plain) => {
            "; where the password is right, the server may lack SCRAM: `auth: plain`"
        }
        (None, true) if has(Mechanism::Login) => {
            "; where the password is right, the server may lack SCRAM: `auth: login`"
        }
        _ => "",
    }
}

/// A nonce for [`Exchange::new`] from random bytes.
pub fn nonce(random: [u8; NONCE_BYTES]) -> String {
    // 18 bytes make 24 letters without padding, and Base64 has no comma (RFC 5802, section 5.1).
    STANDARD.encode(random)
}

/// One login in progress: [`Exchange::initial`], then [`Exchange::respond`] to each challenge, then
/// [`Exchange::finish`] once the server says that it succeeded.
pub struct Exchange {
    mechanism: Mechanism,
    username: String,
    password: Secret,
    state: State,
    complaint: Option<String>,
}

/// What comes next.
enum State {
    /// The client's first message.
    First,
    /// LOGIN: the password.
    Password,
    /// SCRAM: the server's first message is awaited.
    Salt(Box<Scram>),
    /// SCRAM: the server's proof is awaited.
    Proof(Box<Scram>),
    /// Nothing but the outcome.
    Said,
    /// Nothing: the server said what it must not.
    Failed,
}

/// What SCRAM remembers.
struct Scram {
    nonce: String,
    /// The client's first message without its header.
    bare: String,
    /// What the server's proof is made with, and what it is made of.
    server: Option<(hmac::Key, String)>,
}

impl Exchange {
    /// A login as `username`; for a token, `password` is the token. `nonce` is from [`nonce`], used by SCRAM alone.
    ///
    /// # Errors
    /// In words, when the credentials cannot be said in this mechanism.
    pub fn new(mechanism: Mechanism, username: &str, password: &Secret, nonce: &str) -> Result<Self, String> {
        let controls = |text: &str| text.contains(['\0', '\x01']);
        if controls(username) || controls(password.expose()) {
            return Err("the user name or the password holds a character no login can carry (NUL or ^A)".into());
        }
        let (mut username, mut password) = (username.to_owned(), password.clone());
        let mut state = State::First;
        if matches!(mechanism, Mechanism::ScramSha1 | Mechanism::ScramSha256) {
            username = prepared(&username).replace('=', "=3D").replace(',', "=2C");
            password = Secret::new(prepared(password.expose()));
            let bare = format!("n={username},r={nonce}");
            state = State::Salt(Box::new(Scram { nonce: nonce.into(), bare, server: None }));
        }
        Ok(Self { mechanism, username, password, state, complaint: None })
    }

    /// The mechanism spoken.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// What the client says before any challenge; `None` where the server speaks first. Where a protocol cannot carry
    /// it, the server's first challenge is empty and this is the answer to it.
    pub fn initial(&mut self) -> Option<Vec<u8>> {
        let (user, password) = (&self.username, self.password.expose());
        let text = match (self.mechanism, &self.state) {
            (Mechanism::Plain, State::First) => format!("\0{user}\0{password}"),
            (Mechanism::XOAuth2, State::First) => format!("user={user}\x01auth=Bearer {password}\x01\x01"),
            (Mechanism::OAuthBearer, State::First) => {
                let user = user.replace('=', "=3D").replace(',', "=2C");
                format!("n,a={user},\x01auth=Bearer {password}\x01\x01")
            }
            // Its state stays: the server's first message is awaited.
            (_, State::Salt(scram)) => return Some(format!("n,,{}", scram.bare).into_bytes()),
            _ => return None,
        };
        self.state = State::Said;
        Some(text.into_bytes())
    }

    /// The answer to a challenge. Additional data that comes with the success of a login (XMPP) is one as well.
    ///
    /// # Errors
    /// In words, when the challenge is none of this mechanism, or the server failed to prove that it knows the
    /// password.
    pub fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, String> {
        if challenge.len() > CHALLENGE_BYTES_MAX {
            self.state = State::Failed;
            return Err(format!("a challenge of more than {CHALLENGE_BYTES_MAX} bytes"));
        }
        match (self.mechanism, std::mem::replace(&mut self.state, State::Failed)) {
            (Mechanism::Login, State::First) => {
                self.state = State::Password;
                Ok(self.username.clone().into_bytes())
            }
            (Mechanism::Login, State::Password) => {
                self.state = State::Said;
                Ok(self.password.expose().as_bytes().to_vec())
            }
            (Mechanism::CramMd5, State::First) => {
                self.state = State::Said;
                let proof = hex(&hmac_md5(self.password.expose().as_bytes(), challenge));
                Ok(format!("{} {proof}", self.username).into_bytes())
            }
            (_, State::Salt(mut scram)) => {
                let message = scram.proof(self.mechanism, &self.password, challenge)?;
                self.state = State::Proof(scram);
                Ok(message)
            }
            (_, State::Proof(scram)) => {
                scram.verify(challenge)?;
                self.state = State::Said;
                Ok(Vec::new())
            }
            // The server tells why it refuses the token, and wants an empty (RFC 7628: ^A) answer before it says so.
            (Mechanism::XOAuth2 | Mechanism::OAuthBearer, State::Said) => {
                self.complaint = Some(String::from_utf8_lossy(challenge).into_owned());
                self.state = State::Said;
                Ok(if self.mechanism == Mechanism::OAuthBearer { vec![1] } else { Vec::new() })
            }
            (mechanism, _) => Err(format!("a challenge where none is due in {}", mechanism.name())),
        }
    }

    /// What the server said against a token, in its own words (JSON, most often).
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// Whether the success that the server told may be believed.
    ///
    /// # Errors
    /// In words, when the server has not done what the mechanism asks of it: its proof is missing.
    pub fn finish(&self) -> Result<(), String> {
        match self.state {
            State::Said => Ok(()),
            State::Proof(_) | State::Salt(_) => {
                Err("the server did not prove that it knows the password (SCRAM server signature missing)".into())
            }
            State::Failed => Err("the server says yes after a challenge that is none".into()),
            State::First | State::Password => Err("the server says yes before it has been told a password".into()),
        }
    }
}

impl Scram {
    /// The client's final message, from the server's first one (RFC 5802, sections 3 and 5.1).
    fn proof(&mut self, mechanism: Mechanism, password: &Secret, challenge: &[u8]) -> Result<Vec<u8>, String> {
        let hash = Hash::of(mechanism);
        let first = std::str::from_utf8(challenge).map_err(|_| "a SCRAM challenge that is no text")?;
        let mut parts = first.split(',');
        let mut next = |name: &str| parts.next().and_then(|part| part.strip_prefix(name));
        let nonce = next("r=").ok_or("a SCRAM challenge without a nonce")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the SCRAM challenge answers somebody else's nonce".into());
        }
        let salt = next("s=").and_then(|salt| STANDARD.decode(salt).ok()).filter(|salt| !salt.is_empty());
        let salt = salt.ok_or("a SCRAM challenge without a salt")?;
        let rounds: u32 = next("i=").and_then(|n| n.parse().ok()).ok_or("a SCRAM challenge without its rounds")?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&rounds) {
            return Err(format!(
                "the server asks for {rounds} rounds of SCRAM; from {ITERATIONS_MIN} to {ITERATIONS_MAX} are done"
            ));
        }
        let rounds = std::num::NonZeroU32::new(rounds).expect("at least ITERATIONS_MIN");
        let mut salted = vec![0; hash.bytes];
        pbkdf2::derive(hash.pbkdf2, rounds, &salt, password.expose().as_bytes(), &mut salted);
        let salted = hmac::Key::new(hash.hmac, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(hash.digest, client_key.as_ref());
        // `biws` is `n,,`: no channel binding.
        let bare = format!("c=biws,r={nonce}");
        let message = format!("{},{first},{bare}", self.bare);
        let signature = hmac::sign(&hmac::Key::new(hash.hmac, stored_key.as_ref()), message.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = hmac::sign(&salted, b"Server Key");
        self.server = Some((hmac::Key::new(hash.hmac, server_key.as_ref()), message));
        Ok(format!("{bare},p={}", STANDARD.encode(proof)).into_bytes())
    }

    /// Whether the server's final message proves that it knows the password.
    fn verify(&self, challenge: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(challenge);
        let last = text.split(',').next().unwrap_or_default();
        if let Some(error) = last.strip_prefix("e=") {
            return Err(format!("the server refuses the proof: {error}"));
        }
        let signature = last.strip_prefix("v=").and_then(|signature| STANDARD.decode(signature).ok());
        let proved = signature
            .zip(self.server.as_ref())
            .is_some_and(|(signature, (key, message))| hmac::verify(key, message.as_bytes(), &signature).is_ok());
        if proved { Ok(()) } else { Err("the server does not know the password: its SCRAM signature is wrong".into()) }
    }
}

/// The hash of a SCRAM mechanism.
struct Hash {
    bytes: usize,
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
    digest: &'static digest::Algorithm,
}

impl Hash {
    fn of(mechanism: Mechanism) -> Self {
        match mechanism {
            // SHA-1 is not broken for this use (RFC 5802, section 9, and RFC 7677).
            Mechanism::ScramSha1 => Self {
                bytes: digest::SHA1_OUTPUT_LEN,
                hmac: hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA1,
                digest: &digest::SHA1_FOR_LEGACY_USE_ONLY,
            },
            _ => Self {
                bytes: digest::SHA256_OUTPUT_LEN,
                hmac: hmac::HMAC_SHA256,
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
                digest: &digest::SHA256,
            },
        }
    }
}

fn prepared(text: &str) -> String {
    stringprep::saslprep(text).map_or_else(|_| text.to_owned(), std::borrow::Cow::into_owned)
}

/// HMAC (RFC 2104) with MD5, which ring leaves out as MD5 is broken for signatures; CRAM-MD5 has no other.
fn hmac_md5(key: &[u8], message: &[u8]) -> [u8; 16] {
    const BLOCK_BYTES: usize = 64;
    let mut block = [0; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..16].copy_from_slice(&md5::compute(key).0);
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let keyed = |pad: u8, message: &[u8]| {
        let mut bytes: Vec<u8> = block.iter().map(|byte| byte ^ pad).collect();
        bytes.extend_from_slice(message);
        md5::compute(bytes).0
    };
    keyed(0x5c, &keyed(0x36, message))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exchange(mechanism: Mechanism, username: &str, password: &str, nonce: &str) -> Exchange {
        Exchange::new(mechanism, username, &Secret::new(password), nonce).expect("good credentials")
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn what_else_to_try_is_said_only_where_it_may_help() {
        use Mechanism::{Plain, ScramSha1, ScramSha256};
        let table: [(Mechanism, Option<Mechanism>, &[&str], bool, &str); 6] = [
            (ScramSha256, None, &["SCRAM-SHA-256", "PLAIN"], true, "plain"),
            (ScramSha1, None, &["LOGIN", "SCRAM-SHA-1"], true, "login"),
            (ScramSha256, None, &["SCRAM-SHA-256", "PLAIN"], false, ""),
            (ScramSha256, None, &["SCRAM-SHA-256"], true, ""),
            (ScramSha256, Some(ScramSha256), &["SCRAM-SHA-256", "PLAIN"], true, ""),
            (Plain, None, &["PLAIN", "LOGIN"], true, ""),
        ];
        for (chosen, asked, offered, private, word) in table {
            let said = hint(chosen, asked, offered, private);
            assert_eq!(said.is_empty(), word.is_empty(), "{said}");
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn plain_is_as_in_rfc_4616() {
        let mut plain = exchange(Mechanism::Plain, "tim", "tanstaaftanstaaf", "");
        assert_eq!(plain.initial(), Some(b"\0tim\0tanstaaftanstaaf".to_vec()));
        assert_eq!(plain.finish(), Ok(()));
        assert!(plain.respond(b"").is_err(), "nothing more is due");
        for (user, password) in [("a\0b", "c"), ("a", "\0"), ("a", "b\x01")] {
            assert!(Exchange::new(Mechanism::Plain, user, &Secret::new(password), "").is_err());
        }
    }

    #[test]
    fn login_answers_in_order_whatever_it_is_asked() {
        let mut login = exchange(Mechanism::Login, "봉수", "비밀", "");
        assert_eq!(login.initial(), None);
        assert!(login.finish().is_err());
        assert_eq!(text(login.respond(b"User Name\0").expect("due")), "봉수");
        assert!(login.finish().is_err());
        assert_eq!(text(login.respond(b"Password\0").expect("due")), "비밀");
        assert_eq!(login.finish(), Ok(()));
        assert!(login.respond(b"Again:").is_err());
    }

    #[test]
    fn cram_md5_is_as_in_rfc_2195() {
        let mut cram = exchange(Mechanism::CramMd5, "tim", "tanstaaftanstaaf", "");
        assert_eq!(cram.initial(), None);
        let answer = cram.respond(b"<1896.697170952@postoffice.reston.mci.net>").expect("due");
        assert_eq!(text(answer), "tim b913a602c7eda7a495b4e6e7334d3890");
        assert_eq!(cram.finish(), Ok(()));
        // RFC 2202, test case 6: a key longer than a block.
        assert_eq!(
            hex(&hmac_md5(&[0xaa; 80], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"
        );
    }

    struct Vector {
        mechanism: Mechanism,
        nonce: &'static str,
        initial: &'static str,
        challenge: &'static str,
        answer: &'static str,
        proof: &'static str,
    }

    /// RFC 5802, section 5, and RFC 7677, section 3.
    const VECTORS: [Vector; 2] = [
        Vector {
            mechanism: Mechanism::ScramSha1,
            nonce: "fyko+d2lbbFgONRv9qkxdawL",
            initial: "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            challenge: "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            answer: "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            proof: "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        },
        Vector {
            mechanism: Mechanism::ScramSha256,
            nonce: "rOprNGfwEbeRWgbNEkqO",
            initial: "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            challenge: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            answer: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            proof: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        },
    ];

    #[test]
    fn scram_is_as_in_its_rfcs() {
        for v in VECTORS {
            let start = || {
                let mut scram = exchange(v.mechanism, "user", "pencil", v.nonce);
                assert_eq!(text(scram.initial().expect("the client begins")), v.initial);
                scram
            };
            let mut scram = start();
            assert_eq!(text(scram.respond(v.challenge.as_bytes()).expect("due")), v.answer);
            assert!(scram.finish().is_err(), "a success before the server's proof is not believed");
            assert_eq!(scram.respond(v.proof.as_bytes()), Ok(Vec::new()));
            assert_eq!(scram.finish(), Ok(()));

            let mut scram = start();
            scram.respond(v.challenge.as_bytes()).expect("due");
            let other = if v.mechanism == Mechanism::ScramSha1 { VECTORS[1].proof } else { VECTORS[0].proof };
            for wrong in [other, "v=", "v=AAAA", "", "x"] {
                assert!(scram.verify_now(wrong).contains("its SCRAM signature is wrong"), "{wrong}");
            }
            assert!(scram.verify_now("e=invalid-proof").contains("refuses the proof: invalid-proof"));
        }
    }

    impl Exchange {
        fn verify_now(&self, last: &str) -> String {
            let State::Proof(scram) = &self.state else { panic!("the server's proof is due") };
            scram.verify(last.as_bytes()).expect_err("no proof")
        }
    }

    #[test]
    fn hostile_scram_challenges_are_refused() {
        let table = [
            ("r=other,s=QSXCR+Q6sek8bf92,i=4096", "somebody else's nonce"),
            ("r=abc,s=QSXCR+Q6sek8bf92,i=4096", "somebody else's nonce"),
            ("m=ext,r=abcd,s=QSXCR+Q6sek8bf92,i=4096", "without a nonce"),
            ("r=abcd,s=!,i=4096", "without a salt"),
            ("r=abcd,s=,i=4096", "without a salt"),
            ("r=abcd,s=QSXCR+Q6sek8bf92", "without its rounds"),
            ("r=abcd,s=QSXCR+Q6sek8bf92,i=-1", "without its rounds"),
            ("r=abcd,s=QSXCR+Q6sek8bf92,i=1", "asks for 1 rounds"),
            ("r=abcd,s=QSXCR+Q6sek8bf92,i=4000000000", "asks for 4000000000 rounds"),
            ("", "without a nonce"),
        ];
        for (challenge, expected) in table {
            let mut scram = exchange(Mechanism::ScramSha256, "u", "p", "abc");
            scram.initial();
            let error = scram.respond(challenge.as_bytes()).expect_err(challenge);
            assert!(error.contains(expected), "{challenge}: {error}");
        }
        let mut scram = exchange(Mechanism::ScramSha256, "u", "p", "abc");
        assert!(scram.respond(&[b'r'; CHALLENGE_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn names_and_passwords_are_prepared_for_scram() {
        // RFC 4013, section 3: a soft hyphen vanishes, a Roman numeral is taken apart; RFC 5802: `,` and `=` escaped.
        let mut scram = exchange(Mechanism::ScramSha1, "I\u{ad}X,a=b \u{2168}", "p", "abc");
        assert_eq!(text(scram.initial().expect("the client begins")), "n,,n=IX=2Ca=3Db IX,r=abc");
        // Hangul composed, and a letter SASLprep does not know yet as it is.
        assert_eq!(prepared("\u{1107}\u{1169}\u{11bc}"), "봉");
        assert_eq!(prepared("🛸"), "🛸");
    }

    #[test]
    fn tokens_are_said_and_complaints_kept() {
        let mut token = exchange(Mechanism::XOAuth2, "a@b", "ya29.x", "");
        assert_eq!(text(token.initial().expect("first")), "user=a@b\x01auth=Bearer ya29.x\x01\x01");
        assert_eq!(token.finish(), Ok(()));
        assert_eq!(token.respond(br#"{"status":"401"}"#), Ok(Vec::new()));
        assert_eq!(token.complaint(), Some(r#"{"status":"401"}"#));
        let mut token = exchange(Mechanism::OAuthBearer, "a,b", "t", "");
        assert_eq!(text(token.initial().expect("first")), "n,a=a=2Cb,\x01auth=Bearer t\x01\x01");
        assert_eq!(token.respond(b"{}"), Ok(vec![1]));
    }

    #[test]
    fn the_best_mechanism_that_is_safe_is_chosen() {
        use Mechanism::{CramMd5, Login, Plain, ScramSha1, ScramSha256, XOAuth2};
        type Case = (&'static str, Option<Mechanism>, bool, Result<Mechanism, &'static str>);
        let table: [Case; 13] = [
            ("PLAIN LOGIN SCRAM-SHA-1 scram-sha-256", None, true, Ok(ScramSha256)),
            ("PLAIN LOGIN SCRAM-SHA-1", None, false, Ok(ScramSha1)),
            ("LOGIN PLAIN CRAM-MD5", None, true, Ok(Plain)),
            ("LOGIN CRAM-MD5", None, true, Ok(Login)),
            ("LOGIN PLAIN CRAM-MD5", None, false, Ok(CramMd5)),
            ("LOGIN PLAIN", None, false, Err("say `auth: plain` to send it all the same (offered: LOGIN, PLAIN)")),
            ("LOGIN PLAIN", Some(Login), false, Ok(Login)),
            ("PLAIN XOAUTH2", None, true, Ok(Plain)),
            ("XOAUTH2", None, true, Err("no way to log in that is spoken here; offered: XOAUTH2")),
            ("XOAUTH2", Some(XOAuth2), true, Ok(XOAuth2)),
            ("PLAIN", Some(ScramSha1), true, Err("does not offer SCRAM-SHA-1 here; offered: PLAIN")),
            ("", None, true, Err("offered: none")),
            ("GSSAPI SCRAM-SHA-256-PLUS", None, true, Err("offered: GSSAPI, SCRAM-SHA-256-PLUS")),
        ];
        for (offered, wanted, private, expected) in table {
            let offered: Vec<&str> = offered.split_whitespace().collect();
            match (choose(&offered, wanted, private), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{offered:?}"),
                (Err(got), Err(expected)) => assert!(got.contains(expected), "{offered:?}: {got}"),
                (got, expected) => panic!("{offered:?}: {got:?} where {expected:?} is expected"),
            }
        }
    }

    #[test]
    fn loopback_is_private() {
        let peer = |text: &str| Some(text.parse().expect("an address"));
        assert!(is_private(true, None) && !is_private(false, None));
        assert!(is_private(false, peer("127.0.0.2:25")) && is_private(false, peer("[::1]:25")));
        assert!(is_private(false, peer("[::ffff:127.0.0.1]:25")) && !is_private(false, peer("192.0.2.1:25")));
    }

    #[test]
    fn words_are_those_of_the_options() {
        for (word, mechanism) in [
            ("plain", Mechanism::Plain),
            ("login", Mechanism::Login),
            ("cram-md5", Mechanism::CramMd5),
            ("scram-sha-1", Mechanism::ScramSha1),
            ("scram-sha-256", Mechanism::ScramSha256),
            ("xoauth2", Mechanism::XOAuth2),
            ("oauthbearer", Mechanism::OAuthBearer),
        ] {
            assert_eq!(serde_yaml::from_str::<Mechanism>(word).expect("a word"), mechanism);
            assert_eq!(mechanism.name().to_ascii_lowercase(), word);
        }
    }

    proptest! {
        #[test]
        fn no_challenge_panics(challenges in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..4)) {
            for mechanism in [Mechanism::Login, Mechanism::CramMd5, Mechanism::ScramSha1, Mechanism::OAuthBearer] {
                let mut exchange = exchange(mechanism, "u", "p", "abc");
                exchange.initial();
                for challenge in &challenges {
                    if exchange.respond(challenge).is_err() {
                        break;
                    }
                }
                let scram = mechanism == Mechanism::ScramSha1;
                prop_assert!(!scram || exchange.finish().is_err() || challenges.is_empty());
            }
        }
    }
}
