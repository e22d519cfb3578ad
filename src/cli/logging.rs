//! Logs: to the journal when standard error is connected to it, else compact lines on standard error.
//!
//! `RUST_LOG` chooses what is logged (default `info`). A secret never reaches a log: whatever is logged has been
//! masked where it was made, and secrets print as `***`.

use std::os::unix::fs::MetadataExt;

use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt, LevelFilter, Targets, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::Failure;

/// What is logged when `RUST_LOG` says nothing. Crates below are quiet: their failures reach us as values.
const DEFAULT: LevelFilter = LevelFilter::INFO;

/// Starts logging, in colour if wanted. To be called once, by commands that run on.
pub fn start(colour: bool) -> Result<(), Failure> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.trim().is_empty() => text.parse::<Targets>().map_err(|e| {
            Failure::usage(format!("RUST_LOG=`{text}` is not a log filter ({e}); try info or bongsu=debug"))
        })?,
        _ => Targets::new().with_default(DEFAULT),
    };
    let layer = layer(std::env::var("JOURNAL_STREAM").ok().as_deref(), colour);
    let started = Registry::default().with(layer.with_filter(filter.and(filter_fn(is_safe)))).try_init();
    started.map_err(|e| Failure::failed(format!("cannot start logging: {e}")))
}

/// Whether a record may be written: HTTP/2's own traces hold header fields, so also `Authorization`.
fn is_safe(metadata: &tracing::Metadata<'_>) -> bool {
    !metadata.target().starts_with("h2") || *metadata.level() <= tracing::Level::INFO
}

fn layer(journal_stream: Option<&str>, colour: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    if journal_stream.is_some_and(is_stderr)
        && let Ok(journal) = tracing_journald::layer()
    {
        return journal.with_syslog_identifier("bongsu".into()).boxed();
    }
    tracing_subscriber::fmt::layer().compact().with_writer(std::io::stderr).with_ansi(colour).with_target(false).boxed()
}

/// Whether `JOURNAL_STREAM` (`device:inode`, set by systemd) names what standard error is connected to. A child whose
/// standard error was redirected inherits the variable too, hence the comparison (systemd.exec(5)).
fn is_stderr(stream: &str) -> bool {
    let Some((device, inode)) = parse(stream) else { return false };
    std::fs::metadata("/dev/stderr").is_ok_and(|m| (m.dev(), m.ino()) == (device, inode))
}

fn parse(stream: &str) -> Option<(u64, u64)> {
    let (device, inode) = stream.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journals_stream_is_told_apart() {
        let own = std::fs::metadata("/dev/stderr").expect("standard error is open");
        assert!(is_stderr(&format!("{}:{}", own.dev(), own.ino())));
        assert!(!is_stderr(&format!("{}:{}", own.dev(), own.ino() + 1)));
        for bad in ["", "1", "a:b", "1:2:3", "-1:2", "1:"] {
            assert!(!is_stderr(bad), "{bad}");
        }
    }
}
