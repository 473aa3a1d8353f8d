//! The order of pipelined sends: one connection's commands of one conversation are applied as they were sent.
//!
//! A command that follows one still under way names it as `after`, so that the log itself keeps the order whatever way the
//! two take. Where the log says `out_of_order`, the earlier one has been held up (its leader has just changed, for one). Then
//! the later one waits, not for the end of the earlier one but until that has been handed in again, and follows at once: a
//! whole window of them catches up in one go. One round trip for each would be slower than they come in, and never end.
//! If the earlier one is refused for good, the later one is asked again without it; if the earlier one may be sent again by
//! the client, the later one is answered `out_of_order`, so that it cannot overtake.
//!
//! Invariant: what is handed in stays in proportion to what was sent. Where one was refused, the next one may well be, and
//! where one is not in the log for good, those behind it cannot be: a window of which each is tried again whenever the one
//! before it is would be handed in as often as the square of its length, and only its length is counted by the limits.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use flotilla_proto::frame::{Accepted, ErrorBody, ErrorCode};
use flotilla_proto::ids::{Cid, ConvId};
use tokio::sync::watch;

/// How a command ended, for the one behind it.
#[derive(Debug, Clone)]
enum End {
    Accepted,
    /// Refused for good. What it followed and has not ended yet is now in front of the one behind it.
    Refused(Option<Box<Front>>),
    /// May be sent again, or may even have happened.
    Open,
    /// May be sent again, and has not happened: whatever names it is told `out_of_order`.
    Undone,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    /// Times that it was handed in.
    tries: u32,
    /// Told `out_of_order`, and not handed in again yet: whoever follows would be told the same.
    waits: bool,
    /// It follows one that was refused, and may be refused itself: whoever follows waits for its end.
    is_doubtful: bool,
    end: Option<End>,
}

/// The command in front, and how it is doing.
type Front = (Cid, watch::Receiver<Progress>);

/// The commands under way in each conversation, the newest last; as many as requests of a connection may be.
#[derive(Default)]
pub struct Sends {
    under_way: BTreeMap<ConvId, Vec<Front>>,
}

/// One command with its place in the order.
pub struct Ticket {
    before: Option<Front>,
    progress: watch::Sender<Progress>,
}

/// What a submission is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Try {
    pub after: Option<Cid>,
    /// The first one counts for the limits on sends.
    pub is_first: bool,
}

impl Sends {
    pub fn enter(&mut self, conv: &ConvId, cid: Cid) -> Ticket {
        let (progress, seen) = watch::channel(Progress::default());
        let fronts = self.under_way.entry(conv.clone()).or_default();
        let before = fronts.iter().rfind(|(earlier, _)| *earlier != cid).cloned();
        fronts.push((cid, seen));
        Ticket { before, progress }
    }

    /// The oldest of this cid that is under way. What came before it may be still, and is followed by the next one.
    pub fn leave(&mut self, conv: &ConvId, cid: Cid) {
        let Some(fronts) = self.under_way.get_mut(conv) else { return };
        if let Some(at) = fronts.iter().position(|(of, _)| *of == cid) {
            fronts.remove(at);
        }
        if fronts.is_empty() {
            self.under_way.remove(conv);
        }
    }
}

/// Waits until the command in front has been handed in more than `tries` times, or has ended.
async fn next_of(front: &mut Front, tries: u32) -> Progress {
    let is_ready = |p: &Progress| p.end.is_some() || (!p.waits && !p.is_doubtful && p.tries > tries);
    let lost = Progress { end: Some(End::Open), ..Progress::default() };
    // Without its sender it was given up in the middle.
    front.1.wait_for(is_ready).await.map_or(lost, |progress| progress.clone())
}

/// Says that a command was handed in as soon as it is, so that the one behind it can follow at once.
async fn hand_in<F: Future>(submission: F, progress: &watch::Sender<Progress>) -> F::Output {
    let mut submission = pin!(submission);
    let first = futures::poll!(submission.as_mut());
    progress.send_modify(|p| (p.tries, p.waits) = (p.tries + 1, false));
    match first {
        Poll::Ready(output) => output,
        Poll::Pending => submission.await,
    }
}

