//! Which node to try next, how long to wait before, and one attempt.

use std::time::Duration;

use flotilla_proto::frame::{Hello, Ready, Verdict};
use rand::RngExt;

use super::config::{Config, TokenError};
use crate::connection::{ConnectError, Connection};

/// How an attempt failed.
#[derive(Debug)]
pub enum DialError {
    Token(TokenError),
    Connect(ConnectError),
}

impl DialError {
    pub fn verdict(&self) -> Verdict {
        match self {
            DialError::Token(TokenError::Later(_)) => Verdict::Reconnect,
            DialError::Token(TokenError::Denied(_)) => Verdict::Stop,
            DialError::Connect(ConnectError::Closed(closed)) => closed.verdict(),
            DialError::Connect(_) => Verdict::Reconnect,
        }
    }
}

impl DialError {
    /// Of the close frame, 0 without one.
    pub fn code(&self) -> u16 {
        match self {
            DialError::Connect(ConnectError::Closed(closed)) => closed.code,
            _ => 0,
        }
    }
}

impl std::fmt::Display for DialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DialError::Token(e) => e.fmt(f),
            DialError::Connect(e) => e.fmt(f),
        }
    }
}

pub struct Dialed {
    pub url: String,
    pub attempt: u64,
    pub result: Result<(Connection, Ready), DialError>,
}

/// One attempt: token, connection, `hello`, `ready`.
pub async fn dial(config: Config, url: String, mut hello: Hello, fresh_token: bool) -> Dialed {
    let attempt = hello.attempt;
    let result = async {
        hello.token = (config.token)(fresh_token).await.map_err(DialError::Token)?;
        Connection::open(&url, config.encoding, hello).await.map_err(DialError::Connect)
    };
    let result = result.await;
    Dialed { url, attempt, result }
}

/// Rotates over the URLs; those that the server names come first, those of the configuration are never forgotten.
#[derive(Debug)]
pub struct Urls {
    configured: Vec<String>,
    all: Vec<String>,
    at: usize,
}

impl Urls {
    pub fn new(configured: Vec<String>) -> Self {
        let at = if configured.is_empty() { 0 } else { rand::rng().random_range(0..configured.len()) };
        Self { all: configured.clone(), configured, at }
    }

    pub fn learn(&mut self, named: &[String]) {
        if named.is_empty() {
            return;
        }
        self.all = named.to_vec();
        for url in &self.configured {
            if !self.all.contains(url) {
                self.all.push(url.clone());
            }
        }
    }

    /// The next one, another than `but` if there is another.
    pub fn next(&mut self, but: Option<&str>) -> Option<String> {
        for _ in 0..self.all.len().min(2) {
            let url = self.all.get(self.at % self.all.len())?.clone();
            self.at = self.at.wrapping_add(1);
            if self.all.len() == 1 || Some(url.as_str()) != but {
                return Some(url);
            }
        }
        self.all.first().cloned()
    }
}

/// Full jitter over a bound that doubles; the first pause is short, for another node is likely up.
#[derive(Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, failures: 0 }
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    pub fn pause(&mut self) -> Duration {
        let bound = self.min.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(rand::rng().random_range(ms / 4..=ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_url_gets_its_turn_and_the_one_to_avoid_is_avoided() {
        let mut urls = Urls::new(vec!["a".into(), "b".into()]);
        for _ in 0..4 {
            assert_eq!(urls.next(Some("a")).as_deref(), Some("b"));
        }
        urls.learn(&["c".into()]);
        let seen: Vec<String> = (0..3).filter_map(|_| urls.next(None)).collect();
        assert!(["a", "b", "c"].iter().all(|u| seen.contains(&(*u).to_owned())), "{seen:?}");
        assert_eq!(Urls::new(vec!["a".into()]).next(Some("a")).as_deref(), Some("a"));
        assert_eq!(Urls::new(vec![]).next(None), None);
    }

    #[test]
    fn pauses_grow_to_their_bound_and_never_vanish() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for i in 0..20 {
            let pause = backoff.pause();
            assert!(pause <= Duration::from_secs(2) && pause >= Duration::from_millis(25));
            assert!(i > 0 || pause <= Duration::from_millis(100));
        }
    }
}
