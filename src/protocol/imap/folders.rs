//! Which folders there are and what each is for: LIST (RFC 9051, section 6.3.9) with special uses (RFC 6154), or, of a
//! server that tells none, the names that common programs give them.

use super::{
    client::{Client, Ear, Fault, Reply},
    codec::{self, Value},
    options::{FOLDERS_MAX, Wanted},
};

/// What a folder is for, as far as it matters to an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A reader looks there.
    Plain,
    /// Spam.
    Junk,
    /// What was thrown away.
    Trash,
    /// Copies of what was sent.
    Sent,
    /// Not watched: drafts, and folders that only show mails of others.
    Skipped,
}

/// A folder that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Its name as the server writes it.
    pub wire: Vec<u8>,
    /// Its name for people.
    pub name: String,
    /// What it is for.
    pub role: Role,
}

impl Folder {
    /// Whether it is the INBOX, whose name is written in any case (RFC 9051, section 5.1).
    pub fn is_inbox(&self) -> bool {
        self.name.eq_ignore_ascii_case("INBOX")
    }

    fn inbox() -> Self {
        Self { wire: b"INBOX".to_vec(), name: "INBOX".into(), role: Role::Plain }
    }
}

/// The folders to watch, INBOX first.
pub struct Found {
    /// Those.
    pub folders: Vec<Folder>,
    /// How many more there are than are watched.
    pub left_out: usize,
    /// Where mails go that are thrown away.
    pub trash: Option<Vec<u8>>,
}

/// Names of spam folders, in lower case: of common programs, and of Korean providers.
const JUNK: &[&str] =
    &["junk", "spam", "bulk mail", "bulk", "junk e-mail", "junk email", "junk mail", "스팸메일함", "스팸함", "스팸"];
const TRASH: &[&str] = &["trash", "deleted items", "deleted messages", "deleted", "bin", "휴지통"];
const SENT: &[&str] = &["sent", "sent items", "sent messages", "sent mail", "보낸메일함", "보낸 메일함", "보낸편지함"];
const DRAFTS: &[&str] = &["drafts", "임시보관함"];

/// Finds the folders that are wanted.
pub async fn find(client: &mut Client, ear: &mut dyn Ear, wanted: &Wanted) -> Result<Found, Fault> {
    let gmail = client.can("X-GM-EXT-1");
    let only_inbox = matches!(wanted, Wanted::Named(names) if names.iter().all(|n| n.eq_ignore_ascii_case("INBOX")));
    if only_inbox && !gmail {
        return Ok(Found { folders: vec![Folder::inbox()], left_out: 0, trash: None });
    }
    let asks = client.can("SPECIAL-USE") && (client.can("LIST-EXTENDED") || client.can("IMAP4REV2"));
    let command = if asks { "LIST \"\" \"*\" RETURN (SPECIAL-USE)" } else { "LIST \"\" \"*\"" };
    let reply = client.simple(ear, command).await?;
    if !reply.is_ok() {
        return Err(Fault::Refused(format!("the list of folders is refused: {}", reply.done.shown())));
    }
    let utf8 = client.can("IMAP4REV2") && !client.can("IMAP4REV1");
    Ok(chosen(&listed(&reply, utf8), wanted, gmail, utf8))
}

/// One line of LIST.
struct Entry {
    folder: Folder,
    flags: Vec<String>,
    last: String,
}

fn listed(reply: &Reply, utf8: bool) -> Vec<Folder> {
    let mut entries = Vec::new();
    for data in reply.named("LIST") {
        let [Value::List(flags), delimiter, name, ..] = data.values.as_slice() else { continue };
        let Some(wire) = name.bytes() else { continue };
        let delimiter = match delimiter {
            Value::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        };
        let shown = if utf8 { String::from_utf8_lossy(wire).into_owned() } else { codec::decode_name(wire) };
        let last = codec::last_part(&shown, delimiter.as_deref()).to_lowercase();
        let flags = flags.iter().filter_map(Value::atom).map(str::to_ascii_lowercase).collect();
        let folder = Folder { wire: wire.to_vec(), name: shown, role: Role::Plain };
        entries.push(Entry { folder, flags, last });
    }
    roles(entries)
}

/// By what the server says; of a use that it gives to no folder, by name.
fn roles(entries: Vec<Entry>) -> Vec<Folder> {
    let uses: [(&str, &[&str], Role); 4] = [
        ("\\junk", JUNK, Role::Junk),
        ("\\trash", TRASH, Role::Trash),
        ("\\sent", SENT, Role::Sent),
        ("\\drafts", DRAFTS, Role::Skipped),
    ];
    let told = uses.map(|(flag, ..)| entries.iter().any(|e| e.flags.iter().any(|f| f == flag)));
    let role = |entry: &Entry| {
        let has = |flag: &str| entry.flags.iter().any(|f| f == flag);
        // `\important` is RFC 8457's; like `\all` and `\flagged` it shows mails that lie elsewhere.
        if ["\\noselect", "\\nonexistent", "\\all", "\\flagged", "\\important"].into_iter().any(has) {
            return Role::Skipped;
        }
        for (n, (flag, names, role)) in uses.iter().enumerate() {
            if has(flag) || (!told[n] && names.contains(&entry.last.as_str())) {
                return *role;
            }
        }
        Role::Plain
    };
    entries.iter().map(|entry| Folder { role: role(entry), ..entry.folder.clone() }).collect()
}

