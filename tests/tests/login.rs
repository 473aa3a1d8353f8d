//! Login by code and by an issuer's token on real nodes; the operator's webhook and the issuer's keys are served by the test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flotilla_client::http::{Http, HttpError};
use flotilla_proto::ids::Cid;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::scene::{LIMIT, eventually};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// Answers every GET with the keys (or with 500 while there are none) and keeps the body of every POST.
#[derive(Clone)]
struct Operator {
    url: String,
    keys: Arc<Mutex<Option<Value>>>,
    posted: Arc<Mutex<Vec<Value>>>,
}

impl Operator {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let operator = Self { url, keys: Arc::default(), posted: Arc::default() };
        let served = operator.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let served = served.clone();
                tokio::spawn(async move {
                    let (mut request, mut part) = (String::new(), [0; 4_096]);
                    while let Ok(n @ 1..) = stream.read(&mut part).await {
                        request.push_str(&String::from_utf8_lossy(&part[..n]));
                        if request.starts_with("GET") || request.ends_with('}') {
                            break;
                        }
                    }
                    let reply = served.answer(&request);
                    let _ = stream.write_all(reply.as_bytes()).await;
                });
            }
        });
        Ok(operator)
    }

    fn answer(&self, request: &str) -> String {
        let body = match request.split_once("\r\n\r\n").filter(|_| request.starts_with("POST")) {
            Some((_, body)) => {
                self.posted.lock().expect("no panic").extend(serde_json::from_str::<Value>(body));
                Some(json!({}))
            }
            None => self.keys.lock().expect("no panic").clone(),
        };
        match body.map(|b| b.to_string()) {
            Some(body) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
            None => "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_owned(),
        }
    }

    fn publish(&self, keys: &[&Signer]) {
        *self.keys.lock().expect("no panic") =
            Some(json!({ "keys": keys.iter().map(|k| k.jwk()).collect::<Vec<_>>() }));
    }

    async fn code(&self, to: &str) -> anyhow::Result<String> {
        let mut code = None;
        eventually("a code comes", LIMIT, async || {
            let posted = self.posted.lock().expect("no panic");
            code = posted.iter().rfind(|p| p["to"] == to).and_then(|p| p["code"].as_str()).map(str::to_owned);
            code.is_some()
        })
        .await?;
        code.context("just seen")
    }
}

struct Signer {
    kid: &'static str,
    key: Ed25519KeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> anyhow::Result<Self> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok().context("random")?;
        Ok(Self { kid, key: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).ok().context("just made")? })
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x })
    }

    fn token(&self, user: &str) -> String {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({ "iss": "https://id.example", "aud": "chat", "sub": user, "exp": u32::MAX });
        let text = format!("{}.{}", part(json!({ "alg": "EdDSA", "kid": self.kid })), part(claims));
        let mac = self.key.sign(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac))
    }
}

async fn cluster(operator: &Operator) -> anyhow::Result<(Cluster, tempfile::TempDir)> {
    let dir = tempfile::tempdir()?;
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "a secret of sixteen bytes\n")?;
    let mut cluster = Cluster::bare(3)?;
    for at in 0..3 {
        let secret = secret.display().to_string();
        let more = [
            ("--code-webhook", format!("{}/codes", operator.url)),
            ("--code-webhook-secret-file", secret),
            ("--issuer", "https://id.example".to_owned()),
            ("--issuer-audience", "chat".to_owned()),
            ("--issuer-keys", format!("{}/keys", operator.url)),
            ("--issuer-ask-s", "1".to_owned()),
            ("--logins-per-minute", "100000".to_owned()),
        ];
        cluster.nodes[at].args.extend(more.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        cluster.spawn(at)?;
    }
    cluster.init().await?;
    cluster.all_ready().await?;
    Ok((cluster, dir))
}

async fn post(cluster: &Cluster, at: usize, path: &str, body: Value) -> Result<Value, HttpError> {
    Http::new(cluster.nodes[at].url()).post(path, Cid(rand::random()), &body).await
}

