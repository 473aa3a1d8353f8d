//! What the devices of a chaos run do all the time: messages, edits, deletions, reactions, read marks, pages of history,
//! and owners of groups who let people in and put them out.
//!
//! Invariant: every command is given through a device's outbox and its answer awaited; what may be rejected is named here,
//! everything else that is not accepted fails the run.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{bail, ensure};
use flotilla_client::Outcome;
use flotilla_client::device::{CallError, random_cid};
use flotilla_proto::entry::What;
use flotilla_proto::frame::{ErrorCode, History, SyncRequest, Target};
use flotilla_proto::ids::{Blob, ConvId, ConvKind, Seq, UserId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::scene::{Seat, text};

/// Commands without an answer per device.
const OUTSTANDING: usize = 24;
/// Own messages remembered per device, to be edited and deleted.
const OWN_MAX: usize = 64;

/// A conversation with the users that are in it at the start.
#[derive(Debug, Clone)]
pub struct Room {
    pub conv: ConvId,
    pub members: BTreeSet<UserId>,
    /// People come and go; the owner stays.
    pub volatile: bool,
}

/// Shared by all that talk.
#[derive(Default)]
pub struct Run {
    stop: AtomicBool,
    /// Commands given.
    pub sent: AtomicU64,
    /// Membership changes that were accepted.
    pub moves: AtomicU64,
    /// Pages of history and of conversations that came.
    pub pages: AtomicU64,
}

impl Run {
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }
}

type Own = Arc<Mutex<VecDeque<(ConvId, Seq)>>>;

/// One device at work.
pub struct Talker {
    seat: Arc<Seat>,
    rooms: Vec<Room>,
    run: Arc<Run>,
    dice: StdRng,
    own: Own,
    count: u64,
}

impl Talker {
    pub fn new(seat: Arc<Seat>, rooms: &[Room], run: Arc<Run>, seed: u64) -> Self {
        let me = seat.handle.user();
        let rooms = rooms.iter().filter(|r| r.volatile || r.members.contains(me)).cloned().collect();
        Self { seat, rooms, run, dice: StdRng::seed_from_u64(seed), own: Own::default(), count: 0 }
    }

    /// Until told to stop, then waits for all answers. `rate`: commands per second, at most.
    pub async fn work(mut self, rate: u64) -> anyhow::Result<()> {
        let places = Arc::new(Semaphore::new(OUTSTANDING));
        let mut answers: Vec<JoinHandle<anyhow::Result<()>>> = Vec::new();
        let mut beat = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.run.stopped() {
            beat.tick().await;
            if self.dice.random_range(0..100) < 6 {
                answers.push(self.look());
                continue;
            }
            let place = places.clone().acquire_owned().await?;
            let (room, what) = self.draw();
            let (tolerant, plain) = (room.volatile, matches!(what, What::Message { .. }));
            let target = match room.conv.peer_of(self.seat.handle.user()) {
                Some(peer) if plain && room.conv.kind() == ConvKind::Direct => Target::User(peer),
                _ => Target::Conv(room.conv.clone()),
            };
            let ticket = self.seat.handle.submit(target, what.clone()).await?;
            self.run.count_sent();
            let (label, own) = (self.seat.label.clone(), self.own.clone());
            answers.push(tokio::spawn(async move {
                let outcome = ticket.answer().await;
                drop(place);
                match outcome {
                    Outcome::Accepted(a) if plain => remember(&own, a.conv, a.seq),
                    Outcome::Accepted(_) => {}
                    Outcome::Rejected(error) if may_reject(error.code, tolerant, plain) => {}
                    Outcome::Unknown(why) if may_reject_in_doubt(&why, tolerant, plain) => {}
                    other => bail!("{label}: {what:?} was not accepted: {other:?}"),
                }
                Ok(())
            }));
            if answers.len() > 4 * OUTSTANDING {
                for done in answers.extract_if(.., |a| a.is_finished()) {
                    done.await??;
                }
            }
        }
        for answer in answers {
            answer.await??;
        }
        Ok(())
    }

    /// What to say next, and where.
    fn draw(&mut self) -> (Room, What) {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let dice = self.dice.random_range(0..100);
        if dice < 18 && !own.is_empty() {
            let (conv, seq) = own[self.dice.random_range(0..own.len())].clone();
            if let Some(room) = self.rooms.iter().find(|r| r.conv == conv).cloned() {
                let what = match dice {
                    0..8 => What::React { target: seq, emoji: "👍".into(), on: self.dice.random_bool(0.7) },
                    8..14 => {
                        What::Edit { target: seq, body: Blob::from(format!("edited {}", self.count).into_bytes()) }
                    }
                    _ => What::Delete { target: seq },
                };
                return (room, what);
            }
        }
        self.count += 1;
        let room = self.rooms[self.dice.random_range(0..self.rooms.len())].clone();
        (room, text(format!("{} {}", self.seat.label, self.count)))
    }

