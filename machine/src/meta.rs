//! What a shard knows about itself: clocks, the id clock, which slots it owns, settings, fences.
//!
//! Invariants:
//! - The age clock only grows by what leaders have counted, the display clock is the maximum of what they stamped. Both
//!   survive in state, so a new leader can neither shorten a window nor turn a timestamp back.
//! - A shard owns nothing until it has taken a slot table; a table or settings are replaced by a higher version only.
//! - Message ids of a shard strictly increase (I9).
//!
//! Keys: clock `01`, slots `02`, settings `03`, fence `04` node u16. They hold no slot: a shard has one of each.
//! The slot table is stored flat, so that looking up one owner does not decode 4,096 of them.

use bytes::Bytes;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::plant::{self, Plant};
use flotilla_proto::slots::{self, SlotTable};
use serde::{Deserialize, Serialize};

use crate::apply::Stop;
use crate::command::{Settings, Stamp};
use crate::hot::HotRows;
use crate::reply::Rejection;
use crate::table::{self, KeyBuilder, KeyReader, Rows, Table, kind};
use crate::{Fatal, Txn};

/// Row of the clocks, rewritten by every proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Clock {
    pub age: AgeMs,
    pub display: TsMs,
    /// Of the newest message id: milliseconds since the id epoch, and counter.
    pub id_ms: u64,
    pub id_counter: u16,
}

impl Clock {
    fn advance(&mut self, stamp: &Stamp) {
        self.age = AgeMs(self.age.0.saturating_add(stamp.age_delta_ms));
        let before = if plant::on(Plant::IdsFromWallClock) { TsMs(0) } else { self.display };
        self.display = before.max(TsMs(stamp.display.0.min(limits::DISPLAY_MS_MAX)));
    }

    /// The next message id: 41 bits of ms, 10 bits of shard, 12 bits of counter. ms = max(last ms, display); a full
    /// counter borrows the next ms. None once 2^41 ms are used up (in the year 2089).
    pub fn next_id(&self, shard: ShardId) -> Option<(MsgId, Clock)> {
        let now = self.display.0.saturating_sub(limits::ID_EPOCH_MS);
        let mut next = *self;
        if now > self.id_ms || (now < self.id_ms && plant::on(Plant::IdsFromWallClock)) {
            next.id_ms = now;
            next.id_counter = 0;
        } else if self.id_counter < COUNTER_MAX {
            next.id_counter += 1;
        } else {
            next.id_ms = self.id_ms.checked_add(1)?;
            next.id_counter = 0;
        }
        if next.id_ms >= 1 << 41 {
            return None;
        }
        let id = (next.id_ms << 22) | (u64::from(shard.0 & 0x3ff) << 12) | u64::from(next.id_counter);
        Some((MsgId(id), next))
    }
}

const COUNTER_MAX: u16 = (1 << 12) - 1;

pub struct ClockTable;

impl Table for ClockTable {
    const NAME: &'static str = "clock";
    const KIND: u8 = kind::CLOCK;
    const VERSION: u8 = 1;
    type Key = ();
    type Row = Clock;

    fn key(_: &()) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).build()
    }

    fn parse(_: &mut KeyReader<'_>) -> Option<()> {
        Some(())
    }
}

/// The slot table as stored: version u64, then one u16 per slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FlatSlots(Bytes);

impl FlatSlots {
    fn new(slots: &SlotTable) -> Self {
        let mut flat = Vec::with_capacity(8 + 2 * usize::from(limits::SLOTS));
        flat.extend_from_slice(&slots.version.to_be_bytes());
        for slot in 0..limits::SLOTS {
            let owner = slots.shard(Slot(slot)).unwrap_or(ShardId::CONTROL);
            flat.extend_from_slice(&owner.0.to_be_bytes());
        }
        Self(flat.into())
    }

