//! A new configuration put in force while the agent runs.
//!
//! Tasks of checks and channels that are the same go on undisturbed, with their state. Where it cannot be put in force, the old
//! configuration goes on whole: what was ended already is started again. A store that does not write puts a reload off,
//! not away.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    Running, Shared, Task,
    heart::{self, HeartError, Job, Reply},
    network, setup,
};
use crate::{
    check::Check,
    clock,
    config::Config,
    value::{CheckName, Name},
    web::control::Reloaded,
};

/// How often a reload that was put off looks whether the store writes again.
const OWED_EVERY: Duration = Duration::from_secs(2);

impl Shared {
    /// Loads the configuration anew and puts it in force. Checks that are the same go on undisturbed; a configuration
    /// with mistakes changes nothing. The stop does not wait for it: the store may hold it up.
    ///
    /// It has a task of its own, because whoever asked may not wait for the answer, and a reload left halfway would
    /// leave ended what it has ended.
    pub(crate) async fn reload(self: Arc<Self>) -> Result<Reloaded, String> {
        let task = tokio::spawn(async move {
            let mut stopped = self.stop.subscribe();
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => Err("the agent is stopping".into()),
                result = self.load_anew() => result,
            }
        });
        task.await.unwrap_or_else(|error| Err(format!("a bug in bongsu ended the reload: {error}")))
    }

    async fn load_anew(&self) -> Result<Reloaded, String> {
        let mut running = self.running.lock().await;
        self.reload_owed.store(false, Ordering::Release);
        let loader = self.loader.clone();
        let loaded = tokio::task::spawn_blocking(move || loader()).await.map_err(|e| e.to_string()).and_then(|r| r);
        let result = match loaded {
            Ok(config) => self.put_in_force(&mut running, config).await,
            Err(mistakes) => Err(mistakes),
        };
        (self.give_back)();
        self.telemetry.reloaded(result.is_ok(), clock::now());
        match &result {
            Ok(counts) => tracing::info!(?counts, "configuration reloaded"),
            Err(mistakes) => tracing::error!("the new configuration is not used; the old one stays:\n{mistakes}"),
        }
        let mut error = self.reload_error.lock().unwrap_or_else(PoisonError::into_inner);
        *error = result.as_ref().err().cloned();
        result
    }

    async fn put_in_force(&self, running: &mut Running, mut config: Config) -> Result<Reloaded, String> {
        let old = running.config.clone();
        if config.store.path != old.store.path
            || config.agent.socket != old.agent.socket
            || config.agent.name != old.agent.name
        {
            return Err(
                "agent.name, agent.socket and store.path cannot change while it runs; restart the service".into()
            );
        }
        // At a start nobody may have written any yet; what is watched is not given up by a directory that is away.
        if let Some(directory) = config.checks_missing.as_ref().filter(|_| !old.checks.is_empty()) {
            let directory = directory.display();
            return Err(format!(
                "{directory} is not there, and the configuration in force has checks; create it, or write `checks: []` \
                 if there are to be none"
            ));
        }
        // Before anything is ended for it.
        if let Some(why) = self.store_trouble().await {
            return Err(self.put_off(&why));
        }
        let net = network(&config).map_err(|e| e.to_string())?;
        share(&old, &mut config);
        let new: HashMap<&CheckName, &str> = config.checks.iter().map(|c| (&c.name, &*c.fingerprint)).collect();
        let mut counts = Reloaded::default();
        running.checks.retain(|_, task| !task.handle.is_finished());
        let names: Vec<CheckName> = running.checks.keys().cloned().collect();
        for name in names {
            match new.get(&name) {
                Some(fingerprint) if running.checks.get(&name).is_some_and(|t| *t.fingerprint == **fingerprint) => {
                    counts.kept += 1;
                    continue;
                }
                Some(_) => counts.changed += 1,
                None => counts.removed += 1,
            }
            running.ending.extend(running.checks.remove(&name));
        }
        counts.added = config.checks.len() - counts.kept - counts.changed;
        let rebuilt = end_channels(running, &config);
        running.end().await;
        let setup = setup(&config, clock::now());
        let answer = heart::ask(&self.jobs, |reply| Job::Reconfigure { setup, rebuilt, reply }).await;
        if let Reply::Failed(why) = answer.map_err(|e: HeartError| e.to_string())? {
            // The store failed in this moment: what was ended goes on as it was.
            self.start_channels(running);
            self.start_checks(running).await;
            return Err(self.put_off(&why));
        }
        running.config = Arc::new(config);
        running.net = net.clone();
        self.sight.reconfigure(running.config.agent.canaries.clone(), net);
        self.start_channels(running);
        self.start_checks(running).await;
        Ok(counts)
    }

    /// Why the store does not write; `None` when it does.
    async fn store_trouble(&self) -> Option<String> {
        match heart::ask(&self.jobs, |reply| Job::Status { reply }).await {
            Ok(Reply::Status(_, trouble)) => trouble.map(|t| t.error),
            _ => None,
        }
    }

    fn put_off(&self, why: &str) -> String {
        self.reload_owed.store(true, Ordering::Release);
        format!("it is put in force as soon as the store writes again, without a further reload: {why}")
    }

    /// Resolves once a reload that was put off can be made.
    pub(super) async fn reload_is_owed(&self) {
        loop {
            tokio::time::sleep(OWED_EVERY).await;
            if self.reload_owed.load(Ordering::Acquire) && self.store_trouble().await.is_none() {
                return;
            }
        }
    }
}

/// Takes the channels that are not the same in a new configuration among those that end; gives the names of those that
/// are built anew.
fn end_channels(running: &mut Running, new: &Config) -> BTreeSet<Name> {
    let is_same = |name: &Name, task: &Task| {
        !task.handle.is_finished() && new.channels.get(name).is_some_and(|c| c.fingerprint == task.fingerprint)
    };
    let ended: Vec<(Name, Task)> = running.channels.extract_if(.., |name, task| !is_same(name, task)).collect();
    let mut rebuilt = BTreeSet::new();
    for (name, task) in ended {
        if new.channels.get(&name).is_some_and(|c| c.fingerprint != task.fingerprint) {
            rebuilt.insert(name);
        }
        running.ending.push(task);
    }
    rebuilt
}

/// Lets a new configuration hold the old one's checks where they are the same: their tasks hold them as well, so there
/// would be two of each.
fn share(old: &Config, new: &mut Config) {
    let known: HashMap<&CheckName, &Arc<Check>> = old.checks.iter().map(|check| (&check.name, check)).collect();
    for check in &mut new.checks {
        if let Some(same) = known.get(&check.name).filter(|known| known.fingerprint == check.fingerprint) {
            *check = (*same).clone();
        }
    }
}
