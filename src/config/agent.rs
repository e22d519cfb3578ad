//! The section `agent`: the vantage, its name servers, its canaries, its socket.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::{
    Agent, StoreConfig,
    notes::{Notes, Place},
    raw::{AGENT_KEYS, RawAgent},
    secrets::Environment,
};
use crate::{
    check::canary::{CANARIES_MAX, Canary},
    value::Name,
};

const SOCKET_DIRECTORY: &str = "/run/bongsu";
const SOCKET_NAME: &str = "bongsu.sock";
/// Longest path of a Unix socket (unix(7): `sun_path`, without its final zero).
const SOCKET_BYTES_MAX: usize = 107;
const NAME_SERVER_PORT: u16 = 53;

/// The section `agent`.
pub(super) fn agent(
    place: &Place<'_>,
    environment: &dyn Environment,
    store: &StoreConfig,
    store_is_default: bool,
    notes: &mut Notes,
) -> Agent {
    let raw: RawAgent = place.read_section(notes, &AGENT_KEYS, "the agent");
    let mut nameservers = Vec::new();
    for (index, text) in raw.nameservers.0.iter().enumerate() {
        let server: Result<SocketAddr, _> =
            text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, NAME_SERVER_PORT)));
        match server {
            Ok(server) if server.port() != 0 => nameservers.push(server),
            Ok(_) | Err(_) => place.child("nameservers").nth(index).note(
                notes,
                format!("`{text}` is no address of a name server"),
                Some(
                    "write an IP address, with a port if it is not 53: 192.0.2.53, 192.0.2.53:5353, [2001:db8::53]:53"
                        .into(),
                ),
            ),
        }
    }
    let socket = match raw.socket {
        Some(socket) => place.document.directory.join(socket),
        None if store_is_default && environment.exists(Path::new(SOCKET_DIRECTORY)) => {
            Path::new(SOCKET_DIRECTORY).join(SOCKET_NAME)
        }
        None => store.path.with_file_name(SOCKET_NAME),
    };
    let length = socket.as_os_str().len();
    if length > SOCKET_BYTES_MAX {
        let text = format!("the socket's path is {length} bytes long; the system takes {SOCKET_BYTES_MAX}");
        place.child("socket").note(
            notes,
            text,
            Some("set `agent.socket` to a shorter path, such as /tmp/b.sock".into()),
        );
    }
    let canaries = canaries(&place.child("canaries"), &raw.canaries.0, notes);
    Agent { name: raw.name.unwrap_or_else(|| host_name(environment)), nameservers, canaries, socket }
}

fn canaries(place: &Place<'_>, urls: &[String], notes: &mut Notes) -> Vec<Canary> {
    let mut found: Vec<Canary> = Vec::new();
    for (index, url) in urls.iter().enumerate() {
        let place = place.nth(index);
        if index == CANARIES_MAX {
            let hint = "two or three on independent networks tell as much";
            place.note(notes, format!("more than {CANARIES_MAX} canaries"), Some(hint.into()));
            break;
        }
        match Canary::from_url(url) {
            Ok(canary) if found.contains(&canary) => {
                let hint = "a canary that is asked twice is no second witness; name another host";
                place.note(notes, format!("the canary {} is named twice", canary.target()), Some(hint.into()));
            }
            Ok(canary) => found.push(canary),
            Err(wrong) => {
                let hint = "write it as tcp://192.0.2.1:443 or dns://198.51.100.1";
                place.note(notes, format!("this canary cannot be asked: {wrong}"), Some(hint.into()));
            }
        }
    }
    found
}

/// The host's name with what a name cannot hold replaced; `bongsu` for a host without one.
fn host_name(environment: &dyn Environment) -> Name {
    let host: String = environment
        .host_name()
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .skip_while(|c| !c.is_alphanumeric())
        .take(Name::CHARS_MAX)
        .collect();
    host.parse().or_else(|_| "bongsu".parse()).expect("`bongsu` is a name")
}
