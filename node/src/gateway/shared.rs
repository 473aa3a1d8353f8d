//! What every connection and request of a node shares: the backend, the clock, keys, limits and metrics.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_machine::query::Account;
use flotilla_machine::{Answer, Query};
use flotilla_proto::frame::{CloseCode, ErrorBody, ErrorCode};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::errors;
use super::hiding::Hiding;
use super::marks;
use super::pool::Pool;
use super::pulled::Placed;
use super::rates::Rates;
use super::withdrawals::Withdrawals;
use crate::auth::courier::{Courier, Delivery};
use crate::auth::issuer::{self, Issuer};
use crate::auth::limiter::Limiter;
use crate::auth::password::Passwords;
use crate::auth::{self, Caller, TokenError, jwt};
use crate::backend::{Backend, Freshness, NodeView, Route};
use crate::http::turns::Turns;
use crate::metrics::{Counter, Gauge, Histogram, Registry};

/// The wall clock, read in one place of the product.
pub type Clock = Arc<dyn Fn() -> TsMs + Send + Sync>;

/// How this node treats its clients.
pub struct Options {
    /// Take `dev:USER` tokens from loopback; only on a node that listens on loopback.
    pub dev_auth: bool,
    /// Origins of browsers that may connect; empty: any.
    pub origins: Vec<String>,
    /// Where the page finds the process that can kill and restart the nodes of a local cluster.
    pub dev_control: Option<DevControl>,
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    /// A second, on this node; 0: no limit.
    pub sends_per_user: u32,
    pub sends_per_conversation: u32,
    /// Tries of one address and of one account.
    pub logins_per_minute: u32,
    /// How one-time codes reach people.
    pub codes: Delivery,
    /// Whose tokens are taken beside this cluster's own.
    pub issuer: Option<issuer::Config>,
    pub timings: Timings,
}

/// The parent process of a local cluster, as its nodes tell it to pages of this machine.
#[derive(Clone)]
pub struct DevControl {
    pub url: String,
    /// Who shows it may kill and restart nodes.
    pub key: String,
}

impl DevControl {
    /// From one word each, with a space between: how it travels in the environment.
    pub fn parse(text: &str) -> Option<Self> {
        let (url, key) = text.split_once(' ')?;
        Some(Self { url: url.to_owned(), key: key.to_owned() })
    }

    pub fn view(&self) -> serde_json::Value {
        serde_json::json!({ "url": self.url, "key": self.key })
    }
}

/// The protocol's times; tests have shorter ones.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    pub hello_ms: u64,
    pub ping_after_ms: u64,
    pub silence_max_ms: u64,
    pub unacked_max_ms: u64,
    pub socket_full_max_ms: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            hello_ms: limits::HELLO_DEADLINE_MS,
            ping_after_ms: limits::PING_AFTER_MS,
            silence_max_ms: limits::SILENCE_MAX_MS,
            unacked_max_ms: limits::UNACKED_MAX_MS,
            socket_full_max_ms: limits::SOCKET_FULL_MAX_MS,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dev_auth: false,
            origins: Vec::new(),
            dev_control: None,
            connections_max: limits::CONNECTIONS_MAX,
            connections_per_address_max: limits::CONNECTIONS_PER_ADDRESS_MAX,
            sends_per_user: 0,
            sends_per_conversation: 0,
            logins_per_minute: limits::LOGIN_PER_MINUTE,
            codes: Delivery::Off,
            issuer: None,
            timings: Timings::default(),
        }
    }
}

/// Name and help of the sends' counters.
const SENDS: (&str, &str) = ("flotilla_sends_total", "Sends by result.");

/// Handles taken once.
pub struct Figures {
    pub registry: Arc<Registry>,
    pub connections: Arc<Gauge>,
    pub sessions: Arc<Gauge>,
    pub streams: Arc<Gauge>,
    pub refused: Arc<Counter>,
    pub accepted: Arc<Counter>,
    pub accept_seconds: Arc<Histogram>,
    pub delivery_seconds: Arc<Histogram>,
    pub entries_sent: Arc<Counter>,
    pub bad_acks: Arc<Counter>,
    pub requests_waiting: Arc<Gauge>,
    pub row_looks: Arc<Counter>,
    pub signals: Arc<Counter>,
    pub receipt_signals: Arc<Counter>,
}

