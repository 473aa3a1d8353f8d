//! Identifiers and sequence numbers. Every one is a newtype: two integers of different meaning never share a type.
//!
//! Knows how an id is written and checked; knows nothing of frames, tables or routing.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::limits;

/// Why a text is not an id. The message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("a user id is 1 to 64 characters of a-z, 0-9, '_', '.' and '-'")]
    User,
    #[error("not a conversation id")]
    Conversation,
    #[error("not a {0}: expected 32 hexadecimal digits, dashes allowed")]
    Hex128(&'static str),
}

macro_rules! int_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

int_id!(
    /// A node of the cluster, 1 to 65,535, never reused.
    NodeId(u16)
);
int_id!(
    /// One life of a node's process, rising; 0 is never used.
    Incarnation(u64)
);
int_id!(
    /// A Raft group. 0 is the control group, 1..=1,023 hold slots.
    ShardId(u16)
);
int_id!(
    /// One of the 4,096 fixed hash slots.
    Slot(u16)
);
int_id!(
    /// The life of one replica of one group on one node; allocated by the control group, never reused.
    Generation(u32)
);
int_id!(
    /// Position of an entry in its conversation, from 1, without holes. 0 means "before the first".
    Seq(u64)
);
int_id!(
    /// Count of countable messages up to an entry.
    Count(u64)
);
int_id!(
    /// Number of a device's session, rising with every open.
    SessionNo(u64)
);
int_id!(
    /// Revision of a user's inbox, rising with every change of any of its rows.
    Rev(u64)
);
int_id!(
    /// The history epoch, raised by a restore.
    Epoch(u32)
);
int_id!(
    /// The age clock: milliseconds that leaders of a shard have counted on their monotonic clocks.
    AgeMs(u64)
);
int_id!(
    /// The display clock: milliseconds since the Unix epoch, for `ts` and ids only.
    TsMs(u64)
);

impl ShardId {
    pub const CONTROL: ShardId = ShardId(0);
}

impl Seq {
    pub const ZERO: Seq = Seq(0);

    /// The following position. Saturates: a log never gets there, and arithmetic on client input must not wrap.
    pub fn next(self) -> Seq {
        Seq(self.0.saturating_add(1))
    }

    pub fn prev(self) -> Seq {
        Seq(self.0.saturating_sub(1))
    }
}

/// A replica of a group: (node, generation). Its Raft id is this pair in one integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId {
    pub node: NodeId,
    pub generation: Generation,
}

impl ReplicaId {
    pub fn new(node: NodeId, generation: Generation) -> Self {
        Self { node, generation }
    }

    /// Node in the high 32 bits, generation in the low ones.
    pub fn to_raft(self) -> u64 {
        (u64::from(self.node.0) << 32) | u64::from(self.generation.0)
    }

    pub fn from_raft(id: u64) -> Self {
        Self { node: NodeId((id >> 32) as u16), generation: Generation(id as u32) }
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.generation)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $label:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl $name {
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let digits = text.bytes().filter(|b| *b != b'-').count();
                if digits != 32 || text.len() > 36 {
                    return Err(IdError::Hex128($label));
                }
                let mut value = 0u128;
                for byte in text.bytes().filter(|b| *b != b'-') {
                    let digit = (byte as char).to_digit(16).ok_or(IdError::Hex128($label))?;
                    value = (value << 4) | u128::from(digit);
                }
                Ok(Self(value))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_u128(self.0).hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() {
                    s.collect_str(self)
                } else {
                    serde_bytes_16::serialize(self.0, s)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                    Self::parse(&text).map_err(serde::de::Error::custom)
                } else {
                    serde_bytes_16::deserialize(d).map(Self)
                }
            }
        }
    };
}

hex_id!(
    /// A device: issued by the server, 128 random bits, never reused.
    DeviceId, "device id"
);
hex_id!(
    /// The client's id of one command: a UUID, random, kept until an answer.
    Cid, "UUID"
);
hex_id!(
    /// The cluster's id, minted once by `init`.
    ClusterId, "cluster id"
);
hex_id!(
    /// Random per client process; tells two processes on one device apart.
    Instance, "instance"
);

/// 16 bytes as `bin` in binary formats: accepts a byte string or a sequence.
mod serde_bytes_16 {
    use std::fmt;

    pub fn serialize<S: serde::Serializer>(v: u128, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&v.to_be_bytes())
    }

    struct Visitor;

    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = u128;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("16 bytes, or their text form")
        }

        fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<u128, E> {
            let bytes: [u8; 16] = v.try_into().map_err(|_| E::invalid_length(v.len(), &self))?;
            Ok(u128::from_be_bytes(bytes))
        }

        fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<u128, E> {
            super::Cid::parse(v).map(|c| c.0).map_err(E::custom)
        }
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u128, D::Error> {
        d.deserialize_bytes(Visitor)
    }
}

