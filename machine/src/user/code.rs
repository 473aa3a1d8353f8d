//! Tables `code` and `code_age`, and the commands that issue a one-time code and take it.
//!
//! Keys: `48`, slot u16, user text · `49`, age u64, slot u16, user text (the row is empty): rows by their newest code, the
//! oldest first, for eviction.
//!
//! A code proves that somebody holds an address; the gateway derives the user from the address, sends the code, and keeps both
//! from here: a row holds a hash under a key of the cluster, without which six digits are found in a blink.
//!
//! Rules, by the age clock (it counts less than a wall clock at a change of leader, never more, so the limit on tries is what
//! protects):
//! - A code lives five minutes and dies at the fifth wrong try, at its use, and with the next one issued.
//! - The request that has used a code may use it again while it would live: its answer may have been lost.
//! - A repeat of the request that issued a code issues it again, to be sent again, while it lives and is unused. Else no code is
//!   issued twice within a day: who has seen one must not get it again for the asking.
//! - Codes of one user: a pause between two, and so many an hour and a day. Rows stay for a day for that, then go, a few with
//!   each code that is issued.

use std::ops::ControlFlow;

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::plant::{self, Plant};
use flotilla_proto::slots;
use serde::{Deserialize, Serialize};

use super::{device, key};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::command::Login;
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyBuilder, KeyReader, Rows, Table, kind};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRow {
    /// The codes of the last day and when they were issued, the newest last; it alone is good for anything. Never empty.
    pub issued: Vec<(AgeMs, Hash32)>,
    /// What issued the newest, and how often that was repeated: each time the code is sent again.
    pub request: Cid,
    pub repeats: u8,
    /// Wrong tries of the newest.
    pub tries: u8,
    /// The request that has used the newest.
    pub used: Option<Cid>,
}

impl CodeRow {
    fn newest(&self) -> AgeMs {
        self.issued.last().map(|(at, _)| *at).unwrap_or_default()
    }

    /// Hashes under a key that nobody outside has: how long a comparison takes tells nothing.
    fn is(&self, code: Hash32) -> bool {
        self.issued.last().is_some_and(|(_, newest)| *newest == code)
    }

    fn lives(&self, now: AgeMs) -> bool {
        since(self.newest(), now) < limits::CODE_LIFE_MS && self.tries < limits::CODE_TRIES_MAX
    }

    /// How long until one more may be issued; 0: now.
    fn wait_ms(&self, now: AgeMs) -> u64 {
        let after =
            |row: Option<&(AgeMs, Hash32)>, ms: u64| row.map_or(0, |(at, _)| ms.saturating_sub(since(*at, now)));
        // The n-th newest must be out of the window before there is room in it.
        let nth = |n: usize| self.issued.len().checked_sub(n).and_then(|at| self.issued.get(at));
        after(self.issued.last(), limits::CODE_PAUSE_MS)
            .max(after(nth(limits::CODES_PER_HOUR), limits::HOUR_MS))
            .max(after(nth(limits::CODES_PER_DAY), limits::CODE_ROW_MS))
    }
}

fn since(at: AgeMs, now: AgeMs) -> u64 {
    now.0.saturating_sub(at.0)
}

pub struct CodeTable;

impl Table for CodeTable {
    const NAME: &'static str = "code";
    const KIND: u8 = kind::CODE;
    const VERSION: u8 = 1;
    type Key = UserId;
    type Row = CodeRow;

    fn key(user: &UserId) -> Vec<u8> {
        key::of(Self::KIND, user).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<UserId> {
        key::user(key)
    }
}

pub struct CodeAges;

impl Table for CodeAges {
    const NAME: &'static str = "code_age";
    const KIND: u8 = kind::CODE_AGE;
    const VERSION: u8 = 1;
    type Key = (AgeMs, UserId);
    type Row = ();

    fn key((age, user): &Self::Key) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u64(age.0).slot(slots::of_user(user)).user(user).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        let age = AgeMs(key.u64()?);
        key.slot()?;
        Some((age, key.user()?))
    }
}

