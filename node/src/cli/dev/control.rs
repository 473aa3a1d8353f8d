//! What the page's cluster strip asks of `flotilla dev`: which nodes live, who leads a conversation, kill this one, start it again.
//!
//! Invariant: a request counts only with the key of this run, from a page of this cluster, under a loopback name, on a listener
//! that is bound to loopback: neither a foreign page nor a name that merely leads here (DNS rebinding) can kill anything.
//! It orders; the owner of the processes ([`super::watch`]) does.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query as UrlQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flotilla_proto::ids::{ConvId, ShardId};
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;
use flotilla_raft::seam::net::{Listener, Stream};
use futures::future::join_all;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tower::ServiceExt;

use crate::cli::ask::{NodeAddr, ask};
use crate::cluster::wire::{AdminReply, AdminRequest, NodeStatus};
use crate::http::page::is_loopback_name;
use crate::http::server::Timer;

/// Orders that wait for the owner of the processes.
pub const ORDERS_MAX: usize = 16;
const CONNECTIONS_MAX: usize = 64;
/// A node that does not say in time how it is counts as silent.
const STATUS_LIMIT: Duration = Duration::from_millis(1_000);
const KEY_HEADER: &str = "x-flotilla-dev";

pub enum Order {
    /// Process ids by node; none: it does not run.
    List(oneshot::Sender<Vec<(u16, Option<u32>)>>),
    Kill(u16, oneshot::Sender<Result<bool, String>>),
    Start(u16, oneshot::Sender<Result<bool, String>>),
}

pub struct Control {
    pub key: String,
    /// Of pages that may ask.
    pub origins: Vec<String>,
    pub urls: Vec<String>,
    pub peers: Vec<NodeAddr>,
    pub slots: SlotTable,
    pub orders: mpsc::Sender<Order>,
}

/// What a page is shown of one node.
#[derive(Serialize)]
struct Seen {
    node: u16,
    url: String,
    pid: Option<u32>,
    ready: bool,
    sessions: u64,
    /// Shards that it leads.
    leads: Vec<ShardId>,
}

/// Takes connections until it is dropped.
pub async fn serve(listener: Listener, control: Arc<Control>) {
    let router = router(control);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(stream: Stream, router: Router) {
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let router = router.clone();
        async move { router.oneshot(request.map(Body::new)).await }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(Timer).header_read_timeout(Duration::from_millis(limits::HEADER_DEADLINE_MS)).max_buf_size(16 * 1024);
    // A page that goes away in the middle is no event.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/nodes", get(nodes))
        .route("/nodes/{number}/kill", post(kill))
        .route("/nodes/{number}/start", post(start))
        .layer(axum::middleware::from_fn_with_state(control.clone(), guard))
        .with_state(control)
}

/// Lets in what fulfils the invariant, and lets the asking page read the answer.
async fn guard(State(control): State<Arc<Control>>, request: Request, next: axum::middleware::Next) -> Response {
    let headers = request.headers();
    let is_near = text(headers, "host").is_some_and(is_loopback_name);
    let origin =
        headers.get(header::ORIGIN).filter(|o| control.origins.iter().any(|a| a.as_bytes() == o.as_bytes())).cloned();
    let (true, Some(origin)) = (is_near, origin) else { return StatusCode::FORBIDDEN.into_response() };
    let key = text(headers, KEY_HEADER).unwrap_or_default();
    let mut response = match *request.method() {
        // A preflight carries no key.
        Method::OPTIONS => preflight(),
        _ if bool::from(key.as_bytes().ct_eq(control.key.as_bytes())) => next.run(request).await,
        _ => StatusCode::FORBIDDEN.into_response(),
    };
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, KEY_HEADER),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

#[derive(Deserialize)]
struct About {
    conv: Option<String>,
}

async fn nodes(State(control): State<Arc<Control>>, UrlQuery(about): UrlQuery<About>) -> Response {
    let (tx, rx) = oneshot::channel();
    if control.orders.send(Order::List(tx)).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let Ok(pids) = rx.await else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let statuses = join_all(control.peers.iter().map(status)).await;
    let shard =
        about.conv.and_then(|id| ConvId::parse(&id).ok()).and_then(|id| control.slots.shard_of_conversation(&id));
    let leader = shard.and_then(|shard| leader_of(shard, &statuses));
    let seen = |((number, pid), status): (&(u16, Option<u32>), &Option<NodeStatus>)| Seen {
        node: *number,
        url: control.urls.get(usize::from(*number) - 1).cloned().unwrap_or_default(),
        pid: *pid,
        ready: status.as_ref().is_some_and(|s| s.ready),
        sessions: status.as_ref().map_or(0, |s| s.sessions),
        leads: status.as_ref().map_or(Vec::new(), leads),
    };
    let nodes: Vec<Seen> = pids.iter().zip(&statuses).map(seen).collect();
    Json(json!({ "nodes": nodes, "shard": shard, "leader": leader })).into_response()
}

async fn status(at: &NodeAddr) -> Option<NodeStatus> {
    let asked = ask(&at.addr, Some(at.node), &AdminRequest::Status, false);
    match tokio::time::timeout(STATUS_LIMIT, asked).await {
        Ok(Ok(AdminReply::Status(status))) => Some(*status),
        _ => None,
    }
}

fn leads(status: &NodeStatus) -> Vec<ShardId> {
    let mut shards: Vec<ShardId> =
        status.groups.iter().filter(|g| g.leader == Some(g.replica)).map(|g| g.shard).collect();
    shards.sort();
    shards
}

/// The node that says of itself, in the highest term, that it leads. One that is named by others only may be dead.
fn leader_of(shard: ShardId, statuses: &[Option<NodeStatus>]) -> Option<u16> {
    let groups = statuses.iter().flatten().flat_map(|s| &s.groups).filter(|g| g.shard == shard);
    let newest = groups.max_by_key(|g| (g.term, g.leader == Some(g.replica)))?;
    newest.leader.filter(|l| *l == newest.replica).map(|l| l.node.0)
}

async fn kill(State(control): State<Arc<Control>>, Path(number): Path<u16>) -> Response {
    order(&control, |tx| Order::Kill(number, tx)).await
}

async fn start(State(control): State<Arc<Control>>, Path(number): Path<u16>) -> Response {
    order(&control, |tx| Order::Start(number, tx)).await
}

async fn order(control: &Control, order: impl FnOnce(oneshot::Sender<Result<bool, String>>) -> Order) -> Response {
    let (tx, rx) = oneshot::channel();
    if control.orders.send(order(tx)).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let answer = |status: StatusCode, body: Value| (status, Json(body)).into_response();
    match rx.await {
        Ok(Ok(changed)) => answer(StatusCode::OK, json!({ "changed": changed })),
        Ok(Err(why)) => answer(StatusCode::NOT_FOUND, json!({ "message": why })),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[cfg(test)]
mod tests;
