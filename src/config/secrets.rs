//! Secrets: `${env:X}`, `${file:/path}` and `${credential:name}` in string values, and what must never be shown.
//!
//! References are resolved after parsing and only inside string values, so a secret can neither change the
//! structure of the document nor be a key. `$${` is a literal `${`. What was resolved is collected for the
//! [`Masker`](crate::value::Masker), together with secrets that were written as they are. `${account:key}` has a value
//! for each account only: it stays as it is, and its text is kept in pieces for `accounts` to fill in.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io,
    path::{Path as FilePath, PathBuf},
};

use serde_yaml::Value;

use super::notes::NOTES_MAX;
use crate::{
    files,
    options::{At, Path, Problem, Segment, key_text, suggestion},
    value::Secret,
};

/// Longest secret: a private key fits, a log file named by mistake does not.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// The kinds of references.
const KINDS: [&str; 4] = ["env", "file", "credential", ACCOUNT];

/// The section whose URLs may hold a token anywhere: receivers of alerts know who writes by the URL alone.
const CHANNELS: &str = "channels";

/// Shortest part of a URL that may be a token: the shortest of those in use have 24 characters, and words of a path are
/// shorter.
const TOKEN_CHARS_MIN: usize = 20;

/// The kind that has a value for each account of a check.
const ACCOUNT: &str = "account";

/// A part of a text with references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// As it was written.
    Literal(String),
    /// What a reference stood for.
    Resolved(String),
    /// A value of an account.
    Account {
        /// Which.
        key: String,
        /// The reference as written.
        written: String,
    },
}

/// The texts of a document that hold references, in pieces, by where they stand.
pub(super) type Templates = BTreeMap<Path, Vec<Piece>>;

/// What the configuration asks of its surroundings.
pub trait Environment {
    /// An environment variable; `None` when it is unset or no UTF-8.
    fn variable(&self, name: &str) -> Option<String>;

    /// A file's content; an error when it is longer than `bytes_max` or no plain file.
    fn read(&self, path: &FilePath, bytes_max: usize) -> io::Result<Vec<u8>>;

    /// Whether there is something at `path`.
    fn exists(&self, path: &FilePath) -> bool;

    /// The host's name.
    fn host_name(&self) -> Option<String>;
}

/// The process's real surroundings.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEnvironment;

impl Environment for OsEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &FilePath, bytes_max: usize) -> io::Result<Vec<u8>> {
        files::read(path, bytes_max)
    }

    fn exists(&self, path: &FilePath) -> bool {
        path.exists()
    }

    fn host_name(&self) -> Option<String> {
        // Not from a file: a service may be kept from seeing /proc/sys.
        nix::unistd::gethostname().ok()?.into_string().ok().filter(|name| !name.is_empty())
    }
}

/// An error of a reading as one of the surroundings, in words without the error's number.
pub(super) fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_owned()
        }
    }
}

/// A mistake in a reference.
pub(super) struct Bad {
    /// Where, and what.
    pub problem: Problem,
    /// The reference as written.
    pub reference: String,
}

/// Resolves the references of documents and gathers secrets.
pub(super) struct Resolver<'e> {
    environment: &'e dyn Environment,
    /// Relative names start here.
    base: PathBuf,
    /// Secrets that came through references.
    pub resolved: Vec<Secret>,
    /// Secrets written as they are.
    pub literal: Vec<Secret>,
    /// Texts with references, in pieces.
    pub templates: Templates,
    /// Mistakes.
    pub bad: Vec<Bad>,
}

impl<'e> Resolver<'e> {
    pub fn new(environment: &'e dyn Environment, base: &FilePath) -> Self {
        Self {
            environment,
            base: base.into(),
            resolved: Vec::new(),
            literal: Vec::new(),
            templates: Templates::new(),
            bad: Vec::new(),
        }
    }

