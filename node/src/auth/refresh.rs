//! Refresh tokens: `fr1.<user>.<device>.<random>`. The server keeps only their SHA-256; rotation is a command.
//!
//! A user id may hold dots, so the text is taken apart from its end.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flotilla_proto::ids::{DeviceId, Hash32, UserId};
use flotilla_proto::limits;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refresh {
    pub user: UserId,
    pub device: DeviceId,
    pub hash: Hash32,
}

/// The secret part of a new token. Made before the device is known, so the stored hash covers this part alone.
pub fn random_secret() -> String {
    let bytes: [u8; 32] = rand::random();
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn hash(secret: &str) -> Hash32 {
    super::secret_hash(secret.as_bytes())
}

pub fn token(user: &UserId, device: DeviceId, secret: &str) -> String {
    format!("fr1.{user}.{device}.{secret}")
}

/// None for anything that is not of this form.
pub fn parse(text: &str) -> Option<Refresh> {
    if text.len() > limits::TOKEN_BYTES_MAX {
        return None;
    }
    let mut parts = text.strip_prefix("fr1.")?.rsplitn(3, '.');
    let secret = parts.next()?;
    let device = DeviceId::parse(parts.next()?).ok()?;
    let user = UserId::parse(parts.next()?).ok()?;
    (secret.len() == 43).then(|| Refresh { user, device, hash: hash(secret) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_dots_keeps_its_token() {
        let user = UserId::parse("a.b-c.d").expect("valid");
        let secret = random_secret();
        let text = token(&user, DeviceId(5), &secret);
        assert_eq!(parse(&text), Some(Refresh { user, device: DeviceId(5), hash: hash(&secret) }));
        for bad in ["", "fr1.", "fr1.a.b.c", "fr2.a.b.c", &text[..text.len() - 1]] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
