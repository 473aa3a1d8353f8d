//! Read marks: what the person has read, until the server says that it knows. Pure.
//!
//! Invariant: a mark never goes back, and one that no `conv` has confirmed is told again: on every connection, and when what it names
//! has come.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::frame::AckItem;
use flotilla_proto::ids::{ConvId, Seq};

#[derive(Debug, Default)]
pub struct Reads {
    marks: BTreeMap<ConvId, Seq>,
    /// Marks that no `conv` has confirmed.
    open: BTreeSet<ConvId>,
    /// To be told on this connection.
    due: BTreeSet<ConvId>,
    /// How far entries have come on this connection.
    came: BTreeMap<ConvId, Seq>,
}

impl Reads {
    pub fn restored(marks: BTreeMap<ConvId, Seq>) -> Self {
        Self { open: marks.keys().cloned().collect(), marks, ..Self::default() }
    }

    /// It says more than is known.
    pub fn is_new(&self, conv: &ConvId, seq: Seq) -> bool {
        self.marks.get(conv).is_none_or(|mark| *mark < seq)
    }

    /// The person has read so far; the store has the mark.
    pub fn mark(&mut self, conv: ConvId, seq: Seq) {
        self.marks.insert(conv.clone(), seq);
        self.open.insert(conv.clone());
        self.due.insert(conv);
    }

    /// The server knows of this mark.
    pub fn on_conv(&mut self, conv: &ConvId, read: Seq) {
        let Some(mark) = self.marks.get(conv) else { return };
        if read >= *mark {
            self.open.remove(conv);
        } else {
            self.due.insert(conv.clone());
        }
    }

    /// What came on this connection up to `seq` is stored. A page of history may show what has not been delivered yet, and a server takes
    /// no mark above what it has delivered: one that was told too early is told again when the entries are there. Before `caught_up`
    /// nothing is: everything open is told then.
    pub fn on_stored(&mut self, conv: &ConvId, seq: Seq, caught_up: bool) {
        let came = self.came.entry(conv.clone()).or_default();
        let before = *came;
        *came = seq.max(before);
        let Some(mark) = self.marks.get(conv) else { return };
        if caught_up && before < *mark && *mark <= seq && self.open.contains(conv) {
            self.due.insert(conv.clone());
        }
    }

    pub fn on_caught_up(&mut self) {
        self.due.extend(self.open.iter().cloned());
    }

    pub fn disconnected(&mut self) {
        self.due.clear();
        self.came.clear();
    }

    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub fn next(&mut self) -> Option<AckItem> {
        let conv = self.due.pop_first()?;
        let seq = self.marks.get(&conv).copied().unwrap_or_default();
        Some(AckItem { conv, seq })
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::UserId;

    use super::*;

    fn conv() -> ConvId {
        let user = |name| UserId::parse(name).expect("valid");
        ConvId::direct(&user("alice"), &user("bob"))
    }

    fn told(reads: &mut Reads) -> Vec<u64> {
        std::iter::from_fn(|| reads.next()).map(|item| item.seq.0).collect()
    }

    #[test]
    fn a_mark_above_what_has_come_is_told_again_once_it_has() {
        let mut reads = Reads::default();
        let c = conv();
        reads.on_stored(&c, Seq(1), true);
        reads.mark(c.clone(), Seq(3));
        assert_eq!(told(&mut reads), [3], "too early perhaps");
        let steps: Vec<_> = (2..=4)
            .map(|seq| {
                reads.on_stored(&c, Seq(seq), true);
                told(&mut reads)
            })
            .collect();
        assert_eq!(steps, [vec![], vec![3], vec![]], "in time, and not with what comes behind it");
    }

    #[test]
    fn what_the_server_knows_is_not_told_again() {
        let mut reads = Reads::default();
        let c = conv();
        reads.mark(c.clone(), Seq(3));
        assert_eq!(told(&mut reads), [3]);
        reads.on_conv(&c, Seq(3));
        reads.on_stored(&c, Seq(5), true);
        reads.on_caught_up();
        assert!(told(&mut reads).is_empty());
        assert!(!reads.is_new(&c, Seq(3)) && reads.is_new(&c, Seq(4)));
    }

    #[test]
    fn an_open_mark_is_told_on_every_connection_and_counts_what_comes_on_it_anew() {
        let mut reads = Reads::restored(BTreeMap::from([(conv(), Seq(3))]));
        let c = conv();
        for _ in 0..2 {
            reads.on_stored(&c, Seq(2), false);
            assert!(told(&mut reads).is_empty(), "all of it at `caught_up`");
            reads.on_caught_up();
            assert_eq!(told(&mut reads), [3]);
            reads.on_stored(&c, Seq(4), true);
            assert_eq!(told(&mut reads), [3]);
            reads.disconnected();
        }
        reads.on_conv(&c, Seq(2));
        assert_eq!(told(&mut reads), [3], "the server says that it knows less");
    }
}
