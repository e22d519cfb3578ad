//! Configuration: YAML as typed, then resolved into values that cannot be wrong.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    alert::Route,
    check::Check,
    notify::Channel,
    value::{Masker, Name},
};

/// A whole configuration, resolved.
pub struct Config {
    /// The file it came from, and where relative names start.
    pub path: PathBuf,
    /// The agent.
    pub agent: Agent,
    /// The store.
    pub store: StoreConfig,
    /// Where alerts go.
    pub channels: BTreeMap<Name, ConfiguredChannel>,
    /// Which incidents go where; when none are written, every incident goes to every channel that is not merely a fallback, at once.
    pub routes: Vec<Route>,
    /// All checks, by name.
    pub checks: Vec<Arc<Check>>,
    /// Where the status page will listen.
    pub web: Web,
    /// Masks all secrets of this configuration.
    pub masker: Masker,
}

/// The agent's own settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// The vantage's name; the host's name by default.
    pub name: Name,
    /// Name servers to ask instead of the system's.
    pub nameservers: Vec<SocketAddr>,
    /// The Unix socket commands use to talk to the daemon.
    pub socket: PathBuf,
}

/// The store's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    /// The SQLite file.
    pub path: PathBuf,
    /// How long raw observations are kept.
    pub keep_raw: Duration,
    /// How long daily roll-ups, incidents and settled messages are kept.
    pub keep_daily: Duration,
}

/// A channel with its name's settings.
pub struct ConfiguredChannel {
    /// The channel.
    pub channel: Arc<dyn Channel>,
    /// Who gets its messages when it fails.
    pub fallback: Option<Name>,
}

/// The web listener's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Web {
    /// Address and port.
    pub listen: SocketAddr,
}

#[allow(unused)]
fn _unused(_: IpAddr) {}
