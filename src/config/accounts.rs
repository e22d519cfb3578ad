//! The accounts of a check: a list or a range, and their values in what is asked.
//!
//! `${account:key}` stands for a value of the account whose turn it is, within any text of the check's question. Each
//! account gets a question of its own, built from the same options with its values filled in; a mistake that all of
//! them share is told once, where it is written.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use serde_yaml::Value;

use super::{
    checks::Draft,
    document::Document,
    notes::{Note, Notes, Place, Secrets, hiding},
    positions::{below, item},
    raw::{CHECK_KEYS, SETTINGS_KEYS, is_own_key},
    secrets::{Piece, is_secret_key, secrets_of},
};
use crate::{
    check::{
        self, Ask,
        accounts::{ACCOUNTS_MAX, Account, AccountsAsk},
    },
    observation::ACCOUNT_CHARS_MAX,
    options::{At, Options, Path, Problem, Segment, key_text, suggestion},
    value::{Masker, Secret},
};

/// The key that makes a mapping a range.
const RANGE: &str = "range";

/// What stands for the number in the values of a range.
const NUMBER: &str = "{n}";

/// An account as written.
#[derive(Clone, Debug)]
struct Listed {
    /// Where it stands.
    path: Path,
    /// Its values by key.
    values: BTreeMap<String, Listing>,
}

/// A value of an account.
#[derive(Clone, Debug)]
struct Listing {
    text: String,
    /// Whether it is a secret, by its key or because it came through a reference.
    secret: bool,
}

/// The accounts of a check.
struct Accounts {
    /// The keys in the order in which they were first written.
    keys: Vec<String>,
    list: Vec<Listed>,
    /// Whether they are the numbers of a range.
    range: bool,
}

/// What a check asks.
pub(super) struct Asked {
    /// Who asks it.
    pub ask: Arc<dyn Ask>,
    /// The options it was built from, with everything filled in: one block, or one for each account.
    pub blocks: Vec<Value>,
}

/// Builds what a check asks under the key `kind`, once for each of its accounts if it has any.
pub(super) fn ask(
    draft: &Draft<'_>,
    kind: &str,
    settings: &check::Settings,
    secrets: &mut Secrets,
    notes: &mut Notes,
) -> Option<Asked> {
    let place = draft.place.child(kind);
    let listed = draft.place.child("accounts");
    let before = notes.count();
    let accounts = if draft.has_accounts() { read(&listed, notes) } else { None };
    refer(draft, &place, accounts.as_ref(), notes);
    let Some(accounts) = accounts else {
        let built = place.options(notes, |options| check::build(kind, options, draft.name(), settings));
        if built.is_none() && notes.count() == before {
            place.note(notes, format!("`{kind}` cannot be asked with these options"), None);
        }
        return Some(Asked { ask: built?, blocks: vec![place.value.clone()] });
    };
    let blocks: Vec<Value> = accounts.list.iter().map(|account| filled(&place, place.value, account)).collect();
    keep_secret(&accounts, &blocks, secrets);
    let names = names(&accounts, &listed, secrets, notes);
    // Costly, and seldom needed.
    let masker = OnceCell::new();
    let mut asks = Vec::new();
    let mut told: HashSet<(Path, At)> = HashSet::new();
    for ((name, block), account) in names.into_iter().zip(&blocks).zip(&accounts.list) {
        let mut problems = Vec::new();
        let directory = &place.document.directory;
        let mut options = Options::new(block, place.path.clone(), directory, &mut problems);
        let built = check::build(kind, &mut options, draft.name(), settings);
        // The first account that meets a mistake speaks for the others.
        for mut problem in problems.into_iter().filter(|p| told.insert((p.path.clone(), p.at))) {
            hide(&mut problem, place.document, account, masker.get_or_init(|| secrets.masker()));
            let value = referred(place.document, &problem.path, account).next();
            let related = value.map(|(key, _)| ("the account's value is at", place.doc, below(&account.path, key)));
            notes.push(Note { doc: place.doc, problem, needle: None, related });
        }
        asks.extend(built.map(|ask| Account { name, ask }));
    }
    if asks.len() < blocks.len() {
        if notes.count() == before {
            place.note(notes, format!("`{kind}` cannot be asked with these options"), None);
        }
        return None;
    }
    Some(Asked { ask: Arc::new(AccountsAsk::new(asks)), blocks })
}

