//! Rows that came with pushes, while revisions below theirs are missing.
//!
//! A client keeps the highest revision of its `conv` frames and asks for what is above it when it comes back. So a row waits here
//! until everything below it was looked at; what is still missing at the next look is read.
//!
//! Invariant: at most `ROWS_HELD_MAX` rows, given out in the order of their revisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_machine::query::InboxRow;
use flotilla_proto::ids::Rev;
use flotilla_proto::limits;

#[derive(Default)]
pub struct Held {
    rows: BTreeMap<Rev, Arc<InboxRow>>,
    /// When whatever is still here is read.
    look_at: u64,
}

impl Held {
    /// False: there is no room.
    pub fn put(&mut self, row: Arc<InboxRow>, look_at: u64) -> bool {
        if self.rows.is_empty() {
            self.look_at = look_at;
        }
        let fits = self.rows.len() < limits::ROWS_HELD_MAX;
        if fits {
            self.rows.insert(row.rev, row);
        }
        fits
    }

    /// The next one up to this revision.
    pub fn take(&mut self, upto: Rev) -> Option<Arc<InboxRow>> {
        self.rows.first_entry().filter(|row| *row.key() <= upto).map(|row| row.remove())
    }

    /// When the rows must be read after all, and the revision that the answer must reach.
    pub fn look(&self) -> Option<(u64, Option<Rev>)> {
        self.rows.last_key_value().map(|(rev, _)| (self.look_at, Some(*rev)))
    }

    pub fn clear(&mut self) {
        self.rows.clear();
    }
}
