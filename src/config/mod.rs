//! Configuration: YAML as typed, then resolved into values that cannot be wrong.
//!
//! [`load`] reads `config.yaml` and every check file beside it and tells either one [`Config`] or all [`Mistakes`]
//! at once. The steps, one file each: `document` (text to value), `secrets` (references), `raw` (sections as typed),
//! `settle` (the cascade of settings), `resolve`, `agent`, `checks` and `accounts` (sections and check files into resolved types), `fingerprint` (what a
//! reload leaves alone),
//! `notes` and `positions` (where a mistake stands), `mistakes` (how it is shown), `schema` (the same rules for
//! editors). Nothing here opens a connection or writes a file.

mod accounts;
mod agent;
mod checks;
mod cycles;
mod document;
mod excerpt;
mod fingerprint;
pub mod mistakes;
mod notes;
mod positions;
mod raw;
mod resolve;
mod routes;
pub mod schema;
mod secrets;
mod settle;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;

pub use self::{
    mistakes::{Mistake, Mistakes},
    schema::{Document, schema},
    secrets::{Environment, OsEnvironment},
};
use crate::{
    alert::Route,
    check::{Check, canary::Canary},
    notify::Channel,
    value::{Masker, Name},
};

/// A whole configuration, resolved.
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// All files it came from, in the order they were read.
    pub files: Vec<PathBuf>,
    /// The agent.
    pub agent: Agent,
    /// The store.
    pub store: StoreConfig,
    /// Where alerts go.
    pub channels: BTreeMap<Name, ConfiguredChannel>,
    /// Which incidents go where; when none are written, every incident goes to every channel that is not merely a
    /// fallback, at once.
    pub routes: Vec<Route>,
    /// All checks, by name.
    pub checks: Vec<Arc<Check>>,
    /// The directory of check files that nobody named, if it is not there.
    pub checks_missing: Option<PathBuf>,
    /// Where the status page will listen.
    pub web: Web,
    /// Masks all secrets of this configuration.
    pub masker: Masker,
}

/// How much there is in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Checks.
    pub checks: usize,
    /// Services they belong to.
    pub services: usize,
    /// Channels.
    pub channels: usize,
    /// Routes, those made by default included.
    pub routes: usize,
    /// Files.
    pub files: usize,
}

impl Config {
    /// Counts what there is.
    pub fn summary(&self) -> Summary {
        let services: BTreeSet<Name> = self.checks.iter().map(|check| check.name.service()).collect();
        Summary {
            checks: self.checks.len(),
            services: services.len(),
            channels: self.channels.len(),
            routes: self.routes.len(),
            files: self.files.len(),
        }
    }
}

/// The agent's own settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// The vantage's name; the host's name by default.
    pub name: Name,
    /// Name servers to ask instead of the system's.
    pub nameservers: Vec<SocketAddr>,
    /// Hosts elsewhere by which it learns whether it is itself cut off; none by default.
    pub canaries: Vec<Canary>,
    /// The Unix socket commands use to talk to the daemon. By default `/run/bongsu/bongsu.sock` when that directory
    /// exists and the store is at its default place, else `bongsu.sock` beside the database: two daemons with two
    /// databases have two sockets.
    pub socket: PathBuf,
}

/// The store's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    /// The SQLite file.
    pub path: PathBuf,
    /// How long observations are kept as rows.
    pub keep_raw: Duration,
    /// How long they are kept at all.
    pub keep_blocks: Duration,
    /// How long daily roll-ups, incidents and settled messages are kept.
    pub keep_daily: Duration,
}

/// A channel with its name's settings.
pub struct ConfiguredChannel {
    /// The channel.
    pub channel: Arc<dyn Channel>,
    /// Who gets its messages when it fails.
    pub fallback: Option<Name>,
    /// Tells whether it is still the same after a reload; a digest.
    pub fingerprint: Arc<str>,
}

/// The web listener's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Web {
    /// Address and port.
    pub listen: SocketAddr,
}

/// Where a daemon and its database are: all that commands need of a configuration to talk to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Places {
    /// The agent.
    pub agent: Agent,
    /// The store.
    pub store: StoreConfig,
}

/// Reads only these two sections of `path`. Mistakes elsewhere, and secrets that only the daemon may read, do not
/// matter: an operator must be able to ask a daemon also while its configuration is being edited.
pub fn places(path: &Path, environment: &dyn Environment) -> Result<Places, Mistakes> {
    resolve::places(&config_file(path), environment)
}

/// Loads `path`, a `config.yaml` or the directory that holds one, and all check files it names.
pub fn load(path: &Path, environment: &dyn Environment) -> Result<Config, Mistakes> {
    resolve::load(&config_file(path), environment)
}

fn config_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("config.yaml") } else { path.to_owned() }
}