    fn version(&self) -> u64 {
        self.0.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b))
    }

    fn owner(&self, slot: Slot) -> Option<ShardId> {
        let at = 8 + 2 * usize::from(slot.0);
        let bytes = self.0.get(at..at + 2)?;
        Some(ShardId(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn to_table(&self) -> SlotTable {
        let owners = (0..limits::SLOTS).filter_map(|slot| self.owner(Slot(slot))).collect();
        SlotTable::from_owners(self.version(), owners)
    }
}

struct SlotsTable;

impl Table for SlotsTable {
    const NAME: &'static str = "slots";
    const KIND: u8 = kind::SLOTS;
    const VERSION: u8 = 1;
    type Key = ();
    type Row = FlatSlots;

    fn key(_: &()) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).build()
    }

    fn parse(_: &mut KeyReader<'_>) -> Option<()> {
        Some(())
    }
}

pub struct SettingsTable;

impl Table for SettingsTable {
    const NAME: &'static str = "settings";
    const KIND: u8 = kind::SETTINGS;
    const VERSION: u8 = 1;
    type Key = ();
    type Row = Settings;

    fn key(_: &()) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).build()
    }

    fn parse(_: &mut KeyReader<'_>) -> Option<()> {
        Some(())
    }
}

/// (node) -> its lowest live incarnation: sessions below are dead.
pub struct FenceTable;

impl Table for FenceTable {
    const NAME: &'static str = "fence";
    const KIND: u8 = kind::FENCE;
    const VERSION: u8 = 1;
    type Key = NodeId;
    type Row = Incarnation;

    fn key(node: &NodeId) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u16(node.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<NodeId> {
        key.u16().map(NodeId)
    }
}

/// What stays in memory between the proposals of one replica, so that its meta rows, 8 KiB of slots among them, and those of
/// busy conversations are not read and checked for each. Only the owner of the state may hold one, and drops it when the state
/// is replaced.
#[derive(Debug, Default)]
pub struct Kept {
    pub(crate) meta: Option<Meta>,
    pub(crate) hot: HotRows,
}

impl Kept {
    /// Of rows, so many bytes at most from now on.
    pub fn allow(&mut self, bytes: usize) {
        self.hot.allow(bytes);
    }
}

/// Those that a shard has before it was told any are of the first level.
pub fn settings(rows: &dyn Rows) -> Result<Settings, Fatal> {
    Ok(table::get::<SettingsTable>(rows, &())?.unwrap_or(Settings { version: 0, ..Settings::at_level(1) }))
}

/// What a shard owns: all that most queries ask of the meta rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    pub shard: ShardId,
    slots: Option<FlatSlots>,
}

impl Owned {
    pub fn load(rows: &dyn Rows, shard: ShardId) -> Result<Self, Fatal> {
        Ok(Self { shard, slots: table::get::<SlotsTable>(rows, &())? })
    }

    pub fn owns(&self, slot: Slot) -> bool {
        self.owner(slot) == Some(self.shard)
    }

    pub fn owner(&self, slot: Slot) -> Option<ShardId> {
        self.slots.as_ref()?.owner(slot)
    }

    pub fn shard_of_user(&self, user: &UserId) -> Option<ShardId> {
        self.owner(slots::of_user(user))
    }

    pub fn check_conversation(&self, conv: &ConvId) -> Result<(), Rejection> {
        if self.owns(slots::of_conversation(conv)) { Ok(()) } else { Err(Rejection::Moved) }
    }

    pub fn check_user(&self, user: &UserId) -> Result<(), Rejection> {
        if self.owns(slots::of_user(user)) { Ok(()) } else { Err(Rejection::Moved) }
    }

    pub fn slot_table(&self) -> Option<SlotTable> {
        self.slots.as_ref().map(FlatSlots::to_table)
    }
}

/// The shard's meta rows, read once for a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    owned: Owned,
    pub clock: Clock,
    pub settings: Settings,
}

/// A shard owns what it owns, whatever its clocks say.
impl std::ops::Deref for Meta {
    type Target = Owned;

    fn deref(&self) -> &Owned {
        &self.owned
    }
}

impl Meta {
    /// A snapshot may bring rows of a level that this binary does not know.
    pub fn load(rows: &dyn Rows, shard: ShardId) -> Result<Self, Fatal> {
        let settings = settings(rows)?;
        check_level(settings.feature_level)?;
        Ok(Self {
            owned: Owned::load(rows, shard)?,
            clock: table::get::<ClockTable>(rows, &())?.unwrap_or_default(),
            settings,
        })
    }

