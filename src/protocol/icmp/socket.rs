//! The socket that pings leave by: datagrams of ICMP where the system lets its users ping, else a raw one.
//!
//! Both are connected, so that only the target's packets come, and both are asked for their error queue, by which the
//! kernel hands over what routers and the target say of a ping that does not arrive (ip(7), `IP_RECVERR`). tokio knows
//! no sockets of ICMP; its UDP type does nothing that is of UDP alone with one that is connected.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::{
    errno::Errno,
    libc::{SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_EE_ORIGIN_LOCAL, sock_extended_err, sockaddr_in, sockaddr_in6},
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use super::packet::{Echo, HEADER_BYTES, Version, quoted};
use crate::{
    observation::Kind,
    protocol::wire::{io_kind, io_text},
};

/// Errors taken from the queue at one time; a flood of them must not keep an attempt from its pings.
const ERRORS_AT_ONCE: usize = 32;

/// What the network, or our own system, said of a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) kind: Kind,
    /// One line with who says it.
    pub(super) text: String,
}

impl Told {
    /// What our own system says.
    pub(super) fn own(error: &io::Error) -> Self {
        Self { kind: own_kind(error), text: format!("own system: {}", io_text(error)) }
    }
}

/// Why no socket is there.
pub(super) enum Closed {
    /// Neither kind is allowed.
    Forbidden,
    /// Another error.
    Failed(io::Error),
}

/// What came.
pub(super) enum Came {
    /// So many bytes.
    Packet(usize),
    /// Errors, each with the sequence of its ping if that is known; none when they were another program's.
    Errors(Vec<(Option<u16>, Told)>),
}

/// An open socket to one target.
pub(super) struct Pinger {
    socket: UdpSocket,
    version: Version,
    raw: bool,
    identifier: u16,
}

impl Pinger {
    /// Opens one. `identifier` is used by a raw socket only; datagrams get theirs from the kernel.
    pub(super) fn open(target: IpAddr, identifier: u16) -> Result<Self, Closed> {
        let (version, domain, protocol) = match target {
            IpAddr::V4(_) => (Version::V4, Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Version::V6, Domain::IPV6, Protocol::ICMPV6),
        };
        let (socket, raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
            Ok(socket) => (socket, false),
            Err(error) if is_forbidden(&error) => match Socket::new(domain, Type::RAW, Some(protocol)) {
                Ok(socket) => (socket, true),
                Err(error) if is_forbidden(&error) => return Err(Closed::Forbidden),
                Err(error) => return Err(Closed::Failed(error)),
            },
            Err(error) => return Err(Closed::Failed(error)),
        };
        Self::set_up(socket, raw, version, target, identifier).map_err(Closed::Failed)
    }

