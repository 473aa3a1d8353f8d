//! The control group: nodes, incarnations, placement, settings, keys, limits on clients.
//!
//! Invariants: initialised once; a node's incarnation rises with every registration and is fenced in every shard before
//! it is forgotten; a replica generation is never given twice; `version` rises with every change, and only then.
//!
//! It does not know leases, health or the groups' own memberships: who proposes these commands does.

pub mod boot;
pub mod client_limits;
mod init;
pub mod tables;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use crate::apply::{Ctx, Outcome, Stop};
use crate::command::{Control, NodeInfo};
use crate::effect::Effect;
use crate::meta::{self, Meta};
use crate::query::{Answer, ControlState, NodeRow};
use crate::reply::{Rejection, Reply};
use crate::table::{self, Rows, Table, View};
use crate::{Fatal, Txn};
use tables::*;

pub fn apply(ctx: &mut Ctx<'_, '_>, command: &Control) -> Outcome {
    if ctx.meta.shard != ShardId::CONTROL {
        return Err(Rejection::Validation("control commands belong to the control group".into()).into());
    }
    match command {
        Control::Init { .. } => init::init(ctx, command),
        Control::RegisterNode { node, boot } => register_node(ctx, node, *boot),
        Control::LapseNode { node, incarnation } => lapse_node(ctx, *node, *incarnation),
        Control::AllocateReplica { shard, node, replaces } => allocate_replica(ctx, *shard, *node, *replaces),
        Control::ForgetReplica { shard, replica } => forget_replica(ctx, *shard, *replica),
        Control::FenceDone { shard, node, lowest } => fence_done(ctx, *shard, *node, *lowest),
        Control::SetClientLimits { changes } => client_limits::set(ctx, changes),
        Control::RaiseLevel { level } => raise_level(ctx, *level),
    }
}

/// The feature level that the cluster was made with; before that the lowest.
pub fn level(txn: &Txn<'_>) -> Result<u32, Fatal> {
    let level = table::get::<ControlSettingsTable>(txn, &())?.map_or(1, |settings| settings.feature_level);
    meta::check_level(level)?;
    Ok(level)
}

fn cluster(txn: &Txn<'_>) -> Result<ClusterRow, Stop> {
    let row = table::get::<ClusterTable>(txn, &())?;
    row.ok_or_else(|| Rejection::Conflict("the cluster is not initialised".into()).into())
}

/// Something changed: watchers see a higher version.
fn changed(ctx: &mut Ctx<'_, '_>, mut cluster: ClusterRow) {
    cluster.version = cluster.version.saturating_add(1);
    table::put::<ClusterTable>(ctx.txn, &(), &cluster);
    ctx.effects.push(Effect::Control);
}

fn check_node(node: &NodeInfo) -> Result<(), Rejection> {
    let short = |text: &str| text.len() <= limits::ADDRESS_BYTES_MAX;
    if node.node.0 == 0 {
        return Err(Rejection::Validation("node ids begin at 1".into()));
    }
    if short(&node.peer_addr) && short(&node.client_url) {
        Ok(())
    } else {
        Err(Rejection::Validation(format!("an address has at most {} bytes", limits::ADDRESS_BYTES_MAX)))
    }
}

/// Every registration is a new life, also within one boot: a gateway that learns that its incarnation is dead comes again.
fn register_node(ctx: &mut Ctx<'_, '_>, info: &NodeInfo, boot: u64) -> Outcome {
    let cluster = cluster(ctx.txn)?;
    check_node(info)?;
    let old = table::get::<NodeTable>(ctx.txn, &info.node)?;
    let (known, incarnation) = old.as_ref().map_or((0, 0), |row| (row.boot, row.incarnation.0));
    if boot < known {
        return Err(Rejection::Conflict(format!(
            "the data directory of node {} was rolled back or copied: it says boot {}, the cluster has seen boot {}. Do \
             not start from it: wipe it and let the node come back as a new replica",
            info.node,
            boot::Shown(boot),
            boot::Shown(known)
        ))
        .into());
    }
    if old.is_none() && all::<NodeTable>(ctx.txn)?.len() >= limits::NODES_MAX {
        return Err(Rejection::Validation(format!("a cluster has at most {} nodes", limits::NODES_MAX)).into());
    }
    let incarnation = Incarnation(
        incarnation.checked_add(1).ok_or_else(|| Rejection::Conflict("the incarnations are used up".into()))?,
    );
    owe_fence(ctx.txn, info.node, incarnation)?;
    table::put::<NodeTable>(ctx.txn, &info.node, &Node { info: info.clone(), incarnation, boot, lapsed: false });
    changed(ctx, cluster);
    Ok(Reply::Registered { incarnation })
}

