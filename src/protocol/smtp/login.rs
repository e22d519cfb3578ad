//! AUTH (RFC 4954).

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    dialogue::{Dialect, Dialogue},
    options::Login,
    reply::Reply,
};
use crate::{
    clock,
    observation::{Kind, Phase, Reason},
    protocol::{
        Attempt,
        sasl::{self, Exchange},
    },
};

/// Longest AUTH command with what is said first in it, without its end (RFC 5321, section 4.5.3.1.4); more is said
/// after the server's empty challenge.
const COMMAND_BYTES_MAX: usize = 510;

/// Most challenges of one login: SCRAM has two, and one is empty.
const CHALLENGES_MAX: usize = 4;

/// Logs in by the mechanism asked for, or the best one that is offered.
///
/// # Errors
/// When no mechanism may be used, the server refuses, or does not do its part of it.
pub async fn log_in(dialogue: &mut Dialogue, cx: &mut Attempt, login: &Login) -> Result<(), Reason> {
    cx.phase(Phase::Login);
    let private = sasl::is_private(dialogue.encrypted, cx.address());
    let mechanism = sasl::choose(&dialogue.extensions.auth, login.auth, private).map_err(|text| {
        let starttls = dialogue.extensions.offers("STARTTLS") && dialogue.dialect == Dialect::Smtp;
        let hint = if starttls { "; it offers STARTTLS, which smtp+starttls:// uses" } else { "" };
        cx.fail(Kind::Unexpected, format!("{text}{hint}"))
    })?;
    let nonce = sasl::nonce(clock::random_bytes());
    let exchange = Exchange::new(mechanism, &login.username, &login.password, &nonce);
    let mut exchange = exchange.map_err(|text| cx.fail(Kind::Unexpected, text))?;
    let reply = converse(dialogue, cx, &mut exchange).await?;
    match (reply.code, exchange.finish()) {
        (235, Ok(())) => {
            cx.detail(&format!("{}_login", dialogue.dialect.word()), mechanism.name());
            cx.end_phase();
            Ok(())
        }
        (235, Err(text)) => Err(cx.fail(Kind::Protocol, text)),
        (334, _) => Err(cx.fail(Kind::Protocol, format!("more than {CHALLENGES_MAX} challenges"))),
        _ => {
            let complaint = exchange.complaint().map_or(String::new(), |said| format!(" ({said})"));
            let offered = &dialogue.extensions.auth;
            let hint =
                if reply.kind() == Kind::Rejected { sasl::hint(mechanism, login.auth, offered, private) } else { "" };
            let text = format!("login by {} refused: {}{complaint}{hint}", mechanism.name(), reply.text());
            Err(cx.fail(reply.kind(), text))
        }
    }
}

/// The dialogue of the mechanism, until the server says something else than a challenge.
async fn converse(dialogue: &mut Dialogue, cx: &mut Attempt, exchange: &mut Exchange) -> Result<Reply, Reason> {
    let name = exchange.mechanism().name();
    let mut first = exchange.initial();
    let (mut line, mut shown) = (format!("AUTH {name}"), format!("AUTH {name}"));
    if let Some(initial) = &first {
        // An empty one is written `=`, to tell it from none.
        let encoded = if initial.is_empty() { "=".into() } else { STANDARD.encode(initial) };
        cx.conceal(&encoded);
        if line.len() + 1 + encoded.len() <= COMMAND_BYTES_MAX {
            line = format!("{line} {encoded}");
            shown.push_str(" (credentials)");
            first = None;
        }
    }
    let mut reply = dialogue.command_hidden(cx, &line, &shown).await.map_err(|fault| fault.reason(cx))?;
    for _ in 0..CHALLENGES_MAX {
        if reply.code != 334 {
            break;
        }
        let answer = match first.take() {
            Some(initial) => initial,
            None => {
                let challenge = STANDARD.decode(reply.lines[0].trim());
                let challenge = challenge.map_err(|_| cx.fail(Kind::Protocol, "a challenge that is no Base64"))?;
                exchange.respond(&challenge).map_err(|text| cx.fail(Kind::Protocol, text))?
            }
        };
        let line = STANDARD.encode(answer);
        cx.conceal(&line);
        reply = dialogue.command_hidden(cx, &line, "(credentials)").await.map_err(|fault| fault.reason(cx))?;
    }
    Ok(reply)
}