// ---------------------------------------------------------------------------------------------------------------
// Reading

/// The accounts at this place; `None` when they hold a mistake that leaves none.
fn read(place: &Place<'_>, notes: &mut Notes) -> Option<Accounts> {
    let before = notes.count();
    let accounts = match place.value {
        Value::Sequence(items) if items.is_empty() => {
            place.note(notes, "this list has no accounts", Some(LIST.into()));
            return None;
        }
        Value::Sequence(_) => list(place, notes),
        Value::Mapping(_) => range(place, notes)?,
        _ => {
            place.note(notes, "a list of accounts or a range is expected here", Some(LIST.into()));
            return None;
        }
    };
    if notes.count() == before {
        same_keys(place, &accounts, notes);
    }
    (notes.count() == before).then_some(accounts)
}

const LIST: &str = "write [{ username: probe01, password: \"${credential:probe01}\" }], or { range: \"01..12\", username: \
                    \"probe{n}\" }";

fn list(place: &Place<'_>, notes: &mut Notes) -> Accounts {
    let items = place.items(notes, "accounts");
    if items.len() > ACCOUNTS_MAX {
        place.note(
            notes,
            format!("{} accounts are too many; the most is {ACCOUNTS_MAX}", items.len()),
            Some(FEWER.into()),
        );
    }
    let mut accounts = Accounts { keys: Vec::new(), list: Vec::new(), range: false };
    for item in items.iter().take(ACCOUNTS_MAX) {
        if item.value.as_mapping().is_none_or(serde_yaml::Mapping::is_empty) {
            item.note(notes, "an account is a mapping of keys of your own", Some(LIST.into()));
            continue;
        }
        let values = values(item, "", notes);
        for (key, _) in item.entries(notes, "an account") {
            if !accounts.keys.contains(&key) {
                accounts.keys.push(key);
            }
        }
        accounts.list.push(Listed { path: item.path.clone(), values });
    }
    accounts
}

const FEWER: &str = "with more, each would be asked too rarely to notice that it fails; make several checks of it";

fn range(place: &Place<'_>, notes: &mut Notes) -> Option<Accounts> {
    let at = place.child(RANGE);
    if at.value.is_null() {
        place.note(notes, "these accounts have no `range`, and they are no list", Some(LIST.into()));
        return None;
    }
    let numbers = match at.value.as_str().map(numbers) {
        Some(Ok(numbers)) => numbers,
        Some(Err((text, hint))) => {
            at.note(notes, text, Some(hint.into()));
            return None;
        }
        None => {
            at.note(notes, "a range is a text of two numbers", Some("write \"01..12\"".into()));
            return None;
        }
    };
    let entries = place.entries(notes, "a range of accounts");
    let keys: Vec<String> = entries.into_iter().map(|(key, _)| key).filter(|key| key != RANGE).collect();
    let list: Vec<Listed> = numbers
        .iter()
        .enumerate()
        .map(|(i, number)| {
            // What is wrong with a value is wrong with it for every number.
            let mut again = Notes::default();
            let notes = if i == 0 { &mut *notes } else { &mut again };
            Listed { path: place.path.clone(), values: values(place, number, notes) }
        })
        .collect();
    let differ = list.windows(2).all(|two| texts(&two[0]) != texts(&two[1]));
    if keys.is_empty() || !differ {
        let text = "every account of this range is the same";
        place.note(notes, text, Some(format!("write {NUMBER} where the number goes: username: \"probe{NUMBER}\"")));
    }
    Some(Accounts { keys, list, range: true })
}

