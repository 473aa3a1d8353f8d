//! The message path through both sides: conversations on one shard, users on four, and between them pumps whose messages
//! are late, lost, repeated and reordered. What devices see is judged by the log itself (I3, I4, I5).

use std::collections::BTreeMap;

use flotilla_proto::entry::{HistoryAccess, What};
use flotilla_proto::ids::*;
use flotilla_proto::member::MembershipPart;
use proptest::prelude::*;

use crate::command::*;
use crate::conversation::tables::entry::Entries;
use crate::conversation::tables::member::{MemberRow, Members};
use crate::query::{Answer, DirtyItem, EntriesPage, InboxRow, Query};
use crate::reply::{MarkReply, Reply};
use crate::table::{self, Table};
use crate::testing::{Machine, log, scene};

/// Something on its way between two shards.
#[derive(Clone)]
enum Packet {
    Notify(ShardId, DirtyItem),
    ClearDirty(ShardId, ClearDirty),
    Receipt(ShardId, Receipt),
    ClearDue(ShardId, ClearReceipt),
    PeerMarks(ShardId, Receipt),
    ClearReceipt(ClearReceipt),
}

struct Device {
    user: UserId,
    id: DeviceId,
    /// Heads when it registered, by conversation: it is owed what was accepted later.
    since: BTreeMap<ConvId, Seq>,
    got: BTreeMap<ConvId, Vec<Seq>>,
}

struct World {
    shards: BTreeMap<ShardId, Machine>,
    net: Vec<Packet>,
    devices: Vec<Device>,
}

fn clear_of(receipt: &Receipt) -> ClearReceipt {
    let Receipt { user, conv, delivered, read } = receipt.clone();
    ClearReceipt { user, conv, delivered, read }
}

impl World {
    fn new() -> Self {
        let shards = (1..5).map(|n| (ShardId(n), Machine::with_slots(ShardId(n), &scene::slots()))).collect();
        let mut world = World { shards, net: vec![], devices: vec![] };
        for user in scene::users() {
            world.register(&user);
        }
        // One group that is always there.
        let (sender, cid) = scene::groups().remove(0);
        let what = What::Create { name: String::new(), members: scene::users(), history: HistoryAccess::FromJoin };
        let conv = ConvId::group(&sender, cid);
        let checked = scene::users();
        let create = Append { conv, sender, device: DeviceId(1), cid, age_ms: 0, after: None, checked, what };
        assert!(matches!(world.home().one(Command::Append(create)), Reply::Accepted(_)));
        world
    }

    fn home(&mut self) -> &mut Machine {
        self.shards.get_mut(&scene::HOME).expect("one of the four")
    }

    fn shard_of(&self, user: &UserId) -> ShardId {
        scene::slots().shard_of_user(user).expect("a whole table")
    }

    fn of(&mut self, user: &UserId) -> &mut Machine {
        let shard = self.shard_of(user);
        self.shards.get_mut(&shard).expect("one of the four")
    }

    fn register(&mut self, user: &UserId) {
        let id = DeviceId(1 + self.devices.len() as u128);
        if self.devices.iter().filter(|d| d.user == *user).count() >= 4 {
            return;
        }
        let since = self.log().into_iter().map(|(conv, entries)| (conv, Seq(entries.len() as u64))).collect();
        let login = Login {
            user: user.clone(),
            install: Hash32([id.0 as u8; 32]),
            device: id,
            name: String::new(),
            refresh: Hash32([id.0 as u8; 32]),
            create: true,
        };
        let reply = self.of(user).one(Command::Login(login));
        assert!(matches!(reply, Reply::LoggedIn { new: true, .. }), "{reply:?}");
        self.devices.push(Device { user: user.clone(), id, since, got: BTreeMap::new() });
    }

    /// Looks at the rows that say what is owed, and sends it.
    fn pump(&mut self) {
        for target in (1..5).map(ShardId) {
            let dirty = Query::Dirty { target, after: None, limit: 99, bytes_max: 9_000 };
            let Answer::Dirty { items, .. } = self.home().query(&dirty) else { panic!("dirty items") };
            self.net.extend(items.into_iter().map(|item| Packet::Notify(target, item)));
            let owed = Query::ReceiptsDirty { target, limit: 99 };
            let Answer::Receipts { items, .. } = self.home().query(&owed) else { panic!("receipts") };
            self.net.extend(items.into_iter().map(|item| Packet::PeerMarks(target, item)));
            let due = Query::ReceiptsDue { after: None, limit: 99 };
            let Answer::Receipts { items, .. } = self.shards[&target].query(&due) else { panic!("receipts") };
            self.net.extend(items.into_iter().map(|item| Packet::Receipt(target, item)));
        }
    }

