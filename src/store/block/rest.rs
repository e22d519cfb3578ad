//! The part of a block that only those open who want everything: evidence and phases.
//!
//! Phases come as the raw row has them (see `encode`). Those of an `ok` row are taken apart: what its phases are goes to a
//! list of shapes, how long each took to a column per place. All others are kept byte for byte.

use std::collections::HashMap;

use super::{
    Damaged, Mean, References, Row, Rows, TEXT_BYTES_MAX, bucket, middle, put_bytes, put_column, put_varint,
    take_bytes, take_column, take_varint,
};
use crate::store::encode::{self, PHASES_MAX, coarse_count, coarse_parts};

/// Level at which texts are deflated: beyond it little is gained.
const DEFLATE_LEVEL: u8 = 6;

/// Most values of one row's phases: two for each of the most phases that are kept of an attempt.
const VALUES_MAX: usize = 2 * PHASES_MAX;

/// How the phases of a row are written.
const NONE: u8 = 0;
const COARSE: u8 = 1;
const SIDED: u8 = 2;
const VERBATIM: u8 = 3;

/// Appends evidence and phases.
pub(super) fn put(to: &mut Vec<u8>, all: &Rows) {
    put_evidence(to, all);
    put_phases(to, &all.rows);
}

/// Takes evidence and phases; gives the texts.
pub(super) fn take(from: &mut &[u8], rows: &mut [Row]) -> Result<Vec<String>, Damaged> {
    let texts = take_evidence(from, rows)?;
    take_phases(from, rows)?;
    Ok(texts)
}

// ---------------------------------------------------------------------------------------------------------------
// Evidence

fn put_evidence(to: &mut Vec<u8>, all: &Rows) {
    let mut references = References::new();
    // Position 0 is none; texts are kept in the order in which rows use them.
    let mut positions = HashMap::new();
    let mut texts: Vec<&str> = Vec::new();
    let mut codes = Vec::with_capacity(all.rows.len());
    references.put(0);
    for row in &all.rows {
        let text = row.evidence.and_then(|position| all.texts.get(position));
        let position = text.map_or(0, |text| {
            *positions.entry(text.as_str()).or_insert_with(|| {
                texts.push(text);
                texts.len()
            })
        });
        codes.push(references.put(position));
    }
    put_column(to, &codes);
    put_varint(to, texts.len() as u64);
    let mut plain = Vec::new();
    texts.iter().for_each(|text| put_bytes(&mut plain, text.as_bytes()));
    let deflated = miniz_oxide::deflate::compress_to_vec(&plain, DEFLATE_LEVEL);
    let shorter = deflated.len() < plain.len();
    to.push(u8::from(shorter));
    put_bytes(to, if shorter { &deflated } else { &plain });
}

fn take_evidence(from: &mut &[u8], rows: &mut [Row]) -> Result<Vec<String>, Damaged> {
    let codes = take_column(from, rows.len())?;
    let count = usize::try_from(take_varint(from)?).ok().filter(|count| *count <= rows.len()).ok_or(Damaged)?;
    let (deflated, rest) = from.split_first().ok_or(Damaged)?;
    *from = rest;
    let bytes = take_bytes(from)?;
    let inflated;
    let mut plain = match deflated {
        0 => bytes,
        1 => {
            let limit = 2 * TEXT_BYTES_MAX;
            inflated = miniz_oxide::inflate::decompress_to_vec_with_limit(bytes, limit).map_err(|_| Damaged)?;
            &inflated[..]
        }
        _ => return Err(Damaged),
    };
    let mut texts = Vec::with_capacity(count);
    for _ in 0..count {
        texts.push(String::from_utf8(take_bytes(&mut plain)?.to_vec()).map_err(|_| Damaged)?);
    }
    let mut references = References::new();
    references.put(0);
    for (row, code) in rows.iter_mut().zip(codes) {
        row.evidence = references.take(code)?.checked_sub(1);
        if row.evidence.is_some_and(|position| position >= count) {
            return Err(Damaged);
        }
    }
    Ok(texts)
}

// ---------------------------------------------------------------------------------------------------------------
// Phases

/// The shape of a row's phases, and its values.
fn apart(row: &Row) -> (Vec<u8>, Vec<u64>) {
    if row.phases.is_empty() {
        return (vec![NONE], Vec::new());
    }
    let apart = if row.is_ok() { taken_apart(&row.phases) } else { None };
    apart.unwrap_or((vec![VERBATIM], Vec::new()))
}

