//! Mail itself (RFC 5322, MIME), apart from how it travels: what the protocols that carry it share.

pub mod account;
pub mod compose;
pub mod mailbox;
pub mod parse;

use ring::digest;

/// An identity of a stored mail from what the server names it by; the same in every session and run.
pub fn copy_id(parts: &[&[u8]]) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut first = [0; 8];
    // SHA-256 has 32 bytes.
    first.copy_from_slice(&context.finish().as_ref()[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_known_by_all_its_parts() {
        assert_eq!(copy_id(&[b"INBOX", b"7"]), copy_id(&[b"INBOX", b"7"]));
        assert_ne!(copy_id(&[b"INBOX", b"7"]), copy_id(&[b"INBOX7", b""]));
    }
}
