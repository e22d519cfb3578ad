//! docs/metrics.md: every number that the daemon exports, made from what it exports once each has been touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    time::Duration,
};

use bongsu::{
    alert::message::Attempted,
    observation::Outcome,
    telemetry::{Queue, Telemetry},
    value::Timestamp,
};

/// The file.
const FILE: &str = "docs/metrics.md";

const INTRODUCTION: &str = "\
# Numbers the daemon tells of itself

In [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/) text, by its socket; whoever may open that may
read them:

```sh
curl --silent --unix-socket /run/bongsu/bongsu.sock http://localhost/v1/metrics
```

`bongsu status` shows what a person wants to know of them, `bongsu status --json` the sums under `metrics`. The labels are
of the configuration (kinds of checks, channels) or of fixed sets, so the number of series is bounded. Histograms have
`_bucket`, `_sum` and `_count`.

Worth an alert of somebody else's monitor:

| when | because |
|---|---|
| `bongsu_store_unwritten` > 0 | the disk does not take what is observed: [what happens then](store.md) |
| `bongsu_store_dropped` > 0 | it did not for so long that observations were dropped |
| `bongsu_isolated` = 1 | no canary answers: nothing can be told of the targets |
| `bongsu_outbox_oldest_seconds` > 300 | somebody is not told what they should know |
| `bongsu_reload_refused` = 1 | the configuration on the disk is not the one in force |
| `bongsu_lateness_seconds` above a second | the machine is too busy: outages are noticed late |

";

/// What is exported once everything has happened.
fn exported() -> String {
    let name = |text: &str| text.parse().expect("a good name");
    let t = Telemetry::new("0.1.0", &name("seoul-1"), Timestamp::from_millis(0));
    let took = Duration::from_millis(1);
    t.probed("http", Outcome::Ok, took);
    t.late(took);
    t.committed(1, took);
    Queue::ALL.iter().for_each(|queue| t.queue(*queue, 1));
    t.unwritten(1, 1);
    t.outbox(1, Some(Timestamp::from_millis(0)));
    t.notified(&name("ops"), &Attempted::Delivered);
    t.reloaded(true, Timestamp::from_millis(0));
    t.isolated(true);
    t.clock_jumped();
    t.void("isolation");
    t.encode(Timestamp::from_millis(1_000))
}

/// One kind of numbers.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut all: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some((word, rest)) = line.strip_prefix("# ").and_then(|rest| rest.split_once(' ')) {
            let (name, told) = rest.split_once(' ').expect("each has a name and something of it");
            let family = all.entry(name.into()).or_default();
            match word {
                "HELP" => family.help = told.trim_end_matches('.').into(),
                "TYPE" => family.kind = told.into(),
                _ => assert_eq!(word, "UNIT", "{line}"),
            }
            continue;
        }
        let sample = line.split([' ', '{']).next().unwrap_or_default();
        let family = all.iter_mut().rev().find(|(name, _)| sample.starts_with(name.as_str()));
        let (_, family) = family.unwrap_or_else(|| panic!("nothing is told of {line}"));
        let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let labels = labels.split(',').filter_map(|label| label.split_once('=')).map(|(label, _)| label);
        family.labels.extend(labels.filter(|label| *label != "le").map(str::to_owned));
    }
    all
}

fn page() -> String {
    let mut page = format!("{INTRODUCTION}| name | kind | labels | what |\n|---|---|---|---|\n");
    for (name, Family { kind, help, labels }) in families(&exported()) {
        let suffix = match kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(page, "| `{name}{suffix}` | {kind} | {} | {help} |", labels.join(", "));
    }
    page
}

#[test]
fn the_page_of_metrics_is_true() {
    let made = page();
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(FILE, &made).expect("own repository");
    }
    let shipped = fs::read_to_string(FILE).unwrap_or_default();
    assert!(made == shipped, "{FILE} is stale; UPDATE_EXPECTED=1 cargo test --test it metrics writes it anew");
}

#[test]
fn what_is_worth_an_alert_is_exported() {
    let table = page();
    let (advice, names) = table.split_once("| name |").expect("the table");
    let advised: Vec<&str> =
        advice.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next()).collect();
    assert_eq!(advised.len(), 6);
    for name in advised {
        assert!(names.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn every_number_is_on_the_page() {
    // What is registered and was never touched is exported without a word of it.
    let code = fs::read_to_string("src/telemetry.rs").expect("own repository");
    let (_, registered) = code.split_once("fn registered").expect("there they are registered");
    let (registered, _) = registered.split_once("\n    }").expect("its end");
    let count = registered.matches("r.register(").count() + registered.matches("r.register_with_unit(").count();
    // One, what it is, is registered by itself.
    assert_eq!(families(&exported()).len(), count + 1);
}