/// The numbers of `01..12` as texts, zeros at the front kept.
fn numbers(text: &str) -> Result<Vec<String>, (String, &'static str)> {
    const DIGITS_MAX: usize = 9;
    let wrong = || (format!("`{text}` is no range"), "write the first and the last number: \"01..12\"");
    let (first, last) = text.trim().split_once("..").ok_or_else(wrong)?;
    let read = |end: &str| -> Option<u32> {
        let digits = (1..=DIGITS_MAX).contains(&end.len()) && end.bytes().all(|b| b.is_ascii_digit());
        end.parse().ok().filter(|_| digits)
    };
    let (from, to) = read(first).zip(read(last)).ok_or_else(wrong)?;
    let padded = |end: &str| end.len() > 1 && end.starts_with('0');
    if (padded(first) || padded(last)) && first.len() != last.len() {
        let text = format!("`{text}` does not say how many digits its numbers have");
        return Err((text, "write both ends with the same number of digits: \"001..120\""));
    }
    if from > to {
        return Err((format!("`{text}` ends before it begins"), "write the lower number first"));
    }
    let count = (to - from) as usize + 1;
    if count > ACCOUNTS_MAX {
        return Err((format!("{count} accounts are too many; the most is {ACCOUNTS_MAX}"), FEWER));
    }
    let width = if padded(first) { first.len() } else { 1 };
    Ok((from..=to).map(|n| format!("{n:0width$}")).collect())
}

/// The values of one account, with the number of a range in place of `{n}`.
fn values(place: &Place<'_>, number: &str, notes: &mut Notes) -> BTreeMap<String, Listing> {
    let mut values = BTreeMap::new();
    for (key, at) in place.entries(notes, "an account") {
        if !number.is_empty() && key == RANGE {
            continue;
        }
        let numbered = |text: &str| if number.is_empty() { text.to_owned() } else { text.replace(NUMBER, number) };
        let pieces = at.document.templates.get(&at.path);
        let text = match (at.value, pieces) {
            (Value::String(_), Some(pieces)) => {
                let text = |piece: &Piece| match piece {
                    Piece::Literal(text) => numbered(text),
                    // A secret is what it is, whatever it looks like.
                    Piece::Resolved(text) | Piece::Account { written: text, .. } => text.clone(),
                };
                pieces.iter().map(text).collect()
            }
            (Value::String(text), None) => numbered(text),
            (Value::Number(number), _) => number.to_string(),
            (Value::Bool(yes), _) => yes.to_string(),
            (Value::Null, _) => {
                at.note(notes, format!("`{key}` has no value"), Some("write one, or \"\" for an empty text".into()));
                continue;
            }
            _ => {
                at.note(notes, "a value of an account is a text", Some("give each its own key".into()));
                continue;
            }
        };
        let resolved = pieces.is_some_and(|pieces| pieces.iter().any(|p| matches!(p, Piece::Resolved(_))));
        let secret = is_secret_key(&key) || resolved;
        values.insert(key, Listing { text, secret });
    }
    values
}

fn texts(account: &Listed) -> Vec<&str> {
    account.values.values().map(|value| value.text.as_str()).collect()
}

/// Every account has the same keys.
fn same_keys(place: &Place<'_>, accounts: &Accounts, notes: &mut Notes) {
    for account in &accounts.list {
        for key in accounts.keys.iter().filter(|key| !account.values.contains_key(*key)) {
            let text = format!("this account has no `{key}`, which others have");
            notes.value(place.doc, account.path.clone(), text, Some("give it one, or take it from all of them".into()));
        }
    }
}

