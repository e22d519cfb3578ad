//! HTTP faces of the daemon: for now the control API on its Unix socket.

pub mod control;
