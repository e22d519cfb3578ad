//! From files to a [`Config`]: finds the files, reads them, resolves the sections of `config.yaml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Config, ConfiguredChannel, Mistakes, Places, StoreConfig, Web,
    agent::agent,
    checks,
    cycles::cycles,
    document::Document,
    fingerprint,
    mistakes::Mistake,
    notes::{Notes, Place, Secrets},
    raw::{CONFIG_KEYS, OneOrMany, RawStore, RawWeb, SETTINGS_KEYS, STORE_KEYS, WEB_KEYS, is_own_key},
    routes::routes,
    secrets::{Environment, Resolver, io_text},
    settle::{Level, Timing, settle},
};
use crate::{
    clock,
    notify::{CHANNEL_KINDS, Channel},
    options::suggestion,
    value::{Name, TimeSpan},
};

/// Deepest nesting of check directories.
const DIRECTORY_DEPTH_MAX: usize = 16;
/// Most check files: more than any team writes, fewer than a mistaken `/` holds.
const FILES_MAX: usize = 10_000;

const STORE_DEFAULT: &str = "/var/lib/bongsu/bongsu.db";
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8463);
const KEEP_RAW: Duration = Duration::from_secs(2 * 86_400);
const KEEP_BLOCKS: Duration = Duration::from_secs(400 * 86_400);
const KEEP_DAILY: Duration = Duration::from_secs(5 * 365 * 86_400);
/// Shortest retention of raw observations: a sealed day does not change, and what comes late comes within hours.
const KEEP_RAW_MIN: Duration = Duration::from_secs(86_400);

pub(super) fn load(file: &Path, environment: &dyn Environment) -> Result<Config, Mistakes> {
    let mut notes = Notes::default();
    let mut documents = Vec::new();
    let mut broken = false;
    match Document::read(file) {
        Ok(document) => documents.push(document),
        Err(mistake) => return Err(vec![no_config(*mistake, file)].into()),
    }
    let mut secrets = Secrets::default();
    resolve_secrets(0, &mut documents[0], environment, &mut notes, &mut secrets);
    let config_directory = documents[0].directory.clone();
    let root = Place::root(0, &documents[0]);
    let listed = check_files(&root, &config_directory, &mut notes);
    let unnamed = root.child("checks").value.is_null().then(|| config_directory.join("checks"));
    let missing = unnamed.filter(|directory| !directory.exists());
    for file in listed {
        match Document::read(&file) {
            Ok(mut document) => {
                resolve_secrets(documents.len(), &mut document, environment, &mut notes, &mut secrets);
                documents.push(document);
            }
            Err(mistake) => {
                broken = true;
                notes.complete.push((documents.len(), *mistake));
            }
        }
    }
    let resolved = sections(&documents, environment, broken, &mut secrets, &mut notes);
    if let Some(mistakes) = notes.into_mistakes(&documents, &secrets) {
        return Err(mistakes);
    }
    let mut config = resolved;
    config.checks_missing = missing;
    config.path = file.into();
    config.files = documents.iter().map(|d| d.file.clone()).collect();
    config.masker = secrets.masker();
    Ok(config)
}

pub(super) fn places(file: &Path, environment: &dyn Environment) -> Result<Places, Mistakes> {
    let mut document = Document::read(file).map_err(|m| Mistakes::from(vec![no_config(*m, file)]))?;
    let (mut notes, mut elsewhere, mut secrets) = (Notes::default(), Notes::default(), Secrets::default());
    resolve_secrets(0, &mut document, environment, &mut elsewhere, &mut secrets);
    let documents = [document];
    let root = Place::root(0, &documents[0]);
    let (store, store_is_default) = store(&root.child("store"), environment, &mut notes);
    let agent = agent(&root.child("agent"), environment, &store, store_is_default, &mut notes);
    notes.into_mistakes(&documents, &secrets).map_or(Ok(Places { agent, store }), Err)
}

