//! Secrets, and the masker that keeps them out of everything that is shown.

use std::{borrow::Cow, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use url::Url;

/// A password, token or key. Never shown: `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a text that must not be shown.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::new)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A secret; better ${env:NAME}, ${file:/path} or ${credential:name} than the text itself",
            "type": "string"
        })
    }
}

/// Replaces every known secret in a text by `***`. One masker is made when the configuration is loaded and goes
/// wherever text is rendered: reasons, transcripts, logs, errors.
#[derive(Clone, Debug, Default)]
pub struct Masker(Arc<Vec<Secret>>);

impl Masker {
    /// Shortest secret that is masked: replacing every `a` of a text would hide the text and tell the secret.
    pub const BYTES_MIN: usize = 3;

    /// Shortest beginning or end of a secret in characters that is masked where a text was cut: shorter ones occur by chance.
    pub const CUT_CHARS_MIN: usize = 4;

    /// A masker for these secrets and for the forms in which protocols and programs write them, longest first.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let long = secrets.into_iter().filter(|s| s.expose().len() >= Self::BYTES_MIN);
        Self::exactly(long.flat_map(|secret| forms(secret.expose())).map(Secret::new).collect())
    }

    /// A masker for these texts as they stand.
    pub fn exactly(mut all: Vec<Secret>) -> Self {
        all.retain(|s| s.expose().len() >= Self::BYTES_MIN);
        all.sort_by(|a, b| b.expose().len().cmp(&a.expose().len()).then_with(|| a.expose().cmp(b.expose())));
        all.dedup();
        Self(Arc::new(all))
    }

    /// The same for one text more, as it stands, unless there are so many already.
    pub fn with(&self, text: &str, most: usize) -> Self {
        if self.0.len() >= most {
            return self.clone();
        }
        Self::exactly(self.0.iter().cloned().chain([Secret::new(text)]).collect())
    }

    /// The text with every secret replaced; where it was cut (`…`), what is left of one at the cut as well.
    pub fn mask<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for secret in self.0.iter() {
            if text.contains(secret.expose()) {
                text = Cow::Owned(text.replace(secret.expose(), "***"));
            }
        }
        if text.contains(CUT) && !self.0.is_empty() {
            let pieces: Vec<Cow<'_, str>> = text.split(CUT).map(Cow::Borrowed).collect();
            let last = pieces.len() - 1;
            let masked = pieces.into_iter().enumerate().map(|(n, mut piece)| {
                if let Some(kept) =
                    self.0.iter().find_map(|s| without_beginning(&piece, s.expose())).filter(|_| n < last)
                {
                    piece = format!("{kept}***").into();
                }
                if let Some(kept) = self.0.iter().find_map(|s| without_end(&piece, s.expose())).filter(|_| n > 0) {
                    piece = format!("***{kept}").into();
                }
                piece
            });
            text = Cow::Owned(masked.collect::<Vec<_>>().join("…"));
        }
        text
    }
}

/// What stands where a text was cut.
const CUT: char = '…';

/// How a secret is written: as it stands, in Base64 by itself and within other bytes, in URLs, in forms, in JSON, and
/// with its control characters escaped. Most secrets are the same in most of them.
fn forms(secret: &str) -> Vec<String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut forms = vec![secret.to_owned(), STANDARD.encode(secret)];
    forms.extend((0..3).filter_map(|offset| within_base64(secret, offset)));
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let percent = form.replace('+', "%20");
    forms.extend([with_small_digits(&form), with_small_digits(&percent), form, percent]);
    let json = Value::from(secret).to_string();
    let json = json[1..json.len() - 1].to_owned();
    forms.push(json.chars().map(|c| if c.is_ascii() { c.to_string() } else { in_json(c) }).collect());
    forms.push(json.replace('/', "\\/"));
    forms.push(json);
    forms.push(secret.replace('\\', "\\\\").replace('\r', "\\r").replace('\n', "\\n").replace('\t', "\\t"));
    if let Ok(base) = Url::parse("http://h/") {
        let within = |change: &dyn Fn(&mut Url), part: fn(&Url) -> Option<&str>| {
            let mut url = base.clone();
            change(&mut url);
            part(&url).map(str::to_owned)
        };
        let path = |url: &mut Url| url.set_path(secret);
        forms.extend(within(&path, |url| url.path().strip_prefix('/')));
        forms.extend(within(&|url| url.set_query(Some(secret)), Url::query));
        forms.extend(within(&|url| url.set_password(Some(secret)).unwrap_or_default(), Url::password));
    }
    forms.retain(|form| form.len() >= Masker::BYTES_MIN);
    forms
}

/// The same with the digits of percent-encoding in small letters, which are as good (RFC 3986, section 2.1).
fn with_small_digits(encoded: &str) -> String {
    let mut digits = 0;
    let small = |c: char| {
        let within = digits > 0;
        digits = if c == '%' { 2 } else { u8::saturating_sub(digits, 1) };
        if within { c.to_ascii_lowercase() } else { c }
    };
    encoded.chars().map(small).collect()
}