/// Only the current life can lapse: a lapse that was decided before the node came back must not fence the new one.
fn lapse_node(ctx: &mut Ctx<'_, '_>, node: NodeId, incarnation: Incarnation) -> Outcome {
    let cluster = cluster(ctx.txn)?;
    let mut row = table::get::<NodeTable>(ctx.txn, &node)?.ok_or(Rejection::NotFound)?;
    if row.incarnation != incarnation {
        return Err(Rejection::Conflict(format!("node {node} is at incarnation {}", row.incarnation)).into());
    }
    if row.lapsed {
        return Ok(Reply::Done);
    }
    row.lapsed = true;
    owe_fence(ctx.txn, node, Incarnation(incarnation.0.saturating_add(1)))?;
    table::put::<NodeTable>(ctx.txn, &node, &row);
    changed(ctx, cluster);
    Ok(Reply::Done)
}

/// With it goes what the level allows: as many members as a cluster has that is made at it, where nobody has set another number.
fn raise_level(ctx: &mut Ctx<'_, '_>, level: u32) -> Outcome {
    meta::check_level(level)?;
    let cluster = cluster(ctx.txn)?;
    let Some(mut settings) = table::get::<ControlSettingsTable>(ctx.txn, &())? else {
        return Err(Rejection::NotFound.into());
    };
    if level <= settings.feature_level {
        return Ok(Reply::Done);
    }
    if settings.group_members_max == meta::members_max(settings.feature_level) {
        settings.group_members_max = meta::members_max(level);
    }
    settings.feature_level = level;
    settings.version = settings.version.saturating_add(1);
    table::put::<ControlSettingsTable>(ctx.txn, &(), &settings);
    changed(ctx, cluster);
    Ok(Reply::Done)
}

/// Every shard with sessions, old or new, has to take this fence.
fn owe_fence(txn: &mut Txn<'_>, node: NodeId, lowest: Incarnation) -> Result<(), Fatal> {
    let placed = all::<PlacementTable>(txn)?;
    let shards = placed.into_iter().map(|(shard, _)| shard).filter(|s| *s != ShardId::CONTROL).collect();
    table::put::<OwedTable>(txn, &node, &Owed { lowest, shards });
    Ok(())
}

/// An answer to an older fence settles nothing.
fn fence_done(ctx: &mut Ctx<'_, '_>, shard: ShardId, node: NodeId, lowest: Incarnation) -> Outcome {
    let cluster = cluster(ctx.txn)?;
    let Some(mut owed) = table::get::<OwedTable>(ctx.txn, &node)? else { return Ok(Reply::Done) };
    if lowest < owed.lowest || !owed.shards.contains(&shard) {
        return Ok(Reply::Done);
    }
    owed.shards.retain(|s| *s != shard);
    if owed.shards.is_empty() {
        table::delete::<OwedTable>(ctx.txn, &node);
    } else {
        table::put::<OwedTable>(ctx.txn, &node, &owed);
    }
    changed(ctx, cluster);
    Ok(Reply::Done)
}

