//! Marks of members on their way to a client that watches them.
//!
//! Pure. Invariants: nothing of a conversation that is not watched (any more) goes out; while the client is in the background nothing
//! does, and the highest of each waits; and before somebody else's read mark goes out it was asked, later than the mark was
//! registered, whether the client's user hides its own: then it is shown those of nobody.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_machine::query::MarksOf;
use flotilla_proto::frame::{ConvReceipts, MemberMarks, ReceiptsReply, Signal};
use flotilla_proto::ids::{ConvId, Seq, UserId};
use flotilla_proto::limits;

use super::signals;
use crate::http::people::read_shown;

/// Delivered and read by conversation and member.
pub type Marks = BTreeMap<ConvId, BTreeMap<UserId, (Seq, Seq)>>;

/// How far members of one conversation are. None: nobody can tell now.
pub type Looked = (ConvId, Option<Vec<MarksOf>>);

#[derive(Default)]
pub struct Receipts {
    watched: BTreeSet<ConvId>,
    waiting: Marks,
    /// Some are out to be asked for.
    asking: bool,
}

impl Receipts {
    /// A new list: its answer says how far everybody is.
    pub fn on_watch(&mut self, convs: BTreeSet<ConvId>) {
        self.watched = convs;
        self.waiting.clear();
    }

    pub fn on_marks(&mut self, conv: ConvId, marks: Vec<MarksOf>) {
        if !self.watched.contains(&conv) || marks.is_empty() {
            return;
        }
        let waiting = self.waiting.entry(conv).or_default();
        for MarksOf { user, delivered, read } in marks {
            let of = waiting.entry(user).or_default();
            *of = (of.0.max(delivered), of.1.max(read));
        }
    }

    /// What waits, for which it is to be asked whether the client's user hides its reads.
    pub fn take(&mut self) -> Option<Marks> {
        if self.asking || self.waiting.is_empty() {
            return None;
        }
        self.asking = true;
        Some(std::mem::take(&mut self.waiting))
    }

    /// What may be told of what was taken. None: nobody can tell whether reads are hidden, so it waits again.
    pub fn on_hides(&mut self, me: &UserId, taken: Marks, hides: Option<bool>) -> Vec<Signal> {
        self.asking = false;
        let mut signals = Vec::new();
        for (conv, marks) in taken {
            if !self.watched.contains(&conv) {
                continue;
            }
            let Some(hides) = hides else {
                let again = marks.into_iter().map(|(user, (delivered, read))| MarksOf { user, delivered, read });
                self.on_marks(conv, again.collect());
                continue;
            };
            let members: Vec<MemberMarks> =
                marks.into_iter().map(|(user, (delivered, read))| shown(me, user, delivered, read, hides)).collect();
            for part in members.chunks(limits::RECEIPT_MARKS_PER_FRAME_MAX) {
                let (conv, members) = (Some(conv.clone()), Some(part.to_vec()));
                signals.push(Signal { conv, members, ..signals::signal("receipts") });
            }
        }
        signals
    }

    /// The answer to a list. What does not fit it, and reads as long as nobody can tell whether they may be shown, wait.
    pub fn answer(&mut self, me: &UserId, looked: Vec<Looked>, hides: Option<bool>) -> ReceiptsReply {
        let (mut receipts, mut room) = (Vec::new(), limits::RECEIPT_MARKS_PER_FRAME_MAX);
        for (conv, marks) in looked {
            let Some(marks) = marks else { continue };
            let fits = marks.len() <= room;
            if fits {
                room -= marks.len();
                let one = |of: &MarksOf| shown(me, of.user.clone(), of.delivered, of.read, hides.unwrap_or(true));
                receipts.push(ConvReceipts { conv: conv.clone(), members: marks.iter().map(one).collect() });
            }
            if !fits || hides.is_none() {
                self.on_marks(conv, marks);
            }
        }
        ReceiptsReply { receipts }
    }
}

fn shown(me: &UserId, user: UserId, delivered: Seq, read: Seq, hides: bool) -> MemberMarks {
    let read = read_shown(hides, me, &user, read);
    MemberMarks { user, delivered, read: (read > Seq::ZERO).then_some(read) }
}

