//! What tells whether a check or a channel is still the same after a reload: if so, its task goes on undisturbed.

use std::{net::SocketAddr, path::Path, sync::OnceLock};

use ring::hmac;
use serde_yaml::{Mapping, Value};

use super::{checks::Draft, notes::Place, secrets::redact};
use crate::{check::Check, clock, files, protocol::wire::PEM_BYTES_MAX, schedule::Schedule, value::TimeSpan};

/// A digest, under a key of this process, of the check as normalised YAML after defaults: it tells nothing to whoever sees
/// it.
/// `asked` are the options it asks with, secrets and accounts filled in.
pub(super) fn fingerprint(check: &Check, draft: &Draft<'_>, asked: &[Value], nameservers: &[SocketAddr]) -> String {
    let mut map = Mapping::new();
    let mut put = |key: &str, value: Value| {
        map.insert(key.into(), value);
    };
    put("name", check.name.as_str().into());
    put("title", (*check.title).into());
    put("labels", Value::Mapping(check.labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect()));
    match &check.schedule {
        Schedule::Every(every) => put("every", TimeSpan(*every).to_string().into()),
        Schedule::Cron(_) => {
            put("cron", draft.raw.cron.as_deref().unwrap_or_default().into());
            put("timezone", draft.raw.timezone.as_deref().unwrap_or("UTC").into());
        }
    }
    // A check keeps its resolver as long as it runs.
    put("nameservers", Value::Sequence(nameservers.iter().map(|server| server.to_string().into()).collect()));
    put("settings", format!("{:?}", check.settings).into());
    put("thresholds", format!("{:?}", check.thresholds).into());
    put("depends_on", Value::Sequence(check.depends_on.iter().map(|name| name.as_str().into()).collect()));
    put("formerly", check.formerly.as_ref().map_or(Value::Null, |name| name.as_str().into()));
    if let Some(kind) = draft.kinds.first() {
        let place = draft.place.child(kind);
        let mut shown = place.raw().clone();
        redact(&mut shown);
        let accounts = draft.place.child("accounts");
        if !matches!(asked, [only] if *only == shown) {
            // Accounts are here only: what is secret of them may show only where it is used.
            let all = serde_yaml::to_string(&(asked, accounts.value)).unwrap_or_default();
            put("secrets", digest(all.as_bytes()).into());
        }
        let mut read = Vec::new();
        asked.iter().for_each(|block| named_files(block, &place.document.directory, &mut read));
        put("files", Value::Sequence(read));
        put(kind, shown);
        put("directory", place.document.directory.display().to_string().into());
    }
    // Only whether it is the same is ever asked; the text would be as long as the check.
    digest(serde_yaml::to_string(&Value::Mapping(map)).unwrap_or_default().as_bytes())
}

/// The same of a channel: all it is built from, secrets filled in. Whom it falls back on concerns only who decides that.
pub(super) fn of_channel(kind: &str, options: &Place<'_>, nameservers: &[SocketAddr]) -> String {
    let mut read = Vec::new();
    named_files(options.value, &options.document.directory, &mut read);
    let nameservers: Vec<String> = nameservers.iter().map(ToString::to_string).collect();
    let directory = options.document.directory.display().to_string();
    let all = serde_yaml::to_string(&(kind, options.value, read, nameservers, directory));
    digest(all.unwrap_or_default().as_bytes())
}

/// The digests of the files that the `tls` blocks and `template_file` within name, in order: a certificate that was
/// renewed in its place is a change as well.
fn named_files(value: &Value, directory: &Path, found: &mut Vec<Value>) {
    let Value::Mapping(entries) = value else { return };
    for (key, value) in entries {
        if let (Some("template_file"), Some(path)) = (key.as_str(), value.as_str()) {
            found.push(digest(&files::read(&directory.join(path), PEM_BYTES_MAX).unwrap_or_default()).into());
        } else if key.as_str() == Some("tls") {
            let read = |path| files::read(&directory.join(path), PEM_BYTES_MAX).unwrap_or_default();
            let paths = ["ca", "certificate", "key"].into_iter().filter_map(|key| value.get(key)?.as_str());
            found.extend(paths.map(|path| digest(&read(path)).into()));
        } else {
            named_files(value, directory, found);
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    static KEY: OnceLock<hmac::Key> = OnceLock::new();
    let key = KEY.get_or_init(|| hmac::Key::new(hmac::HMAC_SHA256, &clock::random_bytes::<32>()));
    hmac::sign(key, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
