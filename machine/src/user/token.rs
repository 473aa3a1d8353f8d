//! Table `token`: the refresh tokens of one device, and their rotation.
//!
//! Key: `3b`, slot u16, user text, device u128. Tokens are known by their hashes only.
//!
//! Rules (DESIGN 8), each against a counter-example:
//! - The predecessor stays valid until a successor has been used. (1. rotate, 2. the reply is lost, 3. the client can only
//!   present the old token again: it must not be logged out.)
//! - All successors of a predecessor are valid until one is used. (1. rotate P to A, no reply, 2. rotate P to B, 3. the
//!   reply with A comes after all, and the client keeps A.)
//! - Presenting anything older revokes the family: two parties hold tokens of one family, and one of them is a thief.
//! - The very same rotation again (same token, same successor) is a repeat of the command, at any age: nobody but its
//!   author knows the successor.
//! - A token that the family does not know ends nothing: it may be of an earlier family of this device, or a guess.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use serde::{Deserialize, Serialize};

use super::{device, key, session};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::command::RotateToken;
use crate::effect::Ended;
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyReader, Rows, Table, kind};

/// The tokens that descend from one login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// The first token's hash; it names the family.
    pub id: Hash32,
    /// The newest used token, valid until one of `fresh` is used; none at the start.
    previous: Option<Hash32>,
    /// Issued and not used yet, newest last; never empty.
    fresh: Vec<Hash32>,
    /// Tokens that are valid no more, newest last, by the first 64 bits of their hashes.
    spent: Vec<Spent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    token: u64,
    /// The successor that was used; 0 where there was none.
    next: u64,
}

/// What presenting a token comes to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Rotated(Family),
    /// A repeat: nothing changes.
    Repeated,
    /// An older token: the family is revoked.
    Reused,
    Unknown,
    /// The successor was used before.
    BadSuccessor,
}

fn short(hash: Hash32) -> u64 {
    hash.0.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b))
}

impl Family {
    pub fn new(first: Hash32) -> Self {
        Self { id: first, previous: None, fresh: vec![first], spent: Vec::new() }
    }

    fn knows(&self, token: Hash32) -> bool {
        self.fresh.contains(&token)
            || self.previous == Some(token)
            || self.spent.iter().any(|s| s.token == short(token))
    }

    fn rotate(&self, presented: Hash32, next: Hash32) -> Verdict {
        let repeated = self.previous == Some(presented) && self.fresh.contains(&next)
            || self.spent.iter().any(|s| s.token == short(presented) && s.next == short(next) && s.next != 0);
        if repeated {
            return Verdict::Repeated;
        }
        let valid = self.previous == Some(presented) || self.fresh.contains(&presented);
        if !valid {
            return if self.knows(presented) { Verdict::Reused } else { Verdict::Unknown };
        }
        if self.knows(next) {
            return Verdict::BadSuccessor;
        }
        let mut family = self.clone();
        if family.fresh.contains(&presented) {
            family.advance_to(presented);
        }
        family.fresh.push(next);
        while family.fresh.len() > limits::REFRESH_FRESH_MAX {
            let oldest = family.fresh.remove(0);
            family.spend(oldest, 0);
        }
        Verdict::Rotated(family)
    }

    /// A successor is used: it becomes the predecessor, the old predecessor and its other successors are spent.
    fn advance_to(&mut self, used: Hash32) {
        if let Some(previous) = self.previous.replace(used) {
            self.spend(previous, short(used));
        }
        for sibling in std::mem::take(&mut self.fresh) {
            if sibling != used {
                self.spend(sibling, 0);
            }
        }
    }

    fn spend(&mut self, token: Hash32, next: u64) {
        self.spent.push(Spent { token: short(token), next });
        let surplus = self.spent.len().saturating_sub(limits::REFRESH_SPENT_MAX);
        self.spent.drain(..surplus);
    }
}

pub struct TokenTable;

impl Table for TokenTable {
    const NAME: &'static str = "token";
    const KIND: u8 = kind::TOKEN;
    const VERSION: u8 = 1;
    type Key = (UserId, DeviceId);
    type Row = Family;

    fn key((user, device): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).u128(device.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, key::device(key)?))
    }
}

pub fn family(rows: &dyn Rows, user: &UserId, device: DeviceId) -> Result<Option<Family>, Fatal> {
    table::get::<TokenTable>(rows, &(user.clone(), device))
}

/// Did this token begin the device's current family?
pub fn began_with(rows: &dyn Rows, user: &UserId, device: DeviceId, first: Hash32) -> Result<bool, Fatal> {
    Ok(family(rows, user, device)?.is_some_and(|f| f.id == first))
}

pub fn begin(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId, first: Hash32) {
    table::put::<TokenTable>(ctx.txn, &(user.clone(), device), &Family::new(first));
}

