//! Edit, delete, react and reply: what an entry may refer to.
//!
//! A target is a message that the actor may read by the log's own membership. One that it may not read is answered like one
//! that does not exist.

use flotilla_proto::entry::{Entry, Role, What};
use flotilla_proto::ids::Seq;
use flotilla_proto::limits;

use super::plan::{Asked, Plan};
use super::tables::entry::Entries;
use super::tables::member::MemberRow;
use super::tables::revision::Revisions;
use crate::Fatal;
use crate::apply::Stop;
use crate::reply::Rejection;
use crate::table;

pub fn check_reply(asked: &Asked<'_>, member: &MemberRow, reply_to: Seq) -> Result<(), Rejection> {
    if reply_to < asked.seq && member.part.may_read(reply_to) {
        Ok(())
    } else {
        Err(Rejection::Validation("reply_to names no entry".into()))
    }
}

/// The latest edit by seq wins; readers fold.
pub fn edit(asked: &Asked<'_>, plan: &mut Plan, member: &MemberRow, target: Seq) -> Result<(), Stop> {
    let message = message(asked, member, target)?;
    if message.from != asked.append.sender {
        return Err(Rejection::Forbidden("only the sender edits a message".into()).into());
    }
    check_whole(&message)?;
    let mut edits = edits_of(asked, target)?;
    if edits.len() >= limits::EDITS_PER_MESSAGE_MAX {
        return Err(Rejection::Conflict("the message was edited too often".into()).into());
    }
    edits.push(asked.seq);
    plan.revision = Some((target, edits));
    Ok(())
}

/// The content of the message and of all its edits goes; their hashes stay.
pub fn delete(asked: &Asked<'_>, plan: &mut Plan, member: &MemberRow, target: Seq) -> Result<(), Stop> {
    let message = message(asked, member, target)?;
    if message.from != asked.append.sender && member.part.role < Some(Role::Admin) {
        return Err(Rejection::Forbidden("only the sender and admins delete a message".into()).into());
    }
    check_whole(&message)?;
    plan.redact = edits_of(asked, target)?;
    plan.redact.push(target);
    Ok(())
}

pub fn react(asked: &Asked<'_>, member: &MemberRow, target: Seq) -> Result<(), Stop> {
    let message = message(asked, member, target)?;
    Ok(check_whole(&message)?)
}

fn message(asked: &Asked<'_>, member: &MemberRow, target: Seq) -> Result<Entry, Stop> {
    if target >= asked.seq || !member.part.may_read(target) {
        return Err(Rejection::NotFound.into());
    }
    match table::get::<Entries>(asked.rows, &(asked.append.conv.clone(), target))? {
        Some(entry) if !What::kind_is_reserved(&entry.kind) => Ok(entry),
        Some(_) => Err(Rejection::Validation("the target is not a message".into()).into()),
        None => Err(Rejection::NotFound.into()),
    }
}

fn check_whole(message: &Entry) -> Result<(), Rejection> {
    if message.is_redacted() { Err(Rejection::Conflict("the message was deleted".into())) } else { Ok(()) }
}

fn edits_of(asked: &Asked<'_>, target: Seq) -> Result<Vec<Seq>, Fatal> {
    Ok(table::get::<Revisions>(asked.rows, &(asked.append.conv.clone(), target))?.unwrap_or_default())
}
