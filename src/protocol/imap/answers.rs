//! What answers tell: the UIDs that a search found or a FETCH lists, and the numbers of a STATUS.

use super::{
    client::Reply,
    codec::{Data, Value},
};

/// Most hits that a range stands for: a search answers with as many in one line.
const HITS_MAX: usize = 100_000;

/// The UID that a FETCH tells.
pub(super) fn uid_of(data: &Data) -> Option<u32> {
    item(data.values.first()?.list()?, "UID")
}

/// A number that a STATUS tells.
pub(super) fn status_item(reply: &Reply, name: &str) -> Option<u32> {
    reply.named("STATUS").find_map(|data| item(data.values.last()?.list()?, name))
}

/// The number after this name in a list of names and values.
fn item(list: &[Value], name: &str) -> Option<u32> {
    let at = list.iter().position(|v| v.atom().is_some_and(|a| a.eq_ignore_ascii_case(name)))?;
    list.get(at + 1)?.atom()?.parse().ok()
}

/// The UIDs a search found, in order: of SEARCH, or of ESEARCH (RFC 4731), which a server of IMAP4rev2 alone answers.
pub(super) fn hits(reply: &Reply) -> Vec<u32> {
    let mut uids: Vec<u32> = Vec::new();
    for data in &reply.data {
        match data.name.as_str() {
            "SEARCH" => uids.extend(data.values.iter().filter_map(|v| v.atom()?.parse::<u32>().ok())),
            "ESEARCH" => {
                let all = data.values.iter().position(|v| v.atom().is_some_and(|a| a.eq_ignore_ascii_case("ALL")));
                let set = all.and_then(|at| data.values.get(at + 1)?.atom());
                for range in set.unwrap_or_default().split(',') {
                    let (from, to) = range.split_once(':').unwrap_or((range, range));
                    if let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>()) {
                        uids.extend((from.min(to)..=from.max(to)).take(HITS_MAX.saturating_sub(uids.len())));
                    }
                }
            }
            _ => {}
        }
    }
    uids.retain(|uid| *uid > 0);
    uids.sort_unstable();
    uids.dedup();
    uids
}