/// What each account is called: by the first key that is no secret (in a range: of those with the number), else by
/// its position. Two accounts of one name are a mistake.
fn names(accounts: &Accounts, place: &Place<'_>, secrets: &Secrets, notes: &mut Notes) -> Vec<String> {
    let told = |key: &&String| {
        let mut all = accounts.list.iter().filter_map(|account| account.values.get(*key));
        let differs = accounts.list.windows(2).all(|two| two[0].values[*key].text != two[1].values[*key].text);
        all.all(|value| !value.secret && !secrets.show_in(&value.text)) && (!accounts.range || differs)
    };
    let key = accounts.keys.iter().find(told);
    let width = accounts.list.len().to_string().len();
    let mut seen: BTreeMap<String, Path> = BTreeMap::new();
    let mut names = Vec::new();
    for (i, account) in accounts.list.iter().enumerate() {
        let at = key.map_or_else(|| account.path.clone(), |key| below(&account.path, key));
        let name = match key {
            Some(key) => account.values[key].text.clone(),
            None => format!("account {:0width$}", i + 1),
        };
        let fits =
            !name.trim().is_empty() && !name.contains(char::is_control) && name.chars().count() <= ACCOUNT_CHARS_MAX;
        if !fits {
            let text = format!("an account is called by this: one line of at most {ACCOUNT_CHARS_MAX} characters");
            notes.value(place.doc, at.clone(), text, Some("put a short name first, such as `name: probe01`".into()));
        }
        let apart = if key.is_some() { name.clone() } else { texts(account).join("\0") };
        match seen.get(&apart) {
            Some(first) => {
                let text = match key {
                    Some(_) => format!("`{name}` is an account of this check already"),
                    None => "this account is written twice".into(),
                };
                let hint = Some("remove one; if they differ elsewhere, put a key first that tells them apart".into());
                let problem = Problem { path: at, at: At::Value, text, hint };
                let related = Some(("the first is at", place.doc, first.clone()));
                notes.push(Note { doc: place.doc, problem, needle: None, related });
            }
            None => {
                seen.insert(apart, at);
            }
        }
        names.push(name);
    }
    names
}

// ---------------------------------------------------------------------------------------------------------------
// References

/// Judges the references to accounts below a question.
fn refer(draft: &Draft<'_>, place: &Place<'_>, accounts: Option<&Accounts>, notes: &mut Notes) {
    let mut referred = false;
    for (path, key, written) in references(place.document).filter(|(path, ..)| path.starts_with(&place.path)) {
        referred = true;
        let (text, hint) = match accounts {
            Some(accounts) if accounts.keys.iter().any(|known| known == key) => continue,
            Some(accounts) => {
                let hint = suggestion(key, accounts.keys.iter().map(String::as_str));
                (format!("these accounts have no `{key}`"), hint)
            }
            // What is wrong with them has been told.
            None if draft.has_accounts() => continue,
            None => ("this check has no `accounts`".into(), format!("add `accounts:` to it; {LIST}")),
        };
        let problem = Problem { path: path.clone(), at: At::Value, text, hint: Some(hint) };
        notes.push(Note { doc: place.doc, problem, needle: Some(written.into()), related: None });
    }
    // A misspelt reference may well have been meant for them.
    if let Some(accounts) = accounts.filter(|_| !referred && !notes.unresolved_below(place.doc, &place.path)) {
        let at = draft.place.child("accounts");
        let key = accounts.keys.first().map_or("username", String::as_str);
        let hint = format!("write ${{account:{key}}} in what is asked");
        notes.key(at.doc, at.path, "these accounts are not used", Some(hint));
    }
}

/// All references to accounts in a document: where, which key, as written.
fn references(document: &Document) -> impl Iterator<Item = (&Path, &str, &str)> {
    document.templates.iter().flat_map(|(path, pieces)| {
        pieces.iter().filter_map(move |piece| match piece {
            Piece::Account { key, written } => Some((path, key.as_str(), written.as_str())),
            Piece::Literal(_) | Piece::Resolved(_) => None,
        })
    })
}

/// Notes the references that stand where no account has a say.
pub(super) fn misplaced(doc: usize, document: &Document, notes: &mut Notes) {
    for (path, _, written) in references(document) {
        let own = |key: &String| CHECK_KEYS.contains(&key.as_str()) || SETTINGS_KEYS.contains(&key.as_str());
        let asked = match path.as_slice() {
            [Segment::Key(top), ..] if is_own_key(top) => true,
            [Segment::Key(top), Segment::Index(_), Segment::Key(key), ..] => doc > 0 && top == "checks" && !own(key),
            _ => false,
        };
        if !asked {
            let text = "an account has a say only in what a check asks";
            let hint = Some("write the value itself here".into());
            let problem = Problem { path: path.clone(), at: At::Value, text: text.into(), hint };
            notes.push(Note { doc, problem, needle: Some(written.into()), related: None });
        }
    }
}

