//! Cron lines, as crontab(5) reads them, in a time zone.
//!
//! # The line
//!
//! Five fields: minute, hour, day of month, month, day of week; or six, with seconds in front. Or one of `@hourly`,
//! `@daily` (`@midnight`), `@weekly`, `@monthly`, `@yearly` (`@annually`). A field is `*`, a number, a range `a-b`,
//! a step `*/n` or `a-b/n`, or a list of these. Months and weekdays have names (`JAN`, `mon`); weekdays count from
//! 0 = Sunday, and 7 is Sunday too, so `1-5` is Monday to Friday.
//!
//! When both day fields are restricted, a day matches if **either** does, as crontab(5) has it: `0 0 13 * FRI` is
//! every 13th and every Friday. Restricted means anything but a bare `*`.
//!
//! # When the clock changes
//!
//! - A time that the clock **skips** is run at the first instant after the gap; several skipped times, once.
//! - A time that the clock **repeats** is run once, the first time, if the line fixes the time of day; a line with
//!   `*` or `*/n` in its minutes or hours follows the clock on the wall and is run each time, as Vixie cron does.
//!
//! So a nightly check is run exactly once every night, and an hourly one is never silent for two hours.
//!
//! Lines are parsed here, because errors must name the field and say what it takes, and given to the `cron` crate as
//! explicit lists. The crate walks local wall-clock times (taken as UTC, where nothing is skipped or repeated) and
//! this module maps them to instants. It knows the years 1970 to 2100: nothing is due before or after them.

use std::fmt;

use ::cron::Schedule as Walk;
use chrono::{DateTime, Datelike, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::{observation::one_line, value::Timestamp};

/// Longest line: a list of all minutes takes 170 bytes, so this is more than any line needs.
const LINE_BYTES_MAX: usize = 1_000;

/// How much of a faulty line or item an error quotes.
const QUOTE_CHARS_MAX: usize = 60;

/// The years that the `cron` crate walks.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2100;

/// Farthest a local time can be from the same reading in UTC, either way, with a day to spare: zones that crossed
/// the date line have skipped whole days.
const ZONE_HOURS_MAX: i64 = 50;

/// Wall-clock times looked at before a search is given up. A repeated range of times is left in one step, so two
/// would do; more is for zones with several changes in a row.
const STEPS_MAX: usize = 8;

/// A cron line in a time zone.
#[derive(Clone, Debug)]
pub struct Cron {
    line: String,
    timezone: Tz,
    /// One walk, or two whose union is meant: by day of month, and by day of week.
    walks: Vec<Walk>,
    /// Whether the time of day is fixed: no `*` in minutes or hours.
    fixed: bool,
}

impl Cron {
    /// Parses five or six fields, or an `@` word. The error is one line that names the field and what it takes.
    pub fn parse(line: &str, timezone: Tz) -> Result<Self, String> {
        if line.len() > LINE_BYTES_MAX {
            return Err(format!("a cron line of {} bytes; at most {LINE_BYTES_MAX} are allowed", line.len()));
        }
        let fields = split(line)?;
        let mut lists = Vec::with_capacity(FIELDS.len());
        let mut starred = Vec::with_capacity(FIELDS.len());
        for (field, text) in FIELDS.iter().zip(&fields) {
            lists.push(field.list(field.parse(text)?));
            starred.push(text.split(',').any(|item| item.starts_with('*')));
        }
        let [second, minute, hour, day, month, weekday] = &lists[..] else {
            return Err(wrong_count(line, fields.len()));
        };
        let day_pairs = if fields[3] != "*" && fields[5] != "*" {
            vec![(day.as_str(), "*"), ("*", weekday.as_str())]
        } else {
            vec![(day.as_str(), weekday.as_str())]
        };
        let walks: Result<Vec<Walk>, _> = day_pairs
            .into_iter()
            .map(|(day, weekday)| format!("{second} {minute} {hour} {day} {month} {weekday}").parse())
            .collect();
        let walks = walks.map_err(|e| format!("`{}` is not a cron line: {e}", quote(line)))?;
        let cron = Self { line: fields_text(line), timezone, walks, fixed: !starred[1] && !starred[2] };
        match cron.walk(DateTime::UNIX_EPOCH.naive_utc()) {
            Some(_) => Ok(cron),
            None => Err(format!("`{}` never fires: none of its months has such a day", quote(line))),
        }
    }

    /// The time zone its fields are read in.
    pub fn timezone(&self) -> Tz {
        self.timezone
    }

    /// The first instant after `after` at which it is due; `None` when it never is again.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.to_utc();
        if after.year() > *YEARS.end() {
            return None;
        }
        // A day earlier than the first year, so that its first local midnight is seen from every zone.
        let start = DateTime::UNIX_EPOCH - TimeDelta::hours(ZONE_HOURS_MAX);
        let after = after.max(start);
        let found = if self.fixed { self.next_fixed(after) } else { self.next_repeating(after) };
        found.map(Timestamp::from)
    }

    /// The next run of a line that fixes the time of day: each wall-clock time stands for exactly one instant, and
    /// later times never for earlier instants.
    fn next_fixed(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut from = self.local(after);
        for _ in 0..STEPS_MAX {
            let wall = self.walk(from)?;
            match self.instants(wall) {
                Instants::One(at) if at > after => return Some(at),
                Instants::Two(at, _) if at > after => return Some(at),
                Instants::One(_) => from = wall,
                // `after` is in the second pass: all of this range has had its run.
                Instants::Two(first, second) => {
                    let change = self.change(first, second);
                    from = self.local(change) + (second - first) - TimeDelta::seconds(1);
                }
            }
        }
        None
    }

    /// The next run of a line that follows the clock on the wall, each pass through a repeated range included.
    fn next_repeating(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = self.local(after);
        let ahead = self.next_from(local, after);
        // In the first of two passes, the second begins again at an earlier wall-clock time.
        let again = match self.instants(local) {
            Instants::Two(first, second) if after < second => {
                let change = self.change(first, second);
                if change > after {
                    self.next_from(self.local(change) - TimeDelta::seconds(1), change - TimeDelta::milliseconds(1))
                } else {
                    None
                }
            }
            _ => None,
        };
        match (ahead, again) {
            (Some(ahead), Some(again)) => Some(ahead.min(again)),
            (one, other) => one.or(other),
        }
    }

    /// The first instant after `after` among those of the wall-clock times after `from`.
    fn next_from(&self, mut from: NaiveDateTime, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        for _ in 0..STEPS_MAX {
            from = self.walk(from)?;
            match self.instants(from) {
                Instants::One(at) | Instants::Two(at, _) if at > after => return Some(at),
                Instants::Two(_, at) if at > after => return Some(at),
                Instants::One(_) | Instants::Two(..) => {}
            }
        }
        None
    }

    /// The first wall-clock time of the line after `from`.
    fn walk(&self, from: NaiveDateTime) -> Option<NaiveDateTime> {
        let from = from.and_utc();
        self.walks.iter().filter_map(|walk| walk.after(&from).next()).min().map(|at| at.naive_utc())
    }

    /// What the clock on the wall shows.
    fn local(&self, at: DateTime<Utc>) -> NaiveDateTime {
        at.with_timezone(&self.timezone).naive_local()
    }

    /// When the clock on the wall shows this time, or has just skipped it.
    fn instants(&self, wall: NaiveDateTime) -> Instants {
        match self.timezone.from_local_datetime(&wall) {
            LocalResult::Single(at) => Instants::One(at.to_utc()),
            LocalResult::Ambiguous(a, b) => Instants::Two(a.min(b).to_utc(), a.max(b).to_utc()),
            LocalResult::None => {
                let around = wall.and_utc();
                let reach = TimeDelta::hours(ZONE_HOURS_MAX);
                Instants::One(first_where(around - reach, around + reach, |at| self.local(at) > wall))
            }
        }
    }

    /// The instant between `from` and `to` from which the zone's offset is another than at `from`.
    fn change(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> DateTime<Utc> {
        let offset = |at: DateTime<Utc>| self.timezone.offset_from_utc_datetime(&at.naive_utc()).fix();
        let before = offset(from);
        first_where(from, to, |at| offset(at) != before)
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.line, self.timezone.name())
    }
}

