//! `icmp`: several pings, how many of them come back, and how soon.
//!
//! Success proves that the way to the host and back works, and that its system answers. It does not prove that any
//! program on it does. A host or a firewall that does not answer pings looks the same as one that is down.
//!
//! The dialogue (RFC 792, RFC 4443): resolve → exchange, which is `count` echo requests with `interval` between them
//! and a reply to each. There is no connection. Of several addresses the first to which there is a route is pinged.
//! A request's time is taken before it leaves; a reply counts when it comes within `wait`, carries the request's
//! sequence, and this attempt's own random bytes. What else comes is passed over, a second reply is a duplicate (one
//! that comes while the attempt lasts; it ends with the last reply). What routers or the target say of a ping that does
//! not arrive is told. Shortly before the attempt's deadline the pings are counted as they stand. Nothing is left on
//! the host.
//!
//! Judged: `failed` when none comes back, or more are lost than `loss_max`; `slow` when some are lost, or the mean
//! round trip takes longer than `rtt_slow`; else `ok`. The check's own `slow` is about the whole attempt, which
//! includes the intervals between the pings.
//!
//! Pings leave by a datagram socket, which needs no privilege but that the process's group is in
//! `net.ipv4.ping_group_range`; else by a raw one, which needs CAP_NET_RAW. When neither is allowed, the outcome is
//! `unknown`: it says nothing about the host.
//!
//! Bounds: [`COUNT_MAX`] pings, [`SIZE_MAX`] bytes each, and `ERRORS_MAX` errors.
//!
//! ```yaml
//! icmp: { url: "icmp://router.example.com", count: 5, loss_max: 40%, rtt_slow: 100ms }
//! ```

#[doc(hidden)]
pub mod fuzz;
mod packet;
mod socket;
mod tally;

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::Deserialize;

use self::{
    packet::Echo,
    socket::{Came, Closed, Pinger, Told, own_kind},
    tally::{Heard, Limits, Tally},
};
use crate::{
    clock,
    observation::{Kind, Phase, Reason, to_ms},
    options::Options,
    protocol::{
        Attempt, Boxed, Probe, Protocol,
        wire::{Address, Scheme, io_text},
    },
    value::{Ratio, TimeSpan},
};

/// Most pings of an attempt: enough to see a loss of five in a hundred; a network that limits pings limits more.
pub const COUNT_MAX: u16 = 100;

/// Fewest bytes of a ping's payload: this attempt's own random bytes.
pub const SIZE_MIN: u16 = 16;

/// Most bytes of a ping's payload: what fits into the largest IPv4 packet (65,535 octets with both headers).
pub const SIZE_MAX: u16 = 65_507;

/// Least time between two pings; less is a flood, which the system keeps for its administrator (ping(8)).
pub const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Longest time between two pings, and longest wait for a reply: an attempt is to end within its timeout.
pub const SPAN_MAX: Duration = Duration::from_secs(60);

/// Errors taken note of in one attempt; who sends more does not mean our pings.
const ERRORS_MAX: usize = 1_000;

/// Time kept before the attempt's deadline, so that what came is judged instead of cut off.
const DEADLINE_MARGIN: Duration = Duration::from_millis(50);

/// Share of a short deadline kept for the same.
const DEADLINE_MARGIN_SHARE: u32 = 10;

// ICMP has no ports; the reader of URLs wants one (that of the echo service), which nobody uses.
const SCHEMES: &[Scheme] = &[Scheme { name: "icmp", port: Some(7), tls: false }];

/// The registry's entry.
pub static ICMP: Protocol = Protocol {
    name: "icmp",
    schemes: &["icmp"],
    summary: "ping a host several times, and count what comes back",
    proves: "The way to the host and back works, and its system answers. It does not prove that any program on it does; \
             a host that does not answer pings looks the same as one that is down.",
    example: "- name: router\n  icmp: { url: \"icmp://router.example.com\", count: 5, loss_max: 40%, rtt_slow: 100ms }\n",
    probe_schema: Some(|generator| generator.subschema_for::<IcmpOptions>()),
    send_schema: None,
    receive_schema: None,
    probe: Some(|options| Some(Box::new(IcmpProbe::build(options)?))),
    send: None,
    receive: None,
};

