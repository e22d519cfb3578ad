//! Columns of small integers, each written in whichever of three ways is shortest.
//!
//! ```text
//! 0 value             all values are the same
//! 1 (value length)*   runs of the same value
//! 2 k bits            Rice codes: value >> k in unary, then its k lowest bits; a large one is written in full
//! ```
//!
//! Every number outside of the bits is a variable-length integer, 7 bits a byte, least significant first. A column does
//! not say how many values it has: its block does. Reading is bounded by the number that is asked for and the bytes that
//! are there, whatever these say.

/// Largest number of ones of a Rice code; so many and no zero after them mean that the value follows in full.
const ONES_MAX: u32 = 20;

/// Largest parameter tried: what needs more bits is as long in full.
const K_MAX: u32 = 24;

/// Bits that say how many bits a value in full has.
const WIDTH_BITS: u32 = 7;

/// Bytes that are not what was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Damaged;

/// A small number for a small positive or negative one.
pub fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub fn unzigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -((n & 1).cast_signed())
}

/// Appends a number of variable length.
pub fn put_varint(to: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        to.push((n & 0x7F) as u8 | 0x80);
        n >>= 7;
    }
    to.push(n as u8);
}

/// Takes a number of variable length.
pub fn take_varint(from: &mut &[u8]) -> Result<u64, Damaged> {
    let mut n = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first().ok_or(Damaged)?;
        *from = rest;
        n |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(Damaged)
}

/// Appends bytes with their length before them.
pub fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

/// Takes bytes with their length before them.
pub fn take_bytes<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], Damaged> {
    let length = usize::try_from(take_varint(from)?).map_err(|_| Damaged)?;
    let (bytes, rest) = from.split_at_checked(length).ok_or(Damaged)?;
    *from = rest;
    Ok(bytes)
}

/// Appends a column, with its length in bytes before it so that a reader may pass over it.
pub fn put_column(to: &mut Vec<u8>, values: &[u64]) {
    put_bytes(to, &column(values));
}

fn column(values: &[u64]) -> Vec<u8> {
    let Some(first) = values.first() else { return Vec::new() };
    let mut packed = Vec::new();
    if values.iter().all(|v| v == first) {
        packed.push(0);
        put_varint(&mut packed, *first);
        return packed;
    }
    packed.push(1);
    for run in values.chunk_by(|a, b| a == b) {
        put_varint(&mut packed, run[0]);
        put_varint(&mut packed, run.len() as u64);
    }
    let (k, bits) =
        (0..=K_MAX).map(|k| (k, rice_bits(values, k))).min_by_key(|(_, bits)| *bits).unwrap_or((0, u64::MAX));
    if bits / 8 + 3 < packed.len() as u64 {
        packed.clear();
        packed.extend([2, k as u8]);
        let mut bits = BitWriter::new(packed);
        values.iter().for_each(|v| bits.put_rice(*v, k));
        packed = bits.finish();
    }
    packed
}

fn rice_bits(values: &[u64], k: u32) -> u64 {
    values
        .iter()
        .map(|v| match v >> k {
            ones if ones < u64::from(ONES_MAX) => ones + 1 + u64::from(k),
            _ => u64::from(ONES_MAX + WIDTH_BITS + (64 - v.leading_zeros())),
        })
        .sum()
}

/// Takes a column of so many values.
pub fn take_column(from: &mut &[u8], count: usize) -> Result<Vec<u64>, Damaged> {
    let mut bytes = take_bytes(from)?;
    let Some((mode, rest)) = bytes.split_first() else {
        return if count == 0 { Ok(Vec::new()) } else { Err(Damaged) };
    };
    bytes = rest;
    match mode {
        0 => Ok(vec![take_varint(&mut bytes)?; count]),
        1 => {
            let mut values = Vec::with_capacity(count);
            while values.len() < count {
                let value = take_varint(&mut bytes)?;
                let length = usize::try_from(take_varint(&mut bytes)?).map_err(|_| Damaged)?;
                if length == 0 || length > count - values.len() {
                    return Err(Damaged);
                }
                values.resize(values.len() + length, value);
            }
            Ok(values)
        }
        2 => {
            let (k, bits) = bytes.split_first().ok_or(Damaged)?;
            let k = u32::from(*k);
            if k > K_MAX {
                return Err(Damaged);
            }
            // A value takes a bit at least, so what is asked for is bounded by what is there.
            if count > bits.len().saturating_mul(8) {
                return Err(Damaged);
            }
            let mut bits = BitReader::new(bits);
            let mut values = Vec::with_capacity(count);
            for _ in 0..count {
                values.push(bits.take_rice(k)?);
            }
            Ok(values)
        }
        _ => Err(Damaged),
    }
}

/// Passes over a column.
pub fn skip_column(from: &mut &[u8]) -> Result<(), Damaged> {
    take_bytes(from).map(|_| ())
}

