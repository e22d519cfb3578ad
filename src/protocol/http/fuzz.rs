//! What fuzzing feeds to the parsers of this module; `fuzz/targets.rs` names it.

use super::expect::{Evidence, Expect};

/// The status, a header and the body of an answer, judged by every kind of expectation.
pub fn answer(data: &[u8]) {
    const EXPECT: &str = "{ status: 2xx, headers: { X-A: { contains: a } }, certificate_days: 7, \
                          body: { contains: ok, not_contains: bad, matches: '^(a|b)*c', json: { '$..a[0]': 1 } } }";
    let expect: Expect = serde_yaml::from_str(EXPECT).expect("a good expectation");
    let (head, body) = data.split_at(data.len().min(16));
    let headers = vec![("x-a".to_owned(), String::from_utf8_lossy(head).into_owned())];
    let status = head.first().map_or(200, |byte| 200 + u16::from(byte % 4));
    let evidence = Evidence { status, headers, body: body.to_vec(), cut: status == 203, certificate: None };
    if let Err((_, _, text)) = expect.judge(&evidence) {
        assert!(text.chars().count() < 4_000, "{} characters", text.chars().count());
    }
}
