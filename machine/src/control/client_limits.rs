//! What gateways allow, as an operator has set it at run time: one row for the cluster.
//!
//! Invariant: a value in the row is within its range. `apply` reads none of them: gateways do, and where nothing is set each
//! node's own configuration counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{changed, cluster};
use crate::apply::{Ctx, Outcome};
use crate::reply::{Rejection, Reply};
use crate::table::{self, KeyBuilder, KeyReader, Table, kind};

/// Numbered by position in logs and rows: new ones go to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LimitName {
    SendsPerUser,
    SendsPerConversation,
    LoginsPerMinute,
    ConnectionsPerAddress,
}

impl LimitName {
    pub const ALL: [Self; 4] =
        [Self::SendsPerUser, Self::SendsPerConversation, Self::LoginsPerMinute, Self::ConnectionsPerAddress];

    /// As in a node's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::SendsPerUser => "sends_per_user",
            Self::SendsPerConversation => "sends_per_conversation",
            Self::LoginsPerMinute => "logins_per_minute",
            Self::ConnectionsPerAddress => "connections_per_address",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.name() == name)
    }

    /// Both ends inclusive.
    pub fn range(self) -> (u32, u32) {
        match self {
            // 0: no limit.
            Self::SendsPerUser | Self::SendsPerConversation => (0, 1_000_000),
            Self::LoginsPerMinute => (1, 100_000),
            Self::ConnectionsPerAddress => (1, 1_000_000),
        }
    }

    /// The value, or what is allowed.
    pub fn check(self, value: u32) -> Result<u32, String> {
        let (min, max) = self.range();
        if (min..=max).contains(&value) {
            return Ok(value);
        }
        Err(format!("{} is {value}; allowed is {min} to {max}", self.name()))
    }
}

/// What is set; all others are each node's own.
pub type ClientLimits = BTreeMap<LimitName, u32>;

pub struct ClientLimitsTable;

impl Table for ClientLimitsTable {
    const NAME: &'static str = "client_limits";
    const KIND: u8 = kind::CONTROL;
    const VERSION: u8 = 1;
    type Key = ();
    type Row = ClientLimits;

    fn key(_: &()) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u8(3).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<()> {
        key.u8().filter(|part| *part == 3).map(|_| ())
    }
}

/// Sets, or gives back to the nodes (none). All of it or nothing.
pub(super) fn set(ctx: &mut Ctx<'_, '_>, changes: &[(LimitName, Option<u32>)]) -> Outcome {
    let cluster = cluster(ctx.txn)?;
    let names: BTreeSet<_> = changes.iter().map(|(name, _)| *name).collect();
    if names.len() != changes.len() {
        return Err(Rejection::Validation("each limit once".into()).into());
    }
    let before = table::get::<ClientLimitsTable>(ctx.txn, &())?.unwrap_or_default();
    let mut limits = before.clone();
    for (name, value) in changes {
        match value {
            Some(value) => limits.insert(*name, name.check(*value).map_err(Rejection::Validation)?),
            None => limits.remove(name),
        };
    }
    if limits != before {
        table::put::<ClientLimitsTable>(ctx.txn, &(), &limits);
        changed(ctx, cluster);
    }
    Ok(Reply::Done)
}
