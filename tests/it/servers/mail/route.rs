//! The servers of the mail route: postfix, a proxy that can mangle mails, dovecot.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::harness::{
    certs::Authority,
    dovecot::{Dovecot, PASSWORD},
    lmtp_proxy::LmtpProxy,
    mangler::Rates,
    policy::Policy,
    postfix::Postfix,
    scratch, write,
};

/// Whose mailbox is watched.
pub const USER: &str = "probe";

/// Longest wait for a mail to leave postfix before the next.
const GATE_MAX: Duration = Duration::from_secs(10);

/// How often dovecot is asked whether it has numbered a mail.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Everything between a sender and a reader. Ends with its value, the servers in the order in which they hand over.
pub struct Route {
    pub postfix: Postfix,
    pub proxy: LmtpProxy,
    pub dovecot: Dovecot,
    /// The authority both servers' certificates are signed by.
    pub ca: PathBuf,
    // Held for what they do and keep.
    _gate: Policy,
    _keys: TempDir,
}

/// What is not as usual on a route.
#[derive(Default)]
pub struct Unusual {
    /// The seed of the proxy, and what it does.
    pub seed: u64,
    pub rates: Rates,
    /// Whether mails keep their order, as postfix does not promise: it reads its queue as the file system lists it.
    pub in_order: bool,
    /// Further lines of `main.cf`.
    pub postfix: String,
    /// Further lines of dovecot's configuration.
    pub dovecot: String,
    /// Variables for the environment of each.
    pub postfix_environment: Vec<String>,
    pub dovecot_environment: Vec<String>,
}

impl Route {
    /// A healthy route.
    pub fn start() -> Self {
        Self::start_with(Unusual::default())
    }

    /// A route with something unusual.
    pub fn start_with(unusual: Unusual) -> Self {
        let (authority, keys) = (Authority::new(), scratch());
        let ca = write(keys.path(), "ca.pem", &authority.pem());
        let pair = |name: &str| {
            let pair = authority.server(&["localhost", "127.0.0.1"], -1, 30);
            let certificate = write(keys.path(), &format!("{name}.pem"), &pair.certificate);
            (
                certificate.display().to_string(),
                write(keys.path(), &format!("{name}.key"), &pair.key).display().to_string(),
            )
        };
        let (certificate, key) = pair("dovecot");
        let more = format!("ssl_cert = <{certificate}\nssl_key = <{key}\n{}", unusual.dovecot);
        let dovecot = Dovecot::start_in(&more, &unusual.dovecot_environment);
        let proxy = LmtpProxy::start(dovecot.lmtp, unusual.seed, unusual.rates);
        let gate = gate(&proxy);
        let (certificate, key) = pair("postfix");
        let mut more = format!(
            "smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\n{}{}",
            main_cf(&dovecot, &proxy),
            unusual.postfix
        );
        if unusual.in_order {
            more += &format!("smtpd_recipient_restrictions = check_policy_service inet:{}\n", gate.address);
            // A mail that arrives while dovecot reads its folder is numbered later, perhaps after the next one. Whoever
            // asks for the next number has all numbered first, unless the folder's time is still the same tick: then
            // dovecot takes it for unchanged, and looks again in a second or two.
            let (mut reader, mut last) = (dovecot.client(USER), 1);
            proxy.settle(move || {
                let begun = Instant::now();
                loop {
                    let next = next_uid(&reader.say("STATUS INBOX (UIDNEXT)"));
                    if next > last {
                        last = next;
                        return;
                    }
                    assert!(begun.elapsed() < GATE_MAX, "dovecot has numbered no mail: {next}");
                    std::thread::sleep(ASK_EVERY);
                }
            });
        }
        let postfix = Postfix::start_in(&more, &unusual.postfix_environment);
        Self { postfix, proxy, dovecot, ca, _gate: gate, _keys: keys }
    }

