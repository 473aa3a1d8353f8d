//! Rows of conversations in pull mode: their heads are not written to them, so whoever reads one asks the conversation.
//!
//! A session subscribes by looking ([`stand`]); a request without a session asks once ([`stand_once`]). A device that is new
//! takes its places before its first `ready` ([`place`]).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use flotilla_machine::command::PulledHead;
use flotilla_machine::query::{InboxRow, RowsPage, Standing};
use flotilla_machine::{Answer, Command, Query, Reply};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use futures::stream::{self, StreamExt};

use super::shared::Shared;
use crate::backend::{CallError, Freshness, Route};

/// Pages of conversations in which a new device takes its place.
const PLACE_ROUNDS: usize = limits::CONVERSATIONS_PER_USER_MAX / limits::NOTIFY_USERS_PER_COMMAND_MAX + 2;

fn merge(row: &mut InboxRow, standing: Option<Standing>) -> bool {
    let Some(standing) = standing else { return false };
    if let Some(own) = standing.users.first().cloned().flatten() {
        row.merge_standing(&standing, &own);
    }
    true
}

/// Puts the heads into the rows, and subscribes the session. The conversations that cannot tell now.
pub async fn stand(shared: &Shared, session: u64, user: &UserId, rows: &mut [InboxRow]) -> Vec<ConvId> {
    let mut pulled: Vec<&mut InboxRow> = rows.iter_mut().filter(|row| row.part.is_pulled()).collect();
    if pulled.is_empty() {
        return Vec::new();
    }
    let convs = pulled.iter().map(|row| (row.conv.clone(), row.part.mseq)).collect();
    let standings = shared.backend.pulled(session, user.clone(), convs).await;
    let mut behind = Vec::new();
    for (row, standing) in pulled.iter_mut().zip(standings) {
        if !merge(row, standing) {
            behind.push(row.conv.clone());
        }
    }
    behind
}

pub async fn stand_page(shared: &Shared, session: u64, user: &UserId, page: Option<RowsPage>) -> Option<RowsPage> {
    let mut page = page?;
    stand(shared, session, user, &mut page.rows).await;
    Some(page)
}

async fn ask(shared: &Shared, user: &UserId, conv: ConvId, freshness: Freshness) -> Result<Standing, CallError> {
    let query = Query::Standing { conv: conv.clone(), users: vec![user.clone()] };
    match shared.backend.query(Route::Conv(conv), query, freshness).await? {
        Answer::Standing(standing) => Ok(standing),
        _ => Err(CallError::Unavailable),
    }
}

/// As [`stand`], without a subscription. Rows whose conversation cannot tell now stay as they are; whether there are none.
pub async fn stand_once(shared: &Shared, user: &UserId, rows: &mut [InboxRow], freshness: &Freshness) -> bool {
    let pulled: Vec<&mut InboxRow> = rows.iter_mut().filter(|row| row.part.is_pulled()).collect();
    let all = AtomicBool::new(true);
    stream::iter(pulled)
        .for_each_concurrent(limits::STANDINGS_AT_ONCE, async |row| {
            let standing = ask(shared, user, row.conv.clone(), freshness.clone()).await;
            all.fetch_and(merge(row, standing.ok()), Ordering::Relaxed);
        })
        .await;
    all.into_inner()
}

/// Devices that are known to have their places: one that has them never lacks one again, for whatever comes later gives
/// every registered device its cursor. So each is asked about once.
#[derive(Default)]
pub struct Placed(Mutex<BTreeSet<DeviceId>>);

impl Placed {
    fn has(&self, device: DeviceId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&device)
    }

    fn put(&self, device: DeviceId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= limits::PLACED_REMEMBERED_MAX {
            known.clear();
        }
        known.insert(device);
    }
}

/// Has a device that is new take its place in every conversation in pull mode; nothing is done for others. Below the
/// level of pull mode no places are asked for: 1. nodes are upgraded one by one, 2. the leader of the user's shard still runs a
/// build that does not know the question, 3. no new device of its users would get in.
///
/// But the level is what this node has heard of, and the shards may be ahead. A device that is let in without its places lacks
/// what is said from then on: 1. it gets `ready`, 2. an entry is said, 3. it comes back, and its place is found at the head
/// behind that, or no head tells of it. So the rows must say that there is nothing to take a place in.
pub async fn place(shared: &Shared, user: &UserId, device: DeviceId) -> Result<(), CallError> {
    if shared.placed.has(device) {
        return Ok(());
    }
    if shared.node().level >= limits::PULL_LEVEL {
        place_all(shared, user, device).await?;
    } else {
        check_all_pushed(shared, user, device).await?;
    }
    shared.placed.put(device);
    Ok(())
}

/// From any state that knows the device: a row that turns to pull mode since it was registered has its place. None: the device
/// is gone, for good; whoever asked finds out by itself.
async fn rows_of(
    shared: &Shared,
    user: &UserId,
    query: Query,
    freshness: &mut Freshness,
) -> Result<Option<RowsPage>, CallError> {
    loop {
        match shared.backend.query(Route::User(user.clone()), query.clone(), freshness.clone()).await? {
            Answer::Rows(page) => return Ok(Some(page)),
            _ if *freshness != Freshness::Linearizable => *freshness = Freshness::Linearizable,
            Answer::NotFound => return Ok(None),
            _ => return Err(CallError::Unavailable),
        }
    }
}

/// By a question that every build knows.
async fn check_all_pushed(shared: &Shared, user: &UserId, device: DeviceId) -> Result<(), CallError> {
    let (mut after, mut freshness) = (None, Freshness::Any { min_seq: None });
    loop {
        let query = Query::Rows { user: user.clone(), device, after, limit: limits::INBOX_ROWS_PER_PAGE_MAX as u32 };
        let Some(page) = rows_of(shared, user, query, &mut freshness).await? else { return Ok(()) };
        if page.rows.iter().any(|row| row.part.is_pulled()) {
            tracing::debug!(%user, "a conversation in pull mode: this node has not heard of the feature level yet");
            return Err(CallError::Unavailable);
        }
        after = page.rows.last().filter(|_| page.more).map(|row| row.conv.clone());
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn place_all(shared: &Shared, user: &UserId, device: DeviceId) -> Result<(), CallError> {
    let route = Route::User(user.clone());
    let mut freshness = Freshness::Any { min_seq: None };
    for _ in 0..PLACE_ROUNDS {
        let limit = limits::NOTIFY_USERS_PER_COMMAND_MAX as u32;
        let query = Query::Unplaced { user: user.clone(), device, limit };
        let Some(RowsPage { rows, .. }) = rows_of(shared, user, query, &mut freshness).await? else { return Ok(()) };
        if rows.is_empty() {
            return Ok(());
        }
        let heads = stream::iter(rows)
            .map(async |row: InboxRow| {
                let Standing { head, n_head, .. } =
                    ask(shared, user, row.conv.clone(), Freshness::Linearizable).await?;
                Ok::<_, CallError>(PulledHead { conv: row.conv, head, n_head })
            })
            .buffered(limits::STANDINGS_AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        let places = heads.into_iter().collect::<Result<Vec<_>, _>>()?;
        let command = Command::PlaceDevice { user: user.clone(), device, places };
        match shared.backend.execute(route.clone(), command).await? {
            Reply::Done => {}
            _ => return Err(CallError::Unavailable),
        }
    }
    Err(CallError::Unavailable)
}