    /// Replaces every reference below `value`, which stands at `path`.
    pub fn resolve(&mut self, value: &mut Value, path: &mut Path) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(resolved) = self.text(text, path) {
                    *text = resolved;
                }
                // Also of a password that came through a reference: a URL shows it percent-encoded.
                url_secrets(text, &mut self.literal);
                if matches!(path.first(), Some(Segment::Key(section)) if section == CHANNELS) {
                    url_tokens(text, &mut self.literal);
                }
            }
            Value::Sequence(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(Segment::Index(index));
                    self.resolve(item, path);
                    path.pop();
                }
            }
            Value::Mapping(entries) => {
                for (key, value) in entries.iter_mut() {
                    let key = key_text(key);
                    if is_secret_key(&key) {
                        self.literals(value);
                    }
                    for value in secret_headers(&key, value) {
                        self.literals(value);
                    }
                    path.push(Segment::Key(key));
                    self.resolve(value, path);
                    path.pop();
                }
            }
            Value::Tagged(tagged) => self.resolve(&mut tagged.value, path),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn literals(&mut self, value: &Value) {
        match value {
            Value::String(text) if !has_reference(text) => self.literal.push(Secret::new(text.as_str())),
            Value::Number(number) => self.literal.push(Secret::new(number.to_string())),
            Value::Sequence(items) => items.iter().for_each(|item| self.literals(item)),
            _ => {}
        }
    }

    fn text<'t>(&mut self, text: &'t str, path: &Path) -> Cow<'t, str> {
        if !text.contains("${") {
            return Cow::Borrowed(text);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                pieces.push(Piece::Literal(format!("{before}${{")));
                rest = &from[2..];
                continue;
            }
            pieces.push(Piece::Literal(before.into()));
            let Some(end) = from.find('}') else {
                self.bad(path, from, "this reference has no closing `}`".into(), Some(ESCAPE.into()));
                return Cow::Owned(joined(&pieces));
            };
            let (written, inner) = (&from[..=end], &from[2..end]);
            match (inner.split_once(':'), self.reference(inner)) {
                (Some((ACCOUNT, key)), _) => {
                    pieces.push(Piece::Account { key: key.into(), written: written.into() });
                }
                (_, Ok(value)) => {
                    self.resolved.push(Secret::new(value.as_str()));
                    pieces.push(Piece::Resolved(value));
                }
                (_, Err((text, help))) => self.bad(path, written, text, help),
            }
            rest = &from[end + 1..];
        }
        pieces.push(Piece::Literal(rest.into()));
        let whole = joined(&pieces);
        self.templates.insert(path.clone(), pieces);
        Cow::Owned(whole)
    }

    fn bad(&mut self, path: &Path, reference: &str, text: String, hint: Option<String>) {
        // One more than can be kept shows that there were more.
        if self.bad.len() <= NOTES_MAX {
            let problem = Problem { path: path.clone(), at: At::Value, text, hint };
            self.bad.push(Bad { problem, reference: reference.into() });
        }
    }

    fn reference(&self, inner: &str) -> Result<String, (String, Option<String>)> {
        let Some((kind, name)) = inner.split_once(':') else {
            return Err((
                format!("`${{{inner}}}` does not say where its value comes from"),
                Some(format!("write ${{env:{inner}}} for an environment variable; {ESCAPE}")),
            ));
        };
        match kind {
            "env" => self.variable(name),
            "file" => {
                let help = format!("create {name}, readable by the user bongsu runs as");
                self.file(&self.base.join(name), name, &help)
            }
            "credential" => self.credential(name),
            _ => Err((format!("unknown kind of reference `{kind}`"), Some(suggestion(kind, KINDS)))),
        }
    }

    fn variable(&self, name: &str) -> Result<String, (String, Option<String>)> {
        let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() || !fits || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err((format!("`{name}` is no name of an environment variable"), None));
        }
        match self.environment.variable(name) {
            None => Err((
                format!("the environment variable {name} is not set"),
                Some(format!("set {name} where bongsu is started (systemd: Environment= or EnvironmentFile=)")),
            )),
            Some(value) if value.is_empty() => Err((
                format!("the environment variable {name} is set, but empty"),
                Some(format!("give {name} a value")),
            )),
            Some(value) => Ok(value),
        }
    }

    fn credential(&self, name: &str) -> Result<String, (String, Option<String>)> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err((format!("`{name}` is no name of a credential"), None));
        }
        let help = format!("add LoadCredential={name}:/path/to/the/secret to the systemd unit");
        match self.environment.variable("CREDENTIALS_DIRECTORY") {
            None => Err((format!("there are no credentials: CREDENTIALS_DIRECTORY is not set (`{name}`)"), Some(help))),
            Some(directory) => self.file(&FilePath::new(&directory).join(name), name, &help),
        }
    }

    fn file(&self, path: &FilePath, name: &str, help: &str) -> Result<String, (String, Option<String>)> {
        if name.is_empty() {
            return Err(("this reference names no file".into(), None));
        }
        let shown = path.display();
        let bytes = self
            .environment
            .read(path, SECRET_BYTES_MAX)
            .map_err(|e| (format!("{shown} cannot be read: {}", io_text(&e)), Some(help.to_owned())))?;
        let text = String::from_utf8(bytes).map_err(|_| (format!("{shown} is not UTF-8 text"), None))?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Err((format!("{shown} is empty"), Some("write the secret into it".into())));
        }
        Ok(text.to_owned())
    }
}