    /// Something that changes no log: a read mark, a page of history, a page of conversations.
    fn look(&mut self) -> JoinHandle<anyhow::Result<()>> {
        let conv = self.rooms[self.dice.random_range(0..self.rooms.len())].conv.clone();
        let (dice, seat, run) = (self.dice.random_range(0..3), self.seat.clone(), self.run.clone());
        tokio::spawn(async move {
            let position = seat.position(&conv).await;
            let looked = match dice {
                0 if position > Seq(0) => {
                    seat.handle.read(conv, position).await;
                    return Ok(());
                }
                1 => {
                    let before = Some(position.next());
                    let page = History { conv: conv.clone(), before, after: None, around: None, limit: Some(20) };
                    seat.handle.history(page).await.map(|page| {
                        let rising = page.entries.windows(2).all(|w| w[0].seq < w[1].seq);
                        rising && page.entries.iter().all(|e| e.conv == conv && e.seq <= position)
                    })
                }
                _ => seat.handle.sync(SyncRequest { rev: None, limit: Some(50) }).await.map(|_| true),
            };
            match looked {
                Ok(good) => {
                    ensure!(good, "{}: a page of history holds what was not asked for", seat.label);
                    run.pages.fetch_add(1, Ordering::Relaxed);
                }
                // Not (or no longer) a member; or the faults lasted longer than the call's time.
                Err(CallError::Rejected(e)) if matches!(e.code, ErrorCode::NotMember | ErrorCode::NotFound) => {}
                Err(CallError::Unknown(_)) => {}
                Err(CallError::Rejected(e)) => bail!("{}: a read was refused: {e}", seat.label),
            }
            Ok(())
        })
    }
}

fn remember(own: &Own, conv: ConvId, seq: Seq) {
    let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
    own.push_back((conv, seq));
    while own.len() > OWN_MAX {
        own.pop_front();
    }
}

/// Which final refusals follow from the rules: a stranger to a volatile group may not speak there; what is deleted cannot
/// be edited, deleted again or reacted to.
fn may_reject(code: ErrorCode, volatile: bool, plain: bool) -> bool {
    match code {
        ErrorCode::NotMember | ErrorCode::NotFound if volatile => true,
        ErrorCode::Conflict => !plain,
        _ => false,
    }
}

/// The same refusals, where an earlier attempt had no clear answer: the client cannot say that nothing will happen. It names
/// the refusal first.
fn may_reject_in_doubt(why: &str, volatile: bool, plain: bool) -> bool {
    let all = [ErrorCode::NotMember, ErrorCode::NotFound, ErrorCode::Conflict];
    all.into_iter().any(|code| why.starts_with(&format!("{code}: ")) && may_reject(code, volatile, plain))
}

/// The owner of volatile groups lets people in and puts them out; some go by themselves.
pub async fn shuffle(seats: Vec<Arc<Seat>>, rooms: Vec<Room>, run: Arc<Run>, seed: u64) -> anyhow::Result<()> {
    let mut dice = StdRng::seed_from_u64(seed);
    let rooms: Vec<Room> = rooms.into_iter().filter(|r| r.volatile).collect();
    while !run.stopped() {
        tokio::time::sleep(Duration::from_millis(dice.random_range(200..900))).await;
        let (room, guest) = (&rooms[dice.random_range(0..rooms.len())], &seats[dice.random_range(0..seats.len())]);
        let Some(owner) = seats.iter().find(|s| is_owner(&room.conv, s)) else { bail!("nobody made {}", room.conv) };
        let user = guest.handle.user().clone();
        // On any of the owner's devices.
        if user == *owner.handle.user() {
            continue;
        }
        let key = random_cid();
        let done = match dice.random_range(0..10) {
            0..5 => owner.handle.add_members(key, &room.conv, std::slice::from_ref(&user)).await,
            5..8 => owner.handle.remove_member(key, &room.conv, &user).await,
            _ => guest.handle.leave(key, &room.conv).await,
        };
        match done {
            Ok(_) => drop(run.moves.fetch_add(1, Ordering::Relaxed)),
            // In already, out already; or the faults lasted longer than the call's time.
            Err(CallError::Rejected(e))
                if matches!(e.code, ErrorCode::Conflict | ErrorCode::NotMember | ErrorCode::NotFound) => {}
            Err(CallError::Unknown(_)) => {}
            Err(CallError::Rejected(e)) => bail!("a change of {} was refused: {e}", room.conv),
        }
    }
    Ok(())
}

/// Whether this device made the group.
fn is_owner(conv: &ConvId, seat: &Seat) -> bool {
    seat.owns.lock().unwrap_or_else(PoisonError::into_inner).contains(conv)
}
