//! One peer as this node dials it: the connection for Raft, requests and casts, kept up for as long as the node runs.
//!
//! Reconnects back off from 50 ms to 1 s with jitter. Requests never wait for a connection: without one they are `NotSent`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_proto::ids::{Incarnation, NodeId};
use flotilla_proto::limits;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::dial::{DialError, Established, establish};
use super::frame::{FrameBuilder, FrameError, FrameReader, Message, Type, messages};
use super::hello::{HelloRefusal, Lane, Welcome};
use super::outbox::Outbox;
use super::service::{Outcome, PeerRefusal};
use super::{PeerStatus, Shared};
use crate::runtime::after_the_ready;

/// How the connection to a peer is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// No address, or no cluster yet.
    Idle,
    Connecting,
    Connected {
        incarnation: Incarnation,
        version: u16,
    },
    /// The peer does not want us, and says why.
    Refused(HelloRefusal),
    Unreachable(String),
}

pub struct Remote {
    pub node: NodeId,
    pub outbox: Outbox,
    /// Transfers to this peer.
    pub bulk: Arc<Semaphore>,
    addr: watch::Sender<Option<String>>,
    link: Mutex<Link>,
    attempts: AtomicU64,
}

impl Remote {
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            outbox: Outbox::default(),
            bulk: Arc::new(Semaphore::new(limits::PEER_BULK_STREAMS_MAX)),
            addr: watch::Sender::new(None),
            link: Mutex::new(Link::Idle),
            attempts: AtomicU64::new(0),
        }
    }

    /// A changed address drops the connection and dials again.
    pub fn set_addr(&self, addr: String) {
        self.addr.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&addr);
            *old = Some(addr);
            changed
        });
    }

    pub fn addr(&self) -> Option<String> {
        self.addr.borrow().clone()
    }

    pub fn next_attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn status(&self) -> PeerStatus {
        let (queued, open) = self.outbox.depth();
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connects = self.attempts.load(Ordering::Relaxed);
        PeerStatus { node: self.node, addr: self.addr(), link, queued, open, attempts: connects }
    }

    pub fn is_connected(&self) -> bool {
        matches!(*self.link.lock().unwrap_or_else(PoisonError::into_inner), Link::Connected { .. })
    }

    /// Says what changed, once: a peer that stays down must not fill the log.
    fn set_link(&self, link: Link) {
        let mut current = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == link {
            return;
        }
        match &link {
            Link::Connected { incarnation, .. } => tracing::info!(peer = %self.node, %incarnation, "connected"),
            Link::Refused(refusal) => tracing::warn!(peer = %self.node, reason = %refusal.sentence, "peer refuses us"),
            Link::Unreachable(reason) => tracing::warn!(peer = %self.node, %reason, "peer unreachable"),
            Link::Idle | Link::Connecting => {}
        }
        *current = link;
    }

    /// Dials until the node stops.
    pub(super) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut stop = shared.stop.subscribe();
        let mut addr = self.addr.subscribe();
        let mut cluster = shared.cluster.subscribe();
        let mut backoff = Backoff::default();
        loop {
            let target = addr.borrow_and_update().clone().filter(|_| cluster.borrow_and_update().is_some());
            let changed = async {
                tokio::select! {
                    biased;
                    _ = stop.changed() => Wake::Stop,
                    _ = addr.changed() => Wake::Again,
                    _ = cluster.changed() => Wake::Again,
                }
            };
            let work = async {
                let Some(target) = target else {
                    self.set_link(Link::Idle);
                    return std::future::pending().await;
                };
                if self.connection(&shared, &target).await {
                    backoff = Backoff::default();
                }
                tokio::time::sleep(backoff.next()).await;
                Wake::Again
            };
            let wake = tokio::select! { biased; wake = changed => wake, wake = work => wake };
            if wake == Wake::Stop {
                return;
            }
        }
    }

    /// One connection from dial to death; whether it was up at all.
    async fn connection(&self, shared: &Shared, addr: &str) -> bool {
        let deadline = Instant::now() + Duration::from_millis(limits::PEER_HANDSHAKE_MS);
        let attempt = self.next_attempt();
        let dialed = establish(&shared.caller(), addr, Some(self.node), Lane::Main, attempt, deadline).await;
        shared.on_dialed(self.node, dialed.as_ref().is_err_and(DialError::nobody_listens));
        match dialed {
            Ok(established) => {
                let end = self.serve(established, attempt).await;
                self.set_link(Link::Unreachable(end.to_string()));
                true
            }
            Err(DialError::Refused(refusal)) => {
                self.set_link(Link::Refused(refusal));
                false
            }
            Err(e) => {
                self.set_link(Link::Unreachable(e.to_string()));
                false
            }
        }
    }

    async fn serve(&self, established: Established, connection: u64) -> FrameError {
        let Established { reader, writer, welcome } = established;
        let _up = Up::new(self, connection, &welcome);
        tokio::select! {
            biased;
            end = self.read_answers(reader) => end,
            end = self.write_messages(writer, connection) => end,
        }
    }

    async fn read_answers<R: AsyncRead + Unpin>(&self, mut reader: FrameReader<R>) -> FrameError {
        let ping = Duration::from_millis(limits::PEER_PING_MS);
        let mut silent = Duration::ZERO;
        loop {
            match tokio::time::timeout(ping, reader.next()).await {
                Err(_) => {
                    silent += ping;
                    if silent >= Duration::from_millis(limits::PEER_SILENCE_MS) {
                        return FrameError::Io(std::io::Error::new(
                            std::io::ErrorKind::TimedOut,
                            "silent for too long",
                        ));
                    }
                    self.outbox.ping();
                }
                Ok(Ok(Some(body))) => {
                    silent = Duration::ZERO;
                    match messages(body) {
                        Ok(found) => found.into_iter().for_each(|m| self.on_message(m)),
                        Err(e) => return e,
                    }
                }
                Ok(Ok(None)) => return FrameError::Cut,
                Ok(Err(e)) => return e,
            }
        }
    }

    fn on_message(&self, message: Message) {
        match message.ty {
            Type::Answer => self.outbox.settle(message.id, Outcome::Answer(message.payload)),
            Type::Refusal => self.outbox.settle(message.id, Outcome::Refused(PeerRefusal::decode(&message.payload))),
            Type::Pong => {}
            // Never sent to a dialer by this version; a later one may.
            other => tracing::debug!(peer = %self.node, ?other, "message ignored"),
        }
    }

    async fn write_messages<W: AsyncWrite + Unpin>(&self, mut writer: W, connection: u64) -> FrameError {
        let mut frame = FrameBuilder::default();
        loop {
            self.outbox.filled(connection).await;
            after_the_ready().await;
            let batch = self.outbox.take(connection).await;
            if let Err(e) = write_batch(&mut writer, &mut frame, &batch).await {
                return e;
            }
        }
    }
}

