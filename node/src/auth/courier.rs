//! Brings one-time codes to people: over a webhook of the operator, or (demo users' nodes) into the log.
//!
//! `POST` of `{"channel": "phone" | "email", "to", "code", "expires_in_s", "id"}`, signed like `Flotilla-Timestamp: SECONDS` and
//! `Flotilla-Signature: v1=HEX`, HEX = HMAC-SHA256 under the shared secret of `SECONDS.BODY`. The receiver refuses what is old
//! or carries an `id` that it has seen (the same code, sent again); any 2xx is a yes. At most three tries.
//!
//! Invariant: neither code, address nor secret stands in a log, but for the demo's purpose. Who asks is not kept waiting, and
//! does not learn how it went: that would tell which addresses exist.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::limits;
use hyper::{Method, StatusCode, header};
use ring::hmac;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::code::{Address, Made};
use crate::metrics::{Counter, Registry};
use crate::outgoing::{Outgoing, Said, Url};

const TRIES: u32 = 3;
const TRY_LIMIT: Duration = Duration::from_secs(5);
/// Doubled after each try.
const PAUSE: Duration = Duration::from_millis(500);
/// Of the webhook's answer nothing is used.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// What an operator has set.
#[derive(Clone)]
pub struct Webhook {
    pub url: Url,
    pub secret: Arc<[u8]>,
    pub outgoing: Outgoing,
}

#[derive(Clone, Default)]
pub enum Delivery {
    /// Nobody logs in by code.
    #[default]
    Off,
    /// With `--auth dev` only.
    Log,
    Webhook(Webhook),
}

pub struct Courier {
    delivery: Delivery,
    places: Arc<Semaphore>,
    delivered: Arc<Counter>,
    failed: Arc<Counter>,
}

/// Too many are under way.
#[derive(Debug)]
pub struct Full;

/// Room for one code that is not made yet: whoever has it is not turned away once the code counts.
pub struct Place {
    _held: Option<OwnedSemaphorePermit>,
}

impl Courier {
    pub fn new(delivery: Delivery, registry: &Registry) -> Self {
        let counter = |result| {
            let help = "One-time codes by what became of their delivery.";
            registry.counter("flotilla_codes_total", help, &[("result", result)])
        };
        let places = Arc::new(Semaphore::new(limits::CODES_SENDING_MAX));
        Self { delivery, places, delivered: counter("delivered"), failed: counter("failed") }
    }

    pub fn is_off(&self) -> bool {
        matches!(self.delivery, Delivery::Off)
    }

    pub fn place(&self) -> Result<Place, Full> {
        match &self.delivery {
            Delivery::Off | Delivery::Log => Ok(Place { _held: None }),
            Delivery::Webhook(_) => {
                let place = self.places.clone().try_acquire_owned();
                place.map(|place| Place { _held: Some(place) }).map_err(|_| Full)
            }
        }
    }

    /// Returns at once.
    pub fn send(&self, place: Place, to: &Address, code: &Made, now: impl Fn() -> u64 + Send + 'static) {
        match &self.delivery {
            Delivery::Off => {}
            Delivery::Log => {
                tracing::warn!(to = to.text, code = code.digits, "one-time code (shown because of --auth dev)");
                self.delivered.inc();
            }
            Delivery::Webhook(webhook) => {
                let body = json!({
                    "channel": to.channel.name(), "to": to.text, "code": code.digits, "id": code.id,
                    "expires_in_s": limits::CODE_LIFE_MS / 1_000,
                });
                let (webhook, body) = (webhook.clone(), Bytes::from(body.to_string()));
                let (delivered, failed) = (self.delivered.clone(), self.failed.clone());
                tokio::spawn(async move {
                    match bring(&webhook, &body, now).await {
                        Ok(()) => delivered.inc(),
                        Err(why) => {
                            tracing::warn!(webhook = %webhook.url, why, "a one-time code was not delivered");
                            failed.inc();
                        }
                    }
                    drop(place);
                });
            }
        }
    }
}

async fn bring(webhook: &Webhook, body: &Bytes, now: impl Fn() -> u64) -> Result<(), String> {
    let mut last = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(PAUSE * (1 << attempt)).await;
        }
        let at = now() / 1_000;
        let headers = [
            (header::CONTENT_TYPE.as_str(), "application/json".to_owned()),
            ("flotilla-timestamp", at.to_string()),
            ("flotilla-signature", signature(&webhook.secret, at, body)),
        ];
        let said = Said {
            method: Method::POST,
            headers: &headers,
            body: body.clone(),
            limit: TRY_LIMIT,
            reply_bytes_max: REPLY_BYTES_MAX,
        };
        match webhook.outgoing.exchange(&webhook.url, said).await {
            Ok((status, _)) if status.is_success() => return Ok(()),
            // It will say the same again.
            Ok((status, _)) if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                return Err(format!("the webhook answered {status}"));
            }
            Ok((status, _)) => last = format!("the webhook answered {status}"),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

pub fn signature(secret: &[u8], at: u64, body: &[u8]) -> String {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    mac.update(format!("{at}.").as_bytes());
    mac.update(body);
    let hex: String = mac.sign().as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_other_tools_compute() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        let ours = signature(b"secret", 1_700_000_000, br#"{"a":1}"#);
        assert_eq!(ours.len(), 3 + 64);
        assert_ne!(ours, signature(b"secret", 1_700_000_001, br#"{"a":1}"#));
        assert_ne!(ours, signature(b"other", 1_700_000_000, br#"{"a":1}"#));
        assert_eq!(ours, "v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686");
        // The example of docs/server.md.
        let body = br#"{"channel":"email","code":"012345","expires_in_s":300,"id":"0192f3a4-0000-7000-8000-000000000001","to":"ann@example.com"}"#;
        let theirs = signature(b"a secret of sixteen bytes", 1_700_000_000, body);
        assert!(include_str!("../../../docs/server.md").contains(theirs.trim_start_matches("v1=")), "{theirs}");
    }
}
