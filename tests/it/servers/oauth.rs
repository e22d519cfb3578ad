//! Logins by OAuth 2.0 access tokens against a real dovecot, which checks them itself (RFC 7519 tokens signed with a key
//! it knows), and against postfix, which asks it.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bongsu::{
    clock,
    observation::{Kind, Outcome, Phase},
};
use ring::hmac;

use crate::harness::{dovecot::Dovecot, postfix::Postfix, probing::probe, scratch, write};

const USER: &str = "probe";
const KEY: &[u8] = b"the key of whoever issues the tokens";

/// A token that says who it is for, and until when from now it holds.
fn token(user: &str, seconds: i64) -> String {
    let now = clock::now().as_millis() / 1_000;
    let part = |json: String| URL_SAFE_NO_PAD.encode(json);
    let header = part(r#"{"alg":"HS256","typ":"JWT"}"#.into());
    let claims = format!(r#"{{"sub":"{user}","email":"{user}","iat":{},"exp":{}}}"#, now - 3_600, now + seconds);
    let signed = format!("{header}.{}", part(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn tokens_are_accepted_and_refused_by_a_real_server() {
    let keys = scratch();
    let dir = keys.path().display();
    // Where dovecot looks for the key of tokens that name neither an issuing party nor a key.
    write(keys.path(), "default/HS256/default", &STANDARD.encode(KEY));
    write(
        keys.path(),
        "oauth.conf",
        &format!("introspection_mode = local\nlocal_validation_key_dict = fs:posix:prefix={dir}/\n"),
    );
    // Refusals cost no pause.
    let dovecot = Dovecot::start_with(&format!(
        "service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
auth_mechanisms = plain login xoauth2 oauthbearer
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {dir}/oauth.conf
}}
"
    ));
    let postfix = Postfix::start_with(&format!(
        "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\nsmtpd_error_sleep_time = 0",
        dovecot.sasl.display()
    ));
    for (protocol, url) in [
        ("imap", format!("imap://{}", dovecot.imap)),
        ("pop3", format!("pop3://{}", dovecot.pop3)),
        ("smtp", format!("smtp://127.0.0.1:{}", postfix.port)),
    ] {
        for auth in ["xoauth2", "oauthbearer"] {
            let with = |token: &str| {
                probe(protocol, &format!("{{ url: '{url}', username: {USER}, password: '{token}', auth: {auth} }}"))
            };
            let (good, old) = (token(USER, 3_600), token(USER, -60));
            let seen = with(&good);
            assert_eq!((seen.outcome(), &seen.observation.reason), (Outcome::Ok, &None), "{protocol} {auth} {seen:?}");
            let stale = with(&old);
            let reason = stale.reason();
            assert_eq!((reason.phase, reason.kind), (Phase::Login, Kind::Rejected), "{protocol} {auth} {stale:?}");
            for said in seen.transcript.iter().chain(&stale.transcript) {
                assert!(!said.text.contains(&good) && !said.text.contains(&old), "{}", said.text);
            }
        }
    }
}
