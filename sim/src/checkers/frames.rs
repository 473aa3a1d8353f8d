//! What clients are shown follows from the log and from their user's rows: a device receives an entry only if its user was a
//! member there (authorised), with its content unless that was deleted or hidden, never again once its ack was applied
//! before the session began (bounded duplicates); a gap hides nothing; a page of history leaves nothing out and is not older
//! than what the device has; a `conv` frame is a committed revision of the row, in order.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use flotilla_client::history::{Op, Record};
use flotilla_machine::user::inbox::Row;
use flotilla_proto::frame::{Conv, EntryFrame, Gap, GapReason, History, HistoryReply};
use flotilla_proto::ids::{ConvId, DeviceId, Rev, Seq, UserId};
use flotilla_proto::member::{MembershipPart, Mode};

use super::model::{Model, end, is_member, may_read, receives, unread};
use super::{Checker, World};

#[derive(Default)]
pub struct Frames {
    /// By the label in the history.
    open: BTreeMap<String, Connection>,
}

struct Connection {
    device: DeviceId,
    /// The device's cursors when the session began.
    acked: BTreeMap<ConvId, Seq>,
    rev: Rev,
}

impl Checker for Frames {
    fn promise(&self) -> &'static str {
        "clients are shown what is"
    }

    fn on_record(&mut self, world: &World, record: &Record) -> Result<u64, String> {
        let (who, user) = (&record.device, &record.user);
        let told = match &record.op {
            Op::Connected { device, session, .. } => {
                // Not those of now: a client whose machine stood still hears late that it was connected, and another place of the
                // device may have acked since.
                let acked = world.opened.get(&(*device, *session)).cloned().unwrap_or_default();
                self.open.insert(who.clone(), Connection { device: *device, acked, rev: Rev(0) });
                Ok(0)
            }
            Op::Entry { entry } => self.on_entry(world, who, user, entry),
            Op::Gap { gap } => on_gap(world, user, gap),
            Op::Page { ask, stored, page } => on_page(world, user, ask, *stored, page),
            Op::Conv { conv } => {
                let connection = self.open.get_mut(who);
                on_conv(world, user, conv).and_then(|rev| in_order(connection, rev, conv))
            }
            _ => Ok(0),
        };
        told.map_err(|what| format!("{who}: {what}"))
    }
}

/// What the log says of the user's membership now: where it was one, it stays so for ever.
fn seen<'w>(world: &'w World, user: &UserId, conv: &ConvId) -> Result<(&'w Model, &'w MembershipPart), String> {
    let (model, _) = world.models.get(conv).ok_or_else(|| format!("there is no conversation {conv}"))?;
    let part = model.part(user).ok_or_else(|| format!("{user} never was a member of {conv}"))?;
    Ok((model, part))
}

impl Frames {
    fn on_entry(&self, world: &World, who: &str, user: &UserId, entry: &EntryFrame) -> Result<u64, String> {
        let (conv, seq) = (&entry.conv, entry.seq);
        let (model, part) = seen(world, user, conv)?;
        if !receives(part, seq) {
            return Err(format!("receives {conv} seq {seq}, where {user} was no member: {part:?}"));
        }
        let connection = self.open.get(who);
        if let Some(acked) = connection.and_then(|open| open.acked.get(conv)).filter(|acked| seq <= **acked) {
            return Err(format!(
                "receives {conv} seq {seq} again; its ack up to {acked} was applied before it connected"
            ));
        }
        if entry.echo && connection.is_some_and(|open| open.device != entry.device) {
            return Err(format!("receives {conv} seq {seq} without content, which another device has sent"));
        }
        shows(model, part, entry)
    }
}

/// Count and content are those of the log.
fn shows(model: &Model, part: &MembershipPart, entry: &EntryFrame) -> Result<u64, String> {
    let (conv, seq) = (&entry.conv, entry.seq);
    let line = model.lines.get(&seq).ok_or_else(|| format!("{conv} has no entry {seq}"))?;
    if (line.n, &line.kind, line.msg_id) != (entry.n, &entry.kind, entry.msg_id) {
        return Err(format!("{conv} seq {seq} has n {} and is a {}, it came with n {}", line.n, line.kind, entry.n));
    }
    let hidden = line.edits.is_some_and(|target| !may_read(part, target));
    let deleted = model.redacted.contains(&seq) || model.blurred.contains(&seq);
    if entry.redacted && !hidden && !deleted {
        return Err(format!("{conv} seq {seq} came without its content, and nobody has deleted it"));
    }
    if hidden && entry.body.is_some() {
        return Err(format!("{conv} seq {seq} came with the content of an edit of what the user may not read"));
    }
    if !entry.redacted && !entry.echo && entry.what().is_none() {
        return Err(format!("{conv} seq {seq} came without its content: {entry:?}"));
    }
    Ok(1)
}

