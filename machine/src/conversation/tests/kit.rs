//! Short words for the stories.

use flotilla_proto::entry::{HistoryAccess, What};
use flotilla_proto::ids::*;
use flotilla_proto::member::MembershipPart;
use flotilla_proto::slots::SlotTable;

use crate::command::*;
use crate::conversation::plan::row_of;
use crate::conversation::tables::conversation::{ConversationRow, Conversations};
use crate::conversation::tables::entry::Entries;
use crate::conversation::tables::member::MemberRow;
use crate::query::{Answer, DirtyItem, EntriesPage, Query};
use crate::reply::{Accepted, Rejection, Reply};
use crate::table;
use crate::testing::arb::named;
use crate::testing::{Machine, scene};
use flotilla_proto::entry::Entry;

pub struct Room {
    pub machine: Machine,
    pub conv: ConvId,
    cids: u128,
}

impl Room {
    pub fn direct(a: &str, b: &str) -> Self {
        Self::at(ConvId::direct(&named(a), &named(b)))
    }

    pub fn at(conv: ConvId) -> Self {
        Self::among(&scene::slots(), conv)
    }

    /// The conversation's slot must be the home shard's.
    pub fn among(slots: &SlotTable, conv: ConvId) -> Self {
        Self { machine: Machine::with_slots(scene::HOME, slots), conv, cids: 100 }
    }

    /// A group of `owner` and others, made.
    pub fn group(owner: &str, others: &[&str]) -> Self {
        let mut room = Self::at(ConvId::group(&named(owner), Cid(1)));
        let create = Append { cid: Cid(1), ..room.command(owner, creation(others)) };
        room.accepted(create);
        room
    }

    /// Whatever `who` wants to append, under a fresh cid.
    pub fn command(&mut self, who: &str, what: What) -> Append {
        self.cids += 1;
        Append {
            conv: self.conv.clone(),
            sender: named(who),
            device: DeviceId(1),
            cid: Cid(self.cids),
            age_ms: 0,
            after: None,
            checked: scene::users(),
            what,
        }
    }

    pub fn apply(&mut self, append: Append) -> Reply {
        self.machine.one(Command::Append(append))
    }

    pub fn accepted(&mut self, append: Append) -> Accepted {
        match self.apply(append) {
            Reply::Accepted(accepted) => accepted,
            other => panic!("expected an accepted entry, got {other:?}"),
        }
    }

    /// Rejected, and without effect: the state is what a mere tick would have left.
    pub fn rejected(&mut self, append: Append) -> Rejection {
        let mut idle = self.machine.copy(vec![9]);
        idle.one(Command::Tick);
        match self.apply(append) {
            Reply::Rejected(rejection) => {
                assert_eq!(self.machine.digest(), idle.digest(), "a rejected command has no effect");
                rejection
            }
            other => panic!("expected a rejection, got {other:?}"),
        }
    }

    pub fn does(&mut self, who: &str, what: What) -> Seq {
        let append = self.command(who, what);
        self.accepted(append).seq
    }

    pub fn refuses(&mut self, who: &str, what: What) -> Rejection {
        let append = self.command(who, what);
        self.rejected(append)
    }

    pub fn says(&mut self, who: &str, text: &str) -> Seq {
        self.does(who, crate::testing::arb::message(text))
    }

    pub fn row(&self) -> ConversationRow {
        table::get::<Conversations>(&self.machine.view(), &self.conv).expect("reads").expect("exists")
    }

    pub fn member(&self, who: &str) -> MemberRow {
        row_of(&self.machine.view(), &self.conv, &named(who)).expect("reads").expect("a row")
    }

    pub fn part(&self, who: &str) -> MembershipPart {
        self.member(who).part
    }

    pub fn entry(&self, seq: Seq) -> Entry {
        table::get::<Entries>(&self.machine.view(), &(self.conv.clone(), seq)).expect("reads").expect("exists")
    }

    pub fn read(&self, who: &str, from: u64, to: u64) -> EntriesPage {
        let query = Query::Entries {
            conv: self.conv.clone(),
            user: named(who),
            from: Seq(from),
            to: Seq(to),
            newest_first: false,
            limit: 256,
            bytes_max: 1 << 20,
        };
        match self.machine.query(&query) {
            Answer::Entries(page) => page,
            other => panic!("expected entries, got {other:?}"),
        }
    }

    pub fn seqs(&self, who: &str) -> Vec<u64> {
        self.read(who, 1, u64::MAX).entries.iter().map(|e| e.seq.0).collect()
    }

    pub fn dirty(&self, target: u16) -> Vec<DirtyItem> {
        let query = Query::Dirty { target: ShardId(target), after: None, limit: 99, bytes_max: 1 << 20 };
        match self.machine.query(&query) {
            Answer::Dirty { items, more: false } => items,
            other => panic!("expected all dirty items, got {other:?}"),
        }
    }

    pub fn targets(&self) -> Vec<u16> {
        match self.machine.query(&Query::DirtyTargets) {
            Answer::Targets(targets) => targets.into_iter().map(|t| t.0).collect(),
            other => panic!("expected targets, got {other:?}"),
        }
    }

    pub fn clear(&mut self, target: u16, head: Seq, parts: Seq) {
        let items = vec![ClearDirty { conv: self.conv.clone(), head, parts }];
        assert_eq!(self.machine.one(Command::ClearDirty { target: ShardId(target), items }), Reply::Done);
    }

    /// Confirms everything to everybody.
    pub fn settle(&mut self) {
        for target in self.targets() {
            for item in self.dirty(target) {
                self.clear(target, item.notify.head, item.parts);
            }
        }
        assert_eq!(self.targets(), Vec::<u16>::new());
    }
}

pub fn creation(others: &[&str]) -> What {
    let members = others.iter().map(|name| named(name)).collect();
    What::Create { name: "team".into(), members, history: HistoryAccess::FromJoin }
}

pub fn add(who: &[&str]) -> What {
    What::Add { users: who.iter().map(|name| named(name)).collect() }
}

pub fn remove(who: &str) -> What {
    What::Remove { user: named(who) }
}

pub fn role(who: &str, role: flotilla_proto::entry::Role) -> What {
    What::SetRole { user: named(who), role }
}

pub fn leave() -> What {
    What::Leave { heir: None }
}
