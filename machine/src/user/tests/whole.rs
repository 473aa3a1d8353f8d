//! Both halves together: two shards that each hold conversations and users, and the pumps between them, which lose, repeat
//! and delay. From `Append` to the last device's ack, and from there back to the sender's watermarks.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::entry::{HistoryAccess, What};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::kit::{hash, user};
use crate::command::*;
use crate::query::{Answer, EntriesPage, InboxRow, Query, Standing};
use crate::reply::{Accepted, MarkReply, Opened, Reply};
use crate::testing::{Machine, arb};
use crate::user::split_notify;

const NAMES: [&str; 3] = ["ann", "bob", "cyd"];
const SHARDS: [ShardId; 2] = [ShardId(1), ShardId(2)];

#[derive(Debug, Clone)]
enum Step {
    Append {
        actor: usize,
        conv: Index,
        what: What,
    },
    /// One round of a pump; `twice` repeats the news after the clear, `lost` loses the clear.
    Pump {
        from: usize,
        to: usize,
        twice: bool,
        lost: bool,
    },
    PumpReceipts,
    Register {
        owner: usize,
    },
    /// Half a step of a registration: heads are read, or the device takes its places at those that were.
    Place {
        device: Index,
    },
    Fetch {
        device: Index,
        entries: usize,
        newer_head: bool,
        ack: bool,
    },
    Read {
        device: Index,
        conv: Index,
    },
}

