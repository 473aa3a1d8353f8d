//! What people do, in numbers that an operator can guess.

use clap::Args;

/// A day of a service.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct Load {
    /// Users of a day, e.g. 250000, 10M, 1B
    #[arg(long, default_value = "10M", value_parser = count)]
    pub users: f64,
    /// Messages that each of them sends
    #[arg(long, default_value = "40", value_parser = count)]
    pub messages_a_day: f64,
    /// The busiest minutes, as a multiple of the day's average
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub peak: f64,
    /// Users who get a message, its sender not counted: 1 in a direct conversation
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub recipients: f64,
    /// Devices of a user
    #[arg(long, default_value_t = 1.5, value_parser = positive)]
    pub devices: f64,
    /// The part of all devices that is connected at the peak
    #[arg(long, default_value_t = 0.3, value_parser = share)]
    pub online: f64,
    /// Bytes of a message's body
    #[arg(long, default_value = "200", value_parser = count)]
    pub body_bytes: f64,
    /// Days for which messages are kept
    #[arg(long, default_value = "365", value_parser = count)]
    pub retention_days: f64,
}

/// A number, perhaps with k, M or B behind it.
pub fn count(text: &str) -> Result<f64, String> {
    let (digits, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        Some((at, 'b' | 'B' | 'g' | 'G')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let value: f64 =
        digits.trim().parse().map_err(|_| format!("`{text}` is no number; write 250000, 250k, 10M or 1B"))?;
    in_range(value * factor)
}

pub fn positive(text: &str) -> Result<f64, String> {
    in_range(text.parse().map_err(|_| format!("`{text}` is no number"))?)
}

fn in_range(value: f64) -> Result<f64, String> {
    if value > 0.0 && value <= 1e15 { Ok(value) } else { Err("it must be above 0 and at most 1e15".into()) }
}

pub fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if value > 0.0 && value <= 1.0 { Ok(value) } else { Err("a part of the whole: above 0 and at most 1".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        for (text, value) in [("40", 40.0), ("250k", 250e3), ("10M", 10e6), ("1B", 1e9), ("1.5 M", 1.5e6)] {
            assert_eq!(count(text), Ok(value));
        }
        for bad in ["", "M", "ten", "-1", "0", "NaN", "inf", "1e300", "10MM", "1é"] {
            assert!(count(bad).is_err(), "{bad}");
        }
        for bad in ["0", "1.1", "-0.5", "NaN"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
