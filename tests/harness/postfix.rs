//! A real mail server: postfix, which keeps every mail for `example.com` in a maildir that tests can read.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{Server, free_port, scratch_in_memory, write};

/// Longest a mail may take from its acceptance to the maildir on a busy machine.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);

/// A running postfix. It offers STARTTLS on `port` and TLS from the first byte on `tls_port`, with a certificate of
/// its own for `localhost`; accepts mail for anybody at `example.com`, and refuses to relay to other domains.
pub struct Postfix {
    // Held for its directory: `postfix start-fg` is a script around the process that matters, see `stop`.
    _server: Server,
    /// SMTP, with STARTTLS.
    pub port: u16,
    /// SMTP over TLS.
    pub tls_port: u16,
    dir: PathBuf,
}

impl Postfix {
    /// Starts it; needs root, as postfix itself does.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts it with these further lines in `main.cf`.
    pub fn start_with(more: &str) -> Self {
        Self::start_in(more, &[])
    }

    /// The same with these variables (`NAME=value`) in its environment.
    pub fn start_in(more: &str, environment: &[String]) -> Self {
        let scratch = scratch_in_memory();
        let dir = scratch.path().to_path_buf();
        let (port, tls_port) = (free_port(), free_port());
        let certificate = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
        write(&dir, "cert.pem", &certificate.cert.pem());
        write(&dir, "key.pem", &certificate.signing_key.serialize_pem());
        for folder in ["etc", "queue", "data", "mail"] {
            fs::create_dir(dir.join(folder)).expect("own directory");
        }
        // The delivery agent runs as `nobody`, postfix' own state belongs to its user.
        fs::set_permissions(dir.join("mail"), fs::Permissions::from_mode(0o777)).expect("own directory");
        let status = Command::new("chown").arg("postfix").arg(dir.join("data")).status().expect("chown exists");
        assert!(status.success(), "there is no user `postfix`; install the Debian package postfix");
        let import =
            format!("import_environment = MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LANG=C {}", environment.join(" "));
        write(&dir, "etc/main.cf", &settled(&format!("{}{import}\n{more}\n", main_cf(&dir))));
        write(&dir, "etc/master.cf", &master_cf(port, tls_port));
        let etc = dir.join("etc");
        let etc = etc.to_str().expect("a scratch directory has a plain name");
        let ready = ([127, 0, 0, 1], port).into();
        let server = Server::start("postfix", "postfix", &["-c", etc, "start-fg"], scratch, ready);
        let postfix = Self { _server: server, port, tls_port, dir };
        // The master opens the port before the first process that answers on it is ready.
        let begun = Instant::now();
        while !greets(port) {
            assert!(begun.elapsed() < ARRIVAL_MAX, "postfix does not greet:\n{}", postfix.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        postfix
    }

    /// Ends it and waits for its end; the mails stay.
    pub fn stop(&mut self) {
        // The master process has a session of its own, so ending the script would leave it running.
        let Ok(id) = fs::read_to_string(self.dir.join("queue/pid/master.pid")) else { return };
        let id = id.trim();
        // A stopped process does not see TERM until it is continued.
        self.signal(None, "CONT");
        let alive = || Path::new("/proc").join(id).exists();
        for signal in ["-TERM", "-KILL"] {
            let begun = Instant::now();
            while alive() && begun.elapsed() < Duration::from_secs(5) {
                let _ = Command::new("kill").args([signal, id]).status();
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let _ = fs::remove_file(self.dir.join("queue/pid/master.pid"));
        super::let_go(([127, 0, 0, 1], self.port).into());
    }

    /// Sends a signal by name to its processes of this program (`qmgr`, `smtpd`), or to all of them.
    pub fn signal(&self, program: Option<&str>, name: &str) {
        let master = fs::read_to_string(self.dir.join("queue/pid/master.pid")).expect("it runs");
        let of_master = fs::read_dir("/proc").expect("a system with processes").flatten().filter_map(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // `12 (smtpd) S 11 …`: id, program, state, parent.
            let (id, rest) = stat.split_once(" (")?;
            let (found, rest) = rest.rsplit_once(") ")?;
            let parent = rest.split(' ').nth(1)?;
            let is_meant = program.is_none_or(|program| program == found);
            (parent == master.trim() && is_meant).then(|| id.to_owned())
        });
        let mut ids: Vec<String> = of_master.collect();
        if program.is_none() {
            ids.push(master.trim().to_owned());
        }
        assert!(!ids.is_empty(), "no process of postfix is {program:?}");
        // One that has ended meanwhile is none.
        let _ = Command::new("kill").arg(format!("-{name}")).args(ids).status();
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("mail.log")).unwrap_or_default()
    }

    /// The certificate it shows, in PEM form: trust it to connect.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("cert.pem")
    }

    /// The mails that have arrived, oldest first; each copy for a recipient is one.
    pub fn mails(&self) -> Vec<Vec<u8>> {
        let mut files: Vec<PathBuf> = ["new", "cur"]
            .iter()
            .filter_map(|part| fs::read_dir(self.dir.join("mail/inbox").join(part)).ok())
            .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
            .collect();
        files.sort_by_key(|file| fs::metadata(file).and_then(|m| m.modified()).ok());
        files.iter().map(|file| fs::read(file).expect("a mail is readable")).collect()
    }

    /// Waits until this many mails have arrived.
    pub fn wait_for_mails(&self, count: usize) -> Vec<Vec<u8>> {
        let begun = Instant::now();
        loop {
            let mails = self.mails();
            if mails.len() >= count {
                return mails;
            }
            assert!(begun.elapsed() < ARRIVAL_MAX, "{} of {count} mails arrived:\n{}", mails.len(), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.stop();
    }
}

fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut greeting = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"220 "
        && stream.write_all(b"QUIT\r\n").is_ok()
}

/// Of several lines for a parameter, the last. postfix reads it the same way, but warns of it, in each of its processes
/// at once; and its log takes few lines before the process that writes them is there, for which they then wait.
fn settled(main_cf: &str) -> String {
    let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let lines: Vec<&str> = main_cf.lines().filter(|line| !line.is_empty()).collect();
    let is_last = |(n, line): &(usize, &&str)| lines[n + 1..].iter().all(|later| name(later) != name(line));
    lines.iter().enumerate().filter(is_last).map(|(_, line)| format!("{line}\n")).collect()
}

fn main_cf(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "compatibility_level = 3.6
config_directory = {dir}/etc
queue_directory = {dir}/queue
data_directory = {dir}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_peername_lookup = no
myhostname = mx.example.com
mydestination =
virtual_mailbox_domains = example.com
virtual_transport = virtual
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_relay_restrictions = reject_unauth_destination
smtpd_tls_cert_file = {dir}/cert.pem
smtpd_tls_key_file = {dir}/key.pem
smtpd_tls_security_level = may
smtpd_tls_received_header = yes
maillog_file = {dir}/mail.log
maillog_file_prefixes = {dir}
append_dot_mydomain = no
alias_maps =
"
    )
}

fn master_cf(port: u16, tls_port: u16) -> String {
    format!(
        "127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{tls_port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"
    )
}
