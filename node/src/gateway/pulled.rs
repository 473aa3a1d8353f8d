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

/// Conversations asked at once for one request.
const AT_ONCE: usize = 8;
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
        .for_each_concurrent(AT_ONCE, async |row| {
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
/// level of pull mode nothing is asked: 1. nodes are upgraded one by one, 2. the leader of the user's shard still runs a
/// build that does not know the question, 3. no new device of its users would get in.
pub async fn place(shared: &Shared, user: &UserId, device: DeviceId) -> Result<(), CallError> {
    if shared.node().level >= limits::PULL_LEVEL && !shared.placed.has(device) {
        place_all(shared, user, device).await?;
        shared.placed.put(device);
    }
    Ok(())
}

async fn place_all(shared: &Shared, user: &UserId, device: DeviceId) -> Result<(), CallError> {
    let route = Route::User(user.clone());
    // Any state that knows the device will do: rows that are in pull mode since it was registered have its place already.
    let mut freshness = Freshness::Any { min_seq: None };
    for _ in 0..PLACE_ROUNDS {
        let limit = limits::NOTIFY_USERS_PER_COMMAND_MAX as u32;
        let query = Query::Unplaced { user: user.clone(), device, limit };
        let rows = match shared.backend.query(route.clone(), query, freshness.clone()).await? {
            Answer::Rows(page) => page.rows,
            _ if freshness != Freshness::Linearizable => {
                freshness = Freshness::Linearizable;
                continue;
            }
            // The device is gone, for good: whoever asked finds out by itself.
            Answer::NotFound => return Ok(()),
            _ => return Err(CallError::Unavailable),
        };
        if rows.is_empty() {
            return Ok(());
        }
        let heads = stream::iter(rows)
            .map(async |row: InboxRow| {
                let Standing { head, n_head, .. } =
                    ask(shared, user, row.conv.clone(), Freshness::Linearizable).await?;
                Ok::<_, CallError>(PulledHead { conv: row.conv, head, n_head })
            })
            .buffered(AT_ONCE)
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
