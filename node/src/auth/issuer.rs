//! Tokens of an issuer that the operator has named (OpenID Connect and alike): compact JWS (RFC 7515) with claims (RFC 7519),
//! checked against the issuer's published keys (RFC 7517).
//!
//! Invariants: the algorithm is one of RS256, ES256 and EdDSA (Ed25519), and fits the kind of the key that `kid` names; `none`
//! and every shared-secret algorithm are refused before a key is looked at. Signatures are checked by `ring`. Keys are asked for
//! when they are ten minutes old or a `kid` is not among them, at most once in half a minute whatever tokens come and whoever
//! hangs up; an issuer that does not answer stops nobody whose key is known, for a day.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use flotilla_proto::limits;
use hyper::Method;
use ring::signature;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::outgoing::{Outgoing, Said, Url};

/// Keys are asked for again after this.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// While the issuer does not answer, keys are used for this long.
const STALE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const FETCH_LIMIT: Duration = Duration::from_secs(4);

/// Whose tokens are taken beside the cluster's own, as an operator has set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `iss`, letter by letter.
    pub issuer: String,
    /// One of `aud`.
    pub audience: String,
    pub keys: Url,
    /// The claim that names the user, and what is put in front of it.
    pub user_claim: String,
    pub user_prefix: String,
    pub leeway_s: u64,
    /// Between two questions for keys.
    pub ask_every: Duration,
}

#[derive(Clone)]
pub struct Config {
    pub settings: Settings,
    pub outgoing: Outgoing,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    #[error("this is not a token of the issuer: {0}")]
    Malformed(&'static str),
    #[error("the token's algorithm is not one of RS256, ES256, EdDSA")]
    Algorithm,
    #[error("the token is signed with a key that the issuer does not publish")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is refused: {0}")]
    Claim(&'static str),
    /// Nothing is said of the token.
    #[error("the issuer's keys cannot be had now")]
    Unavailable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

#[derive(Debug, Clone)]
enum Key {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Debug, Clone)]
struct Named {
    kid: Option<String>,
    key: Key,
}

#[derive(Default)]
struct Held {
    keys: Vec<Named>,
    at: Option<Instant>,
    asked: Option<Instant>,
}

pub struct Issuer {
    settings: Settings,
    keys: Arc<Keys>,
}

/// The issuer's keys as they were last told.
struct Keys {
    url: Url,
    ask_every: Duration,
    outgoing: Outgoing,
    held: Mutex<Held>,
    /// One question at a time; who comes meanwhile waits for its answer.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

fn decoded(part: &str) -> Result<Vec<u8>, IssuerError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| IssuerError::Malformed("a part is not base64url"))
}

impl Issuer {
    pub fn new(Config { settings, outgoing }: Config) -> Self {
        let keys = Arc::new(Keys {
            url: settings.keys.clone(),
            ask_every: settings.ask_every,
            outgoing,
            held: Mutex::default(),
            turn: Arc::default(),
        });
        Self { settings, keys }
    }

    pub fn name(&self) -> &str {
        &self.settings.issuer
    }

    /// The user that the token names, as text. `now_s`: Unix seconds.
    pub async fn verify(&self, token: &str, now_s: u64) -> Result<String, IssuerError> {
        if token.len() > limits::EXTERNAL_TOKEN_BYTES_MAX {
            return Err(IssuerError::Malformed("it is too long"));
        }
        let mut parts = token.split('.');
        let (Some(head), Some(body), Some(mac), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(IssuerError::Malformed("it does not have three parts"));
        };
        let header: Header =
            serde_json::from_slice(&decoded(head)?).map_err(|_| IssuerError::Malformed("its header is not JSON"))?;
        let algorithm = match header.alg.as_str() {
            "RS256" => Algorithm::Rs256,
            "ES256" => Algorithm::Es256,
            "EdDSA" => Algorithm::EdDsa,
            _ => return Err(IssuerError::Algorithm),
        };
        // Extensions that must be understood, and are not.
        if header.crit.is_some() {
            return Err(IssuerError::Malformed("it has critical extensions"));
        }
        let mac = decoded(mac)?;
        let key = self.keys.key(header.kid.as_deref(), algorithm).await?;
        let signed = &token.as_bytes()[..head.len() + 1 + body.len()];
        if !fits(&key, signed, &mac) {
            return Err(IssuerError::Signature);
        }
        let claims: Map<String, Value> =
            serde_json::from_slice(&decoded(body)?).map_err(|_| IssuerError::Malformed("its claims are not JSON"))?;
        self.user_of(&claims, now_s)
    }

    /// Of a token whose signature is right.
    fn user_of(&self, claims: &Map<String, Value>, now_s: u64) -> Result<String, IssuerError> {
        let (now, leeway) = (now_s as f64, self.settings.leeway_s as f64);
        if claims.get("iss").and_then(Value::as_str) != Some(&self.settings.issuer) {
            return Err(IssuerError::Claim("it is of another issuer"));
        }
        let ours = |value: &Value| value.as_str() == Some(&self.settings.audience);
        let meant = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(ours),
            Some(one) => ours(one),
            None => false,
        };
        if !meant {
            return Err(IssuerError::Claim("it is for another audience"));
        }
        // A date that is there and is no number is a refusal, not an absence.
        let date = |name: &str, wrong| match claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().filter(|n| n.is_finite()).map(Some).ok_or(IssuerError::Claim(wrong)),
        };
        let exp = date("exp", "`exp` is not a date")?.ok_or(IssuerError::Claim("it has no `exp`"))?;
        if now >= exp + leeway {
            return Err(IssuerError::Expired);
        }
        if date("nbf", "`nbf` is not a date")?.is_some_and(|nbf| now + leeway < nbf) {
            return Err(IssuerError::Claim("it is not valid yet"));
        }
        if date("iat", "`iat` is not a date")?.is_some_and(|iat| now + leeway < iat) {
            return Err(IssuerError::Claim("it was issued in the future"));
        }
        match claims.get(&self.settings.user_claim).and_then(Value::as_str) {
            Some(name) if !name.is_empty() => Ok(format!("{}{name}", self.settings.user_prefix)),
            _ => Err(IssuerError::Claim("it does not name a user")),
        }
    }
}

