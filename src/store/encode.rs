//! How values become columns: observation numbers, small integers for words, phases as bytes, evidence as JSON.
//!
//! Pure. What is kept of an observation depends on what it says. Anything that is not a plain `ok` is kept to the
//! microsecond with all its evidence. A plain `ok` probe (no reason, no message) keeps its time and duration
//! exactly, its phases to 4 % and laid end to end, and its evidence without measurements (numbers whose name ends
//! in `_ms`): enough to compare an outage with what came before, at a third of the size.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::Fault;
use crate::{
    observation::{
        Accept, AccountSeen, Correction, DETAILS_MAX, Fate, Integrity, Observation, Outcome, Phase, PhaseTime, Reason,
        Reconnection, Side, TlsFacts,
    },
    value::Timestamp,
};

/// Bits of an observation's number below its time: 256 attempts may begin in the same millisecond, and a number takes
/// seven bytes.
pub(super) const SLOT_BITS: u32 = 8;

/// Latest instant a number can hold (year 6429), so that shifting never overflows.
const AT_MS_MAX: i64 = (1 << 47) - 1;

/// Milliseconds of a UTC day (Unix time has no leap seconds).
pub(super) const DAY_MS: i64 = 86_400_000;

/// Longest JSON kept as the evidence of one observation: 24 details of a few hundred bytes fit; a hostile server
/// cannot fill the disk with more.
const EVIDENCE_BYTES_MAX: usize = 16 * 1024;

const FATES: [Fate; 6] = [Fate::Arrived, Fate::Late, Fate::Pending, Fate::Lost, Fate::Unsent, Fate::Uncertain];
const ACCEPTS: [Accept; 5] =
    [Accept::Accepted, Accept::Rejected, Accept::Unreachable, Accept::Uncertain, Accept::Deferred];
const INTEGRITIES: [Integrity; 5] =
    [Integrity::Equal, Integrity::Normalised, Integrity::Transcoded, Integrity::Truncated, Integrity::Corrupt];

/// The first number an observation of this instant can have.
pub(super) fn first_id(at: Timestamp) -> i64 {
    at.as_millis().clamp(0, AT_MS_MAX) << SLOT_BITS
}

/// The instant of an observation's number.
pub(super) fn at_of(id: i64) -> Timestamp {
    Timestamp::from_millis(id >> SLOT_BITS)
}

/// The UTC day of an instant, counted from 1970-01-01.
pub(super) fn day_of(at: Timestamp) -> i64 {
    at.as_millis().clamp(0, AT_MS_MAX) / DAY_MS
}

/// The first number an observation of this day can have.
pub(super) fn first_id_of_day(day: i64) -> i64 {
    first_id(Timestamp::from_millis(day.saturating_mul(DAY_MS)))
}

/// The day of a number.
pub(super) fn day_of_id(id: i64) -> i64 {
    (id >> SLOT_BITS) / DAY_MS
}

/// The number of a word, its position in `all`.
fn code<T: PartialEq>(all: &[T], value: &T) -> i64 {
    all.iter().position(|v| v == value).map_or(i64::MAX, |i| i as i64)
}

fn word<T: Copy>(all: &[T], code: i64, what: &str) -> Result<T, Fault> {
    usize::try_from(code)
        .ok()
        .and_then(|i| all.get(i).copied())
        .ok_or_else(|| Fault::Inconsistent(format!("{code} is no {what}")))
}

pub(super) fn outcome_code(outcome: Outcome) -> i64 {
    code(&Outcome::ALL, &outcome)
}

pub(super) fn outcome_of(code: i64) -> Result<Outcome, Fault> {
    word(&Outcome::ALL, code, "outcome")
}

pub(super) fn fate_code(fate: Fate) -> i64 {
    code(&FATES, &fate)
}

pub(super) fn fate_of(code: i64) -> Result<Fate, Fault> {
    word(&FATES, code, "fate")
}

pub(super) fn accept_code(accept: Accept) -> i64 {
    code(&ACCEPTS, &accept)
}

pub(super) fn accept_of(code: i64) -> Result<Accept, Fault> {
    word(&ACCEPTS, code, "acceptance")
}

