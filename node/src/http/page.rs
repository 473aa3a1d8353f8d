//! The web page, out of the binary: the same files on every node.
//!
//! Invariant: a path with a version names the same bytes for ever, so it may be kept; `/` and `/sw.js` are asked for again each
//! time and name the current version. What the page may talk to is this cluster and nothing else (CSP). Knows nothing of chat.

use std::net::Ipv6Addr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;

use super::api;
use super::server::Peer;
use crate::gateway::shared::{DevControl, Shared};

/// One file of the page.
pub struct File {
    /// As in the repository.
    path: &'static str,
    content_type: &'static str,
    hash: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/page.rs"));

const FOR_EVER: &str = "public, max-age=31536000, immutable";
const ASK_AGAIN: &str = "no-cache";

pub async fn index(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    guarded(serve(FILES, "node/web/index.html", &headers, ASK_AGAIN), &policy(&shared))
}

/// A page, with what it may load and talk to.
fn guarded(mut response: Response, policy: &str) -> Response {
    let policy = HeaderValue::from_str(policy).unwrap_or(HeaderValue::from_static("default-src 'self'"));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response.headers_mut().insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    response
}

/// What is a page is served at its own address alone, where it is guarded.
fn serve_part(files: &[File], path: &str, headers: &HeaderMap, keep: &'static str) -> Response {
    let is_page = |f: &File| f.path == path && f.content_type.starts_with("text/html");
    if files.iter().any(is_page) { no_file() } else { serve(files, path, headers, keep) }
}

fn no_file() -> Response {
    api::problem(&crate::gateway::errors::not_found("no such file"))
}

/// The page that draws the documents talks to this node alone.
pub async fn docs(headers: HeaderMap) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    guarded(serve(DOCS, "node/docs/index.html", &headers, ASK_AGAIN), POLICY)
}

pub async fn docs_file(Path(path): Path<String>, headers: HeaderMap) -> Response {
    serve_part(DOCS, &format!("node/docs/{path}"), &headers, ASK_AGAIN)
}

pub async fn openapi(headers: HeaderMap) -> Response {
    document("openapi.json", &headers)
}

pub async fn asyncapi(headers: HeaderMap) -> Response {
    document("asyncapi.json", &headers)
}

pub async fn schema(headers: HeaderMap) -> Response {
    document("schema.json", &headers)
}

pub async fn errors(headers: HeaderMap) -> Response {
    document("errors.json", &headers)
}