/// Bits into bytes, the lowest first.
struct BitWriter {
    bytes: Vec<u8>,
    held: u64,
    count: u32,
}

impl BitWriter {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, held: 0, count: 0 }
    }

    /// At most 32 bits at a time.
    fn put(&mut self, bits: u64, count: u32) {
        self.held |= bits << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push((self.held & 0xFF) as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    fn put_rice(&mut self, value: u64, k: u32) {
        let ones = value >> k;
        if ones < u64::from(ONES_MAX) {
            let ones = ones as u32;
            // So many ones, and a zero above them.
            self.put((1 << ones) - 1, ones + 1);
            self.put(value & ((1 << k) - 1), k);
            return;
        }
        self.put((1 << ONES_MAX) - 1, ONES_MAX);
        let width = 64 - value.leading_zeros();
        self.put(u64::from(width), WIDTH_BITS);
        let low = width.min(32);
        self.put(value & ((1_u64 << low) - 1), low);
        if width > 32 {
            self.put(value >> 32, width - 32);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push((self.held & 0xFF) as u8);
        }
        self.bytes
    }
}

struct BitReader<'a> {
    rest: &'a [u8],
    held: u64,
    count: u32,
}

impl<'a> BitReader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, held: 0, count: 0 }
    }

    /// Makes sure of 56 bits, or of all that are left.
    fn fill(&mut self) {
        if let Some((word, _)) = self.rest.split_first_chunk::<8>() {
            self.held |= u64::from_le_bytes(*word) << self.count;
            let taken = (63 - self.count) / 8;
            self.rest = &self.rest[taken as usize..];
            self.count += taken * 8;
            return;
        }
        while self.count <= 56
            && let Some((byte, rest)) = self.rest.split_first()
        {
            self.held |= u64::from(*byte) << self.count;
            self.rest = rest;
            self.count += 8;
        }
    }

    /// At most 32 bits at a time.
    fn take(&mut self, count: u32) -> Result<u64, Damaged> {
        if self.count < count {
            self.fill();
            if self.count < count {
                return Err(Damaged);
            }
        }
        let bits = self.held & ((1_u64 << count) - 1);
        self.held >>= count;
        self.count -= count;
        // What was read ahead beyond the count is read again by the next filling.
        self.held &= (1_u64 << self.count) - 1;
        Ok(bits)
    }

    fn take_rice(&mut self, k: u32) -> Result<u64, Damaged> {
        if self.count < 48 {
            self.fill();
        }
        let ones = self.held.trailing_ones().min(ONES_MAX);
        if ones < ONES_MAX {
            self.take(ones + 1)?;
            let low = self.take(k)?;
            return Ok((u64::from(ones) << k) | low);
        }
        self.take(ONES_MAX)?;
        let width = self.take(WIDTH_BITS)? as u32;
        if width > 64 {
            return Err(Damaged);
        }
        let low = self.take(width.min(32))?;
        let high = if width > 32 { self.take(width - 32)? } else { 0 };
        Ok(low | (high << 32))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn back(values: &[u64]) -> Result<Vec<u64>, Damaged> {
        let mut packed = Vec::new();
        put_column(&mut packed, values);
        packed.push(77);
        let mut rest = &packed[..];
        let found = take_column(&mut rest, values.len());
        assert_eq!(rest, [77], "all of the column was taken and nothing else");
        found
    }

    fn bytes_of(values: &[u64]) -> usize {
        column(values).len()
    }

    #[test]
    fn the_shortest_way_is_taken() {
        let small: Vec<u64> = (0..2_880).map(|i| i * 7 % 8).collect();
        assert!(bytes_of(&[5; 2_880]) <= 2);
        assert!(bytes_of(&[vec![0; 1_000], vec![1; 1_880]].concat()) <= 8);
        // Three bits and a little more for eight values that are equally frequent.
        assert!(bytes_of(&small) <= 2_880 * 4 / 8, "{}", bytes_of(&small));
        assert_eq!(bytes_of(&[]), 0);
    }

    proptest! {
        #[test]
        fn columns_come_back(values in prop::collection::vec(prop_oneof![0..3_u64, 0..300_u64, any::<u64>()], 0..300)) {
            prop_assert_eq!(back(&values), Ok(values));
        }

        #[test]
        fn numbers_come_back(n in any::<u64>()) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, n);
            prop_assert_eq!(take_varint(&mut &bytes[..]), Ok(n));
            prop_assert_eq!(zigzag(unzigzag(n)), n);
        }

        #[test]
        fn damaged_bytes_never_panic_and_never_give_more_than_was_asked_for(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0..5_000_usize) {
            if let Ok(values) = take_column(&mut &bytes[..], count) {
                prop_assert_eq!(values.len(), count);
            }
        }
    }
}
