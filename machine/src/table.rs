//! How a table is declared, and the few ways to reach one.
//!
//! Invariants:
//! - A key is (kind u8, slot u16, ids…), big-endian. An id text ends with a zero byte, which no id contains, so keys of
//!   different ids never collide and the order of keys is the order of ids.
//! - A value is sealed (layout version, payload, checksum). A row that does not open or decode stops the replica: serving
//!   around it would diverge.
//!
//! It knows nothing of what the rows mean. Queries use the same functions over a [`View`] that commands use over a
//! [`Txn`](crate::Txn).

use std::cell::RefCell;
use std::ops::ControlFlow;

use bytes::Bytes;
use flotilla_proto::codec;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_storage::key::prefix_end;
use flotilla_storage::{Order, Read, StorageError, value};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Fatal, Txn};

/// The first byte of every key. A retired kind is never used again.
pub mod kind {
    // Every shard.
    pub const CLOCK: u8 = 0x01;
    pub const SLOTS: u8 = 0x02;
    pub const SETTINGS: u8 = 0x03;
    pub const FENCE: u8 = 0x04;
    pub const PULL_RULE: u8 = 0x06;
    /// Reserved: slot moves in progress.
    pub const MOVE: u8 = 0x05;

    // Conversation side.
    pub const CONVERSATION: u8 = 0x10;
    pub const MEMBER: u8 = 0x11;
    pub const ENTRY: u8 = 0x12;
    pub const DEDUP: u8 = 0x13;
    pub const DEDUP_AGE: u8 = 0x14;
    pub const SENDER: u8 = 0x15;
    pub const DIRTY: u8 = 0x16;
    pub const RECEIPT_DIRTY: u8 = 0x17;
    pub const REVISION: u8 = 0x18;
    pub const OWED: u8 = 0x19;
    /// Reserved: the last 1,024 dedup rows per sender, for 14 days.
    pub const DEDUP_RING: u8 = 0x1a;
    /// Reserved: trim floors.
    pub const TRIM: u8 = 0x1b;
    /// Reserved, and not needed: subscriptions live in the leader's memory.
    pub const SUBSCRIPTION: u8 = 0x1c;
    /// Reserved: `wrev` counters of group receipts.
    pub const GROUP_RECEIPT: u8 = 0x1d;
    /// Reserved: deletion, trim, mode switch.
    pub const CONVERSATION_JOB: u8 = 0x1e;
    pub const ROSTER: u8 = 0x1f;
    pub const MENTION: u8 = 0x20;

    // User side.
    pub const USER: u8 = 0x30;
    pub const DEVICE: u8 = 0x31;
    pub const INSTALL: u8 = 0x32;
    pub const SESSION: u8 = 0x33;
    pub const SESSION_NODE: u8 = 0x34;
    pub const INBOX: u8 = 0x35;
    pub const INBOX_REV: u8 = 0x36;
    pub const CURSOR: u8 = 0x37;
    pub const RECEIPT_DUE: u8 = 0x38;
    pub const USER_REQUEST: u8 = 0x39;
    pub const USER_JOB: u8 = 0x3a;
    pub const TOKEN: u8 = 0x3b;
    pub const DEVICE_GONE: u8 = 0x3c;
    /// Reserved: one-time prekeys.
    pub const PREKEY: u8 = 0x40;
    pub const CONTACT: u8 = 0x41;
    pub const BLOCK: u8 = 0x42;
    /// Reserved, and not needed: mentions are counted in the conversation's shard.
    pub const MENTION_COUNT: u8 = 0x43;
    /// Reserved: pushes to phones.
    pub const PUSH: u8 = 0x44;
    pub const PRESENCE: u8 = 0x45;
    pub const PROFILE: u8 = 0x46;
    pub const CONV_SETTINGS: u8 = 0x47;
    pub const CODE: u8 = 0x48;
    pub const CODE_AGE: u8 = 0x49;
    pub const PRIVACY: u8 = 0x4a;