/// Options of `icmp`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IcmpOptions {
    /// Whom to ping: `icmp://host`.
    pub url: String,
    /// How many pings an attempt sends; 1 to 100, 3 by default.
    #[serde(default = "default_count")]
    #[schemars(range(min = 1, max = 100))]
    pub count: u16,
    /// Time from one ping to the next; 10ms to 60s, 100ms by default.
    #[serde(default = "default_interval")]
    pub interval: TimeSpan,
    /// How long a reply may take; one that comes later is lost. Up to 60s, 1s by default.
    #[serde(default = "default_wait")]
    pub wait: TimeSpan,
    /// Bytes of a ping's payload; 16 to 65507, 56 by default as with ping(8).
    #[serde(default = "default_size")]
    #[schemars(range(min = 16, max = 65_507))]
    pub size: u16,
    /// Share of the pings that may be lost before the attempt has failed; 50% by default. Fewer make it slow.
    #[serde(default = "default_loss_max")]
    pub loss_max: Ratio,
    /// A longer mean round trip makes the attempt slow.
    pub rtt_slow: Option<TimeSpan>,
}

fn default_count() -> u16 {
    3
}

fn default_interval() -> TimeSpan {
    TimeSpan(Duration::from_millis(100))
}

fn default_wait() -> TimeSpan {
    TimeSpan(Duration::from_secs(1))
}

fn default_size() -> u16 {
    56
}

fn default_loss_max() -> Ratio {
    Ratio(0.5)
}

/// A resolved `icmp` probe.
struct IcmpProbe {
    host: String,
    count: u16,
    interval: Duration,
    wait: Duration,
    size: u16,
    limits: Limits,
}

