//! What a history says, gathered in one pass: commands and answers by cid, the log as it was seen, membership by the log
//! itself, devices and what each has received.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::entry::What;
use flotilla_proto::frame::{Accepted, EntryFrame, Gap};
use flotilla_proto::ids::{Cid, ConvId, ConvKind, DeviceId, Seq, UserId};

use super::Stats;
use crate::history::{Op, Record};

pub struct Invoked<'a> {
    pub at: usize,
    pub device: &'a str,
    pub user: &'a UserId,
    pub conv: &'a ConvId,
    pub what: &'a What,
    pub pipelined: bool,
}

#[derive(Default)]
pub struct Device<'a> {
    pub user: Option<&'a UserId>,
    /// Index of the record since when the server knows it (and it has kept its store).
    pub registered_at: Option<usize>,
    pub ids: BTreeSet<DeviceId>,
    pub seen: BTreeMap<&'a ConvId, BTreeSet<Seq>>,
    pub gaps: BTreeMap<&'a ConvId, Vec<&'a Gap>>,
}

impl Device<'_> {
    /// Another place where this device is open.
    pub fn is_same(&self, other: &Device<'_>) -> bool {
        self.user == other.user && self.ids.intersection(&other.ids).next().is_some()
    }
}

/// A stay: from, and the last entry of it.
pub type Stay = (Seq, Option<Seq>);

pub struct World<'a> {
    pub records: &'a [Record],
    pub invoked: BTreeMap<Cid, Invoked<'a>>,
    /// All answers of a cid: a duplicate gets the first one again.
    pub accepted: BTreeMap<Cid, Vec<(usize, &'a Accepted)>>,
    pub rejected: BTreeMap<Cid, usize>,
    pub devices: BTreeMap<&'a str, Device<'a>>,
    /// By conversation and seq: the first sight with content, else the first.
    pub log: BTreeMap<&'a ConvId, BTreeMap<Seq, (usize, &'a EntryFrame)>>,
    pub members: BTreeMap<&'a ConvId, BTreeMap<&'a UserId, Vec<Stay>>>,
    delivered: u64,
    repeats: u64,
}

impl<'a> World<'a> {
    pub fn of(records: &'a [Record]) -> Self {
        let mut world = World {
            records,
            invoked: BTreeMap::new(),
            accepted: BTreeMap::new(),
            rejected: BTreeMap::new(),
            devices: BTreeMap::new(),
            log: BTreeMap::new(),
            members: BTreeMap::new(),
            delivered: 0,
            repeats: 0,
        };
        for (at, record) in records.iter().enumerate() {
            world.on_record(at, record);
        }
        world.members = members(&world);
        world
    }

    fn on_record(&mut self, at: usize, record: &'a Record) {
        let device = self.devices.entry(&record.device).or_default();
        device.user = Some(&record.user);
        match &record.op {
            Op::Connected { device: id, .. } => {
                device.registered_at.get_or_insert(at);
                device.ids.insert(*id);
            }
            Op::Reset => {
                device.registered_at = None;
                device.seen.clear();
                device.gaps.clear();
            }
            Op::Invoked { cid, conv, what, pipelined } => {
                let (device, user) = (record.device.as_str(), &record.user);
                let invoked = Invoked { at, device, user, conv, what, pipelined: *pipelined };
                self.invoked.entry(*cid).or_insert(invoked);
            }
            Op::Accepted { cid, accepted } => self.accepted.entry(*cid).or_default().push((at, accepted)),
            Op::Rejected { cid, .. } => {
                self.rejected.entry(*cid).or_insert(at);
            }
            Op::Entry { entry } => {
                if device.seen.entry(&entry.conv).or_default().insert(entry.seq) {
                    self.delivered += 1;
                } else {
                    self.repeats += 1;
                }
                let first = self.log.entry(&entry.conv).or_default().entry(entry.seq).or_insert((at, entry));
                if first.1.what().is_none() && entry.what().is_some() {
                    *first = (at, entry);
                }
            }
            Op::Gap { gap } => device.gaps.entry(&gap.conv).or_default().push(gap),
            _ => {}
        }
    }

