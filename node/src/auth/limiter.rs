//! How often one address (or one account) may try: a token bucket each, in a table of bounded size.
//!
//! Soft and local: a node forgets it at restart. When the table is full the fullest buckets are forgotten, for they hold
//! nobody back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use flotilla_proto::limits;
use tokio::time::Instant;

struct Bucket {
    left: f64,
    at: Instant,
}

/// `burst` tries at once, then `per_minute`.
pub struct Limiter {
    burst: f64,
    per_minute: AtomicU32,
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

impl Limiter {
    pub fn new(burst: u32, per_minute: u32) -> Self {
        Self { burst: burst.into(), per_minute: AtomicU32::new(per_minute), buckets: Mutex::default() }
    }

    /// From now on.
    pub fn set(&self, per_minute: u32) {
        self.per_minute.store(per_minute, Ordering::Relaxed);
    }

    pub fn per_minute(&self) -> u32 {
        self.per_minute.load(Ordering::Relaxed)
    }

    /// Takes one try of `key`; false: too many.
    pub fn allow(&self, key: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= limits::LIMITER_KEYS_MAX && !buckets.contains_key(key) {
            buckets.retain(|_, b| self.level(b, now) < self.burst - 0.5);
            if buckets.len() >= limits::LIMITER_KEYS_MAX {
                return false;
            }
        }
        let bucket = buckets.entry(key.to_owned()).or_insert(Bucket { left: self.burst, at: now });
        bucket.left = self.level(bucket, now);
        bucket.at = now;
        let allowed = bucket.left >= 1.0;
        if allowed {
            bucket.left -= 1.0;
        }
        allowed
    }

    fn level(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + passed * f64::from(self.per_minute()) / 60.0).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_burst_is_allowed_and_then_a_rate() {
        let limiter = Limiter::new(3, 60);
        let t0 = Instant::now();
        let allowed = (0..5).filter(|_| limiter.allow("a", t0)).count();
        assert_eq!(allowed, 3);
        assert!(limiter.allow("b", t0), "another key has its own bucket");
        assert!(!limiter.allow("a", t0 + Duration::from_millis(500)));
        assert!(limiter.allow("a", t0 + Duration::from_millis(2_500)));
    }
}
