//! A real mail store: dovecot, with IMAP, POP3, LMTP to put mails into it, and a socket at which postfix can ask who may
//! log in. Every user exists, with the password `secret`; mails lie in maildirs that tests can read.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Server, certs, free_port, scratch_in_memory, write};

/// The password of every user.
pub const PASSWORD: &str = "secret";

/// How often a folder is read anew whose files are renamed meanwhile.
const READS_MAX: usize = 1_000;

/// Longest a mail may take to where it is looked for.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);

/// A running dovecot.
pub struct Dovecot {
    /// The process.
    pub server: Server,
    /// IMAP, with STARTTLS.
    pub imap: SocketAddr,
    /// IMAP over TLS.
    pub imaps: SocketAddr,
    /// POP3, with STLS.
    pub pop3: SocketAddr,
    /// POP3 over TLS.
    pub pop3s: SocketAddr,
    /// LMTP.
    pub lmtp: SocketAddr,
    /// The socket for postfix: `smtpd_sasl_type = dovecot`, `smtpd_sasl_path` is this.
    pub sasl: PathBuf,
    /// The certificate of the TLS listeners, self-signed for `localhost` and 127.0.0.1.
    pub certificate: PathBuf,
    dir: PathBuf,
}

impl Dovecot {
    /// Starts it; needs root, as it drops its privileges.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts it with these further lines of configuration, which win over those above them.
    pub fn start_with(more: &str) -> Self {
        Self::start_in(more, &[])
    }

    /// Starts it with further lines of configuration, and these variables (`NAME=value`) in its environment.
    pub fn start_in(more: &str, environment: &[String]) -> Self {
        let scratch = scratch_in_memory();
        let dir = scratch.path().to_path_buf();
        let ports: [u16; 5] = std::array::from_fn(|_| free_port());
        let pair = certs::self_signed(&["localhost", "127.0.0.1"], false);
        let certificate = write(&dir, "cert.pem", &pair.certificate);
        write(&dir, "key.pem", &pair.key);
        let mail = dir.join("mail");
        fs::create_dir(&mail).expect("own directory");
        super::mosquitto::open_to_all(&certificate);
        super::mosquitto::open_to_all(&write(&dir, "refused", ""));
        open_dir(&mail);
        let conf = write(&dir, "d.conf", &format!("{}{more}\n", configuration(&dir, ports)));
        let [imap, imaps, pop3, pop3s, lmtp] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        // What it hands on to its processes is but what it is told to.
        let names: Vec<&str> = environment.iter().filter_map(|v| v.split('=').next()).collect();
        let import = format!("import_environment={}", names.join(" "));
        let mut args: Vec<&str> = environment.iter().map(String::as_str).collect();
        args.extend(["/usr/sbin/dovecot", "-F", "-o", &import, "-c", conf.to_str().expect("a plain path")]);
        let server = Server::start("dovecot-imapd", "env", &args, scratch, imap);
        let dovecot = Self { server, imap, imaps, pop3, pop3s, lmtp, sasl: dir.join("run/sasl"), certificate, dir };
        // The master opens all ports before the first process that answers is ready.
        super::daemon::until("dovecot greets", || Imap::open(dovecot.imap).is_some());
        dovecot
    }

