//! The figures of a report by name: what expressions ask for, what baselines compare, what the table prints.

use super::{Latency, Report};

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Ms,
    S,
    Us,
    Percent,
    Bytes,
    Kib,
    Mib,
    PerS,
    Count,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Ms => "ms",
            Unit::S => "s",
            Unit::Us => "us",
            Unit::Percent => "%",
            Unit::Bytes => "B",
            Unit::Kib => "KiB",
            Unit::Mib => "MiB",
            Unit::PerS => "/s",
            Unit::Count => "",
        }
    }

    /// What a number with this suffix is in the figure's unit; none: the suffix does not fit.
    pub fn factor(self, suffix: &str) -> Option<f64> {
        let time = |us: f64| match suffix {
            "us" => Some(1.0 / us),
            "ms" => Some(1_000.0 / us),
            "s" => Some(1_000_000.0 / us),
            _ => None,
        };
        let size = |bytes: f64| match suffix {
            "B" => Some(1.0 / bytes),
            "KiB" => Some(1_024.0 / bytes),
            "MiB" => Some(1_048_576.0 / bytes),
            _ => None,
        };
        match (self, suffix) {
            (_, "") => Some(1.0),
            (Unit::Us, _) => time(1.0),
            (Unit::Ms, _) => time(1_000.0),
            (Unit::S, _) => time(1_000_000.0),
            (Unit::Bytes, _) => size(1.0),
            (Unit::Kib, _) => size(1_024.0),
            (Unit::Mib, _) => size(1_048_576.0),
            (Unit::Percent, "%") | (Unit::PerS, "/s") => Some(1.0),
            (Unit::PerS | Unit::Count, "k") => Some(1e3),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
    /// Neither: it describes the run.
    Neither,
}

/// Name, unit, which way is better, where it stands; none: not measured in this run.
pub struct Kind {
    pub name: &'static str,
    pub unit: Unit,
    pub better: Better,
    of: fn(&Report) -> Option<f64>,
}

macro_rules! latency {
    ($field:ident, $prefix:literal) => {
        [
            kind(concat!($prefix, ".p50"), Unit::Ms, Better::Lower, |r| quantile(&r.$field, r.$field.p50)),
            kind(concat!($prefix, ".p90"), Unit::Ms, Better::Lower, |r| quantile(&r.$field, r.$field.p90)),
            kind(concat!($prefix, ".p99"), Unit::Ms, Better::Lower, |r| quantile(&r.$field, r.$field.p99)),
            kind(concat!($prefix, ".p999"), Unit::Ms, Better::Lower, |r| quantile(&r.$field, r.$field.p999)),
            kind(concat!($prefix, ".max"), Unit::Ms, Better::Lower, |r| quantile(&r.$field, r.$field.max)),
        ]
    };
}

const fn kind(name: &'static str, unit: Unit, better: Better, of: fn(&Report) -> Option<f64>) -> Kind {
    Kind { name, unit, better, of }
}

/// A quantile of nothing is not zero.
fn quantile(latency: &Latency, value: f64) -> Option<f64> {
    (latency.count > 0).then_some(value)
}

const ACCEPT: [Kind; 5] = latency!(accept_ms, "accept");
const DELIVER: [Kind; 5] = latency!(deliver_ms, "deliver");
const LATE: [Kind; 5] = latency!(generator_late_ms, "late");
const OTHERS: [Kind; 30] = {
    use Better::{Higher, Lower, Neither};
    use Unit::*;
    [
        kind("accepted_per_s", PerS, Higher, |r| Some(r.accepted_per_s)),
        kind("delivered_per_s", PerS, Higher, |r| Some(r.delivered_per_s)),
        kind("entries_per_s", PerS, Higher, |r| Some(r.entries_per_s)),
        kind("sent", Count, Neither, |r| Some(r.sent as f64)),
        kind("accepted", Count, Neither, |r| Some(r.accepted as f64)),
        kind("delivered", Count, Neither, |r| Some(r.delivered as f64)),
        kind("connections", Count, Neither, |r| Some(r.connections as f64)),
        kind("errors", Count, Lower, |r| Some(r.errors_in_all() as f64)),
        kind("reconnects", Count, Neither, |r| Some(r.reconnects as f64)),
        kind("unanswered", Count, Lower, |r| Some(r.unanswered as f64)),
        kind("lost", Count, Lower, |r| Some(r.faults.lost as f64)),
        kind("doubled", Count, Lower, |r| Some(r.faults.doubled as f64)),
        kind("reordered", Count, Lower, |r| Some(r.faults.reordered as f64)),
        kind("differing", Count, Lower, |r| Some(r.faults.differing as f64)),
        kind("foreign", Count, Lower, |r| Some(r.faults.foreign as f64)),
        kind("receipts_missing", Count, Lower, |r| Some(r.faults.receipts_missing as f64)),
        kind("generator.cpu", Percent, Neither, |r| Some(r.generator_cpu_percent)),
        kind("others.cpu", Percent, Neither, |r| Some(r.others_cpu_percent)),
        kind("server.cpu", Percent, Neither, |r| r.server.as_ref().map(|s| s.cpu_percent)),
        kind("server.us_per_delivered", Us, Lower, |r| {
            r.server.as_ref().map(|s| s.cpu_us_per_delivered).filter(|us| *us > 0.0)
        }),
        kind("server.us_per_accepted", Us, Lower, |r| {
            r.server.as_ref().map(|s| s.cpu_us_per_accepted).filter(|us| *us > 0.0)
        }),
        kind("server.bytes_per_accepted", Bytes, Lower, |r| r.server.as_ref().map(|s| s.disk_bytes_per_accepted)),
        kind("server.syncs_per_accepted", Count, Lower, |r| r.server.as_ref().map(|s| s.syncs_per_accepted)),
        kind("server.rss", Mib, Lower, |r| r.server.as_ref().map(|s| s.rss_mib.iter().sum())),
        kind("connection", Kib, Lower, |r| r.kib_per_connection),
        kind("unavailable.p50", S, Lower, |r| r.chaos.as_ref().map(|c| c.unavailable_p50_s)),
        kind("unavailable.max", S, Lower, |r| r.chaos.as_ref().map(|c| c.unavailable_max_s)),
        kind("catch_up.entries_per_s", PerS, Higher, |r| {
            r.return_.as_ref().map(|b| b.entries_per_s).filter(|per_s| *per_s > 0.0)
        }),
        kind("back.p50", S, Lower, |r| r.return_.as_ref().map(|b| b.p50_s)),
        kind("back.max", S, Lower, |r| r.return_.as_ref().map(|b| b.max_s)),
    ]
};

/// All figures, the important ones first.
pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    OTHERS[..3].iter().chain(&ACCEPT).chain(&DELIVER).chain(&OTHERS[3..]).chain(&LATE)
}

impl Kind {
    pub fn value(&self, report: &Report) -> Option<f64> {
        (self.of)(report)
    }
}

pub fn find(name: &str) -> Option<&'static Kind> {
    kinds().find(|kind| kind.name == name)
}

/// As few digits as tell it.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        small if small < 10.0 => format!("{value:.2}"),
        medium if medium < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_units_convert_where_they_fit() {
        let names: std::collections::BTreeSet<_> = kinds().map(|kind| kind.name).collect();
        assert_eq!(names.len(), kinds().count());
        assert_eq!(Unit::Ms.factor("s"), Some(1_000.0));
        assert_eq!(Unit::S.factor("ms"), Some(0.001));
        assert_eq!(Unit::Mib.factor("KiB"), Some(1.0 / 1_024.0));
        assert_eq!(Unit::PerS.factor("k"), Some(1_000.0));
        assert_eq!(Unit::Ms.factor("KiB"), None);
    }
}
