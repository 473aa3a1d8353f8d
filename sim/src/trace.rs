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

use crate::options::Fault;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub at: Duration,
    /// Where: a node, a device, the run itself, the nemesis.
    pub place: String,
    pub text: String,
    /// What a product event carries, by name; the text says it as well.
    pub fields: Vec<(&'static str, String)>,
    /// A step of one message's way, in full traces only.
    pub detail: bool,
}

/// A fault from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Band {
    pub from: Duration,
    pub to: Duration,
    pub fault: Fault,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<Line>,
    bands: Vec<Band>,
}

/// A cheap handle; clones write into the same trace.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
    /// Also takes the steps of each message (`flotilla::path`).
    full: bool,
}

/// Simulated time since the run began; zero outside of it.
pub fn now() -> Duration {
    TimeHandle::try_current().map_or(Duration::ZERO, |time| time.elapsed())
}

impl Trace {
    pub fn new(full: bool) -> Self {
        Self { full, ..Self::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A holder only pushes or copies.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first word says where.
    pub fn say(&self, text: impl Into<String>) {
        let text = text.into();
        let (place, text) = text.split_once(' ').unwrap_or(("run", &text));
        let (place, text) = (place.to_owned(), text.trim_start().to_owned());
        self.inner().lines.push(Line { at: now(), place, text, fields: Vec::new(), detail: false });
    }

    /// A fault that began at `from` has ended now.
    pub fn fault(&self, from: Duration, fault: &Fault) {
        self.inner().bands.push(Band { from, to: now(), fault: fault.clone() });
    }

    /// From here on the product's own events of this thread are part of the trace.
    pub fn listen(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(tracing_subscriber::registry().with(Listener(self.clone())))
    }

    pub fn bands(&self) -> Vec<Band> {
        self.inner().bands.clone()
    }

    /// How many of the product's events have exactly this message.
    pub fn count(&self, message: &str) -> u64 {
        let starts = |line: &&Line| line.text.strip_prefix(message).is_some_and(|r| r.is_empty() || r.starts_with(' '));
        self.inner().lines.iter().filter(starts).count() as u64
    }

    /// What the newest of the product's events with this message says under `wanted`, of those that say `value` under `field`.
    pub fn told(&self, message: &str, field: &str, value: &str, wanted: &str) -> Option<String> {
        let inner = self.inner();
        let is = |line: &&Line| {
            line.text.starts_with(message) && line.fields.iter().any(|(name, said)| *name == field && said == value)
        };
        let line = inner.lines.iter().rev().find(is)?;
        line.fields.iter().find(|(name, _)| *name == wanted).map(|(_, said)| said.clone())
    }

    /// Everything so far in the order of time. `origin`: when the clients' recorder was made.
    pub fn lines(&self, records: &[Record], origin: Duration) -> Vec<Line> {
        let seen = records.iter().filter_map(|record| {
            let at = origin + Duration::from_micros(record.at_us);
            let text = describe(&record.op)?;
            Some(Line { at, place: record.device.clone(), text, fields: Vec::new(), detail: false })
        });
        let mut lines: Vec<Line> = self.inner().lines.iter().cloned().chain(seen).collect();
        // Stable: at one instant the product's own lines stand before what clients saw of it.
        lines.sort_by_key(|line| line.at.as_micros());
        lines
    }
}

/// One line of text each.
pub fn print(lines: &[Line]) -> String {
    let mut text = String::new();
    for Line { at, place, text: what, .. } in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:>4}.{:06} {place:<10} {what}", at.as_secs(), at.subsec_micros());
    }
    text
}

/// None for what a reader of a trace does not need.
pub fn describe(op: &Op) -> Option<String> {
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
        Op::Page { ask, page, .. } => {
            let (first, last) = (page.entries.first().map(|e| e.seq.0), page.entries.last().map(|e| e.seq.0));
            format!("reads a page of {}: {} entries, {first:?} to {last:?}", ask.conv, page.entries.len())
        }
        Op::Hole { conv, stored, got } => format!("hole in {conv}: has {stored}, got {got}"),
        Op::Acked { conv, seq } => format!("acks {conv} up to {seq}"),
        Op::Read { conv, seq } => format!("has read {conv} up to {seq}"),
        Op::Watched { convs } => format!("watches receipts of {} conversations", convs.len()),
        Op::Conv { .. } | Op::Receipts { .. } => return None,
        Op::Reset => "was told to start anew".into(),
        Op::Note { text } => text.clone(),
    })
}

/// Takes the product's events into the trace.
struct Listener(Trace);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        let told =
            *metadata.level() <= Level::INFO && (metadata.target().starts_with("flotilla") || metadata.is_span());
        told || (self.0.full && metadata.target() == PATH)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut seen = Fields::default();
        event.record(&mut seen);
        let place = if TimeHandle::try_current().is_some() { crate::cluster::place() } else { "-".to_owned() };
        let detail = event.metadata().target() == PATH;
        let mut text = seen.message;
        for (name, value) in &seen.fields {
            let gap = if text.is_empty() { "" } else { " " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{gap}{name}={value}");
        }
        self.0.inner().lines.push(Line { at: now(), place, text, fields: seen.fields, detail });
    }
}

/// The target of the product's stamps on a message's way.
const PATH: &str = "flotilla::path";

#[derive(Default)]
struct Fields {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    /// Without the quotes of the debug format.
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.fields.push((name, format!("{value:?}"))),
        }
    }
}
