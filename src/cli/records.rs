//! What commands read of the past: the store beside the daemon, or the store alone when no daemon runs.

use std::collections::BTreeSet;

use super::{
    Context, Failure,
    control::{Client, Trouble},
    render::status::alone,
};
use crate::{
    alert::Message,
    config::{self, OsEnvironment},
    incident::{Incident, IncidentId},
    store::{IncidentQuery, IncidentRecord, OutboxCounts, Reader, StoreError},
    value::{Name, Timestamp},
    web::control::{CheckStatus, StatusReport},
};

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The store, and the daemon's own report if there is a daemon.
pub struct History {
    /// The store, or why it cannot be read beside a daemon that runs.
    reader: Result<Reader, String>,
    report: Option<StatusReport>,
    /// A daemon listens and does not say how it stands: the words for it.
    silent: Option<String>,
}

/// Opens the store and asks the daemon how it stands.
pub async fn open(cx: &Context) -> Result<History, Failure> {
    let places = cx.places()?;
    let asked = match Client::connect(&places.agent.socket).await {
        Ok(daemon) => daemon.status().await,
        Err(trouble) => Err(trouble),
    };
    // A daemon whose disk is full or that has no descriptor left cannot answer, and then more than ever one wants to
    // see what the store holds.
    let (report, silent) = match asked {
        Ok(report) => (Some(report), None),
        Err(Trouble::NotRunning(_)) => (None, None),
        Err(trouble @ Trouble::Broken(_)) => (None, Some(trouble.to_string())),
        Err(trouble) => return Err(trouble.into()),
    };
    // Nobody can end a process that hangs as the daemon's disk does.
    if let Some(trouble) = report.as_ref().and_then(|r| r.store.as_ref()).filter(|trouble| trouble.hangs) {
        let why = not_read(&trouble.error);
        return Ok(History { reader: Err(why), report, silent });
    }
    let reader = match (Reader::open(&places.store.path), &report) {
        (Ok(reader), _) => Ok(reader),
        (Err(StoreError::Missing { path }), None) if silent.is_none() => {
            let text = "the daemon is not running and there is no database at";
            return Err(Failure::failed(format!("{text} {}; start it with `bongsu run`", path.display())));
        }
        // What the daemon has in memory is the better part then.
        (Err(error), Some(_)) => Err(error.to_string()),
        (Err(error), None) => return Err(error.into()),
    };
    Ok(History { reader, report, silent })
}

/// Fails while the disk of a running daemon hangs: whoever opened the file would hang as well.
pub async fn unless_it_hangs(cx: &Context) -> Result<(), Failure> {
    let Ok(daemon) = Client::connect(&cx.places()?.agent.socket).await else { return Ok(()) };
    let trouble = daemon.status().await.ok().and_then(|report| report.store).filter(|trouble| trouble.hangs);
    trouble.map_or(Ok(()), |trouble| Err(Failure::failed(not_read(&trouble.error))))
}

fn not_read(why: &str) -> String {
    format!("the database is not read: {why}")
}

impl History {
    /// Whether a daemon runs.
    pub fn daemon(&self) -> bool {
        self.report.is_some()
    }

    /// How the daemon stands, if there is one.
    pub fn report(&self) -> Option<&StatusReport> {
        self.report.as_ref()
    }

    fn reader(&self) -> Result<&Reader, Failure> {
        self.reader.as_ref().map_err(|why| Failure::failed(why.as_str()))
    }

    /// What the daemon knows of incidents and the store does not, because it does not write.
    fn unwritten(&self) -> Option<&[Incident]> {
        Some(&self.report.as_ref()?.store.as_ref()?.incidents)
    }

    /// Says on standard error that nobody looks, if so, and how old the facts are; or that the store cannot be looked
    /// into.
    pub fn say_if_alone(&self, cx: &mut Context) -> Result<(), Failure> {
        if self.report.as_ref().and_then(|r| r.store.as_ref()).is_some_and(|trouble| trouble.hangs) {
            cx.out.note(
                "the disk does not answer: of what is stored, only the open incidents are known, without timelines",
            );
        }
        if self.report.is_none() {
            cx.out.note(&alone(self.silent.as_deref(), self.last_observed()?));
        }
        Ok(())
    }

