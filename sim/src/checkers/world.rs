//! What is known of the whole cluster at an instant, gathered from what nodes wrote and clients saw.
//!
//! Everything that was ever applied anywhere was committed, so it stays true whatever dies afterwards. Nothing here is a
//! judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_client::history::{Op, Record};
use flotilla_machine::Fatal;
use flotilla_machine::command::ConvSettings;
use flotilla_machine::conversation::PullRuleTable;
use flotilla_machine::conversation::tables::conversation::Conversations;
use flotilla_machine::conversation::tables::entry::Entries;
use flotilla_machine::conversation::tables::member::Members;
use flotilla_machine::table::{self, View};
use flotilla_machine::user::account::UserTable;
use flotilla_machine::user::conv_settings::ConvSettingsTable;
use flotilla_machine::user::cursor::CursorTable;
use flotilla_machine::user::device::DeviceTable;
use flotilla_machine::user::inbox::{InboxTable, Row};
use flotilla_machine::user::privacy::{self, PrivacyTable};
use flotilla_machine::user::session::SessionTable;
use flotilla_proto::ids::{
    Cid, ConvId, Count, DeviceId, Generation, Hash32, MsgId, NodeId, ReplicaId, Rev, Seq, SessionNo, ShardId, UserId,
};
use flotilla_proto::limits;
use flotilla_raft::group::Facts as GroupFacts;
use flotilla_raft::state::Pointer;
use flotilla_raft::types::{Membership, Payload};
use flotilla_raft::{Leadership, Vote, keys, replicas};
use flotilla_storage::{MemDisk, Read};

use super::decode::{Event, RowChange};
use super::model::Model;
use crate::trace;

/// A node at the instant after a write.
pub struct Site<'a> {
    pub node: u16,
    pub read: &'a dyn Read,
    pub at: Duration,
}

impl<'a> Site<'a> {
    pub fn new(node: u16, read: &'a dyn Read) -> Self {
        Self { node, read, at: trace::now() }
    }

    /// The state that a pointer names, for the tables' own functions.
    pub fn with_state<T>(&self, shard: ShardId, pointer: &Pointer, look: impl FnOnce(&View<'_>) -> T) -> T {
        let prefix = keys::state(shard, pointer.generation);
        look(&View { read: self.read, prefix: &prefix })
    }
}

/// One group of a running node, at a tick.
pub struct Facts {
    pub node: NodeId,
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub leadership: Leadership,
    /// In memory.
    pub vote: Vote,
    pub group: GroupFacts,
}

/// The state that a node holds of a shard.
pub struct Held {
    pub pointer: Arc<Pointer>,
    pub digest: u64,
}

/// An entry as it was first applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub chain: Hash32,
    pub msg_id: MsgId,
    pub cid: Cid,
    pub n: Count,
    pub from: UserId,
    pub shard: ShardId,
    pub at: Duration,
}

/// The highest that was ever applied to a user's row of a conversation, field by field.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    pub head: Seq,
    pub n_head: Count,
    pub mseq: Seq,
    pub delivered: Seq,
    pub read: Seq,
    /// What the user is shown of the other one in a direct conversation: delivered and read.
    pub peer: (Seq, Seq),
}