fn no_config(mut mistake: Mistake, file: &Path) -> Mistake {
    if mistake.line.is_none() && !file.exists() {
        mistake.help = Some("name a config.yaml, or a directory that holds one; an empty file is enough".into());
    }
    mistake
}

fn resolve_secrets(
    doc: usize,
    document: &mut Document,
    environment: &dyn Environment,
    notes: &mut Notes,
    secrets: &mut Secrets,
) {
    for problem in document.problems.drain(..) {
        notes.push(super::notes::Note { doc, problem, needle: None, related: None });
    }
    let mut resolver = Resolver::new(environment, &document.directory);
    resolver.resolve(&mut document.value, &mut Vec::new());
    for bad in resolver.bad {
        notes.push(super::notes::Note { doc, problem: bad.problem, needle: Some(bad.reference), related: None });
    }
    secrets.resolved.append(&mut resolver.resolved);
    secrets.literal.append(&mut resolver.literal);
    document.templates = resolver.templates;
}

// ---------------------------------------------------------------------------------------------------------------
// Files

/// The check files that `config.yaml` names, sorted within each directory.
fn check_files(root: &Place<'_>, directory: &Path, notes: &mut Notes) -> Vec<PathBuf> {
    let place = root.child("checks");
    if place.value.is_null() {
        let default = directory.join("checks");
        let mut found = Vec::new();
        // Only the directory nobody named may be absent.
        if default.exists() {
            list(&place, &default, &mut Vec::new(), &mut found, notes);
        }
        return found;
    }
    let Some(OneOrMany(named)) = place.read::<OneOrMany<String>>(notes) else { return Vec::new() };
    let mut found = Vec::new();
    for (index, name) in named.iter().enumerate() {
        let path = directory.join(name);
        let place = place.nth(index);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => list(&place, &path, &mut Vec::new(), &mut found, notes),
            Ok(_) => found.push(path),
            Err(e) => {
                let hint = "create it, or correct its name, which is relative to this file";
                place.note(notes, format!("`{name}` cannot be read: {}", io_text(&e)), Some(hint.into()));
            }
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|file| seen.insert(file.clone()));
    found
}

/// Lists the check files below a directory; `above` are the directories it was reached through, without symbolic links.
fn list(place: &Place<'_>, directory: &Path, above: &mut Vec<PathBuf>, found: &mut Vec<PathBuf>, notes: &mut Notes) {
    let shown = directory.display();
    if above.len() > DIRECTORY_DEPTH_MAX {
        return place.note(notes, format!("{shown} is nested too deeply"), None);
    }
    let real = directory.canonicalize();
    let read = real.and_then(|real| Ok((real, fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?)));
    let (real, entries) = match read {
        Ok(read) => read,
        Err(e) => return place.note(notes, format!("{shown} cannot be read: {}", io_text(&e)), None),
    };
    if above.contains(&real) {
        let hint = "remove the symbolic link, or begin its name with a dot";
        return place.note(notes, format!("{shown} leads back to {}", real.display()), Some(hint.into()));
    }
    above.push(real);
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            list(place, &path, above, found, notes);
        } else if matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml")) {
            if found.len() == FILES_MAX {
                place.note(notes, format!("there are more than {FILES_MAX} check files"), None);
            }
            if found.len() <= FILES_MAX {
                found.push(path);
            }
        }
    }
    above.pop();
}

// ---------------------------------------------------------------------------------------------------------------
// Sections

