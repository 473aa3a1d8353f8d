//! What one target of the fan-out has been told: heads and parts that it has answered for, and those on their way. Pure.
//!
//! Invariants: what is answered for never goes back, in whatever order answers come; a request that fails takes back what it
//! had on its way, and nothing that another request has; the entries of all requests on their way are bounded.

use std::collections::BTreeMap;

use flotilla_machine::query::DirtyItem;
use flotilla_proto::entry::{Entry, What};
use flotilla_proto::ids::*;
use flotilla_proto::limits;

/// Head and parts, by conversation.
pub type Upto = BTreeMap<ConvId, (Seq, Seq)>;

/// What one request holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    pub upto: Upto,
    bytes: usize,
}

#[derive(Debug, Default)]
pub struct Told {
    /// Durable at the target, and not yet cleared in the log.
    pub answered: Upto,
    /// Each by itself: what is said of a conversation may fall (parts that were cleared meanwhile), so no maximum of them would
    /// be what any of them holds.
    on_its_way: Vec<Parcel>,
}

impl Parcel {
    pub fn of(items: &[DirtyItem]) -> Self {
        let upto = items.iter().map(|i| (i.notify.conv.clone(), (i.notify.head, i.parts))).collect();
        Self { upto, bytes: items.iter().map(weight).sum() }
    }
}

impl Told {
    pub fn answered_head(&self, conv: &ConvId) -> Seq {
        self.answered.get(conv).map_or(Seq::ZERO, |(head, _)| *head)
    }

    /// Takes out what the target knows or is being told: rows, and entries of the others. Those were pushed, and come not
    /// again only because their row is not cleared yet.
    pub fn owed(&self, items: Vec<DirtyItem>) -> Vec<DirtyItem> {
        let mut owed = items;
        owed.retain_mut(|item| {
            let (head, parts) = self.told(&item.notify.conv);
            item.entries.retain(|entry| entry.seq > head);
            item.notify.head > head || item.parts > parts
        });
        owed
    }

    fn told(&self, conv: &ConvId) -> (Seq, Seq) {
        let on_its_way = self.on_its_way.iter().filter_map(|parcel| parcel.upto.get(conv));
        self.answered
            .get(conv)
            .into_iter()
            .chain(on_its_way)
            .fold((Seq::ZERO, Seq::ZERO), |a, b| (a.0.max(b.0), a.1.max(b.1)))
    }

    /// For the entries of the next request; 0: it must wait. With little room for them it would go without, and each gateway would
    /// read the log.
    pub fn bytes_max(&self) -> usize {
        let room = limits::NOTIFIES_BYTES_MAX.saturating_sub(self.bytes());
        if room < limits::NOTIFY_BYTES_MAX / 4 { 0 } else { room.min(limits::NOTIFY_BYTES_MAX) }
    }

    fn bytes(&self) -> usize {
        self.on_its_way.iter().map(|parcel| parcel.bytes).sum()
    }

    pub fn goes(&mut self, parcel: &Parcel) {
        self.on_its_way.push(parcel.clone());
    }

    pub fn ended(&mut self, parcel: &Parcel, taken: bool) {
        // One that is its equal says the same.
        if let Some(at) = self.on_its_way.iter().position(|other| other == parcel) {
            self.on_its_way.swap_remove(at);
        }
        if taken {
            raise(&mut self.answered, &parcel.upto);
        }
    }

    /// It is cleared in the log, unless more was answered for meanwhile.
    pub fn cleared(&mut self, conv: &ConvId, upto: (Seq, Seq)) {
        if self.answered.get(conv) == Some(&upto) {
            self.answered.remove(conv);
        }
    }
}

/// About what an item takes.
fn weight(item: &DirtyItem) -> usize {
    let body = |entry: &Entry| match &entry.what {
        Some(What::Message { body, .. } | What::Edit { body, .. }) => body.0.len(),
        _ => 0,
    };
    64 * item.notify.users.len() + item.entries.iter().map(|entry| 256 + body(entry)).sum::<usize>()
}

