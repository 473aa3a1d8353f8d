//! Every REST operation behind one dispatcher, so that HTTP and `call` over the socket cannot differ.
//!
//! A request is a verb, a path below `/v1`, and one object of parameters: body and query merged. Which there are is said by
//! [`super::routes`] alone. Knows no HTTP beyond [`rest`]; the operations know none at all.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::body::to_bytes;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use flotilla_proto::frame::{Call, ErrorBody, ErrorCode};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::accounts::{self, Me};
use super::route::{self, Raw, Route, Run};
use super::routes;
use super::server::Peer;
use crate::auth::Caller;
use crate::gateway::errors;
use crate::gateway::shared::Shared;

/// One request, whichever way it came.
struct Request {
    verb: String,
    path: String,
    /// Of the body, or of a call.
    params: Map<String, Value>,
    /// Texts, to be read as the parameters want them.
    query: Map<String, Value>,
    /// The `Idempotency-Key`.
    key: Option<Cid>,
    caller: Option<Caller>,
    peer: SocketAddr,
}

pub type Outcome = Result<Value, ErrorBody>;

fn segments_of(path: &str) -> Vec<String> {
    path.split('/').filter(|s| !s.is_empty()).map(percent_decoded).collect()
}

/// Another verb than the path takes is said before anything is asked of the caller: no key and no token would help.
fn check_verb(verb: &str, path: &str) -> Result<(), ErrorBody> {
    let allow = routes::allowed(&segments_of(path));
    if allow.is_empty() || allow.contains(&verb) { Ok(()) } else { Err(errors::wrong_verb(&allow)) }
}

/// The route and what it is to be asked.
async fn prepare(shared: &Arc<Shared>, request: Request) -> Result<(&'static Route, Raw), ErrorBody> {
    let Request { verb, path, mut params, mut query, key, caller, peer } = request;
    let segments = segments_of(&path);
    if verb == "POST" && key.is_none() {
        return Err(route::no_key());
    }
    let found = routes::find(&verb, &segments);
    if caller.is_none() && !found.as_ref().is_some_and(|(route, _)| route.open) {
        return Err(route::no_token());
    }
    let (route, path) = match found {
        Some(found) => found,
        None if routes::is_reserved(&segments) => {
            return Err(ErrorBody::new(ErrorCode::Unsupported, "not supported yet"));
        }
        None => return Err(errors::not_found("no such operation")),
    };
    let expires = caller.as_ref().and_then(|caller| caller.expires);
    let me = match caller.filter(|_| !route.open) {
        Some(caller) => {
            let device = accounts::device_of(shared, &caller).await?;
            Some(Me { user: caller.user, device })
        }
        None => None,
    };
    route.read_texts(&mut query);
    for (name, value) in query {
        params.entry(name).or_insert(value);
    }
    Ok((route, Raw { shared: shared.clone(), me, params, key, peer, expires, path }))
}

/// `call` over the socket: `method` like `POST groups`.
pub async fn call(shared: &Arc<Shared>, caller: Caller, peer: SocketAddr, call: Call) -> Outcome {
    let (verb, path) = call.method.split_once(' ').ok_or_else(|| errors::bad("`method` is a verb and a path"))?;
    let path = path.trim_start_matches('/');
    let path = path.strip_prefix("v1/").unwrap_or(path);
    check_verb(verb, path)?;
    // As texts of a query are read: clients may say `users=a,b` here too.
    let query = match call.params {
        Value::Null => Map::new(),
        Value::Object(map) => map,
        _ => return Err(errors::bad("`params` is an object")),
    };
    let (verb, path) = (verb.to_owned(), path.to_owned());
    let request = Request { verb, path, params: Map::new(), query, key: call.key, caller: Some(caller), peer };
    let (route, raw) = prepare(shared, request).await?;
    match &route.run {
        Run::Value(run) if !route.http_only => checked(route, run(raw).await),
        _ => Err(errors::bad("over HTTP only: the socket delivers the inbox by itself")),
    }
}

