//! The engine: one thread, one poll, all devices. What a workload asks for is done in [`Engine::turn`], which is the only
//! place that waits.
//!
//! - [`socket`] bytes and messages · [`frames`] messages and frames · [`device`] one client · [`ledger`] the judge
//! - [`conversation`] who is in it · [`connect`] dialling, greeting, losing · [`traffic`] sends, answers, entries, acks
//! - [`receipts`] whether senders hear of deliveries · [`history`] whole histories of a few conversations, for the oracle
//! - [`load`] a measured run · [`tally`] its counts · [`time`] the clock
//!
//! It shares two processors with what it measures. So there are no tasks, locks or timers per message; sockets are read
//! into one large buffer, and whatever was queued for a socket in one turn leaves in one write.
//!
//! Invariant: every send is in its conversation's ledger before it is on a wire.

pub mod connect;
pub mod conversation;
pub mod device;
pub mod frames;
mod history;
pub mod ledger;
pub mod load;
mod receipts;
pub mod socket;
pub mod tally;
#[cfg(test)]
mod tests;
pub mod time;
pub mod traffic;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;

use anyhow::Context;
use flotilla_client::history::Recorder;
use flotilla_proto::frame::ErrorBody;
use mio::{Events, Poll, Token};

use conversation::Conversation;
use device::Device;
use load::Script;
use tally::{Tally, Window};
use time::{At, Clock, Timer};

const TIMER: Token = Token(usize::MAX - 1);
const EVENTS_AT_ONCE: usize = 512;
const READ_BYTES: usize = 256 * 1024;

/// What a call over a socket was answered.
pub type Answer = Result<serde_json::Value, ErrorBody>;

pub struct Engine {
    poll: Poll,
    events: Events,
    timer: Timer,
    pub clock: Clock,
    scratch: Vec<u8>,
    nodes: Vec<SocketAddr>,
    pub devices: Vec<Device>,
    pub conversations: Vec<Conversation>,
    /// Conversations by id.
    by_id: HashMap<Box<str>, u32>,
    /// Devices with output.
    dirty: Vec<u32>,
    /// Acks in the order in which they are due.
    acks: VecDeque<(At, u32)>,
    /// Devices that connect again then.
    redials: BinaryHeap<Reverse<(At, u32)>>,
    /// Sends that leave again then.
    retries: BinaryHeap<Reverse<(At, u32, u64)>>,
    /// Devices whose turn to dial comes when others are done; those that dial; until when, by attempt.
    to_dial: VecDeque<u32>,
    greeting: usize,
    pub greeting_max: usize,
    greetings: VecDeque<(At, u32, u64)>,
    pub online: usize,
    answers: HashMap<u32, Answer>,
    next_call: u32,
    /// Text of all bodies' frames behind the cid.
    tail: String,
    script: Option<Script>,
    window: Window,
    pub tally: Tally,
    /// When nothing else happens, the once-a-second work is done at this time.
    next_tick: At,
    tag: u64,
    /// Devices that were away and came back, once a workload has measured it.
    pub returned: Option<crate::report::Return>,
    /// How long pages of history took, once a workload has read some.
    pub pages: Option<crate::report::Latency>,
    /// Histories are kept of so many of the first conversations, if they are direct ones.
    pub kept: usize,
    recorder: Recorder,
    body: Vec<u8>,
}

