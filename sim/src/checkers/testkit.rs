//! A bench for the checkers' own tests: three disks, and writes as nodes make them.

use std::collections::BTreeSet;

use bytes::Bytes;
use flotilla_client::history::{Op as Did, Record};
use flotilla_machine::conversation::tables::conversation::{ConversationRow, Conversations};
use flotilla_machine::conversation::tables::dedup::{DedupRow, Dedups};
use flotilla_machine::conversation::tables::dirty::{Dirties, DirtyRow};
use flotilla_machine::conversation::tables::entry::Entries;
use flotilla_machine::conversation::tables::member::{MemberRow, Members};
use flotilla_machine::meta::FenceTable;
use flotilla_machine::reply::Accepted;
use flotilla_machine::table::{self, Table};
use flotilla_machine::user::account::{UserRow, UserTable};
use flotilla_machine::user::cursor::CursorTable;
use flotilla_machine::user::device::{DeviceRow, DeviceTable};
use flotilla_machine::user::inbox::{InboxTable, Row as InboxRow};
use flotilla_machine::user::session::{AtNode, SessionNodeTable, SessionRow, SessionTable};
use flotilla_machine::{Stamp, Txn};
use flotilla_proto::codec;
use flotilla_proto::entry::{Entry, Role, body_hash};
use flotilla_proto::frame::EntryFrame;
use flotilla_proto::ids::*;
use flotilla_proto::member::{Interval, MembershipPart, Mode};
use flotilla_raft::keys::{self, StateGeneration};
use flotilla_raft::state::Pointer;
use flotilla_raft::types::{Membership, Payload, StoredMembership, log_id};
use flotilla_raft::{Leadership, Proposal, Vote, entry as log_entry, replicas};
use flotilla_storage::{Batch, Durability, Engine, MemDisk, MemEngine, Op, value};

use super::engine::WatchedEngine;
use super::{Checker, Facts, Watch};
use crate::trace::Trace;

/// A row's key and what it becomes.
pub type Raw = (Vec<u8>, Option<Bytes>);

pub struct Bench {
    pub watch: Watch,
    pub records: Vec<Record>,
    disks: Vec<MemDisk>,
    flipped: Option<(u16, Vec<u8>, (Bytes, Bytes))>,
    engines: Vec<Option<WatchedEngine>>,
    /// The sets of voters whose majorities decide.
    voters: Vec<BTreeSet<u64>>,
}

const GENERATION: Generation = Generation(1);
const STATE: StateGeneration = StateGeneration(1);

impl Bench {
    pub const SHARD: ShardId = ShardId(1);

    pub fn new(checkers: Vec<Box<dyn Checker>>) -> Self {
        let disks: Vec<_> = (0..3).map(|_| MemDisk::new()).collect();
        let watch = Watch::with(checkers, disks.clone(), &Trace::default());
        let mut bench = Self {
            watch,
            records: Vec::new(),
            disks,
            flipped: None,
            engines: vec![None, None, None],
            voters: vec![ids(&[1, 2, 3])],
        };
        (1..=3).for_each(|node| bench.open(node));
        for node in 1..=3 {
            bench.point(node, None, Batch::new());
        }
        bench
    }

    /// The replica of a node, as openraft names it.
    pub fn id(node: u16) -> u64 {
        ReplicaId::new(NodeId(node), GENERATION).to_raft()
    }

    fn open(&mut self, node: u16) {
        let inner = MemEngine::open(&self.disks[usize::from(node) - 1]).expect("nobody else has it");
        self.engines[usize::from(node) - 1] = Some(WatchedEngine::new(inner, node, self.watch.clone()));
    }

    pub fn restart(&mut self, node: u16) -> &mut Self {
        self.engines[usize::from(node) - 1] = None;
        self.open(node);
        self
    }

    fn engine(&self, node: u16) -> &WatchedEngine {
        self.engines[usize::from(node) - 1].as_ref().expect("it is open")
    }

