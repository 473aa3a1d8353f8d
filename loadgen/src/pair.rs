//! Two users in one direct conversation, on different nodes: one sends, both receive and ack. One task owns both lines,
//! so nothing is shared while it runs.
//!
//! Every send has a number, which is the low half of its cid; it is kept until it was accepted and seen on both devices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::frame::{
    Accepted, AckItem, ClientFrame, ClientMessage, Encoding, EntryFrame, SendMessage, ServerFrame, ServerMessage,
};
use flotilla_proto::ids::{Blob, Cid, ConvId, Hash32, Seq, UserId};
use flotilla_proto::limits;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::judge::{Sight, Watch};
use crate::line::{Line, Who};
use crate::stats::Tally;

const SENDER: usize = 0;
const RECEIVER: usize = 1;
/// A refused send that may be sent again is, after this.
const RETRY: Duration = Duration::from_millis(50);
const RECONNECT: Duration = Duration::from_millis(100);

/// When sends are made.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// At fixed instants, whatever the answers: this pair's first one, and the time between two.
    Open { offset: Duration, period: Duration },
    /// So many unanswered at any time.
    Closed { in_flight: usize },
}

/// What all pairs of a run share.
pub struct Run {
    pub pace_start: Instant,
    /// Sends intended in `[from, to)` are measured.
    pub from: Instant,
    pub to: Instant,
    /// Becomes true when no more sends shall be made (closed early) or the clock passes `to`.
    pub stop: watch::Receiver<bool>,
    /// How long after the last send everything must have arrived.
    pub drain: Duration,
    pub body: Blob,
    pub encoding: Encoding,
    pub live: Arc<Live>,
}

impl Run {
    /// The same run before its times are known.
    pub fn copy(&self) -> Self {
        let Self { pace_start, from, to, drain, encoding, .. } = *self;
        let (stop, body, live) = (self.stop.clone(), self.body.clone(), self.live.clone());
        Self { pace_start, from, to, stop, drain, body, encoding, live }
    }
}

/// For the live line.
#[derive(Default)]
pub struct Live {
    pub accepted: AtomicU64,
    pub delivered: AtomicU64,
    pub errors: AtomicU64,
}

struct Sent {
    /// Open loop: when it should have left; closed loop: when it left.
    intended: Instant,
    /// When it (last) left.
    left: Instant,
    /// What was said about it first, by `accepted` or an entry.
    place: Option<(Seq, Hash32)>,
    accepted: bool,
    seen: [bool; 2],
    /// To be sent again then.
    again: Option<Instant>,
}

struct Side {
    who: Who,
    urls: Vec<String>,
    line: Option<Line>,
    watch: Watch,
    acked: Seq,
    unacked: usize,
    ack_at: Option<Instant>,
    dial_at: Instant,
}

pub struct Pair {
    run: Arc<Run>,
    pace: Pace,
    pub conv: ConvId,
    sides: [Side; 2],
    /// Low half zero.
    base: u128,
    next: u64,
    open: BTreeMap<u64, Sent>,
    /// Highest number seen on each side, by seq: pipelined sends keep their order.
    newest: [Option<u64>; 2],
    /// A send was repeated, so the order of this pair's sends is not its order of making.
    repeated: bool,
    unanswered: usize,
    tally: Tally,
    /// For those who look for the gap behind an event.
    pub gap: Option<Gap>,
}

/// Looks for the first `accepted` after an event, and tells it once.
#[derive(Debug)]
pub struct Gap {
    /// When it happened; none: not yet.
    pub event: watch::Receiver<Option<Instant>>,
    /// What left before the event and is answered this soon after it was answered before it.
    pub on_its_way: Duration,
    /// From the event to that answer.
    pub first: Option<oneshot::Sender<Duration>>,
}

impl Gap {
    fn on_accepted(&mut self, left: Instant, at: Instant) {
        let Some(event) = *self.event.borrow() else { return };
        let on_its_way = left < event && at < event + self.on_its_way;
        if at > event
            && !on_its_way
            && let Some(first) = self.first.take()
        {
            // Nobody looks any more: the run is over.
            let _ = first.send(at - event);
        }
    }
}

