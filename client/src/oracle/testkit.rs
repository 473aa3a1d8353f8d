//! Synthetic histories: a good one of three users, and the means to spoil it.

use std::collections::BTreeMap;

use flotilla_proto::entry::{Entry, HistoryAccess, What, body_hash};
use flotilla_proto::frame::{Accepted, EntryFrame};
use flotilla_proto::ids::*;

use super::{Demand, Verdict, judge};
use crate::device::message;
use crate::history::{Op, Record};

pub struct History {
    pub records: Vec<Record>,
    pub direct: ConvId,
    pub group: ConvId,
    pub next_msg_id: MsgId,
    next_cid: u128,
    heads: BTreeMap<ConvId, (Seq, Hash32)>,
}

impl History {
    /// alice and bob talk directly (three messages, the first two pipelined); alice makes a group with bob and carol.
    pub fn good() -> Self {
        let user = |name| UserId::parse(name).expect("valid");
        let direct = ConvId::direct(&user("alice"), &user("bob"));
        let group = ConvId::group(&user("alice"), Cid(1_000));
        let mut history = Self {
            records: Vec::new(),
            direct: direct.clone(),
            group: group.clone(),
            next_msg_id: MsgId(100),
            next_cid: 0,
            heads: BTreeMap::new(),
        };
        for name in ["alice", "bob", "carol"] {
            history.connect(&format!("{name}/1"), name);
        }
        let (one, two) = (history.cid(), history.cid());
        history.invoke(&direct, "alice", one, message("one"), true);
        history.invoke(&direct, "alice", two, message("two"), true);
        history.commit(&direct, "alice", one, message("one"), &["alice", "bob"]);
        history.commit(&direct, "alice", two, message("two"), &["alice", "bob"]);
        history.append(&direct, "bob", "three");
        let members = vec![user("bob"), user("carol")];
        let create = What::Create { name: "crew".into(), members, history: HistoryAccess::FromJoin };
        history.invoke(&group, "alice", Cid(1_000), create.clone(), false);
        history.commit(&group, "alice", Cid(1_000), create, &["alice", "bob", "carol"]);
        history.append_to(&group, "bob", "hello", &["alice", "bob", "carol"]);
        history.append_to(&group, "alice", "hi", &["alice", "bob", "carol"]);
        history
    }

    pub fn user(&self, name: &str) -> UserId {
        UserId::parse(name).expect("valid")
    }

    fn cid(&mut self) -> Cid {
        self.next_cid += 1;
        Cid(self.next_cid)
    }

    fn push(&mut self, name: &str, op: Op) {
        let at_us = self.records.len() as u64;
        let user = self.user(name);
        self.records.push(Record { at_us, device: format!("{name}/1"), user, op });
    }

    fn device(&self, name: &str) -> DeviceId {
        DeviceId(u128::from(name.as_bytes()[0]))
    }

    pub fn connect(&mut self, label: &str, name: &str) {
        assert_eq!(label, format!("{name}/1"));
        let op = Op::Connected { device: self.device(name), session: SessionNo(1), url: "u".into(), attempt: 1 };
        self.push(name, op);
    }

    fn invoke(&mut self, conv: &ConvId, name: &str, cid: Cid, what: What, pipelined: bool) {
        self.push(name, Op::Invoked { cid, conv: conv.clone(), what, pipelined });
    }

    /// The entry, its delivery to `to`, and the answer.
    fn commit(&mut self, conv: &ConvId, name: &str, cid: Cid, what: What, to: &[&str]) {
        let (head, chain) = self.heads.get(conv).copied().unwrap_or_default();
        let mut entry = Entry {
            conv: conv.clone(),
            seq: head.next(),
            n: Count(head.0 + 1),
            msg_id: self.next_msg_id,
            ts: TsMs(5),
            from: self.user(name),
            device: self.device(name),
            cid,
            kind: what.kind().into(),
            body_hash: body_hash(cid, &what),
            what: Some(what),
            chain: Hash32::default(),
        };
        entry.chain = entry.chain_after(chain);
        self.next_msg_id.0 += 1;
        self.heads.insert(conv.clone(), (entry.seq, entry.chain));
        let (seq, msg_id, ts, chain) = (entry.seq, entry.msg_id, entry.ts, entry.chain);
        let accepted = Accepted { conv: conv.clone(), seq, msg_id, ts, chain, dup: false };
        self.push(name, Op::Accepted { cid, accepted });
        for member in to {
            let frame = if *member == name { EntryFrame::echo_of(&entry) } else { EntryFrame::of(&entry) };
            self.push(member, Op::Entry { entry: Box::new(frame) });
        }
    }

    /// In the direct conversation.
    pub fn append(&mut self, conv: &ConvId, name: &str, body: &str) {
        self.append_to(conv, name, body, &["alice", "bob"]);
    }

    pub fn append_to(&mut self, conv: &ConvId, name: &str, body: &str, to: &[&str]) {
        let cid = self.cid();
        self.invoke(conv, name, cid, message(body), true);
        self.commit(conv, name, cid, message(body), to);
    }

    /// Committed once more under a cid that was used.
    pub fn append_as(&mut self, conv: &ConvId, name: &str, cid: Cid, body: &str) {
        let used = |r: &Record| matches!(&r.op, Op::Accepted { cid: c, .. } if *c == cid);
        let answer = self.records[self.nth(0, used)].clone();
        self.commit(conv, name, cid, message(body), &["alice", "bob"]);
        // The answer stays the first one: only the log shows it.
        let at = self.last(used);
        self.records[at] = answer;
    }

    pub fn remove(&mut self, conv: &ConvId, name: &str) {
        let (cid, what) = (self.cid(), What::Remove { user: self.user(name) });
        self.invoke(conv, "alice", cid, what.clone(), false);
        self.commit(conv, "alice", cid, what, &["alice", "bob", "carol"]);
    }

    pub fn cid_of(&self, conv: &ConvId, seq: Seq) -> Cid {
        let cid = |r: &Record| match &r.op {
            Op::Entry { entry } if entry.conv == *conv && entry.seq == seq => Some(entry.cid),
            _ => None,
        };
        self.records.iter().find_map(cid).expect("in the history")
    }

    pub fn last(&self, is: impl Fn(&Record) -> bool) -> usize {
        self.records.iter().rposition(is).expect("in the history")
    }

    pub fn nth(&self, nth: usize, is: impl Fn(&Record) -> bool) -> usize {
        self.records.iter().enumerate().filter(|(_, r)| is(r)).nth(nth).expect("in the history").0
    }

    pub fn violates(&self, promise: &str) {
        match judge(&self.records, Demand::default()) {
            Verdict::Violated(violation, _) => assert_eq!(violation.promise, promise, "{violation}"),
            other => panic!("{promise} should be violated: {other}"),
        }
    }
}
