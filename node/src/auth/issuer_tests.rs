//! Tokens made by hand, and a server of keys in the same process.

use std::sync::atomic::{AtomicUsize, Ordering};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const NOW: u64 = 1_700_000_000;

/// Publishes what it holds; counts how often it was asked.
struct Server {
    url: Url,
    set: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
    /// Who holds it keeps answers back.
    held_up: Arc<tokio::sync::Mutex<()>>,
}

impl Server {
    async fn serve(set: Value) -> Self {
        let listener = flotilla_raft::seam::net::bind("127.0.0.1:0").await.expect("a port");
        let url = Url::parse(&format!("http://{}/keys", listener.local_addr().expect("bound"))).expect("a URL");
        let (set, asked) = (Arc::new(Mutex::new(Some(set))), Arc::new(AtomicUsize::new(0)));
        let held_up = Arc::<tokio::sync::Mutex<()>>::default();
        let (held, count, gate) = (set.clone(), asked.clone(), held_up.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let mut request = [0; 2_048];
                let _ = stream.read(&mut request).await;
                drop(gate.lock().await);
                let body = held.lock().expect("no panic").clone();
                let reply = match body {
                    Some(body) => {
                        let body = body.to_string();
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                    }
                    None => "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                let _ = stream.write_all(reply.as_bytes()).await;
                let _ = stream.flush().await;
            }
        });
        Self { url, set, asked, held_up }
    }

    fn publish(&self, set: Option<Value>) {
        *self.set.lock().expect("no panic") = set;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ed_key() -> Ed25519KeyPair {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random");
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("just made")
}

fn ed_jwk(kid: &str, key: &Ed25519KeyPair) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(key.public_key())})
}

fn claims() -> Value {
    json!({"iss": "https://id.example", "aud": ["other", "chat"], "sub": "ann", "exp": NOW + 60})
}

fn unsigned(header: Value, claims: &Value) -> String {
    format!("{}.{}", b64(header.to_string()), b64(claims.to_string()))
}

fn ed_token(kid: &str, key: &Ed25519KeyPair, claims: &Value) -> String {
    let text = unsigned(json!({"alg": "EdDSA", "kid": kid}), claims);
    format!("{text}.{}", b64(key.sign(text.as_bytes())))
}

fn config(keys: &Url) -> Config {
    let settings = Settings {
        issuer: "https://id.example".into(),
        audience: "chat".into(),
        keys: keys.clone(),
        user_claim: "sub".into(),
        user_prefix: "x-".into(),
        leeway_s: 10,
        ask_every: Duration::from_millis(300),
    };
    Config { settings, outgoing: Outgoing::new(None).expect("no file to read") }
}

fn issuer(keys: &Url) -> Issuer {
    Issuer::new(config(keys))
}

#[tokio::test]
async fn a_token_is_taken_for_what_it_says_and_no_other_is() {
    let key = ed_key();
    let server = Server::serve(json!({"keys": [{"kty": "oct", "k": "AAAA"}, ed_jwk("k1", &key)]})).await;
    let issuer = issuer(&server.url);
    assert_eq!(issuer.verify(&ed_token("k1", &key, &claims()), NOW).await, Ok("x-ann".into()));
    let without_kid = unsigned(json!({"alg": "EdDSA"}), &claims());
    let without_kid = format!("{without_kid}.{}", b64(key.sign(without_kid.as_bytes())));
    assert_eq!(issuer.verify(&without_kid, NOW).await, Ok("x-ann".into()), "there is one key only");
    let changed = |name: &str, value: Value| {
        let mut claims = claims();
        match value {
            Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
            value => claims[name] = value,
        }
        ed_token("k1", &key, &claims)
    };
    for (name, value, wanted) in [
        ("iss", json!("https://evil.example"), IssuerError::Claim("it is of another issuer")),
        ("iss", Value::Null, IssuerError::Claim("it is of another issuer")),
        ("aud", json!("else"), IssuerError::Claim("it is for another audience")),
        ("aud", Value::Null, IssuerError::Claim("it is for another audience")),
        ("exp", json!(NOW - 10), IssuerError::Expired),
        ("exp", Value::Null, IssuerError::Claim("it has no `exp`")),
        ("exp", json!("99999999999"), IssuerError::Claim("`exp` is not a date")),
        ("nbf", json!(NOW + 11), IssuerError::Claim("it is not valid yet")),
        ("nbf", json!("soon"), IssuerError::Claim("`nbf` is not a date")),
        ("iat", json!(NOW + 11), IssuerError::Claim("it was issued in the future")),
        ("sub", Value::Null, IssuerError::Claim("it does not name a user")),
        ("sub", json!(7), IssuerError::Claim("it does not name a user")),
    ] {
        assert_eq!(issuer.verify(&changed(name, value), NOW).await, Err(wanted), "{name}");
    }
    assert_eq!(issuer.verify(&changed("exp", json!(NOW - 9)), NOW).await, Ok("x-ann".into()), "leeway");
    assert_eq!(issuer.verify(&changed("nbf", json!(NOW + 10)), NOW).await, Ok("x-ann".into()), "leeway");
    assert_eq!(server.asked(), 1, "keys are kept");
}