impl Pair {
    /// Connects both users, makes the conversation with one send, and waits until both have it.
    pub async fn open(run: Arc<Run>, pace: Pace, names: [UserId; 2], urls: [Vec<String>; 2]) -> anyhow::Result<Self> {
        let conv = ConvId::direct(&names[0], &names[1]);
        let [first, second] = names;
        let [first_urls, second_urls] = urls;
        let side = |user, urls| Side {
            who: Who::new(user),
            urls,
            line: None,
            watch: Watch::default(),
            acked: Seq(0),
            unacked: 0,
            ack_at: None,
            dial_at: Instant::now(),
        };
        let mut pair = Self {
            run,
            pace,
            conv,
            sides: [side(first, first_urls), side(second, second_urls)],
            base: rand::random::<u128>() << 64,
            next: 0,
            open: BTreeMap::new(),
            newest: [None; 2],
            repeated: false,
            unanswered: 0,
            tally: Tally::new(),
            gap: None,
        };
        // A node that just came up may still say `not_ready`.
        let patience = Instant::now() + Duration::from_secs(20);
        for side in [RECEIVER, SENDER] {
            while let Err(error) = pair.connect(side).await {
                if Instant::now() >= patience {
                    return Err(error);
                }
                tokio::time::sleep(RECONNECT).await;
            }
        }
        let now = Instant::now();
        pair.make(now, now).await;
        let deadline = now + Duration::from_secs(20);
        while !pair.open.is_empty() {
            anyhow::ensure!(Instant::now() < deadline, "the first message of {} did not arrive in time", pair.conv);
            pair.step(deadline).await;
        }
        pair.tally = Tally::new();
        Ok(pair)
    }

    /// Connecting comes before the times are known.
    pub fn with_run(mut self, run: Arc<Run>) -> Self {
        self.run = run;
        self
    }

    /// Sends by the pace until the end, then waits for what is still to come.
    pub async fn run(mut self) -> Tally {
        let mut slot = 0u64;
        let mut stop = self.run.stop.clone();
        while Instant::now() < self.run.to && !*stop.borrow_and_update() {
            let mut wake = self.run.to;
            match self.pace {
                Pace::Open { offset, period } => loop {
                    let at = self.run.pace_start + offset + period.mul_f64(slot as f64);
                    if at > Instant::now() {
                        wake = wake.min(at);
                        break;
                    }
                    slot += 1;
                    self.make(at, Instant::now()).await;
                },
                Pace::Closed { in_flight } => {
                    while self.unanswered < in_flight {
                        let now = Instant::now();
                        self.make(now, now).await;
                    }
                }
            }
            tokio::select! {
                biased;
                _ = stop.changed() => {}
                () = self.step(wake) => {}
            }
        }
        let deadline = Instant::now() + self.run.drain;
        while !self.open.is_empty() && Instant::now() < deadline {
            self.step(deadline).await;
        }
        self.settle()
    }

    /// What did not come is lost if it was accepted, else its outcome is unknown.
    fn settle(mut self) -> Tally {
        for sent in self.open.values() {
            if sent.accepted {
                self.tally.faults.lost += sent.seen.iter().filter(|seen| !**seen).count() as u64;
            } else {
                self.tally.unanswered += 1;
            }
        }
        self.tally
    }

    async fn make(&mut self, intended: Instant, now: Instant) {
        let number = self.next;
        self.next += 1;
        if intended >= self.run.from && intended < self.run.to {
            self.tally.sent += 1;
            self.tally.lateness(now.saturating_duration_since(intended));
        }
        self.unanswered += 1;
        let sent = Sent { intended, left: now, place: None, accepted: false, seen: [false; 2], again: None };
        self.open.insert(number, sent);
        self.put(number, None);
        // The rest leaves with the next step.
        if self.sides[SENDER].line.as_ref().is_some_and(Line::is_full) {
            self.flush(SENDER).await;
        }
    }

