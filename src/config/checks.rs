//! Check files into checks: names first, so that every reference can be judged, then each check with its settings,
//! its schedule and its question.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use serde_yaml::Value;

use super::{
    accounts::{self, Asked, misplaced},
    cycles::cycles,
    document::Document,
    fingerprint::fingerprint,
    notes::{Note, Notes, Place, Secrets},
    raw::{CHECK_KEYS, FILE_KEYS, RawCheck, RawService, SERVICE_KEYS, SETTINGS_KEYS, is_own_key},
    resolve::defaults,
    settle::{Level, Settled, Timing, settle},
};
use crate::{
    check::{self, Check},
    options::{At, Path, Problem, nearest, suggestion},
    schedule::{Cron, Schedule},
    value::{CheckName, Labels, Name, Timestamp},
};

/// Longest value of a label: it stands in mails, metrics and on the page.
const LABEL_CHARS_MAX: usize = 200;

/// What came of all check files.
pub(super) struct Checks {
    /// The checks that could be built, by name.
    pub checks: Vec<Arc<Check>>,
    /// The names of all checks that were written.
    names: BTreeMap<CheckName, (usize, Path)>,
    services: BTreeSet<Name>,
    /// Whether names may be missing, because a file could not be read.
    incomplete: bool,
}

impl Checks {
    /// A hint, if there is no such service.
    pub fn unknown_service(&self, name: &Name) -> Option<String> {
        let unknown = !self.incomplete && !self.services.contains(name);
        unknown.then(|| match self.services.is_empty() {
            true => "no check file defines any service".into(),
            false => suggestion(name.as_str(), self.services.iter().map(Name::as_str)),
        })
    }

    /// A hint, if there is no such check.
    pub fn unknown_check(&self, name: &CheckName) -> Option<String> {
        if self.incomplete || self.names.contains_key(name) {
            return None;
        }
        let all = self.names.keys().map(CheckName::as_str);
        // Of a thousand checks, those of the same service are worth listing.
        Some(match nearest(name.as_str(), all) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let same: Vec<&str> =
                    self.names.keys().filter(|n| n.service() == name.service()).map(CheckName::check).collect();
                match same.is_empty() {
                    true => format!("there is no service `{}` either", name.service()),
                    false => format!("checks of `{}`: {}", name.service(), same.join(", ")),
                }
            }
        })
    }
}

/// A check file whose head has been read.
struct File<'d> {
    root: Place<'d>,
    /// The service; `None` when it has no name that could be read.
    service: Option<Name>,
    head: RawService,
    defaults: Level,
}

/// A check whose own keys have been read.
pub(super) struct Draft<'d> {
    pub(super) place: Place<'d>,
    file: usize,
    name: CheckName,
    /// Whether the name is the check's own. Without it the check cannot be referred to, but it can be judged.
    named: bool,
    pub(super) raw: RawCheck,
    settings: Level,
    /// The keys that say what is asked.
    pub(super) kinds: Vec<String>,
}

impl Draft<'_> {
    /// The name of the check.
    pub(super) fn name(&self) -> &CheckName {
        &self.name
    }

    /// Whether the check says anything of accounts.
    pub(super) fn has_accounts(&self) -> bool {
        !self.place.child("accounts").value.is_null()
    }
}