    /// Time enters here, before the proposal's commands.
    pub fn advance(&mut self, txn: &mut Txn<'_>, stamp: &Stamp) {
        self.clock.advance(stamp);
        self.store_clock(txn);
    }

    pub fn store_clock(&self, txn: &mut Txn<'_>) {
        table::put::<ClockTable>(txn, &(), &self.clock);
    }

    pub fn age(&self) -> AgeMs {
        self.clock.age
    }

    /// Takes a whole table of a higher version; an older one, or the same again, changes nothing.
    pub fn set_slots(&mut self, txn: &mut Txn<'_>, slots: &SlotTable) -> Result<(), Rejection> {
        if !slots.is_whole() {
            return Err(Rejection::Validation("a slot table names an owner for every slot".into()));
        }
        if self.owned.slots.as_ref().is_none_or(|old| slots.version > old.version()) {
            let flat = FlatSlots::new(slots);
            table::put::<SlotsTable>(txn, &(), &flat);
            self.owned.slots = Some(flat);
        }
        Ok(())
    }

    /// Whether the rules of this level hold. Older logs are replayed by the rules that they were written under.
    pub fn has_level(&self, level: u32) -> bool {
        self.settings.feature_level >= level
    }

    /// Takes settings of a higher version; older ones, or the same again, change nothing.
    pub fn set_settings(&mut self, txn: &mut Txn<'_>, settings: &Settings) -> Result<(), Stop> {
        check_level(settings.feature_level)?;
        check_settings(settings)?;
        if settings.version > self.settings.version {
            table::put::<SettingsTable>(txn, &(), settings);
            self.settings = settings.clone();
        }
        Ok(())
    }
}

/// A level above what this binary knows stops it: to refuse what others take would part this replica from them.
pub fn check_level(level: u32) -> Result<(), Fatal> {
    if level <= limits::FEATURE_LEVEL { Ok(()) } else { Err(Fatal::NewerLevel(level)) }
}

/// Without pull mode a message writes a row for each member.
pub fn members_max(level: u32) -> u32 {
    let max = if level >= limits::PULL_LEVEL { limits::LARGE_MEMBERS_MAX } else { limits::GROUP_MEMBERS_MAX };
    max as u32
}

/// Settings outside of what the formats and the row bound can carry are refused.
pub fn check_settings(settings: &Settings) -> Result<(), Rejection> {
    let members_max = members_max(settings.feature_level);
    let fits = settings.group_members_max <= members_max
        && settings.group_members_max >= 1
        && settings.body_bytes_max as usize <= limits::BODY_BYTES_MAX
        && settings.devices_per_user_max as usize <= limits::DEVICES_PER_USER_MAX
        && settings.devices_per_user_max >= 1
        && settings.conversations_per_user_max as usize <= limits::CONVERSATIONS_PER_USER_MAX;
    if fits { Ok(()) } else { Err(Rejection::Validation("settings are outside of the built-in limits".into())) }
}

/// The lowest live incarnation of a node; 0 if it was never fenced.
pub fn fence(rows: &dyn Rows, node: NodeId) -> Result<Incarnation, Fatal> {
    Ok(table::get::<FenceTable>(rows, &node)?.unwrap_or_default())
}

/// Raises a fence; one never goes down.
pub fn raise_fence(txn: &mut Txn<'_>, node: NodeId, lowest: Incarnation) -> Result<(), Fatal> {
    if lowest > fence(txn, node)? {
        table::put::<FenceTable>(txn, &node, &lowest);
    }
    Ok(())
}

