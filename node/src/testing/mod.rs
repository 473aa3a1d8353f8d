//! A backend in memory for tests of the client-facing half: the real chat rules on one shard, fan-out done at once.
//!
//! What it leaves out is what the cluster half is for: other nodes, leaders, lost and late pushes, unless a test asks.

pub mod client;
pub mod noise;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_machine::command::{ClearDirty, ClearReceipt, Settings};
use flotilla_machine::query::Standing;
use flotilla_machine::testing::Machine;
use flotilla_machine::{Answer, Command, Effect, Query, Rejection, Reply, Stamp};
use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::auth::wrap;
use crate::backend::*;
use crate::cluster::receipt_watches;
use crate::cluster::watchers::{Seen, Watches};
use crate::cluster::wire::Subscription;
use crate::queue;

const SHARD: ShardId = ShardId(1);

struct Attached {
    session: Attach,
    number: Option<SessionNo>,
    pushes: queue::Sender<Box<Push>>,
}

/// Of a future, without one.
pub fn bytes_of<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
    size_of::<F>()
}

pub type Picks = Box<dyn Fn(&Query) -> bool + Send>;

#[derive(Default)]
pub struct Faults {
    /// Answers of the next commands instead of doing them.
    pub execute: VecDeque<CallError>,
    /// The answer to one entry instead of doing it, once, whatever is under way beside it.
    pub refuse: Option<(Cid, CallError)>,
    /// Answers of commands that are done all the same.
    pub lost_replies: VecDeque<CallError>,
    /// Log reads fail.
    pub logs_down: bool,
    /// Queries that fail at once, and with what; by default as without a leader.
    pub refuses: Option<Picks>,
    pub refuses_with: Option<CallError>,
    /// Queries that are answered as by a shard without a leader: when their time is up.
    pub hangs: Option<Picks>,
    /// Where things live, as the node tells it; none: it does not know.
    pub shards: Option<fn(&Route) -> ShardId>,
    /// Entries do not come along with heads.
    pub bare_heads: bool,
    /// Heads are not pushed at all.
    pub mute: bool,
    /// Commands wait until this is false.
    pub hold: bool,
    /// Opens of sessions wait until this is false.
    pub hold_opens: bool,
    /// The outcome of the next open is unknown: it has not been done, and may be by whoever takes it from `lost_open`.
    pub lose_open: bool,
    pub lost_open: Option<Command>,
    /// No fault: how often somebody has asked whether a device lacks its places.
    pub unplaced_asked: usize,
}