    fn write(&mut self, node: u16, key: Vec<u8>, stored: Bytes, durability: Durability) -> &mut Self {
        let mut batch = Batch::new();
        batch.put(key, stored);
        self.engine(node).write(batch, durability).expect("no fault");
        self
    }

    pub fn vote(&mut self, node: u16, vote: Vote, synced: bool) -> &mut Self {
        let payload = codec::encode(1, &vote).expect("plain");
        let durability = if synced { Durability::Synced } else { Durability::Buffered };
        self.write(node, keys::vote(Self::SHARD, GENERATION), value::seal(1, &payload), durability)
    }

    pub fn log(&mut self, node: u16, term: u64, index: u64) -> &mut Self {
        self.log_of(node, term, index, 1)
    }

    pub fn log_of(&mut self, node: u16, term: u64, index: u64, mark: u64) -> &mut Self {
        self.append(node, term, index, mark, Durability::Synced)
    }

    pub fn log_unsynced(&mut self, node: u16, term: u64, index: u64) -> &mut Self {
        self.append(node, term, index, 1, Durability::Buffered)
    }

    fn append(&mut self, node: u16, term: u64, index: u64, mark: u64, durability: Durability) -> &mut Self {
        let stamp = Stamp { age_delta_ms: mark, display: TsMs(0) };
        let payload = Payload::Normal(Proposal::new(stamp, vec![Bytes::new()]));
        let mut body = Vec::new();
        log_entry::encode_body(&flotilla_raft::Entry { log_id: log_id(term, index), payload }, &mut body);
        let stored = value::seal(log_entry::ENTRY_VERSION, &body);
        self.write(node, keys::log(Self::SHARD, GENERATION, index), stored, durability)
    }

    pub fn purge(&mut self, node: u16, upto: u64) -> &mut Self {
        let payload = codec::encode(1, &log_id(1, upto)).expect("plain");
        self.write(node, keys::purged(Self::SHARD, GENERATION), value::seal(1, &payload), Durability::Buffered)
    }

    pub fn apply(&mut self, node: u16, index: u64) -> &mut Self {
        self.apply_all(node, index, Vec::new())
    }

