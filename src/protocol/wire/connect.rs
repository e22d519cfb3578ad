//! TCP: every address of a name, in a staggered race, so that one dead family costs a quarter of a second and is
//! told (RFC 8305, Happy Eyeballs).

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::net::TcpStream;

use super::{Attempt, Endpoint, Stream};
use crate::observation::{Kind, Phase, Reason};

/// Wait before the next address is tried beside the ones still silent (RFC 8305, section 5: 250 ms).
pub const STAGGER: Duration = Duration::from_millis(250);

/// Most addresses of one name that are tried: a name with hundreds of them must not open hundreds of sockets.
pub const ADDRESSES_MAX: usize = 16;

// Errors of the agent's own that `io::ErrorKind` does not tell; the numbers are Linux's.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;

impl Attempt {
    /// Resolves and connects. The phases `resolve` and `connect` are timed; the caller begins the next one.
    ///
    /// # Errors
    /// When the name has no address, or none of its addresses accepts.
    pub async fn connect(&mut self, host: &str, port: u16) -> Result<Stream, Reason> {
        let addresses = self.resolve(host).await?;
        let addresses: Vec<SocketAddr> = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        if let Some(stand_in) = &self.net.stand_in {
            let stream = stand_in();
            self.phase(Phase::Connect);
            return Ok(stream);
        }
        Ok(Box::new(self.connect_any(&addresses).await?))
    }

    /// Resolves, connects and, if the endpoint wants it, makes the TLS handshake.
    ///
    /// # Errors
    /// As [`Attempt::connect`] and [`Attempt::tls`].
    pub async fn dial(&mut self, endpoint: &Endpoint) -> Result<Stream, Reason> {
        let stream = self.connect(&endpoint.host, endpoint.port).await?;
        match &endpoint.tls {
            Some(tls) => self.tls(stream, tls, &endpoint.host).await,
            None => Ok(stream),
        }
    }

    /// Connects to the first of these addresses that accepts, the next one joining after `STAGGER` or as soon as
    /// the one before has failed.
    ///
    /// # Errors
    /// When none accepts; the reason names each.
    pub async fn connect_any(&mut self, addresses: &[SocketAddr]) -> Result<TcpStream, Reason> {
        self.phase(Phase::Connect);
        let mut waiting = addresses.iter().copied().take(ADDRESSES_MAX);
        let mut running = FuturesUnordered::new();
        let mut failures: Vec<(SocketAddr, io::Error)> = Vec::new();
        let mut next = waiting.next();
        loop {
            if let Some(address) = next.take() {
                self.set_address(address);
                self.note(format!("connecting to {address}"));
                running.push(async move { (address, TcpStream::connect(address).await) });
            }
            let more = waiting.len() > 0;
            tokio::select! {
                biased;
                done = running.next() => match done {
                    Some((address, Ok(stream))) => {
                        self.set_address(address);
                        self.end_phase();
                        self.note(format!("connected to {address}"));
                        // Without it a small request waits for the acknowledgement of the one before. Where the
                        // system cannot, nothing breaks.
                        let _ = stream.set_nodelay(true);
                        return Ok(stream);
                    }
                    Some((address, Err(error))) => {
                        self.note(format!("{address}: {}", io_text(&error)));
                        failures.push((address, error));
                        next = waiting.next();
                    }
                    None => return Err(self.unconnected(&failures)),
                },
                () = tokio::time::sleep(STAGGER), if more => next = waiting.next(),
            }
        }
    }

    fn unconnected(&self, failures: &[(SocketAddr, io::Error)]) -> Reason {
        match failures {
            [] => self.fail(Kind::NoAddress, "no address to connect to"),
            [(address, error)] => self.fail(connect_kind(address, error), format!("{address}: {}", io_text(error))),
            several => {
                // What a family nobody has set up says (unreachable) tells less than what the other one says.
                let rank = |kind: &Kind| match kind {
                    Kind::Own => 0,
                    Kind::Unreachable => 2,
                    _ => 1,
                };
                let kind = several.iter().map(|(a, e)| connect_kind(a, e)).min_by_key(rank).unwrap_or(Kind::Refused);
                let each: Vec<String> = several
                    .iter()
                    .map(|(address, error)| {
                        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                        format!("{family} {address}: {}", io_text(error))
                    })
                    .collect();
                self.fail(kind, each.join("; "))
            }
        }
    }
}

/// As [`io_kind`], where the address tells more: without IPv6 on the machine, its addresses are "not available".
fn connect_kind(address: &SocketAddr, error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable if address.is_ipv6() => Kind::Unreachable,
        _ => io_kind(error),
    }
}

/// The class of an error of a stream.
pub fn io_kind(error: &io::Error) -> Kind {
    use io::ErrorKind as E;
    if matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS)) {
        return Kind::Own;
    }
    match error.kind() {
        E::ConnectionRefused => Kind::Refused,
        E::ConnectionReset | E::ConnectionAborted => Kind::Reset,
        E::NetworkUnreachable | E::HostUnreachable | E::NetworkDown | E::Unsupported => Kind::Unreachable,
        E::UnexpectedEof | E::BrokenPipe | E::NotConnected | E::WriteZero => Kind::Closed,
        E::TimedOut => Kind::Timeout,
        E::OutOfMemory | E::AddrNotAvailable | E::PermissionDenied => Kind::Own,
        _ => Kind::Protocol,
    }
}

/// The same in words.
pub fn io_text(error: &io::Error) -> String {
    use io::ErrorKind as E;
    let words = match (error.raw_os_error(), error.kind()) {
        (Some(EMFILE), _) => "the agent has no file descriptor left (EMFILE); raise LimitNOFILE",
        (Some(ENFILE), _) => "the system has no file descriptor left (ENFILE)",
        (Some(ENOBUFS), _) => "the system has no buffers left (ENOBUFS)",
        (_, E::OutOfMemory) => "the system has no memory left (ENOMEM)",
        (_, E::AddrNotAvailable) => "no local address or port left to connect from (EADDRNOTAVAIL)",
        (_, E::PermissionDenied) => "the agent's own system does not permit this connection",
        (_, E::ConnectionRefused) => "connection refused",
        (_, E::ConnectionReset | E::ConnectionAborted) => "the peer reset the connection",
        (_, E::NetworkUnreachable) => "network unreachable",
        (_, E::HostUnreachable) => "host unreachable",
        (_, E::NetworkDown) => "network down",
        (_, E::UnexpectedEof | E::BrokenPipe | E::NotConnected | E::WriteZero) => "the peer closed the connection",
        (_, E::TimedOut) => "the connection timed out",
        _ => return error.to_string(),
    };
    words.into()
}