impl Figures {
    fn new(registry: Arc<Registry>) -> Self {
        let r = &registry;
        Self {
            connections: r.gauge("flotilla_connections", "Open client connections.", &[]),
            sessions: r.gauge("flotilla_sessions", "Open sessions.", &[]),
            streams: r.gauge("flotilla_inbox_streams", "Open streams of server-sent events.", &[]),
            refused: r.counter("flotilla_connections_refused_total", "Connections over the limits.", &[]),
            accepted: r.counter(SENDS.0, SENDS.1, &[("result", "accepted")]),
            accept_seconds: r.histogram("flotilla_accept_seconds", "From a send's frame to its answer.", &[]),
            delivery_seconds: r.histogram("flotilla_delivery_seconds", "From an entry's ts to its frame.", &[]),
            entries_sent: r.counter("flotilla_entries_sent_total", "Entry frames written.", &[]),
            bad_acks: r.counter("flotilla_bad_acks_total", "Acks and reads above what was sent; ignored.", &[]),
            requests_waiting: r.gauge("flotilla_requests_in_flight", "Client requests under way.", &[]),
            row_looks: r.counter(
                "flotilla_row_looks_total",
                "Times that a connection read what had changed in a list.",
                &[],
            ),
            receipt_signals: r.counter(
                "flotilla_receipt_signals_total",
                "Signal frames written about receipts of watched conversations.",
                &[],
            ),
            signals: r.counter("flotilla_signals_total", "Signal frames written: presence, typing and such.", &[]),
            registry,
        }
    }

    pub fn closed(&self, code: CloseCode) {
        let number = code.number().to_string();
        self.registry.counter("flotilla_closes_total", "Connections closed by this node.", &[("code", &number)]).inc();
    }

    pub fn login(&self, method: &str, result: &str) {
        let help = "Logins by method and result.";
        self.registry.counter("flotilla_logins_total", help, &[("method", method), ("result", result)]).inc();
    }

    pub fn send_result(&self, result: &str) {
        self.registry.counter(SENDS.0, SENDS.1, &[("result", result)]).inc();
    }
}

pub struct Shared {
    pub backend: Arc<dyn Backend>,
    pub clock: Clock,
    pub options: Options,
    pub passwords: Passwords,
    pub logins: Limiter,
    pub courier: Courier,
    pub issuer: Option<Issuer>,
    pub(super) sends_of_users: Rates,
    pub(super) sends_to_conversations: Rates,
    /// Of one address.
    pub(super) connections_max: AtomicUsize,
    /// Searches and reports.
    pub asks: Limiter,
    /// Turns for exports.
    pub exports: Arc<Semaphore>,
    /// Turns for streams of server-sent events.
    pub streams: Turns,
    pub figures: Figures,
    pub withdrawals: Withdrawals,
    pub placed: Placed,
    pub pool: Pool,
    pub(super) hiding: Hiding,
    /// (user, device) that were found in order, and when.
    checked: Mutex<BTreeMap<(UserId, DeviceId), Instant>>,
    started: Instant,
}

const DEVICE_CACHE: Duration = Duration::from_secs(5);

fn is_fresh(at: &Instant) -> bool {
    at.elapsed() < DEVICE_CACHE
}

impl Shared {
    pub fn new(
        backend: Arc<dyn Backend>,
        clock: Clock,
        options: Options,
        passwords: Passwords,
        registry: Arc<Registry>,
    ) -> Self {
        if options.dev_auth {
            tracing::warn!("--auth dev: ANYONE on this machine may act as ANY user, without a password");
        }
        let withdrawals_given_up = registry.counter(
            "flotilla_withdrawals_given_up_total",
            "Sessions of unknown outcome that were left to the next session of their device.",
            &[],
        );
        Self {
            backend,
            clock,
            passwords,
            logins: Limiter::new(limits::LOGIN_BURST, options.logins_per_minute),
            courier: Courier::new(options.codes.clone(), &registry),
            issuer: options.issuer.clone().map(Issuer::new),
            sends_of_users: Rates::new(options.sends_per_user),
            sends_to_conversations: Rates::new(options.sends_per_conversation),
            connections_max: AtomicUsize::new(options.connections_per_address_max),
            options,
            asks: Limiter::new(limits::ASKS_BURST, limits::ASKS_PER_MINUTE),
            exports: Arc::new(Semaphore::new(limits::EXPORTS_AT_ONCE)),
            streams: Turns::default(),
            figures: Figures::new(registry),
            placed: Placed::default(),
            withdrawals: Withdrawals::new(withdrawals_given_up),
            pool: Pool::default(),
            hiding: Hiding::default(),
            checked: Mutex::default(),
            started: Instant::now(),
        }
    }

    pub fn now(&self) -> TsMs {
        (self.clock)()
    }