fn sections(
    documents: &[Document],
    environment: &dyn Environment,
    broken: bool,
    secrets: &mut Secrets,
    notes: &mut Notes,
) -> Config {
    let root = Place::root(0, &documents[0]);
    for (key, _) in root.entries(notes, "the configuration") {
        if !CONFIG_KEYS.contains(&key.as_str()) && !is_own_key(&key) {
            root.unknown_key(notes, &key, &CONFIG_KEYS);
        }
    }
    let (store, store_is_default) = store(&root.child("store"), environment, notes);
    let agent = agent(&root.child("agent"), environment, &store, store_is_default, notes);
    let web = web(&root.child("web"), notes);
    let defaults = defaults(&root.child("defaults"), notes);
    let (channels, channel_names) = channels(&root.child("channels"), &agent.nameservers, notes);
    let checks = checks::resolve(documents, &defaults, &agent.nameservers, (clock::now(), broken), secrets, notes);
    let routes = routes(&root.child("routes"), &channel_names, &channels, &checks, notes);
    Config {
        path: PathBuf::new(),
        files: Vec::new(),
        agent,
        store,
        channels,
        routes,
        checks: checks.checks,
        checks_missing: None,
        web,
        masker: Default::default(),
    }
}

/// Reads a section of settings; mistakes that its values make together are told even if no check uses them.
pub(super) fn defaults(place: &Place<'_>, notes: &mut Notes) -> Level {
    for (key, _) in place.entries(notes, "default settings") {
        if !SETTINGS_KEYS.contains(&key.as_str()) {
            place.unknown_key(notes, &key, &SETTINGS_KEYS);
        }
    }
    let (raw, whole) = place.read_keys(notes, &SETTINGS_KEYS);
    let level = Level { doc: place.doc, path: place.path.clone(), raw, whole };
    settle(&[&level], Timing::Every, true, notes);
    level
}

fn store(place: &Place<'_>, environment: &dyn Environment, notes: &mut Notes) -> (StoreConfig, bool) {
    let raw: RawStore = place.read_section(notes, &STORE_KEYS, "the store");
    let is_default = raw.path.is_none();
    let path = match raw.path {
        Some(path) if path.is_empty() => {
            place.child("path").note(notes, "the store's path is empty", None);
            PathBuf::new()
        }
        Some(path) => place.document.directory.join(path),
        // systemd names several directories with colons between them; the first is the unit's main one.
        None => match environment.variable("STATE_DIRECTORY").filter(|directories| !directories.is_empty()) {
            Some(directories) => Path::new(directories.split(':').next().unwrap_or_default()).join("bongsu.db"),
            None => STORE_DEFAULT.into(),
        },
    };
    let keep = raw.keep.unwrap_or_default();
    let keep_raw = keep.raw.map_or(KEEP_RAW, |span| span.0);
    let keep_blocks = keep.blocks.map_or(KEEP_BLOCKS.max(keep_raw), |span| span.0);
    let keep_daily = keep.daily.map_or(KEEP_DAILY.max(keep_raw), |span| span.0);
    if keep_raw < KEEP_RAW_MIN {
        let text = format!("{} is too short; messages of yesterday may still arrive", TimeSpan(keep_raw));
        place.child("keep").child("raw").note(notes, text, Some(format!("keep {} or more", TimeSpan(KEEP_RAW_MIN))));
    }
    if keep_blocks < keep_raw {
        let text = format!(
            "{} is shorter than the {} that observations are kept as rows",
            TimeSpan(keep_blocks),
            TimeSpan(keep_raw)
        );
        place.child("keep").child("blocks").note(
            notes,
            text,
            Some("keep observations at least as long as `raw`".into()),
        );
    }
    if keep_daily < keep_raw {
        let text =
            format!("{} is shorter than the {} single observations are kept", TimeSpan(keep_daily), TimeSpan(keep_raw));
        place.child("keep").child("daily").note(notes, text, Some("keep roll-ups at least as long as `raw`".into()));
    }
    (StoreConfig { path, keep_raw, keep_blocks, keep_daily }, is_default)
}

fn web(place: &Place<'_>, notes: &mut Notes) -> Web {
    let raw: RawWeb = place.read_section(notes, &WEB_KEYS, "the web listener");
    let listen = match raw.listen.map(|text| text.parse::<SocketAddr>().map_err(|_| text)) {
        None => LISTEN_DEFAULT,
        Some(Ok(listen)) => listen,
        Some(Err(text)) => {
            let hint = format!("write an IP address and a port: {LISTEN_DEFAULT}, or 0.0.0.0:8463 for all interfaces");
            place.child("listen").note(notes, format!("`{text}` is no address to listen on"), Some(hint));
            LISTEN_DEFAULT
        }
    };
    Web { listen }
}

