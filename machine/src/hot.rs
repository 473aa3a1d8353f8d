//! The rows of one replica's state that commands have looked at lately, so that a busy conversation is not read from
//! storage, checked and copied for each of its messages.
//!
//! Invariants:
//! - What is here is what storage holds: rows come in as they are read and as they are written, and the owner of the state is
//!   the only writer. So replies and writes are the same with and without (I6); debug builds compare every hit.
//! - A ceiling is never below a key that storage has under its prefix. So a key above it is absent, and storage is not asked: of every
//!   new message that would look into each table on the disk, to find nothing.
//! - Bounded in bytes: the rows that nobody has asked for longest go first, half of them at a time. How many bytes those are
//!   changes what is read from storage, and nothing else.
//!
//! It does not know what rows mean, beyond which kinds are worth their bytes.

use bytes::Bytes;
use flotilla_proto::limits::HOT_ROWS_SHARD_BYTES_MAX;

use crate::lookup::Lookup;
use crate::table::kind;

/// What a row costs beside its bytes.
const ROW_OVERHEAD: usize = 96;
/// The table whose keys are asked for as a list: those of a user, without the id that ends a key.
const LISTED: (u8, usize) = (kind::DEVICE, 16);
/// The table where most keys that are asked for are not there yet, and above all others of their sender: those of a
/// conversation and a sender, without the cid that ends a key. That holds for cids that begin with the time, UUIDs of version 7;
/// for others the look at the highest would be in vain.
const CLIMBING: (u8, usize) = (kind::DEDUP, 16);
/// The part of all bytes that answers to messages may have.
const ANSWERS_PART: usize = 8;

fn is_timed(cid: &[u8]) -> bool {
    cid.get(6).is_some_and(|byte| byte >> 4 == 7)
}

#[derive(Debug)]
pub(crate) struct HotRows {
    /// Of conversations and users.
    rows: Shelf,
    /// Answers to messages. Every message leaves one, and most of them nobody asks for: they push out each other only.
    answers: Shelf,
}

#[derive(Debug, Default)]
struct Shelf {
    young: Generation,
    old: Generation,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Generation {
    /// None: storage has no such row.
    rows: Lookup<Option<Bytes>>,
    /// The keys under a prefix, all of them.
    lists: Lookup<Vec<Vec<u8>>>,
    ceilings: Lookup<Ceiling>,
    bytes: usize,
}

/// What is known of the highest key under a prefix, given as its last bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ceiling {
    /// A key was asked for in vain, once: the second time the highest one is worth a look.
    Unknown,
    /// No key is above this one.
    At(Vec<u8>),
}

/// (What its ceiling is kept under, the rest of the key.)
fn climbing(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (kind, suffix) = CLIMBING;
    if key.first() != Some(&kind) {
        return None;
    }
    key.split_at_checked(key.len().checked_sub(suffix)?)
}

/// Read again and again while a conversation is busy; of the others a row is read once, or never.
fn is_hot(kind: u8) -> bool {
    matches!(
        kind,
        kind::CONVERSATION
            | kind::MEMBER
            | kind::SENDER
            | kind::DIRTY
            | kind::RECEIPT_DIRTY
            | kind::ROSTER
            | kind::DEDUP
            | kind::USER
            | kind::DEVICE
            | kind::SESSION
            | kind::INBOX
            | kind::CURSOR
            | kind::RECEIPT_DUE
            | kind::PRIVACY
    )
}

/// An answer to a message is looked for once before it is there, and each one has another key.
fn is_hot_when_absent(kind: u8) -> bool {
    kind != kind::DEDUP
}

fn weight(key: &[u8], row: Option<&Bytes>) -> usize {
    ROW_OVERHEAD + key.len() + row.map_or(0, Bytes::len)
}

fn list_weight(prefix: &[u8], keys: &[Vec<u8>]) -> usize {
    weight(prefix, None) + keys.iter().map(|key| ROW_OVERHEAD + key.len()).sum::<usize>()
}

impl Generation {
    fn put(&mut self, key: Vec<u8>, row: Option<Bytes>) {
        let fixed = weight(&key, None);
        self.bytes += fixed + row.as_ref().map_or(0, Bytes::len);
        if let Some(before) = self.rows.insert(key, row) {
            self.bytes -= fixed + before.map_or(0, |row| row.len());
        }
    }

    fn remove(&mut self, key: &[u8]) -> Option<Option<Bytes>> {
        let row = self.rows.remove(key)?;
        self.bytes = self.bytes.saturating_sub(weight(key, row.as_ref()));
        Some(row)
    }

