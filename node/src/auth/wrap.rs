//! Private signing keys at rest: ChaCha20-Poly1305 under the cluster secret, a file of 32 bytes that no log holds.
//!
//! Wrapped form: nonce (12 bytes), ciphertext, tag. The key's id is authenticated with it, so that two keys cannot be
//! swapped.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};

use crate::backend::SigningKey;

pub const CLUSTER_SECRET_BYTES: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    #[error("the private signing key cannot be opened: the cluster secret of this node is not the one of `init`")]
    WrongSecret,
    #[error("the private signing key could not be wrapped")]
    Failed,
}

/// A new random key pair.
pub fn generate(id: u32) -> SigningKey {
    let private: [u8; 32] = rand::random();
    let public = ed25519_dalek::SigningKey::from_bytes(&private).verifying_key().to_bytes();
    SigningKey { id, public, private: Some(private) }
}

pub fn wrap(secret: &[u8; CLUSTER_SECRET_BYTES], id: u32, private: &[u8; 32]) -> Result<Vec<u8>, WrapError> {
    let nonce: [u8; 12] = rand::random();
    let cipher = ChaCha20Poly1305::new(&Key::from(*secret));
    let payload = Payload { msg: private, aad: &id.to_be_bytes() };
    let sealed = cipher.encrypt(&Nonce::from(nonce), payload).map_err(|_| WrapError::Failed)?;
    Ok([nonce.as_slice(), &sealed].concat())
}

pub fn unwrap(secret: &[u8; CLUSTER_SECRET_BYTES], id: u32, wrapped: &[u8]) -> Result<[u8; 32], WrapError> {
    let (nonce, sealed) = wrapped.split_first_chunk::<12>().ok_or(WrapError::WrongSecret)?;
    let cipher = ChaCha20Poly1305::new(&Key::from(*secret));
    let payload = Payload { msg: sealed, aad: &id.to_be_bytes() };
    let private = cipher.decrypt(&Nonce::from(*nonce), payload).map_err(|_| WrapError::WrongSecret)?;
    private.try_into().map_err(|_| WrapError::WrongSecret)
}

/// A key of its own for each purpose, so that none can be used for another.
pub fn derive(secret: &[u8; CLUSTER_SECRET_BYTES], purpose: &str) -> [u8; 32] {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let mut out = [0; 32];
    out.copy_from_slice(ring::hmac::sign(&key, purpose.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_key_opens_with_its_own_secret_and_id_only() {
        let key = generate(3);
        let private = key.private.expect("just made");
        let wrapped = wrap(&[1; 32], 3, &private).expect("wraps");
        assert_eq!(unwrap(&[1; 32], 3, &wrapped), Ok(private));
        assert_eq!(unwrap(&[2; 32], 3, &wrapped), Err(WrapError::WrongSecret));
        assert_eq!(unwrap(&[1; 32], 4, &wrapped), Err(WrapError::WrongSecret));
        assert_eq!(unwrap(&[1; 32], 3, &wrapped[..5]), Err(WrapError::WrongSecret));
    }
}
