//! `--assert 'accept.p99<20ms'`: a figure, a comparison, a bound with or without a unit.

use std::str::FromStr;

use super::Report;
use super::figures::{self, Kind, number};

#[derive(Clone, Copy)]
pub struct Assertion {
    kind: &'static Kind,
    compare: Compare,
    /// In the figure's own unit.
    bound: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Equal,
}

/// Longer ones first: `<=` begins with `<`.
const COMPARES: [(&str, Compare); 6] = [
    ("<=", Compare::LessOrEqual),
    (">=", Compare::MoreOrEqual),
    ("==", Compare::Equal),
    ("<", Compare::Less),
    (">", Compare::More),
    ("=", Compare::Equal),
];

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>', '=']).ok_or_else(|| {
            format!(
                "{text:?} compares nothing: expected a figure, one of < <= > >= ==, and a bound, like accept.p99<20ms"
            )
        })?;
        let (name, rest) = text.split_at(at);
        let name = name.trim();
        let kind = figures::find(name).ok_or_else(|| unknown(name))?;
        let found = COMPARES.iter().find_map(|(sign, compare)| Some((*compare, rest.strip_prefix(sign)?)));
        let (compare, bound) = found.ok_or_else(|| format!("{text:?}: {rest:?} is no comparison"))?;
        let bound = bound.trim();
        let digits = bound.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(bound.len());
        let (digits, suffix) = bound.split_at(digits);
        let value: f64 = digits
            .replace('_', "")
            .parse()
            .map_err(|_| format!("{text:?}: {bound:?} is not a bound: expected a number, like 20 or 20ms"))?;
        let factor = kind.unit.factor(suffix.trim()).ok_or_else(|| {
            let unit = if kind.unit.name().is_empty() { "a number without unit" } else { kind.unit.name() };
            format!("{text:?}: {name} is not counted in {:?} but in {unit}", suffix.trim())
        })?;
        Ok(Self { kind, compare, bound: value * factor })
    }
}

fn unknown(name: &str) -> String {
    // `accept.p98` is near `accept.p99`, not `accepted`.
    let first = name.find('.').map_or(name, |dot| &name[..=dot]);
    let near: Vec<_> =
        figures::kinds().map(|kind| kind.name).filter(|n| !first.is_empty() && n.starts_with(first)).collect();
    let all: Vec<_> = if near.is_empty() { figures::kinds().map(|kind| kind.name).collect() } else { near };
    format!("there is no figure {name:?}; there are: {}", all.join(", "))
}

impl Assertion {
    /// Whether it holds, and a sentence. A figure that was not measured holds nothing.
    pub fn judge(&self, report: &Report) -> (bool, String) {
        let Self { kind, compare, bound } = *self;
        let sign = COMPARES.iter().find(|(_, c)| *c == compare).map_or("", |(sign, _)| sign);
        let unit = kind.unit.name();
        let wanted = format!("{} {sign} {}{unit}", kind.name, number(bound));
        let Some(value) = kind.value(report) else { return (false, format!("{wanted}: not measured in this run")) };
        let holds = match compare {
            Compare::Less => value < bound,
            Compare::LessOrEqual => value <= bound,
            Compare::More => value > bound,
            Compare::MoreOrEqual => value >= bound,
            Compare::Equal => value == bound,
        };
        (holds, format!("{wanted}: it is {}{unit}", number(value)))
    }
}

impl std::fmt::Debug for Assertion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}", self.kind.name, self.compare, self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Latency, ServerCost};
    use super::*;

    fn report() -> Report {
        Report {
            accepted_per_s: 1_500.0,
            accept_ms: Latency { count: 10, p99: 20.0, ..Latency::default() },
            ..Report::default()
        }
    }

    #[test]
    fn bounds_hold_or_not_in_any_unit_that_fits() {
        for (text, holds) in [
            ("accept.p99<20ms", false),
            ("accept.p99<=20ms", true),
            ("accept.p99 < 0.021s", true),
            ("accept.p99 > 19_000us", true),
            ("accepted_per_s >= 1.5k", true),
            ("accepted_per_s > 1500/s", false),
            ("lost=0", true),
            ("lost == 1", false),
        ] {
            let assertion: Assertion = text.parse().expect(text);
            assert_eq!(assertion.judge(&report()).0, holds, "{text}: {}", assertion.judge(&report()).1);
        }
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        for text in ["server.us_per_delivered<1000", "deliver.p99<20ms", "unavailable.max<4s"] {
            let (holds, says) = text.parse::<Assertion>().expect(text).judge(&report());
            assert!(!holds && says.contains("not measured"), "{says}");
        }
        let server = Some(ServerCost { cpu_us_per_delivered: 40.0, ..ServerCost::default() });
        let there = Report { server, ..report() };
        assert!("server.us_per_delivered<=40us".parse::<Assertion>().expect("valid").judge(&there).0);
    }

    #[test]
    fn a_bad_expression_says_what_is_wrong_with_it() {
        for (text, wanted) in [
            ("accept.p99", "compares nothing"),
            ("", "compares nothing"),
            ("accept.p98<1ms", "there are: accept.p50, accept.p90"),
            ("nonsense<1", "accepted_per_s"),
            ("<1", "there is no figure"),
            ("accept.p99<", "expected a number"),
            ("accept.p99<fast", "expected a number"),
            ("accept.p99<20KiB", "in ms"),
            ("lost<1ms", "without unit"),
            ("accept.p99<1.2.3", "expected a number"),
            ("accept.p99<<1", "expected a number"),
        ] {
            let error = text.parse::<Assertion>().expect_err(text);
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