/// A character beyond ASCII as JSON's escapes write it (RFC 8259, section 7).
fn in_json(c: char) -> String {
    c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

/// What stands before the beginning of a secret with which a text ends, if it ends so.
fn without_beginning<'t>(text: &'t str, secret: &str) -> Option<&'t str> {
    let least = secret.char_indices().nth(Masker::CUT_CHARS_MIN)?.0;
    let cuts = secret.char_indices().rev().map(|(at, _)| at).take_while(|at| *at >= least);
    { cuts }.find_map(|at| text.strip_suffix(&secret[..at]))
}

/// What follows the end of a secret with which a text begins, if it begins so.
fn without_end<'t>(text: &'t str, secret: &str) -> Option<&'t str> {
    let left = secret.chars().count().saturating_sub(Masker::CUT_CHARS_MIN);
    let cuts = secret.char_indices().take(left + 1).skip(1).map(|(at, _)| at);
    { cuts }.find_map(|at| text.strip_prefix(&secret[at..]))
}

/// Shortest part of a Base64 text that is masked: shorter ones occur by chance.
const BASE64_PART_MIN: usize = 8;

/// The characters that a secret alone decides when it is encoded behind `offset` (modulo 3) other bytes, as in
/// `Basic` credentials, where a user name stands before the password.
fn within_base64(secret: &str, offset: usize) -> Option<String> {
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
    let mut bytes = vec![0; offset];
    bytes.extend(secret.as_bytes());
    let encoded = STANDARD_NO_PAD.encode(&bytes);
    // A character holds 6 bits; those that share bits with a neighbour are not the secret's alone.
    let (first, last) = ((offset * 8).div_ceil(6), bytes.len() * 8 / 6);
    let part = encoded.get(first..last).filter(|part| part.len() >= BASE64_PART_MIN)?;
    Some(part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_masked_as_others_write_it() {
        let masker = Masker::new([Secret::new("päß \"w\\ö/rd+x"), Secret::new("tok en=abc!")]);
        for text in [
            r#"{"said":"päß \"w\\ö/rd+x"}"#,
            r#"{"said":"p\u00e4\u00df \"w\\\u00f6/rd+x"}"#,
            "got \"päß \"w\\\\ö/rd+x\\r\\n\"",
            "http://h/hook/tok%20en=abc!",
            "http://h/?a=tok%20en=abc!",
            "token=tok+en%3Dabc%21",
            "http://u:tok%20en%3Dabc!@h/",
            "tok%20en%3dabc%21",
            "{\"said\":\"p\u{e4}\u{df} \\\"w\\\\\u{f6}\\/rd+x\"}",
        ] {
            let masked = masker.mask(text);
            assert!(masked.contains("***") && !masked.contains("rd") && !masked.contains("abc"), "{text}: {masked}");
        }
    }

    #[test]
    fn what_a_cut_leaves_of_a_secret_is_masked() {
        let masker = Masker::new([Secret::new("hunter2-secret")]);
        for (text, expected) in [
            ("the body is \"xx hunter2-sec…\"", "the body is \"xx ***…\""),
            ("AUTH hunt…", "AUTH ***…"),
            ("AUTH hun…", "AUTH hun…"),
            ("…2-secret\" x", "…***\" x"),
            ("hunt and 2-secret", "hunt and 2-secret"),
            ("a… hunter2-secret …b", "a… *** …b"),
        ] {
            assert_eq!(masker.mask(text), expected);
        }
        assert_eq!(Masker::default().mask("a…"), "a…");
    }

    #[test]
    fn a_secret_is_masked_within_encoded_credentials() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let masker = Masker::new([Secret::new("correct-horse")]);
        for user in ["", "a", "ab", "abc", "probe"] {
            for rest in ["", "x", "xy"] {
                let encoded = STANDARD.encode(format!("{user}:correct-horse{rest}"));
                let masked = masker.mask(&encoded).into_owned();
                assert!(masked.contains("***"), "{encoded} {masked}");
                assert!(masked.len() <= encoded.len() - 12, "most of it is gone: {encoded} {masked}");
            }
        }
        assert_eq!(masker.mask("an ordinary text"), "an ordinary text");
    }

    #[test]
    fn no_secret_survives_the_masker() {
        let masker =
            Masker::new([Secret::new("hunter2"), Secret::new("hunter22"), Secret::new("p@ss/w"), Secret::new("ab")]);
        let text = "x hunter22 hunter2 aHVudGVyMg== p%40ss%2Fw ab";
        assert_eq!(masker.mask(text), "x *** *** *** *** ab");
        assert_eq!(format!("{:?} {}", Secret::new("k"), Secret::new("k")), "*** ***");
    }
}
