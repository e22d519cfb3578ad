//! Tests against real servers.

mod email;
