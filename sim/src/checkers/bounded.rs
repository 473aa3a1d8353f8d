//! Bounded: queues, connections and tasks stay under their limits at every tick, whatever is broken; and a device is never sent
//! more entries that it has not acked than its window holds.

use std::collections::BTreeMap;

use flotilla_client::history::{Op, Record};
use flotilla_proto::ids::{ConvId, NodeId, Seq};
use flotilla_proto::limits;

use super::{Checker, World};

pub const PROMISE: &str = "bounded";

/// A node has a few dozen tasks for itself and each of its groups, and a few for each connection and request. In a run there are
/// some ten devices, each with a bounded number of requests.
const TASKS_MAX: usize = 3_000;
/// Each device is attached once or twice, while a connection that is over is not noticed yet.
const SESSIONS_MAX: usize = 200;

/// What a running node says of itself at a tick.
pub struct Figures {
    pub node: NodeId,
    /// Messages that wait for a peer's socket, and requests without an answer: of the peer with the most.
    pub queued: usize,
    pub open: usize,
    pub sessions: usize,
    pub tasks: usize,
}

impl Figures {
    pub fn judge(&self) -> Result<u64, String> {
        let Self { node, queued, open, sessions, tasks } = *self;
        let all = [
            ("messages wait for a peer", queued, limits::PEER_QUEUE_MESSAGES_MAX),
            ("requests to a peer have no answer", open, limits::PEER_IN_FLIGHT_MAX),
            ("sessions are attached", sessions, SESSIONS_MAX),
            ("tasks run", tasks, TASKS_MAX),
        ];
        match all.into_iter().find(|(_, is, most)| is > most) {
            Some((what, is, most)) => Err(format!("on node {node} {is} {what}, the limit is {most}")),
            None => Ok(1),
        }
    }
}

/// What came over a connection and is not acked, by the label in the history.
#[derive(Default)]
pub struct Window {
    open: BTreeMap<String, BTreeMap<ConvId, Unacked>>,
}

#[derive(Default)]
struct Unacked {
    entries: Vec<Seq>,
}

impl Checker for Window {
    fn promise(&self) -> &'static str {
        PROMISE
    }

    fn on_record(&mut self, _: &World, record: &Record) -> Result<u64, String> {
        let label = &record.device;
        match &record.op {
            Op::Connected { .. } | Op::Closed { .. } | Op::Reset => drop(self.open.remove(label)),
            Op::Acked { conv, seq } => {
                if let Some(unacked) = self.open.get_mut(label).and_then(|open| open.get_mut(conv)) {
                    unacked.entries.retain(|entry| entry > seq);
                }
            }
            Op::Entry { entry } => {
                let open = self.open.entry(label.clone()).or_default();
                let unacked = open.entry(entry.conv.clone()).or_default();
                unacked.entries.push(entry.seq);
                let here = unacked.entries.len();
                let all: usize = open.values().map(|unacked| unacked.entries.len()).sum();
                if here > limits::WINDOW_ENTRIES_PER_CONV || all > limits::WINDOW_ENTRIES {
                    return Err(format!(
                        "{label} was sent {all} entries that it has not acked, {here} of {}",
                        entry.conv
                    ));
                }
                return Ok(1);
            }
            _ => {}
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::entry::Entry;
    use flotilla_proto::ids::Cid;

    use super::super::testkit::{Bench, entry, user};
    use super::*;

    #[test]
    fn each_figure_above_its_limit_is_seen_and_named() {
        let most = || Figures {
            node: NodeId(1),
            queued: limits::PEER_QUEUE_MESSAGES_MAX,
            open: limits::PEER_IN_FLIGHT_MAX,
            sessions: SESSIONS_MAX,
            tasks: TASKS_MAX,
        };
        assert_eq!(most().judge(), Ok(1), "at the limit");
        let above = [
            ("wait for a peer", Figures { queued: most().queued + 1, ..most() }),
            ("have no answer", Figures { open: most().open + 1, ..most() }),
            ("sessions are attached", Figures { sessions: most().sessions + 1, ..most() }),
            ("tasks run", Figures { tasks: most().tasks + 1, ..most() }),
        ];
        for (what, figures) in above {
            assert!(figures.judge().is_err_and(|why| why.contains(what)), "{what}");
        }
    }

    /// Entries of so many conversations come over one connection, and none is acked.
    fn of_several(conversations: u64, each: u64) -> Bench {
        let mut bench = Bench::new(vec![Box::new(Window::default())]);
        bench.connected("bob", 1);
        for number in 0..conversations {
            let conv = ConvId::group(&user("ann"), Cid(u128::from(number)));
            for seq in 1..=each {
                bench.received("bob", &Entry { conv: conv.clone(), ..entry(seq, u128::from(seq), None) });
            }
        }
        bench
    }

    #[test]
    fn more_entries_than_the_window_holds_are_seen_though_no_conversation_has_more_than_its_share() {
        let (all, each) = (limits::WINDOW_ENTRIES as u64, limits::WINDOW_ENTRIES_PER_CONV as u64);
        assert!(all > each, "the one is not the other");
        of_several(all / each, each).holds();
        of_several(all / each + 1, each).violates("bounded");
        let mut again = of_several(all / each, each);
        again.connected("bob", 2).received("bob", &entry(1, 1, None)).holds();
    }

    #[test]
    fn more_entries_of_one_conversation_than_its_window_holds_are_seen() {
        let sent = |acked: Option<u64>| {
            let mut bench = Bench::new(vec![Box::new(Window::default())]);
            bench.connected("bob", 1);
            for seq in 1..=limits::WINDOW_ENTRIES_PER_CONV as u64 + 1 {
                if acked == Some(seq) {
                    bench.acked("bob", seq - 1);
                }
                bench.received("bob", &entry(seq, u128::from(seq), None));
            }
            bench
        };
        sent(Some(5)).holds();
        sent(None).violates("bounded");
    }
}
