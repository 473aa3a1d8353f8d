//! Push or pull: who writes the heads of a conversation into its members' rows.
//!
//! In push mode every entry owes its head to every user shard with a member. In pull mode an entry owes nothing but the parts
//! of those whom it touches; gateways subscribe. The switch is the entry that crosses a threshold: by it every member gets a
//! part with the new mode, and its seq as `mseq`. So what the old mode owed is owed until every user shard has confirmed the
//! new mode, with the head at the switch: the dirty rows and rosters hold it, like every change of membership.
//!
//! A group may be above the threshold before it can switch: it grew at a level without pull mode. It switches with its next
//! change of membership that has room for telling all its members (`ROWS_PER_COMMAND_MAX`). With 500 members on more than 246
//! shards none has: such a group stays in push mode, and as small as groups are there, until enough of them have left. At
//! feature level 3 it cannot change at all.
//!
//! Table `pull_rule`, key `06`: the thresholds, if they are others than the defaults. Read on changes of membership only.

use std::collections::BTreeMap;

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::member::Mode;

use super::plan::{Asked, Change, Plan, Step, row_of};
use super::tables::roster::Rosters;
use crate::Fatal;
use crate::apply::{Ctx, Outcome, Stop};
use crate::command::PullRule;
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyBuilder, KeyReader, Rows, Table, kind};

pub struct PullRuleTable;

impl Table for PullRuleTable {
    const NAME: &'static str = "pull_rule";
    const KIND: u8 = kind::PULL_RULE;
    const VERSION: u8 = 1;
    type Key = ();
    type Row = PullRule;

    fn key(_: &()) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).build()
    }

    fn parse(_: &mut KeyReader<'_>) -> Option<()> {
        Some(())
    }
}

fn rule(rows: &dyn Rows) -> Result<PullRule, Fatal> {
    Ok(table::get::<PullRuleTable>(rows, &())?.unwrap_or_default())
}

/// Takes a rule of a higher version; an older one, or the same again, changes nothing.
pub fn set_pull_rule(ctx: &mut Ctx<'_, '_>, asked: PullRule) -> Outcome {
    if asked.below > asked.above || asked.above > limits::PUSH_MEMBERS_MAX {
        return Err(Rejection::Validation("a group goes back to push mode below where it left it".into()).into());
    }
    if asked.version > rule(ctx.txn)?.version {
        table::put::<PullRuleTable>(ctx.txn, &(), &asked);
    }
    Ok(Reply::Done)
}

/// Gives the changes of this entry the mode that the conversation has from it on, and all members if it is another one.
pub fn settle(asked: &Asked<'_>, plan: &mut Plan) -> Result<(), Stop> {
    if plan.changes.is_empty() || !asked.meta.has_level(limits::PULL_LEVEL) {
        return Ok(());
    }
    let rule = rule(asked.rows)?;
    let mut mode = mode_after(asked, plan, &rule);
    if mode != plan.conversation.mode && plan.conversation.head > Seq::ZERO {
        let others = others(asked, plan)?;
        let may_stay = asked.meta.has_level(limits::EXACT_ROWS_LEVEL) && is_late(plan, &rule);
        if may_stay && !plan.has_room_for(asked.meta, others.keys()) {
            check_push(plan)?;
            mode = plan.conversation.mode;
        } else {
            plan.changes.extend(others);
        }
    }
    plan.conversation.mode = mode;
    for change in plan.changes.values_mut() {
        change.row.part.mode = mode;
    }
    Ok(())
}

fn mode_after(asked: &Asked<'_>, plan: &Plan, rule: &PullRule) -> Mode {
    if asked.append.conv.kind() == ConvKind::Channel {
        return Mode::Pull;
    }
    let members = members_after(plan);
    match plan.conversation.mode {
        Mode::Push if members > rule.above => Mode::Pull,
        Mode::Pull if members < rule.below => Mode::Push,
        same => same,
    }
}

fn count(plan: &Plan, step: Step) -> u32 {
    plan.changes.values().filter(|change| change.step == step).count() as u32
}

fn members_after(plan: &Plan) -> u32 {
    (plan.conversation.members() + count(plan, Step::Joins)).saturating_sub(count(plan, Step::Leaves))
}

/// It was above the threshold before this entry. One that crosses it by adding too many at once shall add fewer.
fn is_late(plan: &Plan, rule: &PullRule) -> bool {
    plan.conversation.mode == Mode::Push && plan.conversation.members() > rule.above
}

/// A message in push mode writes a row for each member.
fn check_push(plan: &Plan) -> Result<(), Rejection> {
    let grows = count(plan, Step::Joins) > 0;
    if grows && members_after(plan) as usize > limits::GROUP_MEMBERS_MAX {
        return Err(Rejection::ConversationFull);
    }
    Ok(())
}

/// Every member whom the entry does not touch anyway, with a part of this entry. They are few: the switch is at a small number
/// of members, both ways, and a late one is bounded by what fits.
fn others(asked: &Asked<'_>, plan: &Plan) -> Result<BTreeMap<UserId, Change>, Fatal> {
    let conv = &asked.append.conv;
    let mut others = BTreeMap::new();
    for target in &plan.conversation.targets {
        let roster = table::get::<Rosters>(asked.rows, &(conv.clone(), target.shard))?.unwrap_or_default();
        for listed in roster.users.into_iter().filter(|listed| listed.current) {
            if plan.changes.contains_key(&listed.user) {
                continue;
            }
            if let Some(mut row) = row_of(asked.rows, conv, &listed.user)? {
                row.part.mseq = asked.seq;
                others.insert(listed.user, Change { row, step: Step::Stays });
            }
        }
    }
    Ok(others)
}

/// A row names all members of one user shard.
pub fn check_targets(asked: &Asked<'_>, plan: &Plan) -> Result<(), Rejection> {
    let mut counts: BTreeMap<ShardId, usize> = BTreeMap::new();
    counts.extend(plan.conversation.targets.iter().map(|target| (target.shard, target.members as usize)));
    for (user, _) in plan.changes.iter().filter(|(_, change)| change.step == Step::Joins) {
        if let Some(shard) = asked.meta.shard_of_user(user) {
            *counts.entry(shard).or_default() += 1;
        }
    }
    if counts.values().all(|count| *count <= limits::MEMBERS_PER_TARGET_MAX) {
        Ok(())
    } else {
        Err(Rejection::ConversationFull)
    }
}
