//! Base URLs of nodes and TCP connections to them. Plain `http://` only: TLS ends in front of the node.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("{0:?} is not a node's URL: expected http://HOST:PORT")]
    Url(String),
    #[error("cannot connect to {url}: {source}")]
    Connect { url: String, source: io::Error },
    #[error("cannot connect to {0} in time")]
    Timeout(String),
}

/// `HOST:PORT` of a base URL like `http://127.0.0.1:4001` (or `ws://`, or the bare address).
pub fn authority(url: &str) -> Result<&str, NetError> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://")).unwrap_or(url);
    let authority = rest.split('/').next().unwrap_or(rest);
    let port = authority.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
    match port.map(str::parse::<u16>) {
        Some(Ok(_)) => Ok(authority),
        _ => Err(NetError::Url(url.to_owned())),
    }
}

pub async fn connect(url: &str, limit: Duration) -> Result<TcpStream, NetError> {
    let address = authority(url)?;
    let stream = tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| NetError::Timeout(url.to_owned()))?
        .map_err(|source| NetError::Connect { url: url.to_owned(), source })?;
    // Small frames must not wait for each other; a platform that refuses is only slower.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_give_their_address_or_say_what_is_expected() {
        for good in ["http://127.0.0.1:4001", "ws://127.0.0.1:4001/v1/ws", "127.0.0.1:4001"] {
            assert_eq!(authority(good).expect("valid"), "127.0.0.1:4001");
        }
        for bad in ["", "http://", "http://host", "https://host:1", "host:notaport", ":1"] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }
}