impl Keys {
    async fn key(self: &Arc<Self>, kid: Option<&str>, algorithm: Algorithm) -> Result<Key, IssuerError> {
        if let Some(key) = self.find(kid, algorithm, FRESH) {
            return Ok(key);
        }
        self.ask().await;
        if let Some(key) = self.find(kid, algorithm, STALE_MAX) {
            return Ok(key);
        }
        let known = self.held().at.is_some_and(|at| at.elapsed() < STALE_MAX);
        Err(if known { IssuerError::UnknownKey } else { IssuerError::Unavailable })
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without a `kid` there must be one key alone that could be meant.
    fn find(&self, kid: Option<&str>, algorithm: Algorithm, age_max: Duration) -> Option<Key> {
        let held = self.held();
        held.at.filter(|at| at.elapsed() < age_max)?;
        let mut fitting = held.keys.iter().filter(|k| {
            let kind = match &k.key {
                Key::Rsa { .. } => Algorithm::Rs256,
                Key::P256(_) => Algorithm::Es256,
                Key::Ed25519(_) => Algorithm::EdDsa,
            };
            kind == algorithm && (kid.is_none() || k.kid.as_deref() == kid)
        });
        let key = fitting.next()?;
        (kid.is_some() || fitting.next().is_none()).then(|| key.key.clone())
    }

    /// At most once in an interval, whatever it comes to. In a task of its own: a client that sends a token and hangs up would
    /// else end the question, and with it the interval's only chance for everybody.
    async fn ask(self: &Arc<Self>) {
        let turn = self.turn.clone().lock_owned().await;
        {
            let mut held = self.held();
            if held.asked.is_some_and(|at| at.elapsed() < self.ask_every) {
                return;
            }
            held.asked = Some(Instant::now());
        }
        let keys = self.clone();
        let asking = tokio::spawn(async move {
            keys.fetch().await;
            drop(turn);
        });
        // It ends within its time limit; what came of it stands in `held`.
        let _ = asking.await;
    }

    async fn fetch(&self) {
        let said = Said {
            method: Method::GET,
            headers: &[],
            body: Bytes::new(),
            limit: FETCH_LIMIT,
            reply_bytes_max: limits::JWKS_BYTES_MAX,
        };
        let why = match self.outgoing.exchange(&self.url, said).await {
            Ok((status, body)) if status.is_success() => match parse_keys(&body) {
                Ok(keys) => {
                    let mut held = self.held();
                    (held.keys, held.at) = (keys, Some(Instant::now()));
                    return;
                }
                Err(why) => why.to_owned(),
            },
            Ok((status, _)) => format!("it answered {status}"),
            Err(error) => error.to_string(),
        };
        tracing::warn!(keys = %self.url, why, "the issuer's keys cannot be had; those that are known stay in use");
    }
}

/// The keys that can be used here; others are passed over.
fn parse_keys(body: &[u8]) -> Result<Vec<Named>, &'static str> {
    let set: Value = serde_json::from_slice(body).map_err(|_| "its keys are not JSON")?;
    let rows = set["keys"].as_array().ok_or("it has no list of keys")?;
    let keys: Vec<Named> = rows.iter().filter_map(parse_key).take(limits::JWKS_KEYS_MAX).collect();
    if keys.is_empty() { Err("none of its keys can be used") } else { Ok(keys) }
}

fn parse_key(row: &Value) -> Option<Named> {
    let text = |name: &str| row.get(name).and_then(Value::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    if text("use").is_some_and(|u| u != "sig") {
        return None;
    }
    let (alg, key) = match (text("kty")?, text("crv")) {
        ("RSA", _) => ("RS256", Key::Rsa { n: number(bytes("n")?), e: number(bytes("e")?) }),
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == 32 && y.len() == 32).then_some(())?;
            ("ES256", Key::P256([[4].as_slice(), &x, &y].concat()))
        }
        ("OKP", Some("Ed25519")) => ("EdDSA", Key::Ed25519(bytes("x").filter(|x| x.len() == 32)?)),
        _ => return None,
    };
    if text("alg").is_some_and(|named| named != alg) {
        return None;
    }
    Some(Named { kid: text("kid").map(str::to_owned), key })
}

/// Without zeros in front, which some issuers write and `ring` refuses.
fn number(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|b| *b == 0).collect()
}

fn fits(key: &Key, signed: &[u8], mac: &[u8]) -> bool {
    let checked = match key {
        // 2048 bits at least.
        Key::Rsa { n, e } => {
            signature::RsaPublicKeyComponents { n, e }.verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, mac)
        }
        Key::P256(point) => {
            signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(signed, mac)
        }
        Key::Ed25519(point) => signature::UnparsedPublicKey::new(&signature::ED25519, point).verify(signed, mac),
    };
    checked.is_ok()
}

#[cfg(test)]
#[path = "issuer_tests.rs"]
mod tests;
