//! Who is asking: access tokens, refresh tokens, passwords, limits on guessing.
//!
//! - [`jwt`] signed access tokens of 15 minutes
//! - [`refresh`] rotating refresh tokens, stored as hashes only
//! - [`password`] argon2id with bounded concurrency
//! - [`code`] one-time codes and addresses, [`courier`] brings them to people
//! - [`issuer`] tokens of an issuer that the operator names
//! - [`wrap`] private signing keys under the cluster secret
//! - [`limiter`] how often an address may try
//!
//! Invariant: an answer does not tell whether an account exists, and no secret is compared byte by byte.

pub mod code;
pub mod courier;
pub mod issuer;
pub mod jwt;
pub mod limiter;
pub mod password;
pub mod refresh;
pub mod wrap;

use flotilla_proto::ids::{DeviceId, Hash32, TsMs, UserId};
use sha2::{Digest, Sha256};

/// A caller that proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub user: UserId,
    /// None for a demo user that has not named a device.
    pub device: Option<DeviceId>,
    /// None for a demo user: such a token does not expire.
    pub expires: Option<TsMs>,
}

/// Why a token was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is not valid")]
    Invalid,
    #[error("the token has expired")]
    Expired,
    /// A node that has just come to the cluster does not know its keys yet: nothing is said of the token.
    #[error("this node cannot check tokens yet")]
    NotYet,
}

/// SHA-256 of a secret, as tables keep it.
pub fn secret_hash(secret: &[u8]) -> Hash32 {
    Hash32(Sha256::digest(secret).into())
}

/// 128 random bits for a new device id.
pub fn random_u128() -> u128 {
    rand::random()
}

/// `dev:USER`, taken only where the node was started with `--auth dev` and both ends are on loopback.
pub fn dev_user(token: &str) -> Option<UserId> {
    UserId::parse(token.strip_prefix("dev:")?).ok()
}