impl Engine {
    /// Devices will connect to `nodes` and send bodies of `body_bytes`.
    pub fn new(nodes: &[String], body_bytes: usize) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry(), TIMER)?;
        let address = |url: &String| {
            let text = flotilla_client::net::authority(url)?;
            use std::net::ToSocketAddrs;
            text.to_socket_addrs()?.next().with_context(|| format!("{text} has no address"))
        };
        let body: Vec<u8> = (0..body_bytes).map(|_| rand::random_range(b' '..b'~')).collect();
        let clock = Clock::new();
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_AT_ONCE),
            timer,
            clock,
            scratch: vec![0; READ_BYTES],
            nodes: nodes.iter().map(address).collect::<anyhow::Result<_>>()?,
            devices: Vec::new(),
            conversations: Vec::new(),
            by_id: HashMap::new(),
            dirty: Vec::new(),
            acks: VecDeque::new(),
            redials: BinaryHeap::new(),
            retries: BinaryHeap::new(),
            to_dial: VecDeque::new(),
            greeting: 0,
            greeting_max: connect::GREETING_AT_ONCE,
            greetings: VecDeque::new(),
            online: 0,
            answers: HashMap::new(),
            next_call: traffic::FIRST_CALL,
            tail: frames::tail(&body),
            script: None,
            window: Window::default(),
            tally: Tally::new(),
            next_tick: clock.now(),
            tag: rand::random(),
            returned: None,
            pages: None,
            kept: 0,
            recorder: Recorder::memory(),
            body,
        })
    }

    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Names of this run that no other run has.
    pub fn name(&self, kind: char, at: usize) -> anyhow::Result<flotilla_proto::ids::UserId> {
        Ok(flotilla_proto::ids::UserId::parse(&format!("{kind}{at}.{:x}", self.tag))?)
    }

    /// Does what is due, gives the sockets what is queued, and waits for more until `until` at most.
    pub fn turn(&mut self, until: At) -> anyhow::Result<()> {
        let now = self.clock.now();
        self.work(now)?;
        self.flush();
        let wake = until.min(self.next_due());
        let now = self.clock.now();
        let zero = (wake <= now).then_some(std::time::Duration::ZERO);
        if zero.is_none() {
            self.timer.arm(wake, now)?;
        }
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        let polled = self.poll.poll(&mut events, zero);
        match polled {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => other?,
        }
        for event in &events {
            if event.token() != TIMER {
                self.on_event(event.token().0, event);
            }
        }
        self.events = events;
        Ok(())
    }

    /// Turns until `done`; false if `limit` came first.
    pub fn turn_until(&mut self, limit: At, mut done: impl FnMut(&Self) -> bool) -> anyhow::Result<bool> {
        loop {
            if done(self) {
                return Ok(true);
            }
            if self.clock.now() >= limit {
                return Ok(false);
            }
            self.turn(limit)?;
        }
    }

    fn work(&mut self, now: At) -> anyhow::Result<()> {
        while self.acks.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, device)) = self.acks.pop_front() {
                self.ack(device as usize);
            }
        }
        while self.redials.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            if let Some(Reverse((_, device))) = self.redials.pop() {
                self.to_dial.push_back(device);
            }
        }
        self.dial_some(now);
        while self.retries.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((_, conv, number))) = self.retries.pop() {
                self.dispatch(conv, number, now);
            }
        }
        self.run_script(now);
        if now >= self.next_tick {
            self.next_tick = self.next_tick.after(tally::TICK);
            self.tick(now);
        }
        Ok(())
    }

    fn next_due(&self) -> At {
        let ack = self.acks.front().map(|(due, _)| *due);
        let redial = self.redials.peek().map(|Reverse((due, _))| *due);
        let retry = self.retries.peek().map(|Reverse((due, ..))| *due);
        let script = self.script_due();
        [ack, redial, retry, script].into_iter().flatten().min().unwrap_or(At::NEVER).min(self.next_tick)
    }

    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for at in dirty.drain(..) {
            let device = &mut self.devices[at as usize];
            device.is_dirty = false;
            if let Some(Err(error)) = device.socket.as_mut().map(socket::Socket::flush) {
                self.lose(at as usize, &error.to_string());
            }
        }
        // Losing one may have made others dirty; they are done with the next turn.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    fn touch(&mut self, at: usize) {
        let device = &mut self.devices[at];
        if !std::mem::replace(&mut device.is_dirty, true) {
            self.dirty.push(at as u32);
        }
    }
}