impl Ticket {
    /// `submit` hands the command in, at the latest when what it returns is polled first. `after`: what the client says itself;
    /// then the order is the client's affair.
    pub async fn run<F>(self, after: Option<Cid>, submit: impl Fn(Try) -> F) -> Result<Accepted, ErrorBody>
    where
        F: Future<Output = Result<Accepted, ErrorBody>>,
    {
        let Self { before, progress } = self;
        let mut before = before.filter(|_| after.is_none());
        let (mut tries, mut is_first) = (0, true);
        // What is in front may be sent again by the client: whoever follows must not overtake it, even where this one is refused.
        let mut is_open = false;
        let result = 'tries: loop {
            let mut named = after;
            while let Some(mut front) = before.take() {
                let now = next_of(&mut front, tries).await;
                tries = now.tries;
                match now.end {
                    Some(End::Refused(further)) => {
                        progress.send_modify(|p| p.is_doubtful = true);
                        (before, tries) = (further.map(|front| *front), 0);
                    }
                    // Told so once already; the log could say nothing else.
                    Some(End::Undone) if !is_first => {
                        is_open = true;
                        break 'tries Err(ErrorBody::new(ErrorCode::OutOfOrder, "what it follows was not taken"));
                    }
                    Some(end @ (End::Accepted | End::Open | End::Undone)) => {
                        is_open = !matches!(end, End::Accepted);
                        named = Some(front.0);
                        break;
                    }
                    None => {
                        named = Some(front.0);
                        before = Some(front);
                        break;
                    }
                }
            }
            let result = hand_in(submit(Try { after: named, is_first }), &progress).await;
            is_first = false;
            match &result {
                Err(error) if error.code == ErrorCode::OutOfOrder && before.is_some() => {
                    progress.send_modify(|p| p.waits = true);
                }
                _ => break result,
            }
        };
        progress.send_modify(|p| {
            p.end = Some(match &result {
                Ok(_) => End::Accepted,
                Err(error) if error.code == ErrorCode::OutOfOrder || (is_open && !error.retryable) => End::Undone,
                Err(error) if error.retryable => End::Open,
                Err(_) => End::Refused(before.map(Box::new)),
            });
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::{BTreeSet, VecDeque};

    use flotilla_proto::ids::{Hash32, MsgId, Seq, TsMs, UserId};
    use futures::StreamExt as _;
    use futures::stream::FuturesUnordered;
    use tokio::sync::oneshot;

    use super::*;

    type Answer = Result<Accepted, ErrorBody>;

    /// A log that keeps to `after`, and takes what was handed in when it is told to.
    #[derive(Default)]
    struct Log {
        entries: RefCell<Vec<Cid>>,
        waiting: RefCell<VecDeque<(Cid, Try, oneshot::Sender<Answer>)>>,
        submissions: Cell<usize>,
        counted: RefCell<BTreeSet<Cid>>,
        refuses: Option<Cid>,
        refuses_all: bool,
        loses: Option<Cid>,
    }

    fn conv() -> ConvId {
        let user = |name| UserId::parse(name).expect("a valid test name");
        ConvId::direct(&user("ann"), &user("ben"))
    }

    fn accepted(seq: usize) -> Accepted {
        Accepted {
            conv: conv(),
            seq: Seq(seq as u64),
            msg_id: MsgId(0),
            ts: TsMs(0),
            chain: Hash32::default(),
            dup: false,
        }
    }

    impl Log {
        async fn submit(&self, cid: Cid, ask: Try) -> Answer {
            self.submissions.set(self.submissions.get() + 1);
            assert_eq!(self.counted.borrow_mut().insert(cid), ask.is_first, "each command counts once");
            let (answer, done) = oneshot::channel();
            self.waiting.borrow_mut().push_back((cid, ask, answer));
            done.await.expect("the log answers")
        }

        fn take(&self, waiting: impl IntoIterator<Item = (Cid, Try, oneshot::Sender<Answer>)>) {
            for (cid, ask, answer) in waiting {
                let mut entries = self.entries.borrow_mut();
                let result = if self.refuses == Some(cid) {
                    Err(ErrorBody::new(ErrorCode::NotMember, ""))
                } else if self.loses == Some(cid) {
                    Err(ErrorBody::new(ErrorCode::Unavailable, ""))
                } else if ask.after.is_some_and(|after| !entries.contains(&after)) {
                    Err(ErrorBody::new(ErrorCode::OutOfOrder, ""))
                } else if self.refuses_all {
                    Err(ErrorBody::new(ErrorCode::NotMember, ""))
                } else {
                    entries.push(cid);
                    Ok(accepted(entries.len()))
                };
                answer.send(result).expect("somebody waits");
            }
        }
    }

    /// Sends `count` commands at once; of the first round the log takes the first command last. The answers, and the rounds.
    async fn pipeline(log: &Log, count: u128) -> (Vec<(Cid, Answer)>, usize) {
        let conv = conv();
        let mut sends = Sends::default();
        let mut jobs: FuturesUnordered<_> = (1..=count)
            .map(|n| {
                let ticket = sends.enter(&conv, Cid(n));
                async move { (Cid(n), ticket.run(None, |ask| log.submit(Cid(n), ask)).await) }
            })
            .collect();
        let (mut answers, mut rounds) = (Vec::new(), 0);
        while !jobs.is_empty() {
            while let Poll::Ready(Some(answer)) = futures::poll!(jobs.next()) {
                answers.push(answer);
            }
            let mut waiting = log.waiting.take();
            if rounds == 0 {
                waiting.rotate_left(1);
            }
            rounds += usize::from(!waiting.is_empty());
            log.take(waiting);
            // Ends the turn of this task, which may ask its channels only so often in one.
            tokio::task::yield_now().await;
        }
        (answers, rounds)
    }

    #[tokio::test]
    async fn a_window_behind_a_command_that_was_held_up_catches_up_at_once() {
        let log = Log::default();
        let (answers, rounds) = pipeline(&log, 48).await;
        assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
        assert_eq!(
            *log.entries.borrow(),
            (1..=48).map(Cid).collect::<Vec<_>>(),
            "in the order in which they were sent"
        );
        assert_eq!((rounds, log.submissions.get()), (2, 48 + 47), "not one round trip for each");
    }

    #[tokio::test]
    async fn what_follows_a_command_that_is_refused_for_good_goes_on_without_it() {
        let log = Log { refuses: Some(Cid(3)), ..Log::default() };
        let (answers, _) = pipeline(&log, 10).await;
        let refused: Vec<Cid> = answers.iter().filter(|(_, answer)| answer.is_err()).map(|(cid, _)| *cid).collect();
        assert_eq!(refused, [Cid(3)]);
        assert_eq!(*log.entries.borrow(), (1..=10).filter(|n| *n != 3).map(Cid).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn nothing_overtakes_a_command_that_may_be_sent_again() {
        let log = Log { loses: Some(Cid(3)), ..Log::default() };
        let (answers, _) = pipeline(&log, 10).await;
        for (cid, answer) in answers {
            let code = answer.err().map(|error| error.code);
            let wanted = match cid.0 {
                1 | 2 => None,
                3 => Some(ErrorCode::Unavailable),
                _ => Some(ErrorCode::OutOfOrder),
            };
            assert_eq!(code, wanted, "{cid:?}");
        }
        assert_eq!(*log.entries.borrow(), [Cid(1), Cid(2)]);
    }

    #[tokio::test]
    async fn a_window_that_is_refused_or_cut_off_is_not_handed_in_over_and_over() {
        let count = 64;
        for log in [Log { refuses_all: true, ..Log::default() }, Log { loses: Some(Cid(1)), ..Log::default() }] {
            let (answers, _) = pipeline(&log, count).await;
            assert!(answers.len() == count as usize && answers.iter().all(|(_, answer)| answer.is_err()));
            assert!(log.entries.borrow().is_empty());
            assert!(log.submissions.get() <= 4 * count as usize, "{} for {count} commands", log.submissions.get());
        }
    }

    #[tokio::test]
    async fn one_that_is_refused_costs_those_behind_it_little() {
        let log = Log { refuses: Some(Cid(3)), ..Log::default() };
        let (_, rounds) = pipeline(&log, 48).await;
        assert!(rounds <= 5 && log.submissions.get() <= 4 * 48, "{rounds} rounds, {}", log.submissions.get());
    }

    #[tokio::test]
    async fn nothing_overtakes_it_across_a_command_that_is_refused_for_good() {
        let (log, mut sends) = (Log { refuses: Some(Cid(2)), ..Log::default() }, Sends::default());
        drop(sends.enter(&conv(), Cid(1)));
        let (second, third) = (sends.enter(&conv(), Cid(2)), sends.enter(&conv(), Cid(3)));
        let mut refused = pin!(second.run(None, |ask| log.submit(Cid(2), ask)));
        let mut later = pin!(third.run(None, |ask| log.submit(Cid(3), ask)));
        assert!(futures::poll!(refused.as_mut()).is_pending());
        log.take(log.waiting.take());
        assert_eq!(refused.await.err().map(|error| error.code), Some(ErrorCode::NotMember));
        assert!(futures::poll!(later.as_mut()).is_pending());
        log.take(log.waiting.take());
        assert_eq!(later.await.err().map(|error| error.code), Some(ErrorCode::OutOfOrder));
    }

    /// 1. One is held up (its leader has just changed), 2. the next one is refused at once, for want of room, and leaves,
    /// 3. the third must not overtake the first, of which nobody was told anything.
    #[tokio::test]
    async fn what_ends_early_does_not_hide_what_came_before_it() {
        let (log, mut sends) = (Log::default(), Sends::default());
        let (first, second) = (sends.enter(&conv(), Cid(1)), sends.enter(&conv(), Cid(2)));
        let mut held_up = pin!(first.run(None, |ask| log.submit(Cid(1), ask)));
        assert!(futures::poll!(held_up.as_mut()).is_pending());
        let waiting = log.waiting.take();
        let refused =
            second.run(None, async |_| Err(ErrorBody { retryable: true, ..ErrorBody::new(ErrorCode::Overloaded, "") }));
        assert_eq!(refused.await.err().map(|error| error.code), Some(ErrorCode::Overloaded));
        sends.leave(&conv(), Cid(2));
        let third = sends.enter(&conv(), Cid(3));
        let mut later = pin!(third.run(None, |ask| log.submit(Cid(3), ask)));
        assert!(futures::poll!(later.as_mut()).is_pending());
        log.take(log.waiting.take());
        assert!(log.entries.borrow().is_empty(), "it names the first one");
        log.take(waiting);
        assert!(held_up.await.is_ok());
        sends.leave(&conv(), Cid(1));
        while futures::poll!(later.as_mut()).is_pending() {
            log.take(log.waiting.take());
        }
        assert_eq!(*log.entries.borrow(), [Cid(1), Cid(3)]);
        sends.leave(&conv(), Cid(3));
        assert!(sends.under_way.is_empty());
    }

    #[tokio::test]
    async fn a_command_that_was_given_up_holds_up_nobody() {
        let conv = conv();
        let (log, mut sends) = (Log::default(), Sends::default());
        drop(sends.enter(&conv, Cid(1)));
        let ticket = sends.enter(&conv, Cid(2));
        let mut job = pin!(ticket.run(None, |ask| log.submit(Cid(2), ask)));
        assert!(futures::poll!(job.as_mut()).is_pending());
        log.take(log.waiting.take());
        assert_eq!(job.await.err().map(|error| error.code), Some(ErrorCode::OutOfOrder));
    }
}
