//! The constants of the formulae. CAPACITY.md says how each was measured, and how to measure them on another machine.

use serde::Serialize;

/// Bytes and microseconds; of all nodes together where work is shared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// Cores of the machine that all of this comes from.
    pub cores: f64,
    /// Of all three replicas: accepting, logging, syncing, applying one message.
    pub cpu_us_per_send: f64,
    /// For each recipient: rows of the inbox, cursors, receipts.
    pub cpu_us_per_member: f64,
    /// For each device that is online: the entry's way to it, its ack.
    pub cpu_us_per_entry: f64,
    pub memory_per_connection: f64,
    pub memory_per_node: f64,
    /// To all disks, at full load; bodies come on top, three times.
    pub written_per_send: f64,
    pub written_per_member: f64,
    /// On one replica, beside the body.
    pub kept_per_entry: f64,
    /// Kept for one day: what makes a repeated send harmless.
    pub kept_for_a_day: f64,
    pub kept_per_user: f64,
    /// Between nodes and to the sender, beside the body.
    pub network_per_send: f64,
    /// To one device, beside the body.
    pub network_per_entry: f64,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            cores: 2.0,
            cpu_us_per_send: 30.0,
            cpu_us_per_member: 60.0,
            cpu_us_per_entry: 9.0,
            memory_per_connection: 17.2 * 1024.0,
            memory_per_node: 300.0 * 1024.0 * 1024.0,
            written_per_send: 3_700.0,
            written_per_member: 2_200.0,
            kept_per_entry: 363.0,
            kept_for_a_day: 380.0,
            kept_per_user: 10_000.0,
            network_per_send: 3_600.0,
            network_per_entry: 550.0,
        }
    }
}