impl IcmpProbe {
    fn build(options: &mut Options<'_>) -> Option<Self> {
        let raw: IcmpOptions = options.read()?;
        let host = host(options, &raw.url);
        let mut good = true;
        let mut within = |options: &mut Options<'_>, key: &str, fits: bool, bounds: String| {
            if !fits {
                good = false;
                options.problem(key, format!("`{key}` is out of bounds"), Some(&bounds));
            }
        };
        within(options, "count", (1..=COUNT_MAX).contains(&raw.count), format!("from 1 to {COUNT_MAX}"));
        within(options, "size", (SIZE_MIN..=SIZE_MAX).contains(&raw.size), format!("from {SIZE_MIN} to {SIZE_MAX}"));
        let spans = format!("from {} to {}", TimeSpan(INTERVAL_MIN), TimeSpan(SPAN_MAX));
        for (key, span) in [("interval", raw.interval), ("wait", raw.wait)] {
            within(options, key, (INTERVAL_MIN..=SPAN_MAX).contains(&span.0), spans.clone());
        }
        let limits = Limits { loss_max: raw.loss_max, rtt_slow: raw.rtt_slow.map(|span| span.0) };
        let (count, interval, wait, size) = (raw.count, raw.interval.0, raw.wait.0, raw.size);
        host.filter(|_| good).map(|host| Self { host, count, interval, wait, size, limits })
    }

    async fn attempt(&self, cx: &mut Attempt) -> Result<(), Reason> {
        let addresses = cx.resolve(&self.host).await?;
        cx.phase(Phase::Exchange);
        let (pinger, ip) = open(cx, &addresses)?;
        cx.detail("ip", ip.to_string());
        cx.detail("socket", pinger.kind());
        let mut tally = Tally::new(self.wait);
        let result = self.ping(cx, &pinger, &mut tally).await;
        cx.end_phase();
        let evidence = tally.evidence();
        cx.detail("sent", evidence.sent);
        cx.detail("received", evidence.received);
        cx.detail("loss", (evidence.loss() * 1e4).round() / 1e4);
        if let Some(trips) = evidence.trips {
            let each = [
                ("rtt_min_ms", trips.min_ms),
                ("rtt_avg_ms", trips.avg_ms),
                ("rtt_max_ms", trips.max_ms),
                ("rtt_mdev_ms", trips.mdev_ms),
            ];
            for (key, value) in each {
                cx.detail(key, (value * 1e3).round() / 1e3);
            }
        }
        let rare = [("duplicates", evidence.duplicates), ("late", evidence.late), ("altered", evidence.altered)];
        for (key, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
            cx.detail(key, count);
        }
        result?;
        evidence.judge(&self.limits).map_err(|(kind, text)| cx.fail(kind, text))
    }

    /// Sends all pings and takes what comes, until nothing is waited for or time is up.
    async fn ping(&self, cx: &mut Attempt, pinger: &Pinger, tally: &mut Tally) -> Result<(), Reason> {
        let token: [u8; SIZE_MIN as usize] = clock::random_bytes();
        let payload: Vec<u8> = token.iter().copied().cycle().take(usize::from(self.size)).collect();
        // One byte more: a reply that is longer than its request must not look like it.
        let mut buffer = vec![0; pinger.header_bytes_max() + payload.len() + 1];
        let begun = clock::instant();
        let end = self.end(cx, begun);
        let mut errors = 0;
        loop {
            let now = clock::instant();
            let next = begun + self.interval * u32::try_from(tally.sent()).unwrap_or(u32::MAX);
            let more = tally.sent() < usize::from(self.count) && next < end;
            if more && next <= now {
                self.send(cx, pinger, tally, &payload).await?;
                continue;
            }
            if !more && tally.settled() {
                return Ok(());
            }
            let until = if more { next } else { tally.lost_at().unwrap_or(end).min(end) };
            if !more && until <= now {
                return Ok(());
            }
            cx.awaits(format!("{} of {} pings answered", tally.received(), tally.sent()));
            tokio::select! {
                biased;
                came = pinger.hear(&mut buffer) => match came.map_err(|e| cx.io(&e))? {
                    Came::Packet(read) => heard(cx, pinger, tally, &buffer[..read], &payload),
                    Came::Errors(list) => {
                        errors += list.len().max(1);
                        if errors > ERRORS_MAX {
                            return Err(cx.fail(Kind::Protocol, format!("more than {ERRORS_MAX} errors came")));
                        }
                        note(cx, tally, list);
                    }
                },
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// When to count, whatever has come.
    fn end(&self, cx: &Attempt, begun: Instant) -> Instant {
        let own = begun + self.interval * u32::from(self.count) + self.wait;
        let deadline = cx.deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(begun);
            deadline - DEADLINE_MARGIN.min(left / DEADLINE_MARGIN_SHARE)
        });
        deadline.map_or(own, |deadline| own.min(deadline))
    }

    async fn send(&self, cx: &mut Attempt, pinger: &Pinger, tally: &mut Tally, payload: &[u8]) -> Result<(), Reason> {
        let sequence = u16::try_from(tally.sent() + 1).unwrap_or(u16::MAX);
        let request = pinger.request(sequence, payload);
        if cx.explains() {
            cx.sent(format!("ping {sequence}, {} bytes", payload.len()));
        }
        // Before it leaves: a reply over loopback is there before the send has returned.
        tally.sends(clock::instant());
        let Err(first) = pinger.send(&request).await else { return Ok(()) };
        // It may have been an earlier ping's error.
        let list = pinger.errors();
        let earlier = !list.is_empty();
        note(cx, tally, list);
        let error = match pinger.send(&request).await {
            Ok(()) => return Ok(()),
            Err(error) if earlier => error,
            Err(_) => first,
        };
        self.unsent(cx, tally, sequence, &error)
    }

    /// A ping that did not leave: for want of something of our own, or of a route.
    fn unsent(&self, cx: &mut Attempt, tally: &mut Tally, sequence: u16, error: &io::Error) -> Result<(), Reason> {
        if own_kind(error) == Kind::Own {
            return Err(cx.fail(Kind::Own, format!("a ping cannot be sent: {}", io_text(error))));
        }
        note(cx, tally, vec![(Some(sequence), Told::own(error))]);
        Ok(())
    }
}

impl Probe for IcmpProbe {
    fn target(&self) -> String {
        match self.host.parse() {
            Ok(IpAddr::V6(address)) => format!("icmp://[{address}]"),
            _ => format!("icmp://{}", self.host),
        }
    }

    fn probe<'a>(&'a self, cx: &'a mut Attempt) -> Boxed<'a, Result<(), Reason>> {
        Box::pin(self.attempt(cx))
    }
}

