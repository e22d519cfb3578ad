//! What a daemon did to its files and said on its sockets, in order, as strace has written it down.

use std::{fs, path::Path};

/// What strace is called with, so that [`read`] understands what it writes below `dir`.
pub fn strace(dir: &Path) -> Vec<String> {
    let calls = "trace=openat,pwrite64,write,writev,sendto,fsync,fdatasync,ftruncate,unlink,rename";
    let times = ["--absolute-timestamps=format:unix,precision:ns", "--syscall-times=ns"];
    let words = ["strace", "-ff", "-y", "-x", "-s", "2000000"].into_iter().chain(times).chain(["-e", calls]);
    let mut words: Vec<String> = words.map(Into::into).collect();
    words.extend(["-o".into(), dir.join("trace").display().to_string()]);
    words
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A file was opened, and made if it was not there.
    Open(String),
    /// Bytes were written into it.
    Write(String, u64, Vec<u8>),
    /// It was cut or lengthened.
    Truncate(String, u64),
    /// It was made safe; of a directory, its entries were.
    Sync(String),
    /// It was removed.
    Unlink(String),
    /// These bytes went out on a socket.
    Said(Vec<u8>),
}

/// Everything in order, each with its time in nanoseconds: when it was begun, but of what makes safe when it was done.
/// So what one thread says while another's call has not come back was said before anything was safe.
pub fn read(dir: &Path) -> Vec<(u128, Step)> {
    let mut steps = Vec::new();
    for entry in fs::read_dir(dir).expect("own directory").flatten() {
        if entry.file_name().to_string_lossy().starts_with("trace.") {
            let text = String::from_utf8(fs::read(entry.path()).expect("own file")).expect("strace writes text");
            steps.extend(text.lines().filter_map(line));
        }
    }
    steps.sort_by_key(|(at, _)| *at);
    steps
}

/// A line such as `1.5 pwrite64(12</db-wal>, "a\x00", 2, 32) = 2 <0.1>`; nothing of a call that failed or is of no interest.
fn line(line: &str) -> Option<(u128, Step)> {
    let (time, rest) = line.split_once(' ')?;
    let at = nanoseconds(time.split_once('.')?)?;
    let (name, rest) = rest.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let took = result.rsplit_once('<').and_then(|(_, took)| took.strip_suffix('>')?.split_once('.'));
    if result.starts_with('-') {
        return None;
    }
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let done_at = at + took.and_then(nanoseconds).unwrap_or(0);
    let step = match name {
        "openat" => Step::Open(text(&strings(arguments).into_iter().next()?)),
        "unlink" => Step::Unlink(text(&strings(arguments).into_iter().next()?)),
        "rename" => return None,
        "fsync" | "fdatasync" => Step::Sync(opened(arguments)?),
        "ftruncate" => Step::Truncate(opened(arguments)?, arguments.rsplit(", ").next()?.parse().ok()?),
        "pwrite64" => {
            let data = strings(arguments).into_iter().next()?;
            let offset = arguments.rsplit(", ").next()?.parse().ok()?;
            Step::Write(opened(arguments)?, offset, data)
        }
        "write" | "writev" | "sendto"
            if opened(arguments)?.starts_with("socket:") || opened(arguments)?.starts_with("TCP") =>
        {
            Step::Said(strings(arguments).concat())
        }
        _ => return None,
    };
    Some((if matches!(step, Step::Sync(_)) { done_at } else { at }, step))
}

/// Of a time with nine places.
fn nanoseconds((seconds, nanos): (&str, &str)) -> Option<u128> {
    Some(seconds.parse::<u128>().ok()? * 1_000_000_000 + nanos.parse::<u128>().ok()?)
}

/// What the first argument, a descriptor, stands for: `12</tmp/db>`.
fn opened(arguments: &str) -> Option<String> {
    let (_, rest) = arguments.split_once('<')?;
    let (path, _) = rest.split_once('>')?;
    Some(path.to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The quoted strings in a text, with their escapes undone.
fn strings(arguments: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut bytes = arguments.bytes();
    while bytes.by_ref().any(|b| b == b'"') {
        let mut string = Vec::new();
        let mut rest = bytes.clone().peekable();
        loop {
            match rest.next() {
                None | Some(b'"') => break,
                Some(b'\\') => string.push(escaped(&mut rest)),
                Some(byte) => string.push(byte),
            }
        }
        let left = rest.count();
        bytes = arguments[arguments.len() - left..].bytes();
        found.push(string);
    }
    found
}

/// The byte that an escape stands for, as in C.
fn escaped(rest: &mut std::iter::Peekable<std::str::Bytes<'_>>) -> u8 {
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or(0);
    match rest.next() {
        Some(b'x') => {
            let (high, low) = (rest.next().map_or(0, digit), rest.next().map_or(0, digit));
            high << 4 | low
        }
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'v') => 0x0b,
        Some(b'f') => 0x0c,
        Some(octal @ b'0'..=b'7') => {
            let mut value = octal - b'0';
            for _ in 0..2 {
                match rest.peek() {
                    Some(next @ b'0'..=b'7') => {
                        value = value.wrapping_mul(8).wrapping_add(next - b'0');
                        rest.next();
                    }
                    _ => break,
                }
            }
            value
        }
        Some(other) => other,
        None => b'\\',
    }
}

#[test]
fn lines_of_strace_are_read() {
    let table = [
        (
            "1.000000002 openat(AT_FDCWD</w>, \"/d/b.db\", O_RDWR|O_CREAT, 0644) = 11</d/b.db> <0.000000009>",
            Step::Open("/d/b.db".into()),
        ),
        (
            "1.000000002 pwrite64(12</d/b.db-wal>, \"*5\\x00\\\"\\n\\0008, \", 9, 4152) = 9 <0.000000009>",
            Step::Write("/d/b.db-wal".into(), 4152, b"*5\0\"\n\x008, ".to_vec()),
        ),
        ("1.000000001 fsync(13</d>)                = 0 <0.000000001>", Step::Sync("/d".into())),
        ("1.000000002 ftruncate(13</d/b.db-wal>, 32) = 0", Step::Truncate("/d/b.db-wal".into(), 32)),
        ("1.000000002 unlink(\"/d/b.db-journal\") = 0", Step::Unlink("/d/b.db-journal".into())),
        (
            "1.000000002 writev(9<socket:[77]>, [{iov_base=\"GET \", iov_len=4}, {iov_base=\"/\", iov_len=1}], 2) = 5",
            Step::Said(b"GET /".to_vec()),
        ),
    ];
    for (text, expected) in table {
        assert_eq!(line(text), Some((1_000_000_002, expected)), "{text}");
    }
    for nothing in ["1.0 +++ exited with 0 +++", "1.0 unlink(\"/d\") = -1 ENOENT (No such file or directory)", ""] {
        assert_eq!(line(nothing), None, "{nothing}");
    }
}