    /// `smtp: { … }` of a company's user, with these further options; from and to the watched mailbox.
    pub fn submission(&self, more: &str) -> String {
        self.submission_between(&format!("{USER}@example.com"), &format!("{USER}@example.com"), more)
    }

    /// The same between two addresses.
    pub fn submission_between(&self, from: &str, to: &str, more: &str) -> String {
        let (port, ca) = (self.postfix.port, self.ca.display());
        format!(
            "smtp: {{ url: 'smtp+starttls://localhost:{port}', username: {USER}, password: {PASSWORD}, \
             from: {from}, to: {to}, tls: {{ ca: '{ca}' }}{}{more} }}",
            if more.is_empty() { "" } else { ", " }
        )
    }

    /// `imap: { … }` of the watched mailbox, with these further options.
    pub fn imap(&self, more: &str) -> String {
        let (port, ca) = (self.dovecot.imaps.port(), self.ca.display());
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        format!(
            "imap: {{ url: 'imaps://localhost:{port}', username: {USER}, password: {PASSWORD}, tls: {{ ca: '{ca}' }}{more} }}"
        )
    }

    /// `pop3: { … }` of the watched mailbox.
    pub fn pop3(&self, more: &str) -> String {
        let (port, ca) = (self.dovecot.pop3s.port(), self.ca.display());
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        format!(
            "pop3: {{ url: 'pop3s://localhost:{port}', username: {USER}, password: {PASSWORD}, tls: {{ ca: '{ca}' }}{more} }}"
        )
    }

    /// From now on each mail is delivered twice.
    pub fn repeat_all(&self) {
        self.proxy.now(Rates { repeat: 1.0, hold_max: Duration::from_secs(1), ..Rates::default() });
    }

    /// The mails left in all folders: this many, and none of them bongsu's.
    pub fn only_strangers(&self, count: usize) -> Vec<Vec<u8>> {
        let all: Vec<Vec<u8>> =
            ["INBOX", "Junk", "Trash", "Sent"].iter().flat_map(|f| self.dovecot.mails(USER, f)).collect();
        let subjects = |mail: &Vec<u8>| {
            let text = String::from_utf8_lossy(mail).into_owned();
            text.lines().find(|l| l.starts_with("Subject:")).unwrap_or_default().to_owned()
        };
        let subjects: Vec<String> = all.iter().map(subjects).collect();
        assert!(all.iter().all(|m| !String::from_utf8_lossy(m).contains("bongsu1.")), "{subjects:?}");
        assert_eq!(all.len(), count, "{subjects:?}");
        all
    }
}

/// The number of the next mail, as dovecot tells it.
fn next_uid(status: &str) -> u32 {
    let number = status.split_once("UIDNEXT ").and_then(|(_, rest)| rest.split_once(')')).map(|(number, _)| number);
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number: {status}"))
}

/// Lets a recipient pass when all mails before have left postfix, so that its queue holds one at a time. For one sender
/// that names one recipient for each mail.
fn gate(proxy: &LmtpProxy) -> Policy {
    let seen = proxy.counter();
    Policy::start(move |before| {
        let begun = Instant::now();
        while seen() < before && begun.elapsed() < GATE_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
        "dunno".into()
    })
}

/// A company's submission: encrypted, for users alone, on to the mailboxes one mail at a time, so that their order
/// stays; and little patience, as a test has.
fn main_cf(dovecot: &Dovecot, proxy: &LmtpProxy) -> String {
    format!(
        "virtual_transport = lmtp:inet:127.0.0.1:{}
lmtp_destination_concurrency_limit = 1
lmtp_destination_recipient_limit = 1
smtp_line_length_limit = 0
lmtp_line_length_limit = 0
minimal_backoff_time = 2s
maximal_backoff_time = 2s
queue_run_delay = 1s
transport_retry_time = 1s
in_flow_delay = 0
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {}
smtpd_tls_auth_only = yes
smtpd_error_sleep_time = 0
smtpd_client_restrictions = permit_sasl_authenticated, reject
",
        proxy.address.port(),
        dovecot.sasl.display()
    )
}
