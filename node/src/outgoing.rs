//! HTTP to servers that an operator has named: the webhook for one-time codes, an issuer's keys. One request, one connection,
//! one deadline, a bounded reply; redirects are not followed.
//!
//! Invariant: beyond this machine only TLS is spoken. It knows nothing of what is sent.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use flotilla_raft::seam::net;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    https: bool,
    host: String,
    port: u16,
    /// With the query; begins with `/`.
    path: String,
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Path and query may hold a secret.
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl Url {
    /// `https://HOST[:PORT]/PATH`; `http://` for this machine only.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shape = || format!("{text:?} is not a URL like https://HOST/PATH");
        let (https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(shape()),
        };
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) || rest.contains(['@', '#']) {
            return Err(shape());
        }
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| shape())?),
            _ => (authority, if https { 443 } else { 80 }),
        };
        if host.is_empty() {
            return Err(shape());
        }
        // By the number, not by how it begins: `127.0.0.1.example.com` is somebody else.
        let number = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let here = host == "localhost" || number.is_ok_and(|ip| ip.is_loopback());
        if !https && !here {
            return Err(format!("{text:?} must be https://; plain http:// is for this machine only"));
        }
        if https && cfg!(not(feature = "tls")) {
            return Err(format!("{text:?}: this binary was built without TLS"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { https, host: host.to_owned(), port, path })
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    #[error("no answer from {0} in time")]
    Timeout(Url),
    #[error("cannot talk to {0}: {1}")]
    Broken(Url, String),
}

/// What is said.
pub struct Said<'a> {
    pub method: Method,
    pub headers: &'a [(&'a str, String)],
    pub body: Bytes,
    pub limit: Duration,
    pub reply_bytes_max: usize,
}

#[derive(Clone)]
pub struct Outgoing {
    #[cfg(feature = "tls")]
    tls: tls::Config,
}

impl Outgoing {
    /// `ca`: a PEM file with certificates that are trusted beside those of the system. Read at the start.
    pub fn new(ca: Option<&std::path::Path>) -> Result<Self, String> {
        #[cfg(feature = "tls")]
        return Ok(Self { tls: tls::config(ca)? });
        #[cfg(not(feature = "tls"))]
        match ca {
            Some(path) => Err(format!("{}: this binary was built without TLS", path.display())),
            None => Ok(Self {}),
        }
    }

    pub async fn exchange(&self, url: &Url, said: Said<'_>) -> Result<(StatusCode, Bytes), OutgoingError> {
        let limit = said.limit;
        let deadline = Instant::now() + limit;
        let exchange = self.connect_and_talk(url, said, deadline);
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(why)) => Err(OutgoingError::Broken(url.clone(), why)),
            Err(_) => Err(OutgoingError::Timeout(url.clone())),
        }
    }

    async fn connect_and_talk(
        &self,
        url: &Url,
        said: Said<'_>,
        deadline: Instant,
    ) -> Result<(StatusCode, Bytes), String> {
        let stream = net::connect(&url.authority(), deadline).await.map_err(|e| e.to_string())?;
        if !url.https {
            return talk(stream, url, said).await;
        }
        #[cfg(feature = "tls")]
        return talk(tls::handshake(&self.tls, &url.host, stream).await?, url, said).await;
        #[cfg(not(feature = "tls"))]
        Err("this binary was built without TLS".into())
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    url: &Url,
    said: Said<'_>,
) -> Result<(StatusCode, Bytes), String> {
    let broken = |e: &dyn std::fmt::Display| e.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let mut request = Request::builder()
        .method(said.method)
        .uri(&url.path)
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, concat!("flotilla/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close");
    for (name, value) in said.headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(said.body)).map_err(|e| broken(&e))?;
    let exchange = async {
        let reply = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), said.reply_bytes_max).collect().await.map_err(|e| broken(&*e))?;
        Ok((status, body.to_bytes()))
    };
    // The connection is driven beside the exchange and ends with it.
    futures::pin_mut!(exchange, connection);
    match futures::future::select(exchange, connection).await {
        futures::future::Either::Left((done, _)) => done,
        futures::future::Either::Right((_, exchange)) => exchange.await,
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::path::Path;
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::{AsyncRead, AsyncWrite};

    pub type Config = Arc<ClientConfig>;

    pub fn config(ca: Option<&Path>) -> Result<Config, String> {
        let mut roots = RootCertStore::empty();
        // What the system has and cannot be read is not trusted; that it has none shows at the first handshake.
        for cert in rustls_native_certs::load_native_certs().certs {
            let _ = roots.add(cert);
        }
        if let Some(path) = ca {
            let failed = |e: &dyn std::fmt::Display| format!("cannot read certificates from {}: {e}", path.display());
            let mut count = 0;
            for cert in CertificateDer::pem_file_iter(path).map_err(|e| failed(&e))? {
                roots.add(cert.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
                count += 1;
            }
            if count == 0 {
                return Err(failed(&"there is none in it"));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        config: &Config,
        host: &str,
        stream: S,
    ) -> Result<tokio_rustls::client::TlsStream<S>, String> {
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
        tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await.map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_https_beyond_this_machine() {
        let url = Url::parse("http://127.0.0.1:99/a?key=secret").expect("loopback");
        assert_eq!((url.authority().as_str(), url.path.as_str()), ("127.0.0.1:99", "/a?key=secret"));
        assert_eq!(url.to_string(), "http://127.0.0.1:99", "path and query may hold a secret");
        assert!(Url::parse("http://[::1]:9/x").is_ok() && Url::parse("http://localhost").is_ok());
        for plain in
            ["http://example.com/x", "http://127.0.0.1.example.com/x", "http://127.evil.example/", "http://10.0.0.1/"]
        {
            assert!(Url::parse(plain).expect_err("plain").contains("must be https"), "{plain}");
        }
        for bad in ["", "example.com", "ftp://x", "https://", "https://a:b/", "https://u:p@host/", "https://a/ b"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        #[cfg(feature = "tls")]
        assert_eq!(Url::parse("https://example.com").expect("fine").authority(), "example.com:443");
    }
}
