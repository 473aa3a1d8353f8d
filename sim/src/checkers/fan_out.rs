//! Fan-out complete (I3): a target's dirty row goes, up to a head and a membership part, only after every member's row on that
//! target holds them. And no row says that its conversation goes further than it does (I9).

use std::ops::ControlFlow;

use flotilla_machine::conversation::tables::dirty::Dirties;
use flotilla_machine::conversation::tables::member::{MemberRow, Members};
use flotilla_machine::table::{self, KeyBuilder, Table, View};
use flotilla_machine::user::inbox::InboxTable;
use flotilla_proto::ids::{ConvId, Seq, ShardId, UserId};
use flotilla_proto::member::Mode;
use flotilla_proto::slots;

use super::world::Told;
use super::{Checker, Event, RowChange, Site, World};

pub struct FanOut;

impl Checker for FanOut {
    fn promise(&self) -> &'static str {
        "I3 fan-out complete"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, pointer, rows, .. } = event else { return Ok(0) };
        site.with_state(*shard, pointer, |view| {
            rows.iter().try_fold(0, |sum, row| on_row(world, view, row).map(|count| sum + count))
        })
        .map_err(|what| format!("node {}, shard {shard}: {what}", site.node))
    }
}

fn on_row(world: &World, view: &View<'_>, row: &RowChange) -> Result<u64, String> {
    if let Some(((target, conv), old, new)) = row.of::<Dirties>() {
        // Up to here the target is said to have answered.
        let confirmed = match (&old, &new) {
            (_, Some(new)) => new.from,
            (Some(old), None) => old.head,
            (None, None) => return Ok(0),
        };
        return members(view, &conv)
            .iter()
            .filter(|(user, _)| world.users.get(user) == Some(&target))
            .try_fold(0, |sum, member| told(world, target, &conv, confirmed, new.is_none(), member).map(|n| sum + n));
    }
    if let Some(((user, conv), _, Some(new))) = row.of::<InboxTable>() {
        let head = world.heads.get(&conv).copied().unwrap_or_default();
        if new.head > head {
            return Err(format!("{user}'s row of {conv} has head {}, the conversation only {head}", new.head));
        }
        return Ok(1);
    }
    Ok(0)
}

fn members(view: &View<'_>, conv: &ConvId) -> Vec<(UserId, MemberRow)> {
    let mut members = Vec::new();
    let prefix = KeyBuilder::new(Members::KIND).slot(slots::of_conversation(conv)).conv(conv).build();
    // A damaged row is the product's to find.
    let _ = table::scan_prefix::<Members>(view, &prefix, &mut |(_, user), row| {
        members.push((user, row));
        ControlFlow::Continue(())
    });
    members
}

fn told(
    world: &World,
    target: ShardId,
    conv: &ConvId,
    confirmed: Seq,
    gone: bool,
    (user, member): &(UserId, MemberRow),
) -> Result<u64, String> {
    let Told { head, mseq, .. } = world.inboxes.get(&(user.clone(), conv.clone())).copied().unwrap_or_default();
    let stays = member.part.intervals.last().is_some_and(|stay| stay.until.is_none() && stay.from <= confirmed);
    let owed = owed(world, conv, user, confirmed);
    if stays && head < owed {
        return Err(format!(
            "the dirty row of {conv} for shard {target} is cleared up to {confirmed}, {user}'s row there stands at {head}"
        ));
    }
    if gone && mseq < member.part.mseq {
        return Err(format!(
            "shard {target} is owed nothing of {conv} any more, and {user}'s membership of seq {} has not arrived",
            member.part.mseq
        ));
    }
    Ok(1)
}

/// The last entry up to `confirmed` that the user was owed. While its part says push mode that is every entry; in pull mode
/// the one that made the part, and no other. A switch makes a part of every member, so the part of that time tells the mode
/// of that time.
fn owed(world: &World, conv: &ConvId, user: &UserId, confirmed: Seq) -> Seq {
    let parts = world.models.get(conv).map(|(model, _)| &model.past);
    let then = parts.and_then(|past| past.range((user.clone(), Seq::ZERO)..=(user.clone(), confirmed)).next_back());
    match then {
        Some(((_, at), part)) if part.mode == Mode::Pull => *at,
        _ => confirmed,
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::ShardId;

    use super::super::testkit::{Bench, conv, dirty, inbox, member, said_to, user};
    use super::*;

    #[test]
    fn a_dirty_row_cleared_before_its_target_answered_and_a_head_from_nowhere_are_seen() {
        let bench = || {
            let mut bench = Bench::new(vec![Box::new(FanOut)]);
            bench.users(&["ann", "bob"]).apply_all(1, 2, said_to(5, vec![member("bob", 1), dirty(Some(5), 0)]));
            bench
        };
        assert_eq!(user("bob").as_str(), "bob");
        assert_eq!(conv().kind(), flotilla_proto::ids::ConvKind::Direct);
        bench().apply_all(1, 3, vec![inbox("bob", 5, 1)]).apply_all(1, 4, vec![dirty(None, 0)]).holds();
        bench().apply_all(1, 3, vec![dirty(None, 0)]).violates("I3 fan-out");
        bench()
            .apply_all(1, 3, vec![inbox("bob", 4, 1)])
            .apply_all(1, 4, vec![dirty(Some(5), 5)])
            .violates("I3 fan-out");
        bench().apply_all(1, 3, vec![inbox("bob", 6, 1)]).violates("I3 fan-out");
        assert_eq!(Bench::SHARD, ShardId(1));
    }
}