/// Whether there is such an account is not looked at: an answer does not tell.
pub fn issue_code(ctx: &mut Ctx<'_, '_>, user: &UserId, code: Hash32, request: Cid) -> Outcome {
    ctx.meta.check_user(user)?;
    let now = ctx.meta.clock.age;
    let old = table::get::<CodeTable>(ctx.txn, user)?;
    let mut issued = Vec::new();
    if let Some(row) = &old {
        let again = row.request == request && row.is(code) && row.used.is_none() && row.lives(now);
        if again && row.repeats < limits::CODE_REPEATS_MAX {
            let row = CodeRow { repeats: row.repeats + 1, ..row.clone() };
            table::put::<CodeTable>(ctx.txn, user, &row);
            return Ok(Reply::Done);
        }
        let seen = row.issued.iter().any(|(_, old)| *old == code);
        let wait_ms = row.wait_ms(now).max(if seen { limits::CODE_PAUSE_MS } else { 0 });
        if wait_ms > 0 {
            return Err(Rejection::Wait { wait_ms }.into());
        }
        table::delete::<CodeAges>(ctx.txn, &(row.newest(), user.clone()));
        issued.extend(row.issued.iter().copied().filter(|(at, _)| since(*at, now) < limits::CODE_ROW_MS));
    }
    issued.push((now, code));
    evict(ctx, now)?;
    let row = CodeRow { issued, request, repeats: 0, tries: 0, used: None };
    table::put::<CodeTable>(ctx.txn, user, &row);
    table::put::<CodeAges>(ctx.txn, &(now, user.clone()), &());
    Ok(Reply::Done)
}

/// A few of those that no limit needs any more.
fn evict(ctx: &mut Ctx<'_, '_>, now: AgeMs) -> Result<(), Fatal> {
    for (age, user) in old_rows(ctx.txn, now)? {
        table::delete::<CodeAges>(ctx.txn, &(age, user.clone()));
        table::delete::<CodeTable>(ctx.txn, &user);
    }
    Ok(())
}

fn old_rows(rows: &dyn Rows, now: AgeMs) -> Result<Vec<(AgeMs, UserId)>, Fatal> {
    let mut old = Vec::new();
    table::scan_prefix::<CodeAges>(rows, &[kind::CODE_AGE], &mut |(age, user), ()| {
        if old.len() >= limits::CODES_EVICTED || since(age, now) < limits::CODE_ROW_MS {
            return ControlFlow::Break(());
        }
        old.push((age, user));
        ControlFlow::Continue(())
    })?;
    Ok(old)
}

/// Logs in, and makes the account if it is missing. A wrong try is the rejection with an effect: it counts.
pub fn use_code(ctx: &mut Ctx<'_, '_>, code: Hash32, request: Cid, login: &Login) -> Outcome {
    ctx.meta.check_user(&login.user)?;
    let row = table::get::<CodeTable>(ctx.txn, &login.user)?;
    let mut row = row.filter(|row| row.lives(ctx.meta.clock.age)).ok_or(Rejection::Unauthenticated)?;
    if row.used.is_some_and(|used| used != request) {
        return Err(Rejection::Unauthenticated.into());
    }
    if !row.is(code) {
        row.tries += u8::from(!plant::on(Plant::GuessForEver));
        table::put::<CodeTable>(ctx.txn, &login.user, &row);
        return Ok(Reply::Rejected(Rejection::Unauthenticated));
    }
    let reply = device::login(ctx, &Login { create: true, ..login.clone() })?;
    if row.used.replace(request).is_none() && !plant::on(Plant::CodeStays) {
        table::put::<CodeTable>(ctx.txn, &login.user, &row);
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::assert_round_trip;
    use crate::testing::arb;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_round_trip(user in arb::user(), code: [u8; 32], request: u128, age: u64, tries: u8, used: Option<u128>) {
            let row = CodeRow {
                issued: vec![(AgeMs(age), Hash32(code))],
                request: Cid(request),
                repeats: tries,
                tries,
                used: used.map(Cid),
            };
            assert_round_trip::<CodeTable>(&user, &row);
            assert_round_trip::<CodeAges>(&(AgeMs(age), user), &());
        }
    }
}
