//! What goes into a block comes out of it; what is damaged does not.

use proptest::{prelude::*, sample::select};

use super::*;
use crate::store::encode::{DAY_MS, exact_bytes};

/// A start of a day, as a number.
const DAY_ID: i64 = (20_000 * DAY_MS) << SLOT_BITS;

fn row(at_ms: i64, outcome: u8, duration_us: u64) -> Row {
    let id = DAY_ID + (at_ms << SLOT_BITS);
    Row { id, outcome, duration_us, phases: Vec::new(), evidence: None, mail: None }
}

/// A healthy day: every 30 s, a little late each time, times that vary by half.
fn healthy(every_ms: i64, phases: usize) -> Rows {
    let mut random = fastrand::Rng::with_seed(1);
    let rows = (0..DAY_MS / every_ms)
        .map(|n| {
            let us = 8_000 + random.u64(0..4_000) + random.u64(0..4_000);
            let mut head = vec![(1_u8 << (phases + 1)) - 2];
            head.extend((0..phases).map(|_| 80 + random.u8(0..6) + random.u8(0..6)));
            Row { phases: head, evidence: Some(0), ..row(n * every_ms + random.i64(0..4), 0, us) }
        })
        .collect();
    let text = r#"{"address":"192.0.2.7:443","tls":{"version":"1.3","cipher":"TLS13_AES_256_GCM_SHA384","subject":"CN=mail.example.com","issuer":"CN=R11, O=Let's Encrypt, C=US","not_after":"2027-01-30T12:00:00.000Z","days_left":66},"account":null,"details":{"status":200,"http":"HTTP/2.0","bytes":5120}}"#;
    Rows { rows, texts: vec![text.into()] }
}

/// What a block keeps of a row.
fn assert_kept(stored: &Row, given: &Row) {
    let near = |s: u64, g: u64| s.abs_diff(g) <= g / 128;
    let (mut stored, ok) = (stored.clone(), given.outcome == 0);
    assert!(near(stored.duration_us, given.duration_us) && (ok || stored.duration_us == given.duration_us));
    stored.duration_us = given.duration_us;
    if let (Some(s), Some(g)) = (&mut stored.mail, &given.mail) {
        for (s, g) in
            [(&mut s.accept_us, g.accept_us), (&mut s.latency_us, g.latency_us), (&mut s.login_us, g.login_us)]
        {
            if let (Some(s), Some(g)) = (s, g) {
                assert!(near(*s, g) && (ok || *s == g), "{s} for {g}");
                *s = g;
            }
        }
    }
    if ok
        && let (Some(s), Some(g)) =
            (crate::store::encode::exact_parts(&stored.phases), crate::store::encode::exact_parts(&given.phases))
    {
        assert_eq!(s.len(), g.len());
        for (s, g) in s.iter().zip(&g) {
            assert!(s.0 == g.0 && near(s.1, g.1) && near(s.2, g.2), "{s:?} for {g:?}");
        }
        stored.phases.clone_from(&given.phases);
    }
    assert_eq!(
        (stored.id, stored.outcome, &stored.phases, &stored.mail),
        (given.id, given.outcome, &given.phases, &given.mail)
    );
}

fn mail() -> impl Strategy<Value = Mail> {
    let time = || prop::option::of(prop_oneof![0..2_000_000_u64, 0..i64::MAX as u64]);
    let facts = prop::array::uniform15(prop_oneof![4 => 0..2_u64, 1 => 0..=u64::from(u32::MAX)]);
    let sequence = prop_oneof![0..1_000_u64, any::<u64>()];
    (facts, sequence, time(), time(), time()).prop_map(|(facts, sequence, accept_us, latency_us, login_us)| Mail {
        facts,
        sequence,
        accept_us,
        latency_us,
        login_us,
    })
}

fn phases() -> impl Strategy<Value = Vec<u8>> {
    let part = (0..0x29_u8, 0..400_000_000_u64, 0..400_000_000_u64);
    let exact = prop::collection::vec(part, 0..20).prop_map(|parts| exact_bytes(&parts));
    let coarse = prop::collection::vec(any::<u8>(), 0..12);
    prop_oneof![
        Just(Vec::new()),
        exact,
        coarse,
        (2..=0xFE_u8)
            .prop_map(|mask| { std::iter::once(mask).chain((0..mask.count_ones()).map(|n| (n * 9) as u8)).collect() })
    ]
}

