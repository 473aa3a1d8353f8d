//! A measured run on an engine whose devices are online: warm-up, window, drain.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tally::{Second, Tally, Window};
use super::time::At;
use super::{Engine, tally};
use crate::schedule::Schedule;

/// When sends are made.
#[derive(Debug, Clone)]
pub enum Pace {
    /// At fixed instants, whatever the answers.
    Open(Schedule),
    /// So many unanswered of each sender at any time.
    Closed(usize),
}

#[derive(Debug, Clone)]
pub struct Load {
    pub pace: Pace,
    pub warm_up: Duration,
    pub seconds: Duration,
    /// How long after the last send everything must have arrived.
    pub drain: Duration,
    /// Keep times without `accepted` above this, by conversation.
    pub gap: Option<Duration>,
    /// Show a line every second.
    pub live: bool,
}

/// Who is there, and what they do.
pub trait Workload: Send + Sync + 'static {
    fn name(&self) -> String;

    /// So many are connected at the same time.
    fn devices(&self) -> usize;

    /// Everybody online who is to be, conversations made.
    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()>;

    /// What is done at the `n`th instant of an open loop.
    fn act(&self, engine: &mut Engine, n: u64, due: At, now: At) {
        engine.send_in_turn(n, due, now);
    }

    /// Besides, once a second: `of_window` is the part of the window that is over, below 0 in the warm-up.
    fn each_second(&self, _engine: &mut Engine, _of_window: f64) {}

    /// When no more sends are made, and before everything is awaited.
    fn after(&self, _engine: &mut Engine) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A pace under way.
pub struct Script {
    workload: Arc<dyn Workload>,
    pace: Pace,
    /// Everybody who sends: conversation and sender.
    senders: Vec<(u32, u16)>,
    next: u64,
    start: At,
    to: At,
    live: bool,
}

/// When a load was measured.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub start: Instant,
    pub from: Instant,
    pub to: Instant,
}

impl Engine {
    /// Runs a load. `started` is told when it will be measured; `stop`, asked every second, ends it early.
    pub fn load(
        &mut self,
        load: &Load,
        workload: &Arc<dyn Workload>,
        started: impl FnOnce(Times),
        mut stop: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let start = self.clock.now().after(Duration::from_millis(50));
        let from = start.after(load.warm_up);
        let to = from.after(load.seconds);
        let [begin, first, last] = [start, from, to].map(|at| self.clock.instant(at));
        started(Times { start: begin, from: first, to: last });
        self.tally = Tally::new();
        self.window = Window { from, to, is_open: matches!(load.pace, Pace::Open(_)), gap: load.gap };
        self.next_tick = start.after(tally::TICK);
        let mut senders = Vec::new();
        for (conv, conversation) in self.conversations.iter().enumerate() {
            senders.extend((0..conversation.senders.len()).map(|sender| (conv as u32, sender as u16)));
        }
        if matches!(load.pace, Pace::Open(_)) {
            // Neighbours in time are in different conversations.
            senders.sort_by_key(|(conv, sender)| (*sender, *conv));
        }
        while self.clock.now() < start {
            self.turn(start)?;
        }
        let (pace, live) = (load.pace.clone(), load.live);
        self.script = Some(Script { workload: workload.clone(), pace, senders, next: 0, start, to, live });
        self.begin_closed_loop();
        let mut stopped = false;
        while self.clock.now() < to && !stopped {
            self.turn(to.min(self.next_tick))?;
            stopped = stop();
        }
        if stopped {
            self.window.to = self.window.to.min(self.clock.now());
        }
        if let Some(script) = &mut self.script {
            script.to = At(0);
        }
        workload.after(self)?;
        let limit = self.clock.now().after(load.drain);
        self.turn_until(limit, Engine::is_settled)?;
        self.look_for_receipts(limit)?;
        if load.live {
            clear_line();
        }
        self.script = None;
        let Self { conversations, tally, .. } = self;
        for conversation in conversations.iter() {
            tally.unanswered += conversation.ledger.settle(&mut tally.faults);
        }
        Ok(())
    }

    /// Seconds for which the window of the last load was open.
    pub fn measured_s(&self) -> f64 {
        self.window.to.since(self.window.from) as f64 / 1e6
    }

    fn begin_closed_loop(&mut self) {
        let Some(Script { pace: Pace::Closed(in_flight), senders, .. }) = &self.script else { return };
        let (in_flight, senders) = (*in_flight, senders.clone());
        for (conv, sender) in senders {
            for _ in 0..in_flight {
                let now = self.clock.now();
                self.send(conv, sender, now, now);
            }
        }
    }

    /// A send has its final answer: in a closed loop the next one is made.
    pub(super) fn answered(&mut self, conv: u32, sender: u16, now: At) {
        if let Some(Script { pace: Pace::Closed(_), to, .. }) = &self.script
            && now < *to
        {
            self.send(conv, sender, now, now);
        }
    }

    pub(super) fn script_due(&self) -> Option<At> {
        let script = self.script.as_ref()?;
        let Pace::Open(schedule) = &script.pace else { return None };
        let due = At(script.start.0 + schedule.due(script.next)?);
        (due < script.to).then_some(due)
    }

    pub(super) fn run_script(&mut self, now: At) {
        while let Some(due) = self.script_due().filter(|due| *due <= now) {
            let Some(script) = &mut self.script else { return };
            let n = script.next;
            script.next += 1;
            let workload = script.workload.clone();
            workload.act(self, n, due, now);
        }
    }

    /// The `n`th send of an open loop in which all senders take turns.
    pub fn send_in_turn(&mut self, n: u64, due: At, now: At) {
        let Some(Script { senders, .. }) = &self.script else { return };
        if let Some((conv, sender)) = senders.get(n as usize % senders.len().max(1)).copied() {
            self.send(conv, sender, due, now);
        }
    }

    /// Whether nothing is awaited any more.
    pub fn is_settled(&self) -> bool {
        self.conversations.iter().all(|conversation| conversation.ledger.is_settled())
    }

    /// Once a second.
    pub(super) fn tick(&mut self, now: At) {
        self.look_for_unanswered(now);
        let online = self.online;
        let Some(script) = &self.script else { return };
        let workload = script.workload.clone();
        if now < script.to {
            let Window { from, to, .. } = self.window;
            let of_window = (now.0 as f64 - from.0 as f64) / (to.0 as f64 - from.0 as f64);
            workload.each_second(self, of_window);
        }
        let Some(script) = &self.script else { return };
        let (live, left, whole) = (script.live, script.to.since(now), script.to.since(script.start));
        let second = self.tally.second(now, online);
        if live {
            show(second, left, whole);
        }
    }
}

/// A bar, rates, latencies, errors; on a terminal over the last one, else not at all.
fn show(second: &Second, left_us: u64, whole_us: u64) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    const WIDTH: usize = 24;
    let done = WIDTH - (WIDTH as u64 * left_us).checked_div(whole_us).unwrap_or(0) as usize;
    eprint!(
        "\r\x1b[K[{}{}] {:>3} s left  {:>7} accepted/s  {:>7} delivered/s  accept {:.1}/{:.1} ms  deliver {:.1}/{:.1} ms  {} errors",
        "=".repeat(done),
        " ".repeat(WIDTH - done),
        left_us / 1_000_000,
        second.accepted,
        second.delivered,
        second.accept_ms[0],
        second.accept_ms[1],
        second.deliver_ms[0],
        second.deliver_ms[1],
        second.errors
    );
}

fn clear_line() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}