    pub fn apply_rows(&mut self, node: u16, index: u64, rows: Vec<(&[u8], Option<&'static str>)>) -> &mut Self {
        let raw =
            rows.into_iter().map(|(key, new)| (key.to_vec(), new.map(|text| Bytes::from_static(text.as_bytes()))));
        self.apply_all(node, index, raw.collect())
    }

    pub fn apply_all(&mut self, node: u16, index: u64, rows: Vec<Raw>) -> &mut Self {
        let stored = self.engine(node).inner_get(&keys::log(Self::SHARD, GENERATION, index));
        let term = stored.and_then(|stored| super::decode::entry_of(&stored));
        let term = term.map_or(1, |entry| entry.log_id.committed_leader_id().term);
        let mut batch = Batch::new();
        for (key, new) in rows {
            let key = [keys::state(Self::SHARD, STATE), key].concat();
            match new {
                Some(stored) => batch.put(key, stored),
                None => batch.delete(key),
            }
        }
        self.point(node, Some(log_id(term, index)), batch)
    }

    fn point(&mut self, node: u16, applied: Option<flotilla_raft::LogId>, mut batch: Batch) -> &mut Self {
        let membership = StoredMembership::new(None, Membership::new_with_defaults(self.voters.clone(), []));
        Pointer { generation: STATE, replica: GENERATION, applied, membership }.put(Self::SHARD, &mut batch);
        self.engine(node).write(batch, Durability::Buffered).expect("no fault");
        self
    }

    /// The log ends before this index.
    pub fn cut(&mut self, node: u16, from: u64) -> &mut Self {
        let mut batch = Batch::new();
        batch.delete_range(keys::log(Self::SHARD, GENERATION, from), keys::log_end(Self::SHARD, GENERATION));
        self.engine(node).write(batch, Durability::Synced).expect("no fault");
        self
    }

    /// The checkers hear that the node's disk goes back.
    pub fn goes_back(&mut self, node: u16) -> &mut Self {
        self.watch.forgets(node, true);
        self
    }

    /// Flips a bit of a row.
    pub fn damage(&mut self, node: u16, key: &[u8]) -> &mut Self {
        let key = [keys::state(Self::SHARD, STATE), key.to_vec()].concat();
        let disk = self.disks[usize::from(node) - 1].clone();
        let read = || disk.written().get(&key).expect("no fault").expect("there is such a row");
        let written = read();
        assert!(disk.corrupt(&key, 3), "there is such a row");
        self.flipped = Some((node, key.clone(), (read(), written)));
        self
    }

    /// The checkers know of the bit that was flipped last.
    pub fn tell_damage(&mut self) -> &mut Self {
        let (node, key, bytes) = self.flipped.take().expect("a bit was flipped");
        self.watch.damaged(node, Self::SHARD, &key, bytes);
        self
    }

    pub fn users(&mut self, names: &[&str]) -> &mut Self {
        let rows = names.iter().map(|name| raw::<UserTable>(&user(name), &UserRow::new("", TsMs(1), None)));
        self.apply_all(1, 1, rows.collect())
    }

    pub fn facts(&mut self, node: u16, group: flotilla_raft::group::Facts) -> &mut Self {
        let replica = ReplicaId::new(NodeId(node), GENERATION);
        let (leadership, vote) = (Leadership::default(), Vote::new(group.term, Self::id(node)));
        self.watch.on_facts(&Facts { node: NodeId(node), shard: Self::SHARD, replica, leadership, vote, group });
        self
    }

    /// A tick at which the node's group says that it leads.
    pub fn leads(&mut self, node: u16, term: u64) -> &mut Self {
        let (replica, vote) = (ReplicaId::new(NodeId(node), GENERATION), Vote::new_committed(term, Self::id(node)));
        let voters = (1..=3).map(|voter| ReplicaId::new(NodeId(voter), GENERATION)).collect();
        let group = flotilla_raft::group::Facts { term, voters, ..Default::default() };
        let leadership = Leadership { leads: true, term, ..Leadership::default() };
        self.watch.on_facts(&Facts { node: NodeId(node), shard: Self::SHARD, replica, leadership, vote, group });
        self
    }

    /// A change of voters is under way, and committed.
    pub fn joint(&mut self, old: &[u16], new: &[u16]) -> &mut Self {
        self.voters = vec![ids(old), ids(new)];
        self
    }

    /// A tick at which the node's group leads, with this newest membership.
    pub fn deciding(&mut self, node: u16, term: u64, configs: &[&[u16]]) -> &mut Self {
        let (replica, vote) = (ReplicaId::new(NodeId(node), GENERATION), Vote::new_committed(term, Self::id(node)));
        let replicas = |nodes: &&[u16]| nodes.iter().map(|node| ReplicaId::new(NodeId(*node), GENERATION)).collect();
        let deciding = configs.iter().map(replicas).collect();
        let group = flotilla_raft::group::Facts { term, deciding, ..Default::default() };
        let leadership = Leadership { leads: true, term, ..Leadership::default() };
        self.watch.on_facts(&Facts { node: NodeId(node), shard: Self::SHARD, replica, leadership, vote, group });
        self
    }

    /// The node's directory has held the replica since it was made.
    pub fn here(&mut self, node: u16) -> &mut Self {
        replicas::add(self.engine(node), Self::SHARD, GENERATION).expect("no fault");
        self
    }

    /// The node dies, and its machine is replaced by an empty one.
    pub fn replace(&mut self, node: u16) -> &mut Self {
        let at = usize::from(node) - 1;
        // First the power, then the engine: one that is closed in order writes out what it holds.
        self.disks[at].crash(0);
        self.engines[at] = None;
        self.watch.wiped(node);
        self.disks[at].wipe();
        self
    }

    pub fn retire(&mut self, node: u16) -> &mut Self {
        replicas::retire(self.engine(node), Self::SHARD, GENERATION).expect("no fault");
        self
    }

    /// A disk that takes back what it had synced.
    pub fn lose_vote(&mut self, node: u16) -> &mut Self {
        let mut batch = Batch::new();
        batch.delete(keys::vote(Self::SHARD, GENERATION));
        self.engine(node).write(batch, Durability::Synced).expect("no fault");
        self
    }

    fn record(&mut self, name: &str, op: Did) -> &mut Self {
        let record = Record { at_us: 0, device: name.to_owned(), user: user(name), op };
        self.watch.on_record(&record);
        self.records.push(record);
        self
    }

    /// Something that stands in the history and is no operation of a client.
    pub fn notes(&mut self, name: &str, op: Did) -> &mut Self {
        self.record(name, op)
    }

    pub fn connected(&mut self, name: &str, session: u64) -> &mut Self {
        let (device, session) = (device(name), SessionNo(session));
        self.record(name, Did::Connected { device, session, url: String::new(), attempt: 1 })
    }

    pub fn acked(&mut self, name: &str, seq: u64) -> &mut Self {
        self.record(name, Did::Acked { conv: conv(), seq: Seq(seq) })
    }

    pub fn received(&mut self, name: &str, entry: &Entry) -> &mut Self {
        self.record(name, Did::Entry { entry: Box::new(EntryFrame::of(entry)) })
    }

    pub fn accepted(&mut self, name: &str, entry: &Entry) -> &mut Self {
        let accepted = flotilla_proto::frame::Accepted {
            conv: entry.conv.clone(),
            seq: entry.seq,
            msg_id: entry.msg_id,
            ts: entry.ts,
            chain: entry.chain,
            dup: false,
        };
        self.record(name, Did::Accepted { cid: entry.cid, accepted })
    }

    #[track_caller]
    pub fn holds(&self) {
        assert_eq!(self.watch.violations(), [""; 0]);
        assert!(self.watch.verified().values().sum::<u64>() > 0, "nothing was verified");
    }

    #[track_caller]
    pub fn violates(&self, promise: &str) {
        let violations = self.watch.violations();
        assert!(violations.iter().any(|what| what.starts_with(promise)), "{promise} was not violated: {violations:?}");
    }
}

fn ids(nodes: &[u16]) -> BTreeSet<u64> {
    nodes.iter().map(|node| Bench::id(*node)).collect()
}

/// A row as a batch writes it.
pub fn raw<T: Table>(key: &T::Key, row: &T::Row) -> Raw {
    let engine = MemEngine::new();
    let mut txn = Txn::new(&engine, Vec::new());
    table::put::<T>(&mut txn, key, row);
    let ops = txn.into_batch().into_ops();
    match ops.into_iter().next() {
        Some(Op::Put(key, stored)) => (key.to_vec(), Some(stored)),
        other => panic!("a put was expected, not {other:?}"),
    }
}

pub fn user(name: &str) -> UserId {
    UserId::parse(name).expect("valid")
}

/// Of ann and bob.
pub fn conv() -> ConvId {
    ConvId::direct(&user("ann"), &user("bob"))
}

pub fn device(name: &str) -> DeviceId {
    DeviceId(name.bytes().map(u128::from).sum())
}

/// An entry that follows another one.
pub fn entry(seq: u64, cid: u128, before: Option<&Entry>) -> Entry {
    let what = flotilla_client::device::message("hello");
    let mut entry = Entry {
        conv: conv(),
        seq: Seq(seq),
        n: Count(seq),
        msg_id: MsgId(seq),
        ts: TsMs(1),
        from: user("ann"),
        device: device("ann"),
        cid: Cid(cid),
        kind: what.kind().to_owned(),
        body_hash: body_hash(Cid(cid), &what),
        what: Some(what),
        chain: Hash32::default(),
    };
    entry.chain = entry.chain_after(before.map_or(Hash32::default(), |before| before.chain));
    entry
}

/// What an append writes.
pub fn said(entry: &Entry) -> Vec<Raw> {
    let Entry { conv, seq, n, msg_id, ts, chain, .. } = entry.clone();
    let head =
        ConversationRow { head: seq, n_head: n, chain, last_id: msg_id, last_ts: ts, ..ConversationRow::default() };
    let answer = Accepted { conv: conv.clone(), seq, n, msg_id, ts, chain, dup: false };
    let dedup = DedupRow { body_hash: entry.body_hash, answer, age: AgeMs(0) };
    vec![
        raw::<Entries>(&(conv.clone(), seq), entry),
        raw::<Conversations>(&conv, &head),
        raw::<Dedups>(&(conv, entry.from.clone(), entry.cid), &dedup),
    ]
}

/// The conversation's head, and more.
pub fn said_to(head: u64, mut more: Vec<Raw>) -> Vec<Raw> {
    more.push(raw::<Conversations>(&conv(), &ConversationRow { head: Seq(head), ..ConversationRow::default() }));
    more
}

pub fn part(mseq: u64) -> MembershipPart {
    let stay = Interval { from: Seq(1), n_before: Count(0), until: None, n_until: Count(0), history_from: Seq(1) };
    MembershipPart { mseq: Seq(mseq), intervals: vec![stay], mode: Mode::default(), role: Some(Role::Member) }
}

pub fn member(name: &str, mseq: u64) -> Raw {
    raw::<Members>(&(conv(), user(name)), &MemberRow { part: part(mseq), ..MemberRow::default() })
}

pub fn dirty(head: Option<u64>, from: u64) -> Raw {
    let row = DirtyRow { head: Seq(head.unwrap_or(0)), from: Seq(from), ..DirtyRow::default() };
    let (key, stored) = raw::<Dirties>(&(Bench::SHARD, conv()), &row);
    (key, stored.filter(|_| head.is_some()))
}

pub fn inbox(name: &str, head: u64, mseq: u64) -> Raw {
    raw::<InboxTable>(&(user(name), conv()), &InboxRow { head: Seq(head), part: part(mseq), ..InboxRow::default() })
}

pub fn cursor(name: &str, seq: u64) -> Raw {
    raw::<CursorTable>(&(user(name), device(name), conv()), &Seq(seq))
}

pub fn device_row(name: &str, number: u64) -> Raw {
    let row = DeviceRow {
        install: Hash32::default(),
        name: String::new(),
        created: TsMs(1),
        number: SessionNo(number),
        barred: Vec::new(),
    };
    raw::<DeviceTable>(&(user(name), device(name)), &row)
}

pub fn session(name: &str, number: u64, incarnation: u64) -> Raw {
    let row = SessionRow { incarnation: Incarnation(incarnation), ..session_row(number, 1, number) };
    raw::<SessionTable>(&(user(name), device(name)), &row)
}

fn session_row(number: u64, instance: u128, attempt: u64) -> SessionRow {
    SessionRow {
        node: NodeId(1),
        incarnation: Incarnation(1),
        number: SessionNo(number),
        instance: Instance(instance),
        attempt,
        since: SessionNo(1),
    }
}

/// Of a process, by its instance.
pub fn session_of(name: &str, number: u64, instance: u128, attempt: u64) -> Raw {
    let row = session_row(number, instance, attempt);
    raw::<SessionTable>(&(user(name), device(name)), &row)
}

/// The index row of a session at node 1.
pub fn session_at(name: &str, incarnation: u64) -> Raw {
    let incarnation = Incarnation(incarnation);
    raw::<SessionNodeTable>(&AtNode { node: NodeId(1), incarnation, user: user(name), device: device(name) }, &())
}

/// Node 1 lives from this incarnation on.
pub fn fence(lowest: u64) -> Raw {
    raw::<FenceTable>(&NodeId(1), &Incarnation(lowest))
}

impl WatchedEngine {
    fn inner_get(&self, key: &[u8]) -> Option<Bytes> {
        flotilla_storage::Read::get(self, key).expect("no fault")
    }
}
