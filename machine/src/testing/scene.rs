//! A few users on a few shards, and conversations that all live on one: what generated logs are about.

use flotilla_proto::ids::*;
use flotilla_proto::limits::SLOTS;
use flotilla_proto::slots::{self, SlotTable};

use super::arb::named;

/// The shard of all conversations, and of one of the users.
pub const HOME: ShardId = ShardId(1);

/// Users and their shards.
pub const USERS: [(&str, u16); 6] = [("alice", 2), ("bob", 3), ("carol", 2), ("dave", 1), ("erin", 4), ("frank", 3)];

pub fn users() -> Vec<UserId> {
    USERS.iter().map(|(name, _)| named(name)).collect()
}

/// All slots are the home shard's, but for those of the users that live elsewhere.
pub fn slots() -> SlotTable {
    let mut owners = vec![HOME; usize::from(SLOTS)];
    for (name, shard) in USERS {
        owners[usize::from(slots::of_user(&named(name)).0)] = ShardId(shard);
    }
    SlotTable::from_owners(1, owners)
}

/// Direct conversations (one of them a self-chat) and groups, made or not.
pub fn conversations() -> Vec<ConvId> {
    let direct = |a, b| ConvId::direct(&named(a), &named(b));
    let mut all = vec![direct("alice", "bob"), direct("alice", "dave"), direct("carol", "carol")];
    all.extend(groups().into_iter().map(|(creator, cid)| ConvId::group(&creator, cid)));
    all
}

/// Groups by creator and the cid that creates them.
pub fn groups() -> Vec<(UserId, Cid)> {
    vec![(named("alice"), Cid(1)), (named("bob"), Cid(1)), (named("alice"), Cid(2))]
}