/// Resolves all documents but the first, which is `config.yaml`.
pub(super) fn resolve(
    documents: &[Document],
    general: &Level,
    nameservers: &[SocketAddr],
    (now, broken): (Timestamp, bool),
    secrets: &mut Secrets,
    notes: &mut Notes,
) -> Checks {
    let mut checks =
        Checks { checks: Vec::new(), names: BTreeMap::new(), services: BTreeSet::new(), incomplete: broken };
    let mut files: Vec<File<'_>> = Vec::new();
    let mut drafts = Vec::new();
    for (doc, document) in documents.iter().enumerate().skip(1) {
        let file = head(Place::root(doc, document), notes);
        checks.incomplete |= file.service.is_none();
        checks.services.extend(file.service.clone());
        let number = files.len();
        for item in file.root.child("checks").items(notes, "checks") {
            let draft = draft(item, number, file.service.as_ref(), notes);
            checks.incomplete |= draft.as_ref().is_none_or(|draft| !draft.named);
            drafts.extend(draft);
        }
        files.push(file);
    }
    let titles = titles(&files, notes);
    for draft in drafts.iter().filter(|draft| draft.named) {
        register(draft, &mut checks, notes);
    }
    let mut edges = Edges::new();
    let mut formerly: BTreeMap<CheckName, (usize, Path)> = BTreeMap::new();
    // One after the other goes: ten thousand of them are megabytes.
    for draft in drafts {
        let depends_on = depends_on(&draft, &checks, notes);
        let formerly = former_name(&draft, &checks, &mut formerly, notes);
        let file = &files[draft.file];
        if let Some((mut check, asked)) = build(&draft, file, general, now, secrets, notes) {
            let title = titles.get(&check.name.service()).cloned().unwrap_or_else(|| check.name.service().to_string());
            if let Some(before) = checks.checks.last() {
                share(&mut check.labels, &before.labels);
                share(&mut check.thresholds, &before.thresholds);
            }
            let before = checks.checks.last().map(|before| &before.title).filter(|before| ***before == *title);
            check.title = before.cloned().unwrap_or_else(|| title.into());
            check.depends_on = depends_on.iter().map(|(name, _)| name.clone()).collect();
            check.formerly = formerly;
            check.fingerprint = fingerprint(&check, &draft, &asked, nameservers).into();
            checks.checks.push(Arc::new(check));
        }
        edges.insert(draft.name.clone(), depends_on);
    }
    dependency_cycles(&edges, notes);
    for (doc, document) in documents.iter().enumerate() {
        misplaced(doc, document, notes);
    }
    checks.checks.sort_by(|a, b| a.name.cmp(&b.name));
    checks
}

// ---------------------------------------------------------------------------------------------------------------
// Names

fn head<'d>(root: Place<'d>, notes: &mut Notes) -> File<'d> {
    if root.value.is_null() {
        let hint = "a check file needs `service` and `checks`; a file whose name begins with a dot is left alone";
        root.note(notes, "this check file is empty", Some(hint.into()));
        return File { root, service: None, head: RawService::default(), defaults: Level::default() };
    }
    for (key, _) in root.entries(notes, "a check file with `service` and `checks`") {
        if !FILE_KEYS.contains(&key.as_str()) && !is_own_key(&key) {
            root.unknown_key(notes, &key, &FILE_KEYS);
        }
    }
    if !root.value.is_mapping() {
        return File { root, service: None, head: RawService::default(), defaults: Level::default() };
    }
    let (head, _) = root.read_keys::<RawService>(notes, &SERVICE_KEYS);
    if root.child("service").value.is_null() {
        let hint = Some("name the service these checks belong to: `service: mail`".into());
        notes.key(root.doc, root.child("service").path, "`service` is missing", hint);
    }
    labels(&head.labels, &root.child("labels"), notes);
    if head.title.as_ref().is_some_and(|title| title.trim().is_empty() || title.contains(char::is_control)) {
        root.child("title").note(notes, "a title is one line of text", None);
    }
    let checks = root.child("checks");
    if checks.value.is_null() || checks.value.as_sequence().is_some_and(Vec::is_empty) {
        let text = "this file defines no checks";
        notes.key(root.doc, checks.path.clone(), text, Some("add `checks:`, a list of checks".into()));
    }
    let defaults = defaults(&root.child("defaults"), notes);
    File { root, service: head.service.clone(), head, defaults }
}

fn labels(labels: &Labels, place: &Place<'_>, notes: &mut Notes) {
    for (key, value) in labels {
        let entry = place.child(key);
        if let Err(wrong) = key.parse::<Name>() {
            notes.key(entry.doc, entry.path.clone(), wrong, None);
        }
        if value.contains(char::is_control) || value.chars().count() > LABEL_CHARS_MAX {
            entry.note(notes, format!("a label is one line of at most {LABEL_CHARS_MAX} characters"), None);
        }
    }
}

