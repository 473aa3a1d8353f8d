//! The leader's side of the push streams: one per (shard led here, gateway), numbered in (term, n).
//!
//! Invariant: a frame takes its number before it is offered to the connection; a frame that is dropped there leaves a
//! hole that the gateway notices. Keepalives name the last number, at most every 2 s, and only if a quorum has confirmed
//! the leadership since the previous one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use flotilla_proto::ids::*;

use crate::cluster::wire::{PushFrame, PushItem, StreamPosition};

/// The streams of one shard in one term.
pub struct Hub {
    shard: ShardId,
    term: u64,
    last: Mutex<BTreeMap<NodeId, u64>>,
}

impl Hub {
    pub fn new(shard: ShardId, term: u64) -> Self {
        Self { shard, term, last: Mutex::default() }
    }

    /// Numbers the next frame for a gateway and offers it to the connection. `offer` must not wait: it is called under
    /// the lock, so that two frames cannot overtake each other between number and queue.
    pub fn send(&self, gateway: NodeId, items: Vec<PushItem>, offer: impl FnOnce(PushFrame)) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let n = last.entry(gateway).or_default();
        *n += 1;
        offer(PushFrame { shard: self.shard, position: StreamPosition { term: self.term, n: *n }, items });
    }

    /// Leaves a hole in every stream: hints were lost here, and each gateway shall look for itself.
    pub fn skip(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.values_mut().for_each(|n| *n += 1);
    }

    /// Where the stream to a gateway stands: the last number given out. A gateway that was told a position has a stream,
    /// even if nothing was pushed to it yet: otherwise `skip` would leave no hole where its first push should have been.
    pub fn position(&self, gateway: NodeId) -> StreamPosition {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        StreamPosition { term: self.term, n: *last.entry(gateway).or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_numbered_per_gateway_from_one() {
        let hub = Hub::new(ShardId(4), 9);
        assert_eq!(hub.position(NodeId(1)), StreamPosition { term: 9, n: 0 });
        let mut sent = vec![];
        for gateway in [1, 1, 2] {
            hub.send(NodeId(gateway), vec![], |frame| sent.push(frame.position.n));
        }
        assert_eq!(sent, [1, 2, 1]);
        hub.skip();
        assert_eq!(hub.position(NodeId(2)).n, 2);
        assert_eq!(hub.position(NodeId(1)), StreamPosition { term: 9, n: 3 });
    }

    #[test]
    fn hints_lost_before_the_first_push_leave_a_hole_too() {
        let hub = Hub::new(ShardId(4), 9);
        let told = hub.position(NodeId(1));
        hub.skip();
        assert!(hub.position(NodeId(1)).n > told.n, "the next keepalive must name more than the gateway has seen");
    }
}
