//! Answers of HTTP that are meant to do harm.

use bongsu::{
    observation::{Kind, Outcome},
    protocol::by_name,
};

use super::{Case, TIMEOUT_ALONE, check, run_all};
use crate::harness::{hostile::Act, roles::Role};

#[test]
fn answers_that_lie_are_told() {
    let table: [(&'static [u8], &[Kind]); 12] = [
        // To itself, without an end.
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", &[Kind::Unexpected, Kind::Protocol]),
        (
            b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
            &[Kind::Unexpected, Kind::Protocol],
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: gopher://127.0.0.1:70/x\r\nContent-Length: 0\r\n\r\n",
            &[Kind::Unexpected, Kind::Protocol],
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: \x01\xff\r\nContent-Length: 0\r\n\r\n", &[Kind::Unexpected, Kind::Protocol]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nInbox", &[Kind::TooLarge]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nInbox", &[Kind::Protocol]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nInbox", &[Kind::Protocol]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nInbox", &[Kind::Protocol]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nInb", &[Kind::Closed, Kind::Protocol]),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n\x1f\x8b\x08xxxxxx",
            &[Kind::Closed, Kind::Protocol],
        ),
        (b"HTTP/1.1 99999 X\r\n\r\n", &[Kind::Protocol]),
        (b"HTTP/9.9 200 OK\r\n\r\n", &[Kind::Protocol]),
    ];
    let http = by_name("http").expect("in the registry");
    // A loop takes as many connections as redirects are followed.
    let case = |answer| Case { timeout: TIMEOUT_ALONE, ..Case::new(http, Role::Probe, 0, Act::Say(answer)) };
    let cases = table.iter().map(|(answer, _)| case(*answer)).collect();
    for ((case, ended), (answer, kinds)) in run_all(cases).iter().zip(&table) {
        check(case, ended);
        let name = String::from_utf8_lossy(answer);
        let o = ended.observation();
        assert_eq!(o.outcome, Outcome::Failed, "{name}: {o:?}");
        assert!(kinds.contains(&ended.kind().expect("a failure has a reason")), "{name}: {:?}", o.reason);
    }
}