fn draft<'d>(place: Place<'d>, file: usize, service: Option<&Name>, notes: &mut Notes) -> Option<Draft<'d>> {
    if !place.value.is_mapping() {
        place.note(notes, "a check is a mapping: `- name: …`, then what it asks", None);
        return None;
    }
    let known_kinds = check::known_keys();
    let known: Vec<&str> = CHECK_KEYS.into_iter().chain(SETTINGS_KEYS).chain(known_kinds.iter().copied()).collect();
    let mappings: Vec<&str> = known_kinds.iter().copied().chain(["labels", "outage", "degraded"]).collect();
    let (mut kinds, mut unknown) = (Vec::new(), false);
    for (key, value) in place.entries(notes, "a check") {
        if known_kinds.contains(&key.as_str()) {
            kinds.push(key);
        } else if !known.contains(&key.as_str()) {
            unknown = true;
            // A mapping is meant as a protocol, whatever plain setting its name resembles.
            match value.value.is_mapping() && nearest(&key, mappings.iter().copied()).is_none() {
                true => {
                    let hint = format!("what can be asked: {}", known_kinds.join(", "));
                    notes.key(value.doc, value.path, format!("unknown protocol or kind of check `{key}`"), Some(hint));
                }
                false => place.unknown_key(notes, &key, &known),
            }
        }
    }
    let (raw, _) = place.read_keys::<RawCheck>(notes, &CHECK_KEYS);
    if place.child("name").value.is_null() {
        notes.key(place.doc, place.path.clone(), "this check has no `name`", Some("add `name:`".into()));
    }
    let (settings, whole) = place.read_keys(notes, &SETTINGS_KEYS);
    let settings = Level { doc: place.doc, path: place.path.clone(), raw: settings, whole };
    let shown = place.child("name").value.as_str().unwrap_or("this check").to_owned();
    if let [first, second, ..] = &kinds[..] {
        let at = place.child(second);
        let text = format!("a check asks one question; `{shown}` has both `{first}` and `{second}`");
        notes.key(at.doc, at.path, text, Some("make two checks of it".into()));
    } else if kinds.is_empty() && !unknown {
        let hint = format!("add one of {}", known_kinds.join(", "));
        notes.key(place.doc, place.path.clone(), format!("`{shown}` asks nothing"), Some(hint));
    }
    labels(&raw.labels, &place.child("labels"), notes);
    // Without a service the check has no full name, but the rest of it can still be judged.
    let stand_in: Name = "unknown".parse().expect("`unknown` is a name");
    let named = service.is_some() && raw.name.is_some();
    let name = CheckName::new(service.unwrap_or(&stand_in), raw.name.as_ref().unwrap_or(&stand_in));
    Some(Draft { place, file, name, named, raw, settings, kinds })
}

/// The title of each service; two files of one service may not give two.
fn titles(files: &[File<'_>], notes: &mut Notes) -> BTreeMap<Name, String> {
    let mut titles: BTreeMap<Name, (String, usize, Path)> = BTreeMap::new();
    for file in files {
        let (Some(service), Some(title)) = (&file.service, &file.head.title) else { continue };
        let place = file.root.child("title");
        match titles.get(service) {
            Some((first, doc, path)) if first != title => {
                let text = format!("the service `{service}` has another title already: `{first}`");
                let hint = Some("give the title in one file only".into());
                let problem = Problem { path: place.path, at: At::Value, text, hint };
                let related = Some(("the first is at", *doc, path.clone()));
                notes.push(Note { doc: place.doc, problem, needle: None, related });
            }
            Some(_) => {}
            None => {
                titles.insert(service.clone(), (title.clone(), place.doc, place.path));
            }
        }
    }
    titles.into_iter().map(|(service, (title, ..))| (service, title)).collect()
}

/// Remembers the check's name; a mistake when another check has it already.
fn register(draft: &Draft<'_>, checks: &mut Checks, notes: &mut Notes) {
    let place = draft.place.child("name");
    if let Some((doc, path)) = checks.names.get(&draft.name) {
        let text = format!("duplicate check `{}`", draft.name);
        let problem = Problem { path: place.path, at: At::Value, text, hint: Some("give it another name".into()) };
        let related = Some(("the first is at", *doc, path.clone()));
        notes.push(Note { doc: place.doc, problem, needle: None, related });
        return;
    }
    checks.names.insert(draft.name.clone(), (place.doc, place.path));
}

/// `check` of the same service, or `service/check`.
fn reference(text: &str, service: &Name) -> Result<CheckName, String> {
    if text.contains('/') { text.parse() } else { text.parse().map(|name| CheckName::new(service, &name)) }
}

/// What each check depends on, and where that is written.
type Edges<'d> = BTreeMap<CheckName, Vec<(CheckName, Place<'d>)>>;

