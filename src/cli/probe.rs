//! `bongsu probe`: one attempt, now, shown in full.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use clap::ValueHint;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::{
    Context, Failure, Format, Verdict, records,
    render::{
        probe::{self as render, Probed},
        text::{Screen, count},
    },
};
use crate::{
    check::{self, Answer, Ask, Families, Lane, Past, Settings},
    clock,
    config::{Config, Environment, OsEnvironment},
    delivery::Key,
    observation::Outcome,
    options::suggestion,
    protocol::Net,
    store::Reader,
    value::{CheckName, Name, Secret, TimeSpan},
};

/// Attempts at once, if nobody says otherwise: enough to finish hundreds in seconds, few enough for a home router.
const PARALLEL: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");

/// Most attempts at once: each holds a few descriptors, of which a shell gives 1,024.
const PARALLEL_MAX: usize = 200;

/// Deadline of an attempt on a URL.
const TIMEOUT: &str = "5s";

/// Ask once, now: a check, several, or a URL; show where the time went and why it failed
///
/// NAME is service/check from the configuration, a service (all its checks), or a pattern with `*`. A URL needs no
/// configuration; `bongsu protocols` lists what can be spoken. Nothing is recorded, nobody is told. Exits with 1
/// unless everything is ok or slow.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  bongsu probe mail/submission
  bongsu probe mail/round-trip --explain     with a transcript, secrets masked
  bongsu probe 'mail/*'                      all checks of a service
  bongsu probe mail/login --all-accounts     with each of its accounts
  bongsu probe --all --json | jq '.[] | select(.outcome != \"ok\") | .check'
  bongsu probe https://chat.example.com/
  bongsu probe mqtts://broker.example.com --timeout 2s --ip ipv6")]
pub struct Args {
    /// A check, a service, a pattern, or a URL
    #[arg(value_name = "NAME|URL", required_unless_present = "all", conflicts_with = "all", value_hint = ValueHint::Url)]
    targets: Vec<String>,
    /// Every check of the configuration
    #[arg(long)]
    all: bool,
    /// Every account of a check that has several, not only the first
    #[arg(long)]
    all_accounts: bool,
    /// Show what was said on the wire, line by line; secrets are masked
    #[arg(long)]
    explain: bool,
    /// Deadline of the attempt, instead of the check's own [default for a URL: 5s]
    #[arg(long, value_name = "SPAN")]
    timeout: Option<TimeSpan>,
    /// Address families to use, instead of the check's own
    #[arg(long, value_name = "FAMILY", value_parser = families, hide_possible_values = true)]
    ip: Option<Families>,
    /// Longest wait for the message of a delivery check [default: until it counts as lost]
    ///
    /// Never shorter than the check's objective; a message that is still on its way then is told as pending.
    #[arg(long, value_name = "SPAN")]
    wait: Option<TimeSpan>,
    /// Attempts at once
    #[arg(long, value_name = "N", default_value_t = PARALLEL)]
    parallel: NonZeroUsize,
    #[command(flatten)]
    format: Format,
}

fn families(word: &str) -> Result<Families, String> {
    serde_json::from_value(json!(word)).map_err(|_| "one of any, ipv4, ipv6, both".to_owned())
}

/// Something to ask.
struct Target {
    name: CheckName,
    /// As the user knows it.
    shown: String,
    ask: Arc<dyn Ask>,
    settings: Settings,
    net: Arc<Net>,
    vantage: String,
}

impl Target {
    /// The same with each of its accounts.
    fn each(self) -> Vec<Self> {
        let accounts = self.ask.each();
        if accounts.is_empty() {
            return vec![self];
        }
        let of = |(account, ask): (String, Arc<dyn Ask>)| Self {
            name: self.name.clone(),
            shown: format!("{} ({account})", self.shown),
            ask,
            settings: self.settings.clone(),
            net: self.net.clone(),
            vantage: self.vantage.clone(),
        };
        accounts.into_iter().map(of).collect()
    }
}

