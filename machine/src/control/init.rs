//! The cluster's first command.

use std::collections::BTreeSet;

use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::tables::*;
use super::{changed, check_node};
use crate::apply::{Ctx, Outcome};
use crate::command::{Control, KeyRow, NodeInfo};
use crate::meta;
use crate::reply::{Rejection, Reply};
use crate::table;

/// Once: a second one, also the same again, is refused; who asks reads what there is.
pub fn init(ctx: &mut Ctx<'_, '_>, command: &Control) -> Outcome {
    let Control::Init { cluster, epoch, slots, settings, placement, nodes, keys } = command else {
        return Err(Rejection::Validation("not an init".into()).into());
    };
    if table::get::<ClusterTable>(ctx.txn, &())?.is_some() {
        return Err(Rejection::Conflict("the cluster is initialised".into()).into());
    }
    if !slots.is_whole() {
        return Err(Rejection::Validation("a slot table names an owner for every slot".into()).into());
    }
    meta::check_level(settings.feature_level)?;
    meta::check_settings(settings)?;
    check_rows(placement, nodes, keys)?;
    let replicas = placement.iter().flat_map(|(_, replicas)| replicas);
    let generation = replicas.map(|r| r.generation).max().unwrap_or_default();
    for (shard, replicas) in placement {
        let row = Placement { replicas: replicas.clone(), retiring: Vec::new() };
        table::put::<PlacementTable>(ctx.txn, shard, &row);
    }
    for info in nodes {
        let row = Node { info: info.clone(), incarnation: Incarnation(0), boot: 0, lapsed: false };
        table::put::<NodeTable>(ctx.txn, &info.node, &row);
    }
    for key in keys {
        table::put::<KeyTable>(ctx.txn, &key.id, key);
    }
    table::put::<ControlSlotsTable>(ctx.txn, &(), slots);
    table::put::<ControlSettingsTable>(ctx.txn, &(), settings);
    changed(ctx, ClusterRow { version: 0, cluster: *cluster, epoch: *epoch, generation });
    Ok(Reply::Done)
}

fn refuse(what: &str) -> Result<(), Rejection> {
    Err(Rejection::Validation(what.into()))
}

fn check_rows(placement: &[(ShardId, Vec<ReplicaId>)], nodes: &[NodeInfo], keys: &[KeyRow]) -> Result<(), Rejection> {
    if placement.len().saturating_add(nodes.len()).saturating_add(keys.len()).saturating_add(3)
        > limits::ROWS_PER_COMMAND_MAX
    {
        return refuse("an init makes at most 1,000 rows: begin with fewer shards");
    }
    if nodes.len() > limits::NODES_MAX || keys.len() > limits::SIGNING_KEYS_MAX {
        return refuse("too many nodes or keys");
    }
    nodes.iter().try_for_each(check_node)?;
    let shards: BTreeSet<_> = placement.iter().map(|(shard, _)| *shard).collect();
    let ids: BTreeSet<_> = nodes.iter().map(|n| n.node).collect();
    let key_ids: BTreeSet<_> = keys.iter().map(|k| k.id).collect();
    if shards.len() != placement.len() || ids.len() != nodes.len() || key_ids.len() != keys.len() {
        return refuse("a shard, node or key is named twice");
    }
    if shards.iter().any(|s| s.0 > limits::SHARDS_MAX) {
        return refuse("a shard's number is too high");
    }
    let few = |replicas: &Vec<ReplicaId>| {
        let distinct: BTreeSet<_> = replicas.iter().collect();
        replicas.len() <= limits::REPLICAS_PER_SHARD_MAX && distinct.len() == replicas.len()
    };
    if !placement.iter().all(|(_, replicas)| few(replicas)) {
        return refuse("a shard's replicas are too many or named twice");
    }
    if keys.iter().any(|k| k.wrapped.len() > limits::WRAPPED_KEY_BYTES_MAX) {
        return refuse("a wrapped key is too long");
    }
    Ok(())
}
