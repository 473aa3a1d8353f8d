//! Receipts are owed by rows in both directions: a user shard owes the user's watermarks to conversations, and a direct
//! conversation owes them to the peer's user shard.
//!
//! Invariant: a row is cleared only by the other side's answer, up to the answered marks. Effects tell what a row says as it is
//! written, so the rows themselves are read by a new leader, where something was not paid, and once in a while all the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_machine::command::{ClearReceipt, Receipt};
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use tokio::time::{Instant, timeout};

use super::Cluster;
use super::leader::Leader;

/// Receipts are not urgent: waiting a moment gathers many into one entry.
const GATHER: Duration = Duration::from_millis(100);
const BACKOFF: Duration = Duration::from_millis(500);
/// Effects may be lost: within this time the rows are looked at, which costs little where nothing is owed.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// One user's watermarks in one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    pub delivered: Seq,
    pub read: Seq,
}

impl Marks {
    pub fn raise(&mut self, other: Self) {
        *self = Self { delivered: self.delivered.max(other.delivered), read: self.read.max(other.read) };
    }

    fn of((user, conv): (UserId, ConvId), Self { delivered, read }: Self) -> Receipt {
        Receipt { user, conv, delivered, read }
    }
}

/// What one target is owed, as effects told it. None: its rows must be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owed(Option<BTreeMap<(UserId, ConvId), Marks>>);

impl Owed {
    pub fn of(Receipt { user, conv, delivered, read }: Receipt) -> Self {
        Self(Some(BTreeMap::from([((user, conv), Marks { delivered, read })])))
    }

    /// What does not fit one command is read, page by page.
    pub fn join(&mut self, other: Self) {
        let (Some(all), Some(others)) = (&mut self.0, other.0) else { return self.0 = None };
        for (key, marks) in others {
            all.entry(key).and_modify(|known| known.raise(marks)).or_insert(marks);
        }
        if all.len() > limits::RECEIPTS_PER_BATCH_MAX as usize {
            self.0 = None;
        }
    }
}

/// User shard -> conversations. All rows at first, and whenever something was not paid; what is told of later needs no look.
pub async fn run_due(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    loop {
        while !pay_rows(&cluster, &leader).await {
            tokio::time::sleep(BACKOFF).await;
        }
        let look_at = Instant::now() + LOOK_EVERY;
        while pay_news(&cluster, &leader, look_at).await {}
    }
}

async fn pay_rows(cluster: &Cluster, leader: &Leader) -> bool {
    let (mut after, mut paid) = (None, true);
    loop {
        let query = Query::ReceiptsDue { after: after.take(), limit: limits::RECEIPTS_PER_BATCH_MAX };
        let (items, more) = page(leader, query).await;
        after = items.last().filter(|_| more).map(|r| (r.user.clone(), r.conv.clone()));
        let page_paid = pay(cluster, leader, items).await;
        paid &= page_paid;
        if after.is_none() {
            return paid;
        }
        if !page_paid {
            tokio::time::sleep(BACKOFF).await;
        }
    }
}

/// False: the rows must be looked at.
async fn pay_news(cluster: &Cluster, leader: &Leader, look_at: Instant) -> bool {
    if timeout(look_at.saturating_duration_since(Instant::now()), leader.receipts_due.ready()).await.is_err() {
        return false;
    }
    tokio::time::sleep(GATHER).await;
    let taken = leader.receipts_due.take().await;
    let items: Vec<_> = taken.items.into_iter().map(|(key, marks)| Marks::of(key, marks)).collect();
    for part in items.chunks(limits::RECEIPTS_PER_BATCH_MAX as usize) {
        if !pay(cluster, leader, part.to_vec()).await {
            tokio::time::sleep(BACKOFF).await;
            return false;
        }
    }
    !taken.overflow && Instant::now() < look_at
}

/// All shards at once, and one clear for those that answered.
async fn pay(cluster: &Cluster, leader: &Leader, items: Vec<Receipt>) -> bool {
    let by_shard = by_shard(cluster, items, |table, r| table.shard_of_conversation(&r.conv));
    let mut failed = by_shard.is_none();
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
        failed |= !clear(leader, Command::ClearReceiptDue { items: cleared(paid) }).await;
    }
    cluster.metrics.receipt_retries.add(u64::from(failed));
    !failed
}

