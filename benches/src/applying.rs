//! Proposals of 16 commands on one shard in memory: sends, the same sends again, heads with acks.

use std::hint::black_box;

use bytes::Bytes;
use flotilla_machine::command::Settings;
use flotilla_machine::command::{Append, Command, Login, Mark, MarkKind, Notify, Stamp};
use flotilla_machine::query::{Answer, InboxRow, Query};
use flotilla_machine::{Applied, Kept, Reply, Txn};
use flotilla_proto::ids::*;
use flotilla_proto::slots::SlotTable;
use flotilla_storage::{Durability, Engine as _, MemEngine};

use crate::Piece;
use crate::codec::message;

const PAIRS: usize = 16;
const SHARD: ShardId = ShardId(1);
const PREFIX: [u8; 3] = [3, 0, 1];

pub fn user(at: usize) -> UserId {
    UserId::parse(&format!("user{at}")).expect("a valid name")
}

pub fn body() -> Blob {
    Blob::from(vec![b'x'; 256])
}

/// Sixteen pairs that know each other, on one shard that has everything; applied as a replica does, with what the proposal
/// before left in memory.
pub struct Scene {
    engine: MemEngine,
    kept: Kept,
    next_cid: u128,
}

impl Scene {
    pub fn new() -> Self {
        let mut scene = Self { engine: MemEngine::new(), kept: Kept::default(), next_cid: 0 };
        scene.apply(&[Command::SetSlots(SlotTable::even(1)), Command::SetSettings(Settings::default())]);
        for at in 0..2 * PAIRS {
            let secret = Hash32([at as u8; 32]);
            let (user, device) = (user(at), Self::device(at));
            let login = Login { user, install: secret, device, name: String::new(), refresh: secret, create: true };
            let applied = scene.apply(&[Command::Login(login)]);
            assert!(matches!(applied.replies[..], [Reply::LoggedIn { new: true, .. }]));
        }
        scene.send();
        let notices = scene.notices();
        assert_eq!(notices.len(), PAIRS);
        scene.apply(&[Command::Notify(notices)]);
        scene
    }

    pub fn device(at: usize) -> DeviceId {
        DeviceId(at as u128 + 1)
    }

    pub fn conv(pair: usize) -> ConvId {
        ConvId::direct(&user(2 * pair), &user(2 * pair + 1))
    }

    /// One send in each conversation.
    fn sends(&mut self) -> Vec<Bytes> {
        let mut commands = Vec::new();
        for pair in 0..PAIRS {
            self.next_cid += 1;
            let append = Append {
                conv: Self::conv(pair),
                sender: user(2 * pair),
                device: Self::device(2 * pair),
                cid: Cid(self.next_cid),
                age_ms: 0,
                after: None,
                checked: vec![user(2 * pair + 1)],
                what: message(),
            };
            commands.push(Command::Append(append).encode().expect("commands encode"));
        }
        commands
    }

    fn apply_bytes(&mut self, commands: &[Bytes]) -> Applied {
        let stamp = Stamp { age_delta_ms: 1, display: TsMs(1_795_318_891_651) };
        let mut txn = Txn::keeping(&self.engine, PREFIX.to_vec(), &mut self.kept);
        let applied = flotilla_machine::apply_keeping(&mut txn, SHARD, &stamp, commands, &mut self.kept);
        let applied = applied.expect("well-formed commands on sound state");
        let batch = txn.into_batch_keeping(&mut self.kept);
        self.engine.write(batch, Durability::Buffered).expect("memory takes it");
        applied
    }

    fn apply(&mut self, commands: &[Command]) -> Applied {
        let encoded: Vec<Bytes> = commands.iter().map(|c| c.encode().expect("commands encode")).collect();
        self.apply_bytes(&encoded)
    }

    pub fn send(&mut self) {
        let commands = self.sends();
        accepted(&self.apply_bytes(&commands), false);
    }

    fn query(&self, query: &Query) -> Answer {
        flotilla_machine::query(&self.engine, &PREFIX, SHARD, query).expect("sound state")
    }

    /// What the conversations owe the users now.
    pub fn notices(&self) -> Vec<Notify> {
        let query = Query::Dirty { target: SHARD, after: None, limit: 1_000, bytes_max: 1 << 20 };
        match self.query(&query) {
            Answer::Dirty { items, .. } => items.into_iter().map(|item| item.notify).collect(),
            other => panic!("{other:?}"),
        }
    }

    pub fn row(&self, at: usize) -> InboxRow {
        let query = Query::Row { user: user(at), device: Self::device(at), conv: Self::conv(at / 2) };
        match self.query(&query) {
            Answer::Row(Some(row)) => row,
            other => panic!("{other:?}"),
        }
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

fn accepted(applied: &Applied, repeated: bool) {
    let all = applied.replies.iter().all(|reply| matches!(reply, Reply::Accepted(a) if a.dup == repeated));
    assert!(all && applied.replies.len() == PAIRS, "{:?}", applied.replies);
}

struct Sends(Scene);

impl Piece for Sends {
    fn step(&mut self) {
        self.0.send();
    }
}

pub fn sends() -> Box<dyn Piece> {
    Box::new(Sends(Scene::new()))
}

struct Repeats {
    scene: Scene,
    commands: Vec<Bytes>,
}

impl Piece for Repeats {
    fn step(&mut self) {
        let applied = self.scene.apply_bytes(&self.commands);
        accepted(&applied, true);
    }
}

pub fn repeats() -> Box<dyn Piece> {
    let mut scene = Scene::new();
    let commands = scene.sends();
    accepted(&scene.apply_bytes(&commands), false);
    Box::new(Repeats { scene, commands })
}

struct HeadsAndAcks {
    scene: Scene,
    notices: Vec<Notify>,
}

impl Piece for HeadsAndAcks {
    fn step(&mut self) {
        for notice in &mut self.notices {
            (notice.head, notice.n_head) = (notice.head.next(), Count(notice.n_head.0 + 1));
            notice.last_id = MsgId(notice.last_id.0 + 1);
        }
        let heads = Command::Notify(self.notices.clone());
        let mark = |(pair, notice): (usize, &Notify)| Mark {
            user: user(2 * pair + 1),
            device: Scene::device(2 * pair + 1),
            number: Mark::SESSIONLESS,
            conv: notice.conv.clone(),
            kind: MarkKind::Ack,
            seq: notice.head,
            n: notice.n_head,
            head: notice.head,
            n_head: notice.n_head,
        };
        let acks = Command::Marks(self.notices.iter().enumerate().map(mark).collect());
        black_box(self.scene.apply(&[heads, acks]));
    }
}

pub fn heads_and_acks() -> Box<dyn Piece> {
    let scene = Scene::new();
    let mut notices = scene.notices();
    // The membership is known by now; what comes after the first notice is heads only.
    notices.iter_mut().flat_map(|notice| &mut notice.users).for_each(|user| user.part = None);
    notices.sort_by_key(|notice| (0..PAIRS).find(|pair| Scene::conv(*pair) == notice.conv));
    Box::new(HeadsAndAcks { scene, notices })
}