/// Writes messages in as few frames as fit, with one flush; a socket that takes nothing for too long is dead.
pub(super) async fn write_batch<W: AsyncWrite + Unpin>(
    writer: &mut W,
    frame: &mut FrameBuilder,
    batch: &[Message],
) -> Result<(), FrameError> {
    let write = async {
        for message in batch {
            if !frame.fits(message) {
                writer.write_all(&frame.finish()).await?;
            }
            frame.push(message);
        }
        writer.write_all(&frame.finish()).await?;
        writer.flush().await
    };
    match tokio::time::timeout(Duration::from_millis(limits::PEER_BULK_IDLE_MS), write).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(FrameError::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the peer reads nothing"))),
    }
}

#[derive(PartialEq, Eq)]
enum Wake {
    Stop,
    Again,
}

/// Outbox and status know of a connection exactly while this lives, whatever ends it.
struct Up<'a>(&'a Remote);

impl<'a> Up<'a> {
    fn new(remote: &'a Remote, connection: u64, welcome: &Welcome) -> Self {
        remote.set_link(Link::Connected { incarnation: welcome.incarnation, version: welcome.version });
        remote.outbox.on_connected(connection);
        Self(remote)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.outbox.on_disconnected();
        self.0.set_link(Link::Connecting);
    }
}

/// Doubles from the smallest to the largest wait; each is drawn between half of it and all of it.
#[derive(Default)]
struct Backoff {
    tries: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let ceiling = (limits::PEER_BACKOFF_MIN_MS << self.tries.min(16)).min(limits::PEER_BACKOFF_MAX_MS);
        self.tries += 1;
        Duration::from_millis(rand::random_range(ceiling.div_ceil(2)..=ceiling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_grows_to_its_bound_and_stays() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..40).map(|_| backoff.next().as_millis() as u64).collect();
        assert!(waits[0] <= limits::PEER_BACKOFF_MIN_MS);
        assert!(waits.iter().all(|w| *w <= limits::PEER_BACKOFF_MAX_MS));
        assert!(waits[10..].iter().all(|w| *w >= limits::PEER_BACKOFF_MAX_MS / 2));
    }
}