    // Control group.
    pub const CONTROL: u8 = 0x60;
    pub const NODE: u8 = 0x61;
    pub const PLACEMENT: u8 = 0x62;
    pub const REPLICA: u8 = 0x63;
    pub const KEY: u8 = 0x64;
    pub const FENCE_OWED: u8 = 0x65;

    /// For people who look at a data directory.
    pub fn name(kind: u8) -> Option<&'static str> {
        Some(match kind {
            CLOCK => "clock",
            SLOTS => "slots",
            SETTINGS => "settings",
            FENCE => "fence",
            PULL_RULE => "pull_rule",
            CONVERSATION => "conversation",
            MEMBER => "member",
            ENTRY => "entry",
            DEDUP => "dedup",
            DEDUP_AGE => "dedup_age",
            SENDER => "sender",
            DIRTY => "dirty",
            RECEIPT_DIRTY => "receipt_dirty",
            REVISION => "revision",
            OWED => "owed",
            ROSTER => "roster",
            MENTION => "mention",
            USER => "user",
            DEVICE => "device",
            INSTALL => "install",
            SESSION => "session",
            SESSION_NODE => "session_node",
            INBOX => "inbox",
            INBOX_REV => "inbox_rev",
            CURSOR => "cursor",
            RECEIPT_DUE => "receipt_due",
            USER_REQUEST => "user_request",
            USER_JOB => "user_job",
            TOKEN => "token",
            DEVICE_GONE => "device_gone",
            CONTACT => "contact",
            BLOCK => "block",
            PRESENCE => "presence",
            PROFILE => "profile",
            CONV_SETTINGS => "conv_settings",
            CODE => "code",
            CODE_AGE => "code_age",
            PRIVACY => "privacy",
            CONTROL => "control",
            NODE => "node",
            PLACEMENT => "placement",
            REPLICA => "replica",
            KEY => "key",
            FENCE_OWED => "fence_owed",
            _ => return None,
        })
    }
}

/// One table: its key layout and its row codec.
pub trait Table {
    const NAME: &'static str;
    const KIND: u8;
    /// Layout version of the row.
    const VERSION: u8;
    type Key;
    type Row: Serialize + DeserializeOwned;

    fn key(key: &Self::Key) -> Vec<u8>;

    /// The ids in a key of this table; none if the bytes are not one.
    fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key>;
}

/// Builds keys and key prefixes.
pub struct KeyBuilder(Vec<u8>);

impl KeyBuilder {
    pub fn new(kind: u8) -> Self {
        let mut key = Vec::with_capacity(96);
        key.push(kind);
        Self(key)
    }

    pub fn slot(self, slot: Slot) -> Self {
        self.u16(slot.0)
    }

    /// An id text and its terminator.
    pub fn text(mut self, id: &str) -> Self {
        debug_assert!(!id.as_bytes().contains(&0), "ids contain no zero byte");
        self.0.extend_from_slice(id.as_bytes());
        self.0.push(0);
        self
    }

    pub fn conv(self, conv: &ConvId) -> Self {
        self.text(conv.as_str())
    }

    pub fn user(self, user: &UserId) -> Self {
        self.text(user.as_str())
    }

    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u128(mut self, value: u128) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn bytes32(mut self, value: &[u8; 32]) -> Self {
        self.0.extend_from_slice(value);
        self
    }

    pub fn build(self) -> Vec<u8> {
        self.0
    }
}

/// Takes a key apart, in the order in which it was built.
pub struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// None if the key is of another kind.
    pub fn new(kind: u8, key: &'a [u8]) -> Option<Self> {
        match key.split_first() {
            Some((first, rest)) if *first == kind => Some(Self(rest)),
            _ => None,
        }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub fn text(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|b| *b == 0)?;
        let text = std::str::from_utf8(&self.0[..end]).ok()?;
        self.0 = &self.0[end + 1..];
        Some(text)
    }

    pub fn slot(&mut self) -> Option<Slot> {
        self.u16().map(Slot)
    }

    pub fn conv(&mut self) -> Option<ConvId> {
        ConvId::parse(self.text()?).ok()
    }

    pub fn user(&mut self) -> Option<UserId> {
        UserId::parse(self.text()?).ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|b| b[0])
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    pub fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_be_bytes)
    }

    pub fn bytes32(&mut self) -> Option<[u8; 32]> {
        self.take()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Rows as a command or a query sees them; keys without the node's prefix.
pub trait Rows {
    fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Visits [from, to) in key order until the visitor breaks.
    fn scan_raw(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError>;
}

impl Rows for Txn<'_> {
    fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.get(key)
    }

    fn scan_raw(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.scan(from, to, visit)
    }
}

