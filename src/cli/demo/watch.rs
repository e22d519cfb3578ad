//! What the demo looks at while the daemon works: its database, by the documented views; the mail drop; nothing of
//! the daemon's inside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Row};

use crate::value::Timestamp;

/// How long a busy database is waited for.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// Most observations read at once; the longest demo makes 14,400.
const ROWS_MAX: u32 = 20_000;

/// A minute in an observation's number, which is the attempt's beginning in milliseconds times 256: an attempt
/// that took no longer than this is seen although others that began later have been told.
const SLOWEST_IDS: i64 = 60_000 << 8;

/// Longest mail of which the headers are read.
const MAIL_BYTES_MAX: u64 = 1024 * 1024;

/// What one attempt of a check showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The check, without its service.
    pub check: String,
    /// When the attempt began.
    pub at: Timestamp,
    /// `ok`, `slow`, `failed`, `unknown`.
    pub outcome: String,
    /// How long it took, or the message was under way.
    pub latency_ms: f64,
    /// What was wrong.
    pub reason: Option<String>,
    /// What became of its message.
    pub fate: Option<String>,
}

impl Observed {
    /// When it was known.
    pub fn ended_at(&self) -> Timestamp {
        self.at + Duration::try_from_secs_f64(self.latency_ms / 1_000.0).unwrap_or_default()
    }
}

/// An incident as its row stands.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentRow {
    /// Its number.
    pub id: i64,
    /// The service's title.
    pub title: String,
    /// `open` or `closed`.
    pub state: String,
    /// How bad it was at its worst.
    pub worst: String,
    /// The last good attempt before it.
    pub started_after: Option<Timestamp>,
    /// The first bad one.
    pub started_by: Timestamp,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// From the first bad attempt to the first good one, or until now.
    pub duration: Duration,
    /// The cause in one line.
    pub cause: String,
}

/// A mail in the drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Its file.
    pub file: PathBuf,
    /// Its `Subject`, unfolded and decoded.
    pub subject: String,
    /// Its `From`.
    pub from: String,
    /// Its `To`.
    pub to: String,
    /// Whether it continues a thread.
    pub answers: bool,
}

/// What is new since the last look.
#[derive(Debug, Default)]
pub struct News {
    /// Observations, in order.
    pub observed: Vec<Observed>,
    /// Incidents that are new or have been closed.
    pub incidents: Vec<IncidentRow>,
    /// Messages that had been booked as lost and have turned up.
    pub late: usize,
    /// Mails.
    pub mails: Vec<Mail>,
}

/// Looks again and again, and tells what is new.
#[derive(Debug, Default)]
pub struct Watch {
    database: PathBuf,
    drop: PathBuf,
    /// Per check, the latest observation told. They come in order of their end, and their numbers are in order of
    /// their beginning: only within one check, whose attempts never overlap, are these the same.
    told: BTreeMap<String, i64>,
    missing: BTreeSet<i64>,
    incidents: BTreeMap<i64, String>,
    mails: BTreeSet<PathBuf>,
}

impl Watch {
    /// A watch on a database and a mail drop; neither need exist yet.
    pub fn new(database: PathBuf, drop: PathBuf) -> Self {
        Self { database, drop, ..Self::default() }
    }

    /// What is new. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// When the database cannot be read although it is there.
    pub fn look(&mut self) -> Result<News, rusqlite::Error> {
        let mut news = News { mails: self.new_mails(), ..News::default() };
        if !self.database.exists() {
            return Ok(news);
        }
        let connection = open(&self.database)?;
        // The daemon makes the file first and its tables a moment later.
        let ready: i64 = connection.query_row(
            "SELECT count(*) FROM sqlite_master WHERE name IN ('observations', 'incidents')",
            [],
            |row| row.get(0),
        )?;
        if ready < 2 {
            return Ok(news);
        }
        self.look_at_observations(&connection, &mut news)?;
        for row in incidents(&connection)? {
            if self.incidents.insert(row.id, row.state.clone()).as_ref() != Some(&row.state) {
                news.incidents.push(row);
            }
        }
        Ok(news)
    }