/// Until it is done, or refused for good: leaders move while nodes die.
async fn patiently(cluster: &Cluster, at: usize, path: &str, body: Value) -> Result<Value, HttpError> {
    let deadline = Instant::now() + LIMIT;
    let key = Cid(rand::random());
    loop {
        match Http::new(cluster.nodes[at].url()).post(path, key, &body).await {
            // A limit is an answer here.
            Err(HttpError::Refused { status: 429, body }) => return Err(HttpError::Refused { status: 429, body }),
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            decided => return decided,
        }
    }
}

fn status(result: &Result<Value, HttpError>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(HttpError::Refused { status, .. }) => *status,
        Err(_) => 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_asked_for_at_a_node_that_dies_logs_in_at_another() -> anyhow::Result<()> {
    let operator = Operator::start().await?;
    let (mut cluster, _dir) = cluster(&operator).await?;
    patiently(&cluster, 0, "/v1/auth/otp", json!({ "address": "Ann@Example.com" })).await?;
    let code = operator.code("ann@example.com").await?;
    cluster.nodes[0].kill()?;
    // The pause before the next one holds at another node as well.
    let soon = patiently(&cluster, 1, "/v1/auth/otp", json!({ "address": "ann@example.com" })).await;
    assert_eq!(status(&soon), 429, "{soon:?}");
    let wrong = format!("{:06}", (code.parse::<u32>()? + 1) % 1_000_000);
    let body = |code: &str| json!({ "address": "ann@example.com", "code": code, "install": "store" });
    assert_eq!(status(&patiently(&cluster, 2, "/v1/auth/otp/verify", body(&wrong)).await), 401);
    let tokens = patiently(&cluster, 1, "/v1/auth/otp/verify", body(&code)).await?;
    let access = tokens["access_token"].as_str().context("a token")?;
    let me = Http::new(cluster.nodes[2].url()).with_token(access).get("/v1/me").await?;
    assert_eq!(me["user"], tokens["user"]);
    assert_eq!(status(&patiently(&cluster, 2, "/v1/auth/otp/verify", body(&code)).await), 401, "used once");
    // The code stands in no log, nor does the address.
    let logs = cluster.logs();
    assert!(!logs.contains(&code) && !logs.contains("ann@example.com"), "{logs}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_the_issuer_are_taken_through_a_rotation_and_its_death() -> anyhow::Result<()> {
    let operator = Operator::start().await?;
    let (cluster, _dir) = cluster(&operator).await?;
    let (old, new) = (Signer::new("old")?, Signer::new("new")?);
    let enter = async |at: usize, signer: &Signer, user: &str| {
        post(&cluster, at, "/v1/auth/external", json!({ "token": signer.token(user), "install": user })).await
    };
    // Not up yet: nothing is said of the token.
    assert_eq!(status(&enter(0, &old, "ann").await), 503);
    operator.publish(&[&old]);
    for at in 0..3 {
        eventually("each node takes it", LIMIT, async || status(&enter(at, &old, "ann").await) == 200).await?;
    }
    let tokens = enter(0, &old, "ann").await?;
    let access = tokens["access_token"].as_str().context("a token")?;
    assert_eq!(Http::new(cluster.nodes[1].url()).with_token(access).get("/v1/me").await?["user"], "ann");
    assert_eq!(status(&enter(0, &new, "ann").await), 401, "not published");
    operator.publish(&[&old, &new]);
    eventually("the new key is found", LIMIT, async || status(&enter(0, &new, "bob").await) == 200).await?;
    // Dead: known keys serve, unknown ones are refused.
    *operator.keys.lock().expect("no panic") = None;
    assert_eq!(status(&enter(0, &new, "carol").await), 200);
    assert_eq!(status(&enter(0, &Signer::new("stranger")?, "carol").await), 401);
    Ok(())
}