fn depends_on<'d>(draft: &Draft<'d>, checks: &Checks, notes: &mut Notes) -> Vec<(CheckName, Place<'d>)> {
    let list = draft.place.child("depends_on");
    let mut found: Vec<(CheckName, Place<'d>)> = Vec::new();
    for (index, text) in draft.raw.depends_on.0.iter().enumerate() {
        let place = list.nth(index);
        match reference(text, &draft.name.service()) {
            Err(wrong) => place.note(notes, wrong, None),
            Ok(name) => {
                if let Some(hint) = checks.unknown_check(&name) {
                    place.note(notes, format!("there is no check `{name}`"), Some(hint));
                } else if name == draft.name {
                    place.note(notes, format!("`{name}` depends on itself"), Some("remove it".into()));
                } else if found.iter().any(|(other, _)| *other == name) {
                    place.note(notes, format!("`{name}` is named twice"), Some("remove one".into()));
                } else {
                    found.push((name, place));
                }
            }
        }
    }
    found
}

fn former_name(
    draft: &Draft<'_>,
    checks: &Checks,
    claimed: &mut BTreeMap<CheckName, (usize, Path)>,
    notes: &mut Notes,
) -> Option<CheckName> {
    let text = draft.raw.formerly.as_ref()?;
    let place = draft.place.child("formerly");
    let name = match reference(text, &draft.name.service()) {
        Ok(name) => name,
        Err(wrong) => {
            place.note(notes, wrong, None);
            return None;
        }
    };
    let (text, other) = match (checks.names.get(&name), claimed.get(&name)) {
        (Some(_), _) if name == draft.name => (format!("`{name}` is its name now"), None),
        (Some(other), _) => (format!("`{name}` still exists, and its history is its own"), Some(other)),
        (None, Some(other)) => (format!("two checks were formerly `{name}`"), Some(other)),
        (None, None) => {
            claimed.insert(name.clone(), (place.doc, place.path));
            return Some(name);
        }
    };
    let problem = Problem {
        path: place.path,
        at: At::Value,
        text,
        hint: Some("remove `formerly`, or name the check that was renamed".into()),
    };
    let related = other.map(|(doc, path)| ("the other is at", *doc, path.clone()));
    notes.push(Note { doc: place.doc, problem, needle: None, related });
    None
}

fn dependency_cycles(edges: &Edges<'_>, notes: &mut Notes) {
    let names = edges.iter().map(|(from, to)| (from.clone(), to.iter().map(|(name, _)| name.clone()).collect()));
    for circle in cycles(&names.collect()) {
        let way = circle.iter().chain(circle.first()).map(CheckName::as_str).collect::<Vec<_>>().join(" → ");
        let next = circle.get(1);
        let place = edges.get(&circle[0]).and_then(|to| to.iter().find(|(name, _)| Some(name) == next));
        if let Some((_, place)) = place {
            let hint = "of checks that wait for each other, none says which has failed; remove one `depends_on`";
            place.note(notes, format!("dependencies in a circle: {way}"), Some(hint.into()));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The check itself

/// Lets two that are the same be one in memory.
fn share<T: PartialEq>(it: &mut Arc<T>, with: &Arc<T>) {
    if it == with {
        it.clone_from(with);
    }
}

/// The check, and the options its question was built from.
fn build(
    draft: &Draft<'_>,
    file: &File<'_>,
    general: &Level,
    now: Timestamp,
    secrets: &mut Secrets,
    notes: &mut Notes,
) -> Option<(Check, Vec<Value>)> {
    let kind = draft.kinds.first();
    let cron = cron(draft, now, notes);
    let timing = match &cron {
        Some(Some(cron)) => Timing::Cron(cron.interval(now)),
        Some(None) => Timing::Cron(std::time::Duration::from_secs(86_400)),
        None => Timing::Every,
    };
    let levels = [&draft.settings, &file.defaults, general];
    let objective = kind.is_some_and(|kind| crate::protocol::by_name(kind).is_none());
    let Settled { every, settings, thresholds } = settle(&levels, timing, objective, notes);
    let Asked { ask, blocks } = accounts::ask(draft, kind?, &settings, secrets, notes)?;
    let schedule = match cron {
        Some(cron) => cron?,
        None => Schedule::Every(every),
    };
    if let Some((text, hint)) = ask.too_often(schedule.interval(now)) {
        draft.place.child(kind?).note(notes, text, Some(hint.into()));
        return None;
    }
    let mut labels = file.head.labels.clone();
    labels.extend(draft.raw.labels.clone());
    let check = Check {
        name: draft.name.clone(),
        title: Arc::default(),
        labels: Arc::new(labels),
        schedule,
        settings,
        ask,
        thresholds: Arc::new(thresholds),
        depends_on: Arc::default(),
        formerly: None,
        fingerprint: Arc::default(),
    };
    Some((check, blocks))
}

/// The cron line's schedule: `None` when the check has none, `Some(None)` when it is wrong.
fn cron(draft: &Draft<'_>, now: Timestamp, notes: &mut Notes) -> Option<Option<Schedule>> {
    let place = &draft.place;
    let zone_place = place.child("timezone");
    let Some(line) = &draft.raw.cron else {
        if draft.raw.timezone.is_some() {
            let text = "`timezone` says nothing without `cron`";
            notes.key(
                zone_place.doc,
                zone_place.path,
                text,
                Some("remove it; `every` is the same in all zones".into()),
            );
        }
        return None;
    };
    let every = place.child("every");
    if !every.value.is_null() {
        let text = "a check has either `every` or `cron`";
        notes.key(every.doc, every.path, text, Some("remove one of the two".into()));
    }
    let zone = match draft.raw.timezone.as_deref() {
        None => chrono_tz::Tz::UTC,
        Some(name) => match name.parse::<chrono_tz::Tz>() {
            Ok(zone) => zone,
            Err(_) => {
                zone_place.note(notes, format!("there is no time zone `{name}`"), Some(zone_hint(name)));
                return Some(None);
            }
        },
    };
    let cron_place = place.child("cron");
    match Cron::parse(line, zone) {
        Err(wrong) => {
            cron_place.note(notes, wrong, None);
            Some(None)
        }
        Ok(cron) => {
            let schedule = Schedule::Cron(cron);
            if schedule.next(&draft.name, now).is_none() {
                cron_place.note(notes, format!("`{line}` never comes: no such day exists"), None);
                return Some(None);
            }
            Some(Some(schedule))
        }
    }
}

/// What to write instead of a time zone that does not exist.
fn zone_hint(name: &str) -> String {
    // Abbreviations name several zones or none, and the nearest spelling is another part of the world.
    let abbreviation = name.len() <= 5 && name.chars().all(|c| c.is_ascii_uppercase());
    let near = match name {
        "KST" => Some("Asia/Seoul"),
        _ if abbreviation => None,
        _ => nearest(name, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())),
    };
    near.map_or("write an IANA name such as Asia/Seoul, or UTC".into(), |near| format!("did you mean `{near}`?"))
}