/// A shard's state for reading: one consistent view, and the prefix of the shard's keys in it.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub read: &'a dyn Read,
    pub prefix: &'a [u8],
}

impl Rows for View<'_> {
    fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.read.get(&[self.prefix, key].concat())
    }

    fn scan_raw(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let cut = self.prefix.len();
        self.read.scan(&[self.prefix, from].concat(), &[self.prefix, to].concat(), Order::Forward, &mut |key, value| {
            visit(&key[cut..], value)
        })
    }
}

fn damaged<T: Table>() -> Fatal {
    Fatal::Damaged { table: T::NAME }
}

thread_local! {
    /// Where a row is encoded before it is copied into memory of its own, of the right size.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::default();
}

/// What a thread keeps for encoding: the rare large row does not stay.
const SCRATCH_BYTES_MAX: usize = 64 * 1024;

fn encode<T: Table>(row: &T::Row) -> Bytes {
    SCRATCH.with_borrow_mut(|scratch| {
        value::seal_into(scratch, T::VERSION, |out| codec::encode_into(T::VERSION, row, out))
            .expect("rows are plain data of known length, which always encodes");
        let sealed = Bytes::copy_from_slice(scratch);
        if scratch.capacity() > SCRATCH_BYTES_MAX {
            *scratch = Vec::new();
        }
        sealed
    })
}

fn decode<T: Table>(bytes: &[u8]) -> Result<T::Row, Fatal> {
    let (version, payload) = value::open_slice(bytes).map_err(|_| damaged::<T>())?;
    if version != T::VERSION {
        return Err(damaged::<T>());
    }
    codec::decode(version, payload, limits::ROW_BYTES_MAX).map_err(|_| damaged::<T>())
}

pub fn decode_key<T: Table>(key: &[u8]) -> Result<T::Key, Fatal> {
    let mut reader = KeyReader::new(T::KIND, key).ok_or_else(damaged::<T>)?;
    let ids = T::parse(&mut reader).ok_or_else(damaged::<T>)?;
    if reader.is_empty() { Ok(ids) } else { Err(damaged::<T>()) }
}

pub fn get<T: Table>(rows: &dyn Rows, key: &T::Key) -> Result<Option<T::Row>, Fatal> {
    match rows.get_raw(&T::key(key))? {
        Some(bytes) => decode::<T>(&bytes).map(Some),
        None => Ok(None),
    }
}

pub fn put<T: Table>(txn: &mut Txn<'_>, key: &T::Key, row: &T::Row) {
    txn.put(T::key(key), encode::<T>(row));
}

pub fn delete<T: Table>(txn: &mut Txn<'_>, key: &T::Key) {
    txn.delete(T::key(key));
}

