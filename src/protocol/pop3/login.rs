//! From a name to a maildrop that is open: greeting, TLS, capabilities, login (RFC 1939, section 4; RFC 2449; RFC 2595;
//! RFC 5034).

use base64::{Engine, engine::general_purpose::STANDARD};

use super::client::{Answer, Client, Fault};
use crate::{
    clock,
    observation::{Kind, Phase, Reason},
    protocol::{
        Attempt,
        mail::account::{Account, Security},
        sasl::{self, Exchange, Mechanism},
    },
    value::Secret,
};

/// Most steps of a login.
const STEPS_MAX: usize = 8;

/// Longest AUTH command with an initial response (RFC 5034, section 4).
const COMMAND_BYTES_MAX: usize = 255;

/// Why there is no session.
pub enum NoLogin {
    /// The maildrop is held by another session, or was open too short ago; in the words of the server.
    Busy(Reason),
    /// Anything else.
    Failed(Reason),
}

impl From<Reason> for NoLogin {
    fn from(reason: Reason) -> Self {
        Self::Failed(reason)
    }
}

impl NoLogin {
    /// Whichever it is.
    pub fn reason(self) -> Reason {
        match self {
            Self::Busy(reason) | Self::Failed(reason) => reason,
        }
    }
}

/// A connection, and what the server says it can.
pub struct Session {
    /// The connection.
    pub client: Client,
    /// Lines of CAPA, in capitals; none of a server that knows no CAPA.
    pub capabilities: Vec<String>,
}

impl Session {
    /// Whether the server says that it can do this.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|c| c.split(' ').next() == Some(capability))
    }
}

/// Connects, and logs in if there are credentials.
pub async fn log_in(account: &Account, cx: &mut Attempt) -> Result<Session, NoLogin> {
    let stream = cx.dial(&account.endpoint).await?;
    let mut client = Client::new(stream);
    cx.phase(Phase::Greeting);
    let greeting = client.answer(cx).await?;
    if !greeting.is_ok {
        return Err(refused(cx, "the connection is", &greeting));
    }
    let mut capabilities = capabilities(&mut client, cx).await?;
    if account.security == Security::StartTls {
        (client, capabilities) = start_tls(account, client, cx, &capabilities).await?;
    }
    let mut session = Session { client, capabilities };
    if let Some((username, password)) = &account.login {
        cx.phase(Phase::Login);
        let answer = login(account, &mut session, cx, &greeting, username, password).await?;
        if !answer.is_ok {
            return Err(refused(cx, "login", &answer));
        }
        // RFC 2449, section 5: a login may change them.
        if !session.capabilities.is_empty() {
            session.capabilities = self::capabilities(&mut session.client, cx).await?;
        }
    }
    cx.end_phase();
    Ok(session)
}

fn refused(cx: &Attempt, what: &str, answer: &Answer) -> NoLogin {
    let reason = cx.fail(answer.kind(), format!("{what} refused: {}", answer.shown()));
    if answer.is_busy() { NoLogin::Busy(reason) } else { NoLogin::Failed(reason) }
}

/// None when the server knows no CAPA.
async fn capabilities(client: &mut Client, cx: &mut Attempt) -> Result<Vec<String>, Reason> {
    match client.listing(cx, "CAPA").await {
        Ok(lines) => {
            let lines: Vec<String> = lines.iter().map(|line| line.trim().to_ascii_uppercase()).collect();
            cx.received(lines.join("; "));
            cx.detail("pop3_capabilities", lines.join("; "));
            Ok(lines)
        }
        Err(Fault::Refused(_)) => Ok(Vec::new()),
        Err(Fault::Gone(reason)) => Err(reason),
    }
}

async fn start_tls(
    account: &Account,
    mut client: Client,
    cx: &mut Attempt,
    capabilities: &[String],
) -> Result<(Client, Vec<String>), Reason> {
    if !capabilities.is_empty() && !capabilities.iter().any(|c| c == "STLS") {
        cx.phase(Phase::Tls);
        return Err(cx.fail(Kind::Unexpected, "the server does not offer STLS"));
    }
    let answer = client.command(cx, "STLS").await?;
    if !answer.is_ok {
        return Err(cx.fail(answer.kind(), format!("STLS refused: {}", answer.shown())));
    }
    let tls = account.tls.as_ref().ok_or_else(|| cx.fail(Kind::Own, "no TLS is configured"))?;
    let mut client = client.start_tls(cx, tls, &account.endpoint.host).await?;
    cx.phase(Phase::Greeting);
    // What was said before it could be an attacker's (RFC 2595, section 4).
    let anew = self::capabilities(&mut client, cx).await?;
    Ok((client, anew))
}

// ---------------------------------------------------------------------------------------------------------------
// The login