pub(super) fn integrity_code(integrity: Integrity) -> i64 {
    code(&INTEGRITIES, &integrity)
}

pub(super) fn integrity_of(code: i64) -> Result<Integrity, Fault> {
    word(&INTEGRITIES, code, "integrity")
}

/// Most microseconds beside an outcome in one number.
const VERDICT_US_MAX: i64 = i64::MAX >> 2;

/// An outcome and a latency as one number.
pub(super) fn verdict(outcome: Outcome, latency: Duration) -> i64 {
    (to_us(latency).min(VERDICT_US_MAX) << 2) | outcome_code(outcome)
}

/// The inverse of [`verdict`]: the outcome, and the latency in microseconds.
pub(super) fn verdict_parts(verdict: i64) -> Result<(Outcome, i64), Fault> {
    Ok((outcome_of(verdict & 3)?, verdict >> 2))
}

/// Slots of an observation's number told in few bits.
const NEAR_SLOTS: i64 = 8;

/// What leads from one observation's number to that of the one stored before it, as the migration to version 3 tells.
pub(super) fn link(id: i64, previous: i64) -> i64 {
    let ms = (id >> SLOT_BITS) - (previous >> SLOT_BITS);
    let slot = previous & ((1 << SLOT_BITS) - 1);
    // Instants have 47 bits, so this fits exactly.
    if slot < NEAR_SLOTS { (ms * NEAR_SLOTS + slot) << 1 } else { (((ms << SLOT_BITS) + slot) << 1) + 1 }
}

/// The number that a link leads to.
pub(super) fn linked(id: i64, link: i64) -> i64 {
    let (ms, slot) = match link & 1 {
        0 => (link >> 4, (link >> 1) & (NEAR_SLOTS - 1)),
        _ => (link >> (SLOT_BITS + 1), (link >> 1) & ((1 << SLOT_BITS) - 1)),
    };
    (id >> SLOT_BITS).wrapping_sub(ms).wrapping_shl(SLOT_BITS) | slot
}

/// Microseconds of a column.
pub(super) fn to_us(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// The inverse of [`to_us`]; a negative column reads as zero.
pub(super) fn from_us(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

/// Whether an observation is one of the many that say nothing but "fine".
pub(super) fn is_plain(o: &Observation) -> bool {
    o.outcome == Outcome::Ok && o.reason.is_none() && o.delivery.is_none()
}

// ---------------------------------------------------------------------------------------------------------------
// Evidence

#[derive(Default, Serialize, Deserialize)]
struct Evidence {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<TlsFacts>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    login: Option<Reason>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reconnections: Vec<Reconnection>,
    account: Option<AccountSeen>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    details: Map<String, Value>,
}

/// The evidence of an observation as JSON; `None` when there is none. Beyond [`EVIDENCE_BYTES_MAX`] the details are
/// dropped and named as such, then everything but the reason.
pub(super) fn evidence_json(o: &Observation) -> Result<Option<String>, Fault> {
    let mut evidence = Evidence {
        reason: o.reason.clone(),
        address: o.address,
        tls: o.tls.clone(),
        left_out: o.delivery.as_ref().map(|d| d.left_out.clone()).unwrap_or_default(),
        login: o.delivery.as_ref().and_then(|d| d.login.as_ref()?.reason.clone()),
        reconnections: o.delivery.as_ref().map(|d| d.reconnections.clone()).unwrap_or_default(),
        account: o.account.clone(),
        details: o.details.clone(),
    };
    if is_plain(o) {
        evidence.details.retain(|name, value| !(value.is_number() && name.ends_with("_ms")));
    }
    let mut json = to_json(&evidence)?;
    if json.len() > EVIDENCE_BYTES_MAX {
        evidence.details = Map::from_iter([("dropped_bytes".to_owned(), Value::from(json.len()))]);
        json = to_json(&evidence)?;
    }
    if json.len() > EVIDENCE_BYTES_MAX {
        let Evidence { reason, address, account, .. } = evidence;
        evidence = Evidence { reason, address, account, ..Evidence::default() };
        json = to_json(&evidence)?;
    }
    Ok((json != "{}").then_some(json))
}

/// Puts the evidence back into an observation.
pub(super) fn read_evidence(json: &str, o: &mut Observation) -> Result<(), Fault> {
    let evidence: Evidence = from_json(json, "evidence")?;
    (o.reason, o.address, o.tls, o.details) = (evidence.reason, evidence.address, evidence.tls, evidence.details);
    o.account = evidence.account;
    if let Some(delivery) = &mut o.delivery {
        delivery.left_out = evidence.left_out;
        if let Some(login) = &mut delivery.login {
            login.reason = evidence.login;
        }
        delivery.reconnections = evidence.reconnections;
    }
    Ok(())
}

/// The evidence of a row after a correction: the reason is new, evidence that came with it is added, the rest stays.
pub(super) fn corrected_evidence(json: Option<&str>, correction: &Correction) -> Result<Option<String>, Fault> {
    let mut evidence: Evidence = json.map(|json| from_json(json, "evidence")).transpose()?.unwrap_or_default();
    evidence.reason.clone_from(&correction.reason);
    evidence.left_out.clone_from(&correction.delivery.left_out);
    evidence.login = correction.delivery.login.as_ref().and_then(|l| l.reason.clone());
    evidence.reconnections.clone_from(&correction.delivery.reconnections);
    for (name, value) in &correction.details {
        if evidence.details.len() < DETAILS_MAX || evidence.details.contains_key(name) {
            evidence.details.insert(name.clone(), value.clone());
        }
    }
    let json = to_json(&evidence)?;
    Ok((json != "{}").then_some(json))
}

/// A value as JSON text.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|e| Fault::Inconsistent(format!("a value cannot be written as JSON: {e}")))
}

/// JSON text as a value; `what` names the row it stands in.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(json: &str, what: &str) -> Result<T, Fault> {
    serde_json::from_str(json).map_err(|e| Fault::Inconsistent(format!("{what} cannot be read: {e}")))
}

