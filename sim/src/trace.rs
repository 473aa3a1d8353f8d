//! The trace of a run: what happened, with simulated time. Two runs of one seed must print the same bytes.
//!
//! Invariant: nothing in it depends on the real clock, an address in memory or a process id. Product events come through
//! `tracing` (information and above), what clients saw through their history.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_client::history::{Op, Record};
use madsim::time::TimeHandle;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    at: Duration,
    text: String,
}

/// A cheap handle; clones write into the same trace.
#[derive(Debug, Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<Line>>>);

/// Simulated time since the run began; zero outside of it.
pub fn now() -> Duration {
    TimeHandle::try_current().map_or(Duration::ZERO, |time| time.elapsed())
}

impl Trace {
    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        // A holder only pushes or copies.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn say(&self, text: impl Into<String>) {
        self.lines().push(Line { at: now(), text: text.into() });
    }

    /// From here on the product's own events of this thread are part of the trace.
    pub fn listen(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(tracing_subscriber::registry().with(Listener(self.clone())))
    }

    /// Everything so far in the order of time, one line each. `origin`: when the clients' recorder was made.
    pub fn print(&self, records: &[Record], origin: Duration) -> String {
        let seen = records.iter().filter_map(|record| {
            let at = origin + Duration::from_micros(record.at_us);
            Some(Line { at, text: format!("{:<10} {}", record.device, describe(&record.op)?) })
        });
        let mut lines: Vec<Line> = self.lines().iter().cloned().chain(seen).collect();
        // Stable: at one instant the product's own lines stand before what clients saw of it.
        lines.sort_by_key(|line| line.at.as_micros());
        let mut text = String::new();
        for line in lines {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:>4}.{:06} {}", line.at.as_secs(), line.at.subsec_micros(), line.text);
        }
        text
    }
}

/// None for what a reader of a trace does not need.
fn describe(op: &Op) -> Option<String> {
    Some(match op {
        Op::Connected { url, session, attempt, .. } => {
            format!("connected to {url}, session {session}, attempt {attempt}")
        }
        Op::CaughtUp => "caught up".into(),
        Op::Closed { code, reason } => format!("closed {code} {reason}"),
        Op::Invoked { cid, conv, what, .. } => format!("sends {} to {conv}, cid {cid}", what.kind()),
        Op::Accepted { cid, accepted } => {
            let dup = if accepted.dup { ", a repeat" } else { "" };
            format!("accepted {} seq {}, cid {cid}{dup}", accepted.conv, accepted.seq)
        }
        Op::Rejected { cid, error } => format!("rejected cid {cid}: {error:?}"),
        Op::Unknown { cid, why } => format!("unknown cid {cid}: {why}"),
        Op::Entry { entry } => format!("delivered {} seq {} from {}", entry.conv, entry.seq, entry.from),
        Op::Gap { gap } => format!("gap {gap:?}"),
        Op::Hole { conv, stored, got } => format!("hole in {conv}: has {stored}, got {got}"),
        Op::Acked { conv, seq } => format!("acks {conv} up to {seq}"),
        Op::Reset => "was told to start anew".into(),
        Op::Note { text } => text.clone(),
    })
}

/// Takes the product's events into the trace.
struct Listener(Trace);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= Level::INFO && (metadata.target().starts_with("flotilla") || metadata.is_span())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let node = if TimeHandle::try_current().is_some() { crate::cluster::place() } else { "-".to_owned() };
        self.0.say(format!("{node:<10} {}{}", fields.message, fields.rest));
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }
}
