//! The database on disk: what an observation takes, and how long its reading.

use std::{
    fs,
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use bongsu::{
    decide::{Commit, StateRow},
    detect::{Memory, State},
    observation::{Observation, Outcome, Phase, PhaseTime, TlsFacts},
    store::{Keep, Reader, Watched, Writer},
    value::{CheckName, Timestamp},
};
use serde_json::json;

use crate::{Told, figures::Figure};

const DAY_MS: i64 = 86_400_000;

/// The first day.
const DAY: i64 = 20_000;

/// Interval of the checks.
const EVERY_MS: i64 = 30_000;

/// Checks that share the database while rows are measured: enough that their numbers take two bytes.
const CHECKS: usize = 200;

/// How far back detection looks by default.
const WINDOW: Duration = Duration::from_secs(600);

/// Times the reading is made; the median counts.
const READINGS: usize = 11;

fn keep(days: u64) -> Keep {
    let span = Duration::from_secs(days * 86_400);
    Keep { raw: Duration::from_secs(2 * 86_400), blocks: span, daily: span }
}

/// A healthy probe of a page behind TLS, with times as a network has them: most alike, some much longer.
fn observation(at_ms: i64, random: &mut fastrand::Rng) -> Observation {
    let took = |random: &mut fastrand::Rng, us: u64| {
        let long = if random.u8(..) < 5 { 8 } else { 1 };
        Duration::from_micros((us + random.u64(0..us / 2) + random.u64(0..us / 2)) * long)
    };
    let mut o = Observation::new(Timestamp::from_millis(at_ms + random.i64(0..4)), Outcome::Ok, Duration::ZERO);
    for (phase, us) in [(Phase::Resolve, 700), (Phase::Connect, 9_000), (Phase::Tls, 21_000), (Phase::Exchange, 34_000)]
    {
        let time = PhaseTime { phase, side: None, start: o.duration, took: took(random, us) };
        o.duration += time.took;
        o.phases.push(time);
    }
    o.address = Some("192.0.2.7:443".parse().expect("an address"));
    o.tls = Some(TlsFacts {
        version: "1.3".into(),
        cipher: Some("TLS_AES_256_GCM_SHA384".into()),
        alpn: Some("h2".into()),
        subject: Some("CN=www.example.com".into()),
        issuer: Some("C=US, O=Let's Encrypt, CN=R11".into()),
        not_after: Some(Timestamp::from_millis((DAY + 150) * DAY_MS)),
        days_left: Some(150 - (at_ms / DAY_MS - DAY)),
    });
    o.details = [("status", json!(200)), ("http", json!("HTTP/2.0")), ("bytes", json!(5_120))]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect();
    o
}

fn names(checks: usize) -> Vec<CheckName> {
    (0..checks).map(|n| format!("load/page-{n:03}").parse().expect("a name")).collect()
}

fn watch(writer: &mut Writer, checks: &[CheckName]) {
    let interval = Duration::from_millis(EVERY_MS.unsigned_abs());
    let watched = |check: &CheckName| Watched { check: check.clone(), window: WINDOW, interval };
    writer.restore(&checks.iter().map(watched).collect::<Vec<_>>()).expect("restored");
}

/// Rows of many checks, as the daemon writes them.
fn write(
    writer: &mut Writer,
    checks: &[CheckName],
    every_ms: i64,
    times_ms: Range<i64>,
    random: &mut fastrand::Rng,
) -> usize {
    let mut commits = Vec::new();
    let mut count = 0;
    for round in times_ms.step_by(every_ms as usize) {
        for (n, check) in checks.iter().enumerate() {
            let at = round + every_ms * n as i64 / checks.len() as i64;
            let observation = Some((check.clone(), observation(at, random)));
            commits.push(Commit { observation, ..Commit::default() });
        }
        if commits.len() >= 4_000 {
            count += commits.len();
            writer.commit(&std::mem::take(&mut commits)).expect("a commit");
        }
    }
    writer.commit(&commits).expect("a commit");
    count + commits.len()
}

/// A database of checks that were asked for as long as detection looks back; how many observations are in it.
pub fn fill(path: &Path, checks: &[CheckName], every: Duration) -> usize {
    let now = bongsu::clock::now();
    let mut writer = Writer::open(path, now).expect("a database");
    watch(&mut writer, checks);
    let memory = serde_json::to_value(Memory { state: State::Up, ..Memory::default() }).expect("a memory");
    let state = |check: &CheckName| {
        let row =
            StateRow { check: check.clone(), state: State::Up.as_str(), since: now - WINDOW, memory: memory.clone() };
        Commit { state: Some(row), ..Commit::default() }
    };
    writer.commit(&checks.iter().map(state).collect::<Vec<_>>()).expect("a commit");
    let (every_ms, until_ms) = (every.as_millis() as i64, now.as_millis());
    let times = until_ms - WINDOW.as_millis() as i64..until_ms - every_ms;
    write(&mut writer, checks, every_ms, times, &mut fastrand::Rng::with_seed(1))
}

fn file_bytes(path: &Path) -> f64 {
    fs::metadata(path).map_or(0.0, |m| m.len() as f64)
}

fn maintain(writer: &mut Writer, now: Timestamp, keep: &Keep) -> Duration {
    let mut longest = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let more = writer.maintain(now, keep).expect("upkeep works").more;
        longest = longest.max(begun.elapsed());
        if !more {
            return longest;
        }
    }
}

