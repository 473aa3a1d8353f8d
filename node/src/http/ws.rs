//! The upgrade to a WebSocket: origin, subprotocol, handshake.
//!
//! A browser cannot see an HTTP error on upgrade: what can be said by a close code is said by one.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, body::Body};
use flotilla_proto::frame::{CloseCode, Encoding};
use flotilla_raft::seam::net::Stream;
use futures::future::Either;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::impatient::Impatient;
use super::server::Peer;
use super::{api, origin};
use crate::gateway::connection;
use crate::gateway::errors;
use crate::gateway::shared::Shared;
use crate::gateway::socket::Socket;

pub async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let (mut parts, _body) = request.into_parts();
    let headers = &parts.headers;
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_websocket(&parts.method, parts.version, headers));
    let (Some(key), Some(on_upgrade)) = (key.cloned(), parts.extensions.remove::<OnUpgrade>()) else {
        return api::problem(&errors::bad("a WebSocket handshake of version 13 is needed here"));
    };
    let (encoding, protocol) = negotiate(headers);
    let refusal = match (origin::is_allowed(&shared, headers), &encoding) {
        (false, _) => Some(CloseCode::OriginForbidden),
        (true, None) => Some(CloseCode::UnsupportedVersion),
        (true, Some(_)) => None,
    };
    tokio::spawn(converse(shared, peer, on_upgrade, encoding, refusal));
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .body(Body::empty())
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response());
    if let Some(protocol) = protocol {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// The task of one connection. Only what it needs to the end is in it: it is kept while the connection is silent.
fn converse(
    shared: Arc<Shared>,
    Peer { addr, place }: Peer,
    on_upgrade: OnUpgrade,
    encoding: Option<Encoding>,
    refusal: Option<CloseCode>,
) -> impl Future<Output = ()> + Send {
    let opened = Box::pin(open(on_upgrade, encoding.unwrap_or(Encoding::Json)));
    async move {
        let _place = place;
        let rest = match (opened.await, refusal) {
            (None, _) => return,
            (Some(socket), Some(code)) => Either::Left(socket.close(code)),
            (Some(socket), None) => Either::Right(connection::run(shared, socket, addr)),
        };
        rest.await;
    }
}

async fn open(on_upgrade: OnUpgrade, encoding: Encoding) -> Option<Socket<Stream>> {
    let upgraded = on_upgrade.await.ok()?;
    // Out of hyper's boxes: what an idle connection keeps is counted in bytes.
    let parts = upgraded.downcast::<TokioIo<Impatient<Stream>>>().ok()?;
    // Copied, not kept: however little came behind the request, it would hold on to hyper's whole buffer.
    let (io, read) = (parts.io.into_inner().into_inner(), parts.read_buf.to_vec());
    drop(parts.read_buf);
    Some(Socket::new(io, read, encoding).await)
}

fn is_websocket(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, token: &str| {
        let values = headers.get_all(name);
        values
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|v| v.trim().eq_ignore_ascii_case(token))
    };
    *method == Method::GET
        && version == Version::HTTP_11
        && has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && has(header::SEC_WEBSOCKET_VERSION, "13")
}

/// The first one that both know; JSON where none is offered; none where only unknown ones are. The second value is echoed.
fn negotiate(headers: &HeaderMap) -> (Option<Encoding>, Option<HeaderValue>) {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offers: Vec<&str> =
        values.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim).collect();
    let Some(first) = offers.first() else { return (Some(Encoding::Json), None) };
    match offers.iter().find_map(|name| Encoding::of_subprotocol(name)) {
        Some(encoding) => (Some(encoding), Some(HeaderValue::from_static(encoding.subprotocol()))),
        // Some subprotocol must be named, or the browser fails the handshake and never sees 4501.
        None => (None, HeaderValue::from_str(first).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bytes_of;

    /// It lives as long as the connection does, most of the time silent.
    #[test]
    fn the_task_of_a_silent_connection_is_small() {
        let task = bytes_of(|(shared, peer, on_upgrade)| converse(shared, peer, on_upgrade, None, None));
        assert!(task <= 640, "{task} bytes");
    }
}
