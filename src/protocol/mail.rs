//! Mail as such, whatever it is carried by: what the protocols that send and those that fetch it share.

pub mod parse;