    fn look_at_observations(&mut self, connection: &Connection, news: &mut News) -> Result<(), rusqlite::Error> {
        // A message's fate is corrected in its row, so rows with a missing message are looked at again.
        for id in self.missing.clone() {
            let fate: Option<String> =
                connection.query_row("SELECT fate FROM observations WHERE id = ?1", [id], |row| row.get(0))?;
            if !is_missing(fate.as_deref()) {
                self.missing.remove(&id);
                news.late += usize::from(fate.as_deref() == Some("late"));
            }
        }
        let mut statement = connection.prepare(
            "SELECT check_name, at, outcome, latency_ms, reason, fate, id FROM observations
             WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let oldest = self.told.values().min().unwrap_or(&0).saturating_sub(SLOWEST_IDS);
        let mut rows = statement.query((oldest, ROWS_MAX))?;
        while let Some(row) = rows.next()? {
            let (name, id): (String, i64) = (row.get(0)?, row.get(6)?);
            if self.told.get(&name).is_some_and(|told| *told >= id) {
                continue;
            }
            let observed = Observed {
                check: name.split_once('/').map_or(name.clone(), |(_, check)| check.to_owned()),
                at: time(row, 1)?.unwrap_or_default(),
                outcome: row.get(2)?,
                latency_ms: row.get(3)?,
                reason: row.get(4)?,
                fate: row.get(5)?,
            };
            self.told.insert(name, id);
            if is_missing(observed.fate.as_deref()) {
                self.missing.insert(id);
            }
            news.observed.push(observed);
        }
        Ok(())
    }

    fn new_mails(&mut self) -> Vec<Mail> {
        let Ok(folder) = fs::read_dir(&self.drop) else { return Vec::new() };
        let mut files: Vec<PathBuf> = folder
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "eml") && !self.mails.contains(path))
            .collect();
        files.sort();
        let mails = files.iter().filter_map(|file| read_mail(file)).collect();
        self.mails.extend(files);
        mails
    }
}

fn open(database: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY_MAX)?;
    Ok(connection)
}

fn is_missing(fate: Option<&str>) -> bool {
    matches!(fate, Some("lost" | "pending" | "uncertain"))
}

fn time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>, rusqlite::Error> {
    let text: Option<String> = row.get(column)?;
    Ok(text.and_then(|text| text.parse().ok()))
}

fn incidents(connection: &Connection) -> Result<Vec<IncidentRow>, rusqlite::Error> {
    let mut statement = connection.prepare(
        "SELECT id, title, state, worst, started_after, started_by, opened_at, closed_at, duration_s, cause
         FROM incidents ORDER BY id",
    )?;
    let rows = statement.query_map([], |row| {
        let seconds: f64 = row.get(8)?;
        Ok(IncidentRow {
            id: row.get(0)?,
            title: row.get(1)?,
            state: row.get(2)?,
            worst: row.get(3)?,
            started_after: time(row, 4)?,
            started_by: time(row, 5)?.unwrap_or_default(),
            opened_at: time(row, 6)?.unwrap_or_default(),
            closed_at: time(row, 7)?,
            duration: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
            cause: row.get(9)?,
        })
    })?;
    rows.collect()
}

/// The query that the demo shows, and its rows as the `sqlite3` program prints them.
pub fn shown_rows(database: &Path) -> Result<(&'static str, Vec<String>), rusqlite::Error> {
    const QUERY: &str = "SELECT id, worst, started_by, duration_s, cause FROM incidents";
    let connection = open(database)?;
    let mut statement = connection.prepare(QUERY)?;
    let rows = statement.query_map([], |row| {
        let (id, seconds): (i64, f64) = (row.get(0)?, row.get(3)?);
        let (worst, started, cause): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(4)?);
        Ok(format!("{id}|{worst}|{started}|{seconds}|{cause}"))
    })?;
    Ok((QUERY, rows.collect::<Result<_, _>>()?))
}

// ---------------------------------------------------------------------------------------------------------------
// Mails

fn read_mail(file: &Path) -> Option<Mail> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(file).ok()?.take(MAIL_BYTES_MAX).read_to_string(&mut text).ok()?;
    let header = |name: &str| header(&text, name);
    Some(Mail {
        file: file.to_owned(),
        subject: header("Subject").unwrap_or_default(),
        from: header("From").unwrap_or_default(),
        to: header("To").unwrap_or_default(),
        answers: header("In-Reply-To").is_some(),
    })
}

/// A header's value, unfolded (RFC 5322, 2.2.3), its encoded words decoded (RFC 2047).
fn header(mail: &str, name: &str) -> Option<String> {
    let mut lines = mail.lines().take_while(|line| !line.is_empty()).skip_while(|line| {
        let begins = line.split_once(':').is_some_and(|(known, _)| known.eq_ignore_ascii_case(name));
        !begins
    });
    let mut value = lines.next()?.split_once(':')?.1.trim().to_owned();
    for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
        value.push(' ');
        value.push_str(line.trim());
    }
    Some(decode_words(&value))
}

fn decode_words(value: &str) -> String {
    let mut decoded = String::new();
    let mut after_word = false;
    for word in value.split(' ') {
        match decode_word(word) {
            // Space between two encoded words is not part of the text.
            Some(text) if after_word => decoded.push_str(&text),
            word_or_not => {
                if !decoded.is_empty() {
                    decoded.push(' ');
                }
                after_word = word_or_not.is_some();
                decoded.push_str(word_or_not.as_deref().unwrap_or(word));
            }
        }
    }
    decoded
}