#[tokio::test]
async fn no_other_algorithm_and_no_other_signature_is_taken() {
    let (key, stranger) = (ed_key(), ed_key());
    let server = Server::serve(json!({"keys": [ed_jwk("k1", &key)]})).await;
    let issuer = issuer(&server.url);
    for alg in ["none", "None", "HS256", "RS384", "PS256", "ES512", ""] {
        let text = unsigned(json!({"alg": alg, "kid": "k1"}), &claims());
        // The public key as a shared secret: the oldest trick.
        let public = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.public_key().as_ref());
        let mac = ring::hmac::sign(&public, text.as_bytes());
        for mac in [b64(mac.as_ref()), String::new()] {
            assert_eq!(issuer.verify(&format!("{text}.{mac}"), NOW).await, Err(IssuerError::Algorithm), "{alg}");
        }
    }
    // A known algorithm with a key of another kind.
    let text = unsigned(json!({"alg": "RS256", "kid": "k1"}), &claims());
    let crossed = format!("{text}.{}", b64(key.sign(text.as_bytes())));
    assert_eq!(issuer.verify(&crossed, NOW).await, Err(IssuerError::UnknownKey));
    assert_eq!(issuer.verify(&ed_token("k1", &stranger, &claims()), NOW).await, Err(IssuerError::Signature));
    let good = ed_token("k1", &key, &claims());
    let (head, mac) = good.rsplit_once('.').expect("three parts");
    let mut other = claims();
    other["sub"] = json!("bob");
    let forged = format!("{}.{}.{mac}", head.split('.').next().expect("a header"), b64(other.to_string()));
    assert_eq!(issuer.verify(&forged, NOW).await, Err(IssuerError::Signature));
    for broken in ["", "a.b", "a.b.c.d", "!.!.!", &format!("{good}.")] {
        assert!(matches!(issuer.verify(broken, NOW).await, Err(IssuerError::Malformed(_))), "{broken}");
    }
    let text = unsigned(json!({"alg": "EdDSA", "kid": "k1", "crit": ["exp"]}), &claims());
    let critical = format!("{text}.{}", b64(key.sign(text.as_bytes())));
    assert!(matches!(issuer.verify(&critical, NOW).await, Err(IssuerError::Malformed(_))));
}

#[tokio::test]
async fn elliptic_curve_keys_are_taken() {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("random");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).expect("just made");
    let point = key.public_key().as_ref();
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "p", "alg": "ES256", "use": "sig", "x": b64(&point[1..33]), "y": b64(&point[33..])});
    let server = Server::serve(json!({"keys": [jwk]})).await;
    let text = unsigned(json!({"alg": "ES256", "kid": "p"}), &claims());
    let mac = key.sign(&random, text.as_bytes()).expect("signs");
    assert_eq!(issuer(&server.url).verify(&format!("{text}.{}", b64(mac)), NOW).await, Ok("x-ann".into()));
}

/// Made by OpenSSL: the key is gone, what is public of it and one signature are here.
#[tokio::test]
async fn rsa_keys_are_taken_and_short_ones_are_not() {
    let n = "i1-YdflQCjwasSbU5MVJQB-IlOi-0vwsT8LgSHbtrXoMe4lKHJ4jgq4iqa2ZkBDEQhEzw4rwzioKocL_yhSVsbssZ-sUqTmyZi9J\
        qqgMZ7CCT08t8mpa2Tdd9sssnGnWCCk3X97lnNUUspC0kLxNKTRtO0gs8i2wRpAjz2NZmFgvXvg7rym1exoBg91CkLHEgQrkO6fT\
        molhhtfrQnbNnJq8B7b_-R1nO-9bViBotpnGXwb_8CbOs1zkx00beSNA1fkhxGRAUO9URFsWWRGNOjabRCE-qNb4lGj0xihrZbla\
        rsDaLYNNvTD6_gqmz1mfqQchAq6EoHWOWlq3-aLikQ";
    let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUiLCJhdWQiOiJjaGF0Iiwic3ViIjo\
        iYW5uIiwiZXhwIjoxNzAwMDAwMDYwfQ.YCDKiaqOFjHcEM092DRoi8aWdkWfJsuI4PKaOUj1A8uF2TneT7ahlosn4X1Ciot8DdiI\
        rrn_FGDaaT3UtQkSvJPfiTw1T4Z8XcnLEZrPPrduoo88wFPVDhrq7r8aepaDF84eZGCzFUfouAwWFOxu6R7kWefgxvOFOOn6pxC0\
        HmlrY__-E0BOwefv-uNzT5mimArYB3coJwWCEstW4-K2u9tT55YVCoBalmGqj13qy1GFU64j-mQ6niMOr9FsjX0JHOJJh5Ry4FR8\
        pZ0vBCXkABPg24GjtJHMHrBasc8-ZvQZ4_nLF8-fvRDnsP-Wck13WM6B1YrqOggsBmw8-jyZBw";
    let key = |n: &str| json!({"kty": "RSA", "kid": "rsa", "n": n, "e": "AQAB"});
    let server = Server::serve(json!({"keys": [key(n)]})).await;
    assert_eq!(issuer(&server.url).verify(token, NOW).await, Ok("x-ann".into()));
    let (text, mac) = token.rsplit_once('.').expect("three parts");
    let mut broken = decoded(mac).expect("base64url");
    broken[7] ^= 1;
    let broken = format!("{text}.{}", b64(broken));
    assert_eq!(issuer(&server.url).verify(&broken, NOW).await, Err(IssuerError::Signature));
    let mut padded = vec![0];
    padded.extend(decoded(n).expect("base64url"));
    let padded = Server::serve(json!({"keys": [key(&b64(padded))]})).await;
    assert_eq!(issuer(&padded.url).verify(token, NOW).await, Ok("x-ann".into()), "with a zero in front");
    // The modulus of a key of 1,024 bits.
    let short = Server::serve(json!({"keys": [key(&b64([0xc5; 128]))]})).await;
    assert_eq!(issuer(&short.url).verify(token, NOW).await, Err(IssuerError::Signature));
}