/// When a wall-clock time is.
enum Instants {
    /// Once; for a time that is skipped, the first instant after the gap.
    One(DateTime<Utc>),
    /// Twice, in this order.
    Two(DateTime<Utc>, DateTime<Utc>),
}

/// The first whole second from which a condition holds that does not at `from`, does at `to`, and turns once.
fn first_where(from: DateTime<Utc>, to: DateTime<Utc>, holds: impl Fn(DateTime<Utc>) -> bool) -> DateTime<Utc> {
    let (mut before, mut since) = (from.timestamp(), to.timestamp());
    while since - before > 1 {
        let middle = before + (since - before) / 2;
        // Both bounds came from instants, so what lies between them is one.
        match DateTime::from_timestamp(middle, 0) {
            Some(at) if holds(at) => since = middle,
            _ => before = middle,
        }
    }
    DateTime::from_timestamp(since, 0).unwrap_or(to)
}

// ---------------------------------------------------------------------------------------------------------------
// The line

/// One field of a line.
struct Field {
    name: &'static str,
    min: u32,
    /// Also the most a step may be.
    max: u32,
    /// Names, the first standing for `names_from`.
    names: &'static [&'static str],
    names_from: u32,
}

const MONTHS: &[&str] = &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

static FIELDS: [Field; 6] = [
    Field { name: "second", min: 0, max: 59, names: &[], names_from: 0 },
    Field { name: "minute", min: 0, max: 59, names: &[], names_from: 0 },
    Field { name: "hour", min: 0, max: 23, names: &[], names_from: 0 },
    Field { name: "day of month", min: 1, max: 31, names: &[], names_from: 0 },
    Field { name: "month", min: 1, max: 12, names: MONTHS, names_from: 1 },
    Field { name: "day of week", min: 0, max: 7, names: WEEKDAYS, names_from: 0 },
];