    fn remove_list(&mut self, prefix: &[u8]) -> Option<Vec<Vec<u8>>> {
        let keys = self.lists.remove(prefix)?;
        self.bytes = self.bytes.saturating_sub(list_weight(prefix, &keys));
        Some(keys)
    }

    fn remove_ceiling(&mut self, prefix: &[u8]) -> Option<Ceiling> {
        let ceiling = self.ceilings.remove(prefix)?;
        self.bytes = self.bytes.saturating_sub(weight(prefix, None));
        Some(ceiling)
    }
}

impl Shelf {
    fn insert(&mut self, key: Vec<u8>, row: Option<Bytes>) {
        self.young.put(key, row);
        self.age();
    }

    fn insert_list(&mut self, prefix: Vec<u8>, keys: Vec<Vec<u8>>) {
        self.young.remove_list(&prefix);
        self.young.bytes += list_weight(&prefix, &keys);
        self.young.lists.insert(prefix, keys);
        self.age();
    }

    fn insert_ceiling(&mut self, prefix: &[u8], ceiling: Ceiling) {
        if self.young.ceilings.insert(prefix.to_vec(), ceiling).is_none() {
            self.young.bytes += weight(prefix, None);
            self.age();
        }
    }

    fn age(&mut self) {
        if self.young.bytes > self.bytes_max / 2 {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

impl Default for HotRows {
    fn default() -> Self {
        let mut hot = Self { rows: Shelf::default(), answers: Shelf::default() };
        hot.allow(HOT_ROWS_SHARD_BYTES_MAX);
        hot
    }
}

impl HotRows {
    /// So many bytes from now on; `HOT_ROWS_SHARD_BYTES_MAX` at most. Where that is less than before, what is too much goes with
    /// the rows that come: a shard that applies nothing keeps what it has.
    pub fn allow(&mut self, bytes: usize) {
        let bytes = bytes.min(HOT_ROWS_SHARD_BYTES_MAX);
        self.answers.bytes_max = bytes / ANSWERS_PART;
        self.rows.bytes_max = bytes - self.answers.bytes_max;
    }

    fn shelf(&mut self, key: &[u8]) -> &mut Shelf {
        if key.first() == Some(&kind::DEDUP) { &mut self.answers } else { &mut self.rows }
    }

    /// None: not known here.
    pub fn get(&mut self, key: &[u8]) -> Option<Option<Bytes>> {
        let shelf = self.shelf(key);
        if let Some(row) = shelf.young.rows.get(key) {
            return Some(row.clone());
        }
        let row = shelf.old.remove(key)?;
        shelf.insert(key.to_vec(), row.clone());
        Some(row)
    }

    /// The row as storage gave it.
    pub fn on_read(&mut self, key: &[u8], row: Option<&Bytes>) {
        let Some(kind) = key.first().copied().filter(|kind| is_hot(*kind)) else { return };
        if row.is_some() || is_hot_when_absent(kind) {
            self.shelf(key).insert(key.to_vec(), row.cloned());
        }
    }

    /// The row as storage holds it from now on.
    pub fn on_written(&mut self, key: Vec<u8>, row: Option<&Bytes>) {
        let Some(kind) = key.first().copied().filter(|kind| is_hot(*kind)) else { return };
        if row.is_some() {
            self.raise(&key);
        }
        let shelf = self.shelf(&key);
        shelf.old.remove(&key);
        if row.is_some() || is_hot_when_absent(kind) {
            shelf.insert(key, row.cloned());
        } else {
            shelf.young.remove(&key);
        }
    }

    /// Whether storage has no such row, as far as is known without a look.
    pub fn is_above_all(&mut self, key: &[u8]) -> bool {
        let Some((prefix, suffix)) = climbing(key) else { return false };
        if let Some(ceiling) = self.answers.old.remove_ceiling(prefix) {
            self.answers.insert_ceiling(prefix, ceiling);
        }
        matches!(self.answers.young.ceilings.get(prefix), Some(Ceiling::At(highest)) if suffix > highest.as_slice())
    }

    /// A row was asked for that storage does not have. The answer: the prefix whose highest key is worth a look now.
    pub fn on_missed<'k>(&mut self, key: &'k [u8]) -> Option<&'k [u8]> {
        let (prefix, cid) = climbing(key)?;
        if !is_timed(cid) {
            return None;
        }
        match self.answers.young.ceilings.get(prefix) {
            None => self.answers.insert_ceiling(prefix, Ceiling::Unknown),
            Some(Ceiling::Unknown) => return Some(prefix),
            // Below the ceiling; it would be the same again.
            Some(Ceiling::At(_)) => {}
        }
        None
    }

    /// The highest key that storage has under a prefix; None: it has none.
    pub fn on_highest(&mut self, prefix: &[u8], highest: Option<&[u8]>) {
        let suffix = highest.and_then(climbing).map_or(&[][..], |(_, suffix)| suffix);
        self.answers.insert_ceiling(prefix, Ceiling::At(suffix.to_vec()));
    }

    /// A row is there from now on. A deleted one leaves the ceiling where it was, which is no lower than it must be.
    fn raise(&mut self, key: &[u8]) {
        let Some((prefix, suffix)) = climbing(key) else { return };
        for ceilings in [&mut self.answers.young.ceilings, &mut self.answers.old.ceilings] {
            if let Some(Ceiling::At(highest)) = ceilings.get_mut(prefix)
                && suffix > highest.as_slice()
            {
                highest.clear();
                highest.extend_from_slice(suffix);
            }
        }
    }

    pub fn list(&mut self, prefix: &[u8]) -> Option<Vec<Vec<u8>>> {
        if let Some(keys) = self.rows.young.lists.get(prefix) {
            return Some(keys.clone());
        }
        let keys = self.rows.old.remove_list(prefix)?;
        self.rows.insert_list(prefix.to_vec(), keys.clone());
        Some(keys)
    }

    /// All keys under a prefix, as storage and the open transaction gave them.
    pub fn on_listed(&mut self, prefix: &[u8], keys: &[Vec<u8>]) {
        self.rows.insert_list(prefix.to_vec(), keys.to_vec());
    }

    /// A key comes or goes, perhaps: its list is not known any more, whether the transaction ends well or not.
    pub fn on_touched(&mut self, key: &[u8]) {
        let (kind, suffix) = LISTED;
        if key.first() == Some(&kind) && key.len() > suffix {
            let prefix = &key[..key.len() - suffix];
            self.rows.young.remove_list(prefix);
            self.rows.old.remove_list(prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    fn small() -> HotRows {
        let mut hot = HotRows::default();
        hot.allow(MAX);
        hot
    }

    fn bytes(hot: &HotRows) -> usize {
        [&hot.rows, &hot.answers].iter().map(|shelf| shelf.young.bytes + shelf.old.bytes).sum()
    }

    fn age(hot: &mut HotRows) {
        for shelf in [&mut hot.rows, &mut hot.answers] {
            shelf.old = std::mem::take(&mut shelf.young);
        }
    }

    fn key(n: u32) -> Vec<u8> {
        [&[kind::INBOX][..], &n.to_be_bytes()].concat()
    }

    #[test]
    fn rows_in_use_stay_and_the_bytes_are_bounded() {
        let mut hot = small();
        let row = Bytes::from(vec![7; 1_000]);
        for n in 0..10_000 {
            hot.on_read(&key(n), Some(&row));
            assert_eq!(hot.get(&key(0)), Some(Some(row.clone())), "asked for all the time");
            assert!(bytes(&hot) <= MAX + 4_096);
        }
        assert_eq!(hot.get(&key(1)), None, "gone long ago");
    }

    #[test]
    fn a_write_replaces_what_was_read_in_both_generations() {
        let mut hot = HotRows::default();
        hot.on_read(&key(1), None);
        assert_eq!(hot.get(&key(1)), Some(None));
        age(&mut hot);
        let row = Bytes::from_static(b"row");
        hot.on_written(key(1), Some(&row));
        assert_eq!(hot.get(&key(1)), Some(Some(row)));
        hot.on_written(key(1), None);
        assert_eq!(hot.get(&key(1)), Some(None));
    }

    fn cid(sender: u8, cid: u8) -> Vec<u8> {
        let mut timed = [cid; 16];
        timed[6] = 0x70;
        [&[kind::DEDUP, 0, 1, b'c', 0, sender, 0][..], &timed].concat()
    }

    #[test]
    fn a_key_above_the_highest_is_absent_and_the_highest_rises_with_what_is_written() {
        let mut hot = HotRows::default();
        assert!(!hot.is_above_all(&cid(b'a', 5)), "nothing is known");
        assert_eq!(hot.on_missed(&cid(b'a', 5)), None, "once says little");
        let prefix = hot.on_missed(&cid(b'a', 6)).expect("twice").to_vec();
        hot.on_highest(&prefix, Some(&cid(b'a', 4)));
        assert!(
            hot.is_above_all(&cid(b'a', 5)) && !hot.is_above_all(&cid(b'a', 4)) && !hot.is_above_all(&cid(b'a', 3))
        );
        assert!(!hot.is_above_all(&cid(b'b', 9)), "another sender's");
        hot.on_written(cid(b'a', 8), Some(&Bytes::from_static(b"row")));
        assert!(!hot.is_above_all(&cid(b'a', 8)) && hot.is_above_all(&cid(b'a', 9)));
        hot.on_written(cid(b'a', 8), None);
        assert!(!hot.is_above_all(&cid(b'a', 7)), "a ceiling does not fall");
        assert_eq!(hot.on_missed(&cid(b'a', 7)), None);
        age(&mut hot);
        hot.on_written(cid(b'a', 10), Some(&Bytes::from_static(b"row")));
        assert!(!hot.is_above_all(&cid(b'a', 10)) && hot.is_above_all(&cid(b'a', 11)), "nor is it lost with age");
    }

    #[test]
    fn the_highest_is_worth_a_look_only_where_cids_begin_with_the_time() {
        let mut hot = HotRows::default();
        let drawn = |n| [&[kind::DEDUP, 0, 1, b'c', 0, b'a', 0][..], &[n; 6], &[0x40], &[n; 9]].concat();
        for n in 0..100 {
            assert_eq!(hot.on_missed(&drawn(n)), None);
        }
        assert!(!hot.is_above_all(&drawn(200)));
    }

    #[test]
    fn where_storage_has_nothing_every_key_is_absent_until_one_is_written() {
        let mut hot = HotRows::default();
        hot.on_highest(&cid(b'a', 0)[..7], None);
        assert!(hot.is_above_all(&cid(b'a', 0)));
        hot.on_written(cid(b'a', 0), Some(&Bytes::from_static(b"row")));
        assert!(!hot.is_above_all(&cid(b'a', 0)));
    }

    #[test]
    fn ceilings_are_bounded_too() {
        let mut hot = small();
        for n in 0..100_000u32 {
            hot.on_missed(&[&[kind::DEDUP][..], &n.to_be_bytes(), &[0x70; 16]].concat());
            assert!(bytes(&hot) <= MAX + 4_096);
        }
    }

    #[test]
    fn a_row_that_is_written_over_and_over_counts_once() {
        let mut hot = small();
        let row = Bytes::from(vec![7; 100]);
        hot.on_read(&key(1), Some(&row));
        (0..100_000).for_each(|_| hot.on_written(key(2), Some(&row)));
        assert_eq!(bytes(&hot), 2 * weight(&key(1), Some(&row)));
        assert_eq!(hot.get(&key(1)), Some(Some(row)));
    }

    #[test]
    fn answers_to_messages_push_out_no_row() {
        let mut hot = small();
        let row = Bytes::from(vec![7; 100]);
        hot.on_read(&key(1), Some(&row));
        for n in 0..100_000u32 {
            hot.on_written([&[kind::DEDUP][..], &n.to_be_bytes(), &[0x70; 16]].concat(), Some(&row));
        }
        assert_eq!(hot.get(&key(1)), Some(Some(row)));
        assert!(bytes(&hot) <= MAX / ANSWERS_PART + 4_096);
    }

    #[test]
    fn a_smaller_allowance_holds_as_soon_as_rows_come() {
        let mut hot = small();
        let row = Bytes::from(vec![7; 1_000]);
        (0..10_000).for_each(|n| hot.on_read(&key(n), Some(&row)));
        assert!(bytes(&hot) > MAX / 4);
        hot.allow(MAX / 16);
        (0..200).for_each(|n| hot.on_read(&key(n), Some(&row)));
        assert!(bytes(&hot) <= MAX / 16 + 4_096, "{}", bytes(&hot));
    }

    #[test]
    fn lists_in_use_stay_and_their_bytes_are_bounded() {
        let mut hot = small();
        let prefix = |n: u32| [&[kind::DEVICE, 0, 1][..], &n.to_be_bytes(), &[0]].concat();
        let device = |n: u32| vec![[&prefix(n)[..], &[9; 16]].concat()];
        for n in 0..10_000 {
            hot.on_listed(&prefix(n), &device(n));
            assert_eq!(hot.list(&prefix(0)), Some(device(0)), "asked for all the time");
            assert!(bytes(&hot) <= MAX + 4_096);
        }
        assert_eq!(hot.list(&prefix(1)), None, "gone long ago");
        hot.on_touched(&device(0)[0]);
        assert_eq!(hot.list(&prefix(0)), None);
    }

    #[test]
    fn a_list_is_forgotten_when_one_of_its_keys_is_touched() {
        let mut hot = HotRows::default();
        let prefix = [kind::DEVICE, 0, 1, b'a', 0];
        let device = [&prefix[..], &[9; 16]].concat();
        hot.on_listed(&prefix, std::slice::from_ref(&device));
        assert_eq!(hot.list(&prefix), Some(vec![device.clone()]));
        hot.on_touched(&device);
        assert_eq!(hot.list(&prefix), None);
    }
}