    fn put(&mut self, number: u64, age_s: Option<u64>) {
        let frame = ClientFrame::Send(SendMessage {
            conv: None,
            to: Some(self.sides[RECEIVER].who.user.clone()),
            cid: Cid(self.base | u128::from(number)),
            age_s,
            after: None,
            kind: "message".into(),
            body: self.run.body.clone(),
            mentions: vec![],
            reply_to: None,
            media: None,
        });
        if let Some(line) = &mut self.sides[SENDER].line {
            line.put(ClientMessage { id: Some(number as u32), frame });
        }
    }

    async fn flush(&mut self, side: usize) {
        let Some(line) = &mut self.sides[side].line else { return };
        if let Err(error) = line.flush().await {
            self.lose(side, &error);
        }
    }

    fn lose(&mut self, side: usize, error: &anyhow::Error) {
        self.tally.error(&format!("connection: {error}"));
        self.run.live.errors.fetch_add(1, Ordering::Relaxed);
        self.tally.reconnects += 1;
        self.sides[side].line = None;
        self.sides[side].dial_at = Instant::now() + RECONNECT;
        // Another node first.
        self.sides[side].urls.rotate_left(1);
    }

    async fn connect(&mut self, at: usize) -> anyhow::Result<()> {
        let side = &mut self.sides[at];
        let url = side.urls.first().cloned().unwrap_or_default();
        let (line, pending) = Line::open(&url, self.run.encoding, 16 * 1024, &mut side.who).await?;
        side.line = Some(line);
        side.watch.on_connected();
        for message in pending {
            self.on_frame(at, message);
        }
        if at == SENDER {
            let now = Instant::now();
            for sent in self.open.values_mut().filter(|sent| !sent.accepted) {
                sent.again = Some(now);
            }
        }
        Ok(())
    }

    /// Whatever comes first: frames on either side, an ack that is due, a repeat that is due, `wake`.
    async fn step(&mut self, wake: Instant) {
        self.send_again().await;
        let mut wake = wake;
        for at in [SENDER, RECEIVER] {
            let now = Instant::now();
            if self.sides[at].line.is_none() {
                if self.sides[at].dial_at <= now
                    && let Err(error) = self.connect(at).await
                {
                    self.lose(at, &error);
                }
                wake = wake.min(self.sides[at].dial_at.max(now));
            }
            if self.sides[at].ack_at.is_some_and(|due| due <= now)
                || self.sides[at].unacked >= limits::CLIENT_ACK_ENTRIES
            {
                self.ack(at);
            }
            if self.sides[at].line.as_ref().is_some_and(Line::has_output) {
                self.flush(at).await;
            }
            wake = self.sides[at].ack_at.map_or(wake, |due| wake.min(due));
        }
        if let Some(again) = self.open.values().take(64).filter_map(|sent| sent.again).min() {
            wake = wake.min(again);
        }
        let [sender, receiver] = &mut self.sides;
        let (side, frames) = tokio::select! {
            biased;
            frames = receive(&mut sender.line) => (SENDER, frames),
            frames = receive(&mut receiver.line) => (RECEIVER, frames),
            () = tokio::time::sleep_until(wake) => return,
        };
        match frames {
            Ok(frames) => frames.into_iter().for_each(|frame| self.on_frame(side, frame)),
            Err(error) => self.lose(side, &error),
        }
    }

    async fn send_again(&mut self) {
        let now = Instant::now();
        if self.sides[SENDER].line.is_none() {
            return;
        }
        let due: Vec<u64> =
            self.open.iter().filter(|(_, s)| s.again.is_some_and(|at| at <= now)).map(|(n, _)| *n).collect();
        for number in due {
            self.repeated = true;
            let Some(sent) = self.open.get_mut(&number) else { continue };
            let age_s = now.saturating_duration_since(sent.intended).as_secs();
            (sent.again, sent.left) = (None, now);
            self.put(number, Some(age_s));
            if self.sides[SENDER].line.as_ref().is_some_and(Line::is_full) {
                self.flush(SENDER).await;
            }
        }
        self.flush(SENDER).await;
    }

    fn ack(&mut self, at: usize) {
        let side = &mut self.sides[at];
        (side.unacked, side.ack_at) = (0, None);
        if let Some(line) = &mut side.line {
            line.put(ClientMessage {
                id: None,
                frame: ClientFrame::Ack(vec![AckItem { conv: self.conv.clone(), seq: side.acked }]),
            });
        }
    }