fn what() -> impl Strategy<Value = What> {
    let name = || select(NAMES.to_vec()).prop_map(user);
    prop_oneof![
        8 => Just(arb::message("hello")),
        2 => name().prop_map(|user| What::Add { users: vec![user] }),
        1 => name().prop_map(|user| What::Remove { user }),
        1 => Just(What::Leave { heir: None }),
        1 => Just(What::Rename { name: "new".into() }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let index = || any::<Index>();
    prop_oneof![
        8 => (0..3usize, index(), what()).prop_map(|(actor, conv, what)| Step::Append { actor, conv, what }),
        6 => (0..2usize, 0..2usize, any::<bool>(), any::<bool>())
            .prop_map(|(from, to, twice, lost)| Step::Pump { from, to, twice, lost }),
        2 => Just(Step::PumpReceipts),
        1 => (0..3usize).prop_map(|owner| Step::Register { owner }),
        2 => index().prop_map(|device| Step::Place { device }),
        6 => (index(), 1..5usize, any::<bool>(), any::<bool>())
            .prop_map(|(device, entries, newer_head, ack)| Step::Fetch { device, entries, newer_head, ack }),
        2 => (index(), index()).prop_map(|(device, conv)| Step::Read { device, conv }),
    ]
}

struct Device {
    user: UserId,
    id: DeviceId,
    number: SessionNo,
    /// How many entries had been accepted when it was registered, its places in pull mode included.
    registered_at: Option<usize>,
    /// Heads that were read for it.
    places: Option<Vec<PulledHead>>,
    received: BTreeSet<(ConvId, Seq)>,
}

struct World {
    slots: SlotTable,
    machines: Vec<Machine>,
    devices: Vec<Device>,
    accepted: Vec<(ConvId, Seq)>,
    convs: Vec<ConvId>,
    cids: u128,
}

impl World {
    /// With or without pull mode: groups of three are in it, and a channel.
    fn new(pull: bool) -> Self {
        let slots = SlotTable::even(2);
        let mut machines: Vec<Machine> = SHARDS.iter().map(|shard| Machine::with_slots(*shard, &slots)).collect();
        for machine in machines.iter_mut().filter(|_| pull) {
            let settings = Settings { version: 9, feature_level: limits::PULL_LEVEL, ..Settings::default() };
            assert_eq!(machine.one(Command::SetSettings(settings)), Reply::Done);
            let rule = PullRule { version: 1, above: 2, below: 2 };
            assert_eq!(machine.one(Command::SetPullRule(rule)), Reply::Done);
        }
        let mut convs = vec![
            ConvId::group(&user("ann"), Cid(1)),
            ConvId::group(&user("bob"), Cid(2)),
            ConvId::direct(&user("ann"), &user("bob")),
            ConvId::direct(&user("cyd"), &user("cyd")),
        ];
        if pull {
            convs.push(ConvId::channel(&user("ann"), Cid(3)));
        }
        let mut world = Self { slots, machines, devices: Vec::new(), accepted: Vec::new(), convs, cids: 100 };
        for (owner, name) in NAMES.iter().enumerate() {
            let c = Register { user: user(name), phc: String::new(), request: Cid(1) };
            assert_eq!(world.of_user(&c.user.clone()).one(Command::Register(c)), Reply::Done);
            world.register(owner);
        }
        for (actor, cid, others) in [(0, 1, vec!["bob"]), (1, 2, vec!["ann", "cyd"]), (0, 3, vec!["bob"])] {
            let members = others.into_iter().map(user).collect();
            let what = What::Create { name: "team".into(), members, history: HistoryAccess::FromJoin };
            let at = if cid == 3 { 4 } else { cid as usize - 1 };
            let Some(conv) = world.convs.get(at).cloned() else { continue };
            world.append(actor, &conv, Cid(cid), what);
        }
        world
    }

    fn at(&mut self, shard: Option<ShardId>) -> &mut Machine {
        let shard = shard.expect("the table is whole");
        &mut self.machines[usize::from(shard.0) - 1]
    }

    fn of_user(&mut self, user: &UserId) -> &mut Machine {
        let shard = self.slots.shard_of_user(user);
        self.at(shard)
    }

    fn of_conv(&mut self, conv: &ConvId) -> &mut Machine {
        let shard = self.slots.shard_of_conversation(conv);
        self.at(shard)
    }

    fn register(&mut self, owner: usize) {
        let (user, n) = (user(NAMES[owner]), self.devices.len() as u8 + 1);
        let id = DeviceId(n.into());
        let login = Login {
            user: user.clone(),
            install: hash(n),
            device: id,
            name: String::new(),
            refresh: hash(n),
            create: false,
        };
        if !matches!(self.of_user(&user).one(Command::Login(login)), Reply::LoggedIn { .. }) {
            return;
        }
        let open = super::kit::open(&user, id);
        let Reply::Opened(Opened { number, .. }) = self.of_user(&user).one(Command::OpenSession(open)) else {
            panic!("a fresh device opens")
        };
        let received = BTreeSet::new();
        self.devices.push(Device { user, id, number, registered_at: None, places: None, received });
        let last = self.devices.len() - 1;
        if self.unplaced(last).is_empty() {
            self.devices[last].registered_at = Some(self.accepted.len());
        }
    }

    fn unplaced(&mut self, device: usize) -> Vec<ConvId> {
        let (user, device) = (self.devices[device].user.clone(), self.devices[device].id);
        match self.of_user(&user).query(&Query::Unplaced { user: user.clone(), device, limit: 100 }) {
            Answer::Rows(page) => page.rows.into_iter().map(|row| row.conv).collect(),
            other => panic!("expected rows, got {other:?}"),
        }
    }

    fn standing(&mut self, conv: &ConvId, user: &UserId) -> Standing {
        match self.of_conv(conv).query(&Query::Standing { conv: conv.clone(), users: vec![user.clone()] }) {
            Answer::Standing(standing) => standing,
            other => panic!("expected a standing, got {other:?}"),
        }
    }

    /// As a gateway does before a device's first `ready`.
    fn place(&mut self, device: usize) {
        let Device { user, id, registered_at, places, .. } = &mut self.devices[device];
        if registered_at.is_some() {
            return;
        }
        let (user, id) = (user.clone(), *id);
        if let Some(places) = places.take() {
            let command = Command::PlaceDevice { user: user.clone(), device: id, places };
            assert_eq!(self.of_user(&user).one(command), Reply::Done);
        }
        let unplaced = self.unplaced(device);
        if unplaced.is_empty() {
            self.devices[device].registered_at = Some(self.accepted.len());
            return;
        }
        let places = unplaced.into_iter().map(|conv| {
            let Standing { head, n_head, .. } = self.standing(&conv, &user);
            PulledHead { conv, head, n_head }
        });
        self.devices[device].places = Some(places.collect());
    }

    /// As the subscription's answer has it.
    fn stand(&mut self, user: &UserId, row: &mut InboxRow) {
        if row.part.is_pulled() {
            let standing = self.standing(&row.conv, user);
            let own = standing.users[0].clone().expect("a row of a member of once");
            row.merge_standing(&standing, &own);
        }
    }

    fn append(&mut self, actor: usize, conv: &ConvId, cid: Cid, what: What) {
        let append = Append {
            conv: conv.clone(),
            sender: user(NAMES[actor]),
            device: DeviceId(1),
            cid,
            age_ms: 0,
            after: None,
            checked: NAMES.map(user).to_vec(),
            what,
        };
        if let Reply::Accepted(Accepted { conv, seq, dup: false, .. }) = self.of_conv(conv).one(Command::Append(append))
        {
            self.accepted.push((conv, seq));
        }
    }

    /// Dirty rows of one target: news there, then the clear here. Answers whether there was anything.
    fn pump(&mut self, from: usize, to: usize, twice: bool, lost: bool) -> bool {
        let query = Query::Dirty { target: SHARDS[to], after: None, limit: 10, bytes_max: 1 << 16 };
        let Answer::Dirty { items, .. } = self.machines[from].query(&query) else { panic!("expected dirty rows") };
        let clears = items.iter().map(|item| ClearDirty {
            conv: item.notify.conv.clone(),
            head: item.notify.head,
            parts: item.parts,
        });
        let clears: Vec<_> = clears.collect();
        let news: Vec<Notify> = items.into_iter().map(|item| item.notify).collect();
        let tell = |machine: &mut Machine| {
            for command in split_notify(news.clone()) {
                assert_eq!(machine.one(Command::Notify(command)), Reply::Done);
            }
        };
        tell(&mut self.machines[to]);
        let any = !clears.is_empty();
        if !lost {
            let clear = Command::ClearDirty { target: SHARDS[to], items: clears };
            assert_eq!(self.machines[from].one(clear), Reply::Done);
        }
        if twice {
            tell(&mut self.machines[to]);
        }
        any
    }

    /// Both ways of receipts, once round. Answers whether there was anything.
    fn pump_receipts(&mut self) -> bool {
        let clear = |r: &Receipt| ClearReceipt {
            user: r.user.clone(),
            conv: r.conv.clone(),
            delivered: r.delivered,
            read: r.read,
        };
        let mut any = false;
        for from in 0..2 {
            let Answer::Receipts { items, .. } =
                self.machines[from].query(&Query::ReceiptsDue { after: None, limit: 10 })
            else {
                panic!("expected receipts")
            };
            any |= !items.is_empty();
            for item in &items {
                assert_eq!(self.of_conv(&item.conv).one(Command::Receipts(vec![item.clone()])), Reply::Done);
            }
            let items = items.iter().map(clear).collect();
            self.machines[from].one(Command::ClearReceiptDue { items });
            for (to, target) in SHARDS.into_iter().enumerate() {
                let query = Query::ReceiptsDirty { target, limit: 10 };
                let Answer::Receipts { items, .. } = self.machines[from].query(&query) else {
                    panic!("expected receipts")
                };
                any |= !items.is_empty();
                assert_eq!(self.machines[to].one(Command::PeerMarks(items.clone())), Reply::Done);
                let items = items.iter().map(clear).collect();
                assert_eq!(self.machines[from].one(Command::ClearReceiptDirty { items }), Reply::Done);
            }
        }
        any
    }

    fn row(&mut self, device: usize, conv: &ConvId) -> Option<InboxRow> {
        let (user, device) = (self.devices[device].user.clone(), self.devices[device].id);
        let mut row = match self.of_user(&user).query(&Query::Row { user: user.clone(), device, conv: conv.clone() }) {
            Answer::Row(row) => row,
            other => panic!("expected a row, got {other:?}"),
        };
        if let Some(row) = &mut row {
            self.stand(&user, row);
        }
        row
    }

    fn pending(&mut self, device: usize) -> Vec<InboxRow> {
        let (user, device) = (self.devices[device].user.clone(), self.devices[device].id);
        let query = Query::Pending { user: user.clone(), device, after: None, limit: 100 };
        let mut rows = match self.of_user(&user).query(&query) {
            Answer::Rows(page) => page.rows,
            other => panic!("expected rows, got {other:?}"),
        };
        rows.iter_mut().for_each(|row| self.stand(&user, row));
        rows.retain(|row| row.part.pending(row.cursor, row.head));
        rows
    }

    fn log(&mut self, user: &UserId, conv: &ConvId, from: Seq, to: Seq) -> Option<EntriesPage> {
        let query = Query::Entries {
            conv: conv.clone(),
            user: user.clone(),
            from,
            to,
            newest_first: false,
            limit: 200,
            bytes_max: 1 << 18,
        };
        match self.of_conv(conv).query(&query) {
            Answer::Entries(page) => Some(page),
            Answer::NotFound | Answer::NotMember => None,
            other => panic!("expected entries, got {other:?}"),
        }
    }

    /// As a gateway: fills (cursor, head] from the log, hands it over in order, and passes the ack on.
    fn fetch(&mut self, device: usize, entries: usize, newer_head: bool, ack: bool) {
        if self.devices[device].registered_at.is_none() {
            return;
        }
        let user = self.devices[device].user.clone();
        for conv in self.convs.clone() {
            let Some(row) = self.row(device, &conv) else { continue };
            let top = if newer_head { Seq(u64::MAX) } else { row.part.effective_head(row.head) };
            let Some(page) = self.log(&user, &conv, row.cursor.next(), top) else { continue };
            let handed: Vec<_> =
                page.entries.iter().filter(|e| page.part.receives(e.seq)).take(entries).cloned().collect();
            self.devices[device].received.extend(handed.iter().map(|e| (conv.clone(), e.seq)));
            let Some(last) = handed.last().filter(|_| ack) else { continue };
            // The page's head is the log's own, for members and leavers alike.
            let (head, n_head) = if newer_head { (page.head, page.n_head) } else { (row.head, row.n_head) };
            let reply = self.mark(device, &conv, MarkKind::Ack, (last.seq, last.n), (head, n_head));
            assert!(reply == MarkReply::Done || newer_head, "an ack within the row was answered {reply:?}");
        }
    }

    fn mark(
        &mut self,
        device: usize,
        conv: &ConvId,
        kind: MarkKind,
        (seq, n): (Seq, Count),
        (head, n_head): (Seq, Count),
    ) -> MarkReply {
        let Device { user, id, number, .. } = &self.devices[device];
        let (user, device, number) = (user.clone(), *id, *number);
        let mark = Mark { user: user.clone(), device, number, conv: conv.clone(), kind, seq, n, head, n_head };
        match self.of_user(&user).one(Command::Marks(vec![mark])) {
            Reply::Marks(replies) => replies[0],
            other => panic!("expected answers, got {other:?}"),
        }
    }

    fn read(&mut self, device: usize, conv: &ConvId) {
        if self.devices[device].registered_at.is_none() {
            return;
        }
        let Some(row) = self.row(device, conv) else { return };
        let user = self.devices[device].user.clone();
        let at = row.part.effective_head(row.head);
        let Some(page) = self.log(&user, conv, at, at) else { return };
        let Some(entry) = page.entries.last() else { return };
        let reply = self.mark(device, conv, MarkKind::Read, (entry.seq, entry.n), (row.head, row.n_head));
        assert_eq!(reply, MarkReply::Done);
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append { actor, conv, what } => {
                self.cids += 1;
                let conv = conv.get(&self.convs).clone();
                self.append(*actor, &conv, Cid(self.cids), what.clone());
            }
            Step::Pump { from, to, twice, lost } => {
                self.pump(*from, *to, *twice, *lost);
            }
            Step::PumpReceipts => {
                self.pump_receipts();
            }
            Step::Register { owner } => self.register(*owner),
            Step::Place { device } => self.place(device.index(self.devices.len())),
            Step::Fetch { device, entries, newer_head, ack } => {
                let device = device.index(self.devices.len());
                self.fetch(device, *entries, *newer_head, *ack);
            }
            Step::Read { device, conv } => {
                let conv = conv.get(&self.convs).clone();
                self.read(device.index(self.devices.len()), &conv);
            }
        }
    }

    fn settle(&mut self) {
        for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut rounds = 0;
            while self.pump(from, to, false, false) {
                rounds += 1;
                assert!(rounds < 50, "a target's dirty rows are never done with");
            }
        }
        for device in 0..self.devices.len() {
            let mut rounds = 0;
            while self.devices[device].registered_at.is_none() {
                self.place(device);
                rounds += 1;
                assert!(rounds < 10, "device {device} is never registered");
            }
            rounds = 0;
            while !self.pending(device).is_empty() {
                self.fetch(device, 3, false, true);
                rounds += 1;
                assert!(rounds < 100, "device {device} never gets to the end");
            }
        }
        let mut rounds = 0;
        while self.pump_receipts() {
            rounds += 1;
            assert!(rounds < 50, "receipts are never done with");
        }
    }

    fn check(&mut self) {
        let mut watermarks = BTreeMap::new();
        for device in 0..self.devices.len() {
            let user = self.devices[device].user.clone();
            for conv in self.convs.clone() {
                let Some(page) = self.log(&user, &conv, Seq(1), Seq(u64::MAX)) else { continue };
                let row = self.row(device, &conv).expect("a member has a row");
                assert_eq!(row.part, page.part, "{user} in {conv}");
                assert_eq!(row.part.effective_head(row.head), page.part.effective_head(page.head));
                let registered = self.devices[device].registered_at.expect("all are, once settled");
                let owed = self.accepted[registered..].iter().filter(|(c, s)| *c == conv && page.part.receives(*s));
                let missing: Vec<_> = owed.filter(|e| !self.devices[device].received.contains(e)).collect();
                assert!(missing.is_empty(), "device {device} of {user} never got {missing:?}");
                watermarks.insert((user.clone(), conv.clone()), row.clone());
                check_unread(&user, &row, &page);
            }
        }
        self.check_peers(&watermarks);
    }

    /// In a direct conversation, what one reads is what the other is shown.
    fn check_peers(&self, rows: &BTreeMap<(UserId, ConvId), InboxRow>) {
        for ((user, conv), row) in rows {
            let Some(peer) = conv.peer_of(user).filter(|peer| peer != user) else { continue };
            let Some(other) = rows.get(&(peer, conv.clone())) else { continue };
            assert_eq!((row.peer_delivered, row.peer_read), (other.delivered, other.read), "{user} in {conv}");
        }
    }
}

/// Messages inside the stays above what was read or sent, counted one by one. What was written before the first stay is
/// not on the page, nor can it count.
fn check_unread(user: &UserId, row: &InboxRow, page: &EntriesPage) {
    let messages = || page.entries.iter().filter(|e| e.kind == "message");
    let sent = messages().filter(|e| e.from == *user).map(|e| e.n).max().unwrap_or_default();
    assert_eq!(row.n_sent, sent);
    let counts = messages().filter(|e| page.part.receives(e.seq) && e.n > row.n_read.max(sent));
    assert_eq!(row.part.unread(row.n_head, row.n_read, row.n_sent), counts.count() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn what_is_accepted_reaches_every_device_and_its_receipts_come_back(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(false);
        for step in &steps {
            world.run(step);
        }
        world.settle();
        world.check();
    }

    #[test]
    fn so_it_does_in_pull_mode_and_across_its_switches(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new(true);
        for step in &steps {
            world.run(step);
        }
        world.settle();
        world.check();
    }
}