/// A value of a question with an account's values filled in.
fn filled(place: &Place<'_>, value: &Value, account: &Listed) -> Value {
    fn below_of(document: &Document, path: &Path, value: &Value, account: &Listed) -> Value {
        match value {
            Value::String(_) => match document.templates.get(path) {
                Some(pieces) => Value::String(pieces.iter().map(|piece| text(piece, account)).collect()),
                None => value.clone(),
            },
            Value::Sequence(items) => {
                let items = items.iter().enumerate();
                items.map(|(i, value)| below_of(document, &item(path, i), value, account)).collect()
            }
            Value::Mapping(entries) => {
                let entries = entries.iter().map(|(key, value)| {
                    (key.clone(), below_of(document, &below(path, &key_text(key)), value, account))
                });
                Value::Mapping(entries.collect())
            }
            Value::Tagged(_) | Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }
    fn text<'t>(piece: &'t Piece, account: &'t Listed) -> &'t str {
        match piece {
            Piece::Literal(text) | Piece::Resolved(text) => text,
            Piece::Account { key, written } => account.values.get(key).map_or(written, |value| &value.text),
        }
    }
    below_of(place.document, &place.path, value, account)
}

/// Makes known what must not be shown: values that are secret by their key, and what they became in the questions.
fn keep_secret(accounts: &Accounts, blocks: &[Value], secrets: &mut Secrets) {
    let values = accounts.list.iter().flat_map(|account| account.values.values());
    let texts: BTreeSet<&str> = values.filter(|value| value.secret).map(|value| value.text.as_str()).collect();
    let mut found: Vec<Secret> = texts.into_iter().map(Secret::new).collect();
    blocks.iter().for_each(|block| secrets_of(block, &mut found));
    let mut seen = HashSet::new();
    found.retain(|secret| seen.insert(secret.expose().to_owned()));
    secrets.literal.append(&mut found);
}

/// The values of an account that the text at a path refers to, by key.
fn referred<'a>(
    document: &'a Document,
    path: &Path,
    account: &'a Listed,
) -> impl Iterator<Item = (&'a str, &'a Listing)> + use<'a> {
    let pieces = document.templates.get(path).map_or(&[][..], Vec::as_slice);
    pieces.iter().filter_map(|piece| match piece {
        Piece::Account { key, .. } => Some((key.as_str(), account.values.get(key)?)),
        Piece::Literal(_) | Piece::Resolved(_) => None,
    })
}

/// Leaves no piece of an account's secret in a message about the text that refers to it.
fn hide(problem: &mut Problem, document: &Document, account: &Listed, masker: &Masker) {
    let path = problem.path.clone();
    for (key, value) in referred(document, &path, account).filter(|(_, value)| value.secret) {
        problem.text = hiding(&problem.text, key, &value.text, masker);
        problem.hint = problem.hint.take().map(|hint| hiding(&hint, key, &value.text, masker));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_keeps_its_zeros() {
        let table: [(&str, Result<&[&str], &str>); 14] = [
            ("1..3", Ok(&["1", "2", "3"])),
            ("01..03", Ok(&["01", "02", "03"])),
            ("8..11", Ok(&["8", "9", "10", "11"])),
            ("08..11", Ok(&["08", "09", "10", "11"])),
            ("0..1", Ok(&["0", "1"])),
            (" 7..7 ", Ok(&["7"])),
            ("7", Err("`7` is no range")),
            ("a..b", Err("`a..b` is no range")),
            ("-1..2", Err("`-1..2` is no range")),
            ("1..", Err("`1..` is no range")),
            ("1..9999999999", Err("`1..9999999999` is no range")),
            ("01..100", Err("`01..100` does not say how many digits its numbers have")),
            ("5..1", Err("`5..1` ends before it begins")),
            ("1..101", Err("101 accounts are too many; the most is 100")),
        ];
        for (text, expected) in table {
            let got = numbers(text);
            match expected {
                Ok(all) => assert_eq!(got.expect(text), all, "{text}"),
                Err(wrong) => assert_eq!(got.expect_err(text).0, wrong, "{text}"),
            }
        }
        assert_eq!(numbers("001..100").expect("a hundred").len(), ACCOUNTS_MAX);
    }
}
