//! Secrets, and the masker that keeps them out of everything that is shown.

use std::{borrow::Cow, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

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

    /// A masker for these secrets and for their Base64 and percent-encoded forms, longest first.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let mut all: Vec<Secret> = secrets
            .into_iter()
            .filter(|s| s.expose().len() >= Self::BYTES_MIN)
            .flat_map(|s| {
                let encoded: String = url::form_urlencoded::byte_serialize(s.expose().as_bytes()).collect();
                let base64 = STANDARD.encode(s.expose());
                let within = (0..3).filter_map(|offset| within_base64(s.expose(), offset)).map(Secret::new);
                let mut forms: Vec<Secret> = within.collect();
                forms.extend([s, Secret::new(encoded), Secret::new(base64)]);
                forms
            })
            .collect();
        all.sort_by(|a, b| b.expose().len().cmp(&a.expose().len()).then_with(|| a.expose().cmp(b.expose())));
        all.dedup();
        Self(Arc::new(all))
    }

    /// The text with every secret replaced.
    pub fn mask<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for secret in self.0.iter() {
            if text.contains(secret.expose()) {
                text = Cow::Owned(text.replace(secret.expose(), "***"));
            }
        }
        text
    }
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
