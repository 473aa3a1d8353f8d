//! What WebSocket requests and REST have in common: append an entry, page a log, describe a row.

use flotilla_machine::command::Append;
use flotilla_machine::query::{EntriesPage, InboxRow};
use flotilla_machine::{Answer, Command, Query, Rejection, Reply};
use flotilla_proto::entry::{Entry, What};
use flotilla_proto::frame::{self, CommandFrame, EntryFrame, ErrorBody, ErrorCode, HistoryReply, PeerMarks, RevToken};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

use super::errors;
use super::shared::Shared;
use crate::backend::{CallError, Freshness, Route};
use crate::http::lists;

/// What is wrong with it before anyone else is asked.
pub fn check(what: &What) -> Result<(), ErrorBody> {
    match what {
        What::Message { kind, body, mentions, media, .. } => {
            if kind.is_empty() || kind.len() > limits::KIND_BYTES_MAX || What::kind_is_reserved(kind) {
                return Err(errors::invalid("`kind` is 1 to 32 bytes and not a name of the protocol"));
            }
            if mentions.len() > limits::MENTIONS_MAX {
                return Err(errors::invalid("at most 50 mentions"));
            }
            if media.as_ref().is_some_and(|m| m.len() > limits::MEDIA_BYTES_MAX) {
                return Err(errors::invalid("`media` is too long"));
            }
            if body.0.is_empty() && media.is_none() {
                return Err(errors::invalid("an empty body"));
            }
            check_body(body)
        }
        What::Edit { body, .. } => check_body(body),
        What::React { emoji, .. } if emoji.is_empty() || emoji.len() > limits::EMOJI_BYTES_MAX => {
            Err(errors::invalid("`emoji` is 1 to 32 bytes"))
        }
        _ => Ok(()),
    }
}

fn check_body(body: &Blob) -> Result<(), ErrorBody> {
    if body.0.len() > limits::BODY_BYTES_MAX {
        let message = format!("a body is at most {} bytes", limits::BODY_BYTES_MAX);
        return Err(ErrorBody::new(ErrorCode::PayloadTooLarge, message));
    }
    Ok(())
}

/// How old a command may be when it is decided on; 0: it is a first attempt.
///
/// What the client says was true when it sent it. The counter-example: (1) a command is accepted, and the answer lost, (2) its retry
/// waits here for a leader to find its quorum, (3) meanwhile its dedup row is evicted, (4) the retry seems younger than that row,
/// and is accepted once more.
fn oldest_ms(age_s: u64) -> u64 {
    if age_s == 0 { 0 } else { age_s.saturating_mul(1_000).saturating_add(limits::RETRY_WAITS_MS) }
}

/// Appends, after checking at their own shards that the peers it names exist.
pub async fn append(
    shared: &Shared,
    sender: &UserId,
    device: DeviceId,
    frame: &CommandFrame,
) -> Result<frame::Accepted, ErrorBody> {
    check(&frame.what)?;
    shared.try_send(sender, &frame.target.conv_for(sender))?;
    append_again(shared, sender, device, frame).await
}

/// As [`append`], of a command that has been counted.
pub async fn append_again(
    shared: &Shared,
    sender: &UserId,
    device: DeviceId,
    frame: &CommandFrame,
) -> Result<frame::Accepted, ErrorBody> {
    let conv = frame.target.conv_for(sender);
    let mut append = Append {
        conv: conv.clone(),
        sender: sender.clone(),
        device,
        cid: frame.cid,
        age_ms: oldest_ms(frame.age_s),
        after: frame.after,
        checked: Vec::new(),
        what: frame.what.clone(),
    };
    for _ in 0..limits::PEER_CHECKS_MAX {
        match shared.backend.execute(Route::Conv(conv.clone()), Command::Append(append.clone())).await {
            Ok(Reply::Accepted(a)) => {
                let (seq, msg_id, ts, chain, dup) = (a.seq, a.msg_id, a.ts, a.chain, a.dup);
                return Ok(frame::Accepted { conv: a.conv, seq, msg_id, ts, chain, dup });
            }
            Ok(_) => return Err(errors::internal("append")),
            Err(CallError::Rejected(Rejection::NeedPeers(users))) => {
                for user in users {
                    check_peer(shared, &user).await?;
                    append.checked.push(user);
                }
            }
            Err(error) => return Err(errors::of_call(error)),
        }
    }
    Err(errors::of_call(CallError::Unavailable))
}

/// The user exists and has room for one more conversation.
async fn check_peer(shared: &Shared, user: &UserId) -> Result<(), ErrorBody> {
    let mut account = shared.account(user, Freshness::Any { min_seq: None }).await?;
    if account.is_none() {
        account = shared.account(user, Freshness::Linearizable).await?;
    }
    match account {
        None => Err(ErrorBody::new(ErrorCode::NotFound, format!("there is no user {user}"))),
        Some(a) if a.conversations as usize >= limits::CONVERSATIONS_PER_USER_MAX => {
            Err(ErrorBody::new(ErrorCode::QuotaExceeded, format!("{user} is in too many conversations")))
        }
        Some(_) => Ok(()),
    }
}

