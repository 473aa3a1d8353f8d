//! Reads the logs of several conversations for one look at an inbox.
//!
//! Invariant: a shard that cannot answer now holds up neither the others nor whoever looks: shards are asked beside each other,
//! all of them for a bounded time, and one that did not answer is left out for a while. Nothing is lost by that: what was not
//! read is pending still, and the next look tries again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use flotilla_machine::Query;
use flotilla_machine::query::InboxRow;
use flotilla_proto::frame::ErrorBody;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::accounts::Me;
use crate::backend::{CallError, Freshness, Route};
use crate::gateway::shared::Shared;
use crate::gateway::window::{self, Item};
use crate::gateway::{errors, ops};

/// One look takes about so long at most.
pub const LOOK_MAX: Duration = Duration::from_secs(2);
/// A shard that did not answer is left out for so long.
const DOWN: Duration = Duration::from_secs(3);

/// A conversation with something pending, and what of it is wanted.
pub struct Wanted {
    pub row: InboxRow,
    pub from: Seq,
    pub head: Seq,
}

/// What was learnt by earlier looks.
#[derive(Default)]
pub struct Logs {
    /// Until when each of these is left out; one entry for a shard at most.
    down: BTreeMap<ShardId, Instant>,
}

struct Read {
    shard: Option<ShardId>,
    wanted: Wanted,
    /// Of the same shard.
    rest: VecDeque<Wanted>,
    items: Result<Vec<Item>, ErrorBody>,
}

impl Logs {
    fn shard_of(shared: &Shared, conv: &ConvId) -> Option<ShardId> {
        shared.backend.shard_of(&Route::Conv(conv.clone()))
    }

    /// It is not asked now.
    pub fn is_down(&self, shared: &Shared, conv: &ConvId) -> bool {
        let shard = Self::shard_of(shared, conv);
        shard.and_then(|shard| self.down.get(&shard)).is_some_and(|until| Instant::now() < *until)
    }

    /// Gives `take` what each conversation holds, as it comes, until that says that it has enough or time is up. Whether all of
    /// them were read.
    pub async fn read(
        &mut self,
        shared: &Shared,
        me: &Me,
        wanted: Vec<Wanted>,
        until: Instant,
        mut take: impl FnMut(&Wanted, Vec<Item>) -> bool,
    ) -> bool {
        let mut whole = true;
        let mut waiting = by_shard(wanted, |conv| Self::shard_of(shared, conv));
        let mut reading = FuturesUnordered::new();
        loop {
            while reading.len() < limits::INBOX_SHARDS_AT_ONCE
                && let Some((shard, mut rest)) = waiting.pop_front()
            {
                if let Some(wanted) = rest.pop_front() {
                    reading.push(read_first(shared, me, shard, wanted, rest, until));
                }
            }
            let Some(Read { shard, wanted, rest, items }) = reading.next().await else { return whole };
            match items {
                Ok(items) => {
                    if let Some(shard) = shard {
                        self.down.remove(&shard);
                    }
                    if !take(&wanted, items) {
                        return whole && rest.is_empty() && waiting.is_empty() && reading.is_empty();
                    }
                    waiting.push_back((shard, rest));
                }
                Err(error) => {
                    whole = false;
                    tracing::debug!(conv = %wanted.row.conv, %error, "a conversation cannot be read now, a later look tries again");
                    // If nothing can be read there now, the others there are left as well.
                    if let Some(shard) = shard.filter(|_| error.retryable) {
                        self.down.insert(shard, Instant::now() + DOWN);
                    } else {
                        waiting.push_back((shard, rest));
                    }
                }
            }
        }
    }
}

/// None: it was not done in time.
pub async fn before<T>(until: Instant, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(until.saturating_duration_since(Instant::now()), work).await.ok()
}

pub fn too_late() -> ErrorBody {
    errors::of_call(CallError::Unavailable)
}

async fn read_first(
    shared: &Shared,
    me: &Me,
    shard: Option<ShardId>,
    wanted: Wanted,
    rest: VecDeque<Wanted>,
    until: Instant,
) -> Read {
    let items = before(until, pending(shared, me, &wanted)).await.unwrap_or_else(|| Err(too_late()));
    Read { shard, wanted, rest, items }
}

/// In turn, so that none waits behind another shard. Where it is not known where they live, each stands alone.
fn by_shard(
    wanted: Vec<Wanted>,
    shard_of: impl Fn(&ConvId) -> Option<ShardId>,
) -> VecDeque<(Option<ShardId>, VecDeque<Wanted>)> {
    let mut queues: BTreeMap<ShardId, VecDeque<Wanted>> = BTreeMap::new();
    let mut alone = VecDeque::new();
    for wanted in wanted {
        match shard_of(&wanted.row.conv) {
            Some(shard) => queues.entry(shard).or_default().push_back(wanted),
            None => alone.push_back((None, VecDeque::from([wanted]))),
        }
    }
    queues.into_iter().map(|(shard, queue)| (Some(shard), queue)).chain(alone).collect()
}

/// Entries and gaps of one conversation.
async fn pending(shared: &Shared, me: &Me, wanted: &Wanted) -> Result<Vec<Item>, ErrorBody> {
    let Wanted { row, from, head } = wanted;
    let (conv, user, bytes_max) = (row.conv.clone(), me.user.clone(), limits::LOG_READ_BYTES as u32);
    let (from, to) = (*from, *head);
    let query =
        Query::Entries { conv, user, from, to, newest_first: false, limit: limits::INBOX_LOG_ENTRIES_MAX, bytes_max };
    let freshness = Freshness::Any { min_seq: Some((row.conv.clone(), to)) };
    let page = ops::entries(shared, query, &row.conv, freshness).await?;
    Ok(window::explain(&page, from, to))
}