/// Asks and shows.
pub async fn run(args: Args, cx: &mut Context) -> Result<Verdict, Failure> {
    let timeout = args.timeout.map(|t| t.0);
    if timeout.is_some_and(|t| t.is_zero()) {
        return Err(Failure::usage("--timeout 0s leaves no time to ask"));
    }
    let (urls, names): (Vec<&String>, Vec<&String>) = args.targets.iter().partition(|t| is_url(t));
    let mut targets = Vec::new();
    for url in &urls {
        targets.push(from_url(url, timeout, args.ip)?);
    }
    let single = !args.all && args.targets.len() == 1;
    let mut one = single && urls.len() == 1;
    if args.all || !names.is_empty() {
        let config = cx.load()?;
        one |= single && names.iter().all(|n| config.checks.iter().any(|c| c.name.as_str() == n.as_str()));
        targets.extend(from_config(&config, &names, args.all, timeout, args.ip)?);
    }
    if args.all_accounts {
        targets = targets.into_iter().flat_map(Target::each).collect();
        one &= targets.len() == 1;
    }
    let key = if targets.iter().any(|t| t.ask.sends()) { tracer_key(cx).await } else { None };
    // As the daemon does: the time this takes is not the first attempt's.
    let nets: Vec<Arc<Net>> = targets.iter().map(|t| t.net.clone()).collect();
    let _ = tokio::task::spawn_blocking(move || nets.iter().for_each(|net| net.warm())).await;
    let begun = clock::instant();
    let answers = ask_all(&targets, &args, key, cx).await;
    let took = clock::instant().saturating_duration_since(begun);
    let fine = answers.iter().all(|a| matches!(a.observation.outcome, Outcome::Ok | Outcome::Slow));
    if args.format.json {
        let mut all: Vec<Value> = targets.iter().zip(&answers).map(|(t, a)| to_json(t, a, args.explain)).collect();
        let value = if one { all.pop().unwrap_or(Value::Null) } else { Value::Array(all) };
        cx.out.print_json(&value)?;
    } else {
        let text = to_text(&targets, &answers, one, args.explain, took, cx.out.screen());
        cx.out.print(&text)?;
    }
    Ok(Verdict::of(fine))
}

/// A name of the configuration holds no colon, every URL does (`dns:example.com` is one).
fn is_url(word: &str) -> bool {
    word.contains(':')
}

/// What a URL asks, with the deadline and the families given.
fn from_url(url: &str, timeout: Option<Duration>, ip: Option<Families>) -> Result<Target, Failure> {
    let ask = check::from_url(url).map_err(|e| Failure::usage(without_password(url, &e)))?;
    let default: TimeSpan = TIMEOUT.parse().expect("a constant that is tested");
    let settings = Settings { timeout: timeout.unwrap_or(default.0), slow: None, ip: ip.unwrap_or_default() };
    let masker = crate::value::Masker::new(passwords(url));
    let net = super::net_of(Vec::new(), masker)?;
    let shown = net.masker.mask(&ask.target()).into_owned();
    Ok(Target { name: url_name(url), shown, ask, settings, net, vantage: host_name() })
}

/// The host's name, as an observation's vantage.
fn host_name() -> String {
    OsEnvironment.host_name().unwrap_or_else(|| "here".into())
}

/// Secrets in a URL: its password, as written and decoded.
fn passwords(url: &str) -> Vec<Secret> {
    let Some(password) = url::Url::parse(url).ok().and_then(|u| u.password().map(str::to_owned)) else {
        return Vec::new();
    };
    // Not a form: a plus is a plus, so it is protected from the form's decoding.
    let form = format!("p={}", password.replace('+', "%2B"));
    let decoded = url::form_urlencoded::parse(form.as_bytes()).next().map(|(_, v)| v.into_owned());
    [Some(password), decoded].into_iter().flatten().map(Secret::new).collect()
}

