//! Receipts are owed by rows in both directions: a user shard owes the user's watermarks to conversations, and a direct
//! conversation owes them to the peer's user shard.
//!
//! Invariant: a row is cleared only by the other side's answer, up to the answered marks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::command::{ClearReceipt, Receipt};
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::Cluster;
use super::leader::Leader;

/// Receipts are not urgent: waiting a moment gathers many into one entry.
const GATHER: Duration = Duration::from_millis(100);
const BACKOFF: Duration = Duration::from_millis(500);

/// User shard -> conversations.
pub async fn run_due(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    let mut after = None;
    // A page before this one was not paid whole: a later page without a failure must not end in waiting for news.
    let mut owing = false;
    loop {
        let query = Query::ReceiptsDue { after: after.take(), limit: limits::RECEIPTS_PER_BATCH_MAX };
        let (items, more) = page(&leader, query).await;
        if more {
            after = items.last().map(|r| (r.user.clone(), r.conv.clone()));
        }
        let by_shard = by_shard(&cluster, items, |table, r| table.shard_of_conversation(&r.conv));
        let mut failed = by_shard.is_none();
        // All shards at once, and one clear for those that answered.
        let asked = by_shard.into_iter().flatten().map(async |(shard, receipts)| {
            let done = cluster.shard_command(shard, &Command::Receipts(receipts.clone())).await;
            matches!(done, Ok(Reply::Done)).then_some(receipts)
        });
        let mut paid = Vec::new();
        for receipts in futures::future::join_all(asked).await {
            match receipts {
                Some(receipts) => paid.extend(receipts),
                None => failed = true,
            }
        }
        if !paid.is_empty() {
            failed |= !clear(&leader, Command::ClearReceiptDue { items: cleared(paid) }).await;
        }
        cluster.metrics.receipt_retries.add(u64::from(failed));
        owing |= failed;
        let is_last = after.is_none();
        if failed || (is_last && owing) {
            tokio::time::sleep(BACKOFF).await;
        } else if is_last {
            leader.receipts_due.notified().await;
            tokio::time::sleep(GATHER).await;
        }
        owing &= !is_last;
    }
}

/// Direct conversations -> the peer's user shard.
pub async fn run_dirty(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    let mut targets: Vec<ShardId> = all_targets(&cluster);
    loop {
        // All targets at once: their clears share an entry of the log.
        let drained =
            targets.into_iter().map(async |target| (!drain_target(&cluster, &leader, target).await).then_some(target));
        let failed: Vec<_> = futures::future::join_all(drained).await.into_iter().flatten().collect();
        cluster.metrics.receipt_retries.add(failed.len() as u64);
        if failed.is_empty() {
            let taken = leader.receipts_dirty.take().await;
            tokio::time::sleep(GATHER).await;
            targets = if taken.overflow { all_targets(&cluster) } else { taken.items.into_keys().collect() };
        } else {
            tokio::time::sleep(BACKOFF).await;
            targets = failed;
        }
    }
}

fn all_targets(cluster: &Cluster) -> Vec<ShardId> {
    let state = cluster.tables.current();
    state.iter().flat_map(|s| s.placement.iter().map(|(shard, _)| *shard)).filter(|s| *s != ShardId::CONTROL).collect()
}

async fn drain_target(cluster: &Cluster, leader: &Leader, target: ShardId) -> bool {
    loop {
        let (items, more) = page(leader, Query::ReceiptsDirty { target, limit: limits::RECEIPTS_PER_BATCH_MAX }).await;
        if items.is_empty() {
            return true;
        }
        let command = Command::PeerMarks(items.clone());
        let done = matches!(cluster.shard_command(target, &command).await, Ok(Reply::Done));
        if !done || !clear(leader, Command::ClearReceiptDirty { items: cleared(items) }).await {
            return false;
        }
        if !more {
            return true;
        }
    }
}

async fn page(leader: &Leader, query: Query) -> (Vec<Receipt>, bool) {
    loop {
        match leader.group.query(&query).await {
            Ok(Answer::Receipts { items, more }) => return (items, more),
            other => tracing::warn!(shard = %leader.shard, ?other, "cannot read owed receipts"),
        }
        tokio::time::sleep(BACKOFF).await;
    }
}

async fn clear(leader: &Leader, command: Command) -> bool {
    flotilla_raft::seam::fault::point("receipts.before_clear");
    let Ok(bytes) = command.encode() else { return false };
    matches!(leader.group.propose(bytes).await, Ok(Reply::Done))
}

fn cleared(receipts: Vec<Receipt>) -> Vec<ClearReceipt> {
    let clear = |r: Receipt| ClearReceipt { user: r.user, conv: r.conv, delivered: r.delivered, read: r.read };
    receipts.into_iter().map(clear).collect()
}

/// None while this node knows no table.
fn by_shard(
    cluster: &Cluster,
    items: Vec<Receipt>,
    shard: impl Fn(&flotilla_proto::slots::SlotTable, &Receipt) -> Option<ShardId>,
) -> Option<BTreeMap<ShardId, Vec<Receipt>>> {
    let state = cluster.tables.current()?;
    let mut map: BTreeMap<ShardId, Vec<Receipt>> = BTreeMap::new();
    for item in items {
        map.entry(shard(&state.slots, &item)?).or_default().push(item);
    }
    Some(map)
}
