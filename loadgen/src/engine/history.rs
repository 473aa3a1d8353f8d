//! The whole history of a few direct conversations, for the oracle that also judges the simulator and the tests: it knows
//! more promises than the ledger (hashes and chains, real-time order, phantoms), and costs more.

use flotilla_client::history::Op;
use flotilla_client::oracle::{self, Demand, Verdict};
use flotilla_proto::entry::What;
use flotilla_proto::frame::codec::{self, Decoded};
use flotilla_proto::frame::{CodecLimits, Encoding, ServerFrame};
use flotilla_proto::ids::{Blob, Cid, ConvId};

use super::Engine;
use super::traffic::FIRST_CALL;

impl Engine {
    /// A device that is in a conversation whose history is kept.
    fn is_kept(&self, at: usize) -> bool {
        self.kept > 0 && self.devices[at].positions.first().is_some_and(|position| self.keeps(position.conv))
    }

    fn keeps(&self, conv: u32) -> bool {
        (conv as usize) < self.kept && self.conversations[conv as usize].is_direct
    }

    fn note(&self, at: usize, op: Op) {
        let user = &self.devices[at].user;
        self.recorder.record(&format!("{user}/1"), user, op);
    }

    pub(super) fn note_sent(&self, at: usize, conv: u32, cid: u128) {
        if self.keeps(conv) {
            let conv = &self.conversations[conv as usize].id;
            let body = Blob::from(self.body.clone());
            let what = What::Message { kind: "message".into(), body, reply_to: None, mentions: vec![], media: None };
            self.note(at, Op::Invoked { cid: Cid(cid), conv: conv.clone(), what, pipelined: false });
        }
    }

    /// Before the frames of the message have any effect.
    pub(super) fn note_message(&self, at: usize, message: &[u8]) {
        if !self.is_kept(at) {
            return;
        }
        let here = |conv: &ConvId| self.by_id.get(&*conv.to_string()).is_some_and(|conv| self.keeps(*conv));
        for frame in codec::decode_server(Encoding::Json, message, CodecLimits::OPEN).frames {
            let Decoded::Message(message) = frame else { continue };
            let cid = message.id.filter(|id| *id < FIRST_CALL).and_then(|id| {
                let (conv, number) = self.devices[at].sending(id).filter(|(conv, _)| self.keeps(*conv))?;
                Some(Cid(self.conversations[conv as usize].ledger.cid(number)))
            });
            let op = match message.frame {
                ServerFrame::Ready(ready) => {
                    let url = self.nodes[self.devices[at].node].to_string();
                    let (device, session, attempt) = (ready.device, ready.session, self.devices[at].attempt);
                    Some(Op::Connected { device, session, url, attempt })
                }
                ServerFrame::CaughtUp(_) => Some(Op::CaughtUp),
                ServerFrame::Entry(entry) if here(&entry.conv) => Some(Op::Entry { entry }),
                ServerFrame::Gap(gap) if here(&gap.conv) => Some(Op::Gap { gap }),
                ServerFrame::Accepted(accepted) => cid.map(|cid| Op::Accepted { cid, accepted }),
                ServerFrame::Error(error) if !error.retryable => cid.map(|cid| Op::Rejected { cid, error }),
                _ => None,
            };
            if let Some(op) = op {
                self.note(at, op);
            }
        }
    }

    pub(super) fn note_closed(&self, at: usize, why: &str) {
        if self.is_kept(at) {
            self.note(at, Op::Closed { code: 1006, reason: why.to_owned() });
        }
    }

    /// What the oracle says of the conversations that were kept; nothing if none were.
    pub fn oracle(&self) -> Option<Verdict> {
        let records = self.recorder.take();
        // Conversations that have not seen a send have nothing to be judged.
        let demand = Demand { accepted_min: 1, delivered_min: 1, ..Demand::default() };
        (!records.is_empty()).then(|| oracle::judge(&records, demand))
    }
}
