//! Whether senders hear that everything was delivered: at the end of a run the first sender of each conversation asks for
//! its members, until all of them are said to have the last entry.

use std::time::Duration;

use flotilla_proto::ids::ConvKind;
use flotilla_proto::limits::PUSH_MEMBERS_MAX;
use serde_json::{Value, json};

use super::Engine;
use super::device::Phase;
use super::time::At;

/// Conversations that are asked about, spread over all of them.
const ASKED_MAX: usize = 64;
/// Receipts are gathered on the way; asking more often than this would only be load.
const ASK_AGAIN: Duration = Duration::from_millis(250);

impl Engine {
    /// Counts the conversations of which the last delivery is not known by `limit`.
    pub(super) fn look_for_receipts(&mut self, limit: At) -> anyhow::Result<()> {
        let every = self.conversations.len().div_ceil(ASKED_MAX).max(1);
        // In pull mode senders hear nothing of deliveries.
        let pushed = |at: &usize| {
            let conversation = &self.conversations[*at];
            conversation.id.kind() != ConvKind::Channel && conversation.members.len() <= PUSH_MEMBERS_MAX as usize
        };
        let mut waiting: Vec<usize> = (0..self.conversations.len()).step_by(every).filter(pushed).collect();
        loop {
            let mut asked = Vec::new();
            for conv in waiting.drain(..) {
                let conversation = &self.conversations[conv];
                let (at, method) =
                    (conversation.senders[0] as usize, format!("GET conversations/{}/members", conversation.text));
                let online = self.devices[at].phase == Phase::Online;
                asked.push((conv, online.then(|| self.call(at, &method, None, json!({})))));
            }
            let answered =
                |engine: &Self| asked.iter().all(|(_, id)| id.is_none_or(|id| engine.answers.contains_key(&id)));
            self.turn_until(limit, answered)?;
            for (conv, id) in asked {
                let members = match id.and_then(|id| self.answer(id)) {
                    Some(Ok(members)) => members,
                    _ => Value::Null,
                };
                if !self.all_have(conv, &members) {
                    waiting.push(conv);
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if self.clock.now() >= limit {
                self.tally.faults.receipts_missing += waiting.len() as u64;
                return Ok(());
            }
            let again = self.clock.now().after(ASK_AGAIN).min(limit);
            self.turn_until(again, |_| false)?;
        }
    }

    /// Whether the answer says that every member listed has what it was given.
    fn all_have(&self, conv: usize, members: &Value) -> bool {
        let last = self.conversations[conv].members.iter().filter_map(|at| {
            let positions = &self.devices[*at as usize].positions;
            positions.iter().find(|position| position.conv as usize == conv).map(|position| position.watch.last)
        });
        let last = last.max().unwrap_or(0);
        let Some(listed) = members["members"].as_array().filter(|listed| !listed.is_empty()) else { return false };
        listed.iter().all(|member| member["delivered"].as_u64().is_some_and(|delivered| delivered >= last))
    }
}
