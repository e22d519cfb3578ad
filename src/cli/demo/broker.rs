//! A small MQTT broker on a loopback port, with faults that can be switched while it runs.
//!
//! It speaks MQTT 3.1.1 and 5 over real sockets: CONNECT with or without a login, SUBSCRIBE with `+` and `#`,
//! PUBLISH at QoS 0 to 2, retained messages, session take-over, keep-alive. Left out, because a demo and a test of
//! faults need none of it: sessions that outlive their connection, wills, shared subscriptions, subscription
//! identifiers; whoever asks for the last two is refused in the protocol's own way.
//!
//! What makes it worth having is [`Fault`]: a broker that takes a message and drops it, or delivers it twice and
//! ten seconds late, looks healthy to everything that only knocks at the port.
//!
//! Everything is bounded: connections, packets, subscriptions, retained and waiting messages. What exceeds a bound
//! is refused or dropped, and counted.

mod hub;
mod session;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub use self::hub::Counts;
use self::hub::Hub;

/// Most connections at a time; a demo has a handful, a test of faults some dozens.
const CONNECTIONS_MAX: usize = 256;

/// How long a refused `accept` (no descriptors left) is waited out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the broker misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fault {
    /// Not at all.
    #[default]
    Healthy,
    /// Acknowledges every message and delivers none.
    DropSilently,
    /// Acknowledges every message and keeps it; the latest of them arrive together with the first message that is
    /// delivered again.
    Withhold,
    /// Delivers every message this much later.
    Delay(Duration),
    /// Delivers every message this many times, each copy after the first a little later.
    Duplicate(u32),
    /// Both: this many copies, this much later.
    DelayAndDuplicate(Duration, u32),
    /// Refuses every login; sessions that are logged in go on.
    RefuseLogin,
    /// Turns away this many of every ten logins as "server unavailable"; sessions that are logged in go on.
    Overload(u32),
    /// Accepts connections and answers nothing, on new and old ones.
    Freeze,
}

/// Who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: String,
}

/// A running broker; dropping it ends it and all its connections.
pub struct Broker {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What all connections share.
struct Shared {
    hub: Mutex<Hub>,
    fault: watch::Sender<Fault>,
    login: Option<Login>,
}

impl Shared {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        // The hub's methods leave it consistent at every point where they could panic.
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Starts a broker on a free loopback port. With a login, nobody else is let in.
    pub async fn start(login: Option<Login>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let fault = watch::Sender::new(Fault::Healthy);
        let shared = Arc::new(Shared { hub: Mutex::default(), fault, login });
        let task = tokio::spawn(serve(listener, shared.clone()));
        Ok(Self { address, shared, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Switches the fault, for new and for existing connections.
    pub fn set_fault(&self, fault: Fault) {
        self.shared.hub().set_fault(fault);
        self.shared.fault.send_replace(fault);
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.shared.hub().counts()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections until it is dropped; the connections end with it.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    // Packets are small and each is waited for; a socket that refuses this is slower, not wrong.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(session::run(stream, shared.clone()));
                }
                // Dropping the stream is the refusal.
                Ok(_) => shared.hub().count_refused(),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests;