const ESCAPE: &str = "write $${ for a literal ${";

/// The whole of a text in pieces, references to accounts as written.
fn joined(pieces: &[Piece]) -> String {
    let text = |piece: &'_ Piece| match piece {
        Piece::Literal(text) | Piece::Resolved(text) | Piece::Account { written: text, .. } => text.clone(),
    };
    pieces.iter().map(text).collect()
}

/// The secrets of a value in which every reference has been filled in: by the names of keys, and in URLs.
pub(super) fn secrets_of(value: &Value, found: &mut Vec<Secret>) {
    fn all(value: &Value, found: &mut Vec<Secret>) {
        match value {
            Value::String(text) => found.push(Secret::new(text.as_str())),
            Value::Number(number) => found.push(Secret::new(number.to_string())),
            Value::Sequence(items) => items.iter().for_each(|item| all(item, found)),
            _ => {}
        }
    }
    match value {
        Value::String(text) => url_secrets(text, found),
        Value::Sequence(items) => items.iter().for_each(|item| secrets_of(item, found)),
        Value::Mapping(entries) => {
            for (key, value) in entries {
                let key = key_text(key);
                if is_secret_key(&key) {
                    all(value, found);
                }
                secret_headers(&key, value).for_each(|value| all(value, found));
                secrets_of(value, found);
            }
        }
        Value::Tagged(tagged) => secrets_of(&tagged.value, found),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The values below `headers` that log somebody in, by the names of the headers.
fn secret_headers<'v>(key: &str, value: &'v Value) -> impl Iterator<Item = &'v Value> {
    const PARTS: [&str; 7] = ["cookie", "auth", "session", "signature", "key", "token", "secret"];
    let headers = value.as_mapping().filter(|_| key == "headers");
    let secret = |(name, value): (&'v Value, &'v Value)| {
        let name = key_text(name).to_lowercase();
        // Those that are called like a key of ours are found with the keys.
        (PARTS.iter().any(|part| name.contains(part)) && !is_secret_key(&name)).then_some(value)
    };
    headers.into_iter().flatten().filter_map(secret)
}