#[tokio::test]
async fn a_rotated_key_is_fetched_once_and_unknown_ones_do_not_flood_the_issuer() {
    let (old, new) = (ed_key(), ed_key());
    let server = Server::serve(json!({"keys": [ed_jwk("old", &old)]})).await;
    let issuer = issuer(&server.url);
    assert!(issuer.verify(&ed_token("old", &old, &claims()), NOW).await.is_ok());
    server.publish(Some(json!({"keys": [ed_jwk("old", &old), ed_jwk("new", &new)]})));
    for _ in 0..50 {
        let got = issuer.verify(&ed_token("made up", &new, &claims()), NOW).await;
        assert_eq!(got, Err(IssuerError::UnknownKey));
    }
    assert!(server.asked() <= 2, "asked {} times", server.asked());
    let deadline = Instant::now() + Duration::from_secs(10);
    while issuer.verify(&ed_token("new", &new, &claims()), NOW).await.is_err() {
        assert!(Instant::now() < deadline, "the new key is found in its time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Withdrawn: gone with the next look at the keys, which an unknown one causes.
    server.publish(Some(json!({"keys": [ed_jwk("new", &new)]})));
    let deadline = Instant::now() + Duration::from_secs(10);
    while issuer.verify(&ed_token("old", &old, &claims()), NOW).await != Err(IssuerError::UnknownKey) {
        let _ = issuer.verify(&ed_token("made up", &new, &claims()), NOW).await;
        assert!(Instant::now() < deadline, "the withdrawn key is refused in its time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_dead_issuer_stops_nobody_whose_key_is_known() {
    let key = ed_key();
    let server = Server::serve(json!({"keys": [ed_jwk("k1", &key)]})).await;
    let known = issuer(&server.url);
    assert!(known.verify(&ed_token("k1", &key, &claims()), NOW).await.is_ok());
    server.publish(None);
    known.keys.held().at = Instant::now().checked_sub(FRESH);
    assert!(known.verify(&ed_token("k1", &key, &claims()), NOW).await.is_ok());
    let fresh = issuer(&server.url);
    assert_eq!(fresh.verify(&ed_token("k1", &key, &claims()), NOW).await, Err(IssuerError::Unavailable));
    // What it publishes while it is ill takes no key away.
    server.publish(Some(json!({"keys": []})));
    tokio::time::sleep(Duration::from_millis(310)).await;
    known.keys.held().at = Instant::now().checked_sub(FRESH);
    assert!(known.verify(&ed_token("k1", &key, &claims()), NOW).await.is_ok());
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_end_the_question_for_keys() {
    let key = ed_key();
    let server = Server::serve(json!({"keys": [ed_jwk("k1", &key)]})).await;
    let held_up = server.held_up.lock().await;
    let mut config = config(&server.url);
    config.settings.ask_every = Duration::from_secs(600);
    let issuer = Arc::new(Issuer::new(config));
    let token = ed_token("k1", &key, &claims());
    let (theirs, made_up) = (issuer.clone(), ed_token("made up", &key, &claims()));
    let client = tokio::spawn(async move { theirs.verify(&made_up, NOW).await });
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.asked() == 0 {
        assert!(Instant::now() < deadline, "the issuer is asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.abort();
    assert!(client.await.is_err_and(|e| e.is_cancelled()));
    drop(held_up);
    assert_eq!(issuer.verify(&token, NOW).await, Ok("x-ann".into()));
    assert_eq!(server.asked(), 1);
}
