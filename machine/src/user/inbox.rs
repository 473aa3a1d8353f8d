//! Tables `inbox` and `inbox_rev`: a user's row of one conversation, and the order in which rows changed.
//!
//! Keys: inbox `35`, slot u16, user text, conversation text; inbox_rev `36`, slot u16, user text, rev u64 -> conversation.
//! Invariants:
//! - News merge by maximum, the membership part by highest `mseq`, so any order and any repeats give the same row.
//! - `head` is kept as told and clamped on read: a clamped merge would forget what a later part makes visible.
//! - Each row but for pure acks moves to a new revision with every change, and stands in the index once (I9).
//! - A row without stays holds news that overtook the membership; it is shown to nobody.

use flotilla_proto::ids::*;
use flotilla_proto::member::MembershipPart;
use serde::{Deserialize, Serialize};

use super::account::{UserRow, UserTable};
use super::privacy::PrivacyRow;
use super::{cursor, key};
use crate::apply::Ctx;
use crate::command::{ConvSettings, Notify, NotifyUser, Receipt};
use crate::effect::Effect;
use crate::query::InboxRow;
use crate::table::{self, KeyReader, Table, kind};
use crate::{Fatal, Txn};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Row {
    pub rev: Rev,
    pub head: Seq,
    pub n_head: Count,
    pub part: MembershipPart,
    pub read: Seq,
    pub n_read: Count,
    /// n of the user's latest own message: for unread only, the read mark shown to others does not move by it.
    pub n_sent: Count,
    /// Highest seq acked by any of the user's devices, inside its stays.
    pub delivered: Seq,
    pub last_id: MsgId,
    pub last_ts: TsMs,
    pub peer_delivered: Seq,
    pub peer_read: Seq,
}

impl Row {
    pub fn effective_head(&self) -> Seq {
        self.part.effective_head(self.head)
    }

    /// Known to the user: the membership has arrived.
    pub fn is_shown(&self) -> bool {
        !self.part.intervals.is_empty()
    }

    pub fn merge_head(&mut self, head: Seq, n_head: Count) {
        self.head = self.head.max(head);
        self.n_head = self.n_head.max(n_head);
    }

    pub fn merge_news(&mut self, news: &Notify, user: &NotifyUser) {
        self.merge_head(news.head, news.n_head);
        self.n_sent = self.n_sent.max(user.n_sent);
        self.last_id = self.last_id.max(news.last_id);
        self.last_ts = self.last_ts.max(news.last_ts);
        if let Some(part) = &user.part {
            self.part.merge(part);
        }
    }

    pub fn merge_peer(&mut self, peer: &Receipt) {
        self.peer_delivered = self.peer_delivered.max(peer.delivered).max(peer.read);
        self.peer_read = self.peer_read.max(peer.read);
    }

    /// As one device of the user sees it. `cursor` none: no row, so it stands at the effective head.
    pub fn view(self, conv: ConvId, cursor: Option<Seq>, settings: ConvSettings, privacy: PrivacyRow) -> InboxRow {
        let cursor = cursor.unwrap_or_else(|| self.effective_head());
        InboxRow {
            conv,
            rev: self.rev,
            head: self.head,
            n_head: self.n_head,
            part: self.part,
            read: self.read,
            n_read: self.n_read,
            n_sent: self.n_sent,
            delivered: self.delivered,
            last_id: self.last_id,
            last_ts: self.last_ts,
            peer_delivered: self.peer_delivered,
            peer_read: if privacy.hide_read { Seq::ZERO } else { self.peer_read },
            cursor,
            settings,
        }
    }
}

pub struct InboxTable;

impl Table for InboxTable {
    const NAME: &'static str = "inbox";
    const KIND: u8 = kind::INBOX;
    const VERSION: u8 = 1;
    type Key = (UserId, ConvId);
    type Row = Row;

    fn key((user, conv): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).conv(conv).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, key.conv()?))
    }
}

pub struct RevTable;

impl Table for RevTable {
    const NAME: &'static str = "inbox_rev";
    const KIND: u8 = kind::INBOX_REV;
    const VERSION: u8 = 1;
    type Key = (UserId, Rev);
    type Row = ConvId;

