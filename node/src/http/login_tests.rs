//! Login by code and by an issuer's token, over a real socket; the operator's side is a server in the same process.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flotilla_proto::limits;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Duration, Instant};

use crate::auth::courier::{Delivery, Webhook, signature};
use crate::auth::issuer;
use crate::gateway::shared::Options;
use crate::outgoing::{Outgoing, Url};
use crate::testing::client::Node;

const SECRET: &[u8] = b"a secret of sixteen bytes";

/// An operator's server: keeps what it was sent, answers with a status and a body.
pub struct Server {
    url: Url,
    got: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(statuses: Vec<u16>, body: String) -> Self {
        let listener = flotilla_raft::seam::net::bind("127.0.0.1:0").await.expect("a port");
        let url = Url::parse(&format!("http://{}/x", listener.local_addr().expect("bound"))).expect("a URL");
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = got.clone();
        tokio::spawn(async move {
            let mut statuses = statuses.into_iter();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                let mut part = [0; 4_096];
                while !is_whole(&request) {
                    match stream.read(&mut part).await {
                        Ok(n) if n > 0 => request.extend_from_slice(&part[..n]),
                        _ => break,
                    }
                }
                kept.lock().expect("no panic").push(String::from_utf8_lossy(&request).into_owned());
                let status = statuses.next().unwrap_or(200);
                let reply = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(reply.as_bytes()).await;
                let _ = stream.flush().await;
            }
        });
        Self { url, got }
    }

    async fn requests(&self, wanted: usize) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let got = self.got.lock().expect("no panic").clone();
            if got.len() >= wanted {
                return got;
            }
            assert!(Instant::now() < deadline, "{} of {wanted} requests came", got.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn webhook() -> (Self, Node) {
        let server = Self::start(vec![], String::new()).await;
        let node = Node::with(Options { codes: server.delivery(), ..Options::default() }).await;
        (server, node)
    }

    fn delivery(&self) -> Delivery {
        let outgoing = Outgoing::new(None).expect("no file to read");
        Delivery::Webhook(Webhook { url: self.url.clone(), secret: SECRET.into(), outgoing })
    }

    async fn code(&self, nth: usize) -> String {
        let request = &self.requests(nth).await[nth - 1];
        body_of(request)["code"].as_str().expect("a code").to_owned()
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = header(head, "content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    body.len() >= length
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let found = |line: &'a str| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v);
    head.lines().find_map(found)
}

fn body_of(request: &str) -> Value {
    let (_, body) = request.split_once("\r\n\r\n").expect("a whole request");
    serde_json::from_str(body).expect("JSON")
}

async fn ask(node: &Node, address: &str) -> (u16, Value) {
    node.post("/v1/auth/otp", "", &json!({ "address": address }).to_string()).await
}

async fn verify(node: &Node, address: &str, code: &str) -> (u16, Value) {
    let body = json!({ "address": address, "code": code, "install": "store" });
    node.post("/v1/auth/otp/verify", "", &body.to_string()).await
}

fn wrong(code: &str) -> String {
    format!("{:06}", (code.parse::<u32>().expect("digits") + 1) % 1_000_000)
}

/// Whose tokens a node takes.
pub struct TestIssuer {
    key: Ed25519KeyPair,
    server: Server,
}

impl TestIssuer {
    pub async fn start() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random");
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("just made");
        let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
        let set = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] });
        let server = Server::start(vec![], set.to_string()).await;
        Self { key, server }
    }

    pub fn config(&self) -> issuer::Config {
        let settings = issuer::Settings {
            issuer: "https://id.example".into(),
            audience: "chat".into(),
            keys: self.server.url.clone(),
            user_claim: "sub".into(),
            user_prefix: String::new(),
            leeway_s: 60,
            ask_every: Duration::from_secs(30),
        };
        issuer::Config { settings, outgoing: Outgoing::new(None).expect("no file to read") }
    }

    /// With the issuer and the audience that belong into it.
    pub fn token(&self, claims: &Value) -> String {
        let mut all = json!({ "iss": "https://id.example", "aud": "chat" });
        for (name, value) in claims.as_object().expect("named claims") {
            all[name] = value.clone();
        }
        self.signed(&json!({ "alg": "EdDSA", "kid": "k" }), &all)
    }

    /// Whatever these are.
    pub fn signed(&self, header: &Value, claims: &Value) -> String {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let text = format!("{}.{}", b64(header.to_string().as_bytes()), b64(claims.to_string().as_bytes()));
        format!("{text}.{}", b64(self.key.sign(text.as_bytes()).as_ref()))
    }
}

