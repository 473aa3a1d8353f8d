//! The accept loop: caps first, then one task per connection with hyper's HTTP/1 and our own timers.
//!
//! Invariant: nothing is allocated for a connection over the caps; headers come within five seconds. No `axum::serve`, which
//! knows no header time-out and does not run in the simulator.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, Router};
use flotilla_proto::limits;
use flotilla_raft::seam::net::{Listener, Stream};
use hyper_util::rt::TokioIo;
use tower::ServiceExt;

use super::{api, origin, page, ws};
use crate::gateway::shared::Shared;

/// Pause after an error of `accept` (out of file descriptors), which would repeat at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes connections until it is dropped.
pub async fn serve(listener: Listener, shared: Arc<Shared>) {
    let router = router(shared.clone());
    let caps = Arc::new(Caps::default());
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match Caps::enter(&caps, &shared, peer.ip()) {
                Some(place) => {
                    let (router, shared) = (router.clone(), shared.clone());
                    tokio::spawn(connection(stream, peer, router, shared, place));
                }
                None => shared.figures.refused.inc(),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
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
        if open.0 >= shared.options.connections_max || here >= shared.options.connections_per_address_max {
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

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/ws", get(ws::upgrade))
        .route("/v1/page", get(page::about))
        .route("/v1/{*path}", any(origin::rest))
        .route("/", get(page::index))
        .route("/sw.js", get(page::service_worker))
        .route("/page/{version}/{*path}", get(page::file))
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