/// A message id: Snowflake, 41 bits of milliseconds since 2020-01-01, 10 bits shard, 12 bits counter. A string in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MsgId(pub u64);

impl Serialize for MsgId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(&self.0) } else { s.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for MsgId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
            text.parse().map(MsgId).map_err(serde::de::Error::custom)
        } else {
            u64::deserialize(d).map(MsgId)
        }
    }
}

/// A user's name and identity: `[a-z0-9_.-]{1,64}` after NFKC and lower case. Clones share the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UserId(Arc<str>);

impl UserId {
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.len() > limits::USER_ID_INPUT_BYTES_MAX {
            return Err(IdError::User);
        }
        // Rows and commands hold normalised ids: decoding them must not pay for Unicode.
        if Self::is_normal(text) {
            return Ok(Self(text.into()));
        }
        let name: String = text.nfkc().flat_map(char::to_lowercase).collect();
        if Self::is_normal(&name) { Ok(Self(name.into())) } else { Err(IdError::User) }
    }

    fn is_normal(name: &str) -> bool {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
        (1..=limits::USER_ID_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(Text(Self::parse))
    }
}

/// Reads an id straight from the text that the format lends, if it lends one.
struct Text<T>(fn(&str) -> Result<T, IdError>);

impl<T> serde::de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text of an id")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        self.0(text).map_err(E::custom)
    }
}

/// What kind of conversation an id names; the id itself tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConvKind {
    Direct,
    Group,
    /// One to many, always in pull mode.
    Channel,
}

/// A conversation: an opaque string of at most 140 bytes to clients.
///
/// Direct: `d`, then each user id in order behind its length in two hexadecimal digits (injective); a self-chat names its user twice.
/// Group: `g` and 32 hexadecimal digits. Channel: `c` and 32 hexadecimal digits. Clones share the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ConvId(Arc<str>);

impl ConvId {
    pub fn direct(a: &UserId, b: &UserId) -> Self {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        Self(format!("d{:02x}{low}{:02x}{high}", low.0.len(), high.0.len()).into())
    }

    /// Derived from (creator, request key), so that a retried creation names the same group.
    pub fn group(creator: &UserId, request: Cid) -> Self {
        Self::derived('g', b"flotilla group v1\0", creator, request)
    }

    /// As [`ConvId::group`].
    pub fn channel(creator: &UserId, request: Cid) -> Self {
        Self::derived('c', b"flotilla channel v1\0", creator, request)
    }

    fn derived(tag: char, domain: &[u8], creator: &UserId, request: Cid) -> Self {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        hash.update(domain);
        hash.update(creator.0.as_bytes());
        hash.update([0]);
        hash.update(request.0.to_be_bytes());
        let digest = hash.finalize();
        let mut text = String::with_capacity(33);
        text.push(tag);
        for byte in &digest[..16] {
            text.push_str(&format!("{byte:02x}"));
        }
        Self(text.into())
    }

    pub fn parse(text: &str) -> Result<Self, IdError> {
        if Self::is_valid(text) { Ok(Self(text.into())) } else { Err(IdError::Conversation) }
    }

    /// Makes nothing: rows and messages between nodes are full of these ids.
    fn is_valid(text: &str) -> bool {
        if text.len() > limits::CONV_ID_BYTES_MAX {
            return false;
        }
        match text.as_bytes().first() {
            Some(b'd') => names(text).is_some_and(|(low, high)| low <= high),
            Some(b'g' | b'c') => text.len() == 33 && text.bytes().skip(1).all(|b| hex_digit(b).is_some()),
            _ => false,
        }
    }

    pub fn kind(&self) -> ConvKind {
        match self.0.as_bytes().first() {
            Some(b'd') => ConvKind::Direct,
            Some(b'c') => ConvKind::Channel,
            _ => ConvKind::Group,
        }
    }

    /// The two users of a direct conversation (equal in a self-chat).
    pub fn peers(&self) -> Option<(UserId, UserId)> {
        names(&self.0).map(|(low, high)| (UserId(low.into()), UserId(high.into())))
    }

