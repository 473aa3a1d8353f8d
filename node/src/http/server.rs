//! The accept loop: caps first, then one task per connection with hyper's HTTP/1 and our own timers.
//!
//! Invariant: nothing is parsed for a connection over the caps, and few of them at a time are told why; headers come within five
//! seconds, and an answer that its client does not take is given up. No `axum::serve`, which
//! knows no header time-out and does not run in the simulator.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get};
use axum::{Extension, Router};
use flotilla_machine::command::LimitName;
use flotilla_proto::frame::{ErrorBody, ErrorCode};
use flotilla_proto::limits;
use flotilla_raft::seam::net::{Listener, Stream};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::impatient::Impatient;
use super::{api, origin, page, ws};
use crate::gateway::shared::Shared;

/// Pause after an error of `accept` (out of file descriptors), which would repeat at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes connections until it is dropped.
pub async fn serve(listener: Listener, shared: Arc<Shared>) {
    let router = router(shared.clone());
    let caps = Arc::new(Caps::default());
    let refusals = Arc::new(Semaphore::new(limits::REFUSALS_AT_ONCE));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match Caps::enter(&caps, &shared, peer.ip()) {
                Some(place) => {
                    let (router, shared) = (router.clone(), shared.clone());
                    tokio::spawn(connection(stream, peer, router, shared, place));
                }
                None => {
                    shared.figures.refused.inc();
                    refuse(stream, &refusals);
                }
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Says so before closing, whatever was asked: over the limit nothing is parsed. While too many are told, others are closed
/// without a word.
fn refuse(mut stream: Stream, refusals: &Arc<Semaphore>) {
    let Ok(turn) = refusals.clone().try_acquire_owned() else { return };
    let error = ErrorBody {
        retry_after_ms: Some(limits::REFUSED_RETRY_MS),
        ..ErrorBody::new(ErrorCode::TooManyRequests, "too many connections")
    };
    let (status, body) = api::problem_text(&error);
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\nretry-after: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        limits::REFUSED_RETRY_MS.div_ceil(1_000),
        body.len(),
    );
    tokio::spawn(async move {
        let told = async {
            stream.write_all(text.as_bytes()).await?;
            stream.shutdown().await?;
            // What the client has sent is read away: a close with unread bytes resets the connection, and it may never see why.
            let mut rest = [0; 1_024];
            for _ in 0..limits::MESSAGE_BYTES_MAX_BEFORE_HELLO / rest.len() {
                if stream.read(&mut rest).await? == 0 {
                    break;
                }
            }
            std::io::Result::Ok(())
        };
        // Whoever does not listen is closed all the same.
        let _ = tokio::time::timeout(Duration::from_millis(limits::REFUSAL_MS), told).await;
        drop(turn);
    });
}

/// Open connections, in all and by address.
#[derive(Default)]
struct Caps(Mutex<(usize, BTreeMap<IpAddr, usize>)>);

/// A connection's place under the caps; given back when dropped, also by an upgraded connection.
pub struct Place {
    caps: Arc<Caps>,
    shared: Arc<Shared>,
    from: IpAddr,
}

impl Caps {
    fn enter(caps: &Arc<Self>, shared: &Arc<Shared>, from: IpAddr) -> Option<Place> {
        let mut open = caps.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = open.1.get(&from).copied().unwrap_or(0);
        if open.0 >= shared.options.connections_max || here >= shared.limit(LimitName::ConnectionsPerAddress) as usize {
            return None;
        }
        open.0 += 1;
        open.1.insert(from, here + 1);
        shared.figures.connections.add(1);
        Some(Place { caps: caps.clone(), shared: shared.clone(), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.caps.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 -= 1;
        if let Some(here) = open.1.get_mut(&self.from) {
            *here -= 1;
            if *here == 0 {
                open.1.remove(&self.from);
            }
        }
        self.shared.figures.connections.add(-1);
    }
}

/// Who is at the other end, and its place.
#[derive(Clone)]
pub struct Peer {
    pub addr: SocketAddr,
    pub place: Arc<Place>,
}

async fn connection(stream: Stream, addr: SocketAddr, router: Router, shared: Arc<Shared>, place: Place) {
    let peer = Peer { addr, place: Arc::new(place) };
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (router, peer) = (router.clone(), peer.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            router.oneshot(request).await
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(Timer).header_read_timeout(Duration::from_millis(limits::HEADER_DEADLINE_MS)).max_buf_size(16 * 1024);
    let stream = Impatient::new(stream, Duration::from_millis(shared.options.timings.socket_full_max_ms));
    let served = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(served);
    let mut node = shared.backend.node();
    let draining = async {
        // An error means that the node is gone: drain as well.
        let _ = node.wait_for(|view| view.draining).await;
    };
    let result = tokio::select! {
        biased;
        result = &mut served => result,
        () = draining => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, %addr, "a connection ended early");
    }
}

/// The group of what is not an operation of the chat.
pub const GROUP: &str = "Node";

/// A route beside the operations: no token, no parameters.
pub struct Plain {
    pub path: &'static str,
    pub id: &'static str,
    pub about: &'static str,
    /// Status, content type (none: no body) and what it says.
    pub answers: &'static [(u16, &'static str, &'static str)],
    pub errors: &'static [ErrorCode],
    handler: fn() -> MethodRouter<Arc<Shared>>,
}

const TEXT: &str = "text/plain";

/// All of them but for the page and its files.
pub const PLAIN: &[Plain] = &[
    Plain {
        path: "/livez",
        id: "livez",
        about: "The process runs.",
        answers: &[(200, TEXT, "It does.")],
        errors: &[],
        handler: || get(async || "ok\n"),
    },
    Plain {
        path: "/readyz",
        id: "readyz",
        about: "The node serves clients: for load balancers.",
        answers: &[(200, TEXT, "It does."), (503, TEXT, "It starts, stops, or sees no quorum.")],
        errors: &[],
        handler: || get(readyz),
    },
    Plain {
        path: "/metrics",
        id: "metrics",
        about: "Figures in the text form of Prometheus.",
        answers: &[(200, TEXT, "The figures.")],
        errors: &[],
        handler: || get(metrics),
    },
    Plain {
        path: "/v1/ws",
        id: "socket",
        about: "A WebSocket of version 13: asyncapi.json says what is spoken there.",
        answers: &[(101, "", "It is open.")],
        errors: &[ErrorCode::BadRequest, ErrorCode::TooManyRequests],
        handler: || get(ws::upgrade),
    },
    Plain {
        path: "/v1/page",
        id: "page",
        about: "What a page must know of the node that served it.",
        answers: &[(200, "application/json", "`urls` of all nodes, `demo`: demo users may be used from here.")],
        errors: &[],
        handler: || get(page::about),
    },
    document("/v1/openapi.json", "openapi", "This document.", || get(page::openapi)),
    document("/v1/asyncapi.json", "asyncapi", "The WebSocket protocol, AsyncAPI 3.", || get(page::asyncapi)),
    document("/v1/schema.json", "schema", "All types, JSON Schema 2020-12.", || get(page::schema)),
    document("/v1/errors.json", "errors", "Error and close codes: meaning and what to do.", || get(page::errors)),
];

const fn document(
    path: &'static str,
    id: &'static str,
    about: &'static str,
    handler: fn() -> MethodRouter<Arc<Shared>>,
) -> Plain {
    let answers = &[(200, "application/json", "The document."), (304, "", "What `If-None-Match` names is current.")];
    Plain { path, id, about, answers, errors: &[], handler }
}

fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for plain in PLAIN {
        router = router.route(plain.path, (plain.handler)());
    }
    router
        .route("/v1/{*path}", any(origin::rest))
        .route("/", get(page::index))
        .route("/sw.js", get(page::service_worker))
        .route("/page/{version}/{*path}", get(page::file))
        .route("/docs", get(page::docs))
        .route("/docs/{*path}", get(page::docs_file))
        .method_not_allowed_fallback(async || api::problem(&crate::gateway::errors::wrong_verb(&["GET", "HEAD"])))
        .fallback(async || api::problem(&crate::gateway::errors::not_found("no such path")))
        .with_state(shared)
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let node = shared.node();
    match (node.ready, node.draining) {
        (true, false) => (StatusCode::OK, "ready\n").into_response(),
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>, Extension(_peer): Extension<Peer>) -> Response {
    let page = shared.figures.registry.page();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response()
}

/// hyper's timers over the runtime alias, so that the simulator's clock counts.
#[derive(Clone, Copy, Debug)]
pub struct Timer;

struct Sleep(std::pin::Pin<Box<tokio::time::Sleep>>);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl hyper::rt::Sleep for Sleep {}

impl hyper::rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> std::pin::Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep(Box::pin(tokio::time::sleep(duration))))
    }

    /// hyper counts in std's instants, which the simulator answers too; only the difference is used.
    fn sleep_until(&self, deadline: std::time::Instant) -> std::pin::Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep(deadline.saturating_duration_since(std::time::Instant::now()))
    }
}
