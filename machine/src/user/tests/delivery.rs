//! I4 and I5 against a model: whatever is lost, repeated or reordered on the way, every device is handed every entry that
//! was accepted after it registered while its user was a member, in order, and only its own ack takes one away.
//!
//! The model holds the conversation's true log. News are written down when they are made, and delivered in any order, any
//! number of times; devices come and go; gateways may know newer heads than the shard.

use std::collections::BTreeSet;

use flotilla_proto::ids::*;
use flotilla_proto::member::{Interval, MembershipPart};
use proptest::prelude::*;

use super::kit::*;
use crate::command::*;
use crate::query::InboxRow;
use crate::reply::MarkReply;

#[derive(Debug, Clone)]
enum Step {
    /// Somebody else writes.
    Message,
    /// The user writes.
    Own,
    JoinOrLeave,
    /// The conversation makes news of its present state.
    MakeNews,
    /// Some news arrive.
    Deliver(prop::sample::Index),
    Register,
    /// A device looks, is handed up to `entries` entries, and acks (or not).
    Fetch {
        device: prop::sample::Index,
        entries: usize,
        newer_head: bool,
        ack: bool,
    },
    Read {
        device: prop::sample::Index,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let index = || any::<prop::sample::Index>();
    prop_oneof![
        4 => Just(Step::Message),
        1 => Just(Step::Own),
        2 => Just(Step::JoinOrLeave),
        4 => Just(Step::MakeNews),
        4 => index().prop_map(Step::Deliver),
        1 => Just(Step::Register),
        5 => (index(), 0usize..5, any::<bool>(), any::<bool>())
            .prop_map(|(device, entries, newer_head, ack)| Step::Fetch { device, entries, newer_head, ack }),
        1 => index().prop_map(|device| Step::Read { device }),
    ]
}

struct Device {
    id: DeviceId,
    number: SessionNo,
    /// The true head when it registered.
    registered_at: u64,
    received: BTreeSet<u64>,
    /// The highest seq that it has acked; 0 if none.
    acked: u64,
}

struct World {
    shard: Shard,
    user: UserId,
    conv: ConvId,
    devices: Vec<Device>,
    /// The true log: is the entry at seq (index + 1) countable?
    log: Vec<bool>,
    part: MembershipPart,
    n_sent: u64,
    n_read: u64,
    news: Vec<Command>,
    /// The parts that the shard has confirmed.
    confirmed: Seq,
}

impl World {
    fn new() -> Self {
        let mut shard = Shard::new();
        let user = shard.user("ann");
        let mut world = Self {
            shard,
            user,
            conv: group(1),
            devices: Vec::new(),
            log: Vec::new(),
            part: MembershipPart::default(),
            n_sent: 0,
            n_read: 0,
            news: Vec::new(),
            confirmed: Seq(0),
        };
        world.register();
        world
    }

    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    /// Countable entries up to `seq`.
    fn n(&self, seq: u64) -> u64 {
        self.log.iter().take(seq as usize).filter(|countable| **countable).count() as u64
    }

    fn register(&mut self) {
        let n = self.devices.len() as u8 + 1;
        if usize::from(n) > flotilla_proto::limits::DEVICES_PER_USER_MAX {
            return;
        }
        let id = self.shard.device(&self.user, n);
        let number = self.shard.open(&self.user, id);
        let registered_at = self.head();
        self.devices.push(Device { id, number, registered_at, received: BTreeSet::new(), acked: 0 });
    }

    fn join_or_leave(&mut self) {
        self.log.push(false);
        let (at, n) = (Seq(self.head()), Count(self.n(self.head())));
        if self.part.is_member() {
            let last = self.part.intervals.last_mut().expect("a member has a stay");
            (last.until, last.n_until) = (Some(at), n);
        } else {
            let stay = Interval { from: at, n_before: n, until: None, n_until: Count(0), history_from: at };
            self.part.intervals.push(stay);
        }
        self.part.mseq = at;
    }

    fn make_news(&mut self) {
        if self.log.is_empty() {
            return;
        }
        let owed = self.part.mseq > self.confirmed;
        let head = self.head();
        let user =
            NotifyUser { user: self.user.clone(), n_sent: Count(self.n_sent), part: owed.then(|| self.part.clone()) };
        self.news.push(Command::Notify(vec![Notify {
            conv: self.conv.clone(),
            head: Seq(head),
            n_head: Count(self.n(head)),
            last_id: MsgId(head),
            last_ts: TsMs(head / 2),
            users: vec![user],
        }]));
    }

    fn deliver(&mut self, news: Command) {
        if let Command::Notify(items) = &news
            && let Some(part) = &items[0].users[0].part
        {
            self.confirmed = self.confirmed.max(part.mseq);
        }
        self.shard.done(news);
    }

    fn row(&self, device: usize) -> Option<InboxRow> {
        self.shard.row(&self.user, self.devices[device].id, &self.conv)
    }

    /// What is pending for each device and truly meant for the user.
    fn pending(&self) -> Vec<BTreeSet<u64>> {
        let meant = |row: InboxRow| {
            let top = row.part.effective_head(row.head).0;
            let seqs = row.cursor.0 + 1..=top;
            seqs.filter(|s| row.part.receives(Seq(*s)) && self.part.receives(Seq(*s))).collect()
        };
        (0..self.devices.len()).map(|d| self.row(d).map(meant).unwrap_or_default()).collect()
    }