/// The words that stand for a whole line.
const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 0 * * * *"),
    ("@daily", "0 0 0 * * *"),
    ("@midnight", "0 0 0 * * *"),
    ("@weekly", "0 0 0 * * 0"),
    ("@monthly", "0 0 0 1 * *"),
    ("@yearly", "0 0 0 1 1 *"),
    ("@annually", "0 0 0 1 1 *"),
];

/// Six fields, whatever form the line has.
fn split(line: &str) -> Result<Vec<&str>, String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    match fields[..] {
        [word] if word.starts_with('@') => {
            let known = NICKNAMES.iter().find(|(nickname, _)| nickname.eq_ignore_ascii_case(word));
            known.map(|(_, line)| line.split(' ').collect()).ok_or_else(|| {
                format!("`{}` is not known; there are @hourly, @daily, @weekly, @monthly and @yearly", quote(word))
            })
        }
        [_, _, _, _, _] => Ok(std::iter::once("0").chain(fields).collect()),
        [_, _, _, _, _, _] => Ok(fields),
        _ => Err(wrong_count(line, fields.len())),
    }
}

fn wrong_count(line: &str, count: usize) -> String {
    let year = if count == 7 { "; a field for the year is not supported" } else { "" };
    let fields = if count == 1 { "field" } else { "fields" };
    format!(
        "`{}` has {count} {fields}; a cron line has five (minute, hour, day of month, month, day of week), or six \
         with seconds in front{year}",
        quote(line)
    )
}

fn fields_text(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn quote(text: &str) -> String {
    one_line(text, QUOTE_CHARS_MAX)
}

impl Field {
    /// The values a field's text names, as bits.
    fn parse(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |bits, item| Ok(bits | self.item(item)?))
    }

    /// The values of one item of a list.
    fn item(&self, item: &str) -> Result<u64, String> {
        if item.is_empty() {
            return Err(format!("an empty item in the {} field; {}", self.name, self.takes()));
        }
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, self.step(item, step)?),
            None => (item, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.min, self.whole_max()),
            Some((from, to)) => self.range(item, self.value(item, from)?, self.value(item, to)?, to)?,
            None if range != item => {
                let from = self.value(item, range)?;
                return Err(format!(
                    "`{}` in the {} field: a step needs `*` or a range; write `{from}-{}/{step}`",
                    quote(item),
                    self.name,
                    self.whole_max()
                ));
            }
            None => self.value(item, range).map(|value| (value, value))?,
        };
        let values = (from..=to).step_by(step);
        Ok(values.fold(0, |bits, value| bits | 1 << value))
    }

    /// The last value of `*`: a week has seven days although Sunday has two numbers.
    fn whole_max(&self) -> u32 {
        if self.is_weekday() { 6 } else { self.max }
    }

    fn is_weekday(&self) -> bool {
        self.max == 7
    }

    fn range(&self, item: &str, from: u32, to: u32, to_text: &str) -> Result<(u32, u32), String> {
        // `SAT-SUN` and `FRI-SUN` can only mean the Sunday that follows.
        let to = if self.is_weekday() && to == 0 && to_text.eq_ignore_ascii_case("sun") && from > 0 { 7 } else { to };
        if from <= to {
            return Ok((from, to));
        }
        let (from, to) = (self.shown(from), self.shown(to));
        let (first, last) = (self.shown(self.min), self.shown(self.whole_max()));
        Err(format!("`{}` in the {} field runs backwards; write `{from}-{last},{first}-{to}`", quote(item), self.name))
    }

    fn shown(&self, value: u32) -> String {
        let name = usize::try_from(value - self.names_from.min(value)).ok().and_then(|n| self.names.get(n));
        name.map_or_else(|| value.to_string(), |name| (*name).to_owned())
    }

    fn step(&self, item: &str, step: &str) -> Result<usize, String> {
        let number = step.parse::<usize>().ok().filter(|_| step.bytes().all(|b| b.is_ascii_digit()));
        number.filter(|n| (1..=self.max as usize).contains(n)).ok_or_else(|| {
            format!(
                "`{}` in the {} field: a step is a number from 1 to {}, such as `*/{}`",
                quote(item),
                self.name,
                self.max,
                self.max.div_ceil(4)
            )
        })
    }

    fn value(&self, item: &str, text: &str) -> Result<u32, String> {
        let named = self.names.iter().zip(self.names_from..).find(|(name, _)| name.eq_ignore_ascii_case(text));
        let number = if text.bytes().all(|b| b.is_ascii_digit()) { text.parse::<u32>().ok() } else { None };
        match named.map(|(_, value)| value).or(number) {
            Some(value) if (self.min..=self.max).contains(&value) => Ok(value),
            _ => {
                let text = if text.is_empty() { item } else { text };
                Err(format!("`{}` in the {} field is not valid{}; {}", quote(text), self.name, why(text), self.takes()))
            }
        }
    }

    fn takes(&self) -> String {
        let names = match (self.names.first(), self.names.last()) {
            (Some(first), Some(last)) => format!(" or {first}-{last}"),
            _ => String::new(),
        };
        format!("it takes {}-{}{names}, `*`, ranges `a-b`, steps `*/n` and lists `a,b`", self.min, self.max)
    }

    /// The values as the `cron` crate's list: weekdays by name, because the crate counts them from 1 = Sunday.
    fn list(&self, bits: u64) -> String {
        // Bit 7 of the weekdays is Sunday once more.
        let bits = if self.is_weekday() { (bits | bits >> 7) & 0x7f } else { bits };
        let values: Vec<String> =
            (self.min..=self.whole_max()).filter(|v| bits >> v & 1 == 1).map(|v| self.shown(v)).collect();
        if values.len() == (self.min..=self.whole_max()).count() { "*".into() } else { values.join(",") }
    }
}

