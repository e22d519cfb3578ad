//! What close codes mean (RFC 6455, section 7.4, and IANA's registry of close codes).

use crate::observation::Kind;

/// "No code was given": never on the wire (section 7.4.1).
pub const NO_CODE: u16 = 1005;

/// In words.
pub fn close(code: u16) -> &'static str {
    match code {
        1000 => "normal end",
        1001 => "the server is going away",
        1002 => "protocol error",
        1003 => "it does not take this kind of data",
        1007 => "it found the data inconsistent",
        1008 => "against its policy",
        1009 => "the message is too big",
        1010 => "an extension it needs is missing",
        1011 => "internal error of the server",
        1012 => "the server restarts",
        1013 => "try again later",
        1014 => "bad answer from the server behind it",
        3000 => "unauthorised",
        3003 => "forbidden",
        3008 => "it waited too long",
        // The ranges of section 7.4.2; named codes stand above.
        code if (3000..4000).contains(&code) => "a library's or framework's code",
        4000..=4999 => "the application's own code",
        _ => "unknown code",
    }
}

/// The class of a session's end by this code.
pub fn kind(code: u16) -> Kind {
    match code {
        1003 | 1007 | 1008 | 1009 | 3000 | 3003 => Kind::Rejected,
        1012 | 1013 => Kind::Deferred,
        _ => Kind::Closed,
    }
}