    /// The content of an entry: as seen, or as sent.
    pub fn content(&self, entry: &EntryFrame) -> Option<What> {
        entry.what().or_else(|| self.invoked.get(&entry.cid).map(|i| i.what.clone()))
    }

    pub fn entry(&self, conv: &ConvId, seq: Seq) -> Option<(usize, &'a EntryFrame)> {
        self.log.get(conv)?.get(&seq).copied()
    }

    /// Where a cid ended up, by its answer or by sight.
    pub fn seqs_of(&self) -> BTreeMap<Cid, Seq> {
        let mut seqs: BTreeMap<Cid, Seq> = BTreeMap::new();
        for entries in self.log.values() {
            seqs.extend(entries.values().map(|(_, e)| (e.cid, e.seq)));
        }
        for (cid, answers) in &self.accepted {
            if let Some((_, accepted)) = answers.first() {
                seqs.insert(*cid, accepted.seq);
            }
        }
        seqs
    }

    /// By the log itself; None where the log does not tell (nobody saw its beginning).
    pub fn is_member(&self, conv: &ConvId, user: &UserId, seq: Seq) -> Option<bool> {
        if conv.kind() == ConvKind::Direct {
            return Some(conv.peer_of(user).is_some());
        }
        let members = self.members.get(conv)?;
        let stays = members.get(user).map_or(&[][..], Vec::as_slice);
        Some(stays.iter().any(|(from, until)| *from <= seq && until.is_none_or(|until| seq <= until)))
    }

    pub fn stats(&self) -> Stats {
        Stats::from([
            ("records", self.records.len() as u64),
            ("invoked", self.invoked.len() as u64),
            ("accepted", self.accepted.len() as u64),
            ("rejected", self.rejected.len() as u64),
            ("delivered", self.delivered),
            ("repeats", self.repeats),
            ("devices", self.devices.values().filter(|d| d.registered_at.is_some()).count() as u64),
            ("conversations", self.log.len() as u64),
            ("entries", self.log.values().map(|l| l.len() as u64).sum()),
        ])
    }
}

/// Stays by the log; only of groups whose log was seen from 1 on without a hole.
fn members<'a>(world: &World<'a>) -> BTreeMap<&'a ConvId, BTreeMap<&'a UserId, Vec<Stay>>> {
    let mut all = BTreeMap::new();
    for (conv, log) in &world.log {
        let whole = log.keys().zip(1u64..).all(|(seq, expected)| seq.0 == expected);
        if conv.kind() == ConvKind::Direct || !whole {
            continue;
        }
        let mut stays: BTreeMap<&'a UserId, Vec<Stay>> = BTreeMap::new();
        for (seq, (_, entry)) in log {
            // By reference from the frame, or from the command of the sender.
            let (joined, left) = changes(world, entry);
            for user in joined {
                let of_user = stays.entry(user).or_default();
                if of_user.last().is_none_or(|(_, until)| until.is_some()) {
                    of_user.push((*seq, None));
                }
            }
            if let Some((_, until @ None)) = left.and_then(|user| stays.get_mut(user)?.last_mut()) {
                *until = Some(*seq);
            }
        }
        all.insert(*conv, stays);
    }
    all
}

/// Who joins and who leaves by this entry.
fn changes<'a>(world: &World<'a>, entry: &'a EntryFrame) -> (Vec<&'a UserId>, Option<&'a UserId>) {
    let sent = world.invoked.get(&entry.cid).map(|i| i.what);
    match entry.kind.as_str() {
        "create" => {
            let members = entry.members.as_ref().or(match sent {
                Some(What::Create { members, .. }) => Some(members),
                _ => None,
            });
            (std::iter::once(&entry.from).chain(members.into_iter().flatten()).collect(), None)
        }
        "add" => {
            let users = entry.users.as_ref().or(match sent {
                Some(What::Add { users }) => Some(users),
                _ => None,
            });
            (users.into_iter().flatten().collect(), None)
        }
        "remove" => {
            let user = entry.user.as_ref().or(match sent {
                Some(What::Remove { user }) => Some(user),
                _ => None,
            });
            (Vec::new(), user)
        }
        "leave" => (Vec::new(), Some(&entry.from)),
        _ => (Vec::new(), None),
    }
}