fn chosen(all: &[Folder], wanted: &Wanted, gmail: bool, utf8: bool) -> Found {
    let trash = all.iter().find(|f| f.role == Role::Trash).map(|f| f.wire.clone());
    let mut folders: Vec<Folder> = match wanted {
        // What bongsu itself takes off such a server goes to the trash: a copy there is no arrival.
        Wanted::All => {
            let is_wanted = |f: &&Folder| f.role != Role::Skipped && !(gmail && f.role == Role::Trash);
            all.iter().filter(is_wanted).cloned().collect()
        }
        Wanted::Named(names) => names.iter().map(|name| named(all, name, utf8)).collect(),
    };
    // A stable sort: the order is the server's or the options' otherwise.
    folders.sort_by_key(|f| !f.is_inbox());
    folders.dedup_by(|a, b| a.wire == b.wire);
    let left_out = folders.len().saturating_sub(FOLDERS_MAX);
    folders.truncate(FOLDERS_MAX);
    Found { folders, left_out, trash }
}

/// The folder with this name; where the server lists none, the server says so when it is opened.
fn named(all: &[Folder], name: &str, utf8: bool) -> Folder {
    if name.eq_ignore_ascii_case("INBOX") {
        return Folder::inbox();
    }
    let found = all.iter().find(|f| f.name == name || f.wire == name.as_bytes());
    let found = found.cloned().map(|f| if f.role == Role::Skipped { Folder { role: Role::Plain, ..f } } else { f });
    found.unwrap_or_else(|| {
        let wire = if utf8 { name.as_bytes().to_vec() } else { codec::encode_name(name).into_bytes() };
        Folder { wire, name: name.into(), role: Role::Plain }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::imap::codec::{Response, Status, StatusLine};

    fn reply(lines: &[&str]) -> Reply {
        let data = lines.iter().map(|line| match codec::response(format!("* LIST {line}").as_bytes()) {
            Response::Data(data) => data,
            other => panic!("{other:?}"),
        });
        let done = StatusLine { status: Status::Ok, code: None, text: String::new() };
        Reply { done, statuses: Vec::new(), data: data.collect() }
    }

    fn watched(lines: &[&str], wanted: &Wanted, gmail: bool) -> Vec<(String, Role)> {
        let found = chosen(&listed(&reply(lines), false), wanted, gmail, false);
        found.folders.into_iter().map(|f| (f.name, f.role)).collect()
    }

    #[test]
    fn uses_are_the_servers_or_by_name() {
        use Role::{Junk, Plain, Sent, Trash};
        type Expected<'a> = &'a [(&'a str, Role)];
        let table: [(&[&str], bool, Expected<'_>); 4] = [
            (
                &[
                    r#"(\HasChildren) "/" "Archive""#,
                    r#"(\Junk) "/" "Quarantine""#,
                    r#"() "/" "Spam""#,
                    r#"() "/" Trash"#,
                    r#"(\Noselect) "/" shared"#,
                    r#"() "/" Drafts"#,
                    r#"() "/" inbox"#,
                ],
                false,
                &[("inbox", Plain), ("Archive", Plain), ("Quarantine", Junk), ("Spam", Plain), ("Trash", Trash)],
            ),
            (
                &[r#"() "." INBOX"#, r#"() "." INBOX.Junk"#, r#"() "." "INBOX.Sent Items""#, r#"() NIL Bulk"#],
                false,
                &[("INBOX", Plain), ("INBOX.Junk", Junk), ("INBOX.Sent Items", Sent), ("Bulk", Junk)],
            ),
            (&[r#"() "/" "&wqTTOLpUx3zVaA-""#], false, &[("스팸메일함", Junk)]),
            (
                &[
                    r#"() "/" "INBOX""#,
                    r#"(\All) "/" "[Gmail]/All Mail""#,
                    r#"(\Junk) "/" "[Gmail]/Spam""#,
                    r#"(\Trash) "/" "[Gmail]/Bin""#,
                    r#"(\Important) "/" "[Gmail]/Important""#,
                    r#"(\Flagged) "/" "[Gmail]/Starred""#,
                    "garbage",
                ],
                true,
                &[("INBOX", Plain), ("[Gmail]/Spam", Junk)],
            ),
        ];
        for (lines, gmail, expected) in table {
            let got = watched(lines, &Wanted::All, gmail);
            let got: Vec<(&str, Role)> = got.iter().map(|(n, r)| (n.as_str(), *r)).collect();
            assert_eq!(got, expected, "{lines:?}");
        }
    }

    #[test]
    fn named_folders_are_found_or_asked_for() {
        let lines: &[&str] = &[r#"(\Junk) "/" "Spam""#, r#"() "/" "&wqTTOLpUx3zVaA-""#, r#"(\Drafts) "/" Entwurf"#];
        let names = ["Spam", "스팸메일함", "inbox", "새 폴더", "Entwurf"].map(str::to_owned).to_vec();
        let found = chosen(&listed(&reply(lines), false), &Wanted::Named(names), false, false);
        let got: Vec<(&[u8], Role)> = found.folders.iter().map(|f| (f.wire.as_slice(), f.role)).collect();
        let expected: [(&[u8], Role); 5] = [
            (b"INBOX", Role::Plain),
            (b"Spam", Role::Junk),
            (b"&wqTTOLpUx3zVaA-", Role::Plain),
            (b"&wMg- &0,SzVA-", Role::Plain),
            (b"Entwurf", Role::Plain),
        ];
        assert_eq!(got, expected);
        let many: Vec<String> = (0..60).map(|n| format!(r#"() "/" f{n}"#)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let found = chosen(&listed(&reply(&many), false), &Wanted::All, false, false);
        assert_eq!((found.folders.len(), found.left_out), (FOLDERS_MAX, 10));
    }
}