/// For everybody: tools of other origins read them in the browser.
fn document(name: &str, headers: &HeaderMap) -> Response {
    let mut response = serve(DOCS, &format!("docs/api/{name}"), headers, ASK_AGAIN);
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

pub async fn service_worker(headers: HeaderMap) -> Response {
    serve(FILES, "node/web/sw.js", &headers, ASK_AGAIN)
}

/// A file under a version. During an upgrade another node's page may ask for a version that is not this node's: it gets what
/// there is, and keeps nothing.
pub async fn file(Path((version, path)): Path<(String, String)>, headers: HeaderMap) -> Response {
    serve_part(FILES, &path, &headers, if version == VERSION { FOR_EVER } else { ASK_AGAIN })
}

/// What a page must know of the node that served it. Not for other origins: no CORS header is ever set here.
pub async fn about(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let is_near = peer.addr.ip().is_loopback();
    let demo = shared.options.dev_auth && is_near;
    let control = shared.options.dev_control.as_ref().filter(|_| demo && is_own_page(&headers));
    let (urls, methods) = (shared.node().urls, super::login::offered(&shared));
    let body = json!({ "urls": urls, "demo": demo, "methods": methods, "control": control.map(DevControl::view) });
    ([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

fn serve(files: &[File], path: &str, headers: &HeaderMap, keep: &'static str) -> Response {
    let Some(file) = files.iter().find(|f| f.path == path) else {
        return no_file();
    };
    let etag = format!("\"{}\"", file.hash);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let is_known = known.is_some_and(|list| list.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let is_packed = accepted.split(',').any(takes_gzip);
    let mut response = match (is_known, is_packed) {
        (true, _) => StatusCode::NOT_MODIFIED.into_response(),
        (false, true) => ([(header::CONTENT_ENCODING, "gzip")], file.gzip).into_response(),
        (false, false) => file.plain.into_response(),
    };
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    out.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What is kept for ever is never asked for again.
    if keep == ASK_AGAIN
        && let Ok(etag) = HeaderValue::from_str(&etag)
    {
        out.insert(header::ETAG, etag);
    }
    response
}

fn takes_gzip(coding: &str) -> bool {
    let mut parts = coding.split(';').map(str::trim);
    parts.next() == Some("gzip") && !parts.any(|p| matches!(p, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
}

/// Scripts, styles and pictures from this node; connections to the nodes of this cluster, for the page goes on when the node
/// that served it dies.
fn policy(shared: &Shared) -> String {
    let mut connect = String::from("'self'");
    let urls = shared.node().urls;
    for url in urls.iter().chain(shared.options.dev_control.as_ref().map(|c| &c.url)) {
        let Some(host) = url.trim_end_matches('/').split_once("://") else { continue };
        // Anything else would end the directive.
        if !host.1.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)) {
            continue;
        }
        let (http, ws) = if host.0 == "https" { ("https", "wss") } else { ("http", "ws") };
        connect.push_str(&format!(" {http}://{0} {ws}://{0}", host.1));
    }
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; manifest-src 'self'; worker-src 'self'; \
         connect-src {connect}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Asked by a page that was loaded from this machine under a name of this machine. A name that merely leads here (DNS
/// rebinding) is another one; a foreign page says so in `sec-fetch-site`.
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let site = text("sec-fetch-site").unwrap_or("same-origin");
    text("host").is_some_and(is_loopback_name) && matches!(site, "same-origin" | "none")
}

/// `localhost:4001`, `127.0.0.1:4001`, `[::1]:4001`.
pub fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    matches!(name, "localhost" | "127.0.0.1") || name.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::shared::Options;
    use crate::testing::client::Node;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for host in ["localhost:4001", "127.0.0.1", "127.0.0.1:4001", "[::1]:4001", "localhost"] {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in [
            "evil.example:4001",
            "localhost.evil.example",
            "127.0.0.1.nip.io:4001",
            "[::2]:4001",
            "",
            "[",
            "192.168.0.7",
        ] {
            assert!(!is_loopback_name(host), "{host}");
        }
    }

    #[tokio::test]
    async fn the_page_and_its_files_come_with_their_types_and_are_known_again() {
        let node = Node::start().await;
        let head = node.head("/", &[("accept-encoding", "br, gzip;q=0.8")]).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        for line in [
            "content-type: text/html; charset=utf-8",
            "content-encoding: gzip",
            "cache-control: no-cache",
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'; script-src 'self'",
        ] {
            assert!(head.contains(line), "{line} in {head}");
        }
        let plain = node.head("/", &[("accept-encoding", "gzip;q=0")]).await;
        assert!(!plain.contains("content-encoding"), "{plain}");
        let script = format!("/page/{VERSION}/client-js/src/index.js");
        let head = node.head(&script, &[]).await;
        assert!(head.contains("text/javascript") && head.contains("immutable"), "{head}");
        let head = node.head("/", &[]).await;
        let etag = head.lines().find_map(|l| l.strip_prefix("etag: ")).expect("an etag").to_owned();
        let again = node.head("/", &[("if-none-match", &format!("\"other\", {etag}"))]).await;
        assert!(again.starts_with("HTTP/1.1 304"), "{again}");
        let other = node.head("/page/0/client-js/src/index.js", &[]).await;
        assert!(other.contains("200 OK") && other.contains("no-cache"), "another version's path: {other}");
        for path in [
            "/page/0/client-js/src/../src/index.js",
            "/page/0/Cargo.toml",
            "/page/0/client-js/src/node.js",
            "/index.html",
            "/page/0/node/web/index.html",
            &format!("/page/{VERSION}/node/web/index.html"),
        ] {
            assert!(node.head(path, &[]).await.starts_with("HTTP/1.1 404"), "{path}");
        }
        let (_, html) = node.http("GET", "/", &[], "").await;
        let html = html.as_str().expect("text");
        assert!(html.contains(VERSION) && !html.contains("{{"), "filled in: {html}");
    }

    #[tokio::test]
    async fn the_documents_and_the_page_that_draws_them_come_packed_and_are_known_again() {
        let node = Node::start().await;
        for name in ["openapi", "asyncapi", "schema", "errors"] {
            let path = format!("/v1/{name}.json");
            let head = node.head(&path, &[("accept-encoding", "gzip")]).await;
            for line in ["200 OK", "content-type: application/json", "content-encoding: gzip", "etag: "] {
                assert!(head.contains(line), "{path}: {line} in {head}");
            }
            let etag = head.lines().find_map(|l| l.strip_prefix("etag: ")).expect("an etag").to_owned();
            let again = node.head(&path, &[("if-none-match", &etag)]).await;
            assert!(again.starts_with("HTTP/1.1 304"), "{again}");
            let (status, document) = node.http("GET", &path, &[], "").await;
            assert_eq!((status, document.is_object()), (200, true), "{path}");
        }
        let head = node.head("/docs", &[]).await;
        assert!(head.contains("text/html") && head.contains("content-security-policy: default-src 'none'"), "{head}");
        for (path, status) in [
            ("/docs/index.html", "404"),
            ("/docs/docs.js", "200"),
            ("/docs/docs.css", "200"),
            ("/docs/../docs.js", "404"),
            ("/docs/x", "404"),
        ] {
            let head = node.head(path, &[]).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {head}");
        }
        let packed: usize = DOCS.iter().filter(|f| f.path.starts_with("node/docs/")).map(|f| f.gzip.len()).sum();
        assert!(packed < 40 * 1024, "the page weighs {packed} bytes");
    }

    #[tokio::test]
    async fn the_key_to_the_nodes_is_told_to_pages_of_this_machine_only() {
        let control = Some(DevControl { url: "http://127.0.0.1:9".into(), key: "secret".into() });
        let node = Node::with(Options { dev_auth: true, dev_control: control.clone(), ..Options::default() }).await;
        let ask = async |headers: &[(&str, &str)]| node.ask("GET", "/v1/page", headers).await;
        let (head, mine) = ask(&[("host", "localhost:4001"), ("sec-fetch-site", "same-origin")]).await;
        assert!(mine.contains("secret") && !head.contains("access-control"), "{head}{mine}");
        for headers in [
            [("host", "evil.example:4001"), ("sec-fetch-site", "same-origin")],
            [("host", "localhost:4001"), ("sec-fetch-site", "cross-site")],
            [("host", "localhost:4001"), ("sec-fetch-site", "same-site")],
        ] {
            let (head, body) = ask(&headers).await;
            assert!(head.starts_with("HTTP/1.1 200") && !body.contains("secret"), "{headers:?}: {body}");
        }
        let node = Node::with(Options { dev_auth: false, dev_control: control, ..Options::default() }).await;
        let (_, body) = node.ask("GET", "/v1/page", &[("host", "localhost:4001")]).await;
        assert!(!body.contains("secret") && body.contains("\"demo\":false"), "{body}");
        assert!(body.contains("\"methods\":[\"password\"]"), "{body}");
    }
}