pub struct World {
    pub disks: Vec<MemDisk>,
    /// Kinds of faults that last, and how many of each.
    pub broken: BTreeMap<&'static str, u32>,
    /// Nodes that hear no other node, and that clients reach.
    pub alone: BTreeSet<u16>,
    /// Nodes whose disk was replaced by an empty one.
    pub wiped: BTreeSet<u16>,
    /// What was durable on disks that are gone, by the node that had them, and on those that a bit was flipped on.
    pub lost: BTreeMap<u16, Vec<MemDisk>>,
    /// Replicas with a flipped bit in a row of this kind, until their state has been rebuilt.
    pub damaged: BTreeMap<(u16, ShardId), u8>,
    /// Replicas that have lost something of their log or vote that was durable: their ids never promise anything again.
    pub distrusted: BTreeSet<(u16, ShardId, Generation)>,
    /// Those of which nothing is promised: the control group's on a directory that was rolled back.
    pub outside: BTreeSet<(u16, ShardId, Generation)>,
    /// Rows with a flipped bit, by node and key: as they are now, and as they were written.
    pub flipped: BTreeMap<(u16, Bytes), (Bytes, Bytes)>,
    pub held: BTreeMap<(u16, ShardId), Held>,
    /// The highest index applied anywhere, and its term.
    pub applied: BTreeMap<ShardId, (u64, u64)>,
    /// Memberships in logs by index, committed or not.
    pub memberships: BTreeMap<ShardId, BTreeMap<u64, Membership>>,
    pub entries: BTreeMap<ConvId, BTreeMap<Seq, Known>>,
    pub heads: BTreeMap<ConvId, Seq>,
    /// Which shard holds a user.
    pub users: BTreeMap<UserId, ShardId>,
    pub inboxes: BTreeMap<(UserId, ConvId), Told>,
    /// Users' rows by revision; under each the last that was applied.
    pub rows: BTreeMap<(UserId, ConvId), BTreeMap<Rev, Row>>,
    /// Each conversation told again from its entries, and what was wrong with the first one that the rules do not allow.
    pub models: BTreeMap<ConvId, (Model, Option<String>)>,
    /// The highest marks (delivered, read) that were ever applied to a member's row.
    pub receipts: BTreeMap<(ConvId, UserId), (Seq, Seq)>,
    /// What users have settled about conversations, by the revision of the row that tells of it.
    pub settings: BTreeMap<(UserId, ConvId), BTreeMap<Rev, ConvSettings>>,
    /// The highest read mark that others must know, and the highest that they may know: those made while read marks were not
    /// hidden, and those of whose moment nobody can say.
    pub shown_reads: BTreeMap<(UserId, ConvId), (Seq, Seq)>,
    /// Who has ever hidden its read marks everywhere: it is shown those of nobody, for as long.
    pub veiled: BTreeSet<UserId>,
    /// Up to where a device's cursor was ever moved.
    pub cursors: BTreeMap<DeviceId, BTreeMap<ConvId, Seq>>,
    /// The device's cursors when this session of it was opened: those that had been applied before the batch that opened it.
    pub opened: BTreeMap<(DeviceId, SessionNo), BTreeMap<ConvId, Seq>>,
    /// The cursors that were ever written where there was none.
    pub first_cursors: BTreeSet<(DeviceId, ConvId, Seq)>,
    /// Where the heads of its user stood when a device was registered.
    pub registered: BTreeMap<DeviceId, BTreeMap<ConvId, Seq>>,
    /// What any device of a user has acked, and what the person has read.
    pub marks: BTreeMap<(UserId, ConvId), (Seq, Seq)>,
    /// By the label in the history.
    pub sessions: BTreeMap<String, (DeviceId, SessionNo)>,
    /// The highest seq that anybody was told is accepted.
    pub told: BTreeMap<ConvId, Seq>,
    /// The direct conversation of which somebody was told that last.
    pub newest: Option<ConvId>,
    /// What a device has acked, by the session on which it did.
    pub acked: BTreeMap<(DeviceId, ConvId), BTreeMap<SessionNo, Seq>>,
    /// Above how many members a group is in pull mode, and below how many it goes back; as the product has it, until a run says
    /// otherwise.
    pub pull: Option<(u32, u32)>,
}

impl World {
    /// The place that a device was given first in a conversation.
    pub fn begins(&self, label: &str, conv: &ConvId) -> Seq {
        let Some((device, _)) = self.sessions.get(label) else { return Seq::ZERO };
        let from = (*device, conv.clone(), Seq::ZERO);
        let places = self.first_cursors.range(from..).take_while(|(of, at, _)| of == device && at == conv);
        places.map(|(_, _, seq)| *seq).max().unwrap_or_default()
    }