    /// The other user of a direct conversation; the user itself in a self-chat; none for a stranger or a group.
    pub fn peer_of(&self, user: &UserId) -> Option<UserId> {
        let (low, high) = names(&self.0)?;
        let user = user.as_str();
        let peer = if low == user { high } else { (high == user).then_some(low)? };
        Some(UserId(peer.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The two names in the text of a direct conversation, in whatever order they stand there.
fn names(text: &str) -> Option<(&str, &str)> {
    let (low, rest) = take_name(text.strip_prefix('d')?)?;
    let (high, rest) = take_name(rest)?;
    rest.is_empty().then_some((low, high))
}

/// A normal user id behind its length.
fn take_name(text: &str) -> Option<(&str, &str)> {
    let [first, second, ..] = text.as_bytes() else { return None };
    let len = hex_digit(*first)? << 4 | hex_digit(*second)?;
    let name = text.get(2..2 + len)?;
    UserId::is_normal(name).then_some((name, text.get(2 + len..)?))
}

/// In lower case, as ids are written.
fn hex_digit(byte: u8) -> Option<usize> {
    match byte {
        b'0'..=b'9' => Some(usize::from(byte - b'0')),
        b'a'..=b'f' => Some(usize::from(byte - b'a' + 10)),
        _ => None,
    }
}

impl fmt::Display for ConvId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ConvId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(Text(Self::parse))
    }
}

/// Opaque bytes: base64url without padding in JSON, `bin` in binary formats.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Blob(pub Bytes);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl From<Vec<u8>> for Blob {
    fn from(v: Vec<u8>) -> Self {
        Blob(v.into())
    }
}

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        if s.is_human_readable() {
            s.serialize_str(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&self.0))
        } else {
            s.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        if d.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
            let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
                .decode(text.as_bytes())
                .map_err(|_| serde::de::Error::custom("bytes are base64url without padding"))?;
            Ok(Blob(bytes.into()))
        } else {
            Bytes::deserialize(d).map(Blob)
        }
    }
}

/// A SHA-256 value: entry chain, body hash, hash of a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash32(pub [u8; 32]);

impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

impl Serialize for Hash32 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            Blob(Bytes::copy_from_slice(&self.0)).serialize(s)
        } else {
            s.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Hash32 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let blob = Blob::deserialize(d)?;
        let bytes = blob.0.as_ref().try_into().map_err(|_| serde::de::Error::custom("a hash is 32 bytes"))?;
        Ok(Hash32(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("a valid test name")
    }

    #[test]
    fn user_ids_are_normalised_and_checked() {
        assert_eq!(user("Alice").as_str(), "alice");
        assert_eq!(user("Ａlice").as_str(), "alice");
        for bad in ["", "a b", "é", &"x".repeat(65), "a/b"] {
            assert!(UserId::parse(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn direct_id_is_canonical_and_injective() {
        let ab = ConvId::direct(&user("alice"), &user("bob"));
        assert_eq!(ab, ConvId::direct(&user("bob"), &user("alice")));
        assert_eq!(ConvId::parse(ab.as_str()), Ok(ab.clone()));
        assert_eq!(ab.peer_of(&user("alice")), Some(user("bob")));
        assert_eq!(ab.peer_of(&user("carol")), None);
        assert_ne!(ConvId::direct(&user("a"), &user("bc")), ConvId::direct(&user("ab"), &user("c")));
        assert!(ConvId::parse("d03bob05alice").is_err(), "users out of order");
        for bad in
            ["", "d", "d03bo", "d05alice03bobx", "d+5alice03bob", "d05Alice03bob", "d0ax", "d05alice03b\u{e9}", "d0000"]
        {
            assert!(ConvId::parse(bad).is_err(), "{bad:?} must be refused");
        }
        let ten = user("ten.letter");
        let upper = ConvId::direct(&ten, &ten).as_str().replace("0a", "0A");
        assert!(ConvId::parse(&upper).is_err(), "one text for one pair");
        let long = user(&"x".repeat(64));
        assert!(ConvId::direct(&long, &long).as_str().len() <= limits::CONV_ID_BYTES_MAX);
    }

    #[test]
    fn ids_round_trip_in_json_and_msgpack() {
        let cid = Cid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let blob = Blob::from(vec![0, 255, 7]);
        let json = serde_json::to_string(&(cid, &blob, MsgId(9))).expect("encodes");
        assert_eq!(json, r#"["01234567-89ab-cdef-0123-456789abcdef","AP8H","9"]"#);
        assert_eq!(serde_json::from_str::<(Cid, Blob, MsgId)>(&json).expect("decodes"), (cid, blob.clone(), MsgId(9)));
        let pack = rmp_serde::to_vec(&(cid, &blob, MsgId(9))).expect("encodes");
        assert_eq!(rmp_serde::from_slice::<(Cid, Blob, MsgId)>(&pack).expect("decodes"), (cid, blob, MsgId(9)));
    }

    #[test]
    fn replica_id_round_trips_through_its_raft_id() {
        let id = ReplicaId::new(NodeId(7), Generation(9));
        assert_eq!(ReplicaId::from_raft(id.to_raft()), id);
    }
}