fn raise(known: &mut Upto, upto: &Upto) {
    for (conv, (head, parts)) in upto {
        let (known_head, known_parts) = known.entry(conv.clone()).or_insert((Seq::ZERO, Seq::ZERO));
        (*known_head, *known_parts) = ((*head).max(*known_head), (*parts).max(*known_parts));
    }
}

#[cfg(test)]
mod tests {
    use flotilla_machine::command::Notify;

    use super::*;

    fn conv() -> ConvId {
        ConvId::group(&UserId::parse("ann").expect("valid"), Cid(1))
    }

    fn item(head: u64, parts: u64) -> DirtyItem {
        let (head, n_head) = (Seq(head), Count(head));
        let notify = Notify { conv: conv(), head, n_head, last_id: MsgId(1), last_ts: TsMs(1), users: vec![] };
        DirtyItem { notify, parts: Seq(parts), entries: vec![] }
    }

    fn owes(told: &Told, head: u64, parts: u64) -> bool {
        !told.owed(vec![item(head, parts)]).is_empty()
    }

    #[test]
    fn what_is_on_its_way_is_not_sent_again_until_its_request_fails() {
        let mut told = Told::default();
        let (first, second) = (Parcel::of(&[item(5, 0)]), Parcel::of(&[item(6, 0)]));
        told.goes(&first);
        assert_eq!((owes(&told, 5, 0), owes(&told, 6, 0), owes(&told, 5, 1)), (false, true, true));
        told.goes(&second);
        told.ended(&first, false);
        assert!(!owes(&told, 6, 0), "the second holds all that heads say of the first's entries too");
        assert_eq!(told.answered_head(&conv()), Seq::ZERO, "and nothing is answered for");
        told.ended(&second, false);
        assert!(owes(&told, 5, 0));
    }

    #[test]
    fn a_request_waits_until_there_is_room_for_its_entries() {
        let mut told = Told::default();
        let parcel = |bytes| Parcel { upto: Upto::new(), bytes };
        for bytes in [3 * limits::NOTIFY_BYTES_MAX, limits::NOTIFY_BYTES_MAX / 2] {
            assert_eq!(told.bytes_max(), limits::NOTIFY_BYTES_MAX.min(limits::NOTIFIES_BYTES_MAX - told.bytes()));
            told.goes(&parcel(bytes));
        }
        assert_eq!(told.bytes_max(), limits::NOTIFY_BYTES_MAX / 2);
        told.goes(&parcel(limits::NOTIFY_BYTES_MAX / 3));
        assert_eq!(told.bytes_max(), 0);
        told.ended(&parcel(limits::NOTIFY_BYTES_MAX / 2), false);
        assert!(told.bytes_max() > 0);
    }

    /// What was stuck once: parts are cleared while a request that holds them is on its way.
    #[test]
    fn nothing_stays_on_its_way_when_all_requests_have_ended() {
        let mut told = Told::default();
        let (first, second) = (Parcel::of(&[item(4, 3)]), Parcel::of(&[item(5, 0)]));
        told.goes(&first);
        told.goes(&second);
        assert!(!owes(&told, 5, 3));
        told.ended(&first, true);
        told.ended(&second, false);
        assert!(owes(&told, 5, 0), "its request failed");
        assert_eq!((told.on_its_way.len(), told.bytes_max()), (0, limits::NOTIFY_BYTES_MAX));
    }

    #[test]
    fn answers_in_another_order_take_nothing_back() {
        let mut told = Told::default();
        let (first, second) = (Parcel::of(&[item(5, 3)]), Parcel::of(&[item(6, 0)]));
        told.goes(&first);
        told.goes(&second);
        told.ended(&second, true);
        told.ended(&first, true);
        assert_eq!(told.answered, Upto::from([(conv(), (Seq(6), Seq(3)))]));
        told.cleared(&conv(), (Seq(5), Seq(3)));
        assert_eq!(told.answered_head(&conv()), Seq(6), "more was answered for since that clear went");
        told.cleared(&conv(), (Seq(6), Seq(3)));
        assert!(told.answered.is_empty() && told.bytes_max() == limits::NOTIFY_BYTES_MAX);
    }
}
