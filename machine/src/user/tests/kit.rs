//! One shard on an in-memory engine that owns every slot, driven command by command.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::{Interval, MembershipPart};
use flotilla_proto::slots::SlotTable;
use flotilla_storage::{Durability, Engine, MemEngine, Order, Read};
use std::ops::ControlFlow;

use crate::command::*;
use crate::query::{Answer, InboxRow, Query, RowsPage};
use crate::reply::{MarkReply, Opened, Rejection, Reply};
use crate::table::{Table, decode_key, kind};
use crate::user::session::SessionTable;
use crate::{Effect, Stamp, Txn};

const PREFIX: &[u8] = b"p";

pub struct Shard {
    pub engine: MemEngine,
    pub id: ShardId,
    /// Of the last command, but for `Effect::Presence`.
    pub effects: Vec<Effect>,
    /// Of whom the last command said that somebody came, went or shows itself otherwise.
    pub presence: Vec<UserId>,
}

impl Shard {
    pub fn new() -> Self {
        let mut shard = Self::bare(ShardId(1));
        assert_eq!(shard.run(Command::SetSlots(SlotTable::even(1))), Reply::Done);
        // The rules of today.
        shard.done(Command::SetSettings(Settings::default()));
        shard
    }

    /// Without a slot table.
    pub fn bare(id: ShardId) -> Self {
        let mut shard = Self { engine: MemEngine::new(), id, effects: Vec::new(), presence: Vec::new() };
        // The clock row, which every proposal writes.
        shard.run(Command::Tick);
        shard
    }

    /// Another shard with the same rows, as a snapshot would make it.
    pub fn restored(&self) -> Self {
        let copy = Self { engine: MemEngine::new(), id: self.id, effects: Vec::new(), presence: Vec::new() };
        let mut batch = flotilla_storage::Batch::new();
        self.engine
            .scan(&[0], &[0xff], flotilla_storage::Order::Forward, &mut |key, value| {
                batch.put(key.to_vec(), value.to_vec());
                std::ops::ControlFlow::Continue(())
            })
            .expect("scans");
        copy.engine.write(batch, Durability::Buffered).expect("writes");
        copy
    }

    pub fn run(&mut self, command: Command) -> Reply {
        let (before, sessions) = (self.digest(), self.sessions());
        let mut txn = Txn::new(&self.engine, PREFIX.to_vec());
        let bytes = command.encode().expect("commands encode");
        // No time passes, so that a command without effect leaves every row as it was.
        let applied = crate::apply(&mut txn, self.id, &Stamp::default(), &[bytes]).expect("apply is total");
        let batch = txn.into_batch();
        assert!(batch.len() <= limits::ROWS_PER_COMMAND_MAX + 1, "too many rows: {}", batch.len());
        self.engine.write(batch, Durability::Buffered).expect("writes");
        self.effects.clear();
        self.presence.clear();
        let mut told = Vec::new();
        for effect in applied.effects {
            match effect {
                Effect::Presence { user } => self.presence.push(user),
                Effect::Sessions { user } => told.push(user),
                effect => self.effects.push(effect),
            }
        }
        self.check_sessions_told(&sessions, &told);
        let reply = applied.replies.into_iter().next().expect("one reply per command");
        let documented = matches!(command, Command::RotateToken(_)) && reply == Reply::Rejected(Rejection::Revoked)
            || matches!(command, Command::UseCode { .. }) && reply == Reply::Rejected(Rejection::Unauthenticated);
        if matches!(reply, Reply::Rejected(_)) && !documented {
            assert_eq!(before, self.digest(), "a rejection has no effect: {command:?}");
        }
        reply
    }

    /// Time that a leader counts.
    pub fn wait(&mut self, ms: u64) {
        let mut txn = Txn::new(&self.engine, PREFIX.to_vec());
        let tick = Command::Tick.encode().expect("commands encode");
        let stamp = Stamp { age_delta_ms: ms, ..Stamp::default() };
        crate::apply(&mut txn, self.id, &stamp, &[tick]).expect("apply is total");
        self.engine.write(txn.into_batch(), Durability::Buffered).expect("writes");
    }

    fn sessions(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let from = [PREFIX, &[kind::SESSION]].concat();
        let to = [PREFIX, &[kind::SESSION + 1]].concat();
        let visit = &mut |key: &[u8], row: &[u8]| {
            rows.push((key[PREFIX.len()..].to_vec(), row.to_vec()));
            ControlFlow::Continue(())
        };
        self.engine.scan(&from, &to, Order::Forward, visit).expect("scans");
        rows
    }

    /// Whoever's session rows change is named, or a leader would go on with what it remembers.
    fn check_sessions_told(&self, before: &[(Vec<u8>, Vec<u8>)], told: &[UserId]) {
        let after = self.sessions();
        let changed =
            before.iter().filter(|row| !after.contains(row)).chain(after.iter().filter(|r| !before.contains(r)));
        for (key, _) in changed {
            let (user, _) = decode_key::<SessionTable>(key).expect("a session's key");
            assert!(told.contains(&user), "the sessions of {user} changed in silence");
        }
    }

    pub fn digest(&self) -> Hash32 {
        crate::digest(&self.engine, PREFIX).expect("digests")
    }