/// The password of a URL is a secret, as written and decoded; so is a user name by itself that looks like a token, and what
/// is called a secret in its query.
fn url_secrets(text: &str, found: &mut Vec<Secret>) {
    if let Ok(url) = url::Url::parse(text) {
        let alone = Some(url.username()).filter(|name| url.password().is_none() && looks_like_token(name));
        found.extend(alone.map(Secret::new));
        let pairs = url.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let named = pairs.filter(|(name, value)| is_secret_key(name) && !value.is_empty() && !has_reference(value));
        found.extend(named.map(|(_, value)| Secret::new(value)));
    }
    let Some(password) = url_password(text) else { return };
    found.push(Secret::new(password));
    if let Ok(url) = url::Url::parse(text)
        && let Some(written) = url.password()
        && written != password
    {
        found.push(Secret::new(written));
    }
    let decoded: Vec<u8> = url::form_urlencoded::parse(format!("p={}", password.replace('+', "%2B")).as_bytes())
        .flat_map(|(_, value)| value.into_owned().into_bytes())
        .collect();
    if let Ok(decoded) = String::from_utf8(decoded)
        && decoded != password
    {
        found.push(Secret::new(decoded));
    }
}

/// The tokens of a receiver's URL: parts of its path and values of its query that look like one.
fn url_tokens(text: &str, found: &mut Vec<Secret>) {
    let Ok(url) = url::Url::parse(text) else { return };
    let parts = url.path_segments().into_iter().flatten().filter(|part| looks_like_token(part));
    found.extend(parts.map(Secret::new));
    for pair in url.query().unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if looks_like_token(value) && !is_secret_key(name) {
            found.push(Secret::new(value));
        }
    }
}

/// Long, without a space, and of two kinds at least of small letters, capitals and digits; words joined by dashes are
/// none.
fn looks_like_token(part: &str) -> bool {
    let kinds: [fn(&char) -> bool; 3] = [char::is_ascii_lowercase, char::is_ascii_uppercase, char::is_ascii_digit];
    let several = kinds.iter().filter(|is_kind| part.chars().any(|c| is_kind(&c))).count() >= 2;
    part.len() >= TOKEN_CHARS_MIN && several && !has_reference(part)
}

/// Whether a text holds a reference (not merely an escaped one).
pub(super) fn has_reference(text: &str) -> bool {
    text.match_indices("${").any(|(at, _)| !text[..at].ends_with('$'))
}

/// Whether a key's value is a secret by its name; near misses count, since a misspelt key still holds one.
pub(super) fn is_secret_key(key: &str) -> bool {
    const WORDS: [&str; 10] = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "bearer",
        "api_key",
        "apikey",
        "private_key",
        "authorization",
    ];
    let key = key.to_lowercase().replace('-', "_");
    // One slip in a short word, two in a long one; more would make `secure` a secret.
    let near = |word: &str| {
        let slips = if word.len() < 8 { 1 } else { 2 };
        key.len().abs_diff(word.len()) <= slips && strsim::damerau_levenshtein(&key, word) <= slips
    };
    WORDS
        .iter()
        .any(|word| key.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('_')) || near(word))
}

/// The password in a URL's userinfo, as written.
pub(super) fn url_password(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (userinfo, _) = authority.rsplit_once('@')?;
    let (_, password) = userinfo.split_once(':')?;
    (!password.is_empty() && !has_reference(password)).then_some(password)
}

