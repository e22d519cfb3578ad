//! A setting that may be switched off.

use std::{fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, IntoDeserializer, Visitor, value::StrDeserializer},
};

/// A value that may be switched off, against what would be inherited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Switch<T> {
    /// `off`.
    Off,
    /// The value.
    On(T),
}

impl<T> Switch<T> {
    /// The value, if it is on.
    pub fn on(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for V<T> {
            type Value = Switch<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value such as 800ms or 20%, or `off`,")
            }
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Switch<T>, E> {
                if on { Err(E::invalid_type(de::Unexpected::Bool(true), &self)) } else { Ok(Switch::Off) }
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Switch<T>, E> {
                if text == "off" {
                    return Ok(Switch::Off);
                }
                let text: StrDeserializer<'_, E> = text.into_deserializer();
                T::deserialize(text).map(Switch::On)
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Switch<T>, E> {
                T::deserialize(n.into_deserializer()).map(Switch::On)
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Switch<T>, E> {
                T::deserialize(n.into_deserializer()).map(Switch::On)
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> Result<Switch<T>, E> {
                T::deserialize(n.into_deserializer()).map(Switch::On)
            }
        }
        d.deserialize_any(V(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Switch<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}OrOff", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [value, { "enum": ["off", false] }] })
    }
}
