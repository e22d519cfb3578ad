//! A killed daemon.