fn without_password(url: &str, text: &str) -> String {
    crate::value::Masker::new(passwords(url)).mask(text).into_owned()
}

/// `https/chat.example.com`: the name a URL's observation goes by.
fn url_name(url: &str) -> CheckName {
    let parsed = url::Url::parse(url).ok();
    let part = |text: Option<&str>, other: &str| -> Name {
        let fit = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
        let text: String = text.unwrap_or(other).chars().map(fit).take(Name::CHARS_MAX).collect();
        let text = text.trim_matches(|c: char| !c.is_alphanumeric());
        text.parse().unwrap_or_else(|_| other.parse().expect("a constant that is a good name"))
    };
    let scheme = part(parsed.as_ref().map(url::Url::scheme), "url");
    CheckName::new(&scheme, &part(parsed.as_ref().and_then(url::Url::host_str), "target"))
}

fn from_config(
    config: &Config,
    names: &[&String],
    all: bool,
    timeout: Option<Duration>,
    ip: Option<Families>,
) -> Result<Vec<Target>, Failure> {
    for name in names {
        if !config.checks.iter().any(|c| selects(name, &c.name)) {
            let known = config.checks.iter().map(|c| c.name.as_str());
            let hint = if config.checks.is_empty() { "there are no checks".into() } else { hint(name, known) };
            return Err(Failure::usage(format!("no check is called `{name}`; {hint}")));
        }
    }
    let net = super::net(config)?;
    let asked = config.checks.iter().filter(|c| all || names.iter().any(|n| selects(n, &c.name)));
    Ok(asked
        .map(|check| {
            let mut settings = check.settings.clone();
            settings.timeout = timeout.unwrap_or(settings.timeout);
            settings.ip = ip.unwrap_or(settings.ip);
            Target {
                name: check.name.clone(),
                shown: check.name.to_string(),
                ask: check.ask.clone(),
                settings,
                net: net.clone(),
                vantage: config.agent.name.to_string(),
            }
        })
        .collect())
}

/// The nearest name; all of them only while they fit a line or two.
fn hint<'k>(name: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    const FEW: usize = 8;
    if known.clone().count() <= FEW {
        return suggestion(name, known);
    }
    match crate::options::nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`bongsu status` lists them".into(),
    }
}

/// Whether a word of the command line means this check: its name, its service, or a pattern with `*`.
fn selects(word: &str, name: &CheckName) -> bool {
    word == name.as_str() || word == name.service().as_str() || (word.contains('*') && matches(word, name.as_str()))
}

/// Whether a text fits a pattern in which `*` stands for anything. Linear: each part is found at its first place.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// By what the daemon knows its messages, if its store is there and may be read.
async fn tracer_key(cx: &mut Context) -> Option<[u8; 32]> {
    let config = cx.load().ok()?;
    records::unless_it_hangs(cx).await.ok()?;
    Reader::open(&config.store.path).and_then(|store| store.tracer_key()).ok()
}

/// One attempt of each, at most `parallel` at once; answers in the order of the targets.
async fn ask_all(targets: &[Target], args: &Args, key: Option<[u8; 32]>, cx: &mut Context) -> Vec<Answer> {
    let (explain, wait) = (args.explain, args.wait.map(|w| w.0));
    let parallel = args.parallel.get().min(PARALLEL_MAX);
    let attempts = targets.iter().enumerate().map(|(i, target)| async move {
        let context = check::Context {
            net: target.net.clone(),
            at: clock::now(),
            settings: target.settings.clone(),
            explain,
            wait_max: wait,
        };
        if let Some(key) = key.filter(|_| target.ask.sends()) {
            // Should this process be killed, the daemon knows what it left for its own, and clears it away.
            let (key, lane) = (Key::new(&key), Lane::default());
            target.ask.resume(Past { key, sequence: 0, flights: Vec::new(), journal: None, lane }).await;
        }
        let answer = target.ask.attempt(context).await;
        target.ask.close().await;
        (i, answer)
    });
    let mut attempts = stream::iter(attempts).buffer_unordered(parallel);
    let mut answers: Vec<Option<Answer>> = targets.iter().map(|_| None).collect();
    let mut done = 0;
    loop {
        let text = match targets {
            [one] => format!("asking {} …", one.shown),
            _ => format!("{done} of {} answered …", count(targets.len(), "check")),
        };
        cx.out.progress(&text);
        let Some((i, answer)) = attempts.next().await else { break };
        answers[i] = Some(answer);
        done += 1;
    }
    answers.into_iter().flatten().collect()
}

