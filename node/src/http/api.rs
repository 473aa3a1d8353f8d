//! Every REST operation behind one dispatcher, so that HTTP and `call` over the socket cannot differ.
//!
//! A request is a verb, a path below `/v1`, and one object of parameters: body and query merged. Knows no HTTP beyond
//! [`rest`]; the operations know none at all.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::body::to_bytes;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flotilla_proto::frame::{Call, ErrorBody, ErrorCode};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::server::Peer;
use super::{accounts, groups, history, inbox, lists, people, profiles};
use crate::auth::Caller;
use crate::gateway::errors;
use crate::gateway::shared::Shared;

/// One request, whichever way it came.
pub struct Request {
    pub verb: String,
    pub path: String,
    pub params: Map<String, Value>,
    /// The `Idempotency-Key`.
    pub key: Option<Cid>,
    pub caller: Option<Caller>,
    pub peer: SocketAddr,
}

pub type Outcome = Result<Value, ErrorBody>;

impl Request {
    pub fn params<T: DeserializeOwned>(&mut self) -> Result<T, ErrorBody> {
        serde_json::from_value(Value::Object(std::mem::take(&mut self.params))).map_err(|e| errors::bad(e.to_string()))
    }

    pub fn key(&self) -> Result<Cid, ErrorBody> {
        self.key.ok_or_else(|| errors::bad("an `Idempotency-Key` (a UUID) is required"))
    }

    /// The caller, who must have a token.
    pub fn caller(&self) -> Result<&Caller, ErrorBody> {
        self.caller.as_ref().ok_or_else(|| ErrorBody::new(ErrorCode::Unauthenticated, "a bearer token is required"))
    }
}

/// Answers one request.
pub async fn handle(shared: &Shared, mut request: Request) -> Outcome {
    let path = std::mem::take(&mut request.path);
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let verb = request.verb.clone();
    if verb == "POST" {
        request.key()?;
    }
    match (verb.as_str(), segments.as_slice()) {
        ("POST", ["auth", "register"]) => return accounts::register(shared, request).await,
        ("POST", ["auth", "login"]) => return accounts::login(shared, request).await,
        ("POST", ["auth", "refresh"]) => return accounts::refresh(shared, request).await,
        _ => {}
    }
    // Everything else needs a device that is logged in.
    let caller = request.caller()?.clone();
    let device = accounts::device_of(shared, &caller).await?;
    let me = accounts::Me { user: caller.user.clone(), device };
    match (verb.as_str(), segments.as_slice()) {
        ("POST", ["auth", "logout"]) => accounts::logout(shared, me).await,
        ("GET", ["me"]) => accounts::me(shared, me).await,
        ("PATCH", ["me"]) => profiles::change(shared, me, request).await,
        ("GET", ["users"]) => profiles::profiles(shared, request).await,
        ("GET", ["users", id]) => profiles::profile(shared, id).await,
        ("GET", ["search", "users"]) => profiles::find(shared, me, request).await,
        ("GET", ["blocks"]) => profiles::blocks(shared, me, request).await,
        ("PUT", ["blocks", id]) => profiles::block(shared, me, id, true, request).await,
        ("DELETE", ["blocks", id]) => profiles::block(shared, me, id, false, request).await,
        ("POST", ["reports"]) => profiles::report(shared, me, request).await,
        ("GET", ["me", "privacy"]) => people::privacy(shared, me).await,
        ("PATCH", ["me", "privacy"]) => people::set_privacy(shared, me, request).await,
        ("GET", ["presence"]) => people::presence(shared, me, request).await,
        ("GET", ["contacts"]) => people::contacts(shared, me, request).await,
        ("PUT", ["contacts", id]) => people::keep_contact(shared, me, id, request).await,
        ("DELETE", ["contacts", id]) => people::drop_contact(shared, me, id).await,
        ("GET", ["devices"]) => accounts::devices(shared, me).await,
        ("PATCH", ["devices", id]) => accounts::rename_device(shared, me, id, request).await,
        ("DELETE", ["devices", id]) => accounts::revoke_device(shared, me, id, request).await,
        ("GET", ["conversations"]) if request.params.get("order").is_some_and(|order| order == "activity") => {
            lists::by_activity(shared, me, request).await
        }
        ("PATCH", ["conversations", id, "settings"]) => lists::settle(shared, me, id, request).await,
        ("GET", ["conversations"]) => groups::list(shared, me, request).await,
        ("POST", ["groups"]) => groups::create(shared, me, request).await,
        ("GET", ["conversations", id]) => groups::show(shared, me, id).await,
        ("PATCH", ["conversations", id]) => groups::change(shared, me, id, request).await,
        ("GET", ["conversations", id, "members"]) => groups::members(shared, me, id, request).await,
        ("POST", ["conversations", id, "members"]) => groups::add(shared, me, id, request).await,
        ("DELETE", ["conversations", id, "members", user]) => groups::remove(shared, me, id, user, request).await,
        ("PATCH", ["conversations", id, "members", user]) => groups::set_role(shared, me, id, user, request).await,
        ("POST", ["conversations", id, "messages"]) => groups::send(shared, me, id, request).await,
        ("GET", ["conversations", id, "messages"]) => history::page(shared, me, id, request).await,
        ("POST", ["conversations", id, "receipts"]) => inbox::read(shared, me, id, request).await,
        ("GET", ["inbox"]) => inbox::poll(shared, me, request).await,
        ("POST", ["inbox", "ack"]) => inbox::ack(shared, me, request).await,
        (_, ["keys" | "media" | "search" | "push", ..]) | (_, ["auth", "otp"]) => {
            Err(ErrorBody::new(ErrorCode::Unsupported, "not supported yet"))
        }
        _ => Err(errors::not_found("no such operation")),
    }
}