    fn key((user, rev): &Self::Key) -> Vec<u8> {
        key::of(Self::KIND, user).u64(rev.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        Some((key::user(key)?, Rev(key.u64()?)))
    }
}

/// One user's row of one conversation while a command changes it.
pub struct Change<'k> {
    pub user: &'k UserId,
    pub conv: &'k ConvId,
    pub account: UserRow,
    pub old: Option<Row>,
    pub row: Row,
    /// Something beside the row changed that the user's devices are to hear of.
    beside: bool,
    /// The user is shown nobody's read marks: that one has risen is no news, or the frame itself would tell of it.
    pub sees_no_reads: bool,
}

impl<'k> Change<'k> {
    /// None if there is no such user.
    pub fn begin(txn: &Txn<'_>, user: &'k UserId, conv: &'k ConvId) -> Result<Option<Self>, Fatal> {
        let Some(account) = table::get::<UserTable>(txn, user)? else { return Ok(None) };
        let old = table::get::<InboxTable>(txn, &(user.clone(), conv.clone()))?;
        let row = old.clone().unwrap_or_default();
        Ok(Some(Self { user, conv, account, old, row, beside: false, sees_no_reads: false }))
    }

    /// A new revision, also if the row stays as it was.
    pub fn touch(mut self, ctx: &mut Ctx<'_, '_>) -> Result<usize, Fatal> {
        self.beside = true;
        self.commit(ctx)
    }

    fn is_changed(&self) -> bool {
        self.beside || self.old.as_ref() != Some(&self.row)
    }

    /// Nothing changed but what only receipts tell of, or what the user is not shown: no revision, no frame.
    fn is_pure_ack(&self) -> bool {
        let Some(old) = self.old.as_ref().filter(|_| !self.beside) else { return false };
        let peer_read = if self.sees_no_reads { self.row.peer_read } else { old.peer_read };
        Row { delivered: self.row.delivered, peer_read, ..old.clone() } == self.row
    }

    /// Writes the row, its revision and the cursors that must stand before its head advances. Gives the rows touched.
    pub fn commit(mut self, ctx: &mut Ctx<'_, '_>) -> Result<usize, Fatal> {
        if !self.is_changed() {
            return Ok(0);
        }
        let settled = cursor::settle(ctx.txn, self.user, self.conv, self.old.as_ref(), &self.row)?;
        let key = (self.user.clone(), self.conv.clone());
        if self.is_pure_ack() {
            table::put::<InboxTable>(ctx.txn, &key, &self.row);
            return Ok(settled + 1);
        }
        self.count_membership();
        self.row.rev = self.account.next_rev();
        if let Some(old) = &self.old {
            table::delete::<RevTable>(ctx.txn, &(self.user.clone(), old.rev));
        }
        table::put::<RevTable>(ctx.txn, &(self.user.clone(), self.row.rev), self.conv);
        table::put::<InboxTable>(ctx.txn, &key, &self.row);
        table::put::<UserTable>(ctx.txn, self.user, &self.account);
        self.announce(ctx);
        Ok(settled + 4)
    }

    fn count_membership(&mut self) {
        let before = self.old.as_ref().is_some_and(|old| old.part.is_member());
        match (before, self.row.part.is_member()) {
            (false, true) => self.account.conversations = self.account.conversations.saturating_add(1),
            (true, false) => self.account.conversations = self.account.conversations.saturating_sub(1),
            _ => {}
        }
    }

    fn announce(&self, ctx: &mut Ctx<'_, '_>) {
        if !self.row.is_shown() {
            return;
        }
        let head = self.row.effective_head();
        let head_before = self.old.as_ref().map_or(Seq::ZERO, Row::effective_head);
        let (user, conv, rev) = (self.user.clone(), self.conv.clone(), self.row.rev);
        let is_more = self.beside || self.is_more_than_a_head(head > head_before);
        if is_more {
            ctx.effects.push(Effect::Conv { user: user.clone(), conv: conv.clone(), rev });
        }
        if head > head_before {
            let n_head = self.row.part.effective_n(self.row.n_head);
            ctx.effects.push(Effect::Head { user, conv, head, n_head, rev: (!is_more).then_some(rev) });
        }
    }

    /// Does the change need a `conv` frame? A mere head does not, nor the own message that advanced it.
    fn is_more_than_a_head(&self, head_advanced: bool) -> bool {
        let Some(old) = &self.old else { return true };
        let mut as_head = Row {
            rev: self.row.rev,
            head: self.row.head,
            n_head: self.row.n_head,
            last_id: self.row.last_id,
            last_ts: self.row.last_ts,
            delivered: self.row.delivered,
            ..old.clone()
        };
        if head_advanced {
            as_head.n_sent = self.row.n_sent;
        }
        as_head != self.row
    }
}