pub fn fences(rows: &dyn Rows) -> Result<Vec<(NodeId, Incarnation)>, Fatal> {
    let from = [kind::FENCE];
    table::page::<FenceTable>(rows, &from, &table::end_of(&from), usize::from(u16::MAX)).map(|(all, _)| all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_storage::MemEngine;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_round_trip(age: u64, display: u64, id_ms: u64, id_counter: u16, node: u16, low: u64) {
            let clock = Clock { age: AgeMs(age), display: TsMs(display), id_ms, id_counter };
            table::assert_round_trip::<ClockTable>(&(), &clock);
            table::assert_round_trip::<FenceTable>(&NodeId(node), &Incarnation(low));
            table::assert_round_trip::<SettingsTable>(&(), &Settings { version: age, ..Settings::default() });
        }

        #[test]
        fn message_ids_strictly_increase_whatever_the_clock_says(stamps in prop::collection::vec((any::<u64>(), any::<u64>()), 1..20)) {
            let mut clock = Clock::default();
            let mut last = MsgId(0);
            for (age_delta_ms, display) in stamps {
                clock.advance(&Stamp { age_delta_ms, display: TsMs(display) });
                let Some((id, next)) = clock.next_id(ShardId(1_023)) else { continue };
                prop_assert!(id > last);
                (last, clock) = (id, next);
            }
        }
    }

    #[test]
    fn a_full_counter_borrows_the_next_millisecond() {
        let mut clock = Clock { display: TsMs(limits::ID_EPOCH_MS + 5), ..Clock::default() };
        let mut ids = Vec::new();
        for _ in 0..5_000 {
            let (id, next) = clock.next_id(ShardId(3)).expect("far from the end");
            ids.push(id.0);
            clock = next;
        }
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert_eq!((ids[0] >> 22, ids[4_999] >> 22), (5, 6));
        assert!(ids.iter().all(|id| (id >> 12) & 0x3ff == 3));
    }

    #[test]
    fn slots_and_settings_take_only_a_higher_version() {
        let engine = MemEngine::new();
        let mut txn = Txn::new(&engine, vec![]);
        let mut meta = Meta::load(&txn, ShardId(1)).expect("loads");
        assert!(!meta.owns(Slot(0)), "a shard owns nothing before it has a table");
        meta.set_slots(&mut txn, &SlotTable::even(2)).expect("whole");
        meta.set_slots(&mut txn, &SlotTable::even(3)).expect("whole, but of the same version");
        let again = Meta::load(&txn, ShardId(1)).expect("loads");
        assert_eq!(again.slot_table(), Some(SlotTable::even(2)));
        assert!(again.owns(Slot(0)) && !again.owns(Slot(1)));
        meta.set_settings(&mut txn, &Settings::default()).expect("within limits");
        let fewer = Settings { group_members_max: 3, ..Settings::default() };
        meta.set_settings(&mut txn, &fewer).expect("within limits, but of the same version");
        assert_eq!(meta.settings, Settings::default());
        let newer = Settings::at_level(limits::FEATURE_LEVEL + 1);
        assert!(matches!(meta.set_settings(&mut txn, &newer), Err(Stop::Fatal(Fatal::NewerLevel(_)))));
        let large = Settings { feature_level: 2, ..Settings::default() };
        assert!(matches!(meta.set_settings(&mut txn, &large), Err(Stop::Rejected(_))), "not without pull mode");
        let partial = SlotTable::from_owners(9, vec![ShardId(1)]);
        assert!(meta.set_slots(&mut txn, &partial).is_err());
    }

    #[test]
    fn state_of_a_newer_level_is_not_gone_on_with() {
        let engine = MemEngine::new();
        let mut txn = Txn::new(&engine, vec![]);
        for (level, is_known) in [(limits::FEATURE_LEVEL, true), (limits::FEATURE_LEVEL + 1, false)] {
            table::put::<SettingsTable>(&mut txn, &(), &Settings::at_level(level));
            let loaded = Meta::load(&txn, ShardId(1));
            assert_eq!(loaded.is_ok(), is_known, "{loaded:?}");
            assert!(is_known || matches!(loaded, Err(Fatal::NewerLevel(newer)) if newer == level));
        }
    }

    #[test]
    fn the_display_clock_never_goes_back_nor_past_its_ceiling() {
        let mut clock = Clock::default();
        for display in [7, 3, u64::MAX, 9] {
            clock.advance(&Stamp { age_delta_ms: u64::MAX, display: TsMs(display) });
        }
        assert_eq!(clock.display, TsMs(limits::DISPLAY_MS_MAX));
        assert_eq!(clock.age, AgeMs(u64::MAX));
    }
}
