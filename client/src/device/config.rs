//! What a device is told at its start.

use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::frame::{ClientInfo, Encoding};
use flotilla_proto::ids::UserId;
use futures::future::{self, BoxFuture, FutureExt};

use crate::history::Recorder;

/// Why no token could be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// Later, perhaps.
    #[error("no token now: {0}")]
    Later(String),
    /// The person must log in.
    #[error("log in again: {0}")]
    Denied(String),
}

/// Gives the access token; `fresh` after the server said that the last one is no longer good.
pub type TokenSource = Arc<dyn Fn(bool) -> BoxFuture<'static, Result<String, TokenError>> + Send + Sync>;

/// Always the same token: demo users, tests.
pub fn fixed_token(token: impl Into<String>) -> TokenSource {
    let token = token.into();
    Arc::new(move |_| future::ready(Ok(token.clone())).boxed())
}

#[derive(Clone)]
pub struct Config {
    /// Base URLs like `http://127.0.0.1:4001`; any node serves any device.
    pub urls: Vec<String>,
    pub user: UserId,
    pub token: TokenSource,
    pub client: ClientInfo,
    pub encoding: Encoding,
    /// Unacked entries that the server may send ahead; none: the server's own bound.
    pub window: Option<u32>,
    /// First pause of the back-off; doubled up to `backoff_max`, with full jitter.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// The device's name in the history.
    pub label: String,
    pub recorder: Recorder,
}

impl Config {
    pub fn new(urls: Vec<String>, user: UserId, token: TokenSource) -> Self {
        let client = ClientInfo {
            name: "flotilla-client".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            platform: std::env::consts::OS.into(),
        };
        Self {
            urls,
            label: user.to_string(),
            user,
            token,
            client,
            encoding: Encoding::MsgPack,
            window: None,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            recorder: Recorder::off(),
        }
    }
}