// ---------------------------------------------------------------------------------------------------------------
// Phases
//
// Two forms. Exact (first byte 0xFF): per phase a byte with phase and side, then start and length in microseconds
// as variable-length integers (7 bits a byte, least significant first). Coarse: a head saying which phases there are,
// then one byte per phase in that order: 0 for nothing, else 1 + the logarithm of its microseconds to the base 1.08. The
// head is one byte with a bit for each of the first eight phases, or, where that would be 0, 1 or 0xFF or the ninth is
// there, two with the most significant first (0 or 1, as only one bit of it is in use).

const EXACT: u8 = 0xFF;

/// Highest head of one byte.
const HEAD_MAX: u8 = EXACT - 1;

/// 254 steps of 8 % reach from a microsecond to five minutes; half a step is 4 %.
const COARSE_BASE: f64 = 1.08;

/// Most phases kept of one attempt: two sessions of nine phases each, twice over.
pub(super) const PHASES_MAX: usize = 36;

/// Phases as bytes; `None` when there are none.
pub(super) fn pack_phases(phases: &[PhaseTime], coarse: bool) -> Option<Vec<u8>> {
    if phases.is_empty() {
        return None;
    }
    if coarse && let Some(packed) = pack_coarse(phases) {
        return Some(packed);
    }
    let mut packed = Vec::with_capacity(1 + phases.len() * 6);
    packed.push(EXACT);
    for p in phases.iter().take(PHASES_MAX) {
        let side = match p.side {
            None => 0,
            Some(Side::Send) => 1,
            Some(Side::Receive) => 2,
        };
        packed.push(position(p.phase) | (side << 4));
        push_varint(&mut packed, p.start);
        push_varint(&mut packed, p.took);
    }
    Some(packed)
}

fn pack_coarse(phases: &[PhaseTime]) -> Option<Vec<u8>> {
    let in_order = phases.windows(2).all(|w| w[0].phase < w[1].phase);
    if !in_order || phases.iter().any(|p| p.side.is_some()) {
        return None;
    }
    let present = phases.iter().fold(0_u16, |bits, p| bits | (1 << position(p.phase)));
    let mut packed = match u8::try_from(present) {
        Ok(mask @ 2..=HEAD_MAX) => vec![mask],
        _ => present.to_be_bytes().to_vec(),
    };
    for p in phases {
        packed.push(coarse_byte(p.took)?);
    }
    Some(packed)
}

