//! Requests that are not kept across a crash: `history`, `sync`, `call`. Sent again with the same key after a reconnect,
//! until an answer or their deadline. Pure.

use std::collections::BTreeMap;

use flotilla_proto::entry::What;
use flotilla_proto::frame::{ClientFrame, ErrorBody, Reply};
use flotilla_proto::ids::{Cid, ConvId};
use flotilla_proto::limits;
use tokio::sync::oneshot;

const RETRY_MS: u64 = 200;

/// Rejected has no effect; unknown may have happened (call again with the same key).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CallError {
    #[error("{0}")]
    Rejected(ErrorBody),
    #[error("the outcome is not known: {0}")]
    Unknown(String),
}

/// A call that asks for an entry, as the history names it.
#[derive(Debug, Clone)]
pub struct Noted {
    pub cid: Cid,
    pub conv: ConvId,
    pub what: What,
}

#[derive(Debug)]
pub struct Call {
    pub frame: ClientFrame,
    pub noted: Option<Noted>,
    pub done: oneshot::Sender<Result<Reply, CallError>>,
}

#[derive(Debug)]
struct Item {
    call: Call,
    /// Not on the wire before this; none while it is.
    send_ms: Option<u64>,
    overdue_ms: u64,
    deadline_ms: u64,
    /// An attempt got no answer: it may arrive at any time yet.
    in_doubt: bool,
}

#[derive(Debug, Default)]
pub struct Calls {
    items: BTreeMap<u64, Item>,
    last: u64,
    flying: usize,
}

impl Calls {
    pub fn is_full(&self) -> bool {
        self.items.len() >= limits::CLIENT_CALLS_MAX
    }

    pub fn flying(&self) -> usize {
        self.flying
    }

    pub fn add(&mut self, call: Call, now_ms: u64, deadline_ms: u64) {
        self.last += 1;
        self.items.insert(self.last, Item { call, send_ms: Some(now_ms), overdue_ms: 0, deadline_ms, in_doubt: false });
    }

    pub fn has_next(&self, now_ms: u64) -> bool {
        self.items.values().any(|i| i.send_ms.is_some_and(|at| at <= now_ms))
    }

    pub fn next(&mut self, now_ms: u64) -> Option<(u64, ClientFrame)> {
        let (key, item) = self.items.iter_mut().find(|(_, i)| i.send_ms.is_some_and(|at| at <= now_ms))?;
        item.send_ms = None;
        item.overdue_ms = now_ms + limits::CLIENT_ANSWER_TIMEOUT_MS;
        self.flying += 1;
        Some((*key, item.call.frame.clone()))
    }

    pub fn finish(&mut self, key: u64) -> Option<Call> {
        let item = self.items.remove(&key)?;
        if item.send_ms.is_none() {
            self.flying -= 1;
        }
        Some(item.call)
    }

    pub fn retry(&mut self, key: u64, now_ms: u64, wanted_ms: Option<u64>) {
        if let Some(item) = self.items.get_mut(&key)
            && item.send_ms.replace(now_ms + wanted_ms.unwrap_or(RETRY_MS)).is_none()
        {
            self.flying -= 1;
        }
    }

    /// The last attempt may or may not have happened.
    pub fn doubt(&mut self, key: u64) {
        if let Some(item) = self.items.get_mut(&key) {
            item.in_doubt = true;
        }
    }

    /// A change whose earlier attempt may still have an effect, after the answer to this one: see
    /// [`super::outbox::Outbox::is_in_doubt`]. What has a key is a change, whether the history names it or not.
    pub fn is_in_doubt(&self, key: u64) -> bool {
        let is_change = |call: &Call| matches!(&call.frame, ClientFrame::Call(asked) if asked.key.is_some());
        self.items.get(&key).is_some_and(|item| item.in_doubt && is_change(&item.call))
    }

    pub fn disconnected(&mut self, now_ms: u64) {
        for item in self.items.values_mut() {
            item.in_doubt |= item.send_ms.is_none();
            item.send_ms.get_or_insert(now_ms);
        }
        self.flying = 0;
    }

    /// Overdue answers are asked for again; calls past their deadline come out.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Call> {
        let overdue = |i: &Item| i.send_ms.is_none() && i.overdue_ms <= now_ms;
        let again: Vec<u64> = self.items.iter().filter(|(_, i)| overdue(i)).map(|(key, _)| *key).collect();
        for key in again {
            self.doubt(key);
            self.retry(key, now_ms, Some(0));
        }
        let over: Vec<u64> = self.items.iter().filter(|(_, i)| i.deadline_ms <= now_ms).map(|(key, _)| *key).collect();
        over.into_iter().filter_map(|key| self.finish(key)).collect()
    }

    pub fn drain(&mut self) -> Vec<Call> {
        self.flying = 0;
        std::mem::take(&mut self.items).into_values().map(|i| i.call).collect()
    }

    pub fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        self.items.values().map(|i| i.deadline_ms.min(i.send_ms.unwrap_or(i.overdue_ms).max(now_ms + 1))).min()
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::frame;

    use super::*;

    #[test]
    fn a_change_that_got_no_answer_is_in_doubt_whatever_it_changes_and_a_question_is_not() {
        let mut calls = Calls::default();
        for key in [Some(Cid(7)), None] {
            let asked = frame::Call { method: "PUT blocks/bob".into(), params: serde_json::Value::Null, key };
            let (done, _) = oneshot::channel();
            calls.add(Call { frame: ClientFrame::Call(asked), noted: None, done }, 0, 60_000);
        }
        let keys: Vec<u64> = std::iter::from_fn(|| calls.next(0)).map(|(key, _)| key).collect();
        assert!(keys.iter().all(|key| !calls.is_in_doubt(*key)), "no attempt was lost yet");
        calls.disconnected(0);
        assert_eq!(keys.iter().map(|key| calls.is_in_doubt(*key)).collect::<Vec<_>>(), [true, false]);
    }
}