    fn on_frame(&mut self, side: usize, message: ServerMessage) {
        match message.frame {
            ServerFrame::Accepted(accepted) => {
                if let Some(id) = message.id {
                    self.accept(u64::from(id), &accepted, Instant::now());
                }
            }
            ServerFrame::Entry(entry) if entry.conv == self.conv => self.on_entry(side, &entry),
            ServerFrame::Gap(_) => self.tally.faults.lost += 1,
            ServerFrame::Error(error) => {
                self.tally.error(error.code.name());
                self.run.live.errors.fetch_add(1, Ordering::Relaxed);
                let Some(number) = message.id.map(u64::from) else { return };
                let Some(sent) = self.open.get_mut(&number) else { return };
                if error.retryable {
                    sent.again = Some(Instant::now() + RETRY);
                } else {
                    self.open.remove(&number);
                    self.unanswered -= 1;
                }
            }
            _ => {}
        }
    }

    fn number_of(&self, cid: Cid) -> Option<u64> {
        (cid.0 & !u128::from(u64::MAX) == self.base).then_some(cid.0 as u64).filter(|n| *n < self.next)
    }

    fn accept(&mut self, number: u64, accepted: &Accepted, now: Instant) {
        let Some(sent) = self.open.get_mut(&number) else { return };
        let place = *sent.place.get_or_insert((accepted.seq, accepted.chain));
        self.tally.faults.differing += u64::from(place != (accepted.seq, accepted.chain));
        if !sent.accepted {
            sent.accepted = true;
            sent.again = None;
            self.unanswered -= 1;
            self.run.live.accepted.fetch_add(1, Ordering::Relaxed);
            if let Some(gap) = &mut self.gap {
                gap.on_accepted(sent.left, now);
            }
            if sent.intended >= self.run.from && sent.intended < self.run.to {
                self.tally.accepted(now.saturating_duration_since(sent.intended));
            }
            self.tally.answered_in_window += u64::from(now >= self.run.from && now < self.run.to);
        }
        self.close(number);
    }

    fn on_entry(&mut self, side: usize, entry: &EntryFrame) {
        let now = Instant::now();
        let sight = self.sides[side].watch.on_entry(entry.seq, &mut self.tally.faults);
        let state = &mut self.sides[side];
        state.acked = state.acked.max(entry.seq);
        state.unacked += 1;
        state.ack_at.get_or_insert(now + Duration::from_millis(limits::CLIENT_ACK_DELAY_MS));
        if sight == Sight::Repeat {
            return;
        }
        let Some(number) = self.number_of(entry.cid) else {
            self.tally.faults.foreign += 1;
            return;
        };
        let Some(sent) = self.open.get_mut(&number) else {
            // Seen on both sides and done with: this is its second entry.
            self.tally.faults.doubled += 1;
            return;
        };
        let place = *sent.place.get_or_insert((entry.seq, entry.chain));
        self.tally.faults.differing += u64::from(place != (entry.seq, entry.chain));
        self.tally.faults.doubled += u64::from(std::mem::replace(&mut sent.seen[side], true));
        let in_window = sent.intended >= self.run.from && sent.intended < self.run.to;
        if side == RECEIVER {
            self.run.live.delivered.fetch_add(1, Ordering::Relaxed);
            if in_window {
                self.tally.delivered(now.saturating_duration_since(sent.intended));
            }
        }
        self.tally.entries_in_window += u64::from(now >= self.run.from && now < self.run.to);
        if self.newest[side].is_some_and(|newest| number < newest) && !self.repeated {
            self.tally.faults.reordered += 1;
        }
        self.newest[side] = self.newest[side].max(Some(number));
        self.close(number);
    }

    fn close(&mut self, number: u64) {
        if self.open.get(&number).is_some_and(|sent| sent.accepted && sent.seen == [true; 2]) {
            self.open.remove(&number);
        }
    }
}

async fn receive(line: &mut Option<Line>) -> anyhow::Result<Vec<ServerMessage>> {
    match line {
        Some(line) => line.receive().await,
        None => std::future::pending().await,
    }
}
