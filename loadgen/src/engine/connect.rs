//! Dialling, greeting and losing connections.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mio::event::Event;
use mio::{Interest, Token};

use super::device::{Device, Phase};
use super::socket::{self, Input, Socket};
use super::time::At;
use super::{Engine, frames};

/// Devices between dial and `caught_up` at the same time, unless everybody is to come at once.
pub const GREETING_AT_ONCE: usize = 64;
const GREETING_LIMIT: Duration = Duration::from_secs(15);
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX_DOUBLINGS: u32 = 4;
/// One loopback address can have about 28,000 connections to one node.
const PER_SOURCE: usize = 20_000;

impl Engine {
    /// A device of a new user that will dial the node `seat` (of all nodes in turn).
    pub fn device(&mut self, user: flotilla_proto::ids::UserId, seat: usize) -> usize {
        let at = self.devices.len();
        let node = seat % self.nodes.len().max(1);
        let loopback = self.nodes.get(node).is_some_and(|address| address.ip().is_loopback() && address.is_ipv4());
        let block = at / PER_SOURCE;
        let source = (loopback && block > 0).then(|| {
            let [high, low] = (block as u16).to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(127, 0, high, low.saturating_add(1)))
        });
        self.devices.push(Device::new(user, node, source));
        at
    }

    /// Wants these devices online, and dials them in order.
    pub fn invite(&mut self, devices: impl IntoIterator<Item = usize>) {
        for at in devices {
            self.devices[at].wanted = true;
            if self.devices[at].phase == Phase::Away {
                self.to_dial.push_back(at as u32);
            }
        }
    }

    /// Breaks a connection without a word; the device comes back at once, to another node.
    pub fn break_off(&mut self, at: usize, now: At) {
        if self.devices[at].phase == Phase::Away {
            return;
        }
        self.tally.reconnects += 1;
        self.note_closed(at, "broken off");
        self.drop_socket(at);
        self.try_another(at);
        self.redials.push(Reverse((now, at as u32)));
    }

    /// Closes a connection from here. Not a reconnect: it comes back only when it is invited.
    pub fn dismiss(&mut self, at: usize) {
        self.devices[at].wanted = false;
        self.drop_socket(at);
    }

    /// Any other node, so that those who leave one together do not meet at the next.
    fn try_another(&mut self, at: usize) {
        let (device, nodes) = (&mut self.devices[at], self.nodes.len());
        if !device.loyal && nodes > 1 {
            device.node = (device.node + rand::random_range(1..nodes)) % nodes;
        }
    }

    fn drop_socket(&mut self, at: usize) {
        let device = &mut self.devices[at];
        match device.phase {
            Phase::Online => self.online -= 1,
            Phase::Greeting => self.greeting -= 1,
            Phase::Away => {}
        }
        if let Some(socket) = &mut device.socket {
            // It is closed in any case.
            let _ = self.poll.registry().deregister(&mut socket.stream);
        }
        device.disconnected();
    }

    /// The connection is gone: counts it; the device comes back to another node after a while.
    pub(super) fn lose(&mut self, at: usize, why: &str) {
        if self.devices[at].phase == Phase::Away {
            return;
        }
        self.tally.error(&format!("connection: {why}"));
        self.tally.reconnects += 1;
        self.note_closed(at, why);
        self.drop_socket(at);
        self.try_another(at);
        let device = &mut self.devices[at];
        device.failures += 1;
        if device.wanted {
            let wait = BACKOFF * (1 << device.failures.min(BACKOFF_MAX_DOUBLINGS));
            let due = self.clock.now().after(wait.mul_f64(rand::random_range(0.25..0.75)));
            self.redials.push(Reverse((due, at as u32)));
        }
    }

    pub(super) fn dial_some(&mut self, now: At) {
        while self.greetings.front().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, at, attempt)) = self.greetings.pop_front() else { break };
            let device = &self.devices[at as usize];
            if device.phase == Phase::Greeting && device.attempt == attempt {
                self.lose(at as usize, "not caught up in time");
            }
        }
        while self.greeting < self.greeting_max
            && let Some(at) = self.to_dial.pop_front()
        {
            self.dial(at as usize, now);
        }
    }

    fn dial(&mut self, at: usize, now: At) {
        let device = &mut self.devices[at];
        if device.phase != Phase::Away || !device.wanted {
            return;
        }
        device.phase = Phase::Greeting;
        device.dialled = now;
        device.entries_since_hello = 0;
        for position in &mut device.positions {
            position.watch.on_connected();
        }
        self.greeting += 1;
        self.greetings.push_back((now.after(GREETING_LIMIT), at as u32, device.attempt + 1));
        let opened = Socket::dial(self.nodes[device.node], device.source).and_then(|mut socket| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket.stream, Token(at), interest)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                device.socket = Some(socket);
                device.greet();
            }
            Err(error) => self.lose(at, &format!("dial: {error}")),
        }
    }

    pub(super) fn on_event(&mut self, at: usize, event: &Event) {
        if event.is_writable() {
            self.touch(at);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.on_readable(at, event.is_read_closed() || event.is_error());
        }
    }

    fn on_readable(&mut self, at: usize, to_the_end: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(socket) = &mut self.devices[at].socket {
            let mut partial = std::mem::take(&mut socket.partial);
            match socket.read(&mut scratch) {
                Ok(None) => {
                    socket.partial = partial;
                    break;
                }
                Ok(Some(0)) => {
                    self.lose(at, "closed");
                    break;
                }
                Ok(Some(read)) => {
                    let bytes = if partial.is_empty() {
                        &scratch[..read]
                    } else {
                        partial.extend_from_slice(&scratch[..read]);
                        &partial[..]
                    };
                    match self.on_bytes(at, bytes) {
                        Err(why) => {
                            self.lose(at, &why);
                            break;
                        }
                        Ok(used) => {
                            let rest = bytes[used..].to_vec();
                            if let Some(socket) = &mut self.devices[at].socket {
                                socket.partial = rest;
                            }
                        }
                    }
                    if read < scratch.len() && !to_the_end {
                        break;
                    }
                }
                Err(error) => {
                    self.lose(at, &error.to_string());
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    /// Whole messages of `bytes`; how many bytes they were.
    fn on_bytes(&mut self, at: usize, bytes: &[u8]) -> Result<usize, String> {
        let mut used = 0;
        if let Some(socket) = &mut self.devices[at].socket
            && !socket.is_upgraded()
        {
            match socket.upgrade(bytes)? {
                None => return Ok(0),
                Some(length) => used = length,
            }
            self.touch(at);
        }
        let now = self.clock.now();
        while let Some((piece, length)) = socket::input(&bytes[used..])? {
            used += length;
            match piece {
                Input::Message(message) => {
                    self.note_message(at, message);
                    frames::read(message, |frame| self.on_frame(at, frame, now))?;
                }
                Input::Ping(payload) => {
                    if let Some(socket) = self.devices[at].socket.as_mut().filter(|_| !payload.is_empty()) {
                        socket.pong(payload);
                        self.touch(at);
                    }
                }
                Input::Closed(code, reason) => return Err(format!("{code} {reason}")),
            }
        }
        Ok(used)
    }

    pub(super) fn on_caught_up(&mut self, at: usize, now: At) {
        let device = &mut self.devices[at];
        if device.phase != Phase::Greeting {
            return;
        }
        device.phase = Phase::Online;
        device.online_since = now;
        device.failures = 0;
        self.greeting -= 1;
        self.online += 1;
        for (conv, sender) in self.devices[at].sends_in.clone() {
            let open: Vec<u64> = self.conversations[conv as usize].ledger.open(sender).collect();
            for number in open {
                self.dispatch(conv, number, now);
            }
        }
    }
}
