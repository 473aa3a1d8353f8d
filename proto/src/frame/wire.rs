//! How single values look on the client wire where their own form differs.

/// A 64-bit id: text in JSON (JavaScript loses digits above 2^53), an integer in MessagePack.
pub mod session_no {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::ids::SessionNo;

    pub fn serialize<S: Serializer>(v: &SessionNo, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(v) } else { s.serialize_u64(v.0) }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SessionNo, D::Error> {
        if d.is_human_readable() {
            let text = String::deserialize(d)?;
            text.parse().map(SessionNo).map_err(D::Error::custom)
        } else {
            u64::deserialize(d).map(SessionNo)
        }
    }
}

/// A device id that may be missing, null or empty: a client that has none yet.
pub mod maybe_device {
    use std::fmt;

    use serde::de::{Deserializer, Error, Visitor};

    use crate::ids::DeviceId;

    struct Maybe;

    impl<'de> Visitor<'de> for Maybe {
        type Value = Option<DeviceId>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a device id, or nothing")
        }

        fn visit_str<E: Error>(self, v: &str) -> Result<Self::Value, E> {
            if v.is_empty() { Ok(None) } else { DeviceId::parse(v).map(Some).map_err(E::custom) }
        }

        fn visit_bytes<E: Error>(self, v: &[u8]) -> Result<Self::Value, E> {
            if v.is_empty() {
                return Ok(None);
            }
            let bytes: [u8; 16] = v.try_into().map_err(|_| E::invalid_length(v.len(), &self))?;
            Ok(Some(DeviceId(u128::from_be_bytes(bytes))))
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
            d.deserialize_any(self)
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<DeviceId>, D::Error> {
        d.deserialize_any(Maybe)
    }
}

pub fn is_false(v: &bool) -> bool {
    !*v
}

pub fn is_zero(v: &u64) -> bool {
    *v == 0
}