/// Direct conversations -> the peer's user shard.
pub async fn run_dirty(cluster: Arc<Cluster>, leader: Arc<Leader>) {
    let mut targets = all_targets(&cluster);
    let mut look_at = Instant::now() + LOOK_EVERY;
    loop {
        // All targets at once: their clears share an entry of the log.
        let drained = targets
            .into_iter()
            .map(async |(target, owed)| (!drain_target(&cluster, &leader, target, owed).await).then_some(target));
        let failed: Vec<_> = futures::future::join_all(drained).await.into_iter().flatten().collect();
        cluster.metrics.receipt_retries.add(failed.len() as u64);
        if failed.is_empty() {
            let rest = look_at.saturating_duration_since(Instant::now());
            let named = timeout(rest, next_dirty(&leader)).await.ok().flatten();
            targets = named.unwrap_or_else(|| {
                look_at = Instant::now() + LOOK_EVERY;
                all_targets(&cluster)
            });
        } else {
            tokio::time::sleep(BACKOFF).await;
            targets = failed.into_iter().map(|target| (target, Owed::default())).collect();
        }
    }
}

/// What is owed since the last time; none: all rows must be looked at.
async fn next_dirty(leader: &Leader) -> Option<BTreeMap<ShardId, Owed>> {
    leader.receipts_dirty.ready().await;
    tokio::time::sleep(GATHER).await;
    let taken = leader.receipts_dirty.take().await;
    (!taken.overflow).then_some(taken.items)
}

fn all_targets(cluster: &Cluster) -> BTreeMap<ShardId, Owed> {
    let state = cluster.tables.current();
    let shards = state.iter().flat_map(|s| s.placement.iter().map(|(shard, _)| *shard));
    shards.filter(|shard| *shard != ShardId::CONTROL).map(|shard| (shard, Owed::default())).collect()
}

async fn drain_target(cluster: &Cluster, leader: &Leader, target: ShardId, owed: Owed) -> bool {
    if let Some(marks) = owed.0 {
        let items = marks.into_iter().map(|(key, marks)| Marks::of(key, marks)).collect();
        return tell_peers(cluster, leader, target, items).await;
    }
    loop {
        let (items, more) = page(leader, Query::ReceiptsDirty { target, limit: limits::RECEIPTS_PER_BATCH_MAX }).await;
        if items.is_empty() {
            return true;
        }
        if !tell_peers(cluster, leader, target, items).await {
            return false;
        }
        if !more {
            return true;
        }
    }
}

async fn tell_peers(cluster: &Cluster, leader: &Leader, target: ShardId, items: Vec<Receipt>) -> bool {
    let command = Command::PeerMarks(items.clone());
    let done = matches!(cluster.shard_command(target, &command).await, Ok(Reply::Done));
    done && clear(leader, Command::ClearReceiptDirty { items: cleared(items) }).await
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

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(n: u128, delivered: u64, read: u64) -> Receipt {
        let user = UserId::parse("ann").expect("valid");
        Receipt { conv: ConvId::group(&user, Cid(n)), user, delivered: Seq(delivered), read: Seq(read) }
    }

    #[test]
    fn marks_of_one_conversation_ride_together_and_too_many_are_read() {
        let mut owed = Owed::of(receipt(1, 5, 2));
        owed.join(Owed::of(receipt(1, 4, 3)));
        assert_eq!(owed, Owed::of(receipt(1, 5, 3)));
        for n in 2..=u128::from(limits::RECEIPTS_PER_BATCH_MAX) {
            owed.join(Owed::of(receipt(n, 1, 1)));
        }
        assert!(owed.0.is_some());
        owed.join(Owed::of(receipt(999, 1, 1)));
        assert_eq!(owed, Owed::default());
        owed.join(Owed::of(receipt(1, 9, 9)));
        assert_eq!(owed, Owed::default(), "what was not kept cannot come back by what follows");
    }
}
