//! Circles in what depends on what.

use std::collections::{BTreeMap, BTreeSet};

/// Every circle that is closed by some edge, once each, beginning with its least name. `edges` hold, for each name,
/// the names it leads to; names that are nobody's key lead nowhere.
pub(super) fn cycles<N: Ord + Clone>(edges: &BTreeMap<N, Vec<N>>) -> Vec<Vec<N>> {
    let mut done: BTreeSet<&N> = BTreeSet::new();
    let mut found: BTreeSet<Vec<N>> = BTreeSet::new();
    for start in edges.keys() {
        // The way from `start` with, for each name on it, how many of its edges have been followed.
        let mut way: Vec<(&N, usize)> = vec![(start, 0)];
        let mut on_way: BTreeSet<&N> = BTreeSet::from([start]);
        if done.contains(start) {
            continue;
        }
        while let Some((name, followed)) = way.last_mut() {
            let next = edges.get(*name).and_then(|to| to.get(*followed));
            *followed += 1;
            match next {
                None => {
                    done.insert(name);
                    on_way.remove(*name);
                    way.pop();
                }
                Some(next) if on_way.contains(next) => {
                    let from = way.iter().position(|(n, _)| *n == next).unwrap_or(0);
                    let mut circle: Vec<N> = way[from..].iter().map(|(n, _)| (*n).clone()).collect();
                    let least = circle.iter().enumerate().min_by_key(|(_, n)| *n).map_or(0, |(at, _)| at);
                    circle.rotate_left(least);
                    found.insert(circle);
                }
                Some(next) if done.contains(next) => {}
                Some(next) => {
                    way.push((next, 0));
                    on_way.insert(next);
                }
            }
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(edges: &[(&str, &str)]) -> Vec<String> {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (from, to) in edges {
            map.entry((*from).into()).or_default().push((*to).into());
        }
        cycles(&map).into_iter().map(|circle| circle.join(" ")).collect()
    }

    #[test]
    fn circles_are_found_once() {
        let none: [&str; 0] = [];
        assert_eq!(of(&[("a", "b"), ("a", "c"), ("b", "c"), ("c", "nobody")]), none);
        assert_eq!(of(&[("a", "a")]), ["a"]);
        assert_eq!(of(&[("c", "a"), ("b", "c"), ("a", "b"), ("z", "a")]), ["a b c"]);
        assert_eq!(of(&[("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]), ["a b", "c d"]);
        assert_eq!(of(&[("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]), ["a b", "b c"]);
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let edges: BTreeMap<u32, Vec<u32>> = (0..100_000).map(|n| (n, vec![n + 1])).collect();
        assert!(cycles(&edges).is_empty());
    }
}