pub struct Fake {
    machine: Mutex<Machine>,
    attached: Arc<Mutex<BTreeMap<u64, Attached>>>,
    next_id: Mutex<u64>,
    pub faults: Mutex<Faults>,
    pub node: watch::Sender<NodeView>,
    keys: watch::Sender<Vec<SigningKey>>,
    pub confirmed: Mutex<Vec<(SessionNo, Rev)>>,
    watches: Mutex<Watches>,
    receipts: Mutex<receipt_watches::Watches>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fake {
    /// As a node that has just been taken in and has no tables yet; gives what it knew.
    pub fn forget_keys(&self) -> Vec<SigningKey> {
        self.keys.send_replace(Vec::new())
    }

    pub fn learn_keys(&self, keys: Vec<SigningKey>) {
        self.keys.send_replace(keys);
    }

    pub fn new() -> Arc<Self> {
        let view = NodeView {
            id: NodeId(1),
            incarnation: Incarnation(1),
            cluster: ClusterId(7),
            epoch: Epoch(1),
            level: Settings::default().feature_level,
            urls: ["http://here".into(), "http://there".into()].into(),
            draining: false,
            ready: true,
        };
        Arc::new(Self {
            machine: Mutex::new(Machine::with_slots(SHARD, &SlotTable::even(1))),
            attached: Arc::default(),
            next_id: Mutex::new(0),
            faults: Mutex::default(),
            node: watch::Sender::new(view),
            keys: watch::Sender::new(vec![wrap::generate(1)]),
            confirmed: Mutex::default(),
            watches: Mutex::default(),
            receipts: Mutex::default(),
        })
    }

    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    /// The newest rules hold.
    pub fn raise_level(&self, level: u32) {
        let settings = Settings { version: 9, ..Settings::at_level(level) };
        assert_eq!(self.apply(Command::SetSettings(settings)), Reply::Done);
        self.node.send_modify(|node| node.level = level);
    }

    pub fn ask(&self, query: &Query) -> Answer {
        lock(&self.machine).query(query)
    }

    /// Applies, pushes what the effects say, and fans out until nothing is owed.
    pub fn apply(&self, command: Command) -> Reply {
        let mut machine = lock(&self.machine);
        let reply = self.step(&mut machine, command, &[]);
        let rounds = (0..50).take_while(|_| self.fan_out(&mut machine)).count();
        assert!(rounds < 50, "fan-out comes to an end");
        reply
    }

    fn step(&self, machine: &mut Machine, command: Command, entries: &[Entry]) -> Reply {
        let display = TsMs(machine.meta().clock.display.0 + 1);
        let mut applied = machine.apply(&Stamp { age_delta_ms: 1, display }, &[command]);
        for effect in applied.effects {
            match effect {
                Effect::Presence { user } => self.look_again(machine, &user),
                Effect::Pulled { conv, .. } => self.push_pulled(machine, &conv),
                effect => self.push(machine, effect, entries),
            }
        }
        applied.replies.remove(0)
    }

    fn fan_out(&self, machine: &mut Machine) -> bool {
        let mut worked = false;
        let query = Query::Dirty { target: SHARD, after: None, limit: 100, bytes_max: 100_000 };
        if let Answer::Dirty { items, .. } = machine.query(&query) {
            for item in items {
                worked = true;
                let (conv, head, parts) = (item.notify.conv.clone(), item.notify.head, item.parts);
                self.step(machine, Command::Notify(vec![item.notify]), &item.entries);
                let items = vec![ClearDirty { conv, head, parts }];
                self.step(machine, Command::ClearDirty { target: SHARD, items }, &[]);
            }
        }
        let clear = |r: &flotilla_machine::command::Receipt| ClearReceipt {
            user: r.user.clone(),
            conv: r.conv.clone(),
            delivered: r.delivered,
            read: r.read,
        };
        if let Answer::Receipts { items, .. } = machine.query(&Query::ReceiptsDue { after: None, limit: 100 })
            && !items.is_empty()
        {
            worked = true;
            let done = items.iter().map(clear).collect();
            let convs: BTreeSet<ConvId> = items.iter().map(|r| r.conv.clone()).collect();
            self.step(machine, Command::Receipts(items), &[]);
            convs.iter().for_each(|conv| self.push_receipts(machine, conv));
            self.step(machine, Command::ClearReceiptDue { items: done }, &[]);
        }
        if let Answer::Receipts { items, .. } = machine.query(&Query::ReceiptsDirty { target: SHARD, limit: 100 })
            && !items.is_empty()
        {
            worked = true;
            let done = items.iter().map(clear).collect();
            self.step(machine, Command::PeerMarks(items), &[]);
            self.step(machine, Command::ClearReceiptDirty { items: done }, &[]);
        }
        worked
    }

    /// At once: nothing is gathered here.
    fn push_receipts(&self, machine: &Machine, conv: &ConvId) {
        let attached = lock(&self.attached);
        let watchers = attached.values().map(|session| session.session.user.clone()).collect();
        let Answer::Marks(view) = machine.query(&Query::Marks { conv: conv.clone(), of: None, watchers }) else {
            return;
        };
        for tell in lock(&self.receipts).on_marks(conv, &view.watchers, &view.marks) {
            if let Some(session) = attached.get(&tell.session) {
                let _ = session.pushes.try_send(Box::new(Push::Receipts { conv: conv.clone(), marks: tell.marks }));
            }
        }
    }

    /// What gateways that have subscribed would say.
    fn push_pulled(&self, machine: &Machine, conv: &ConvId) {
        for session in lock(&self.attached).values() {
            let users = vec![session.session.user.clone()];
            let Answer::Standing(standing) = machine.query(&Query::Standing { conv: conv.clone(), users }) else {
                continue;
            };
            let Some(own) = standing.users[0].as_ref().filter(|own| own.part.receives(standing.head)) else { continue };
            let (head, n_head) = (standing.head, own.part.effective_n(standing.n_head));
            let push = Push::Head { conv: conv.clone(), head, n_head, revs: vec![], entries: vec![] };
            let _ = session.pushes.try_send(Box::new(push));
        }
    }

    fn push(&self, machine: &Machine, effect: Effect, entries: &[Entry]) {
        let mute = self.faults().mute;
        let bare = self.faults().bare_heads;
        for session in lock(&self.attached).values() {
            let push = match &effect {
                Effect::Head { user, conv, head, n_head, rev } if session.session.user == *user && !mute => {
                    let mine = entries.iter().filter(|e| e.conv == *conv && !bare);
                    let entries = mine.cloned().map(Arc::new).collect();
                    Push::Head {
                        conv: conv.clone(),
                        head: *head,
                        n_head: *n_head,
                        revs: rev.iter().copied().collect(),
                        entries,
                    }
                }
                Effect::Conv { user, conv, rev } if session.session.user == *user && !mute => {
                    let device = session.session.device;
                    self.row_push(machine, user, device, conv, *rev)
                }
                Effect::SessionEnded { user, device, number, why, .. }
                    if session.session.user == *user
                        && session.session.device == *device
                        && session.number == Some(*number) =>
                {
                    Push::End(*why)
                }
                _ => continue,
            };
            let _ = session.pushes.try_send(Box::new(push));
        }
    }

    fn row_push(&self, machine: &Machine, user: &UserId, device: DeviceId, conv: &ConvId, rev: Rev) -> Push {
        let has_rows = self.node.borrow().level >= limits::ROWS_PUSHED_LEVEL;
        let devices = vec![(user.clone(), device, conv.clone())];
        match has_rows.then(|| machine.query(&Query::RowsOf { devices })) {
            Some(Answer::RowsOf(rows)) => match rows.into_iter().next().flatten().filter(|row| !row.part.is_pulled()) {
                Some(row) => Push::Row { row: Arc::new(row), revs: vec![rev] },
                None => Push::Conv { conv: conv.clone(), rev },
            },
            _ => Push::Conv { conv: conv.clone(), rev },
        }
    }

    fn look_again(&self, machine: &Machine, user: &UserId) {
        let mut watches = lock(&self.watches);
        for (by, user) in watches.pairs_of([user].into_iter()) {
            let seen = seen(machine.query(&Query::Presence { pairs: vec![(by.clone(), user.clone())] }))[0];
            for tell in watches.on_view(&by, &user, seen) {
                if let Some(session) = lock(&self.attached).get(&tell.watcher) {
                    let _ = session.pushes.try_send(Box::new(Push::Presence { user: tell.user, seen }));
                }
            }
        }
    }

    /// Sends one push to every session of a user.
    pub fn push_to(&self, user: &str, push: Push) {
        for session in lock(&self.attached).values().filter(|s| s.session.user.as_str() == user) {
            let _ = session.pushes.try_send(Box::new(push.clone()));
        }
    }

    pub fn sessions(&self) -> usize {
        lock(&self.attached).len()
    }
}

fn seen(answer: Answer) -> Vec<Seen> {
    match answer {
        Answer::Presence(views) => views.into_iter().map(Some).collect(),
        other => panic!("expected views, got {other:?}"),
    }
}

impl Backend for Fake {
    fn pulled(&self, _session: u64, user: UserId, convs: Vec<(ConvId, Seq)>) -> BoxFuture<'_, Vec<Option<Standing>>> {
        let stand = |conv: ConvId| match self.ask(&Query::Standing { conv, users: vec![user.clone()] }) {
            Answer::Standing(standing) if !self.faults().logs_down => Some(standing),
            _ => None,
        };
        let standings = convs.into_iter().map(|(conv, _)| stand(conv)).collect();
        async move { standings }.boxed()
    }

