//! The control group's tables: the cluster, its nodes, placement, keys, and fences that shards still owe.
//!
//! Keys: control `60` (then 0: the small row that changes, 1: the slot table, 2: settings, 3: `client_limits`); node `61` node u16;
//! placement `62` shard u16; key `64` id u32; fence_owed `65` node u16. `63` is reserved.
//! Invariants: `version` rises with each change; `generation` is the highest ever given to any replica, so none is given
//! twice; a node's incarnation and boot only rise.

use flotilla_proto::ids::*;
use flotilla_proto::slots::SlotTable;
use serde::{Deserialize, Serialize};

use crate::command::{KeyRow, NodeInfo, Settings};
use crate::table::{KeyBuilder, KeyReader, Table, kind};

/// What changes with nearly every command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRow {
    pub version: u64,
    pub cluster: ClusterId,
    pub epoch: Epoch,
    /// The highest generation ever given to any replica.
    pub generation: Generation,
}

pub struct ClusterTable;

impl Table for ClusterTable {
    const NAME: &'static str = "control";
    const KIND: u8 = kind::CONTROL;
    const VERSION: u8 = 1;
    type Key = ();
    type Row = ClusterRow;

    fn key(_: &()) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u8(0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<()> {
        key.u8().filter(|part| *part == 0).map(|_| ())
    }
}

pub struct ControlSlotsTable;

impl Table for ControlSlotsTable {
    const NAME: &'static str = "control_slots";
    const KIND: u8 = kind::CONTROL;
    const VERSION: u8 = 1;
    type Key = ();
    type Row = SlotTable;

    fn key(_: &()) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u8(1).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<()> {
        key.u8().filter(|part| *part == 1).map(|_| ())
    }
}

pub struct ControlSettingsTable;

impl Table for ControlSettingsTable {
    const NAME: &'static str = "control_settings";
    const KIND: u8 = kind::CONTROL;
    const VERSION: u8 = 1;
    type Key = ();
    type Row = Settings;

    fn key(_: &()) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u8(2).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<()> {
        key.u8().filter(|part| *part == 2).map(|_| ())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub info: NodeInfo,
    /// 0: it has never registered.
    pub incarnation: Incarnation,
    pub boot: u64,
    pub lapsed: bool,
}

pub struct NodeTable;

impl Table for NodeTable {
    const NAME: &'static str = "node";
    const KIND: u8 = kind::NODE;
    const VERSION: u8 = 1;
    type Key = NodeId;
    type Row = Node;

    fn key(node: &NodeId) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u16(node.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<NodeId> {
        key.u16().map(NodeId)
    }
}

/// The replicas of one group as wished for; the leaving ones among them are in `retiring` too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    pub replicas: Vec<ReplicaId>,
    pub retiring: Vec<ReplicaId>,
}

pub struct PlacementTable;

impl Table for PlacementTable {
    const NAME: &'static str = "placement";
    const KIND: u8 = kind::PLACEMENT;
    const VERSION: u8 = 1;
    type Key = ShardId;
    type Row = Placement;

    fn key(shard: &ShardId) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u16(shard.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<ShardId> {
        key.u16().map(ShardId)
    }
}

pub struct KeyTable;

impl Table for KeyTable {
    const NAME: &'static str = "key";
    const KIND: u8 = kind::KEY;
    const VERSION: u8 = 1;
    type Key = u32;
    type Row = KeyRow;

    fn key(id: &u32) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u32(*id).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<u32> {
        key.u32()
    }
}

/// One row for all shards that have not taken a node's newest fence, so that fencing a node touches one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    pub lowest: Incarnation,
    /// In order.
    pub shards: Vec<ShardId>,
}

pub struct OwedTable;

impl Table for OwedTable {
    const NAME: &'static str = "fence_owed";
    const KIND: u8 = kind::FENCE_OWED;
    const VERSION: u8 = 1;
    type Key = NodeId;
    type Row = Owed;

    fn key(node: &NodeId) -> Vec<u8> {
        KeyBuilder::new(Self::KIND).u16(node.0).build()
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<NodeId> {
        key.u16().map(NodeId)
    }
}
