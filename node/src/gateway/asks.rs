//! What a session asks of the shards: rows, logs, counts, marks. Every answer that is not one is "ask again later".

use flotilla_machine::command::Mark;
use flotilla_machine::query::{EntriesPage, RowsPage};
use flotilla_machine::{Answer, Query};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::marks::Want;
use super::ops;
use super::shared::Shared;
use crate::backend::{Freshness, Route};

pub async fn rows(shared: &Shared, user: UserId, query: Query, freshness: Freshness) -> Option<RowsPage> {
    match shared.backend.query(Route::User(user), query, freshness).await {
        Ok(Answer::Rows(page)) => Some(page),
        _ => None,
    }
}

/// From any replica if its view is new enough, else from the leader.
pub async fn changed(
    shared: &Shared,
    user: UserId,
    device: DeviceId,
    since: Rev,
    at_least: Option<Rev>,
) -> Option<RowsPage> {
    shared.figures.row_looks.inc();
    let query = Query::Changed { user: user.clone(), device, since, limit: limits::ROWS_PER_PAGE };
    if let Some(wanted) = at_least {
        let page = rows(shared, user.clone(), query.clone(), Freshness::Any { min_seq: None }).await;
        if let Some(page) = page.filter(|p| p.rev >= wanted) {
            return Some(page);
        }
    }
    rows(shared, user, query, Freshness::Linearizable).await
}

pub async fn read_log(
    shared: &Shared,
    user: UserId,
    conv: &ConvId,
    from: Seq,
    to: Seq,
    fresh: bool,
) -> Option<EntriesPage> {
    let limit = limits::WINDOW_ENTRIES_PER_CONV as u32;
    let bytes_max = limits::LOG_READ_BYTES as u32;
    let query = Query::Entries { conv: conv.clone(), user, from, to, newest_first: false, limit, bytes_max };
    let freshness = match fresh {
        true => Freshness::Linearizable,
        false => Freshness::Any { min_seq: Some((conv.clone(), to)) },
    };
    ops::entries(shared, query, conv, freshness).await.ok()
}

pub async fn count_at(shared: &Shared, user: UserId, conv: &ConvId, seq: Seq) -> Result<Option<Count>, ()> {
    let page = read_log(shared, user, conv, seq, seq, false).await.ok_or(())?;
    Ok(page.entries.iter().find(|e| e.seq == seq).map(|e| e.n))
}

pub fn batch_of(user: &UserId, device: DeviceId, number: SessionNo, batch: Vec<Want>) -> Vec<Mark> {
    let mark = |w: Want| Mark {
        user: user.clone(),
        device,
        number,
        conv: w.conv,
        kind: w.kind,
        seq: w.seq,
        n: w.n,
        head: w.head,
        n_head: w.n_head,
    };
    batch.into_iter().map(mark).collect()
}