fn decode_word(word: &str) -> Option<String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut parts = word.strip_prefix("=?")?.strip_suffix("?=")?.split('?');
    let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
    if !charset.eq_ignore_ascii_case("utf-8") || parts.next().is_some() {
        return None;
    }
    let bytes = match encoding {
        "b" | "B" => STANDARD.decode(text).ok()?,
        "q" | "Q" => unquote(text.as_bytes()),
        _ => return None,
    };
    String::from_utf8(bytes).ok()
}

fn unquote(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, hex) {
            (b'=', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
                continue;
            }
            (b'_', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "
        CREATE TABLE observations (id INTEGER, check_name, at, outcome, latency_ms REAL, reason, fate);
        CREATE TABLE incidents (id INTEGER, title, state, worst, started_after, started_by, opened_at, closed_at,
            duration_s REAL, cause);";

    #[test]
    fn only_what_is_new_is_told_and_late_arrivals_are_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("bongsu.db");
        let mut watch = Watch::new(database.clone(), dir.path().join("mail"));
        assert!(watch.look().expect("no file is no error").observed.is_empty());
        let writer = Connection::open(&database).expect("a database");
        assert!(watch.look().expect("no tables is no error").observed.is_empty());
        writer.execute_batch(TABLES).expect("tables");
        let at = "2026-11-23T07:00:00.000Z";
        let add = |id: i64, outcome: &str, fate: Option<&str>| {
            let row = (id, "messenger/delivery", at, outcome, 3.2, None::<String>, fate);
            writer.execute("INSERT INTO observations VALUES (?1,?2,?3,?4,?5,?6,?7)", row).expect("a row");
        };
        add(1, "ok", Some("arrived"));
        add(2, "failed", Some("lost"));
        add(3, "failed", Some("lost"));
        let first = watch.look().expect("readable");
        let seen: Vec<_> = first.observed.iter().map(|o| (o.check.as_str(), o.outcome.as_str())).collect();
        assert_eq!(seen, [("delivery", "ok"), ("delivery", "failed"), ("delivery", "failed")]);
        writer.execute_batch("UPDATE observations SET fate = 'late', outcome = 'slow' WHERE id = 3").expect("a change");
        add(4, "ok", Some("arrived"));
        let second = watch.look().expect("readable");
        assert_eq!((second.observed.len(), second.late), (1, 1));
        let third = watch.look().expect("readable");
        assert_eq!((third.observed.len(), third.late), (0, 0));
        // Begun before, ended after.
        let slow = "INSERT INTO observations VALUES (3, 'messenger/port', ?1, 'ok', 900, NULL, NULL)";
        writer.execute(slow, [at]).expect("a row");
        assert_eq!(watch.look().expect("readable").observed[0].check, "port");
        assert!(watch.look().expect("readable").observed.is_empty());

        let incident = "INSERT INTO incidents VALUES (1, 'Demo', 'open', 'down', NULL, ?1, ?1, NULL, 3.5, 'lost')";
        writer.execute(incident, [at]).expect("a row");
        assert_eq!(watch.look().expect("readable").incidents[0].duration, Duration::from_millis(3_500));
        assert!(watch.look().expect("readable").incidents.is_empty());
        writer.execute("UPDATE incidents SET state = 'closed', closed_at = ?1", [at]).expect("a change");
        assert_eq!(watch.look().expect("readable").incidents[0].state, "closed");
        assert_eq!(shown_rows(&database).expect("readable").1, [format!("1|down|{at}|3.5|lost")]);
    }

    #[test]
    fn mails_are_read_once_and_their_headers_understood() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut watch = Watch::new(dir.path().join("none"), dir.path().to_owned());
        let mail = "From: bongsu <bongsu@localhost>\r\nSubject: =?utf-8?b?W0RPV05dIOuplOyLoOyggDo=?=\r\n \
                    =?utf-8?q?_no=5Fmessage?=\r\n passes\r\nto: a@localhost,\r\n\tb@localhost\r\nIn-Reply-To: <x@y>\r\n\
                    \r\nSubject: not this\r\n";
        fs::write(dir.path().join("1.eml"), mail).expect("own directory");
        fs::write(dir.path().join(".2.eml.part"), mail).expect("own directory");
        let mails = watch.look().expect("no database is no error").mails;
        assert_eq!(mails.len(), 1);
        assert_eq!(mails[0].subject, "[DOWN] 메신저: no_message passes");
        assert_eq!((mails[0].to.as_str(), mails[0].answers), ("a@localhost, b@localhost", true));
        assert!(watch.look().expect("no database is no error").mails.is_empty());
        for broken in ["=?utf-8?b?!!?=", "=?utf-8?x?a?=", "=??=", "=?utf-8?q?=ff?=", "=?latin1?q?a?="] {
            assert_eq!(decode_words(broken), broken);
        }
    }
}
