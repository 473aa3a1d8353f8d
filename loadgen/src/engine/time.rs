//! The engine's clock, in microseconds since it was made, and a timer of that precision: what polling offers is whole
//! milliseconds, and a send that leaves a millisecond late would be measured as a slow server.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Microseconds since the engine was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct At(pub u64);

impl At {
    pub const NEVER: At = At(u64::MAX);

    pub fn after(self, by: Duration) -> At {
        At(self.0.saturating_add(by.as_micros() as u64))
    }

    /// Microseconds from `earlier` to here; 0 if it is the other way round.
    pub fn since(self, earlier: At) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn new() -> Self {
        Self(Instant::now())
    }

    pub fn now(&self) -> At {
        At(self.0.elapsed().as_micros() as u64)
    }

    pub fn instant(&self, at: At) -> Instant {
        self.0 + Duration::from_micros(at.0)
    }

    pub fn at(&self, instant: Instant) -> At {
        At(instant.saturating_duration_since(self.0).as_micros() as u64)
    }
}

/// Wakes the poll at a time.
pub struct Timer {
    fd: OwnedFd,
    armed: At,
}

impl Timer {
    pub fn new(registry: &Registry, token: Token) -> std::io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { fd, armed: At::NEVER })
    }

    /// At `at` and not again; nothing is asked of the system if that is what it does already.
    pub fn arm(&mut self, at: At, now: At) -> std::io::Result<()> {
        if at == self.armed && at > now {
            return Ok(());
        }
        self.armed = at;
        // Zero would disarm it.
        let us = if at == At::NEVER { 0 } else { at.since(now).max(1) };
        let it_value = Timespec { tv_sec: (us / 1_000_000) as i64, tv_nsec: (us % 1_000_000 * 1_000) as _ };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}
