//! One conversation of a run: its members' devices, its senders, its ledger.

use flotilla_proto::ids::{ConvId, ShardId};

use super::ledger::Ledger;
use super::time::At;
use super::{Engine, device::Position, frames};
use crate::cluster::shard_of;

pub struct Conversation {
    pub id: ConvId,
    pub text: Box<str>,
    /// In a cluster as `init` makes it.
    pub shard: Option<ShardId>,
    pub members: Vec<u32>,
    pub senders: Vec<u32>,
    /// By sender: the frame's part that names the conversation.
    pub targets: Vec<String>,
    pub ledger: Ledger,
    pub is_direct: bool,
    /// When a send was accepted last, for gaps.
    pub last_accepted: At,
}

impl Engine {
    /// A direct conversation in which the first of the two sends, or both.
    pub fn direct(&mut self, members: [usize; 2], both_send: bool) -> u32 {
        let [a, b] = members.map(|at| self.devices[at].user.clone());
        let senders = if both_send { &members[..] } else { &members[..1] };
        let targets = [&b, &a].map(|user| frames::target_user(&user.to_string()));
        self.add(ConvId::direct(&a, &b), &members, senders, targets[..senders.len()].to_vec(), true)
    }

    /// A group that exists, or will before the first send.
    pub fn group(&mut self, id: ConvId, members: &[usize], senders: &[usize]) -> u32 {
        let target = frames::target_conv(&id.to_string());
        self.add(id, members, senders, vec![target; senders.len()], false)
    }

    fn add(&mut self, id: ConvId, members: &[usize], senders: &[usize], targets: Vec<String>, is_direct: bool) -> u32 {
        let conv = self.conversations.len() as u32;
        let text: Box<str> = id.to_string().into();
        self.by_id.insert(text.clone(), conv);
        for at in members {
            let position = Position { conv, watch: Default::default(), acked: 0, stored: 0 };
            self.devices[*at].positions.push(position);
        }
        for (which, at) in senders.iter().enumerate() {
            self.devices[*at].sends_in.push((conv, which as u16));
        }
        let index = |list: &[usize]| list.iter().map(|at| *at as u32).collect();
        self.conversations.push(Conversation {
            shard: shard_of(&id),
            ledger: Ledger::new(self.tag ^ u64::from(conv) << 16, members.len() as u16, senders.len()),
            id,
            text,
            members: index(members),
            senders: index(senders),
            targets,
            is_direct,
            last_accepted: At(0),
        });
        conv
    }
}
