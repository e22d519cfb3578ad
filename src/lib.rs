//! bongsu watches whether messages get through, not whether ports are open: an availability monitor and alerter for
//! chat, mail, brokers and gateways.
//!
//! This page is the map of the code. The program is this library and a `main` of a few lines; `README.md` tells what
//! it does, `docs/configuration.md` what can be written in its files, `docs/store.md` what can be read in its
//! database.
//!
//! # The way data flows
//!
//! ```text
//! schedule → check → observation → detect → incident → alert → store (outbox) → notify
//!                        └──────────── decide: one commit, one transaction ─┘
//! ```
//!
//! An attempt of a check becomes an [`Observation`](observation::Observation). [`Core`](decide::Core) turns it into
//! one [`Commit`](decide::Commit): the observation, the check's new state, what changes in an incident, the messages
//! to be sent. The [`store`] writes that as one transaction, or nothing of it. A message is sent because its row is
//! there, and counts as sent when its receiver has said yes. So a crash at any moment loses nothing that anybody was
//! told or waits for (of attempts that were fine and changed nothing, a quarter of a second's), and can at worst repeat
//! a message under the same key.
//!
//! # The modules, from the ground up
//!
//! Imports point downward only: a module knows those above it in this list and none below. P is pure: values in,
//! values out.
//!
//! | module | | what it is for |
//! |---|---|---|
//! | [`value`] | P | time stamps, time spans, names, labels, secrets: the small types everything shares |
//! | [`clock`] | | the only reader of the system's time and randomness |
//! | [`files`] | | plain files, read whole and up to a bound |
//! | [`observation`] | P | what one attempt showed: outcome, phases, reason, evidence |
//! | [`options`] | P | typed reading of one block of options, every mistake collected |
//! | [`schedule`] | P | when a check is due: intervals, cron lines, time zones |
//! | [`delivery`] | P | whose a message is and whether it came unchanged; which are lost, late, doubled |
//! | [`detect`] | P | from observations to up, suspect, degraded, down |
//! | [`incident`] | P | stretches of bad service: opened, joined, closed; both ends are intervals |
//! | [`alert`] | P | who is told, when, and why not; the retry schedule of the outbox |
//! | [`decide`] | P | one event in, one commit out |
//! | [`telemetry`] | | what bongsu tells of itself |
//! | [`protocol`] | | the registry of what can be spoken, one file each; `wire`, the one dialer |
//! | [`check`] | | what is asked: a probe, or a delivery from sender to receiver |
//! | [`store`] | | SQLite: one writer, readers beside it, roll-ups, days sealed into blocks, retention |
//! | [`notify`] | | the registry of channels; from a row of the outbox to a receiver who said yes |
//! | [`web`] | | the control API on a Unix socket |
//! | [`config`] | | YAML as typed, then resolved into values that cannot be wrong; exact mistakes; JSON Schema |
//! | [`agent`] | | the daemon: tasks, reload, shutdown, watchdog |
//! | [`cli`] | | one file per command |
//!
//! # What never happens
//!
//! Most of these are checked by `tests/tidy.rs`, which says what to use instead.
//!
//! - No module imports from one below it in the table, and no circle joins two of them.
//! - Nothing but [`clock`] reads the system's time or randomness: `now` is an argument.
//! - No pure module names a socket, a file, a task or SQL; so what happened can be replayed and simulated.
//! - Nothing outside [`agent`] starts a task or a thread (but the demo, which plays the servers it watches).
//! - Nothing outside `protocol` names a protocol, nothing outside `notify` a kind of channel: a new one is one file
//!   and one line in [`PROTOCOLS`](protocol::PROTOCOLS) or [`CHANNEL_KINDS`](notify::CHANNEL_KINDS).
//! - A protocol never sets a deadline, retries, logs or decides how bad something is: its caller does.
//! - A failing target is never an `Err`: it is an observation. What could not be told is `unknown`, neither good nor
//!   bad. A wrong configuration is refused at load and never becomes either.
//! - No message is sent before its row is written (but where the store does not write at all: `src/agent/backlog.rs`),
//!   and none is marked delivered before its receiver said yes.
//! - Nothing waits without an end and nothing grows without a bound: each limit is a constant that says why.
//! - A secret never reaches a log, an error, the database or a transcript.
//!
//! # Where to start reading
//!
//! - What a decision is: [`decide`], then [`detect`] and [`alert`]. They need no knowledge of the rest.
//! - What a protocol costs: `src/protocol/tls.rs` is the smallest, from its module doc to its tests.
//! - How the parts are joined: [`agent`], then `src/agent/heart.rs`, the thread on which everything is decided.
//! - Everything at once, on real sockets: `src/cli/demo` and `tests/it`.

#![forbid(unsafe_code)]

pub mod value;
pub mod clock;
pub mod files;
pub mod observation;
pub mod options;
pub mod schedule;
pub mod delivery;
pub mod detect;
pub mod incident;
pub mod alert;
pub mod decide;
pub mod telemetry;
pub mod protocol;
pub mod check;
pub mod store;
pub mod notify;
pub mod web;
pub mod config;
pub mod agent;
pub mod cli;
