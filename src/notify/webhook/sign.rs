//! Signatures by Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;

use crate::value::{Secret, Timestamp};

/// What a secret begins with when Base64 follows.
const PREFIX: &str = "whsec_";

/// A key to sign with.
#[derive(Debug)]
pub struct Signer(hmac::Key);

impl Signer {
    /// From `whsec_` and Base64, or from any other text as it stands.
    ///
    /// # Errors
    /// When the Base64 is none, or the secret is empty.
    pub fn new(secret: &Secret) -> Result<Self, String> {
        let text = secret.expose();
        let key = match text.strip_prefix(PREFIX) {
            Some(encoded) => {
                STANDARD.decode(encoded.trim()).map_err(|_| format!("what follows {PREFIX} is no Base64"))?
            }
            None => text.as_bytes().to_vec(),
        };
        if key.is_empty() {
            return Err("the secret is empty".into());
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The header `webhook-signature` for a message sent now; the headers `webhook-id` and `webhook-timestamp` must
    /// say the same id and the same second.
    pub fn sign(&self, id: &str, now: Timestamp, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{}.", seconds(now)).as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

/// The header `webhook-timestamp`: whole seconds since the epoch.
pub fn seconds(now: Timestamp) -> i64 {
    now.as_millis().div_euclid(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_standard_is_met() {
        // From the specification's own test vector.
        let signer = Signer::new(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).expect("a secret");
        let signature = signer.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            Timestamp::from_millis(1_614_265_330_999),
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_checked() {
        for (secret, good) in
            [("whsec_AAAA", true), ("plain text", true), ("whsec_???", false), ("whsec_", false), ("", false)]
        {
            assert_eq!(Signer::new(&Secret::new(secret)).is_ok(), good, "{secret}");
        }
    }
}
