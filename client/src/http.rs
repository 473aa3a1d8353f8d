//! The few REST calls that a client needs: one request, one connection, one deadline.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::frame::{ErrorBody, ErrorCode};
use flotilla_proto::ids::Cid;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};

use crate::net::{self, NetError};

/// A whole exchange, connection included.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(40);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest reply that is read.
const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("the exchange broke: {0}")]
    Broken(String),
    #[error("no reply in time")]
    Timeout,
    #[error("{status}: {body}")]
    Refused { status: u16, body: ErrorBody },
}

impl HttpError {
    /// The same request with the same key may be sent again.
    pub fn is_retryable(&self) -> bool {
        match self {
            HttpError::Refused { body, .. } => body.retryable,
            _ => true,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Result<serde_json::Value, HttpError> {
        if self.body.is_empty() {
            return Ok(serde_json::Value::Null);
        }
        serde_json::from_slice(&self.body).map_err(|e| HttpError::Broken(format!("not JSON: {e}")))
    }
}

/// One node, with the token that requests carry.
#[derive(Debug, Clone)]
pub struct Http {
    pub url: String,
    pub token: Option<String>,
}

/// What login, register and refresh answer.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Tokens {
    #[serde(alias = "token")]
    pub access_token: String,
    #[serde(default)]
    pub refresh_token: String,
    #[serde(default)]
    pub device: String,
    /// Unix milliseconds.
    #[serde(default)]
    pub expires_at: u64,
}

impl Http {
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), token: None }
    }

    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// `path` starts with `/`. Any status is a response, not an error.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        key: Option<Cid>,
        body: Option<&serde_json::Value>,
    ) -> Result<Response, HttpError> {
        let exchange = self.exchange(method, path, key, body);
        tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await.map_err(|_| HttpError::Timeout)?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        key: Option<Cid>,
        body: Option<&serde_json::Value>,
    ) -> Result<Response, HttpError> {
        let broken = |e: &dyn std::fmt::Display| HttpError::Broken(e.to_string());
        let stream = net::connect(&self.url, CONNECT_TIMEOUT).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, net::authority(&self.url)?)
            .header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key.to_string());
        }
        let bytes = match body {
            None => Bytes::new(),
            Some(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(value.to_string())
            }
        };
        let request = request.body(Full::new(bytes)).map_err(|e| broken(&e))?;
        let talk = async {
            let reply = sender.send_request(request).await.map_err(|e| broken(&e))?;
            let status = reply.status();
            let body = Limited::new(reply.into_body(), REPLY_BYTES_MAX);
            let body = body.collect().await.map_err(|e| broken(&e))?.to_bytes();
            Ok(Response { status, body })
        };
        // The connection is driven beside the exchange and ends with it.
        futures::pin_mut!(talk, connection);
        match futures::future::select(talk, connection).await {
            futures::future::Either::Left((done, _)) => done,
            futures::future::Either::Right((_, talk)) => talk.await,
        }
    }

    /// A JSON reply of a 2xx status; anything else is `Refused`.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        key: Option<Cid>,
        body: Option<&serde_json::Value>,
    ) -> Result<serde_json::Value, HttpError> {
        let response = self.request(method, path, key, body).await?;
        if response.status.is_success() {
            return response.json();
        }
        let body = serde_json::from_slice(&response.body).unwrap_or_else(|_| {
            let mut body = ErrorBody::new(ErrorCode::Other, response.text());
            body.retryable = response.status.is_server_error();
            body
        });
        Err(HttpError::Refused { status: response.status.as_u16(), body })
    }

    pub async fn get(&self, path: &str) -> Result<serde_json::Value, HttpError> {
        self.json(Method::GET, path, None, None).await
    }

    pub async fn post(&self, path: &str, key: Cid, body: &serde_json::Value) -> Result<serde_json::Value, HttpError> {
        self.json(Method::POST, path, Some(key), Some(body)).await
    }

    /// Makes the account, then logs in: the first answer has no tokens. A repeat with the same key does both again.
    pub async fn register(&self, key: Cid, user: &str, password: &str, install: &str) -> Result<Tokens, HttpError> {
        self.post("/v1/auth/register", key, &serde_json::json!({"user": user, "password": password})).await?;
        self.login(key, user, password, install).await
    }

    pub async fn login(&self, key: Cid, user: &str, password: &str, install: &str) -> Result<Tokens, HttpError> {
        let body = serde_json::json!({"user": user, "password": password, "install": install});
        tokens(self.post("/v1/auth/login", key, &body).await?)
    }

    pub async fn refresh(&self, key: Cid, refresh_token: &str) -> Result<Tokens, HttpError> {
        tokens(self.post("/v1/auth/refresh", key, &serde_json::json!({"refresh_token": refresh_token})).await?)
    }

    /// 200 on `/readyz`; any failure to ask is "no".
    pub async fn is_ready(&self) -> bool {
        matches!(self.request(Method::GET, "/readyz", None, None).await, Ok(r) if r.status == StatusCode::OK)
    }
}

fn tokens(value: serde_json::Value) -> Result<Tokens, HttpError> {
    serde_json::from_value(value).map_err(|e| HttpError::Broken(format!("not a token reply: {e}")))
}