/// `call` over the socket: `method` like `POST groups`.
pub async fn call(shared: &Shared, caller: Caller, peer: SocketAddr, call: Call) -> Outcome {
    let (verb, path) = call.method.split_once(' ').ok_or_else(|| errors::bad("`method` is a verb and a path"))?;
    let path = path.trim_start_matches('/');
    let path = path.strip_prefix("v1/").unwrap_or(path);
    if path == "inbox" || path.starts_with("inbox/") {
        return Err(errors::bad("the socket delivers the inbox by itself"));
    }
    let params = match call.params {
        Value::Null => Map::new(),
        Value::Object(map) => map,
        _ => return Err(errors::bad("`params` is an object")),
    };
    let (verb, path) = (verb.to_owned(), path.to_owned());
    handle(shared, Request { verb, path, params, key: call.key, caller: Some(caller), peer }).await
}

/// The HTTP side.
pub async fn rest(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: HttpRequest,
) -> Response {
    match take(&shared, peer.addr, request).await {
        Ok(request) if let Some(id) = history::exported(&request.verb, &request.path) => {
            history::export(shared, &id, request).await
        }
        Ok(request) => match handle(&shared, request).await {
            Ok(value) => axum::Json(value).into_response(),
            Err(error) => problem(&error),
        },
        Err(error) => problem(&error),
    }
}

async fn take(shared: &Shared, peer: SocketAddr, request: HttpRequest) -> Result<Request, ErrorBody> {
    let (parts, body) = request.into_parts();
    let caller = match bearer(&parts.headers) {
        Some(token) => Some(shared.authenticate(token, peer.ip()).map_err(errors::of_token)?),
        None => None,
    };
    let key = match parts.headers.get("idempotency-key") {
        None => None,
        Some(text) => {
            let text = text.to_str().unwrap_or_default().trim_matches('"');
            Some(Cid::parse(text).map_err(|_| errors::bad("`Idempotency-Key` must be a UUID"))?)
        }
    };
    let deadline = std::time::Duration::from_millis(limits::REQUEST_DEADLINE_MS);
    let bytes = match tokio::time::timeout(deadline, to_bytes(body, limits::MESSAGE_BYTES_MAX)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(ErrorBody::new(ErrorCode::PayloadTooLarge, "a request body is at most 64 KiB")),
        Err(_) => return Err(errors::bad("the request body did not arrive in time")),
    };
    let mut params = match bytes.is_empty() {
        true => Map::new(),
        false => serde_json::from_slice(&bytes).map_err(|e| errors::bad(format!("the body is a JSON object: {e}")))?,
    };
    query(parts.uri.query().unwrap_or_default(), &mut params);
    let path = parts.uri.path().strip_prefix("/v1/").unwrap_or_default().to_owned();
    Ok(Request { verb: parts.method.to_string(), path, params, key, caller, peer })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Adds `a=1&b=x` to the parameters: numbers as numbers. Nothing here needs percent-decoding.
fn query(text: &str, params: &mut Map<String, Value>) {
    for (name, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = value.parse::<u64>().map_or_else(|_| Value::from(value), Value::from);
        params.entry(name).or_insert(value);
    }
}

/// RFC 9457.
pub fn problem(error: &ErrorBody) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut body = serde_json::to_value(error).unwrap_or_default();
    if let Value::Object(map) = &mut body {
        map.insert("title".into(), error.code.name().into());
        map.insert("status".into(), error.code.http_status().into());
        map.insert("detail".into(), error.message.clone().into());
    }
    let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response();
    if let Some(ms) = error.retry_after_ms {
        let seconds = ms.div_ceil(1_000).to_string();
        if let Ok(value) = seconds.parse() {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
    }
    response
}