/// Visits the rows of [from, to) in key order until the visitor breaks. The bounds come from a [`KeyBuilder`].
pub fn scan<T: Table>(
    rows: &dyn Rows,
    from: &[u8],
    to: &[u8],
    visit: &mut dyn FnMut(T::Key, T::Row) -> ControlFlow<()>,
) -> Result<(), Fatal> {
    let mut failed = None;
    rows.scan_raw(from, to, &mut |key, value| {
        let row = decode_key::<T>(key).and_then(|key| Ok((key, decode::<T>(value)?)));
        match row {
            Ok((key, row)) => visit(key, row),
            Err(fatal) => {
                failed = Some(fatal);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// As [`scan`], over all keys that start with `prefix`.
pub fn scan_prefix<T: Table>(
    rows: &dyn Rows,
    prefix: &[u8],
    visit: &mut dyn FnMut(T::Key, T::Row) -> ControlFlow<()>,
) -> Result<(), Fatal> {
    scan::<T>(rows, prefix, &end_of(prefix), visit)
}

/// Rows with their keys.
pub type KeyedRows<T> = Vec<(<T as Table>::Key, <T as Table>::Row)>;

/// At most `limit` rows of [from, to), and whether there are more.
pub fn page<T: Table>(rows: &dyn Rows, from: &[u8], to: &[u8], limit: usize) -> Result<(KeyedRows<T>, bool), Fatal> {
    let mut page = Vec::new();
    let mut more = false;
    scan::<T>(rows, from, to, &mut |key, row| {
        if page.len() >= limit {
            more = true;
            return ControlFlow::Break(());
        }
        page.push((key, row));
        ControlFlow::Continue(())
    })?;
    Ok((page, more))
}

/// The exclusive upper bound of a key prefix.
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    prefix_end(prefix).expect("a key prefix starts with a kind byte below 0xff")
}

/// The smallest key above `key`: a lower bound that leaves `key` out.
pub fn above(key: Vec<u8>) -> Vec<u8> {
    let mut above = key;
    above.push(0);
    above
}

/// Every row of every table, for the digest and for checkers.
pub fn scan_all(rows: &dyn Rows, visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), StorageError> {
    rows.scan_raw(&[0], &[0xff], visit)
}

/// The round trip that every table's property asserts: key and row come back, and nothing else of the table is there.
#[cfg(any(test, feature = "testing"))]
pub fn assert_round_trip<T: Table>(key: &T::Key, row: &T::Row)
where
    T::Key: PartialEq + std::fmt::Debug,
    T::Row: PartialEq + std::fmt::Debug,
{
    let engine = flotilla_storage::MemEngine::new();
    let mut txn = Txn::new(&engine, vec![7, 7]);
    put::<T>(&mut txn, key, row);
    assert_eq!(get::<T>(&txn, key).expect("reads").as_ref(), Some(row));
    let mut seen = Vec::new();
    scan_prefix::<T>(&txn, &[T::KIND], &mut |key, row| {
        seen.push((key, row));
        ControlFlow::Continue(())
    })
    .expect("scans");
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].0, &seen[0].1), (key, row));
    delete::<T>(&mut txn, key);
    assert!(get::<T>(&txn, key).expect("reads").is_none());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Words;

    impl Table for Words {
        const NAME: &'static str = "words";
        const KIND: u8 = 0xf0;
        const VERSION: u8 = 1;
        type Key = (UserId, UserId);
        type Row = u64;

        fn key((a, b): &Self::Key) -> Vec<u8> {
            KeyBuilder::new(Self::KIND).user(a).user(b).build()
        }

        fn parse(key: &mut KeyReader<'_>) -> Option<Self::Key> {
            Some((key.user()?, key.user()?))
        }
    }

    fn user() -> impl Strategy<Value = UserId> {
        "[a-b_.-]{1,4}".prop_map(|name| UserId::parse(&name).expect("a valid test name"))
    }

    proptest! {
        #[test]
        fn keys_are_injective_and_ordered_like_their_ids(a in user(), b in user(), c in user(), d in user()) {
            let (left, right) = ((a, b), (c, d));
            prop_assert_eq!(left.cmp(&right), Words::key(&left).cmp(&Words::key(&right)));
            assert_round_trip::<Words>(&left, &7);
        }
    }

    #[test]
    fn a_damaged_row_is_fatal_and_names_its_table() {
        let engine = flotilla_storage::MemEngine::new();
        let mut txn = Txn::new(&engine, vec![]);
        let key = (UserId::parse("a").expect("valid"), UserId::parse("b").expect("valid"));
        txn.put(Words::key(&key), Bytes::from_static(b"\x01not a sealed value"));
        assert!(matches!(get::<Words>(&txn, &key), Err(Fatal::Damaged { table: "words" })));
        assert!(scan_prefix::<Words>(&txn, &[0xf0], &mut |_, _| ControlFlow::Continue(())).is_err());
        txn.put(Words::key(&key), value::seal(2, b"of a later version"));
        assert!(get::<Words>(&txn, &key).is_err());
    }
}