pub fn end(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId) -> Result<(), Fatal> {
    if family(ctx.txn, user, device)?.is_some() {
        table::delete::<TokenTable>(ctx.txn, &(user.clone(), device));
    }
    Ok(())
}

/// The one rejection with an effect: a reused token ends the family and the session that lives on it.
pub fn rotate_token(ctx: &mut Ctx<'_, '_>, c: &RotateToken) -> Outcome {
    device::authenticated(ctx, &c.user, c.device)?;
    let family = family(ctx.txn, &c.user, c.device)?.ok_or(Rejection::Unauthenticated)?;
    match family.rotate(c.presented, c.next) {
        Verdict::Rotated(family) => {
            table::put::<TokenTable>(ctx.txn, &(c.user.clone(), c.device), &family);
            Ok(Reply::Done)
        }
        Verdict::Repeated => Ok(Reply::Done),
        Verdict::Reused => {
            end(ctx, &c.user, c.device)?;
            session::end(ctx, &c.user, c.device, Ended::LoggedOut)?;
            Ok(Reply::Rejected(Rejection::Revoked))
        }
        Verdict::Unknown => Err(Rejection::Unauthenticated.into()),
        Verdict::BadSuccessor => Err(Rejection::Validation("the successor was used before".into()).into()),
    }
}

/// Ends the family and closes the session; the device stays, with its cursors. Done again: nothing is left to end.
pub fn logout(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId) -> Outcome {
    super::account::find(ctx, user)?.ok_or(Rejection::NotFound)?;
    end(ctx, user, device)?;
    session::end(ctx, user, device, Ended::LoggedOut)?;
    Ok(Reply::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(n: u8) -> Hash32 {
        Hash32([n; 32])
    }

    fn rotated(family: &Family, presented: u8, next: u8) -> Family {
        match family.rotate(t(presented), t(next)) {
            Verdict::Rotated(family) => family,
            other => panic!("expected a rotation, got {other:?}"),
        }
    }

    #[test]
    fn a_lost_reply_does_not_log_out() {
        let family = rotated(&Family::new(t(1)), 1, 2);
        let family = rotated(&family, 1, 3);
        // Either answer may have arrived.
        assert!(matches!(family.rotate(t(2), t(4)), Verdict::Rotated(_)));
        assert!(matches!(family.rotate(t(3), t(4)), Verdict::Rotated(_)));
    }

    #[test]
    fn a_predecessor_is_spent_once_its_successor_was_used() {
        let family = rotated(&rotated(&Family::new(t(1)), 1, 2), 2, 3);
        assert_eq!(family.rotate(t(1), t(9)), Verdict::Reused);
        assert!(matches!(family.rotate(t(2), t(9)), Verdict::Rotated(_)));
    }

    #[test]
    fn a_sibling_of_the_used_successor_is_spent() {
        let family = rotated(&rotated(&Family::new(t(1)), 1, 2), 1, 3);
        let family = rotated(&family, 3, 4);
        assert_eq!(family.rotate(t(2), t(9)), Verdict::Reused);
    }

    #[test]
    fn the_same_rotation_again_is_a_repeat_at_any_age() {
        let first = rotated(&Family::new(t(1)), 1, 2);
        assert_eq!(first.rotate(t(1), t(2)), Verdict::Repeated);
        let later = rotated(&rotated(&first, 2, 3), 3, 4);
        assert_eq!(later.rotate(t(1), t(2)), Verdict::Repeated);
        assert_eq!(later.rotate(t(1), t(9)), Verdict::Reused);
    }

    #[test]
    fn a_strangers_token_ends_nothing_and_a_used_one_is_no_successor() {
        let family = rotated(&Family::new(t(1)), 1, 2);
        assert_eq!(family.rotate(t(77), t(9)), Verdict::Unknown);
        assert_eq!(family.rotate(t(2), t(1)), Verdict::BadSuccessor);
        assert_eq!(family.rotate(t(2), t(2)), Verdict::BadSuccessor);
    }

    #[test]
    fn a_family_is_bounded_whatever_is_presented() {
        let mut family = Family::new(t(0));
        let token = |n: u32| Hash32(std::array::from_fn(|i| n.to_be_bytes()[i % 4]));
        family = rotated_by(&family, t(0), token(1));
        for n in 2..1_000u32 {
            family = rotated_by(&family, t(0), token(n));
        }
        for n in 1_000..2_000u32 {
            family = rotated_by(&family, token(n - 1), token(n));
        }
        assert!(family.fresh.len() <= limits::REFRESH_FRESH_MAX);
        assert!(family.spent.len() <= limits::REFRESH_SPENT_MAX);
    }

    fn rotated_by(family: &Family, presented: Hash32, next: Hash32) -> Family {
        match family.rotate(presented, next) {
            Verdict::Rotated(family) => family,
            other => panic!("expected a rotation, got {other:?}"),
        }
    }
}
