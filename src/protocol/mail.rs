//! Mail itself (RFC 5322, MIME), apart from how it travels: what the protocols that carry it share.

pub mod compose;
