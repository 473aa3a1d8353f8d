//! Access tokens: compact JWS (RFC 7515) with Ed25519 (RFC 8037), made and read by hand because one algorithm is enough.
//!
//! Invariant: only `EdDSA` with a known `kid` is accepted, whatever the header asks for; the audience is this cluster.
//! The clock is the caller's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer, VerifyingKey};
use flotilla_proto::ids::{ClusterId, DeviceId, TsMs, UserId};
use flotilla_proto::limits;
use serde::{Deserialize, Serialize};

use super::{Caller, TokenError};
use crate::backend::SigningKey;

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: UserId,
    dev: DeviceId,
    /// Seconds since the Unix epoch, as RFC 7519 has it.
    iat: u64,
    exp: u64,
    aud: ClusterId,
}

/// A token and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub token: String,
    pub expires: TsMs,
}

/// Signs with the newest key whose private half is here; none if there is no such key.
pub fn issue(keys: &[SigningKey], cluster: ClusterId, user: &UserId, device: DeviceId, now: TsMs) -> Option<Issued> {
    let iat = now.0 / 1_000;
    let exp = iat + limits::ACCESS_TOKEN_S;
    let claims = Claims { sub: user.clone(), dev: device, iat, exp, aud: cluster };
    Some(Issued { token: seal(keys, "JWT", &claims)?, expires: TsMs(exp * 1_000) })
}

/// Any claims under a signature. `typ` keeps one kind of token from being taken for another.
pub fn seal<T: Serialize>(keys: &[SigningKey], typ: &str, claims: &T) -> Option<String> {
    let (key, private) = keys.iter().rev().find_map(|k| k.private.as_ref().map(|p| (k, p)))?;
    let header = Header { alg: "EdDSA".into(), typ: typ.to_owned(), kid: key.id.to_string() };
    let mut token = String::with_capacity(384);
    part(&header, &mut token);
    token.push('.');
    part(claims, &mut token);
    let signature = ed25519_dalek::SigningKey::from_bytes(private).sign(token.as_bytes());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature.to_bytes(), &mut token);
    Some(token)
}

fn part<T: Serialize>(value: &T, out: &mut String) {
    let json = serde_json::to_vec(value).expect("plain structs with text keys encode");
    URL_SAFE_NO_PAD.encode_string(json, out);
}

/// Checks form, algorithm, key, signature, audience and time, in this order.
pub fn verify(keys: &[SigningKey], cluster: ClusterId, token: &str, now: TsMs) -> Result<Caller, TokenError> {
    if token.len() > limits::TOKEN_BYTES_MAX {
        return Err(TokenError::Invalid);
    }
    let claims: Claims = open(keys, "JWT", token)?;
    if claims.aud != cluster {
        return Err(TokenError::Invalid);
    }
    let expires = TsMs(claims.exp.saturating_mul(1_000));
    if expires <= now {
        return Err(TokenError::Expired);
    }
    Ok(Caller { user: claims.sub, device: Some(claims.dev), expires: Some(expires) })
}

/// The claims of a token that [`seal`] made with the same `typ`. The caller bounds its length.
pub fn open<T: for<'de> Deserialize<'de>>(keys: &[SigningKey], typ: &str, token: &str) -> Result<T, TokenError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Invalid)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Invalid)?;
    let header: Header = read(header)?;
    if header.alg != "EdDSA" || header.typ != typ {
        return Err(TokenError::Invalid);
    }
    let key = keys.iter().find(|k| k.id.to_string() == header.kid).ok_or(TokenError::Invalid)?;
    let key = VerifyingKey::from_bytes(&key.public).map_err(|_| TokenError::Invalid)?;
    let signature = bytes(signature)?;
    let signature = Signature::from_slice(&signature).map_err(|_| TokenError::Invalid)?;
    key.verify_strict(signed.as_bytes(), &signature).map_err(|_| TokenError::Invalid)?;
    read(claims)
}

fn bytes(text: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Invalid)
}

fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, TokenError> {
    serde_json::from_slice(&bytes(text)?).map_err(|_| TokenError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> SigningKey {
        let private = [id as u8; 32];
        let public = ed25519_dalek::SigningKey::from_bytes(&private).verifying_key().to_bytes();
        SigningKey { id, public, private: Some(private) }
    }

    fn alice() -> UserId {
        UserId::parse("alice").expect("valid")
    }

    const NOW: TsMs = TsMs(1_700_000_000_000);

    #[test]
    fn a_token_is_good_for_fifteen_minutes_in_its_own_cluster() {
        let keys = [key(1), key(2)];
        let issued = issue(&keys, ClusterId(7), &alice(), DeviceId(9), NOW).expect("a private key");
        let caller = verify(&keys, ClusterId(7), &issued.token, NOW).expect("valid");
        assert_eq!((caller.user, caller.device), (alice(), Some(DeviceId(9))));
        assert_eq!(issued.expires.0 - NOW.0, 15 * 60 * 1_000);
        assert_eq!(verify(&keys, ClusterId(7), &issued.token, issued.expires), Err(TokenError::Expired));
        assert_eq!(verify(&keys, ClusterId(8), &issued.token, NOW), Err(TokenError::Invalid));
        assert_eq!(verify(&keys[..1], ClusterId(7), &issued.token, NOW), Err(TokenError::Invalid), "unknown kid");
    }

    #[test]
    fn other_algorithms_and_any_changed_character_are_refused() {
        let keys = [key(1)];
        let good = issue(&keys, ClusterId(7), &alice(), DeviceId(9), NOW).expect("a private key").token;
        for i in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[i] = if bad[i] == b'A' { b'B' } else { b'A' };
            let bad = String::from_utf8(bad).expect("ascii");
            assert!(verify(&keys, ClusterId(7), &bad, NOW).is_err(), "changed at {i}");
        }
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT","kid":"1"}"#);
        let claims = good.split('.').nth(1).expect("three parts");
        assert_eq!(verify(&keys, ClusterId(7), &format!("{none}.{claims}."), NOW), Err(TokenError::Invalid));
        for bad in ["", ".", "..", "a.b", "dev:alice", &"x".repeat(10_000)] {
            assert!(verify(&keys, ClusterId(7), bad, NOW).is_err());
        }
    }
}