    pub fn ask(&self, query: Query) -> Answer {
        crate::query(&self.engine, PREFIX, self.id, &query).expect("queries are total")
    }

    pub fn done(&mut self, command: Command) {
        let text = format!("{command:?}");
        assert_eq!(self.run(command), Reply::Done, "{text}");
    }

    pub fn rejected(&mut self, command: Command) -> Rejection {
        match self.run(command) {
            Reply::Rejected(why) => why,
            other => panic!("expected a rejection, got {other:?}"),
        }
    }

    pub fn user(&mut self, name: &str) -> UserId {
        let user = user(name);
        self.done(Command::Register(Register { user: user.clone(), phc: "phc".into(), request: Cid(1) }));
        user
    }

    /// A device whose install is its own number.
    pub fn device(&mut self, user: &UserId, n: u8) -> DeviceId {
        let reply = self.run(Command::Login(login(user, n, n)));
        assert_eq!(reply, Reply::LoggedIn { device: DeviceId(u128::from(n)), new: true });
        DeviceId(u128::from(n))
    }

    pub fn open(&mut self, user: &UserId, device: DeviceId) -> SessionNo {
        match self.run(Command::OpenSession(open(user, device))) {
            Reply::Opened(Opened { number, .. }) => number,
            other => panic!("expected a session, got {other:?}"),
        }
    }

    pub fn mark(&mut self, mark: Mark) -> MarkReply {
        match self.run(Command::Marks(vec![mark])) {
            Reply::Marks(replies) if replies.len() == 1 => replies[0],
            other => panic!("expected one answer, got {other:?}"),
        }
    }

    pub fn row(&self, user: &UserId, device: DeviceId, conv: &ConvId) -> Option<InboxRow> {
        match self.ask(Query::Row { user: user.clone(), device, conv: conv.clone() }) {
            Answer::Row(row) => row,
            other => panic!("expected a row, got {other:?}"),
        }
    }

    pub fn pending(&self, user: &UserId, device: DeviceId) -> Vec<InboxRow> {
        self.rows(Query::Pending { user: user.clone(), device, after: None, limit: 100 }).rows
    }

    pub fn rows(&self, query: Query) -> RowsPage {
        match self.ask(query) {
            Answer::Rows(page) => page,
            other => panic!("expected rows, got {other:?}"),
        }
    }

    /// A row as it is stored.
    pub fn get<T: Table>(&self, key: &T::Key) -> Option<T::Row> {
        let view = crate::table::View { read: &self.engine, prefix: PREFIX };
        crate::table::get::<T>(&view, key).expect("rows decode")
    }

    pub fn table_rows(&self, kind: u8) -> usize {
        let mut rows = 0;
        let view = crate::table::View { read: &self.engine, prefix: PREFIX };
        crate::table::scan_all(&view, &mut |key, _| {
            rows += usize::from(key[0] == kind);
            std::ops::ControlFlow::Continue(())
        })
        .expect("scans");
        rows
    }
}

pub fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a valid test name")
}

pub fn hash(n: u8) -> Hash32 {
    Hash32([n; 32])
}

pub fn login(user: &UserId, n: u8, refresh: u8) -> Login {
    Login {
        user: user.clone(),
        install: hash(n),
        device: DeviceId(u128::from(n)),
        name: format!("device {n}"),
        refresh: hash(refresh),
        create: false,
    }
}

/// From node 1, incarnation 1, instance = device, attempt 1.
pub fn open(user: &UserId, device: DeviceId) -> OpenSession {
    OpenSession {
        user: user.clone(),
        device,
        install: hash(device.0 as u8),
        node: NodeId(1),
        incarnation: Incarnation(1),
        instance: Instance(device.0),
        attempt: 1,
    }
}

pub fn group(n: u128) -> ConvId {
    ConvId::group(&user("founder"), Cid(n))
}

/// Every entry counts, so n = seq.
pub fn stay(from: u64, until: Option<u64>) -> Interval {
    Interval {
        from: Seq(from),
        n_before: Count(from - 1),
        until: until.map(Seq),
        n_until: Count(until.unwrap_or(0)),
        history_from: Seq(from),
    }
}

pub fn part(mseq: u64, intervals: &[Interval]) -> MembershipPart {
    MembershipPart { mseq: Seq(mseq), intervals: intervals.to_vec(), ..MembershipPart::default() }
}

pub fn news(conv: &ConvId, head: u64, user: &UserId, part: Option<MembershipPart>) -> Command {
    Command::Notify(vec![Notify {
        conv: conv.clone(),
        head: Seq(head),
        n_head: Count(head),
        last_id: MsgId(head),
        last_ts: TsMs(head),
        users: vec![NotifyUser { user: user.clone(), n_sent: Count(0), part }],
    }])
}

pub fn ack(user: &UserId, device: DeviceId, number: SessionNo, conv: &ConvId, seq: u64, head: u64) -> Mark {
    Mark {
        user: user.clone(),
        device,
        number,
        conv: conv.clone(),
        kind: MarkKind::Ack,
        seq: Seq(seq),
        n: Count(seq),
        head: Seq(head),
        n_head: Count(head),
    }
}
