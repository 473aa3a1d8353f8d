//! What clients do beyond writing messages: bursts, attempts without an outbox, pages of history, several places at once,
//! settings, profiles, blocks, mentions, logins by code, receipts that are watched.
//!
//! A stream of random numbers of its own, so that what it learns changes nothing that a seed drew before. Each part is
//! switched on in half of the runs. A part that is on must be seen to happen, or the run is unknown.

use std::fmt;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// Parts of the load, as they are switched off, counted and printed.
pub const LOADS: [&str; 19] = [
    "burst",
    "retry",
    "other-body",
    "paging",
    "rename",
    "places",
    "strange-acks",
    "late-acks",
    "old-hellos",
    "settings",
    "profile",
    "contact",
    "device",
    "report",
    "block",
    "privacy",
    "mentions",
    "codes",
    "receipts",
];

/// How much of each part; 0: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Messages of one burst: given at once, to one conversation.
    pub burst: usize,
    /// Of the commands of a device, in hundredths: beside so many it sends a message without its outbox, through all nodes at
    /// once, again and again with the same cid.
    pub retry: u32,
    /// Of those that were accepted, in hundredths: their cid comes again, with the same body and with another one.
    pub other_body: u32,
    /// Beside so many of the commands, in hundredths, a page of history is read.
    pub paging: u32,
    /// The same for a new name of a group.
    pub rename: u32,
    /// How often somebody's device opens in a second place while it is open in the first.
    pub places: u32,
    /// Clients that keep to no rule: acks of what they were not sent, or of sessions that are over; `hello`s that are old.
    pub strangers: usize,
    /// Of the commands in hundredths, beside so many: what somebody settles about a conversation.
    pub settings: u32,
    /// The same for profiles, contacts, names of devices, reports.
    pub people: u32,
    /// The same for blocks, which come and go.
    pub block: u32,
    /// The same for who may see one's presence; in the end it must be true.
    pub presence: u32,
    /// Of the messages, in hundredths, those that name somebody; beside as many somebody looks who has named them.
    pub mentions: u32,
    /// How many people come by one-time code.
    pub codes: usize,
    /// Of the commands in hundredths, beside so many: whose receipts somebody watches.
    pub receipts: u32,
}

impl Load {
    pub fn draw(seed: u64) -> Self {
        let mut rng = stream(seed, 1);
        let mut on = |values: [u32; 3]| if rng.random_bool(0.5) { values[rng.random_range(0..3)] } else { 0 };
        let burst = on([10, 40, 120]) as usize;
        let (retry, other_body) = (on([3, 10, 25]), on([30, 60, 100]));
        let (paging, rename) = (on([3, 10, 30]), on([2, 5, 10]));
        let (places, strangers) = (on([1, 2, 3]), on([1, 1, 2]) as usize);
        let other_body = if retry > 0 { other_body } else { 0 };
        // Learned later.
        let mut rng = stream(seed, 40);
        let mut on = |values: [u32; 3]| if rng.random_bool(0.5) { values[rng.random_range(0..3)] } else { 0 };
        let (settings, people) = (on([3, 10, 25]), on([3, 10, 25]));
        let (block, presence) = (on([2, 5, 10]), on([2, 5, 10]));
        // And later still.
        let mut rng = stream(seed, 70);
        let mut on = |values: [u32; 3]| if rng.random_bool(0.5) { values[rng.random_range(0..3)] } else { 0 };
        let (mentions, codes) = (on([5, 20, 50]), on([1, 3, 6]) as usize);
        // The newest.
        let mut rng = stream(seed, 200);
        let mut on = |values: [u32; 3]| if rng.random_bool(0.5) { values[rng.random_range(0..3)] } else { 0 };
        let receipts = on([2, 5, 15]);
        Self {
            burst,
            retry,
            other_body,
            paging,
            rename,
            places,
            strangers,
            settings,
            people,
            block,
            presence,
            mentions,
            codes,
            receipts,
        }
    }

    /// The parts that are on.
    pub fn parts(&self) -> Vec<&'static str> {
        LOADS.into_iter().filter(|part| self.amount(part) > 0).collect()
    }

    fn amount(&self, part: &str) -> usize {
        match part {
            "burst" => self.burst,
            "retry" => self.retry as usize,
            "other-body" => self.other_body as usize,
            "paging" => self.paging as usize,
            "rename" => self.rename as usize,
            "places" => self.places as usize,
            "strange-acks" | "late-acks" | "old-hellos" => self.strangers,
            "settings" => self.settings as usize,
            "profile" | "contact" | "device" | "report" => self.people as usize,
            "block" => self.block as usize,
            "privacy" => self.presence as usize,
            "mentions" => self.mentions as usize,
            "codes" => self.codes,
            "receipts" => self.receipts as usize,
            _ => 0,
        }
    }

    /// Switches a part off, see [`LOADS`].
    pub fn without(&mut self, part: &str) {
        match part {
            "burst" => self.burst = 0,
            "retry" => (self.retry, self.other_body) = (0, 0),
            "other-body" => self.other_body = 0,
            "paging" => self.paging = 0,
            "rename" => self.rename = 0,
            "places" => self.places = 0,
            "strange-acks" | "late-acks" | "old-hellos" => self.strangers = 0,
            "settings" => self.settings = 0,
            "profile" | "contact" | "device" | "report" => self.people = 0,
            "block" => self.block = 0,
            "privacy" => self.presence = 0,
            "mentions" => self.mentions = 0,
            "codes" => self.codes = 0,
            "receipts" => self.receipts = 0,
            _ => {}
        }
    }
}

/// A stream of random numbers of its own.
pub fn stream(seed: u64, number: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number << 32))
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts().iter().map(|part| format!("{part} {}", self.amount(part))).collect();
        if parts.is_empty() { f.write_str("nothing") } else { f.write_str(&parts.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_on_in_some_runs_and_can_be_switched_off() {
        for part in LOADS {
            let mut loads: Vec<Load> = (0..64).map(Load::draw).collect();
            assert!(loads.iter().any(|load| load.parts().contains(&part)), "{part} is never on");
            assert!(loads.iter().any(|load| !load.parts().contains(&part)), "{part} is always on");
            loads.iter_mut().for_each(|load| load.without(part));
            assert!(loads.iter().all(|load| !load.parts().contains(&part)), "{part} stays on");
        }
    }
}