#[tokio::test]
async fn a_code_that_the_webhook_was_given_logs_in_and_makes_the_account() {
    let (server, node) = Server::webhook().await;
    let (status, answer) = ask(&node, "Ann@Example.com").await;
    assert_eq!((status, &answer["expires_in_ms"]), (200, &json!(limits::CODE_LIFE_MS)), "{answer}");
    let request = server.requests(1).await.remove(0);
    let (head, body) = request.split_once("\r\n\r\n").expect("whole");
    let sent = body_of(&request);
    assert_eq!((&sent["channel"], &sent["to"]), (&json!("email"), &json!("ann@example.com")));
    let at: u64 = header(head, "flotilla-timestamp").expect("a time").parse().expect("seconds");
    assert_eq!(header(head, "flotilla-signature"), Some(signature(SECRET, at, body.as_bytes()).as_str()));
    let code = server.code(1).await;
    let (status, answer) = verify(&node, "ann@example.com", &wrong(&code)).await;
    assert_eq!((status, &answer["code"]), (401, &json!("unauthenticated")));
    // Nobody has this address, and the answer is the same.
    let (_, nobody) = verify(&node, "nobody@example.com", &code).await;
    assert_eq!(answer, nobody);
    let (status, tokens) = verify(&node, " ann@EXAMPLE.com", &code).await;
    assert_eq!(status, 200, "{tokens}");
    let access = tokens["access_token"].as_str().expect("a token").to_owned();
    let (status, me) = node.get("/v1/me", &access).await;
    assert_eq!((status, &me["user"]), (200, &tokens["user"]));
    assert!(tokens["user"].as_str().is_some_and(|u| u.starts_with("e.") && !u.contains("ann")), "{tokens}");
    assert_eq!(verify(&node, "ann@example.com", &code).await.0, 401, "used");
    let page = node.ask("GET", "/metrics", &[]).await.1;
    for line in [
        "flotilla_logins_total{method=\"code\",result=\"ok\"} 1",
        "flotilla_logins_total{method=\"code\",result=\"refused\"} 3",
        "flotilla_codes_total{result=\"delivered\"} 1",
    ] {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
}

#[tokio::test]
async fn tries_and_codes_are_limited() {
    let (server, node) = Server::webhook().await;
    assert_eq!(ask(&node, "+49 30 1234567").await.0, 200);
    let (status, again) = ask(&node, "+49301234567").await;
    assert_eq!((status, &again["code"]), (429, &json!("too_many_requests")));
    let wait = again["retry_after_ms"].as_u64().expect("how long");
    assert!((1..=limits::CODE_PAUSE_MS).contains(&wait), "{wait}");
    let code = server.code(1).await;
    for _ in 0..limits::CODE_TRIES_MAX {
        assert_eq!(verify(&node, "+49301234567", &wrong(&code)).await.0, 401);
    }
    assert_eq!(verify(&node, "+49301234567", &code).await.0, 401, "five wrong ones ended it");
    for (address, code) in [("nonsense", "123456"), ("a@b.c", "12345"), ("a@b.c", "abcdef")] {
        assert_eq!(verify(&node, address, code).await.0, 400, "{address} {code}");
    }
}

#[tokio::test]
async fn a_request_that_is_repeated_sends_the_same_code() {
    let (server, node) = Server::webhook().await;
    let key = "6f1c1c1e-7b1b-4c57-9d0e-3b7b5b0a0001";
    let headers = [("idempotency-key", key)];
    let body = json!({ "address": "a@b.org" }).to_string();
    for _ in 0..2 {
        assert_eq!(node.http("POST", "/v1/auth/otp", &headers, &body).await.0, 200);
    }
    let code = server.code(2).await;
    assert_eq!(code, server.code(1).await);
    assert_eq!(verify(&node, "a@b.org", &code).await.0, 200);
}

#[tokio::test]
async fn who_is_turned_away_because_too_many_codes_are_on_their_way_has_used_up_none() {
    let (server, node) = Server::webhook().await;
    let headers = [("idempotency-key", "6f1c1c1e-7b1b-4c57-9d0e-3b7b5b0a0002")];
    let body = json!({ "address": "a@b.org" }).to_string();
    let others: Vec<_> = std::iter::from_fn(|| node.shared.courier.place().ok()).collect();
    assert_eq!(others.len(), limits::CODES_SENDING_MAX);
    for _ in 0..=limits::CODE_REPEATS_MAX {
        let (status, refused) = node.http("POST", "/v1/auth/otp", &headers, &body).await;
        assert_eq!((status, &refused["code"]), (503, &json!("overloaded")), "{refused}");
    }
    drop(others);
    // One code, the first and all of its repeats.
    for _ in 0..=limits::CODE_REPEATS_MAX {
        assert_eq!(node.http("POST", "/v1/auth/otp", &headers, &body).await.0, 200);
    }
    let code = server.code(1 + usize::from(limits::CODE_REPEATS_MAX)).await;
    assert_eq!(verify(&node, "a@b.org", &code).await.0, 200);
}

#[tokio::test]
async fn a_webhook_that_stumbles_is_tried_again_and_one_that_refuses_is_not() {
    let server = Server::start(vec![500, 503, 200, 400, 200], String::new()).await;
    let node = Node::with(Options { codes: server.delivery(), ..Options::default() }).await;
    assert_eq!(ask(&node, "a@b.org").await.0, 200);
    let got = server.requests(3).await;
    assert!(got.iter().all(|r| body_of(r) == body_of(&got[0])), "the same code each time");
    assert_eq!(ask(&node, "c@d.org").await.0, 200, "who asks does not learn how it went");
    server.requests(4).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !node.ask("GET", "/metrics", &[]).await.1.contains("flotilla_codes_total{result=\"failed\"} 1") {
        assert!(Instant::now() < deadline, "the refusal is counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.requests(4).await.len(), 4);
}

#[tokio::test]
async fn what_is_not_set_is_not_offered() {
    let node = Node::with(Options::default()).await;
    assert_eq!(ask(&node, "a@b.org").await.0, 501);
    let body = json!({ "token": "x", "install": "y" }).to_string();
    assert_eq!(node.post("/v1/auth/external", "", &body).await.0, 501);
    assert_eq!(node.get("/v1/auth/methods", "").await.1["methods"], json!(["password"]));
    let (_, node) = Server::webhook().await;
    assert_eq!(node.get("/v1/auth/methods", "").await.1["methods"], json!(["password", "code"]));
    let (_, page) = node.ask("GET", "/v1/page", &[]).await;
    assert!(page.contains("\"methods\":[\"password\",\"code\"]"), "the page learns it too: {page}");
    node.fake.raise_level(limits::CODE_LEVEL - 1);
    assert_eq!(node.get("/v1/auth/methods", "").await.1["methods"], json!(["password"]), "the cluster takes no codes");
}

#[tokio::test]
async fn a_token_of_the_issuer_logs_in_and_never_into_an_account_with_a_password() {
    let issuer = TestIssuer::start().await;
    let node = Node::with(Options { issuer: Some(issuer.config()), ..Options::default() }).await;
    let token = |sub: &str, exp: u64| issuer.token(&json!({ "sub": sub, "exp": exp }));
    let enter = async |token: &str| {
        let body = json!({ "token": token, "install": "store" }).to_string();
        node.post("/v1/auth/external", "", &body).await
    };
    let later = u64::from(u32::MAX);
    let (status, tokens) = enter(&token("ann", later)).await;
    assert_eq!((status, &tokens["user"]), (200, &json!("ann")), "{tokens}");
    assert_eq!(enter(&token("ann", later)).await.1["device"], tokens["device"], "the same install is the same device");
    let access = tokens["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(node.get("/v1/me", &access).await.0, 200);
    assert_eq!(enter(&token("ann", 1)).await.1["code"], "token_expired");
    for name in ["Not A User", "Ann", "e.0123456789abcdef0123456789abcdef"] {
        let (status, answer) = enter(&token(name, later)).await;
        assert_eq!(status, 400, "{name}: {answer}");
    }
    assert_eq!(enter("nonsense").await.0, 401);
    let account = json!({ "user": "bob", "password": "correct horse" }).to_string();
    assert_eq!(node.post("/v1/auth/register", "", &account).await.0, 200);
    let (status, answer) = enter(&token("bob", later)).await;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")));
}