/// A day of many checks as rows; then so many days of one check, sealed but for the last, and read.
pub fn figures(days: i64) -> Told {
    let dir = tempfile::tempdir().expect("the temporary directory can be written");
    let mut random = fastrand::Rng::with_seed(7);
    let start = Timestamp::from_millis(DAY * DAY_MS);
    let checks = names(CHECKS);
    let open = |file: &str| {
        let path = dir.path().join(file);
        let mut writer = Writer::open(&path, start).expect("a new database");
        watch(&mut writer, &checks);
        (path, writer)
    };

    let (path, writer) = open("fresh.db");
    drop(writer);
    let empty = file_bytes(&path);
    let mut writer = Writer::open(&path, start).expect("it opens");
    let count = write(&mut writer, &checks, EVERY_MS, DAY * DAY_MS..DAY * DAY_MS + DAY_MS, &mut random);
    drop(writer);
    let fresh = (file_bytes(&path) - empty) / count as f64;

    let (path, mut writer) = open("sealed.db");
    let mut longest = Duration::ZERO;
    let mut count = 0;
    for day in DAY..DAY + days {
        count += write(&mut writer, &checks[..1], EVERY_MS, day * DAY_MS..(day + 1) * DAY_MS, &mut random);
        let two_hours_later = Timestamp::from_millis((day + 1) * DAY_MS + 7_200_000);
        longest = longest.max(maintain(&mut writer, two_hours_later, &keep(2 * days.unsigned_abs())));
    }
    let reader = Reader::open(&path).expect("it opens to read");
    let end = Timestamp::from_millis((DAY + days) * DAY_MS);
    let mut times: Vec<Duration> = (0..READINGS)
        .map(|_| {
            let begun = Instant::now();
            let seen = reader.seen(&checks[0], start, end).expect("the past");
            assert_eq!(seen.len(), count, "every observation is there");
            begun.elapsed()
        })
        .collect();
    times.sort();
    let read_ms = times[READINGS / 2].as_secs_f64() * 1_000.0;

    // All of it sealed, what is free given back: the file's growth is what sealed observations and days take.
    let later = Timestamp::from_millis((DAY + days + 5) * DAY_MS);
    longest = longest.max(maintain(&mut writer, later, &keep(2 * days.unsigned_abs())));
    drop(writer);
    let database = rusqlite::Connection::open(&path).expect("it opens");
    let of = |table: &str| -> f64 {
        let sql = "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name = ?1";
        database.query_row(sql, [table], |row| row.get(0)).expect("the bundled SQLite has dbstat")
    };
    let sealed = of("block") / count as f64;
    let figures = vec![
        Figure::at_most("bytes of the file for a fresh observation", fresh, "B", 30.0),
        Figure::at_most("bytes of the file for a sealed observation", sealed, "B", 4.0),
        Figure::at_most("reading 90 days of one check", read_ms, "ms", 20.0),
    ];
    let detail = json!({
        "observations_of_one_check": count, "daily_bytes_per_observation": of("daily") / count as f64,
        "longest_upkeep_ms": longest.as_secs_f64() * 1_000.0, "read_ms": times.iter().map(|t| t.as_secs_f64() * 1_000.0).collect::<Vec<_>>(),
    });
    (figures, detail)
}