/// Whether there are read marks of others at all.
pub fn has_reads(me: &UserId, marks: &Marks) -> bool {
    marks.values().flatten().any(|(user, (_, read))| user != me && *read > Seq::ZERO)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::Cid;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("valid")
    }

    fn conv(n: u128) -> ConvId {
        ConvId::group(&user("ann"), Cid(n))
    }

    fn of(name: &str, delivered: u64, read: u64) -> MarksOf {
        MarksOf { user: user(name), delivered: Seq(delivered), read: Seq(read) }
    }

    fn watching(convs: &[u128]) -> Receipts {
        let mut receipts = Receipts::default();
        receipts.on_watch(convs.iter().map(|n| conv(*n)).collect());
        receipts
    }

    /// User, delivered, read.
    fn said(signals: &[Signal]) -> Vec<(&str, u64, Option<u64>)> {
        let members = signals.iter().flat_map(|signal| signal.members.as_deref().unwrap_or_default());
        members.map(|m| (m.user.as_str(), m.delivered.0, m.read.map(|read| read.0))).collect()
    }

    #[test]
    fn the_highest_of_each_waits_until_it_is_asked_and_goes_out_once() {
        let mut receipts = watching(&[1]);
        receipts.on_marks(conv(1), vec![of("bob", 3, 1), of("ann", 2, 2)]);
        receipts.on_marks(conv(1), vec![of("bob", 2, 2)]);
        receipts.on_marks(conv(2), vec![of("eve", 9, 9)]);
        let taken = receipts.take().expect("something waits");
        assert!(has_reads(&user("ann"), &taken) && has_reads(&user("bob"), &taken));
        receipts.on_marks(conv(1), vec![of("bob", 4, 4)]);
        assert!(receipts.take().is_none(), "one after the other");
        let signals = receipts.on_hides(&user("ann"), taken, Some(false));
        assert_eq!(said(&signals), [("ann", 2, Some(2)), ("bob", 3, Some(2))]);
        assert_eq!((signals[0].k.as_str(), signals[0].conv.as_ref()), ("receipts", Some(&conv(1))));
        let taken = receipts.take().expect("what came meanwhile");
        assert_eq!(said(&receipts.on_hides(&user("ann"), taken, Some(false))), [("bob", 4, Some(4))]);
        assert!(receipts.take().is_none());
    }

    #[test]
    fn who_hides_its_reads_is_shown_its_own_only_and_in_doubt_nothing_goes_out() {
        let mut receipts = watching(&[1]);
        receipts.on_marks(conv(1), vec![of("bob", 3, 1), of("ann", 2, 2)]);
        let taken = receipts.take().expect("something waits");
        assert!(receipts.on_hides(&user("ann"), taken, None).is_empty());
        let taken = receipts.take().expect("it waits again");
        let signals = receipts.on_hides(&user("ann"), taken, Some(true));
        assert_eq!(said(&signals), [("ann", 2, Some(2)), ("bob", 3, None)]);
    }

    #[test]
    fn what_was_under_way_of_another_list_is_not_told() {
        let mut receipts = watching(&[1]);
        receipts.on_marks(conv(1), vec![of("bob", 3, 1)]);
        let taken = receipts.take().expect("something waits");
        receipts.on_watch([conv(2)].into());
        assert!(receipts.on_hides(&user("ann"), taken.clone(), Some(false)).is_empty());
        assert!(receipts.on_hides(&user("ann"), taken, None).is_empty() && receipts.take().is_none());
    }

    #[test]
    fn an_answer_is_bounded_and_what_is_not_in_it_follows() {
        let mut receipts = watching(&[1, 2, 3]);
        let many = |n: usize| (0..n).map(|i| of(&format!("u{i}"), 1, 1)).collect::<Vec<_>>();
        let max = limits::RECEIPT_MARKS_PER_FRAME_MAX;
        let looked = vec![(conv(1), Some(many(max - 1))), (conv(2), Some(many(2))), (conv(3), None)];
        let reply = receipts.answer(&user("ann"), looked, Some(false));
        assert_eq!(reply.receipts.iter().map(|one| &one.conv).collect::<Vec<_>>(), [&conv(1)]);
        let taken = receipts.take().expect("the second");
        assert_eq!(said(&receipts.on_hides(&user("ann"), taken, Some(false))).len(), 2);
        // In doubt reads are left out, and follow.
        let reply = receipts.answer(&user("ann"), vec![(conv(1), Some(vec![of("bob", 5, 5)]))], None);
        assert_eq!(reply.receipts[0].members[0].read, None);
        assert!(receipts.take().is_some());
        // More than a frame holds.
        receipts.asking = false;
        receipts.on_marks(conv(1), many(max + 1));
        let taken = receipts.take().expect("many");
        assert_eq!(receipts.on_hides(&user("ann"), taken, Some(false)).len(), 2);
    }
}