/// A replica id above all ever given. Not idempotent: one that its asker never heard of is forgotten by the reconciler.
/// Each call gives a fresh id, and retires whatever else of this group the node was given before, for a node runs one
/// replica of a group. So neither a lost reply nor a node that knows old tables leaves a replica in the placement that
/// nobody runs: it would be waited for without end. (An id given before must not be given again: 1. a node's replica is
/// replaced, 2. its disk falls back to before that, 3. handed the same id once more it would vote without its old votes.)
fn allocate_replica(ctx: &mut Ctx<'_, '_>, shard: ShardId, node: NodeId, replaces: Option<ReplicaId>) -> Outcome {
    let mut cluster = cluster(ctx.txn)?;
    table::get::<NodeTable>(ctx.txn, &node)?.ok_or(Rejection::NotFound)?;
    let mut placement = table::get::<PlacementTable>(ctx.txn, &shard)?.ok_or(Rejection::NotFound)?;
    if placement.replicas.len() >= limits::REPLICAS_PER_SHARD_MAX {
        let max = limits::REPLICAS_PER_SHARD_MAX;
        return Err(Rejection::Validation(format!("a group has at most {max} replicas, leaving ones included")).into());
    }
    if let Some(old) = replaces {
        if old.node != node {
            return Err(Rejection::Conflict(format!("{old} is not a replica of node {node}")).into());
        }
        for given in placement.replicas.iter().filter(|given| given.node == node) {
            if !placement.retiring.contains(given) {
                placement.retiring.push(*given);
            }
        }
    }
    let next = cluster.generation.0.checked_add(1);
    cluster.generation =
        Generation(next.ok_or_else(|| Rejection::Conflict("the replica generations are used up".into()))?);
    let replica = ReplicaId::new(node, cluster.generation);
    placement.replicas.push(replica);
    table::put::<PlacementTable>(ctx.txn, &shard, &placement);
    changed(ctx, cluster);
    Ok(Reply::Replica(replica))
}

fn forget_replica(ctx: &mut Ctx<'_, '_>, shard: ShardId, replica: ReplicaId) -> Outcome {
    let cluster = cluster(ctx.txn)?;
    let mut placement = table::get::<PlacementTable>(ctx.txn, &shard)?.ok_or(Rejection::NotFound)?;
    if !placement.replicas.contains(&replica) {
        return Ok(Reply::Done);
    }
    placement.replicas.retain(|r| *r != replica);
    placement.retiring.retain(|r| *r != replica);
    table::put::<PlacementTable>(ctx.txn, &shard, &placement);
    changed(ctx, cluster);
    Ok(Reply::Done)
}

type All<T> = Vec<(<T as Table>::Key, <T as Table>::Row)>;

/// All rows of a table that holds few.
fn all<T: Table>(rows: &dyn Rows) -> Result<All<T>, Fatal> {
    let mut found = Vec::new();
    table::scan_prefix::<T>(rows, &[T::KIND], &mut |key, row| {
        found.push((key, row));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

pub fn query(view: &View<'_>, meta: &Meta) -> Result<Answer, Fatal> {
    if meta.shard != ShardId::CONTROL {
        return Ok(Answer::ControlState(None));
    }
    state(view).map(Answer::ControlState)
}

/// What is set of the limits on clients.
pub fn client_limits(view: &View<'_>, meta: &Meta) -> Result<Answer, Fatal> {
    let row = match meta.shard {
        ShardId::CONTROL => table::get::<client_limits::ClientLimitsTable>(view, &())?,
        _ => None,
    };
    Ok(Answer::ClientLimits(row.unwrap_or_default()))
}

fn state(view: &View<'_>) -> Result<Option<ControlState>, Fatal> {
    let parts = (
        table::get::<ClusterTable>(view, &())?,
        table::get::<ControlSlotsTable>(view, &())?,
        table::get::<ControlSettingsTable>(view, &())?,
    );
    let (Some(cluster), Some(slots), Some(settings)) = parts else { return Ok(None) };
    let placed = all::<PlacementTable>(view)?;
    let retiring = placed.iter().flat_map(|(shard, row)| row.retiring.iter().map(|r| (*shard, *r))).collect();
    let owed = all::<OwedTable>(view)?;
    let mut fences_owed: Vec<_> =
        owed.iter().flat_map(|(node, owed)| owed.shards.iter().map(|s| (*s, *node, owed.lowest))).collect();
    fences_owed.sort();
    let node = |(_, row): (NodeId, Node)| NodeRow {
        info: row.info,
        incarnation: row.incarnation,
        boot: row.boot,
        lapsed: row.lapsed,
    };
    Ok(Some(ControlState {
        version: cluster.version,
        cluster: cluster.cluster,
        epoch: cluster.epoch,
        slots,
        settings,
        retiring,
        placement: placed.into_iter().map(|(shard, row)| (shard, row.replicas)).collect(),
        nodes: all::<NodeTable>(view)?.into_iter().map(node).collect(),
        keys: all::<KeyTable>(view)?.into_iter().map(|(_, key)| key).collect(),
        fences_owed,
    }))
}