/// One page of a log as this user may read it.
pub async fn entries(shared: &Shared, query: Query, conv: &ConvId, fresh: Freshness) -> Result<EntriesPage, ErrorBody> {
    match shared.backend.query(Route::Conv(conv.clone()), query, fresh).await {
        Ok(Answer::Entries(page)) => Ok(page),
        Ok(Answer::NotMember | Answer::NotFound) => {
            Err(ErrorBody::new(ErrorCode::NotMember, Rejection::NotMember.to_string()))
        }
        Ok(_) => Err(errors::internal("entries")),
        Err(error) => Err(errors::of_call(error)),
    }
}

/// Which entries are asked for: from, to, and whether the newest come first.
pub fn range_of(ask: &frame::History, limit: u32) -> Result<(Seq, Seq, bool), ErrorBody> {
    Ok(match (ask.before, ask.after, ask.around) {
        (None, None, None) => (Seq(1), Seq(u64::MAX), true),
        (Some(before), None, None) => (Seq(1), before.prev(), true),
        (None, Some(after), None) => (after.next(), Seq(u64::MAX), false),
        (None, None, Some(around)) => (Seq(around.0.saturating_sub(u64::from(limit / 2)).max(1)), Seq(u64::MAX), false),
        _ => return Err(errors::bad("one of before, after and around")),
    })
}

pub async fn history(shared: &Shared, user: &UserId, ask: &frame::History) -> Result<HistoryReply, ErrorBody> {
    let limit = ask.limit.unwrap_or(50).clamp(1, limits::HISTORY_ENTRIES_MAX);
    let (from, to, newest_first) = range_of(ask, limit)?;
    let (conv, user) = (ask.conv.clone(), user.clone());
    let bytes_max = limits::PAGE_BYTES_MAX as u32;
    let query = Query::Entries { conv, user, from, to, newest_first, limit, bytes_max };
    let page = entries(shared, query, &ask.conv, Freshness::Linearizable).await?;
    let mut bytes = 0;
    let asked = page.entries.len();
    let fits = |entry: &&Entry| {
        bytes += encoded_bytes(entry);
        bytes <= limits::HISTORY_BYTES_MAX
    };
    let mut frames: Vec<EntryFrame> = page.entries.iter().take_while(fits).map(EntryFrame::of).collect();
    let more = page.more || frames.len() < asked;
    frames.sort_by_key(|f| f.seq);
    Ok(HistoryReply { entries: frames, more })
}

/// A generous guess of an entry's size in the worst encoding.
pub fn encoded_bytes(entry: &Entry) -> usize {
    const FIXED: usize = 900;
    let content = match &entry.what {
        Some(What::Message { body, mentions, media, .. }) => {
            body.0.len().div_ceil(3) * 4 + mentions.len() * 70 + media.as_ref().map_or(0, |m| m.len() * 2)
        }
        Some(What::Edit { body, .. }) => body.0.len().div_ceil(3) * 4,
        Some(What::Create { members, .. }) => members.len() * 70,
        Some(What::Add { users }) => users.len() * 70,
        _ => 0,
    };
    FIXED + content
}

/// The user's whole state of one conversation.
pub fn conv_frame(user: &UserId, epoch: Epoch, row: &InboxRow) -> frame::Conv {
    let n_head = row.part.effective_n(row.n_head);
    let peer =
        row.conv.peer_of(user).map(|peer| PeerMarks { user: peer, delivered: row.peer_delivered, read: row.peer_read });
    frame::Conv {
        rev: RevToken::new(epoch, row.rev),
        conv: row.conv.clone(),
        kind: row.conv.kind(),
        name: None,
        head: row.part.effective_head(row.head),
        n_head,
        read: row.read,
        unread: row.part.unread(row.n_head, row.n_read, row.n_sent),
        peer,
        wrev: 0,
        role: row.part.role,
        member: row.part.is_member(),
        mseq: row.part.mseq,
        last_ts: row.last_ts,
        settings: lists::settings_value(&row.settings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_taken_for_as_old_as_it_may_be_when_it_is_decided_on() {
        assert_eq!(oldest_ms(0), 0, "a first attempt");
        assert!(oldest_ms(1) >= 1_000 + limits::REQUEST_DEADLINE_MS, "it may wait for a leader");
        assert!(oldest_ms(u64::MAX) == u64::MAX && limits::RETRY_WAITS_MS < limits::DEDUP_WINDOW_MS / 1_000);
    }
}