    fn set_up(socket: Socket, raw: bool, version: Version, target: IpAddr, identifier: u16) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        match version {
            Version::V4 => setsockopt(&socket, Ipv4RecvErr, &true)?,
            Version::V6 => setsockopt(&socket, Ipv6RecvErr, &true)?,
        }
        socket.connect(&SocketAddr::new(target, 0).into())?;
        // The identifier of a datagram socket is what would be its port.
        let local = socket.local_addr()?.as_socket().map_or(0, |local| local.port());
        let identifier = if raw { identifier } else { local };
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, version, raw, identifier })
    }

    /// How it pings, for people.
    pub(super) fn kind(&self) -> &'static str {
        if self.raw { "raw" } else { "datagram" }
    }

    /// Longest header before a reply's payload.
    pub(super) fn header_bytes_max(&self) -> usize {
        let below = if self.has_header() { super::packet::IPV4_HEADER_BYTES_MAX } else { 0 };
        below + HEADER_BYTES
    }

    fn has_header(&self) -> bool {
        self.raw && self.version == Version::V4
    }

    /// The bytes of a ping.
    pub(super) fn request(&self, sequence: u16, payload: &[u8]) -> Vec<u8> {
        Echo { identifier: self.identifier, sequence, payload }.request(self.version)
    }

    /// Sends a ping. An error may be that of an earlier one: the kernel tells it to whoever calls next.
    pub(super) async fn send(&self, request: &[u8]) -> io::Result<()> {
        self.socket.send(request).await.map(|_| ())
    }

    /// Waits for a packet or an error. Safe to drop.
    pub(super) async fn hear(&self, buffer: &mut [u8]) -> io::Result<Came> {
        loop {
            let ready = self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_error() {
                return Ok(Came::Errors(self.errors()));
            }
            match self.socket.try_recv(buffer) {
                Ok(read) => return Ok(Came::Packet(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    let mut errors = self.errors();
                    if errors.is_empty() && own_kind(&error) == Kind::Own {
                        return Err(error);
                    }
                    if errors.is_empty() {
                        errors.push((None, Told::own(&error)));
                    }
                    return Ok(Came::Errors(errors));
                }
            }
        }
    }

    /// The echo reply in these bytes, if it is one of ours.
    pub(super) fn reply<'b>(&self, bytes: &'b [u8]) -> Option<Echo<'b>> {
        let echo = super::packet::reply(self.version, self.has_header(), bytes)?;
        // The kernel has compared the identifier of a datagram socket.
        (!self.raw || echo.identifier == self.identifier).then_some(echo)
    }

    /// Takes what is in the error queue, and what belongs to our pings from it.
    pub(super) fn errors(&self) -> Vec<(Option<u16>, Told)> {
        let mut errors = Vec::new();
        for _ in 0..ERRORS_AT_ONCE {
            match self.socket.try_io(Interest::ERROR, || self.error().map_err(io::Error::from)) {
                Ok(error) => errors.extend(error),
                Err(_) => break,
            }
        }
        errors
    }

    /// The next of the error queue; `None` when it is about another program's ping.
    fn error(&self) -> Result<Option<(Option<u16>, Told)>, Errno> {
        let mut quote = [0; HEADER_BYTES];
        let mut control = nix::cmsg_space!(sock_extended_err, sockaddr_in6);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let mut parts = [IoSliceMut::new(&mut quote)];
        let message = recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let mut found = None;
        for part in message.cmsgs()? {
            found = match part {
                ControlMessageOwned::Ipv4RecvErr(error, from) => Some((error, from.and_then(v4))),
                ControlMessageOwned::Ipv6RecvErr(error, from) => Some((error, from.and_then(v6))),
                _ => found,
            };
        }
        let length = message.bytes;
        let Some((error, from)) = found else { return Ok(None) };
        match quoted(self.version, &quote[..length.min(HEADER_BYTES)]) {
            Some((identifier, _)) if identifier != self.identifier => Ok(None),
            ours => Ok(Some((ours.map(|(_, sequence)| sequence), told(&error, from)))),
        }
    }
}

fn v4(from: sockaddr_in) -> Option<IpAddr> {
    // AF_UNSPEC stands for nobody: the error is the system's own.
    (from.sin_family != 0).then(|| IpAddr::V4(SockaddrIn::from(from).ip()))
}

fn v6(from: sockaddr_in6) -> Option<IpAddr> {
    (from.sin6_family != 0).then(|| IpAddr::V6(SockaddrIn6::from(from).ip()))
}

/// Whether it is for want of a permission, or of the kind of socket.
fn is_forbidden(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32)
}

/// As [`io_kind`], where a route tells more: one that is a black hole refuses as an invalid argument, and without IPv6
/// on the machine its addresses are "not available".
pub(super) fn own_kind(error: &io::Error) -> Kind {
    match (error.raw_os_error(), error.kind()) {
        (Some(code), _) if code == Errno::EAFNOSUPPORT as i32 => Kind::Unreachable,
        (_, io::ErrorKind::InvalidInput | io::ErrorKind::AddrNotAvailable) => Kind::Unreachable,
        (Some(code), _) if code == Errno::EMSGSIZE as i32 => Kind::TooLarge,
        _ => io_kind(error),
    }
}

