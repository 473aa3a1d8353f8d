//! A small registry of counters, gauges and histograms, written out as Prometheus text.
//!
//! A handle is taken once and then costs one atomic operation; the registry's lock is held only while handles are made and
//! while the page is written. Figures that live elsewhere come by callback when the page is asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds of the latency buckets in seconds.
const BOUNDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Durations; `_bucket`, `_sum` (seconds) and `_count` on the page.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = BOUNDS.iter().position(|b| seconds <= *b).unwrap_or(BOUNDS.len());
        self.buckets[at].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(took.as_micros() as u64, Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Relaxed)).sum()
    }
}

enum Series {
    Counter(Arc<Counter>),
    Gauge(Arc<Gauge>),
    Histogram(Arc<Histogram>),
}

impl Series {
    fn kind(&self) -> &'static str {
        match self {
            Series::Counter(_) => "counter",
            Series::Gauge(_) => "gauge",
            Series::Histogram(_) => "histogram",
        }
    }
}

struct Family {
    help: &'static str,
    /// By label text, like `result="accepted"`.
    series: BTreeMap<String, Series>,
}

type Callback = Box<dyn Fn(&mut Page) + Send + Sync>;

#[derive(Default)]
pub struct Registry {
    families: Mutex<BTreeMap<&'static str, Family>>,
    callbacks: Mutex<Vec<Callback>>,
}

macro_rules! series {
    ($(#[$doc:meta])* $method:ident, $kind:ident) => {
        $(#[$doc])*
        pub fn $method(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Arc<$kind> {
            let mut families = lock(&self.families);
            let family = families.entry(name).or_insert_with(|| Family { help, series: BTreeMap::new() });
            let series = family.series.entry(label_text(labels)).or_insert_with(|| Series::$kind(Arc::default()));
            match series {
                Series::$kind(handle) => handle.clone(),
                // Two kinds under one name is a slip of the programmer; the second is not shown.
                _ => Arc::default(),
            }
        }
    };
}

impl Registry {
    series!(
        /// The same name and labels give the same counter.
        counter, Counter
    );
    series!(
        /// The same name and labels give the same gauge.
        gauge, Gauge
    );
    series!(
        /// The same name and labels give the same histogram.
        histogram, Histogram
    );

    /// Called whenever the page is written; must not block.
    pub fn on_page(&self, write: impl Fn(&mut Page) + Send + Sync + 'static) {
        lock(&self.callbacks).push(Box::new(write));
    }

    /// Prometheus text, version 0.0.4.
    pub fn page(&self) -> String {
        let mut page = Page { text: String::with_capacity(8 * 1024) };
        for (name, family) in lock(&self.families).iter() {
            let kind = family.series.values().next().map_or("untyped", Series::kind);
            page.head(name, family.help, kind);
            for (labels, series) in &family.series {
                page.series(name, labels, series);
            }
        }
        for callback in lock(&self.callbacks).iter() {
            callback(&mut page);
        }
        page.text
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn label_text(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{comma}{name}=\"{value}\"");
    }
    text
}

/// The page while it is written.
pub struct Page {
    text: String,
}

impl Page {
    /// `# HELP` and `# TYPE`; once for each name, before its samples.
    pub fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.line(name, &label_text(labels), value);
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            _ => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }

    fn series(&mut self, name: &str, labels: &str, series: &Series) {
        match series {
            Series::Counter(c) => self.line(name, labels, c.get() as f64),
            Series::Gauge(g) => self.line(name, labels, g.get() as f64),
            Series::Histogram(h) => self.histogram(name, labels, h),
        }
    }

    fn histogram(&mut self, name: &str, labels: &str, h: &Histogram) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut sum = 0;
        for (i, bucket) in h.buckets.iter().enumerate() {
            sum += bucket.load(Relaxed);
            let le = BOUNDS.get(i).map_or("+Inf".to_owned(), f64::to_string);
            self.line(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{le}\""), sum as f64);
        }
        self.line(&format!("{name}_sum"), labels, h.sum_us.load(Relaxed) as f64 / 1e6);
        self.line(&format!("{name}_count"), labels, sum as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_was_counted() {
        let registry = Registry::default();
        registry.counter("flotilla_sends_total", "Sends by result.", &[("result", "accepted")]).add(3);
        registry.counter("flotilla_sends_total", "Sends by result.", &[("result", "accepted")]).inc();
        registry.gauge("flotilla_connections", "Open.", &[]).set(-2);
        registry.histogram("flotilla_accept_seconds", "Took.", &[]).observe(Duration::from_millis(3));
        registry.on_page(|page| page.sample("flotilla_leader", &[("shard", "1")], 1.0));
        let page = registry.page();
        for line in [
            "# TYPE flotilla_sends_total counter",
            "flotilla_sends_total{result=\"accepted\"} 4",
            "flotilla_connections -2",
            "flotilla_accept_seconds_bucket{le=\"0.0025\"} 0",
            "flotilla_accept_seconds_bucket{le=\"0.005\"} 1",
            "flotilla_accept_seconds_bucket{le=\"+Inf\"} 1",
            "flotilla_accept_seconds_count 1",
            "flotilla_leader{shard=\"1\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is missing in:\n{page}");
        }
    }
}