/// Nothing is ever trimmed in a run, so a gap is time in which the user was not a member.
fn on_gap(world: &World, user: &UserId, gap: &Gap) -> Result<u64, String> {
    let (_, part) = seen(world, user, &gap.conv)?;
    if gap.reason != GapReason::NotAMember {
        return Err(format!("is told of a gap for a reason that cannot be: {gap:?}"));
    }
    match (gap.from.0..=gap.to.0).map(Seq).find(|seq| receives(part, *seq)) {
        Some(seq) => Err(format!("{gap:?} hides {seq}, which {user} was a member for: {part:?}")),
        None => Ok(1),
    }
}

/// A page that was asked for when the device had the conversation up to `position`.
pub fn on_page(
    world: &World,
    user: &UserId,
    asked: &History,
    position: Seq,
    page: &HistoryReply,
) -> Result<u64, String> {
    let HistoryReply { entries, more } = page;
    let more = *more;
    let (model, part) = seen(world, user, &asked.conv)?;
    let fail = |what: String| Err(format!("a page of history, {asked:?} at {position}: {what}"));
    if entries.windows(2).any(|pair| pair[0].seq >= pair[1].seq) {
        return fail("it is out of order".into());
    }
    if entries.len() > asked.limit.unwrap_or(50) as usize {
        return fail(format!("it has {} entries", entries.len()));
    }
    for entry in entries {
        if !may_read(part, entry.seq) {
            return fail(format!("{user} may not read {}: {part:?}", entry.seq));
        }
        shows(model, part, entry)?;
    }
    let last = entries.last().map_or(Seq::ZERO, |entry| entry.seq);
    // What the answer could not know yet is not asked for: later entries, and what a later stay opens.
    let known = position.max(last);
    let stays = part.intervals.iter().filter(|stay| stay.from <= known);
    let readable =
        |seq: Seq| stays.clone().any(|stay| stay.history_from <= seq && seq <= stay.until.unwrap_or(known).min(known));
    let first = entries.first().map_or(Seq(u64::MAX), |entry| entry.seq);
    let half = u64::from(asked.limit.unwrap_or(50) / 2);
    let (low, high) = match (asked.before, asked.after, asked.around) {
        (Some(before), ..) => (Seq(1), before.prev()),
        (_, Some(after), _) => (after.next(), known),
        (.., Some(around)) => (Seq(around.0.saturating_sub(half).max(1)), known),
        _ => (Seq(1), known),
    };
    let newest_first = asked.after.is_none() && asked.around.is_none();
    // On the side where it was cut it may end.
    let low = if more && newest_first { low.max(first) } else { low };
    let high = if more && !newest_first { high.min(last) } else { high.min(known) };
    let has = |seq: Seq| entries.binary_search_by_key(&seq, |entry| entry.seq).is_ok();
    match (low.0..=high.0).map(Seq).find(|seq| readable(*seq) && !has(*seq)) {
        Some(seq) => fail(format!("it leaves out {seq}; it goes from {first} to {last}, more: {more}")),
        None => Ok(1),
    }
}

/// The frame says what the row of its revision says; that revision.
pub fn on_conv(world: &World, user: &UserId, conv: &Conv) -> Result<Rev, String> {
    let Some((_, rev)) = conv.rev.parse() else { return Err(format!("{:?} is no revision", conv.rev)) };
    let rows = world.rows.get(&(user.clone(), conv.conv.clone()));
    let Some(row) = rows.and_then(|rows| rows.get(&rev)) else {
        return Err(format!("{} comes at revision {rev}, which was never committed", conv.conv));
    };
    let peer = conv.peer.as_ref().map(|peer| (peer.delivered, peer.read)).unwrap_or_default();
    let told = (conv.head, conv.n_head, conv.read, conv.unread, peer, conv.role, conv.member, conv.mseq, conv.last_ts);
    let due = |row: &Row| {
        let (head, n_head) = end(&row.part, row.head, row.n_head);
        (
            head,
            n_head,
            row.read,
            unread(&row.part, row.n_head, row.n_read, row.n_sent),
            (row.peer_delivered, row.peer_read),
            row.part.role,
            is_member(&row.part),
            row.part.mseq,
            row.last_ts,
        )
    };
    // Whether the user hid read marks when this was looked up no revision tells.
    let as_shown = |row: &Row| {
        let veiled = || due(&Row { peer_read: Seq::ZERO, ..row.clone() });
        told == due(row) || world.veiled.contains(user) && told == veiled()
    };
    if as_shown(row) || stands(world, user, conv, row).iter().any(as_shown) {
        return Ok(rev);
    }
    Err(format!("{} is shown as {told:?}, its row says {:?}", conv.conv, due(row)))
}

