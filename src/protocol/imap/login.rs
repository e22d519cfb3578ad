//! From a name to a session that is logged in: greeting, TLS, capabilities, login (RFC 9051, sections 6.1 and 6.2).

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    client::{Client, Fault, Open, Part, Waited},
    codec::{Response, Status, StatusLine},
};
use crate::{
    clock,
    observation::{Kind, Phase, Reason, one_line},
    protocol::{
        Attempt,
        mail::account::{Account, Security},
        sasl::{self, Exchange, Mechanism},
    },
    value::Secret,
};

/// Longest challenge of a login that is answered; each of its steps is one round trip.
const STEPS_MAX: usize = 8;

/// Longest greeting that is told, in characters.
const GREETING_CHARS_MAX: usize = 120;

/// Connects, and logs in if there are credentials.
pub async fn log_in(account: &Account, cx: &mut Attempt) -> Result<Client, Reason> {
    let stream = cx.dial(&account.endpoint).await?;
    let mut client = Client::new(stream);
    cx.phase(Phase::Greeting);
    let authenticated = greeting(&mut client, cx).await?;
    if account.security == Security::StartTls {
        client = start_tls(account, client, cx, authenticated).await?;
    }
    if client.capabilities.is_empty() {
        capabilities(&mut client, cx).await?;
    }
    cx.detail("imap_capabilities", client.capabilities.join(" "));
    if let Some((username, password)) = account.login.as_ref().filter(|_| !authenticated) {
        cx.phase(Phase::Login);
        // What it can is often another thing once logged in, and servers differ in whether they say so unasked.
        let before = std::mem::take(&mut client.capabilities);
        login(account, &mut client, cx, &before, username, password).await?;
        if client.capabilities.is_empty() {
            capabilities(&mut client, cx).await?;
        }
    }
    cx.end_phase();
    Ok(client)
}

/// Reads the greeting; whether the session is logged in by it (PREAUTH).
async fn greeting(client: &mut Client, cx: &mut Attempt) -> Result<bool, Reason> {
    let response = client.response(cx).await.map_err(|fault| fault.reason(cx))?;
    let Response::Status(None, said) = response else {
        return Err(cx.fail(Kind::Protocol, "the server did not greet"));
    };
    cx.detail("imap_greeting", one_line(&said.text, GREETING_CHARS_MAX));
    match said.status {
        Status::Ok => Ok(false),
        Status::Preauth => Ok(true),
        Status::Bye => Err(cx.fail(kind(&said, Kind::Rejected), format!("the server greeted with {}", said.shown()))),
        Status::No | Status::Bad => Err(cx.fail(Kind::Protocol, format!("the server greeted with {}", said.shown()))),
    }
}

async fn start_tls(
    account: &Account,
    mut client: Client,
    cx: &mut Attempt,
    authenticated: bool,
) -> Result<Client, Reason> {
    // RFC 9051, section 7.1.4: a session that is logged in can begin no TLS; an attacker could have made it so.
    if authenticated {
        return Err(cx.fail(Kind::Protocol, "the server greeted with PREAUTH, after which TLS cannot begin"));
    }
    if client.capabilities.is_empty() {
        capabilities(&mut client, cx).await?;
    }
    if !client.can("STARTTLS") {
        cx.phase(Phase::Tls);
        return Err(cx.fail(Kind::Unexpected, "the server does not offer STARTTLS"));
    }
    let reply = client.simple(cx, "STARTTLS").await.map_err(|fault| fault.reason(cx))?;
    if !reply.is_ok() {
        return Err(cx.fail(kind(&reply.done, Kind::Rejected), format!("STARTTLS refused: {}", reply.done.shown())));
    }
    let tls = account.tls.as_ref().ok_or_else(|| cx.fail(Kind::Own, "no TLS is configured"))?;
    let client = client.start_tls(cx, tls, &account.endpoint.host).await?;
    cx.phase(Phase::Greeting);
    Ok(client)
}

async fn capabilities(client: &mut Client, cx: &mut Attempt) -> Result<(), Reason> {
    let reply = client.simple(cx, "CAPABILITY").await.map_err(|fault| fault.reason(cx))?;
    if !reply.is_ok() || client.capabilities.is_empty() {
        return Err(cx.fail(Kind::Protocol, format!("no answer to CAPABILITY but {}", reply.done.shown())));
    }
    Ok(())
}

/// What a refusal is: for now where its code says so (RFC 5530).
fn kind(said: &StatusLine, otherwise: Kind) -> Kind {
    if ["UNAVAILABLE", "INUSE", "LIMIT"].into_iter().any(|code| said.has_code(code)) {
        return Kind::Deferred;
    }
    otherwise
}

// ---------------------------------------------------------------------------------------------------------------
// The login