    /// As a gateway does it: from the device's place on, what the log says is the user's, in order.
    fn fetch(&mut self, device: usize, entries: usize, newer_head: bool, ack_it: bool) {
        let Some(row) = self.row(device) else { return };
        let top = if newer_head { self.head() } else { row.part.effective_head(row.head).0 };
        let meant = (row.cursor.0 + 1..=top).filter(|s| self.part.receives(Seq(*s)));
        let handed: Vec<u64> = meant.take(entries).collect();
        self.devices[device].received.extend(&handed);
        let Some(last) = handed.last().copied().filter(|_| ack_it) else { return };
        let owed_below = self.owed(device).into_iter().filter(|s| *s <= last);
        let skipped: Vec<u64> = owed_below.filter(|s| !self.devices[device].received.contains(s)).collect();
        assert!(skipped.is_empty(), "acked {last} without {skipped:?}");
        let known = if newer_head { self.head() } else { row.head.0 };
        let mark = Mark {
            n: Count(self.n(last)),
            n_head: Count(self.n(known)),
            ..ack(&self.user, self.devices[device].id, self.devices[device].number, &self.conv, last, known)
        };
        match self.shard.mark(mark) {
            MarkReply::Done => self.devices[device].acked = self.devices[device].acked.max(last),
            MarkReply::Ahead => assert!(newer_head, "an ack within the row's own head is never ahead"),
            other => panic!("a live session's ack was answered {other:?}"),
        }
    }

    fn read(&mut self, device: usize) {
        let Some(row) = self.row(device) else { return };
        let seq = row.part.effective_head(row.head).0;
        let n = self.n(seq);
        let mark = Mark {
            kind: MarkKind::Read,
            n: Count(n),
            n_head: row.n_head,
            ..ack(&self.user, self.devices[device].id, self.devices[device].number, &self.conv, seq, row.head.0)
        };
        assert_eq!(self.shard.mark(mark), MarkReply::Done);
        self.n_read = self.n_read.max(n);
    }

    /// Entries accepted after the device registered, at seqs where its user was a member.
    fn owed(&self, device: usize) -> BTreeSet<u64> {
        (self.devices[device].registered_at + 1..=self.head()).filter(|s| self.part.receives(Seq(*s))).collect()
    }

    fn run(&mut self, step: &Step) {
        let before = (self.row(0).map(|row| row.part.mseq), self.pending());
        let mut acking = None;
        match step {
            Step::Message => self.log.push(true),
            Step::Own if self.part.is_member() => {
                self.log.push(true);
                self.n_sent = self.n(self.head());
            }
            Step::Own => {}
            Step::JoinOrLeave => self.join_or_leave(),
            Step::MakeNews => self.make_news(),
            Step::Deliver(_) if self.news.is_empty() => {}
            Step::Deliver(index) => {
                let news = index.get(&self.news).clone();
                self.deliver(news);
            }
            Step::Register => self.register(),
            Step::Fetch { device, entries, newer_head, ack } => {
                let device = device.index(self.devices.len());
                acking = Some(device);
                self.fetch(device, *entries, *newer_head, *ack);
            }
            Step::Read { device } => self.read(device.index(self.devices.len())),
        }
        self.check(&before, acking, step);
    }

    /// A part that came late may hide for a while what a later part shows again: what counts then is the end.
    fn check(&self, (mseq, before): &(Option<Seq>, Vec<BTreeSet<u64>>), acking: Option<usize>, step: &Step) {
        if *mseq != self.row(0).map(|row| row.part.mseq) {
            return;
        }
        for (device, (before, now)) in before.iter().zip(self.pending()).enumerate() {
            let acked = if acking == Some(device) { self.devices[device].acked } else { 0 };
            let gone: Vec<_> = before.difference(&now).filter(|s| **s > acked).collect();
            assert!(gone.is_empty(), "{step:?} took {gone:?} from device {device} without its ack");
            if let Some(row) = self.row(device)
                && self.devices[device].acked > 0
            {
                assert!(row.cursor.0 >= self.devices[device].acked, "a cursor went back");
            }
        }
    }

    /// Faults heal: the newest news arrive, and every device drains.
    fn heal(&mut self) {
        self.make_news();
        for news in self.news.clone() {
            self.deliver(news);
        }
        for device in 0..self.devices.len() {
            let acked = self.devices[device].acked;
            let unacked: BTreeSet<u64> = self.owed(device).into_iter().filter(|s| *s > acked).collect();
            let pending = &self.pending()[device];
            assert!(unacked.is_subset(pending), "{unacked:?} is owed to device {device}, {pending:?} is pending");
            while !self.pending()[device].is_empty() {
                self.fetch(device, 3, false, true);
            }
            let missing: Vec<_> = self.owed(device).difference(&self.devices[device].received).copied().collect();
            assert!(missing.is_empty(), "device {device} never got {missing:?}");
        }
    }

    fn check_unread(&self) {
        let Some(row) = self.row(0) else { return };
        let seen = self.n_read.max(self.n_sent);
        let counts = |seq: &u64| self.log[*seq as usize - 1] && self.part.receives(Seq(*seq)) && self.n(*seq) > seen;
        let expected = (1..=self.head()).filter(counts).count() as u64;
        assert_eq!(row.part.unread(row.n_head, row.n_read, row.n_sent), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn no_device_misses_an_entry_and_only_its_own_ack_takes_one_away(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.heal();
        world.check_unread();
    }
}