/// In pull mode nobody tells the row of heads: it is shown as the conversation stood at one head that the gateway knows, with the
/// membership of the row or a later one that the log had made by then. A device elsewhere may have acked more than this gateway
/// knows: then the row's own head is shown, with the rest as it stood where the gateway knows it.
fn stands(world: &World, user: &UserId, conv: &Conv, row: &Row) -> Vec<Row> {
    let model = world.models.get(&conv.conv).map(|(model, _)| model);
    let Some(model) = model.filter(|_| row.part.mode == Mode::Pull && is_member(&row.part)) else { return Vec::new() };
    let known = match conv.head.cmp(&row.head) {
        Ordering::Less => return Vec::new(),
        Ordering::Equal => Seq(1)..=conv.head,
        Ordering::Greater => conv.head..=conv.head,
    };
    let (mut n_sent, mut stood) = (row.n_sent, Vec::new());
    for (seq, line) in model.lines.range(..=conv.head) {
        if line.kind == "message" && line.from == *user {
            n_sent = n_sent.max(line.n);
        }
        if !known.contains(seq) {
            continue;
        }
        let later = model.past.range((user.clone(), row.part.mseq)..=(user.clone(), (*seq).max(row.part.mseq)));
        for part in later.map(|(_, part)| part).chain([&row.part]) {
            let mut row = row.clone();
            row.part.clone_from(part);
            (row.head, row.n_head, row.n_sent) = (row.head.max(*seq), row.n_head.max(line.n), n_sent);
            if is_member(part) {
                row.last_ts = row.last_ts.max(line.ts);
            }
            stood.push(row);
        }
    }
    stood
}

fn in_order(connection: Option<&mut Connection>, rev: Rev, conv: &Conv) -> Result<u64, String> {
    let Some(connection) = connection else { return Ok(0) };
    if rev < connection.rev {
        return Err(format!("{} comes at revision {rev}, after {}", conv.conv, connection.rev));
    }
    connection.rev = rev;
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, cursor, entry, said, session};
    use super::*;

    #[test]
    fn an_entry_for_a_stranger_one_that_was_acked_and_one_without_content_are_seen() {
        let one = entry(1, 10, None);
        let bench = || {
            let mut bench = Bench::new(vec![Box::new(Frames::default())]);
            bench.apply_all(1, 1, said(&one));
            bench
        };
        bench().connected("bob", 1).received("bob", &one).holds();
        bench().connected("carol", 1).received("carol", &one).violates("clients are shown");
        let opens = |number| vec![session("bob", number, 1)];
        let acks = || vec![cursor("bob", 1)];
        let mut again = bench();
        again.apply_all(1, 2, acks()).apply_all(1, 3, opens(1)).connected("bob", 1);
        again.received("bob", &one).violates("clients");
        let mut late = bench();
        late.apply_all(1, 2, opens(1)).apply_all(1, 3, opens(2)).connected("bob", 2);
        late.acked("bob", 1).apply_all(1, 4, acks()).connected("bob", 1).received("bob", &one).holds();
        // The ack of the first session is lost, and that of the third is applied before the second hears that it is connected.
        let mut lost = bench();
        lost.apply_all(1, 2, opens(1)).connected("bob", 1).acked("bob", 1);
        lost.apply_all(1, 3, opens(2)).apply_all(1, 4, opens(3)).apply_all(1, 5, acks());
        lost.connected("bob", 2).received("bob", &one).holds();
        let empty = flotilla_proto::entry::Entry { what: None, ..one.clone() };
        bench().connected("bob", 1).received("bob", &empty).violates("clients are shown");
    }
}