async fn login(
    account: &Account,
    client: &mut Client,
    cx: &mut Attempt,
    capabilities: &[String],
    username: &str,
    password: &Secret,
) -> Result<(), Reason> {
    let offered: Vec<&str> = capabilities.iter().filter_map(|c| c.strip_prefix("AUTH=")).collect();
    let private = account.is_private(cx.address());
    let disabled = capabilities.iter().any(|c| c == "LOGINDISABLED");
    let chosen = sasl::choose(&offered, account.auth, private);
    // The command LOGIN is what a server without a mechanism has, and what `auth: login` may mean.
    let by_command = !disabled && matches!(account.auth, None | Some(Mechanism::Login));
    let mut hint = "";
    let done = match chosen {
        Ok(mechanism) => {
            hint = sasl::hint(mechanism, account.auth, &offered, private);
            let ir = capabilities.iter().any(|c| c == "SASL-IR");
            // What SCRAM and CRAM-MD5 say can be guessed at by who has a list of passwords.
            client.hides_challenges = true;
            let done = authenticate(client, cx, mechanism, username, password, ir).await?;
            client.hides_challenges = false;
            done
        }
        Err(_) if by_command && (private || account.auth.is_some()) => {
            cx.detail("imap_login", "LOGIN (command)");
            let parts = [
                Part::Text("LOGIN "),
                Part::String(username.as_bytes()),
                Part::Text(" "),
                Part::String(password.expose().as_bytes()),
            ];
            let shown = format!("LOGIN {username} (password)");
            client.command(cx, &shown, &parts).await.map_err(|fault| fault.reason(cx))?.done
        }
        Err(_) if disabled && offered.is_empty() && account.auth.is_none() => {
            let text = "the server refuses logins on this connection (LOGINDISABLED); use TLS";
            return Err(cx.fail(Kind::Rejected, text));
        }
        Err(text) => return Err(cx.fail(Kind::Unexpected, text)),
    };
    if done.status == Status::Ok {
        return Ok(());
    }
    let kind = kind(&done, Kind::Rejected);
    let hint = if kind == Kind::Rejected { hint } else { "" };
    Err(cx.fail(kind, format!("login refused: {}{hint}", done.shown())))
}

async fn authenticate(
    client: &mut Client,
    cx: &mut Attempt,
    mechanism: Mechanism,
    username: &str,
    password: &Secret,
    initial_response: bool,
) -> Result<StatusLine, Reason> {
    cx.detail("imap_login", mechanism.name());
    let nonce = sasl::nonce(clock::random_bytes());
    let made = Exchange::new(mechanism, username, password, &nonce);
    let mut exchange = made.map_err(|text| cx.fail(Kind::Rejected, text))?;
    let mut initial = exchange.initial();
    let mut command = format!("AUTHENTICATE {}", mechanism.name());
    let shown = format!("{command} (as {username})");
    if initial_response && let Some(first) = initial.take() {
        command.push(' ');
        // RFC 4959, section 3: `=` stands for an empty one.
        let encoded = if first.is_empty() { "=".into() } else { STANDARD.encode(first) };
        cx.conceal(&encoded);
        command.push_str(&encoded);
    }
    let mut open = client.open_command(cx, &shown, &command).await.map_err(|fault| fault.reason(cx))?;
    for _ in 0..STEPS_MAX {
        let Open { tag, waited } = open;
        let challenge = match waited {
            Waited::Done(reply) => return settled(&exchange, reply.done, cx),
            Waited::Asked(challenge) => challenge,
        };
        let answer = match initial.take() {
            Some(first) => Ok(first),
            None => STANDARD
                .decode(challenge.as_bytes())
                .map_err(|_| "a challenge that is no Base64".to_owned())
                .and_then(|challenge| exchange.respond(&challenge)),
        };
        match answer {
            Ok(answer) => {
                let line = STANDARD.encode(answer);
                cx.conceal(&line);
                open = client.go_on(cx, tag, &line).await.map_err(|fault| fault.reason(cx))?;
            }
            Err(text) => return Err(cx.fail(Kind::Protocol, format!("login by {}: {text}", mechanism.name()))),
        }
    }
    Err(cx.fail(Kind::Protocol, format!("login by {}: the server's challenges have no end", mechanism.name())))
}

/// The end of the exchange: a success is believed only when the server has proved what it must.
fn settled(exchange: &Exchange, mut done: StatusLine, cx: &Attempt) -> Result<StatusLine, Reason> {
    if done.status == Status::Ok {
        exchange.finish().map_err(|text| cx.fail(Kind::Protocol, text))?;
    } else if let Some(complaint) = exchange.complaint() {
        done.text = format!("{} ({complaint})", done.text);
    }
    Ok(done)
}

/// Asks for the no-op that proves a session.
pub async fn no_op(client: &mut Client, cx: &mut Attempt) -> Result<(), Reason> {
    let reply = client.simple(cx, "NOOP").await.map_err(|fault: Fault| fault.reason(cx))?;
    if reply.is_ok() {
        return Ok(());
    }
    Err(cx.fail(Kind::Rejected, format!("NOOP refused: {}", reply.done.shown())))
}