    pub fn new(disks: Vec<MemDisk>) -> Self {
        Self {
            disks,
            broken: BTreeMap::new(),
            alone: BTreeSet::new(),
            wiped: BTreeSet::new(),
            lost: BTreeMap::new(),
            damaged: BTreeMap::new(),
            distrusted: BTreeSet::new(),
            outside: BTreeSet::new(),
            flipped: BTreeMap::new(),
            held: BTreeMap::new(),
            applied: BTreeMap::new(),
            memberships: BTreeMap::new(),
            entries: BTreeMap::new(),
            heads: BTreeMap::new(),
            users: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            rows: BTreeMap::new(),
            models: BTreeMap::new(),
            receipts: BTreeMap::new(),
            settings: BTreeMap::new(),
            shown_reads: BTreeMap::new(),
            veiled: BTreeSet::new(),
            cursors: BTreeMap::new(),
            opened: BTreeMap::new(),
            first_cursors: BTreeSet::new(),
            registered: BTreeMap::new(),
            marks: BTreeMap::new(),
            sessions: BTreeMap::new(),
            told: BTreeMap::new(),
            newest: None,
            acked: BTreeMap::new(),
            pull: Some((limits::PUSH_MEMBERS_MAX, limits::PUSH_MEMBERS_BACK)),
        }
    }

    /// The node's disk is about to go back behind what it has synced: to an earlier time, or to an earlier boot, of which the
    /// control group's replica is outside of what is promised.
    pub fn forgets(&mut self, node: u16, same_boot: bool) {
        self.keep(node);
        self.wiped.insert(node);
        let Some(disk) = self.disk(node).map(|disk| disk.written()) else { return };
        for (shard, generation) in replicas::list(&*disk).unwrap_or_default() {
            let outside = shard == ShardId::CONTROL && !same_boot;
            let places = if outside { &mut self.outside } else { &mut self.distrusted };
            places.insert((node, shard, generation));
        }
    }

    /// The node's disk is about to lose something that it has synced.
    pub fn keep(&mut self, node: u16) {
        if let Some(copy) = self.disk(node).map(MemDisk::copy_durable) {
            self.lost.entry(node).or_default().push(copy);
        }
    }

    pub fn disk(&self, node: u16) -> Option<&MemDisk> {
        self.disks.get(usize::from(node).checked_sub(1)?)
    }

    /// What was written where this is stored: a flipped bit is no other state as long as nobody takes it for one.
    pub fn as_written<'a>(&'a self, node: u16, key: &[u8], stored: &'a [u8]) -> &'a [u8] {
        if self.flipped.is_empty() {
            return stored;
        }
        let flipped = self.flipped.get(&(node, Bytes::copy_from_slice(key)));
        flipped.filter(|(now, _)| now[..] == *stored).map_or(stored, |(_, written)| &written[..])
    }

    /// Was anything up to this index applied by anybody before?
    pub fn is_news(&self, shard: ShardId, index: u64) -> bool {
        self.applied.get(&shard).is_none_or(|(applied, _)| index > *applied)
    }

    /// The configurations that may decide at this moment: the committed one, and later ones that stand in some log.
    pub fn configs(&self, shard: ShardId, pointer: &Pointer) -> Vec<Vec<BTreeSet<u64>>> {
        let since = pointer.membership.log_id().map(|id| id.index());
        let later =
            self.memberships.get(&shard).into_iter().flatten().filter(|(index, _)| since.is_none_or(|s| **index > s));
        let mut configs = vec![pointer.membership.membership().get_joint_config().clone()];
        configs.extend(later.map(|(_, membership)| membership.get_joint_config().clone()));
        configs
    }

