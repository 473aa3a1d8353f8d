//! One device of one demo user: its socket, where it stands in its conversations, and what is on its way.

use std::collections::VecDeque;
use std::net::IpAddr;

use flotilla_proto::frame::codec;
use flotilla_proto::frame::{ClientFrame, ClientMessage, Encoding, Hello};
use flotilla_proto::ids::{DeviceId, Instance, UserId};

use super::ledger::Watch;
use super::socket::Socket;
use super::time::At;

/// Requests of one connection that are on their way: as many as the Rust client has.
pub const IN_FLIGHT_MAX: usize = flotilla_proto::limits::CLIENT_REQUESTS_IN_FLIGHT_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No connection, and none wanted before it is dialled.
    Away,
    /// From the dial to `caught_up`.
    Greeting,
    Online,
}

/// Where a device stands in one conversation.
#[derive(Debug, Clone)]
pub struct Position {
    pub conv: u32,
    pub watch: Watch,
    /// The highest seq that was acked, and that is to be acked.
    pub acked: u64,
    pub stored: u64,
}

/// A send on the wire or waiting for its turn: conversation and number.
pub type Sending = (u32, u64);

pub struct Device {
    pub user: UserId,
    install: String,
    instance: Instance,
    pub id: Option<DeviceId>,
    pub attempt: u64,
    /// Index of the node that it dials next.
    pub node: usize,
    /// Stays with that node when connections break, rather than trying the next.
    pub loyal: bool,
    pub source: Option<IpAddr>,
    pub socket: Option<Socket>,
    pub phase: Phase,
    /// Reconnects by itself.
    pub wanted: bool,
    /// Failures since it was last online.
    pub failures: u32,
    pub positions: Vec<Position>,
    /// Conversations in which it sends, and which of their senders it is.
    pub sends_in: Vec<(u32, u16)>,
    pub unacked: usize,
    /// An ack is due at a time that is noted.
    pub ack_waits: bool,
    pub is_dirty: bool,
    /// By request id, less one.
    slots: Vec<Option<Sending>>,
    used: usize,
    pub backlog: VecDeque<Sending>,
    pub dialled: At,
    pub online_since: At,
    /// Entries since the last `hello`.
    pub entries_since_hello: u64,
}

impl Device {
    pub fn new(user: UserId, node: usize, source: Option<IpAddr>) -> Self {
        Self {
            user,
            install: format!("{:032x}", rand::random::<u128>()),
            instance: Instance(rand::random()),
            id: None,
            attempt: 0,
            node,
            loyal: false,
            source,
            socket: None,
            phase: Phase::Away,
            wanted: false,
            failures: 0,
            positions: Vec::new(),
            sends_in: Vec::new(),
            unacked: 0,
            ack_waits: false,
            is_dirty: false,
            slots: Vec::new(),
            used: 0,
            backlog: VecDeque::new(),
            dialled: At(0),
            online_since: At(0),
            entries_since_hello: 0,
        }
    }

    /// Puts `hello` into the socket's next message.
    pub fn greet(&mut self) {
        self.attempt += 1;
        let hello = Hello {
            token: format!("dev:{}", self.user),
            device: self.id,
            install: self.install.clone(),
            instance: self.instance,
            attempt: self.attempt,
            rev: None,
            client: Default::default(),
            window: None,
            state: Default::default(),
        };
        self.put(&ClientMessage { id: None, frame: ClientFrame::Hello(hello) });
    }

    pub fn put(&mut self, message: &ClientMessage) {
        if let Some(socket) = &mut self.socket {
            let mut text = Vec::new();
            codec::encode_client(Encoding::Json, message, &mut text);
            socket.frame(|out| out.extend_from_slice(&text));
        }
    }

    /// A free request id for a send; none: it has to wait.
    pub fn take_slot(&mut self, sending: Sending) -> Option<u32> {
        if self.used >= IN_FLIGHT_MAX {
            return None;
        }
        self.used += 1;
        let free = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[free] = Some(sending);
        Some(free as u32 + 1)
    }

    /// What was sent under a request id.
    pub fn sending(&self, id: u32) -> Option<Sending> {
        *self.slots.get(usize::try_from(id.checked_sub(1)?).ok()?)?
    }

    /// The same, and the id is free again.
    pub fn free_slot(&mut self, id: u32) -> Option<Sending> {
        let sending = self.slots.get_mut(usize::try_from(id.checked_sub(1)?).ok()?)?.take();
        self.used -= usize::from(sending.is_some());
        sending
    }

    /// Nothing is on its way on a connection that is gone.
    pub fn disconnected(&mut self) {
        self.socket = None;
        self.phase = Phase::Away;
        self.slots.clear();
        self.used = 0;
        self.backlog.clear();
        self.unacked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_used_again_and_never_exceed_the_bound() {
        let mut device = Device::new(UserId::parse("alice").expect("valid"), 0, None);
        let ids: Vec<_> = (0..IN_FLIGHT_MAX as u64).map(|n| device.take_slot((0, n)).expect("free")).collect();
        assert_eq!(device.take_slot((0, 99)), None);
        assert_eq!(device.free_slot(ids[3]), Some((0, 3)));
        assert_eq!(device.free_slot(ids[3]), None, "an id is answered once");
        assert_eq!(device.take_slot((0, 99)), Some(ids[3]));
        assert_eq!((device.free_slot(0), device.free_slot(1_000)), (None, None));
    }
}