impl Target {
    /// Whom it asks; a secret may be a part of a URL.
    fn told(&self) -> String {
        self.net.masker.mask(&self.ask.target()).into_owned()
    }
}

fn to_json(target: &Target, answer: &Answer, explain: bool) -> Value {
    let mut value = answer.observation.to_json(&target.name, &target.vantage);
    value["target"] = json!(target.told());
    if explain {
        value["transcript"] = render::transcript_json(&answer.transcript);
    }
    value
}

fn to_text(targets: &[Target], answers: &[Answer], one: bool, explain: bool, took: Duration, screen: Screen) -> String {
    let shown: Vec<String> = targets.iter().map(Target::told).collect();
    let probed = targets.iter().zip(&shown).zip(answers).map(|((target, shown), answer)| Probed {
        name: &target.shown,
        target: shown,
        observation: &answer.observation,
        transcript: explain.then_some(&answer.transcript),
    });
    let probed: Vec<Probed<'_>> = probed.collect();
    let mut text = String::new();
    if one || explain {
        for probed in &probed {
            text.push_str(&render::one(probed, screen));
            text.push_str(if one { "" } else { "\n" });
        }
    }
    if !one {
        text.push_str(&render::many(&probed, took, screen));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_select_checks() {
        let table = [
            ("mail/in", "mail/in", true),
            ("mail", "mail/in", true),
            ("mail/*", "mail/in", true),
            ("*", "mail/in", true),
            ("*/in", "mail/in", true),
            ("m*l/*n", "mail/in", true),
            ("*a*i*i*", "mail/in", true),
            ("카*", "카톡/전송", true),
            ("*송", "카톡/전송", true),
            ("mail/i", "mail/in", false),
            ("mai", "mail/in", false),
            ("mai*x", "mail/in", false),
            ("*in*in", "mail/in", false),
            ("mail/in*in", "mail/in", false),
            ("", "mail/in", false),
        ];
        for (word, name, selected) in table {
            assert_eq!(selects(word, &name.parse().expect("a name")), selected, "{word} {name}");
        }
    }

    #[test]
    fn urls_have_names_and_hide_their_passwords() {
        let table = [
            ("https://chat.example.com/x?y", "https/chat.example.com"),
            ("tcp://[::1]:25", "tcp/1"),
            ("mqtt+tls://b:1", "mqtt-tls/b"),
            ("dns:example.com", "dns/target"),
            ("dns://", "dns/target"),
            ("nonsense", "url/target"),
        ];
        for (url, name) in table {
            assert_eq!(url_name(url).as_str(), name, "{url}");
        }
        let masked = without_password("mqtt://u:p%40ss%2Bw@h", "cannot use mqtt://u:p%40ss%2Bw@h with p@ss+w");
        assert_eq!(masked, "cannot use mqtt://u:***@h with ***");
    }

    #[test]
    fn the_default_deadline_is_one() {
        assert!(TIMEOUT.parse::<TimeSpan>().is_ok_and(|t| !t.0.is_zero()));
        assert_eq!(families("both"), Ok(Families::Both));
        assert!(families("ipv5").is_err());
    }
}
