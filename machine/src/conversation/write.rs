//! The effect of an accepted append, in one place: log, dedup, members, and what is now owed to user shards.
//!
//! Invariant: seq = head + 1, ids and heads rise, `ts` never goes back inside a conversation, the chain goes on (I2, I9, I11).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_proto::entry::{Entry, What};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::Mode;
use flotilla_proto::plant::{self, Plant};

use super::plan::{Change, Plan, Step, row_of};
use super::tables::conversation::{ConversationRow, Conversations};
use super::tables::dedup::{DedupRow, Dedups};
use super::tables::dedup_age::DedupAges;
use super::tables::dirty::{Dirties, DirtyRow};
use super::tables::entry::Entries;
use super::tables::member::Members;
use super::tables::mention::Mentions;
use super::tables::revision::Revisions;
use super::tables::roster::Rosters;
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::command::Append;
use crate::effect::Effect;
use crate::reply::{Accepted, Rejection, Reply};
use crate::table;

pub fn write(ctx: &mut Ctx<'_, '_>, asked: &Append, body_hash: Hash32, mut plan: Plan) -> Outcome {
    let Some((msg_id, clock)) = ctx.meta.clock.next_id(ctx.meta.shard) else {
        return Err(Rejection::Conflict("the shard's message ids are used up".into()).into());
    };
    ctx.meta.clock = clock;
    ctx.meta.store_clock(ctx.txn);
    let entry = Arc::new(make_entry(ctx, asked, body_hash, msg_id, &plan));
    advance(&mut plan.conversation, &entry);
    write_entry(ctx, &entry, &plan)?;
    write_members(ctx, &entry, &mut plan);
    write_mentions(ctx, &entry)?;
    let told = write_rosters(ctx, &entry, &mut plan)?;
    table::put::<Conversations>(ctx.txn, &entry.conv, &plan.conversation);
    let empties = !plan.redact.is_empty();
    for (target, parts) in told {
        let row = raise(ctx, target, &entry, parts)?;
        let alone = (row.parts == Seq::ZERO && !empties).then(|| entry.clone());
        ctx.effects.push(Effect::Dirty { target, conv: entry.conv.clone(), entry: alone });
    }
    if plan.conversation.mode == Mode::Pull {
        ctx.effects.push(Effect::Pulled { conv: entry.conv.clone(), head: entry.seq });
    }
    Ok(remember(ctx, &entry))
}

fn make_entry(ctx: &Ctx<'_, '_>, asked: &Append, body_hash: Hash32, msg_id: MsgId, plan: &Plan) -> Entry {
    let before = &plan.conversation;
    let counted = u64::from(plan.what.is_countable());
    let mut entry = Entry {
        conv: asked.conv.clone(),
        seq: before.head.next(),
        n: Count(before.n_head.0.saturating_add(counted)),
        msg_id,
        ts: before.last_ts.max(ctx.meta.clock.display),
        from: asked.sender.clone(),
        device: asked.device,
        cid: asked.cid,
        kind: plan.what.kind().to_owned(),
        what: Some(plan.what.clone()),
        body_hash,
        chain: Hash32::default(),
    };
    entry.chain = entry.chain_after(before.chain);
    entry
}

fn advance(conversation: &mut ConversationRow, entry: &Entry) {
    assert!(entry.seq == conversation.head.next() && entry.msg_id > conversation.last_id, "heads and ids rise (I9)");
    conversation.head = entry.seq;
    conversation.n_head = entry.n;
    conversation.chain = entry.chain;
    conversation.last_ts = entry.ts;
    conversation.last_id = entry.msg_id;
}

fn write_entry(ctx: &mut Ctx<'_, '_>, entry: &Entry, plan: &Plan) -> Result<(), Fatal> {
    table::put::<Entries>(ctx.txn, &(entry.conv.clone(), entry.seq), entry);
    for seq in &plan.redact {
        let key = (entry.conv.clone(), *seq);
        if let Some(old) = table::get::<Entries>(ctx.txn, &key)? {
            table::put::<Entries>(ctx.txn, &key, &Entry { what: None, ..old });
        }
    }
    if let Some((target, edits)) = &plan.revision {
        table::put::<Revisions>(ctx.txn, &(entry.conv.clone(), *target), edits);
    }
    Ok(())
}

