//! (conversation, seq) -> the entry.
//!
//! Key: `12`, slot u16, conversation text, seq u64, so that a range of seqs is a range of keys.

use std::ops::ControlFlow;

use flotilla_proto::entry::Entry;
use flotilla_proto::ids::*;
use flotilla_proto::slots;

use crate::Fatal;
use crate::table::{self, KeyBuilder, KeyReader, Rows, Table, kind};

pub struct Entries;

impl Table for Entries {
    const NAME: &'static str = "entry";
    const KIND: u8 = kind::ENTRY;
    const VERSION: u8 = 1;
    type Key = (ConvId, Seq);
    type Row = Entry;

    fn key((conv, seq): &Self::Key) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).slot(slots::of_conversation(conv)).conv(conv).u64(seq.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
        key.slot()?;
        Some((key.conv()?, Seq(key.u64()?)))
    }
}

/// Bytes that an entry takes in a message to another node, near enough for budgets: texts and bodies, and a flat rest.
pub fn weight(entry: &Entry) -> usize {
    use flotilla_proto::entry::What;
    let users = |users: &[UserId]| users.iter().map(|u| u.as_str().len() + 8).sum::<usize>();
    let content = match &entry.what {
        Some(What::Message { kind, body, mentions, media, .. }) => {
            kind.len() + body.0.len() + users(mentions) + media.as_deref().map_or(0, str::len)
        }
        Some(What::Edit { body, .. }) => body.0.len(),
        Some(What::Create { name, members, .. }) => name.len() + users(members),
        Some(What::Add { users: added }) => users(added),
        Some(What::Rename { name }) => name.len(),
        _ => 64,
    };
    content + entry.conv.as_str().len() + entry.from.as_str().len() + 256
}

/// What is left of a page while it fills. The first entry always fits, so that a page makes progress.
pub struct Budget {
    entries: usize,
    bytes: usize,
    empty: bool,
}

impl Budget {
    pub fn new(entries: usize, bytes: usize) -> Self {
        Self { entries, bytes, empty: true }
    }

    /// A budget whose first entry must fit like the others.
    pub fn strict(entries: usize, bytes: usize) -> Self {
        Self { entries, bytes, empty: false }
    }

    fn take(&mut self, weight: usize) -> bool {
        if self.entries == 0 || (weight > self.bytes && !self.empty) {
            return false;
        }
        self.empty = false;
        self.entries -= 1;
        self.bytes = self.bytes.saturating_sub(weight);
        true
    }

    pub fn bytes_left(&self) -> usize {
        self.bytes
    }
}

/// The entries of [low, high], oldest first, while the budget lasts. False: it did not last.
pub fn read_up(
    rows: &dyn Rows,
    conv: &ConvId,
    (low, high): (Seq, Seq),
    budget: &mut Budget,
    out: &mut Vec<Entry>,
) -> Result<bool, Fatal> {
    if low > high {
        return Ok(true);
    }
    if high.0 - low.0 < SINGLY_MAX {
        return read_singly(rows, conv, (low, high), budget, out);
    }
    let from = Entries::key(&(conv.clone(), low));
    let to = table::above(Entries::key(&(conv.clone(), high)));
    let mut whole = true;
    table::scan::<Entries>(rows, &from, &to, &mut |_, entry| {
        if !budget.take(weight(&entry)) {
            whole = false;
            return ControlFlow::Break(());
        }
        out.push(entry);
        ControlFlow::Continue(())
    })?;
    Ok(whole)
}

/// So few entries are read one by one: opening a range costs several times what finding a key does.
const SINGLY_MAX: u64 = 4;

fn read_singly(
    rows: &dyn Rows,
    conv: &ConvId,
    (low, high): (Seq, Seq),
    budget: &mut Budget,
    out: &mut Vec<Entry>,
) -> Result<bool, Fatal> {
    for seq in low.0..=high.0 {
        let Some(entry) = table::get::<Entries>(rows, &(conv.clone(), Seq(seq)))? else { continue };
        if !budget.take(weight(&entry)) {
            return Ok(false);
        }
        out.push(entry);
    }
    Ok(true)
}

/// Entries read at a time when going down: few enough that a page of large ones does not pile up.
const CHUNK: u64 = 16;

/// The entries of [low, high], newest first, while the budget lasts. False: it did not last.
pub fn read_down(
    rows: &dyn Rows,
    conv: &ConvId,
    (low, high): (Seq, Seq),
    budget: &mut Budget,
    out: &mut Vec<Entry>,
) -> Result<bool, Fatal> {
    let mut top = high;
    while top >= low && top > Seq::ZERO {
        let bottom = low.max(Seq(top.0.saturating_sub(CHUNK - 1))).max(Seq(1));
        let mut chunk = Vec::new();
        read_up(rows, conv, (bottom, top), &mut Budget::new(CHUNK as usize, usize::MAX), &mut chunk)?;
        for entry in chunk.into_iter().rev() {
            if !budget.take(weight(&entry)) {
                return Ok(false);
            }
            out.push(entry);
        }
        top = bottom.prev();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Txn;
    use crate::table::assert_round_trip;
    use crate::testing::arb;
    use flotilla_storage::MemEngine;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_round_trip(entry in arb::entry()) {
            assert_round_trip::<Entries>(&(entry.conv.clone(), entry.seq), &entry);
        }

        #[test]
        fn both_directions_read_the_same_entries(low in 0u64..60, high in 0u64..60, len in 0u64..50) {
            let engine = MemEngine::new();
            let mut txn = Txn::new(&engine, vec![]);
            let conv = arb::some_conv();
            for seq in 1..=len {
                let entry = arb::some_entry(&conv, Seq(seq));
                table::put::<Entries>(&mut txn, &(conv.clone(), Seq(seq)), &entry);
            }
            let (mut up, mut down) = (vec![], vec![]);
            let range = (Seq(low), Seq(high));
            read_up(&txn, &conv, range, &mut Budget::new(99, usize::MAX), &mut up).expect("reads");
            read_down(&txn, &conv, range, &mut Budget::new(99, usize::MAX), &mut down).expect("reads");
            down.reverse();
            prop_assert_eq!(&up, &down);
            let wanted: Vec<u64> = (low.max(1)..=high.min(len)).collect();
            prop_assert_eq!(up.iter().map(|e| e.seq.0).collect::<Vec<_>>(), wanted);
        }
    }
}
