//! The wall clock, read in this one place. The simulator skews and jumps it per node.
//!
//! Only the display clock comes from here; everything that expires runs on monotonic time.

use std::sync::Arc;

use flotilla_proto::ids::TsMs;
use flotilla_proto::limits::DISPLAY_MS_MAX;

/// Where a leader takes its display stamps from: the wall clock, or what the median rule makes of it.
pub type DisplayClock = Arc<dyn Fn() -> TsMs + Send + Sync>;

/// The display clock of a node that does not know other clocks.
pub fn local() -> DisplayClock {
    Arc::new(wall)
}

/// Milliseconds since the Unix epoch, below the ceiling of message ids.
pub fn wall() -> TsMs {
    TsMs(adjusted(system_ms()).min(DISPLAY_MS_MAX))
}

fn system_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // A clock before 1970 reads as 1970: apply takes the maximum anyway.
    since_epoch.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(not(madsim))]
fn adjusted(ms: u64) -> u64 {
    ms
}

#[cfg(madsim)]
pub use simulated::{clear, skew};

#[cfg(madsim)]
fn adjusted(ms: u64) -> u64 {
    simulated::adjusted(ms)
}

#[cfg(madsim)]
mod simulated {
    use std::cell::RefCell;
    use std::rc::Rc;

    type Skew = Rc<dyn Fn(u64) -> u64>;

    thread_local! {
        static SKEW: RefCell<Option<Skew>> = const { RefCell::new(None) };
    }

    pub fn adjusted(ms: u64) -> u64 {
        let skew = SKEW.with(|cell| cell.borrow().clone());
        skew.map_or(ms, |skew| skew(ms))
    }

    /// From now on every wall clock reading goes through `skew`, inside the task of the node that reads.
    pub fn skew(skew: impl Fn(u64) -> u64 + 'static) {
        SKEW.with(|cell| *cell.borrow_mut() = Some(Rc::new(skew)));
    }

    pub fn clear() {
        SKEW.with(|cell| *cell.borrow_mut() = None);
    }
}