    fn carry(&mut self, nth: usize, keep: bool) {
        let Some(at) = nth.checked_rem(self.net.len()) else { return };
        let packet = if keep { self.net[at].clone() } else { self.net.swap_remove(at) };
        let (shard, command, answer) = match packet {
            Packet::Notify(target, item) => {
                let clear = ClearDirty { conv: item.notify.conv.clone(), head: item.notify.head, parts: item.parts };
                (target, Command::Notify(vec![item.notify]), Some(Packet::ClearDirty(target, clear)))
            }
            Packet::ClearDirty(target, item) => (scene::HOME, Command::ClearDirty { target, items: vec![item] }, None),
            Packet::Receipt(from, item) => {
                let clear = Packet::ClearDue(from, clear_of(&item));
                (scene::HOME, Command::Receipts(vec![item]), Some(clear))
            }
            Packet::ClearDue(target, item) => (target, Command::ClearReceiptDue { items: vec![item] }, None),
            Packet::PeerMarks(target, item) => {
                let clear = Packet::ClearReceipt(clear_of(&item));
                (target, Command::PeerMarks(vec![item]), Some(clear))
            }
            Packet::ClearReceipt(item) => (scene::HOME, Command::ClearReceiptDirty { items: vec![item] }, None),
        };
        let reply = self.shards.get_mut(&shard).expect("one of the four").one(command);
        assert_eq!(reply, Reply::Done);
        self.net.extend(answer);
    }

    /// One device takes up to `most` pending entries of each conversation, stores and acks them. True if it got any.
    fn fetch(&mut self, nth: usize, most: usize, read: bool) -> bool {
        let nth = nth % self.devices.len();
        let (user, device) = (self.devices[nth].user.clone(), self.devices[nth].id);
        let pending = Query::Pending { user: user.clone(), device, after: None, limit: 99 };
        let Answer::Rows(page) = self.of(&user).query(&pending) else { panic!("rows") };
        let mut any = false;
        for row in page.rows {
            any |= self.fetch_row(nth, &user, device, &row, most, read);
        }
        any
    }

    fn fetch_row(
        &mut self,
        nth: usize,
        user: &UserId,
        device: DeviceId,
        row: &InboxRow,
        most: usize,
        read: bool,
    ) -> bool {
        let page = self.page(user, row);
        let due: Vec<_> = page.entries.iter().filter(|e| row.part.receives(e.seq)).take(most).collect();
        let Some(last) = due.last() else { return false };
        let got = self.devices[nth].got.entry(row.conv.clone()).or_default();
        for entry in &due {
            assert!(got.last().is_none_or(|seq| *seq < entry.seq), "I4: {user} gets {} behind {got:?}", entry.seq);
            got.push(entry.seq);
        }
        let kinds = if read { vec![MarkKind::Ack, MarkKind::Read] } else { vec![MarkKind::Ack] };
        for kind in kinds {
            let mark = Mark {
                user: user.clone(),
                device,
                number: Mark::SESSIONLESS,
                conv: row.conv.clone(),
                kind,
                seq: last.seq,
                n: last.n,
                head: page.head,
                n_head: page.n_head,
            };
            assert_eq!(self.of(user).one(Command::Marks(vec![mark])), Reply::Marks(vec![MarkReply::Done]));
        }
        true
    }

    fn page(&mut self, user: &UserId, row: &InboxRow) -> EntriesPage {
        let query = Query::Entries {
            conv: row.conv.clone(),
            user: user.clone(),
            from: row.cursor.next(),
            to: row.part.effective_head(row.head),
            newest_first: false,
            limit: 99,
            bytes_max: 100_000,
        };
        match self.home().query(&query) {
            Answer::Entries(page) => page,
            other => panic!("a row in the inbox of {user} without the log's own membership: {other:?}"),
        }
    }

    /// Nothing is lost any more, and everybody keeps looking.
    fn heal(&mut self) {
        for _ in 0..200 {
            self.net.clear();
            self.pump();
            let mut busy = !self.net.is_empty();
            while !self.net.is_empty() {
                self.carry(0, false);
            }
            for nth in 0..self.devices.len() {
                busy |= self.fetch(nth, 9, false);
            }
            if !busy {
                return;
            }
        }
        panic!("the shards never come to rest");
    }