/// Replaces the secrets that are written as they are; references stay.
pub(super) fn redact(value: &mut Value) {
    fn star(value: &mut Value) {
        match value {
            Value::String(text) if has_reference(text) => {}
            Value::String(_) | Value::Number(_) => *value = Value::String("***".into()),
            Value::Sequence(items) => items.iter_mut().for_each(star),
            _ => {}
        }
    }
    match value {
        Value::String(text) => {
            if let Some(password) = url_password(text) {
                *text = text.replace(&format!(":{password}@"), ":***@");
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(redact),
        Value::Mapping(entries) => {
            for (key, value) in entries.iter_mut() {
                if is_secret_key(&key_text(key)) {
                    star(value);
                }
                redact(value);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Fake {
        variables: HashMap<&'static str, &'static str>,
        files: HashMap<&'static str, &'static [u8]>,
    }

    impl Environment for Fake {
        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(|v| (*v).into())
        }
        fn read(&self, path: &FilePath, _: usize) -> io::Result<Vec<u8>> {
            let path = path.to_str().expect("the tests name files in UTF-8");
            self.files.get(path).map(|b| b.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
        }
        fn exists(&self, _: &FilePath) -> bool {
            false
        }
        fn host_name(&self) -> Option<String> {
            None
        }
    }

    fn fake() -> Fake {
        Fake {
            variables: HashMap::from([("PW", "hunter2"), ("EMPTY", ""), ("CREDENTIALS_DIRECTORY", "/run/c")]),
            files: HashMap::from([
                ("/etc/pw", b"from file\r\n\n".as_slice()),
                ("/base/rel", b"relative"),
                ("/run/c/imap", b"cred\n"),
                ("/binary", b"\xff"),
                ("/void", b"\n"),
            ]),
        }
    }

    fn resolve(text: &str) -> (String, Vec<String>) {
        let environment = fake();
        let mut resolver = Resolver::new(&environment, FilePath::new("/base"));
        let mut value = Value::String(text.into());
        resolver.resolve(&mut value, &mut Vec::new());
        let bad = resolver.bad.iter().map(|b| format!("{}: {}", b.reference, b.problem.text));
        (value.as_str().expect("still a text").into(), bad.collect())
    }

    #[test]
    fn references_are_resolved() {
        let table = [
            ("plain $ { } text", "plain $ { } text"),
            ("${env:PW}", "hunter2"),
            ("a ${env:PW} b ${env:PW}", "a hunter2 b hunter2"),
            ("${file:/etc/pw}|${file:rel}", "from file|relative"),
            ("${credential:imap}", "cred"),
            ("$${env:PW}", "${env:PW}"),
            ("$$${env:PW} $$", "$${env:PW} $$"),
        ];
        for (text, expected) in table {
            assert_eq!(resolve(text), (expected.into(), Vec::new()), "{text}");
        }
    }

    #[test]
    fn a_reference_that_gives_nothing_is_a_mistake() {
        let table = [
            ("${env:NO}", "${env:NO}: the environment variable NO is not set"),
            ("${env:EMPTY}", "${env:EMPTY}: the environment variable EMPTY is set, but empty"),
            ("${env:a-b}", "${env:a-b}: `a-b` is no name of an environment variable"),
            ("${file:/no}", "${file:/no}: /no cannot be read: there is no such file"),
            ("${file:/binary}", "${file:/binary}: /binary is not UTF-8 text"),
            ("${file:/void}", "${file:/void}: /void is empty"),
            ("${file:}", "${file:}: this reference names no file"),
            ("${credential:x}", "${credential:x}: /run/c/x cannot be read: there is no such file"),
            ("${credential:../x}", "${credential:../x}: `../x` is no name of a credential"),
            ("${PW}", "${PW}: `${PW}` does not say where its value comes from"),
            ("${envv:PW}", "${envv:PW}: unknown kind of reference `envv`"),
            ("x ${env:PW", "${env:PW: this reference has no closing `}`"),
        ];
        for (text, expected) in table {
            assert_eq!(resolve(text).1, [expected], "{text}");
        }
    }

    #[test]
    fn secrets_written_as_they_are_are_known() {
        let yaml = "password: one\nsmtp: { pasword: two, port: 25 }\nheaders: { Authorization: three }\n\
                    url: mqtts://u:fo%20ur@host/x\napi-key: 5551234\ntoken: ${env:PW}\nusername: six\n\
                    tokens: [seven]\nother: 'https://host/a:b@c'";
        let environment = fake();
        let mut resolver = Resolver::new(&environment, FilePath::new("/"));
        let mut value: Value = serde_yaml::from_str(yaml).expect("well-formed YAML");
        resolver.resolve(&mut value, &mut Vec::new());
        let literal: Vec<&str> = resolver.literal.iter().map(Secret::expose).collect();
        assert_eq!(literal, ["one", "two", "three", "fo%20ur", "fo ur", "5551234", "seven"]);
        let resolved: Vec<&str> = resolver.resolved.iter().map(Secret::expose).collect();
        assert_eq!(resolved, ["hunter2"]);
    }

    #[test]
    fn what_logs_in_by_a_header_or_a_url_is_known() {
        let yaml = "headers: { Cookie: sid=1, X-Auth: two, Accept: text/plain, X-Team: ops, X-Key: \"${env:PW}\" }\n\
                    a: https://Sk9TokenOfTheUsers12@h/\nb: https://probe@h/?api_key=three&page=4\n\
                    Cookie: no header";
        let environment = fake();
        let mut resolver = Resolver::new(&environment, FilePath::new("/"));
        let mut value: Value = serde_yaml::from_str(yaml).expect("well-formed YAML");
        resolver.resolve(&mut value, &mut Vec::new());
        let literal: Vec<&str> = resolver.literal.iter().map(Secret::expose).collect();
        assert_eq!(literal, ["sid=1", "two", "Sk9TokenOfTheUsers12", "three"]);
        let mut found = Vec::new();
        secrets_of(&value, &mut found);
        let found: Vec<&str> = found.iter().map(Secret::expose).collect();
        assert_eq!(found, ["sid=1", "two", "hunter2", "Sk9TokenOfTheUsers12", "three"]);
    }

    #[test]
    fn tokens_in_the_urls_of_channels_are_known() {
        let table: [(&str, &[&str]); 9] = [
            (
                "https://hooks.slack.com/services/T00000000/B00000000/x7Gk2LmPq9RsTuVwXyZa12bC",
                &["x7Gk2LmPq9RsTuVwXyZa12bC"],
            ),
            (
                "https://discord.com/api/webhooks/1234567890123456789/aB-c_dEfGhIjKlMnOpQrStUv",
                &["aB-c_dEfGhIjKlMnOpQrStUv"],
            ),
            ("https://api.telegram.org/bot123456:AAE-abcdefghijklmno/sendMessage", &["bot123456:AAE-abcdefghijklmno"]),
            ("https://chat.example.com/hooks/8x3hwq5rjfn6mbgka1s9dtyzec", &["8x3hwq5rjfn6mbgka1s9dtyzec"]),
            ("https://x.example.com/workflows/run?api-version=1&sig=Zm9vYmFyYmF6cXV4MTIz", &["Zm9vYmFyYmF6cXV4MTIz"]),
            ("https://x.example.com/a?token=short", &["short"]),
            ("https://${env:PW}.example.com/messages/x7Gk2LmPq9RsTuVwXyZa12bC", &["x7Gk2LmPq9RsTuVwXyZa12bC"]),
            ("https://alerts.example.com/api/v2/alerts-of-the-operations-team", &[]),
            ("smtp://mx.example.com:587", &[]),
        ];
        for (url, tokens) in table {
            // What is called a token is one wherever it stands.
            let named: &[&str] = if url.contains("token=") { tokens } else { &[] };
            for (section, expected) in [("channels", tokens), ("checks", named)] {
                let environment = fake();
                let mut resolver = Resolver::new(&environment, FilePath::new("/"));
                let mut value: Value =
                    serde_yaml::from_str(&format!("{section}: {{ a: {{ webhook: {{ url: \"{url}\" }} }} }}"))
                        .expect("well-formed YAML");
                resolver.resolve(&mut value, &mut Vec::new());
                let literal: Vec<&str> = resolver.literal.iter().map(Secret::expose).collect();
                assert_eq!(literal, expected, "{url}");
            }
        }
    }

    #[test]
    fn only_plain_files_of_bounded_length_are_read() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("big");
        fs::write(&path, vec![b'x'; 100]).expect("own directory");
        assert_eq!(OsEnvironment.read(&path, 100).expect("it fits").len(), 100);
        let error = OsEnvironment.read(&path, 99).expect_err("it is too long");
        assert!(error.to_string().contains("longer"), "{error}");
        let error = OsEnvironment.read(dir.path(), 99).expect_err("a directory");
        assert_eq!(error.to_string(), "it is not a plain file");
    }
}