async fn login(
    account: &Account,
    session: &mut Session,
    cx: &mut Attempt,
    greeting: &Answer,
    username: &str,
    password: &Secret,
) -> Result<Answer, Reason> {
    let offered: Vec<&str> = session
        .capabilities
        .iter()
        .filter_map(|line| line.strip_prefix("SASL "))
        .flat_map(str::split_ascii_whitespace)
        .collect();
    let private = account.is_private(cx.address());
    let chosen = sasl::choose(&offered, account.auth, private);
    let client = &mut session.client;
    let text = match chosen {
        Ok(mechanism) => {
            let mut answer = authenticate(client, cx, mechanism, username, password).await?;
            if !answer.is_ok && answer.kind() == Kind::Rejected {
                answer.text.push_str(sasl::hint(mechanism, account.auth, &offered, private));
            }
            return Ok(answer);
        }
        Err(text) => text,
    };
    if unsayable(username) || unsayable(password.expose()) {
        return Err(cx.fail(Kind::Rejected, "the user name or the password holds a line end, which POP3 cannot carry"));
    }
    // USER and PASS show the password as PLAIN and LOGIN do, which is what those ask for by name.
    let in_words = matches!(account.auth, Some(Mechanism::Plain | Mechanism::Login));
    if in_words || (account.auth.is_none() && private) {
        cx.detail("pop3_login", "USER and PASS");
        let answer = client.command(cx, &format!("USER {username}")).await?;
        if !answer.is_ok {
            return Ok(answer);
        }
        client.say(cx, "PASS (password)", &format!("PASS {}", password.expose()));
        return client.answer(cx).await;
    }
    match timestamp(&greeting.text).filter(|_| account.auth.is_none()) {
        Some(timestamp) => {
            cx.detail("pop3_login", "APOP");
            let digest = md5::compute(format!("{timestamp}{}", password.expose()));
            client.say(cx, &format!("APOP {username} (digest)"), &format!("APOP {username} {digest:x}"));
            client.answer(cx).await
        }
        None => Err(cx.fail(Kind::Unexpected, text)),
    }
}

fn unsayable(text: &str) -> bool {
    text.contains(['\r', '\n'])
}

/// The time stamp of a greeting that offers APOP (RFC 1939, section 7): `<1896.697170952@host>`.
fn timestamp(greeting: &str) -> Option<&str> {
    let begin = greeting.find('<')?;
    let end = begin + greeting[begin..].find('>')? + 1;
    Some(&greeting[begin..end]).filter(|stamp| stamp.contains('@'))
}

async fn authenticate(
    client: &mut Client,
    cx: &mut Attempt,
    mechanism: Mechanism,
    username: &str,
    password: &Secret,
) -> Result<Answer, Reason> {
    cx.detail("pop3_login", mechanism.name());
    let nonce = sasl::nonce(clock::random_bytes());
    let made = Exchange::new(mechanism, username, password, &nonce);
    let mut exchange = made.map_err(|text| cx.fail(Kind::Rejected, text))?;
    let mut initial = exchange.initial();
    let mut command = format!("AUTH {}", mechanism.name());
    let shown = format!("{command} (as {username})");
    if let Some(first) = &initial {
        let encoded = STANDARD.encode(first);
        cx.conceal(&encoded);
        let with = format!("{command} {encoded}");
        if with.len() <= COMMAND_BYTES_MAX {
            command = with;
            initial = None;
        }
    }
    client.say(cx, &shown, &command);
    for _ in 0..STEPS_MAX {
        let line = client.line_hidden(cx).await?;
        let Some(challenge) = line.strip_prefix("+ ").or((line == "+").then_some("")) else {
            let answer = Answer::read(&line)
                .ok_or_else(|| cx.fail(Kind::Protocol, "the server answered the login with what is no POP3"))?;
            if answer.is_ok {
                exchange.finish().map_err(|text| cx.fail(Kind::Protocol, text))?;
            }
            return Ok(told(answer, exchange.complaint()));
        };
        let said = match initial.take() {
            Some(first) => Ok(first),
            None => STANDARD
                .decode(challenge.trim())
                .map_err(|_| "a challenge that is no Base64".to_owned())
                .and_then(|challenge| exchange.respond(&challenge)),
        };
        let said = said.map_err(|text| cx.fail(Kind::Protocol, format!("login by {}: {text}", mechanism.name())))?;
        let said = STANDARD.encode(said);
        cx.conceal(&said);
        client.say(cx, "(response)", &said);
    }
    Err(cx.fail(Kind::Protocol, format!("login by {}: the server's challenges have no end", mechanism.name())))
}

fn told(mut answer: Answer, complaint: Option<&str>) -> Answer {
    if let Some(complaint) = complaint.filter(|_| !answer.is_ok) {
        answer.text = format!("{} ({complaint})", answer.text);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apop_is_as_in_rfc_1939() {
        let stamp = timestamp("POP3 server ready <1896.697170952@dbc.mtview.ca.us>").expect("a time stamp");
        let digest = md5::compute(format!("{stamp}tanstaaf"));
        assert_eq!(format!("{digest:x}"), "c4c9334bac560ecc979e58001b3e22fb");
        for without in ["ready", "ready <x>", "ready <", "> <"] {
            assert_eq!(timestamp(without), None);
        }
    }
}