    /// After the checkers have seen it.
    pub(super) fn on_event(&mut self, site: &Site<'_>, event: &Event) {
        match event {
            Event::Log { shard, entry, .. } => {
                if let Payload::Membership(membership) = &entry.payload {
                    self.memberships.entry(*shard).or_default().insert(entry.log_id.index(), membership.clone());
                }
            }
            Event::Applied { shard, pointer, rows, .. } => {
                self.raise(*shard, pointer);
                self.on_settings(site, *shard, pointer, rows);
                rows.iter().for_each(|row| self.on_row(site, *shard, row));
                rows.iter().for_each(|row| self.on_device(row));
            }
            Event::State { shard, pointer, installed, .. } => {
                self.raise(*shard, pointer);
                if *installed {
                    self.damaged.remove(&(site.node, *shard));
                }
            }
            Event::Vote { .. } | Event::Purged { .. } => {}
        }
    }

    fn raise(&mut self, shard: ShardId, pointer: &Pointer) {
        if let Some(applied) = pointer.applied {
            let id = (applied.index(), applied.committed_leader_id().term);
            let known = self.applied.entry(shard).or_insert(id);
            *known = id.max(*known);
        }
    }

    /// Before the rows themselves: what was read is compared with what was known.
    fn on_settings(&mut self, site: &Site<'_>, shard: ShardId, pointer: &Pointer, rows: &[RowChange]) {
        let changed: BTreeMap<_, _> =
            rows.iter().filter_map(|row| row.of::<ConvSettingsTable>()).map(|(key, _, new)| (key, new)).collect();
        for (key, new) in &changed {
            // What is damaged here will be read elsewhere.
            let row = site.with_state(shard, pointer, |view| table::get::<InboxTable>(view, key).ok().flatten());
            if let Some(row) = row {
                self.settings.entry(key.clone()).or_default().entry(row.rev).or_insert(new.unwrap_or_default());
            }
        }
        let veiled: BTreeSet<UserId> =
            rows.iter().filter_map(|row| row.of::<PrivacyTable>()).map(|(user, ..)| user).collect();
        self.veiled.extend(veiled.iter().cloned());
        for ((user, conv), _, row) in rows.iter().filter_map(|row| row.of::<InboxTable>()) {
            let (key, Some(row)) = ((user, conv), row) else { continue };
            if row.read <= self.inboxes.get(&key).map_or(Seq::ZERO, |told| told.read) {
                continue;
            }
            let settled = site.with_state(shard, pointer, |view| {
                Ok::<_, Fatal>((table::get::<ConvSettingsTable>(view, &key)?, privacy::hides_read(view, &key.0)?))
            });
            let (least, most) = self.shown_reads.entry(key.clone()).or_default();
            match settled {
                // Of one batch nobody can say which came first.
                _ if changed.contains_key(&key) || veiled.contains(&key.0) => *most = row.read,
                Ok((settings, veiled)) if veiled || settings.is_some_and(|settings| settings.hide_read) => {}
                Ok(_) => (*least, *most) = (row.read, row.read),
                Err(_) => *most = row.read,
            }
        }
    }

    fn on_row(&mut self, site: &Site<'_>, shard: ShardId, row: &RowChange) {
        if let Some(((conv, seq), _, Some(entry))) = row.of::<Entries>() {
            let known = Known {
                chain: entry.chain,
                msg_id: entry.msg_id,
                cid: entry.cid,
                n: entry.n,
                from: entry.from,
                shard,
                at: site.at,
            };
            self.entries.entry(conv).or_default().entry(seq).or_insert(known);
        } else if let Some((conv, _, Some(row))) = row.of::<Conversations>() {
            let head = self.heads.entry(conv).or_default();
            *head = row.head.max(*head);
        } else if let Some((user, _, Some(_))) = row.of::<UserTable>() {
            self.users.insert(user, shard);
        } else if let Some((key, _, Some(row))) = row.of::<InboxTable>() {
            let told = self.inboxes.entry(key.clone()).or_default();
            told.head = row.head.max(told.head);
            told.n_head = row.n_head.max(told.n_head);
            told.mseq = row.part.mseq.max(told.mseq);
            told.delivered = row.delivered.max(told.delivered);
            told.read = row.read.max(told.read);
            told.peer = (row.peer_delivered.max(told.peer.0), row.peer_read.max(told.peer.1));
            let last = self.rows.entry(key).or_default().entry(row.rev).or_insert_with(|| row.clone());
            if row.delivered > last.delivered {
                *last = row;
            }
        } else if let Some((key, _, Some(row))) = row.of::<Members>() {
            let (delivered, read) = self.receipts.entry(key).or_default();
            *delivered = row.delivered.max(*delivered);
            *read = row.read.max(*read);
        } else if let Some(((_, device, conv), before, Some(at))) = row.of::<CursorTable>() {
            if before.is_none() {
                self.first_cursors.insert((device, conv.clone(), at));
            }
            let cursor = self.cursors.entry(device).or_default().entry(conv).or_default();
            *cursor = at.max(*cursor);
        }
    }

