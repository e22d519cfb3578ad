//! What commands show: pure functions from data to text. They never print, read a clock or ask the terminal.

pub mod incidents;
pub mod outbox;
pub mod probe;
pub mod protocols;
pub mod status;
pub mod text;
pub mod validate;
pub mod waterfall;