    /// Where a connection of this user begins to count: now, or up to a gathering time before (see [`marks::in_step`]).
    pub fn in_step(&self, user: &UserId) -> Instant {
        let shard = self.backend.shard_of(&Route::User(user.clone()));
        let since = self.started.elapsed().as_millis() as u64;
        self.started + Duration::from_millis(marks::in_step(since, shard.unwrap_or(ShardId::CONTROL)))
    }

    pub fn node(&self) -> NodeView {
        self.backend.node().borrow().clone()
    }

    /// Who a token speaks for. Demo users only where the node allows them, from loopback.
    pub fn authenticate(&self, token: &str, peer: IpAddr) -> Result<Caller, TokenError> {
        if token.starts_with("dev:") {
            let allowed = self.options.dev_auth && peer.is_loopback();
            let user = auth::dev_user(token).filter(|_| allowed).ok_or(TokenError::Invalid)?;
            return Ok(Caller { user, device: None, expires: None });
        }
        let cluster = self.backend.node().borrow().cluster;
        let keys = self.backend.keys();
        let keys = keys.borrow();
        // An empty list is no verdict: it would log people out at a node that has just been taken in.
        if keys.is_empty() {
            return Err(TokenError::NotYet);
        }
        jwt::verify(&keys, cluster, token, self.now())
    }

    pub async fn account(&self, user: &UserId, freshness: Freshness) -> Result<Option<Account>, ErrorBody> {
        let query = Query::Account { user: user.clone() };
        match self.backend.query(Route::User(user.clone()), query, freshness).await {
            Ok(Answer::Account(account)) => Ok(account),
            Ok(Answer::NotFound) => Ok(None),
            Ok(_) => Err(errors::internal("account")),
            Err(error) => Err(errors::of_call(error)),
        }
    }

    /// The device exists and is logged in; remembered for five seconds.
    pub async fn check_device(&self, user: &UserId, device: DeviceId) -> Result<(), ErrorBody> {
        if self.checked().get(&(user.clone(), device)).is_some_and(is_fresh) {
            return Ok(());
        }
        self.check_device_now(user, device).await
    }

    /// As [`Self::check_device`], whatever is remembered.
    pub async fn check_device_now(&self, user: &UserId, device: DeviceId) -> Result<(), ErrorBody> {
        let account = self.account(user, Freshness::Linearizable).await?;
        let found = account.as_ref().and_then(|a| a.devices.iter().find(|d| d.device == device));
        if found.is_none_or(|d| d.family.is_none()) || account.is_some_and(|a| a.disabled) {
            self.forget_device(user, device);
            return Err(ErrorBody::new(ErrorCode::Unauthenticated, "this device is not logged in"));
        }
        let mut checked = self.checked();
        if checked.len() >= limits::LIMITER_KEYS_MAX {
            checked.retain(|_, at| is_fresh(at));
        }
        if checked.len() < limits::LIMITER_KEYS_MAX {
            checked.insert((user.clone(), device), Instant::now());
        }
        Ok(())
    }

    /// After a logout or revocation on this node.
    pub fn forget_device(&self, user: &UserId, device: DeviceId) {
        self.checked().remove(&(user.clone(), device));
    }

    fn checked(&self) -> std::sync::MutexGuard<'_, BTreeMap<(UserId, DeviceId), Instant>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one send of this user into this conversation; an error says when there is room. Without limits it costs two
    /// comparisons, with them two hashes and two atomic operations.
    pub fn try_send(&self, user: &UserId, conv: &ConvId) -> Result<(), ErrorBody> {
        if self.sends_of_users.is_off() && self.sends_to_conversations.is_off() {
            return Ok(());
        }
        let now_us = self.started.elapsed().as_micros() as u64;
        let (what, wait_ms) = match self.sends_of_users.take(user.as_str(), now_us) {
            Err(wait_ms) => ("sends of this user", wait_ms),
            Ok(()) => match self.sends_to_conversations.take(conv.as_str(), now_us) {
                Err(wait_ms) => ("sends to this conversation", wait_ms),
                Ok(()) => return Ok(()),
            },
        };
        let error = ErrorBody::new(ErrorCode::TooManyRequests, format!("too many {what}"));
        Err(ErrorBody { retry_after_ms: Some(wait_ms), ..error })
    }

    pub fn try_login(&self, peer: SocketAddr, user: &UserId) -> bool {
        self.try_login_from(peer) && self.logins.allow(&format!("u:{user}"), Instant::now())
    }

    /// Where the user is not known before much has been done.
    pub fn try_login_from(&self, peer: SocketAddr) -> bool {
        self.logins.allow(&peer.ip().to_string(), Instant::now())
    }
}