    /// When anything was last observed.
    pub fn last_observed(&self) -> Result<Option<Timestamp>, Failure> {
        if let Some(report) = self.report.as_ref().filter(|r| r.store.is_some() || self.reader.is_err()) {
            return Ok(report.checks.iter().filter_map(|c| c.last.as_ref()).map(|l| l.at).max());
        }
        Ok(self.reader()?.checks()?.into_iter().filter_map(|c| c.last).map(|o| o.at).max())
    }

    /// How the checks stood when they were last observed. Checks that are not configured any more are left out as
    /// far as the configuration can be read.
    pub fn checks(&self, cx: &Context) -> Result<Vec<CheckStatus>, Failure> {
        let configured: Option<BTreeSet<_>> = config::load(&cx.config_path(), &OsEnvironment)
            .ok()
            .map(|config| config.checks.iter().map(|c| c.name.clone()).collect());
        let known = self.reader()?.checks()?.into_iter();
        let wanted = known.filter(|c| configured.as_ref().is_none_or(|names| names.contains(&c.check)));
        Ok(wanted.map(CheckStatus::from).collect())
    }

    /// Incidents: the open ones first, then the newest; at most `limit`.
    pub fn incidents(&self, open: bool, service: Option<&Name>, limit: usize) -> Result<Vec<Incident>, Failure> {
        let stored = self.stored_incidents(open, service, limit);
        let Some(unwritten) = self.unwritten() else { return stored };
        // A store that does not write may not be readable either.
        let mut found = stored.unwrap_or_default();
        for incident in unwritten {
            found.retain(|i| i.id != incident.id);
            if (!open || incident.is_open()) && service.is_none_or(|name| *name == incident.service) {
                found.push(incident.clone());
            }
        }
        found.sort_by_key(|i| (!i.is_open(), std::cmp::Reverse(i.id)));
        found.truncate(limit);
        Ok(found)
    }

    fn stored_incidents(&self, open: bool, service: Option<&Name>, limit: usize) -> Result<Vec<Incident>, Failure> {
        let query = |open| IncidentQuery { open, since: None, service: service.cloned(), limit: Some(limit) };
        let mut found = self.reader()?.incidents(&query(true))?;
        if !open {
            let seen: BTreeSet<IncidentId> = found.iter().map(|i| i.id).collect();
            found.extend(self.reader()?.incidents(&query(false))?.into_iter().filter(|i| !seen.contains(&i.id)));
        }
        found.truncate(limit);
        Ok(found)
    }

    /// One incident with all that is told of it; of one that is not written yet, no timeline.
    pub fn incident(&self, id: IncidentId) -> Result<Option<IncidentRecord>, Failure> {
        let stored = self.reader().and_then(|reader| Ok(reader.incident(id)?));
        let Some(incident) = self.unwritten().and_then(|all| all.iter().find(|i| i.id == id)) else { return stored };
        let record = stored.ok().flatten();
        let (timeline, messages) = record.map(|r| (r.timeline, r.messages)).unwrap_or_default();
        Ok(Some(IncidentRecord { incident: incident.clone(), timeline, messages }))
    }

    /// The outbox in numbers.
    pub fn outbox(&self) -> Result<OutboxCounts, Failure> {
        Ok(self.reader()?.outbox()?)
    }

    /// Messages: the pending ones first, in the order they were made, then the others, newest first.
    pub fn messages(&self, pending_only: bool, limit: usize) -> Result<Vec<Message>, Failure> {
        let mut found = self.reader()?.messages(true, limit)?;
        if !pending_only {
            let seen: BTreeSet<_> = found.iter().map(|m| m.id).collect();
            found.extend(self.reader()?.messages(false, limit)?.into_iter().filter(|m| !seen.contains(&m.id)));
        }
        found.truncate(limit);
        Ok(found)
    }
}