/// What other dialects mean by a text that crontab does not know.
fn why(text: &str) -> &'static str {
    if text == "?" {
        " (a Quartz sign; write `*`)"
    } else if text.contains(['L', 'l', 'W', 'w', '#']) && text.chars().all(|c| "LWlw#-0123456789".contains(c)) {
        " (`L`, `W` and `#` are not supported)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, str::FromStr};

    use chrono::Timelike;
    use chrono_tz::{TZ_VARIANTS, UTC};
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("RFC 3339")
    }

    fn cron(line: &str, zone: Tz) -> Cron {
        Cron::parse(line, zone).unwrap_or_else(|e| panic!("{e}"))
    }

    /// All runs after `from` and up to `to`.
    fn runs(cron: &Cron, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
        std::iter::successors(cron.next(from), |at| cron.next(*at)).take_while(|at| *at <= to).collect()
    }

    fn zone(name: &str) -> Tz {
        name.parse().expect("a zone")
    }

    #[test]
    fn lines_are_read_as_crontab_reads_them() {
        // 2026-11-22 is a Sunday.
        let table = [
            ("0 0 6 * * *", "2026-11-22T06:00:00Z"),
            ("30 6 * * *", "2026-11-22T06:30:00Z"),
            ("0 6 * * 1-5", "2026-11-23T06:00:00Z"),
            ("0 6 * * 0", "2026-11-22T06:00:00Z"),
            ("0 6 * * 7", "2026-11-22T06:00:00Z"),
            ("0 6 * * sun", "2026-11-22T06:00:00Z"),
            ("0 6 * * Sat-SUN", "2026-11-22T06:00:00Z"),
            ("0 6 * * 5-7", "2026-11-22T06:00:00Z"),
            ("0 6 * * 2-4,SAT", "2026-11-24T06:00:00Z"),
            ("0 6 * * */3", "2026-11-22T06:00:00Z"),
            ("0 6 * * 1-6/2", "2026-11-23T06:00:00Z"),
            ("0 6 24 12 *", "2026-12-24T06:00:00Z"),
            ("0 6 24 dec *", "2026-12-24T06:00:00Z"),
            ("0 6 * Jan-feb *", "2027-01-01T06:00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            ("*/20 * * * *", "2026-11-22T00:20:00Z"),
            ("5-10/5,58 * * * *", "2026-11-22T00:05:00Z"),
            ("*/15 * * * * *", "2026-11-22T00:00:15Z"),
            ("59 59 23 31 12 *", "2026-12-31T23:59:59Z"),
            ("  0\t6   * * *  ", "2026-11-22T06:00:00Z"),
            ("@hourly", "2026-11-22T01:00:00Z"),
            ("@Daily", "2026-11-23T00:00:00Z"),
            ("@midnight", "2026-11-23T00:00:00Z"),
            ("@weekly", "2026-11-29T00:00:00Z"),
            ("@monthly", "2026-12-01T00:00:00Z"),
            ("@yearly", "2027-01-01T00:00:00Z"),
            ("@annually", "2027-01-01T00:00:00Z"),
            // Either day field, when both are restricted: the 13th, or a Friday.
            ("0 0 13 * FRI", "2026-11-27T00:00:00Z"),
            ("0 0 24 * FRI", "2026-11-24T00:00:00Z"),
            ("0 0 */30 * FRI", "2026-11-27T00:00:00Z"),
            // The 30th of February never comes, but its Mondays do.
            ("0 0 30 2 MON", "2027-02-01T00:00:00Z"),
        ];
        for (line, next) in table {
            let found = cron(line, UTC).next(at("2026-11-22T00:00:00Z"));
            assert_eq!(found, Some(at(next)), "{line}: {}", found.unwrap_or_default());
        }
    }

    #[test]
    fn a_wrong_line_names_its_field_and_what_it_takes() {
        let digits = "ranges `a-b`, steps `*/n` and lists `a,b`";
        let table = [
            ("61 * * * *", format!("`61` in the minute field is not valid; it takes 0-59, `*`, {digits}")),
            ("* 24 * * *", format!("`24` in the hour field is not valid; it takes 0-23, `*`, {digits}")),
            ("60 * * * * *", format!("`60` in the second field is not valid; it takes 0-59, `*`, {digits}")),
            ("* * 0 * *", format!("`0` in the day of month field is not valid; it takes 1-31, `*`, {digits}")),
            ("* * * 13 *", format!("`13` in the month field is not valid; it takes 1-12 or JAN-DEC, `*`, {digits}")),
            ("* * * * 8", format!("`8` in the day of week field is not valid; it takes 0-7 or SUN-SAT, `*`, {digits}")),
            ("* MON * * *", format!("`MON` in the hour field is not valid; it takes 0-23, `*`, {digits}")),
            ("-5 * * * *", format!("`-5` in the minute field is not valid; it takes 0-59, `*`, {digits}")),
            ("+5 * * * *", format!("`+5` in the minute field is not valid; it takes 0-59, `*`, {digits}")),
            ("99999999999 * * * *", format!("`99999999999` in the minute field is not valid; it takes 0-59, `*`, {digits}")),
            ("0 0 ? * 1", format!("`?` in the day of month field is not valid (a Quartz sign; write `*`); it takes 1-31, `*`, {digits}")),
            ("0 0 L * *", format!("`L` in the day of month field is not valid (`L`, `W` and `#` are not supported); it takes 1-31, `*`, {digits}")),
            ("0 0 * * 5#2", format!("`5#2` in the day of week field is not valid (`L`, `W` and `#` are not supported); it takes 0-7 or SUN-SAT, `*`, {digits}")),
            ("1,,2 * * * *", format!("an empty item in the minute field; it takes 0-59, `*`, {digits}")),
            ("*/0 * * * *", "`*/0` in the minute field: a step is a number from 1 to 59, such as `*/15`".into()),
            ("*/x * * * *", "`*/x` in the minute field: a step is a number from 1 to 59, such as `*/15`".into()),
            ("5/10 * * * *", "`5/10` in the minute field: a step needs `*` or a range; write `5-59/10`".into()),
            ("* 22-2 * * *", "`22-2` in the hour field runs backwards; write `22-23,0-2`".into()),
            ("* * * * FRI-MON", "`FRI-MON` in the day of week field runs backwards; write `FRI-SAT,SUN-MON`".into()),
            ("* * *", "`* * *` has 3 fields; a cron line has five (minute, hour, day of month, month, day of week), or six with seconds in front".into()),
            ("", "`` has 0 fields; a cron line has five (minute, hour, day of month, month, day of week), or six with seconds in front".into()),
            ("0 0 0 1 1 * 2026", "`0 0 0 1 1 * 2026` has 7 fields; a cron line has five (minute, hour, day of month, month, day of week), or six with seconds in front; a field for the year is not supported".into()),
            ("@reboot", "`@reboot` is not known; there are @hourly, @daily, @weekly, @monthly and @yearly".into()),
            ("0 0 30 2 *", "`0 0 30 2 *` never fires: none of its months has such a day".into()),
            ("0 0 0 31 4,6,9,11 *", "`0 0 0 31 4,6,9,11 *` never fires: none of its months has such a day".into()),
        ];
        for (line, error) in table {
            assert_eq!(Cron::parse(line, UTC).map(|c| c.to_string()), Err(error), "{line}");
        }
        let long = Cron::parse(&"1,".repeat(600), UTC).expect_err("too long");
        assert_eq!(long, "a cron line of 1200 bytes; at most 1000 are allowed");
    }

    /// Zone, line, from, and all runs in the twelve hours that follow.
    const CHANGES: &[(&str, &str, &str, &[&str])] = &[
        // Seoul has had no change since 1988.
        ("Asia/Seoul", "0 0 6 * * *", "2026-03-28T15:00:00Z", &["2026-03-28T21:00:00Z"]),
        // Berlin, 2026-03-29: 02:00 → 03:00 at 01:00Z.
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T23:00:00Z", &["2026-03-29T01:00:00Z"]),
        ("Europe/Berlin", "0,30 2 * * *", "2026-03-28T23:00:00Z", &["2026-03-29T01:00:00Z"]),
        ("Europe/Berlin", "*/20 2 * * *", "2026-03-28T23:00:00Z", &["2026-03-29T01:00:00Z"]),
        (
            "Europe/Berlin",
            "0 1-4 * * *",
            "2026-03-28T23:00:00Z",
            &["2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"],
        ),
        (
            "Europe/Berlin",
            "0 */2 * * *",
            "2026-03-28T21:30:00Z",
            &[
                "2026-03-28T23:00:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T02:00:00Z",
                "2026-03-29T04:00:00Z",
                "2026-03-29T06:00:00Z",
                "2026-03-29T08:00:00Z",
            ],
        ),
        // Berlin, 2026-10-25: 03:00 → 02:00 at 01:00Z.
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T22:00:00Z", &["2026-10-25T00:30:00Z"]),
        ("Europe/Berlin", "0,30 2 * * *", "2026-10-24T22:00:00Z", &["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z"]),
        (
            "Europe/Berlin",
            "0 1-3 * * *",
            "2026-10-24T22:00:00Z",
            &["2026-10-24T23:00:00Z", "2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z"],
        ),
        (
            "Europe/Berlin",
            "*/30 2 * * *",
            "2026-10-24T22:00:00Z",
            &["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"],
        ),
        // New York, 2026-03-08 at 07:00Z and 2026-11-01 at 06:00Z.
        ("America/New_York", "15 2 * * *", "2026-03-08T05:00:00Z", &["2026-03-08T07:00:00Z"]),
        ("America/New_York", "15 1 * * *", "2026-11-01T04:00:00Z", &["2026-11-01T05:15:00Z"]),
        (
            "America/New_York",
            "15 1,* * * *",
            "2026-11-01T04:30:00Z",
            &[
                "2026-11-01T05:15:00Z",
                "2026-11-01T06:15:00Z",
                "2026-11-01T07:15:00Z",
                "2026-11-01T08:15:00Z",
                "2026-11-01T09:15:00Z",
                "2026-11-01T10:15:00Z",
                "2026-11-01T11:15:00Z",
                "2026-11-01T12:15:00Z",
                "2026-11-01T13:15:00Z",
                "2026-11-01T14:15:00Z",
                "2026-11-01T15:15:00Z",
                "2026-11-01T16:15:00Z",
            ],
        ),
        // Lord Howe changes by half an hour: 2026-10-04 02:00 → 02:30 at 2026-10-03T15:30Z.
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T13:30:00Z", &["2026-10-03T15:30:00Z"]),
        ("Australia/Lord_Howe", "45 2 * * *", "2026-10-03T13:30:00Z", &["2026-10-03T15:45:00Z"]),
        // 2026-04-05 02:00 → 01:30 at 2026-04-04T15:00Z.
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T13:00:00Z", &["2026-04-04T14:45:00Z"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T14:50:00Z", &[]),
        (
            "Australia/Lord_Howe",
            "*/15 1 * * *",
            "2026-04-04T13:50:00Z",
            &[
                "2026-04-04T14:00:00Z",
                "2026-04-04T14:15:00Z",
                "2026-04-04T14:30:00Z",
                "2026-04-04T14:45:00Z",
                "2026-04-04T15:00:00Z",
                "2026-04-04T15:15:00Z",
            ],
        ),
        // Apia went from the evening of 2011-12-29 to the morning of the 31st, at 10:00Z: a whole day skipped.
        ("Pacific/Apia", "0 12 * * *", "2011-12-29T23:00:00Z", &["2011-12-30T10:00:00Z"]),
        ("Pacific/Apia", "0 12 30 12 *", "2011-12-29T23:00:00Z", &["2011-12-30T10:00:00Z"]),
        ("Pacific/Apia", "0 12 29 12 *", "2011-12-29T23:00:00Z", &[]),
        // Havana repeats midnight's hour: 2026-11-01 01:00 → 00:00 at 05:00Z.
        ("America/Havana", "30 0 * * *", "2026-11-01T03:30:00Z", &["2026-11-01T04:30:00Z"]),
        // Santiago skips midnight's hour: 2026-09-06 00:00 → 01:00 at 04:00Z.
        ("America/Santiago", "@daily", "2026-09-05T20:00:00Z", &["2026-09-06T04:00:00Z"]),
    ];

    #[test]
    fn known_changes_of_the_clock() {
        for (zone_name, line, from, expected) in CHANGES {
            let from = at(from);
            let found = runs(&cron(line, zone(zone_name)), from, from + std::time::Duration::from_secs(43_200));
            let expected: Vec<_> = expected.iter().map(|text| at(text)).collect();
            assert_eq!(found, expected, "{line} in {zone_name}");
        }
    }

    #[test]
    fn a_search_ends_where_the_years_end() {
        let yearly = cron("@yearly", zone("Pacific/Kiritimati"));
        assert_eq!(yearly.next(at("2099-06-01T00:00:00Z")), Some(at("2099-12-31T10:00:00Z")));
        assert_eq!(yearly.next(at("2100-06-01T00:00:00Z")), None);
        let leap = cron("0 0 29 2 *", UTC);
        assert_eq!(leap.next(at("2096-03-01T00:00:00Z")), None);
        for line in ["* * * * *", "0 0 * * *"] {
            let first = cron(line, UTC).next(Timestamp::from_millis(i64::MIN)).expect("from 1970 on");
            assert_eq!(first, Timestamp::EPOCH, "{line}");
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // Against croner, over every zone

    /// A change of a zone's offset.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Change {
        at: i64,
        before: i32,
        after: i32,
    }

    fn offset_seconds(zone: Tz, second: i64) -> i32 {
        let at = DateTime::from_timestamp(second, 0).expect("a plain year");
        zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()
    }

    /// The changes of a zone between two instants, found day by day.
    fn changes(zone: Tz, from: i64, to: i64) -> Vec<Change> {
        let mut found = Vec::new();
        let mut before = offset_seconds(zone, from);
        for day in (from..to).step_by(86_400) {
            let after = offset_seconds(zone, day + 86_400);
            if after != before {
                let [a, b] = [day, day + 86_400].map(|s| DateTime::from_timestamp(s, 0).expect("a plain year"));
                let at = first_where(a, b, |at| offset_seconds(zone, at.timestamp()) != before).timestamp();
                found.push(Change { at, before, after });
                before = after;
            }
        }
        found
    }

    /// Every distinct change of every zone from 2000 to 2030, each with a zone that has it. Two zones with the same
    /// change behave alike around it.
    fn all_changes() -> Vec<(Tz, Change)> {
        let (from, to) =
            (at("2000-01-01T00:00:00Z").as_millis() / 1_000, at("2030-01-01T00:00:00Z").as_millis() / 1_000);
        let mut seen = BTreeSet::new();
        TZ_VARIANTS
            .iter()
            .flat_map(|zone| changes(*zone, from, to).into_iter().map(|change| (*zone, change)))
            .filter(|(_, change)| seen.insert(*change))
            .collect()
    }

    #[test]
    fn croner_agrees_around_every_change_in_every_zone() {
        let hour = 3_600_000;
        let lines =
            ["30 2 * * *", "0 0 * * *", "15 1 * * 0", "*/10 * * * *", "30 * * * *", "0 */2 * * *", "0,30 1-3 * * *"];
        let (mut compared, mut apart) = (0, 0);
        let all = all_changes();
        assert!(all.len() > 500, "{} changes", all.len());
        for (index, (zone, change)) in all.into_iter().enumerate() {
            // Every change with two of the lines, in turn; every line thus meets hundreds of changes.
            for line in [lines[index % lines.len()], lines[(index / lines.len() + 3) % lines.len()]] {
                let ours = cron(line, zone);
                let oracle = croner::Cron::from_str(line).expect("croner reads it");
                let (from, to) = (change.at * 1_000 - 4 * hour - 1, change.at * 1_000 + 4 * hour);
                let ours_runs = runs(&ours, Timestamp::from_millis(from), Timestamp::from_millis(to));
                let begin = Timestamp::from_millis(from).to_utc().with_timezone(&zone);
                let theirs: Vec<i64> =
                    oracle.iter_after(begin).map(|at| at.timestamp_millis()).take_while(|ms| *ms <= to).collect();
                let interval = oracle.determine_job_type() == croner::JobType::IntervalWildcard;
                let gap = change.after > change.before;
                let second_pass = change.at * 1_000..(change.at + i64::from(change.before - change.after)) * 1_000;
                let kept = |ms: &i64| {
                    // croner drops the skipped times of every line but one with a single time of day, and of that
                    // too when the gap ends on a day that does not match or is longer than two hours; here a
                    // skipped time is always made up for, because a lost run is a blind spot.
                    let made_up = gap && *ms == change.at * 1_000 && !matches_wall(&oracle, *ms, zone);
                    // croner repeats a list or range of hours; here, as in Vixie cron, only `*` repeats.
                    let repeated = !gap && ours.fixed && interval && second_pass.contains(ms);
                    !(made_up || repeated)
                };
                let ours_kept: Vec<i64> = ours_runs.iter().map(|at| at.as_millis()).filter(kept).collect();
                let theirs_kept: Vec<i64> = theirs.iter().copied().filter(kept).collect();
                assert_eq!(ours_kept, theirs_kept, "{line} in {zone} around {change:?}");
                compared += ours_kept.len();
                apart += usize::from(ours_runs.iter().map(|at| at.as_millis()).ne(theirs.iter().copied()));
                // Where croner makes up for a skipped time, so do we.
                for ms in theirs.iter().filter(|ms| !kept(ms) && gap) {
                    assert!(ours_runs.contains(&Timestamp::from_millis(*ms)), "{line} in {zone} at {change:?}");
                }
            }
        }
        assert!(compared > 5_000 && apart > 50, "{compared} runs compared, {apart} windows differ by rule");
    }

    fn matches_wall(oracle: &croner::Cron, ms: i64, zone: Tz) -> bool {
        let local = Timestamp::from_millis(ms).to_utc().with_timezone(&zone);
        oracle.is_time_matching(&local).expect("a valid time")
    }

    // -----------------------------------------------------------------------------------------------------------
    // Against a scan of every minute

    /// A five-field line with the values its text means, made apart from the parser.
    #[derive(Clone, Debug)]
    struct Meant {
        texts: [String; 5],
        values: [BTreeSet<u32>; 5],
    }

    impl Meant {
        fn matches(&self, wall: NaiveDateTime) -> bool {
            let [minute, hour, day, month, weekday] = &self.values;
            let by_day = day.contains(&wall.day());
            let by_weekday = weekday.contains(&wall.weekday().num_days_from_sunday());
            let either = self.texts[2] != "*" && self.texts[4] != "*";
            minute.contains(&wall.minute())
                && hour.contains(&wall.hour())
                && month.contains(&wall.month())
                && if either { by_day || by_weekday } else { by_day && by_weekday }
        }

        fn follows_the_wall(&self) -> bool {
            self.texts[..2].iter().any(|text| text.starts_with('*'))
        }

        /// The first run after `after`, by the rule as it is stated, looking at each minute for two days.
        fn scan(&self, zone: Tz, after: i64) -> Option<i64> {
            let wall = |second: i64| {
                DateTime::from_timestamp(second, 0).expect("a plain year").with_timezone(&zone).naive_local()
            };
            let minute = TimeDelta::minutes(1);
            // From a day before, to know what the clock has shown already.
            let mut now = after.div_euclid(60) * 60 - 86_400;
            let mut latest = wall(now);
            while now <= after + 2 * 86_400 {
                now += 60;
                let shown = wall(now);
                let mut skipped = std::iter::successors(Some(latest + minute), |at| Some(*at + minute));
                let made_up = skipped.by_ref().take_while(|at| *at < shown).any(|at| self.matches(at));
                let runs = self.matches(shown) && (shown > latest || self.follows_the_wall());
                if now > after && (made_up || runs) {
                    return Some(now);
                }
                latest = latest.max(shown);
            }
            None
        }
    }

    fn field(min: u32, max: u32) -> impl Strategy<Value = (String, BTreeSet<u32>)> {
        let all = move || (min..=max).collect::<BTreeSet<u32>>();
        let one = (min..=max).prop_map(|v| (v.to_string(), BTreeSet::from([v])));
        let range = (min..=max, min..=max, 1..5_u32).prop_map(|(a, b, step)| {
            let (from, to) = (a.min(b), a.max(b));
            let text = if step == 1 { format!("{from}-{to}") } else { format!("{from}-{to}/{step}") };
            (text, (from..=to).step_by(step as usize).collect())
        });
        let list = proptest::collection::vec(min..=max, 1..4)
            .prop_map(|vs| (vs.iter().map(u32::to_string).collect::<Vec<_>>().join(","), vs.into_iter().collect()));
        prop_oneof![
            4 => Just(("*".to_owned(), all())),
            3 => (2..=max).prop_map(move |n| (format!("*/{n}"), (min..=max).step_by(n as usize).collect())),
            3 => one,
            1 => range,
            2 => list,
        ]
    }

    fn meant() -> impl Strategy<Value = Meant> {
        (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6))
            .prop_map(|(a, b, c, d, e)| Meant { texts: [a.0, b.0, c.0, d.0, e.0], values: [a.1, b.1, c.1, d.1, e.1] })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn next_is_what_a_scan_of_every_minute_finds(
            meant in meant(),
            zone_index in 0..TZ_VARIANTS.len(),
            year_start in 1975_i64..2035,
            pick in any::<prop::sample::Index>(),
            around_s in -90_000_i64..90_000,
        ) {
            let zone = TZ_VARIANTS[zone_index];
            let start = (year_start - 1970) * 31_556_952;
            // Near a change of the clock where the zone has one in that year, else anywhere in it.
            let near = changes(zone, start, start + 31_556_952);
            let after = if near.is_empty() { start } else { near[pick.index(near.len())].at } + around_s;
            let line = meant.texts.join(" ");
            let cron = match Cron::parse(&line, zone) {
                Ok(cron) => cron,
                Err(error) => {
                    let longest = |month: &u32| [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][*month as usize - 1];
                    let exists = meant.values[2].iter().any(|day| meant.values[3].iter().any(|m| *day <= longest(m)));
                    prop_assert!(!exists && error.contains("never fires"), "{}", error);
                    return Ok(());
                }
            };
            let next = cron.next(Timestamp::from_millis(after * 1_000));
            match meant.scan(zone, after) {
                Some(expected) => prop_assert_eq!(next, Some(Timestamp::from_millis(expected * 1_000)), "{} {}", line, zone),
                None => prop_assert!(next.is_none_or(|at| at.as_millis() > (after + 2 * 86_400) * 1_000), "{} {} {:?}", line, zone, next),
            }
        }

        #[test]
        fn no_text_is_a_panic(text in "[-0-9*/,@?LW#A-Za-z ]{0,40}|\\PC{0,40}") {
            if let Ok(cron) = Cron::parse(&text, UTC) {
                let start = at("2026-11-22T00:00:00Z");
                prop_assert!(cron.next(start).is_none_or(|next| next > start));
            }
        }
    }
}