    /// After all rows of a batch: heads that rose in it may have risen before the device was registered.
    fn on_device(&mut self, row: &RowChange) {
        let Some(((user, device), None, Some(_))) = row.of::<DeviceTable>() else { return };
        let mine = self.inboxes.iter().filter(|((of, _), _)| *of == user);
        let heads = mine.map(|((_, conv), told)| (conv.clone(), told.head)).collect();
        self.registered.entry(device).or_insert(heads);
    }

    /// Before the checkers see it: the log goes first, and what follows from it is compared with it.
    pub(super) fn before_event(&mut self, site: &Site<'_>, event: &Event) {
        let Event::Applied { shard, pointer, rows, .. } = event else { return };
        for row in rows {
            if let Some((_, _, Some(rule))) = row.of::<PullRuleTable>() {
                self.pull = Some((rule.above, rule.below));
            }
            if let Some(((_, device), _, Some(row))) = row.of::<SessionTable>() {
                let cursors = self.cursors.get(&device).cloned().unwrap_or_default();
                self.opened.entry((device, row.number)).or_insert(cursors);
            }
            let Some((conv, _, Some(row))) = row.of::<Conversations>() else { continue };
            let pull = self.pull;
            let new = || (Model::new(pull), None);
            let (model, wrong) = self.models.entry(conv.clone()).or_insert_with(new);
            while wrong.is_none() && model.head < row.head {
                let key = (conv.clone(), model.head.next());
                // What is damaged here will be read elsewhere.
                let entry = site.with_state(*shard, pointer, |view| table::get::<Entries>(view, &key).ok().flatten());
                let Some(entry) = entry else { break };
                *wrong = model.step(&entry).err();
            }
        }
    }

    /// Up to where any device of the user has acked the conversation, and the person has read it.
    pub fn marked(&self, user: &UserId, conv: &ConvId) -> (Seq, Seq) {
        self.marks.get(&(user.clone(), conv.clone())).copied().unwrap_or_default()
    }

    /// Before the checkers see it.
    pub(super) fn on_record(&mut self, record: &Record) {
        match &record.op {
            Op::Connected { device, session, .. } => {
                self.sessions.insert(record.device.clone(), (*device, *session));
            }
            Op::Accepted { accepted, .. } => {
                let told = self.told.entry(accepted.conv.clone()).or_default();
                if accepted.seq > *told {
                    *told = accepted.seq;
                    self.newest = accepted.conv.peers().map(|_| accepted.conv.clone()).or(self.newest.take());
                }
            }
            Op::Read { conv, seq } => {
                let (_, read) = self.marks.entry((record.user.clone(), conv.clone())).or_default();
                *read = (*seq).max(*read);
            }
            Op::Acked { conv, seq } => {
                let (most, _) = self.marks.entry((record.user.clone(), conv.clone())).or_default();
                *most = (*seq).max(*most);
                let Some((device, session)) = self.sessions.get(&record.device) else { return };
                let by_session = self.acked.entry((*device, conv.clone())).or_default();
                let acked = by_session.entry(*session).or_default();
                *acked = (*seq).max(*acked);
            }
            _ => {}
        }
    }
}