// ---------------------------------------------------------------------------------------------------------------
// Channels

/// The channels that could be built, and the names of all that were written.
fn channels(
    place: &Place<'_>,
    nameservers: &[SocketAddr],
    notes: &mut Notes,
) -> (BTreeMap<Name, ConfiguredChannel>, BTreeSet<String>) {
    let entries = place.entries(notes, "channels by name");
    let names: BTreeSet<String> = entries.iter().map(|(name, _)| name.clone()).collect();
    let mut channels = BTreeMap::new();
    let mut fallbacks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (text, entry) in entries {
        let name = text.parse::<Name>().map_err(|wrong| notes.key(entry.doc, entry.path.clone(), wrong, None)).ok();
        let built = channel(&text, &entry, nameservers, notes);
        let fallback = entry.child("fallback");
        let fallback_name = if fallback.value.is_null() { None } else { fallback.read::<Name>(notes) };
        if let Some(to) = &fallback_name {
            if names.contains(to.as_str()) {
                fallbacks.insert(text.clone(), vec![to.to_string()]);
            } else {
                let hint = suggestion(to.as_str(), names.iter().map(String::as_str));
                fallback.note(notes, format!("there is no channel `{to}`"), Some(hint));
            }
        }
        if let (Some(name), Some((channel, fingerprint))) = (name, built) {
            channels.insert(name, ConfiguredChannel { channel, fallback: fallback_name, fingerprint });
        }
    }
    for circle in cycles(&fallbacks) {
        let way = circle.iter().chain(circle.first()).cloned().collect::<Vec<_>>().join(" → ");
        let hint = "a message that fails everywhere must end somewhere; remove one `fallback`";
        place.child(&circle[0]).child("fallback").note(
            notes,
            format!("fallbacks in a circle: {way}"),
            Some(hint.into()),
        );
    }
    (channels, names)
}

/// The channel, and its fingerprint.
fn channel(
    name: &str,
    entry: &Place<'_>,
    nameservers: &[SocketAddr],
    notes: &mut Notes,
) -> Option<(Arc<dyn Channel>, Arc<str>)> {
    let kinds: Vec<&str> = CHANNEL_KINDS.iter().map(|kind| kind.name).collect();
    let known: Vec<&str> = kinds.iter().copied().chain(["fallback"]).collect();
    let listed = || format!("add one of {}", kinds.join(", "));
    if entry.value.is_null() {
        entry.note(notes, format!("the channel `{name}` has no kind"), Some(listed()));
        return None;
    }
    let (mut found, mut unknown) = (Vec::new(), false);
    for (key, place) in entry.entries(notes, "a channel") {
        match CHANNEL_KINDS.iter().find(|kind| kind.name == key) {
            Some(kind) => found.push((kind, place)),
            None if key == "fallback" => {}
            None => {
                unknown = true;
                entry.unknown_key(notes, &key, &known);
            }
        }
    }
    if let Some((second, place)) = found.get(1) {
        let text = format!("a channel is of one kind; `{name}` has both `{}` and `{}`", found[0].0.name, second.name);
        notes.key(place.doc, place.path.clone(), text, Some("make two channels of it".into()));
    }
    if found.is_empty() && !unknown && entry.value.is_mapping() {
        notes.key(entry.doc, entry.path.clone(), format!("the channel `{name}` has no kind"), Some(listed()));
    }
    let (kind, place) = found.into_iter().next()?;
    let before = notes.count();
    let built = place.options(notes, kind.build);
    if built.is_none() && notes.count() == before {
        place.note(notes, format!("this {} channel cannot be built", kind.name), None);
    }
    built.map(|channel| (channel, fingerprint::of_channel(kind.name, &place, nameservers).into()))
}
