//! The options of the webhook channel, as typed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::preset::Preset;
use crate::{
    protocol::wire::TlsOptions,
    value::{Secret, TimeSpan},
};

/// Alerts by webhook.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    /// Where to send: `https://hooks.example.com/alerts`.
    pub(super) url: Secret,
    /// `POST` (default), `PUT` or `PATCH`.
    #[serde(default)]
    pub(super) method: Verb,
    /// The form of the body.
    #[serde(default)]
    pub(super) preset: Preset,
    /// A body of one's own, as a minijinja template; it sees `alert`, `message`, `title`, `text`, `tag`.
    pub(super) template: Option<String>,
    /// The same in a file.
    pub(super) template_file: Option<String>,
    /// The type of a template's body; `application/json` by default, and then checked to be JSON.
    pub(super) content_type: Option<String>,
    /// Further headers.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Secret>,
    /// Signs every request by Standard Webhooks: `whsec_` and Base64, or any text.
    pub(super) secret: Option<Secret>,
    /// `Authorization: Bearer`.
    pub(super) bearer: Option<Secret>,
    /// `Authorization: Basic`.
    pub(super) username: Option<String>,
    /// Its password.
    pub(super) password: Option<Secret>,
    /// The chat, for `preset: telegram`.
    pub(super) chat_id: Option<String>,
    /// How long the receiver may take.
    pub(super) timeout: Option<TimeSpan>,
    /// The zone in which times are told, such as `Asia/Seoul`; UTC by default.
    pub(super) timezone: Option<String>,
    /// Whom to trust.
    #[serde(default)]
    pub(super) tls: TlsOptions,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Verb {
    #[default]
    Post,
    Put,
    Patch,
}