/// The error in words (RFC 792; RFC 1812, section 5.2.7; RFC 4443).
fn told(error: &sock_extended_err, from: Option<IpAddr>) -> Told {
    let (kind, words) = match (error.ee_origin, error.ee_type, error.ee_code) {
        (SO_EE_ORIGIN_ICMP, 3, code) => match code {
            0 | 6 | 11 => (Kind::Unreachable, "network unreachable".into()),
            1 | 7 | 12 => (Kind::Unreachable, "host unreachable".into()),
            2 => (Kind::Unreachable, "protocol unreachable".into()),
            3 => (Kind::Unreachable, "port unreachable".into()),
            4 => (Kind::TooLarge, format!("too large for the way (MTU {})", error.ee_info)),
            9 | 10 | 13 => (Kind::Rejected, "administratively prohibited".into()),
            code => (Kind::Unreachable, format!("destination unreachable, code {code}")),
        },
        (SO_EE_ORIGIN_ICMP, 11, _) | (SO_EE_ORIGIN_ICMP6, 3, _) => {
            (Kind::Unreachable, "time to live exceeded on the way".into())
        }
        (SO_EE_ORIGIN_ICMP6, 1, code) => match code {
            0 => (Kind::Unreachable, "no route to the destination".into()),
            1 | 5 | 6 => (Kind::Rejected, "administratively prohibited".into()),
            3 => (Kind::Unreachable, "host unreachable".into()),
            4 => (Kind::Unreachable, "port unreachable".into()),
            code => (Kind::Unreachable, format!("destination unreachable, code {code}")),
        },
        (SO_EE_ORIGIN_ICMP6, 2, _) => (Kind::TooLarge, format!("too large for the way (MTU {})", error.ee_info)),
        (SO_EE_ORIGIN_ICMP | SO_EE_ORIGIN_ICMP6, kind, code) => {
            (Kind::Protocol, format!("ICMP type {kind}, code {code}"))
        }
        _ => {
            let code = i32::try_from(error.ee_errno).unwrap_or(0);
            let error = io::Error::from_raw_os_error(code);
            (own_kind(&error), io_text(&error))
        }
    };
    let who = match from {
        Some(from) => format!("{from} says"),
        None if error.ee_origin == SO_EE_ORIGIN_LOCAL => "own system".into(),
        None => "the network says".into(),
    };
    Told { kind, text: format!("{who}: {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extended(origin: u8, kind: u8, code: u8) -> sock_extended_err {
        sock_extended_err {
            ee_errno: Errno::EHOSTUNREACH as u32,
            ee_origin: origin,
            ee_type: kind,
            ee_code: code,
            ee_pad: 0,
            ee_info: 1_280,
            ee_data: 0,
        }
    }

    #[test]
    fn errors_are_told_in_words() {
        let router: IpAddr = "192.0.2.254".parse().expect("an address");
        let table = [
            (SO_EE_ORIGIN_ICMP, 3, 1, Kind::Unreachable, "192.0.2.254 says: host unreachable"),
            (SO_EE_ORIGIN_ICMP, 3, 0, Kind::Unreachable, "192.0.2.254 says: network unreachable"),
            (SO_EE_ORIGIN_ICMP, 3, 13, Kind::Rejected, "192.0.2.254 says: administratively prohibited"),
            (SO_EE_ORIGIN_ICMP, 3, 4, Kind::TooLarge, "192.0.2.254 says: too large for the way (MTU 1280)"),
            (SO_EE_ORIGIN_ICMP, 3, 99, Kind::Unreachable, "192.0.2.254 says: destination unreachable, code 99"),
            (SO_EE_ORIGIN_ICMP, 11, 0, Kind::Unreachable, "192.0.2.254 says: time to live exceeded on the way"),
            (SO_EE_ORIGIN_ICMP, 12, 0, Kind::Protocol, "192.0.2.254 says: ICMP type 12, code 0"),
            (SO_EE_ORIGIN_ICMP6, 1, 0, Kind::Unreachable, "192.0.2.254 says: no route to the destination"),
            (SO_EE_ORIGIN_ICMP6, 1, 1, Kind::Rejected, "192.0.2.254 says: administratively prohibited"),
            (SO_EE_ORIGIN_ICMP6, 2, 0, Kind::TooLarge, "192.0.2.254 says: too large for the way (MTU 1280)"),
            (SO_EE_ORIGIN_ICMP6, 3, 0, Kind::Unreachable, "192.0.2.254 says: time to live exceeded on the way"),
        ];
        for (origin, kind, code, expected, text) in table {
            let told = told(&extended(origin, kind, code), Some(router));
            assert_eq!((told.kind, told.text.as_str()), (expected, text));
        }
        let own = told(&extended(SO_EE_ORIGIN_LOCAL, 0, 0), None);
        assert_eq!((own.kind, own.text.as_str()), (Kind::Unreachable, "own system: host unreachable"));
    }
}