fn write_members(ctx: &mut Ctx<'_, '_>, entry: &Entry, plan: &mut Plan) {
    if plan.what.is_countable() {
        // In the first entry of a direct conversation the sender is among the joining.
        match plan.changes.get_mut(&entry.from) {
            Some(change) => change.row.n_sent = entry.n,
            None => {
                let mut row = plan.sender.take().expect("a member before the entry, or one that joins by it");
                row.n_sent = entry.n;
                table::put::<Members>(ctx.txn, &(entry.conv.clone(), entry.from.clone()), &row);
            }
        }
    }
    for (user, change) in &plan.changes {
        table::put::<Members>(ctx.txn, &(entry.conv.clone(), user.clone()), &change.row);
    }
}

/// Who is named, of the members that this message counts for.
fn write_mentions(ctx: &mut Ctx<'_, '_>, entry: &Entry) -> Result<(), Fatal> {
    let Some(What::Message { mentions, .. }) = entry.what.as_ref().filter(|what| what.is_countable()) else {
        return Ok(());
    };
    if mentions.is_empty() || !ctx.meta.has_level(limits::MENTIONS_LEVEL) {
        return Ok(());
    }
    for (at, user) in mentions.iter().enumerate().filter(|(_, user)| **user != entry.from) {
        if at > 0 && plant::on(Plant::OneMention) {
            continue;
        }
        if row_of(ctx.txn, &entry.conv, user)?.is_some_and(|row| row.is_member()) {
            table::put::<Mentions>(ctx.txn, &(entry.conv.clone(), user.clone(), entry.n), &entry.seq);
        }
    }
    Ok(())
}

/// Notes on the rosters whose part is owed, counts members in and out. Returns all targets to be told, and whether parts
/// are owed to them by this entry: those of the members after the entry, and of the users that it removed. In pull mode a
/// head is owed to nobody, so only those with parts.
fn write_rosters(ctx: &mut Ctx<'_, '_>, entry: &Entry, plan: &mut Plan) -> Result<BTreeMap<ShardId, bool>, Fatal> {
    let mut by_target: BTreeMap<ShardId, Vec<(&UserId, &Change)>> = BTreeMap::new();
    for (user, change) in &plan.changes {
        let target = ctx.meta.shard_of_user(user).expect("whoever owns the conversation's slot has a whole slot table");
        by_target.entry(target).or_default().push((user, change));
    }
    for (target, changes) in &by_target {
        let key = (entry.conv.clone(), *target);
        let mut roster = table::get::<Rosters>(ctx.txn, &key)?.unwrap_or_default();
        for (user, change) in changes {
            match change.step {
                Step::Joins => plan.conversation.count_in(*target),
                Step::Leaves => plan.conversation.count_out(*target),
                Step::Stays => {}
            }
            roster.owe(user, change.step != Step::Leaves, entry.seq);
        }
        table::put::<Rosters>(ctx.txn, &key, &roster);
    }
    let touched: BTreeSet<ShardId> = by_target.into_keys().collect();
    let pushed = if plan.conversation.mode == Mode::Push { plan.conversation.targets.as_slice() } else { &[] };
    let all = pushed.iter().map(|t| t.shard).chain(touched.iter().copied());
    Ok(all.map(|target| (target, touched.contains(&target))).collect())
}

fn raise(ctx: &mut Ctx<'_, '_>, target: ShardId, entry: &Entry, parts: bool) -> Result<DirtyRow, Fatal> {
    let key = (target, entry.conv.clone());
    let old = table::get::<Dirties>(ctx.txn, &key)?;
    let row = DirtyRow {
        from: old.map_or(entry.seq.prev(), |row| row.from),
        head: entry.seq,
        n_head: entry.n,
        last_id: entry.msg_id,
        last_ts: entry.ts,
        parts: if parts { entry.seq } else { old.map_or(Seq::ZERO, |row| row.parts) },
    };
    table::put::<Dirties>(ctx.txn, &key, &row);
    Ok(row)
}

fn remember(ctx: &mut Ctx<'_, '_>, entry: &Entry) -> Reply {
    let answer = Accepted {
        conv: entry.conv.clone(),
        seq: entry.seq,
        n: entry.n,
        msg_id: entry.msg_id,
        ts: entry.ts,
        chain: entry.chain,
        dup: false,
    };
    let age = ctx.meta.age();
    let row = DedupRow { body_hash: entry.body_hash, answer: answer.clone(), age };
    table::put::<Dedups>(ctx.txn, &(entry.conv.clone(), entry.from.clone(), entry.cid), &row);
    table::put::<DedupAges>(ctx.txn, &(age, entry.conv.clone(), entry.from.clone(), entry.cid), &());
    Reply::Accepted(answer)
}
