//! When sends of an open loop are due: a rate, or steps of rates, and nothing else. What the servers do never moves it, so
//! that a stall counts for every send that was due during it.

use std::str::FromStr;

use serde::Serialize;

/// Steps of constant rate, one after the other; the last one lasts as long as the run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Step {
    /// Sends a second.
    rate: f64,
    seconds: f64,
}

impl Schedule {
    pub fn constant(rate: f64) -> Self {
        Self { steps: vec![Step { rate, seconds: f64::INFINITY }] }
    }

    /// Microseconds from the start to the `n`th send (from 0); none after the last step.
    pub fn due(&self, n: u64) -> Option<u64> {
        let (mut begin, mut before) = (0.0, 0.0);
        let n = n as f64;
        for step in &self.steps {
            let of_step = step.rate * step.seconds;
            if n < before + of_step {
                return Some(((begin + (n - before) / step.rate) * 1e6) as u64);
            }
            begin += step.seconds;
            before += of_step;
        }
        None
    }

    /// How long the steps last that have an end.
    pub fn seconds(&self) -> f64 {
        self.steps.iter().map(|step| step.seconds).filter(|seconds| seconds.is_finite()).sum()
    }

    pub fn highest(&self) -> f64 {
        self.steps.iter().map(|step| step.rate).fold(0.0, f64::max)
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            let comma = if at > 0 { ", then " } else { "" };
            write!(f, "{comma}{}/s", step.rate)?;
            if step.seconds.is_finite() {
                write!(f, " for {} s", step.seconds)?;
            }
        }
        Ok(())
    }
}

/// `500`, or steps `500:10,1000:10,2000` (rate:seconds; without seconds only at the end).
impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not a rate: expected 500, or steps like 500:10,1000:10,2000");
        let number = |text: &str| match text.trim().parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(expected()),
        };
        let parts: Vec<&str> = text.split(',').collect();
        let mut steps = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            steps.push(match part.split_once(':') {
                Some((rate, seconds)) => Step { rate: number(rate)?, seconds: number(seconds)? },
                None if at + 1 == parts.len() => Step { rate: number(part)?, seconds: f64::INFINITY },
                None => return Err(expected()),
            });
        }
        Ok(Self { steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> Schedule {
        text.parse().expect("a schedule")
    }

    #[test]
    fn steps_follow_each_other_without_a_hole() {
        let steps = schedule("10:1,100:0.5,1000");
        let due: Vec<_> = [0, 1, 9, 10, 11, 59, 60, 61].map(|n| steps.due(n).expect("due")).into();
        assert_eq!(due, [0, 100_000, 900_000, 1_000_000, 1_010_000, 1_490_000, 1_500_000, 1_501_000]);
        assert_eq!(schedule("10:1").due(10), None, "after the last step nothing is due");
        assert_eq!((steps.seconds(), steps.highest()), (1.5, 1_000.0));
        assert_eq!(steps.to_string(), "10/s for 1 s, then 100/s for 0.5 s, then 1000/s");
    }

    #[test]
    fn what_is_no_schedule_gets_a_sentence() {
        for bad in ["", "x", "0", "-1", "10,20", "10:", "10:0", "inf", "10:1,,20", "nan"] {
            let error = bad.parse::<Schedule>().expect_err(bad);
            assert!(error.contains("expected 500"), "{error}");
        }
    }
}