/// The HTTP side.
pub async fn rest(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: HttpRequest,
) -> Response {
    match answer(&shared, peer.addr, request).await {
        Ok(response) => response,
        Err(error) => problem(&error),
    }
}

async fn answer(shared: &Arc<Shared>, peer: SocketAddr, request: HttpRequest) -> Result<Response, ErrorBody> {
    check_verb(request.method().as_str(), below(request.uri()))?;
    let request = take(shared, peer, request).await?;
    let (route, raw) = prepare(shared, request).await?;
    match &route.run {
        Run::Value(run) => checked(route, run(raw).await).map(|value| axum::Json(value).into_response()),
        Run::Stream(run) => checked(route, run(raw).await),
    }
}

/// An error that the route's line does not name would be one that no client expects.
fn checked<T>(route: &Route, result: Result<T, ErrorBody>) -> Result<T, ErrorBody> {
    if let Err(error) = &result
        && !route.all_errors().contains(&error.code)
    {
        tracing::error!(verb = route.verb, path = route.path, %error, "an answer that the documents do not name");
        if cfg!(test) {
            panic!("{} {} answers {error}: name it in the table of routes", route.verb, route.path);
        }
    }
    result
}

fn below(uri: &Uri) -> &str {
    uri.path().strip_prefix("/v1/").unwrap_or_default()
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
    let params = match bytes.is_empty() {
        true => Map::new(),
        false => serde_json::from_slice(&bytes).map_err(|e| errors::bad(format!("the body is a JSON object: {e}")))?,
    };
    let mut query = query(parts.uri.query().unwrap_or_default());
    // A browser's `EventSource` says by this header where it was.
    if let Some(id) = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok()) {
        query.insert("last_event_id".into(), id.into());
    }
    let path = below(&parts.uri).to_owned();
    Ok(Request { verb: parts.method.to_string(), path, params, query, key, caller, peer })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// `a=1&b=x%20y` as texts; the first of a name counts.
fn query(text: &str) -> Map<String, Value> {
    let mut params = Map::new();
    for (name, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
        params.entry(percent_decoded(name)).or_insert_with(|| percent_decoded(&value.replace('+', " ")).into());
    }
    params
}

/// What is no escape stays as it is; bytes that are no UTF-8 become the mark for that.
fn percent_decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let digits =
            after.first_chunk::<2>().filter(|_| *first == b'%').and_then(|pair| std::str::from_utf8(pair).ok());
        match digits.filter(|d| !d.starts_with('+')).and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The body of every answer that is an error: the error itself, and what RFC 9457 asks for.
#[derive(Serialize, JsonSchema)]
pub struct Problem {
    #[serde(flatten)]
    pub error: ErrorBody,
    /// As `code`.
    pub title: &'static str,
    /// As the answer's.
    pub status: u16,
    /// As `message`.
    pub detail: String,
}

/// The status line's end and the body.
pub fn problem_text(error: &ErrorBody) -> (String, String) {
    let status = error.code.http_status();
    let (title, detail) = (error.code.name(), error.message.clone());
    let body = serde_json::to_string(&Problem { error: error.clone(), title, status, detail }).unwrap_or_default();
    (format!("{status} {title}"), body)
}

/// RFC 9457.
pub fn problem(error: &ErrorBody) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (_, body) = problem_text(error);
    let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
    if let Some(ms) = error.retry_after_ms {
        let seconds = ms.div_ceil(1_000).to_string();
        if let Ok(value) = seconds.parse() {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
    }
    if error.code == ErrorCode::MethodNotAllowed
        && let Some(allow) = error.details.as_ref().and_then(|details| details["allow"].as_array())
    {
        let verbs: Vec<&str> = allow.iter().filter_map(Value::as_str).collect();
        if let Ok(value) = verbs.join(", ").parse() {
            response.headers_mut().insert(header::ALLOW, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded() {
        let params = query("a=b%2Cc&d=x+y%21&a=second&e&f=%zz%2");
        assert_eq!(Value::Object(params), serde_json::json!({ "a": "b,c", "d": "x y!", "f": "%zz%2" }));
        assert_eq!(percent_decoded("%ff"), "\u{fffd}");
    }
}