fn coarse_byte(took: Duration) -> Option<u8> {
    let us = took.as_micros();
    if us == 0 {
        return Some(0);
    }
    let steps = (us as f64).ln() / COARSE_BASE.ln();
    let byte = 1.0 + steps.round();
    (byte <= 255.0).then_some(byte as u8)
}

/// Bytes as phases; damaged bytes give what could be read before the damage.
pub(super) fn unpack_phases(packed: &[u8]) -> Vec<PhaseTime> {
    match packed {
        [EXACT, rest @ ..] => unpack_exact(rest),
        [high @ 0..=1, low, rest @ ..] => unpack_coarse(u16::from_be_bytes([*high, *low]), rest),
        [mask, rest @ ..] => unpack_coarse(u16::from(*mask), rest),
        _ => Vec::new(),
    }
}

/// Coarse phases as their head and their codes; `None` when the bytes are anything else.
pub(super) fn coarse_parts(packed: &[u8]) -> Option<(&[u8], &[u8])> {
    let head = match packed {
        [0..=1, _, ..] => 2,
        [2..=HEAD_MAX, ..] => 1,
        _ => return None,
    };
    let (head, codes) = packed.split_at_checked(head)?;
    (codes.len() == coarse_count(head)?).then_some((head, codes))
}

/// How many phases the head of coarse ones announces; `None` when it is none.
pub(super) fn coarse_count(head: &[u8]) -> Option<usize> {
    match head {
        [high @ 0..=1, low] => Some((high.count_ones() + low.count_ones()) as usize),
        [mask @ 2..=HEAD_MAX] => Some(mask.count_ones() as usize),
        _ => None,
    }
}

/// Exact phases as tag, start and length in microseconds; `None` when the bytes are anything else.
pub(super) fn exact_parts(packed: &[u8]) -> Option<Vec<(u8, u64, u64)>> {
    let [EXACT, rest @ ..] = packed else { return None };
    let (mut rest, mut parts) = (rest, Vec::new());
    while let [tag, tail @ ..] = rest {
        rest = tail;
        let (start, took) = (pull_varint(&mut rest)?, pull_varint(&mut rest)?);
        parts.push((*tag, us_of(start), us_of(took)));
    }
    Some(parts)
}

/// The inverse of [`exact_parts`].
pub(super) fn exact_bytes(parts: &[(u8, u64, u64)]) -> Vec<u8> {
    let mut packed = vec![EXACT];
    for (tag, start_us, took_us) in parts {
        packed.push(*tag);
        push_varint(&mut packed, Duration::from_micros(*start_us));
        push_varint(&mut packed, Duration::from_micros(*took_us));
    }
    packed
}