    fn presence(
        &self,
        by: UserId,
        users: Vec<UserId>,
        watcher: Option<u64>,
    ) -> BoxFuture<'_, Result<Vec<Seen>, CallError>> {
        async move {
            if let Some(watcher) = watcher {
                lock(&self.watches).set(watcher, &by, &users, 1_000);
            }
            let pairs: Vec<_> = users.into_iter().map(|user| (by.clone(), user)).collect();
            let seen = seen(self.ask(&Query::Presence { pairs: pairs.clone() }));
            for ((by, user), seen) in pairs.iter().zip(&seen).filter(|_| watcher.is_some()) {
                lock(&self.watches).on_view(by, user, *seen);
            }
            Ok(seen)
        }
        .boxed()
    }

    fn receipts(
        &self,
        session: u64,
        user: UserId,
        convs: Vec<ConvId>,
    ) -> BoxFuture<'_, Result<MarksOfEach, CallError>> {
        async move {
            let list: BTreeSet<ConvId> = convs.iter().cloned().collect();
            lock(&self.receipts).set(session, &user, &list, 1_000);
            let mut all = Vec::new();
            for conv in convs {
                let users = vec![user.clone()];
                let refusal = match self.ask(&Query::Marks { conv: conv.clone(), of: None, watchers: users.clone() }) {
                    Answer::Marks(view) if view.watchers == users => {
                        lock(&self.receipts).on_answer(&Subscription { conv, users }, Some(&view), Some(session));
                        all.push(Some(view.marks));
                        continue;
                    }
                    Answer::Marks(_) => Rejection::NotMember,
                    _ => Rejection::NotFound,
                };
                lock(&self.receipts).forget(session);
                return Err(CallError::Rejected(refusal));
            }
            Ok(all)
        }
        .boxed()
    }

    fn find_users(&self, prefix: String, limit: u32) -> BoxFuture<'_, Result<(Vec<UserId>, bool), CallError>> {
        let answer = self.ask(&Query::FindUsers { prefix, limit });
        async move {
            match answer {
                Answer::Users(users) => Ok((users, true)),
                other => panic!("expected users, got {other:?}"),
            }
        }
        .boxed()
    }

    fn typing(&self, conv: ConvId, user: UserId) {
        let Answer::Audience(targets) = self.ask(&Query::Audience { conv: conv.clone(), user: user.clone() }) else {
            return;
        };
        for member in targets.into_iter().flat_map(|(_, users)| users).filter(|member| *member != user) {
            self.push_to(member.as_str(), Push::Typing { conv: conv.clone(), user: user.clone() });
        }
    }

    fn execute_while(
        &self,
        wanted: Wanted,
        _route: Route,
        command: Command,
    ) -> BoxFuture<'_, Result<Reply, CallError>> {
        async move {
            while self.faults().hold {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            let opens = matches!(command, Command::OpenSession(_));
            while opens && wanted.get() && self.faults().hold_opens {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            if !wanted.get() {
                return Err(CallError::Unavailable);
            }
            if opens && std::mem::take(&mut self.faults().lose_open) {
                self.faults().lost_open = Some(command);
                return Err(CallError::Unknown);
            }
            if let Some(error) = self.faults().execute.pop_front() {
                return Err(error);
            }
            if let Command::Append(append) = &command
                && let Some((_, error)) = self.faults().refuse.take_if(|(cid, _)| *cid == append.cid)
            {
                return Err(error);
            }
            let is_client = matches!(command, Command::Append(_));
            let reply = self.apply(command);
            if is_client && let Some(error) = self.faults().lost_replies.pop_front() {
                return Err(error);
            }
            match reply {
                Reply::Rejected(rejection) => Err(CallError::Rejected(rejection)),
                reply => Ok(reply),
            }
        }
        .boxed()
    }

    fn shard_of(&self, route: &Route) -> Option<ShardId> {
        self.faults().shards.map(|shard_of| shard_of(route))
    }

    fn query(&self, _route: Route, query: Query, _freshness: Freshness) -> BoxFuture<'_, Result<Answer, CallError>> {
        async move {
            if self.faults().logs_down && matches!(query, Query::Entries { .. }) {
                return Err(CallError::Unavailable);
            }
            if self.faults().hangs.as_ref().is_some_and(|hangs| hangs(&query)) {
                tokio::time::sleep(std::time::Duration::from_millis(limits::REQUEST_DEADLINE_MS)).await;
                return Err(CallError::Unavailable);
            }
            if self.faults().refuses.as_ref().is_some_and(|refuses| refuses(&query)) {
                return Err(self.faults().refuses_with.clone().unwrap_or(CallError::Unavailable));
            }
            self.faults().unplaced_asked += usize::from(matches!(query, Query::Unplaced { .. }));
            Ok(self.ask(&query))
        }
        .boxed()
    }

    fn attach(&self, session: Attach, pushes: queue::Sender<Box<Push>>) -> AttachGuard {
        let mut next = lock(&self.next_id);
        *next += 1;
        lock(&self.attached).insert(*next, Attached { session, number: None, pushes });
        let attached = self.attached.clone();
        AttachGuard::new(*next, move |id| {
            lock(&attached).remove(&id);
        })
    }

    fn confirm(&self, guard: &AttachGuard, number: SessionNo, rev: Rev) {
        if let Some(session) = lock(&self.attached).get_mut(&guard.id) {
            session.number = Some(number);
        }
        lock(&self.confirmed).push((number, rev));
    }

    fn node(&self) -> watch::Receiver<NodeView> {
        self.node.subscribe()
    }

    fn secret(&self, purpose: &str) -> Option<[u8; 32]> {
        Some(wrap::derive(&[7; 32], purpose))
    }

    fn keys(&self) -> watch::Receiver<Vec<SigningKey>> {
        self.keys.subscribe()
    }
}