fn host(options: &mut Options<'_>, text: &str) -> Option<String> {
    let address = Address::read(options, "url", text, SCHEMES)?;
    let url = &address.url;
    let surplus = [
        (url.port().is_some(), "ICMP knows no ports"),
        (address.username.is_some() || address.password.is_some(), "ICMP knows no users"),
        (!address.path.is_empty() || url.query().is_some(), "there is nothing to name beyond the host"),
    ];
    match surplus.iter().find(|(found, _)| *found) {
        Some((_, text)) => {
            options.problem("url", *text, Some("write it as icmp://host"));
            None
        }
        None => Some(address.host),
    }
}

/// A socket to the first of these addresses that there is a route to.
fn open(cx: &mut Attempt, addresses: &[IpAddr]) -> Result<(Pinger, IpAddr), Reason> {
    let mut failure = cx.fail(Kind::NoAddress, "no address to ping");
    for ip in addresses {
        match Pinger::open(*ip, u16::from_le_bytes(clock::random_bytes())) {
            Ok(pinger) => return Ok((pinger, *ip)),
            Err(Closed::Forbidden) => {
                let text = "this process may not ping: its group is not in net.ipv4.ping_group_range (which datagram \
                            sockets need), nor has it CAP_NET_RAW (which raw sockets need)";
                return Err(cx.fail(Kind::Own, text));
            }
            Err(Closed::Failed(error)) => {
                cx.note(format!("{ip}: {}", io_text(&error)));
                failure = cx.fail(own_kind(&error), format!("{ip}: {}", io_text(&error)));
                if failure.kind != Kind::Unreachable {
                    return Err(failure);
                }
            }
        }
    }
    Err(failure)
}

/// A packet from the target: a reply of ours, or anything.
fn heard(cx: &mut Attempt, pinger: &Pinger, tally: &mut Tally, bytes: &[u8], payload: &[u8]) {
    let at = clock::instant();
    let Some(Echo { sequence, payload: came, .. }) = pinger.reply(bytes) else { return };
    if came != payload {
        if usize::from(sequence).wrapping_sub(1) < tally.sent() {
            tally.altered();
            cx.note(format!("a reply to ping {sequence} does not carry what was sent; it is passed over"));
        }
        return;
    }
    let heard = tally.answers(sequence, at);
    if !cx.explains() {
        return;
    }
    match heard {
        Heard::Answer(took) => cx.received(format!("reply {sequence} after {:.3} ms", to_ms(took))),
        Heard::Duplicate => cx.received(format!("reply {sequence} once more")),
        Heard::Late(took) => cx.received(format!("reply {sequence} after {:.3} ms, too late", to_ms(took))),
        Heard::Foreign => {}
    }
}

fn note(cx: &mut Attempt, tally: &mut Tally, errors: Vec<(Option<u16>, Told)>) {
    for (sequence, told) in errors {
        cx.received(&told.text);
        tally.refused(sequence, told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::problems;

    #[test]
    fn mistakes_are_told() {
        let table: [(&str, &[&str]); 8] = [
            ("url: icmp://host", &[]),
            ("{ url: \"icmp://[::1]/\", count: 1, interval: 10ms, wait: 60s, size: 65507, loss_max: 0 }", &[]),
            ("url: icmp://host:7", &["url: ICMP knows no ports (write it as icmp://host)"]),
            ("url: icmp://me@host", &["url: ICMP knows no users (write it as icmp://host)"]),
            ("url: icmp://host/x", &["url: there is nothing to name beyond the host (write it as icmp://host)"]),
            ("url: \"icmp://\"", &["url: the URL names no host (write it as icmp://host)"]),
            ("url: ping://host", &["url: the scheme `ping` does not fit here (known here: icmp)"]),
            (
                "{ url: icmp://host, count: 0, size: 15, interval: 1ms, wait: 2m }",
                &[
                    "count: `count` is out of bounds (from 1 to 100)",
                    "size: `size` is out of bounds (from 16 to 65507)",
                    "interval: `interval` is out of bounds (from 10ms to 1m)",
                    "wait: `wait` is out of bounds (from 10ms to 1m)",
                ],
            ),
        ];
        for (yaml, expected) in table {
            assert_eq!(problems(&ICMP, yaml), expected, "{yaml}");
        }
    }
}
