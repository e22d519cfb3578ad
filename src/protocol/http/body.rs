//! The body of an answer, unpacked and bounded.

use std::{
    fmt,
    io::{self, Write},
};

use flate2::write::{MultiGzDecoder, ZlibDecoder};
use hyper::header::{CONTENT_ENCODING, HeaderMap};

/// What a request says it can unpack (RFC 9110, section 12.5.3).
pub const ACCEPTED: &str = "gzip, deflate";

/// Packed bytes that are unpacked at once; a thousand times as many may come out of them.
pub const PIECE_BYTES: usize = 4 << 10;

/// A body that is being read.
pub struct Body {
    coding: Coding,
    fed: bool,
}

/// How it is packed (RFC 9110, section 8.4.1).
enum Coding {
    Plain(Taken),
    Gzip(Box<MultiGzDecoder<Taken>>),
    Deflate(Box<ZlibDecoder<Taken>>),
}

/// What was taken of it.
pub struct Taken {
    /// The bytes, if they are wanted.
    pub kept: Vec<u8>,
    /// How many there were, kept or not.
    pub bytes: usize,
    /// Whether there were more than `bytes_max`; they are left out.
    pub cut: bool,
    bytes_max: usize,
    wanted: bool,
}

/// Why a packed body cannot be unpacked.
#[derive(Debug)]
pub struct Broken(pub io::Error);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the compressed body of the answer is broken: {}", self.0)
    }
}

impl Body {
    /// Of an answer with these headers: at most `bytes_max` are taken, and kept if they are `wanted`.
    pub fn new(headers: &HeaderMap, bytes_max: usize, wanted: bool) -> Self {
        let taken = Taken { kept: Vec::new(), bytes: 0, cut: false, bytes_max, wanted };
        let coding = headers.get(CONTENT_ENCODING).map_or(&b""[..], |value| value.as_bytes()).trim_ascii();
        let coding = if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
            Coding::Gzip(Box::new(MultiGzDecoder::new(taken)))
        } else if coding.eq_ignore_ascii_case(b"deflate") {
            Coding::Deflate(Box::new(ZlibDecoder::new(taken)))
        } else {
            Coding::Plain(taken)
        };
        Self { coding, fed: false }
    }

    /// The next piece as it came, at most [`PIECE_BYTES`] of it.
    ///
    /// # Errors
    /// When it is not packed as the headers say.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Broken> {
        self.fed |= !piece.is_empty();
        let fed = match &mut self.coding {
            Coding::Plain(taken) => taken.write_all(piece),
            Coding::Gzip(decoder) => decoder.write_all(piece),
            Coding::Deflate(decoder) => decoder.write_all(piece),
        };
        self.unless_cut(fed)
    }

    /// The end of it was read.
    ///
    /// # Errors
    /// When something is missing. An answer without a body (to HEAD, or 204) lacks nothing.
    pub fn end(&mut self) -> Result<(), Broken> {
        if !self.fed {
            return Ok(());
        }
        let ended = match &mut self.coding {
            Coding::Plain(_) => Ok(()),
            Coding::Gzip(decoder) => decoder.try_finish(),
            Coding::Deflate(decoder) => decoder.try_finish(),
        };
        self.unless_cut(ended)
    }

    /// What was taken so far.
    pub fn taken(&mut self) -> &mut Taken {
        match &mut self.coding {
            Coding::Plain(taken) => taken,
            Coding::Gzip(decoder) => decoder.get_mut(),
            Coding::Deflate(decoder) => decoder.get_mut(),
        }
    }

    fn unless_cut(&mut self, result: io::Result<()>) -> Result<(), Broken> {
        if self.taken().cut { Ok(()) } else { result.map_err(Broken) }
    }
}

impl Write for Taken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.bytes_max - self.bytes;
        let taken = &bytes[..bytes.len().min(room)];
        self.bytes += taken.len();
        if self.wanted {
            self.kept.extend_from_slice(taken);
        }
        if bytes.len() > room {
            self.cut = true;
            return Err(io::Error::other("more than is read"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