/// `None` when putting them together again would not give the same bytes, but for what rounding does to times.
fn taken_apart(phases: &[u8]) -> Option<(Vec<u8>, Vec<u64>)> {
    if let Some((head, codes)) = coarse_parts(phases) {
        let shape = [&[COARSE], head].concat();
        return Some((shape, codes.iter().map(|code| u64::from(*code)).collect()));
    }
    let parts = encode::exact_parts(phases)?;
    let mut shape = vec![SIDED];
    let mut values = Vec::with_capacity(2 * parts.len());
    for (tag, start_us, took_us) in parts {
        shape.push(tag);
        values.extend([bucket(start_us), bucket(took_us)]);
    }
    (values.len() <= VALUES_MAX).then_some((shape, values))
}

fn put_phases(to: &mut Vec<u8>, rows: &[Row]) {
    let mut positions: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut shapes: Vec<Vec<u8>> = Vec::new();
    let mut means: HashMap<(usize, usize), Mean> = HashMap::new();
    let mut columns: Vec<Vec<u64>> = Vec::new();
    let (mut references, mut codes, mut verbatim) = (References::new(), Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let (shape, values) = apart(row);
        if shape == [VERBATIM] {
            put_bytes(&mut verbatim, &row.phases);
        }
        let position = *positions.entry(shape).or_insert_with_key(|shape| {
            shapes.push(shape.clone());
            shapes.len() - 1
        });
        codes.push(references.put(position));
        for (place, value) in values.into_iter().enumerate() {
            if columns.len() <= place {
                columns.push(Vec::new());
            }
            columns[place].push(means.entry((position, place)).or_default().put(value));
        }
    }
    put_varint(to, shapes.len() as u64);
    shapes.iter().for_each(|shape| put_bytes(to, shape));
    put_column(to, &codes);
    columns.iter().for_each(|column| put_column(to, column));
    put_bytes(to, &verbatim);
}

/// A shape as it is read, with how many values a row of it has.
struct Shape<'a> {
    kind: u8,
    rest: &'a [u8],
    values: usize,
}

fn take_shape<'a>(from: &mut &'a [u8]) -> Result<Shape<'a>, Damaged> {
    let (kind, rest) = take_bytes(from)?.split_first().ok_or(Damaged)?;
    let values = match *kind {
        NONE | VERBATIM if rest.is_empty() => 0,
        // A head and nothing after it says which codes would follow.
        COARSE => coarse_count(rest).ok_or(Damaged)?,
        SIDED => rest.len() * 2,
        _ => return Err(Damaged),
    };
    if values > VALUES_MAX { Err(Damaged) } else { Ok(Shape { kind: *kind, rest, values }) }
}

fn take_phases(from: &mut &[u8], rows: &mut [Row]) -> Result<(), Damaged> {
    let known = usize::try_from(take_varint(from)?).ok().filter(|known| *known <= rows.len()).ok_or(Damaged)?;
    let mut shapes = Vec::with_capacity(known);
    for _ in 0..known {
        shapes.push(take_shape(from)?);
    }
    let mut references = References::new();
    let codes = take_column(from, rows.len())?;
    let positions: Vec<usize> = codes.into_iter().map(|code| references.take(code)).collect::<Result<_, _>>()?;
    let mut counts = vec![0_usize; VALUES_MAX];
    for position in &positions {
        let shape = shapes.get(*position).ok_or(Damaged)?;
        counts[..shape.values].iter_mut().for_each(|count| *count += 1);
    }
    let mut columns = Vec::new();
    for count in counts.into_iter().take_while(|count| *count > 0) {
        columns.push(take_column(from, count)?.into_iter());
    }
    let mut verbatim = take_bytes(from)?;
    let mut means: HashMap<(usize, usize), Mean> = HashMap::new();
    for (row, position) in rows.iter_mut().zip(positions) {
        let shape = &shapes[position];
        let mut values = [0; VALUES_MAX];
        for (place, value) in values.iter_mut().enumerate().take(shape.values) {
            let code = columns.get_mut(place).and_then(Iterator::next).ok_or(Damaged)?;
            *value = means.entry((position, place)).or_default().take(code)?;
        }
        row.phases = together(shape, &values[..shape.values], &mut verbatim)?;
    }
    if verbatim.is_empty() { Ok(()) } else { Err(Damaged) }
}

fn together(shape: &Shape<'_>, values: &[u64], verbatim: &mut &[u8]) -> Result<Vec<u8>, Damaged> {
    match shape.kind {
        COARSE => {
            let codes = values.iter().map(|value| u8::try_from(*value).map_err(|_| Damaged));
            shape.rest.iter().map(|byte| Ok(*byte)).chain(codes).collect()
        }
        SIDED => {
            let mut exact = Vec::with_capacity(shape.rest.len());
            for (tag, times) in shape.rest.iter().zip(values.chunks_exact(2)) {
                exact.push((*tag, middle(times[0])?, middle(times[1])?));
            }
            Ok(encode::exact_bytes(&exact))
        }
        VERBATIM => Ok(take_bytes(verbatim)?.to_vec()),
        _ => Ok(Vec::new()),
    }
}
