//! Which pages may talk to this node, over a WebSocket and over REST.
//!
//! A page that one node has served goes on when that node dies, through the others: pages of this cluster's own addresses are
//! always welcome, others by `--origins`. Tokens travel in headers and frames, never in cookies, so a foreign page that is
//! let in by mistake still holds no token.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::api;
use super::server::Peer;
use crate::gateway::shared::Shared;

/// Exact match; programs send no origin.
pub fn is_allowed(shared: &Shared, headers: &HeaderMap) -> bool {
    let allowed = &shared.options.origins;
    match headers.get(header::ORIGIN) {
        None => true,
        Some(_) if allowed.is_empty() => true,
        Some(origin) => origin.to_str().is_ok_and(|o| {
            allowed.iter().any(|a| a == o) || shared.node().urls.iter().any(|url| url.trim_end_matches('/') == o)
        }),
    }
}

/// REST, with CORS for pages that are allowed. For others nothing changes: their browser keeps the answer from them.
pub async fn rest(state: State<Arc<Shared>>, peer: Extension<Peer>, request: Request) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let origin = origin.filter(|_| is_allowed(&state, request.headers()));
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let Some(origin) = origin else { return api::rest(state, peer, request).await };
    let mut response = if is_preflight { preflight() } else { api::rest(state, peer, request).await };
    let out = response.headers_mut();
    out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    out.append(header::VARY, HeaderValue::from_static("origin"));
    response
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, PATCH, DELETE"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, idempotency-key, last-event-id"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

#[cfg(test)]
mod tests {
    use crate::gateway::shared::Options;
    use crate::testing::client::Node;

    #[tokio::test]
    async fn a_page_of_another_node_of_this_cluster_may_ask_and_a_foreign_one_may_not() {
        let node =
            Node::with(Options { dev_auth: true, origins: vec!["https://chat.example".into()], ..Options::default() })
                .await;
        node.fake
            .node
            .send_modify(|view| view.urls = ["http://127.0.0.1:4001".into(), "http://127.0.0.1:4002/".into()].into());
        let asks = async |origin: &str| {
            let headers = [("origin", origin), ("access-control-request-method", "POST")];
            node.ask("OPTIONS", "/v1/auth/refresh", &headers).await.0
        };
        for origin in ["https://chat.example", "http://127.0.0.1:4001", "http://127.0.0.1:4002"] {
            let head = asks(origin).await;
            assert!(head.starts_with("HTTP/1.1 204"), "{head}");
            assert!(head.contains(&format!("access-control-allow-origin: {origin}\r\n")), "{head}");
        }
        for origin in ["https://evil.example", "http://127.0.0.1:40011", "null"] {
            let head = asks(origin).await;
            assert!(!head.contains("access-control"), "{head}");
        }
        let (head, _) = node.ask("GET", "/v1/me", &[("origin", "http://127.0.0.1:4002")]).await;
        assert!(
            head.starts_with("HTTP/1.1 401") && head.contains("access-control-allow-origin"),
            "an error is told too: {head}"
        );
    }
}
