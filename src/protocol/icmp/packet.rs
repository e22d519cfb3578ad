//! Echo requests, echo replies and what errors quote of a request, as bytes (RFC 792, RFC 4443).

/// Octets of an echo message before its payload.
pub(super) const HEADER_BYTES: usize = 8;

/// Longest header of an IPv4 packet, which raw sockets hand over with what it carries (RFC 791, section 3.1).
pub(super) const IPV4_HEADER_BYTES_MAX: usize = 60;

/// Octets of an IPv4 header without options.
const IPV4_HEADER_BYTES_MIN: usize = 20;

/// ICMP's number among the protocols above IPv4.
const IPV4_PROTOCOL_ICMP: u8 = 1;

/// The numbers that differ between the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// ICMP (RFC 792).
    V4,
    /// ICMPv6 (RFC 4443).
    V6,
}

impl Version {
    fn request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    fn reply(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }
}

/// What an echo message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo<'a> {
    /// By what one program's pings differ from another's. The kernel sets it for datagram sockets.
    pub(super) identifier: u16,
    /// Which ping of the program.
    pub(super) sequence: u16,
    /// What must come back unchanged.
    pub(super) payload: &'a [u8],
}

impl Echo<'_> {
    /// The request in bytes. The checksum of ICMPv6 covers addresses that only the kernel knows, which fills it in.
    pub(super) fn request(&self, version: Version) -> Vec<u8> {
        let mut bytes = vec![version.request(), 0, 0, 0];
        bytes.extend(self.identifier.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.payload);
        if version == Version::V4 {
            let sum = checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

/// The echo reply these bytes are, if they are one. `has_header`: an IPv4 header stands before it.
pub(super) fn reply(version: Version, has_header: bool, bytes: &[u8]) -> Option<Echo<'_>> {
    let message = if has_header { without_header(bytes)? } else { bytes };
    let echo = echo(version.reply(), message)?;
    // The kernel checks it for datagram sockets and for all of ICMPv6; raw sockets of IPv4 see packets before that.
    (!has_header || checksum(message) == 0).then_some(echo)
}

/// Identifier and sequence of the request that an error quotes. Routers must quote eight octets and may leave the rest
/// out.
pub(super) fn quoted(version: Version, bytes: &[u8]) -> Option<(u16, u16)> {
    let echo = echo(version.request(), bytes)?;
    Some((echo.identifier, echo.sequence))
}

fn echo(kind: u8, message: &[u8]) -> Option<Echo<'_>> {
    let (header, payload) = message.split_at_checked(HEADER_BYTES)?;
    let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let fits = header[0] == kind && header[1] == 0;
    fits.then(|| Echo { identifier: number(4), sequence: number(6), payload })
}

fn without_header(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    let proper = packet[0] >> 4 == 4 && length >= IPV4_HEADER_BYTES_MIN && *packet.get(9)? == IPV4_PROTOCOL_ICMP;
    proper.then(|| packet.get(length..)).flatten()
}

/// The Internet checksum (RFC 1071); zero over bytes that hold their own.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u64 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("the carries are folded in")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request as its target sends it back.
    fn echoed(version: Version, request: &[u8]) -> Vec<u8> {
        let mut bytes = request.to_vec();
        bytes[0] = version.reply();
        bytes[2..4].fill(0);
        let sum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// A header of so many octets, as raw sockets hand it over.
    fn with_header(words: u8, protocol: u8, message: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; usize::from(words) * 4];
        packet[0] = 0x40 | words;
        packet[9] = protocol;
        packet.extend(message);
        packet
    }

    #[test]
    fn the_checksum_is_the_internets() {
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0xff]), !0xff00);
    }

    #[test]
    fn only_replies_are_replies() {
        let ping = Echo { identifier: 0x1234, sequence: 7, payload: b"payload" };
        let v4 = ping.request(Version::V4);
        let good = echoed(Version::V4, &v4);
        let mut other_code = good.clone();
        other_code[1] = 1;
        let mut altered = good.clone();
        altered[10] ^= 1;
        let v6 = ping.request(Version::V6);
        assert_eq!(v6[..4], [128, 0, 0, 0]);
        let table: [(&str, Version, bool, Vec<u8>, bool); 12] = [
            ("reply", Version::V4, false, good.clone(), true),
            ("reply, IPv6", Version::V6, false, echoed(Version::V6, &v6), true),
            ("the request itself", Version::V4, false, v4, false),
            ("of the other family", Version::V6, false, good.clone(), false),
            ("another code", Version::V4, false, other_code, false),
            ("raw", Version::V4, true, with_header(5, 1, &good), true),
            ("raw, with options", Version::V4, true, with_header(15, 1, &good), true),
            ("raw, altered", Version::V4, true, with_header(5, 1, &altered), false),
            ("raw, UDP", Version::V4, true, with_header(5, 17, &good), false),
            ("raw, too short a header", Version::V4, true, with_header(4, 1, &good), false),
            ("raw, cut within its header", Version::V4, true, with_header(15, 1, &[])[..30].to_vec(), false),
            ("nothing", Version::V4, true, vec![], false),
        ];
        for (what, version, has_header, bytes, expected) in table {
            let found = reply(version, has_header, &bytes);
            assert_eq!(found, expected.then_some(ping), "{what}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            for version in [Version::V4, Version::V6] {
                for has_header in [false, true] {
                    let _ = reply(version, has_header, &bytes);
                }
                let _ = quoted(version, &bytes);
            }
        }

        #[test]
        fn what_is_sent_is_found_again(identifier: u16, sequence: u16, payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let ping = Echo { identifier, sequence, payload: &payload };
            for version in [Version::V4, Version::V6] {
                let request = ping.request(version);
                prop_assert_eq!(quoted(version, &request[..HEADER_BYTES]), Some((identifier, sequence)));
                let reply_bytes = echoed(version, &request);
                prop_assert_eq!(reply(version, false, &reply_bytes), Some(ping));
            }
            let raw = with_header(5, 1, &echoed(Version::V4, &ping.request(Version::V4)));
            prop_assert_eq!(reply(Version::V4, true, &raw), Some(ping));
        }
    }
}