fn us_of(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn unpack_exact(mut rest: &[u8]) -> Vec<PhaseTime> {
    let mut phases = Vec::new();
    while let [tag, tail @ ..] = rest
        && phases.len() < PHASES_MAX
    {
        rest = tail;
        let side = match tag >> 4 {
            1 => Some(Side::Send),
            2 => Some(Side::Receive),
            _ => None,
        };
        let Some(phase) = Phase::ALL.get(usize::from(tag & 0x0F)).copied() else { break };
        let (Some(start), Some(took)) = (pull_varint(&mut rest), pull_varint(&mut rest)) else { break };
        phases.push(PhaseTime { phase, side, start, took });
    }
    phases
}

fn unpack_coarse(present: u16, bytes: &[u8]) -> Vec<PhaseTime> {
    let mut start = Duration::ZERO;
    let there = Phase::ALL.into_iter().filter(|p| present & (1 << position(*p)) != 0);
    there
        .zip(bytes)
        .map(|(phase, byte)| {
            let us = if *byte == 0 { 0.0 } else { COARSE_BASE.powi(i32::from(*byte) - 1) };
            let took = Duration::from_micros(us.round() as u64);
            let time = PhaseTime { phase, side: None, start, took };
            start += took;
            time
        })
        .collect()
}

fn position(phase: Phase) -> u8 {
    Phase::ALL.iter().position(|p| *p == phase).map_or(0, |i| i as u8)
}

fn push_varint(to: &mut Vec<u8>, span: Duration) {
    let mut rest = us_of(span);
    while rest >= 0x80 {
        to.push((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

fn pull_varint(from: &mut &[u8]) -> Option<Duration> {
    let mut us = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        us |= u64::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(Duration::from_micros(us));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn phase(phase: Phase, side: Option<Side>, start_us: u64, took_us: u64) -> PhaseTime {
        PhaseTime { phase, side, start: Duration::from_micros(start_us), took: Duration::from_micros(took_us) }
    }

    #[test]
    fn coarse_phases_are_within_four_per_cent_and_end_to_end() {
        for took_us in [0, 1, 7, 410, 12_345, 2_000_000, 299_000_000] {
            let phases = [phase(Phase::Resolve, None, 0, took_us), phase(Phase::Exchange, None, took_us + 9, 1_000)];
            let packed = pack_phases(&phases, true).expect("phases");
            assert_eq!(packed.len(), 3);
            let back = unpack_phases(&packed);
            let error = back[0].took.as_micros() as f64 - took_us as f64;
            assert!(error.abs() <= took_us as f64 * 0.04 + 0.5, "{took_us}: {error}");
            assert_eq!(back[1].start, back[0].took);
            assert_eq!(back[1].phase, Phase::Exchange);
        }
    }

    #[test]
    fn what_coarse_cannot_say_is_exact() {
        let cases = [
            vec![phase(Phase::Login, Some(Side::Receive), 3, 400), phase(Phase::Send, Some(Side::Send), 500, 1)],
            vec![phase(Phase::Exchange, None, 0, 5), phase(Phase::Exchange, None, 9, 5)],
            vec![phase(Phase::Exchange, None, 0, 400_000_000)],
        ];
        for phases in cases {
            let packed = pack_phases(&phases, true).expect("phases");
            assert_eq!(unpack_phases(&packed), phases);
        }
    }

    #[test]
    fn a_damaged_row_gives_no_more_phases_than_are_kept() {
        let damaged: Vec<u8> = std::iter::once(EXACT).chain([0, 0, 0].repeat(10_000)).collect();
        assert_eq!(unpack_phases(&damaged).len(), PHASES_MAX);
    }

    proptest! {
        #[test]
        fn exact_phases_come_back(raw in prop::collection::vec((0..9_usize, 0..3_u8, any::<u64>(), 0..9_000_000_u64), 0..20)) {
            let phases: Vec<_> = raw.iter().map(|(p, side, start, took)| {
                let side = match side { 0 => None, 1 => Some(Side::Send), _ => Some(Side::Receive) };
                phase(Phase::ALL[*p], side, *start, *took)
            }).collect();
            let packed = pack_phases(&phases, false);
            prop_assert_eq!(unpack_phases(packed.as_deref().unwrap_or_default()), phases);
        }

        #[test]
        fn damaged_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let phases = unpack_phases(&bytes);
            prop_assert!(phases.len() <= bytes.len().min(PHASES_MAX));
        }

        #[test]
        fn links_lead_to_the_number_before(a in 0..AT_MS_MAX, b in 0..AT_MS_MAX, near in -9_000_000..9_000_000_i64, slots in (0..1_i64 << SLOT_BITS, 0..1_i64 << SLOT_BITS)) {
            for before in [b, (a + near).clamp(0, AT_MS_MAX), a] {
                let id = first_id(Timestamp::from_millis(a)) + slots.0;
                let previous = first_id(Timestamp::from_millis(before)) + slots.1;
                prop_assert_eq!(linked(id, link(id, previous)), previous);
            }
        }

        #[test]
        fn numbers_keep_their_instant_and_its_order(a in 0..AT_MS_MAX, b in 0..AT_MS_MAX) {
            let (ia, ib) = (first_id(Timestamp::from_millis(a)), first_id(Timestamp::from_millis(b)));
            prop_assert_eq!(at_of(ia).as_millis(), a);
            prop_assert_eq!(a.cmp(&b), ia.cmp(&ib));
        }
    }
}