    /// Puts a mail into a user's mailbox, as a mail server does (LMTP, RFC 2033).
    pub fn deliver(&self, user: &str, mail: &[u8]) {
        let stream = TcpStream::connect(self.lmtp).expect("dovecot listens");
        let mut writer = stream.try_clone().expect("a socket can be shared");
        let mut reader = BufReader::new(stream);
        let mut heard = |code: &str| loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("an answer");
            assert!(line.starts_with(code), "{line}");
            if line.as_bytes().get(3) == Some(&b' ') {
                return;
            }
        };
        let mut say = |text: String| writer.write_all(text.as_bytes()).expect("dovecot reads");
        heard("220");
        say("LHLO test\r\n".into());
        heard("250");
        say("MAIL FROM:<sender@example.com>\r\n".into());
        heard("250");
        say(format!("RCPT TO:<{user}>\r\n"));
        heard("250");
        say("DATA\r\n".into());
        heard("354");
        let stuffed = String::from_utf8_lossy(mail).replace("\r\n.", "\r\n..");
        say(format!("{stuffed}\r\n.\r\n"));
        heard("250");
        say("QUIT\r\n".into());
        heard("221");
    }

    /// The files of a user's mails in a folder (`INBOX`, `Junk`), oldest first.
    pub fn files(&self, user: &str, folder: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = ["new", "cur"]
            .iter()
            .filter_map(|part| fs::read_dir(self.folder(user, folder).join(part)).ok())
            .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
            .collect();
        files.sort_by_key(|file| fs::metadata(file).and_then(|m| m.modified()).ok());
        files
    }

    /// A user's mails in a folder, oldest first.
    pub fn mails(&self, user: &str, folder: &str) -> Vec<Vec<u8>> {
        // dovecot renames a file when it is first seen and when its flags change; then the folder is read anew.
        let all_at_once = || self.files(user, folder).iter().map(|file| fs::read(file).ok()).collect();
        (0..READS_MAX).find_map(|_| all_at_once()).expect("a folder comes to rest")
    }

    /// Waits until there are exactly this many mails in a folder.
    pub fn wait_for_mails(&self, user: &str, folder: &str, count: usize) -> Vec<Vec<u8>> {
        let begun = Instant::now();
        loop {
            let mails = self.mails(user, folder);
            if mails.len() == count {
                return mails;
            }
            assert!(begun.elapsed() < ARRIVAL_MAX, "{} of {count} mails:\n{}", mails.len(), self.server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Refuses new logins of these users, and of no others, once this returns; sessions that are open go on.
    pub fn refuse(&self, users: &[&str]) {
        let before = fs::read_to_string(self.dir.join("refused")).unwrap_or_default();
        let lines: String = users.iter().map(|user| format!("{user}:\n")).collect();
        // Put in place at once: a file that is half written would let somebody in.
        let new = write(&self.dir, "refused.new", &lines);
        super::mosquitto::open_to_all(&new);
        fs::rename(new, self.dir.join("refused")).expect("own directory");
        // dovecot looks whether the file is another one once a second at most.
        let is_let_in = |user: &str| {
            let said = Imap::open(self.imap).expect("dovecot greets").say(&format!("LOGIN {user} {PASSWORD}"));
            said.contains(" OK ")
        };
        for user in before.lines().filter_map(|line| line.strip_suffix(':')).chain(users.iter().copied()) {
            super::daemon::until("a change of who is refused is seen", || is_let_in(user) != users.contains(&user));
        }
    }

    /// Moves the oldest mail of a folder into another one, as a spam filter does.
    pub fn shift(&self, user: &str, from: &str, to: &str) {
        let mut client = self.client(user);
        client.say(&format!("SELECT {from}"));
        let said = client.say(&format!("MOVE 1 {to}"));
        assert!(said.contains(" OK "), "{said}");
    }

    /// A reader's program that is logged in.
    pub fn client(&self, user: &str) -> Imap {
        let mut client = Imap::open(self.imap).expect("dovecot greets");
        let said = client.say(&format!("LOGIN {user} {PASSWORD}"));
        assert!(said.contains(" OK "), "{said}");
        client
    }

    fn folder(&self, user: &str, folder: &str) -> PathBuf {
        let mailbox = self.dir.join("mail").join(user);
        if folder == "INBOX" { mailbox } else { mailbox.join(format!(".{folder}")) }
    }
}

/// The little of IMAP that another program of the same reader needs.
pub struct Imap {
    reader: BufReader<TcpStream>,
    tag: u32,
}

impl Imap {
    fn open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let mut reader = BufReader::new(stream);
        let mut greeting = String::new();
        reader.read_line(&mut greeting).ok()?;
        greeting.starts_with("* OK").then_some(Self { reader, tag: 0 })
    }

    /// Says a command; all that came up to its end.
    pub fn say(&mut self, command: &str) -> String {
        self.tag += 1;
        let tag = format!("t{} ", self.tag);
        self.reader.get_mut().write_all(format!("{tag}{command}\r\n").as_bytes()).expect("dovecot reads");
        let mut all = String::new();
        loop {
            let mut line = Vec::new();
            self.reader.by_ref().read_until(b'\n', &mut line).expect("dovecot answers");
            assert!(!line.is_empty(), "{command}: closed after {all}");
            all.push_str(&String::from_utf8_lossy(&line));
            if line.starts_with(tag.as_bytes()) {
                return all;
            }
        }
    }
}

fn open_dir(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("own directory");
}

/// `nobody` owns the mails and runs everything but the master.
fn configuration(dir: &Path, [imap, imaps, pop3, pop3s, lmtp]: [u16; 5]) -> String {
    let dir = dir.display();
    format!(
        "base_dir = {dir}/run
state_dir = {dir}/state
log_path = /dev/stderr
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = yes
ssl_cert = <{dir}/cert.pem
ssl_key = <{dir}/key.pem
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_location = maildir:{dir}/mail/%n
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 0
default_internal_user = nobody
default_login_user = nobody
default_internal_group = nogroup
auth_failure_delay = 0
mail_max_userip_connections = 100
passdb {{
  driver = passwd-file
  deny = yes
  args = username_format=%n {dir}/refused
}}
passdb {{
  driver = static
  args = password={PASSWORD}
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={dir}/mail/%n allow_all_users=yes
}}
namespace inbox {{
  inbox = yes
  mailbox Junk {{
    special_use = \\Junk
    auto = create
  }}
  mailbox Sent {{
    special_use = \\Sent
    auto = create
  }}
  mailbox Trash {{
    special_use = \\Trash
    auto = create
  }}
  mailbox Drafts {{
    special_use = \\Drafts
    auto = create
  }}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
  }}
}}
service anvil {{
  chroot =
}}
service lmtp {{
  user = nobody
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
service auth {{
  unix_listener sasl {{
    mode = 0666
  }}
}}
"
    )
}