fn rows() -> impl Strategy<Value = Rows> {
    let step = prop_oneof![3 => 29_990..30_010_i64, 1 => 0..5_000_000_i64];
    let time = prop_oneof![0..20_000_u64, 0..i64::MAX as u64];
    let evidence = prop::option::of(0..6_usize);
    let one =
        (step, 0..40_i64, select(vec![0_u8, 0, 0, 0, 1, 2, 3]), time, phases(), evidence, prop::option::of(mail()));
    (prop::collection::vec(one, 0..200), any::<bool>()).prop_map(|(all, mails)| {
        let mut id = DAY_ID;
        let rows = all.into_iter().map(|(step, slot, outcome, duration_us, phases, evidence, mail)| {
            id = ((id >> SLOT_BITS) + step + 1) << SLOT_BITS;
            Row { id: id + slot, outcome, duration_us, phases, evidence, mail: mail.filter(|_| mails) }
        });
        let texts = (0..6).map(|n| format!("{{\"reason\":\"인증 실패 {n}\"}}")).collect();
        Rows { rows: rows.collect(), texts }
    })
}

fn text_of<'a>(rows: &'a Rows, row: &Row) -> Option<&'a str> {
    row.evidence.map(|position| rows.texts[position].as_str())
}

proptest! {
    #[test]
    fn what_was_packed_comes_back(given in rows()) {
        let block = pack(&given);
        let back = unpack(&block).expect("undamaged");
        prop_assert_eq!(back.rows.len(), given.rows.len());
        for (stored, row) in back.rows.iter().zip(&given.rows) {
            assert_kept(stored, row);
            prop_assert_eq!(text_of(&back, stored), text_of(&given, row));
        }
        // Opened and closed again, it is the same: nothing wears off.
        prop_assert_eq!(&pack(&back), &block);
        let points = points(&block).expect("undamaged");
        prop_assert_eq!(points.len(), back.rows.len());
        for (point, row) in points.iter().zip(&back.rows) {
            let latency = row.mail.as_ref().and_then(|m| m.latency_us).unwrap_or(row.duration_us);
            prop_assert_eq!((point.id, point.outcome, point.latency_us), (row.id, row.outcome, latency));
        }
    }

    #[test]
    fn buckets_are_within_a_hundredth_and_stable(us in prop_oneof![0..100_000_u64, 0..i64::MAX as u64]) {
        let back = middle(bucket(us)).expect("a bucket");
        prop_assert!(back.abs_diff(us) <= us / 128);
        prop_assert_eq!(bucket(back), bucket(us));
    }

    #[test]
    fn damage_is_found_and_never_panics(given in rows(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut block = pack(&given);
        let at = at.index(block.len());
        block[at] ^= flip;
        prop_assert_eq!(unpack(&block), Err(Damaged));
        prop_assert_eq!(points(&block), Err(Damaged));
        // A forger knows how to make a digest.
        let content = block.len() - 4;
        let crc = crc32fast::hash(&block[..content]).to_le_bytes();
        block[content..].copy_from_slice(&crc);
        let _ = points(&block);
        if let Ok(forged) = unpack(&block) {
            prop_assert!(forged.rows.len() <= ROWS_MAX);
        }
        prop_assert_eq!(unpack(&block[..at]), Err(Damaged));
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut block = [&[VERSION], &bytes[..]].concat();
        let crc = crc32fast::hash(&block);
        block.extend(crc.to_le_bytes());
        let _ = points(&block);
        let _ = unpack(&block);
    }
}

#[test]
fn a_healthy_day_takes_less_than_four_bytes_an_observation() {
    for (every_ms, phases) in [(30_000, 2), (30_000, 4), (10_000, 4), (60_000, 3)] {
        let given = healthy(every_ms, phases);
        let each = pack(&given).len() as f64 / given.rows.len() as f64;
        assert!(each < 4.0, "every {every_ms} ms with {phases} phases: {each:.2} bytes");
    }
}

#[test]
fn what_says_it_holds_more_than_a_block_may_is_refused() {
    let mut block = vec![VERSION];
    put_varint(&mut block, ROWS_MAX as u64 + 1);
    let crc = crc32fast::hash(&block);
    block.extend(crc.to_le_bytes());
    assert_eq!(unpack(&block), Err(Damaged));
}
