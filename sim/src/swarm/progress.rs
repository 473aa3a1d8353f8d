//! What a swarm says while it runs: a line that renews itself on a terminal, a line now and then elsewhere, and every
//! failure at once with the command that shows it again.

use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use crate::child::Ended;
use crate::options::{Chosen, Overrides};
use crate::report::Verdict;

const NOW_AND_THEN: Duration = Duration::from_secs(30);
const BAR: usize = 24;

pub struct Progress {
    all: u64,
    done: u64,
    failed: u64,
    unknown: u64,
    started: Instant,
    said: Instant,
    terminal: bool,
}

impl Progress {
    pub fn new(all: u64) -> Self {
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Self { all, done: 0, failed: 0, unknown: 0, started: now, said: now, terminal }
    }

    pub fn on_end(&mut self, seed: u64, ended: &Ended, over: &Overrides) {
        self.done += 1;
        let verdict = ended.verdict();
        self.failed += u64::from(matches!(verdict, Verdict::Violated | Verdict::Broken));
        self.unknown += u64::from(verdict == Verdict::Unknown);
        if verdict != Verdict::Passed {
            self.wipe();
            let again = Chosen::of_seed(seed, over.clone()).args().join(" ");
            println!("{} seed {seed}: {}", verdict.name(), ended.reason());
            println!("    ./scripts/sim run {again}");
        }
        self.say();
    }

    fn say(&mut self) {
        if !self.terminal && self.said.elapsed() < NOW_AND_THEN && self.done < self.all {
            return;
        }
        self.said = Instant::now();
        let each = self.started.elapsed().as_secs_f64() / self.done as f64;
        let left = each * self.all.saturating_sub(self.done) as f64;
        let full = (BAR as u64 * self.done / self.all.max(1)) as usize;
        let line = format!(
            "[{}{}] {}/{}  {} failed, {} unknown, {:.2} runs/s, {:.0}:{:02.0} left",
            "#".repeat(full),
            ".".repeat(BAR.saturating_sub(full)),
            self.done,
            self.all,
            self.failed,
            self.unknown,
            1.0 / each,
            (left / 60.0).floor(),
            left % 60.0
        );
        let mut out = std::io::stderr();
        // A progress that cannot be shown is no reason to end.
        let _ = if self.terminal { write!(out, "\r\x1b[K{line}") } else { writeln!(out, "{line}") };
        let _ = out.flush();
    }

    fn wipe(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }

    pub fn close(&self) {
        self.wipe();
    }
}