    fn log(&mut self) -> BTreeMap<ConvId, Vec<Seq>> {
        let (rows, _) =
            table::page::<Entries>(&self.home().view(), &[Entries::KIND], &table::end_of(&[Entries::KIND]), usize::MAX)
                .expect("reads");
        let mut log: BTreeMap<ConvId, Vec<Seq>> = BTreeMap::new();
        for ((conv, seq), _) in rows {
            log.entry(conv).or_default().push(seq);
        }
        log
    }

    fn members(&mut self) -> BTreeMap<(ConvId, UserId), MemberRow> {
        let from = [Members::KIND];
        let (rows, _) =
            table::page::<Members>(&self.home().view(), &from, &table::end_of(&from), 9_999).expect("reads");
        rows.into_iter().collect()
    }

    /// At rest: every device holds, in order, all that its user is owed and nothing else; watermarks have arrived.
    fn check(&mut self) {
        let (log, members) = (self.log(), self.members());
        for device in &self.devices {
            for (conv, entries) in &log {
                let part = members.get(&(conv.clone(), device.user.clone())).map(|row| row.part.clone());
                let part = part.unwrap_or_default();
                check_device(device, conv, entries, &part);
            }
        }
        for ((conv, user), row) in members.iter().filter(|(_, row)| row.is_member()) {
            let head = log[conv].last().copied().unwrap_or_default();
            let device = self.devices.iter().find(|d| d.user == *user).expect("everybody has one").id;
            let query = Query::Row { user: user.clone(), device, conv: conv.clone() };
            let Answer::Row(Some(held)) = self.of(user).query(&query) else { panic!("{user} has no row of {conv}") };
            assert_eq!((&held.part, held.head, held.cursor), (&row.part, head, head));
            assert_eq!((held.n_sent, held.delivered), (row.n_sent, row.delivered));
            if let Some(peer) = conv.peer_of(user).filter(|peer| peer != user) {
                let theirs = &members[&(conv.clone(), peer)];
                assert_eq!((held.peer_delivered, held.peer_read), (theirs.delivered, theirs.read));
            }
        }
    }
}

fn check_device(device: &Device, conv: &ConvId, entries: &[Seq], part: &MembershipPart) {
    let none = vec![];
    let got = device.got.get(conv).unwrap_or(&none);
    let owed: Vec<Seq> = entries.iter().copied().filter(|seq| part.receives(*seq)).collect();
    let since = device.since.get(conv).copied().unwrap_or_default();
    let must: Vec<Seq> = owed.iter().copied().filter(|seq| *seq > since).collect();
    let who = format!("device {:?} of {} in {conv}", device.id, device.user);
    assert!(owed.ends_with(got), "{who} got {got:?} of {owed:?}");
    assert!(got.ends_with(&must), "I3: {who} got {got:?}, and must have {must:?}");
}

#[derive(Debug, Clone)]
enum Event {
    Apply(Box<Command>),
    Register(UserId),
    Pump,
    Carry { nth: usize, keep: bool },
    Lose { nth: usize },
    Fetch { nth: usize, most: usize, read: bool },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => log::append().prop_map(|command| Event::Apply(Box::new(command))),
        1 => log::user().prop_map(Event::Register),
        3 => Just(Event::Pump),
        12 => (any::<usize>(), any::<bool>()).prop_map(|(nth, keep)| Event::Carry { nth, keep }),
        3 => any::<usize>().prop_map(|nth| Event::Lose { nth }),
        5 => (any::<usize>(), 1usize..4, any::<bool>()).prop_map(|(nth, most, read)| Event::Fetch { nth, most, read }),
    ]
}

proptest! {
    #![proptest_config(log::few_cases())]

    #[test]
    fn what_was_accepted_reaches_every_device_in_order_whatever_the_pumps_suffer(
        events in prop::collection::vec(event(), 1..120)
    ) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Apply(command) => {
                    world.home().one(*command);
                }
                Event::Register(user) => world.register(&user),
                Event::Pump => world.pump(),
                Event::Carry { nth, keep } => world.carry(nth, keep && world.net.len() < 200),
                Event::Lose { nth } => {
                    if let Some(at) = nth.checked_rem(world.net.len()) {
                        world.net.swap_remove(at);
                    }
                }
                Event::Fetch { nth, most, read } => {
                    world.fetch(nth, most, read);
                }
            }
        }
        world.heal();
        world.check();
    }
}
