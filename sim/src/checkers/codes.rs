//! One-time codes (docs/server.md): a code lets in one request and no other, never after five wrong tries, never when it has
//! expired, and the request that it let in again if its answer was lost; an address has one account, an install of it one
//! device, and no two addresses share either.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_client::history::Record;
use flotilla_machine::meta::ClockTable;
use flotilla_machine::user::code::{CodeRow, CodeTable};
use flotilla_proto::ids::{AgeMs, Cid};
use flotilla_proto::limits;

use super::{Checker, Event, Site, World};
use crate::codes::{How, Step};

/// A request for a code whose attempts all began within this time has made one code: the next one has to wait for longer.
const ASKED_US: u64 = 15_000_000;
/// Well below the life of a code: clocks of nodes may drift.
const YOUNG_US: u64 = 120_000_000;

#[derive(Default)]
pub struct Codes {
    addresses: BTreeMap<String, Address>,
    /// The addresses of tries that have not ended.
    open: BTreeMap<Cid, String>,
    /// Whose an account is.
    users: BTreeMap<String, String>,
}

/// What is known of one address. Times are places in the history.
#[derive(Default)]
struct Address {
    requests: BTreeSet<Cid>,
    /// When a code was first asked for, and last; microseconds.
    asked: Option<(u64, u64)>,
    brought: BTreeMap<String, usize>,
    tries: Vec<Try>,
    user: Option<String>,
    /// By install.
    devices: BTreeMap<String, String>,
    now: usize,
}

struct Try {
    id: Cid,
    code: String,
    request: Cid,
    install: String,
    began: usize,
    /// Where it ended, as far as that is known.
    ended: Option<(usize, How)>,
}

impl Try {
    fn was_wrong(&self, from: usize, to: usize) -> bool {
        self.began > from && matches!(&self.ended, Some((at, How::Wrong)) if *at < to)
    }

    fn was_in(&self) -> bool {
        matches!(&self.ended, Some((_, How::In { .. })))
    }
}

impl Checker for Codes {
    fn promise(&self) -> &'static str {
        "one-time codes"
    }

    fn on_event(&mut self, _: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { shard, rows, .. } = event else { return Ok(0) };
        // Whatever the batch holds was applied between these two.
        let Some((_, Some(first), Some(last))) = rows.iter().find_map(|row| row.of::<ClockTable>()) else {
            return Ok(0);
        };
        rows.iter()
            .filter_map(|row| row.of::<CodeTable>())
            .try_fold(0, |sum, (user, old, new)| {
                let changed = old.map_or(Ok(()), |old| row(&old, new.as_ref(), first.age, last.age));
                changed.map(|()| sum + 1).map_err(|what| format!("{user}: {what}"))
            })
            .map_err(|what| format!("node {}, shard {shard}: {what}", site.node))
    }

    fn on_record(&mut self, _: &World, record: &Record) -> Result<u64, String> {
        match Step::of(record) {
            None => Ok(0),
            Some(Step::Asks { address, request }) => {
                let known = self.of(&address);
                known.requests.insert(request);
                known.asked = Some((known.asked.map_or(record.at_us, |(first, _)| first), record.at_us));
                Ok(0)
            }
            Some(Step::Brought { address, code }) => {
                let known = self.of(&address);
                known.brought.entry(code).or_insert(known.now);
                Ok(0)
            }
            Some(Step::Tries { id, address, code, request, install }) => {
                self.open.insert(id, address.clone());
                let known = self.of(&address);
                let began = known.now;
                known.tries.push(Try { id, code, request, install, began, ended: None });
                Ok(0)
            }
            Some(Step::Ends { id, how }) => {
                let Some(address) = self.open.remove(&id) else { return Ok(0) };
                self.ends(&address, id, &how, record.at_us).map_err(|what| format!("{address}: {what}"))
            }
        }
    }
}

impl Codes {
    fn of(&mut self, address: &str) -> &mut Address {
        let known = self.addresses.entry(address.to_owned()).or_default();
        known.now += 1;
        known
    }

    fn ends(&mut self, address: &str, id: Cid, how: &How, at_us: u64) -> Result<u64, String> {
        let known = self.of(address);
        let now = known.now;
        let Some(at) = known.tries.iter().position(|tried| tried.id == id) else { return Ok(0) };
        known.tries[at].ended = Some((now, how.clone()));
        match how {
            How::Unknown => Ok(0),
            How::Wrong => known.wrong(at, at_us),
            How::In { user, device } => {
                known.lets_in(at)?;
                known.is_same(at, user, device)?;
                let of = self.users.entry(user.clone()).or_insert_with(|| address.to_owned());
                if of == address { Ok(1) } else { Err(format!("it is let in as {user}, who came by {of}")) }
            }
        }
    }
}

impl Address {
    fn lets_in(&self, at: usize) -> Result<(), String> {
        let this = &self.tries[at];
        let code = &this.code;
        let Some(brought) = self.brought.get(code) else {
            return Err(format!("{code} lets somebody in, and was brought to nobody"));
        };
        let alike = || self.tries.iter().filter(|tried| tried.code == *code);
        if let Some(other) = alike().find(|other| other.request != this.request && other.was_in()) {
            return Err(format!("{code} works twice: for request {} and for {}", other.request, this.request));
        }
        let wrong: Vec<&Try> =
            self.tries.iter().filter(|tried| tried.code != *code && tried.was_wrong(*brought, this.began)).collect();
        let most = usize::from(limits::CODE_TRIES_MAX);
        let Some(last) = wrong.iter().filter_map(|tried| tried.ended.as_ref()).map(|(end, _)| *end).max() else {
            return Ok(());
        };
        // What it had let in before them it lets in again.
        let repeated = alike().any(|earlier| earlier.request == this.request && earlier.began < last);
        if wrong.len() >= most && !repeated {
            return Err(format!("{code} lets somebody in after {} wrong tries", wrong.len()));
        }
        Ok(())
    }

    fn is_same(&mut self, at: usize, user: &str, device: &str) -> Result<(), String> {
        let known = self.user.get_or_insert_with(|| user.to_owned());
        if known != user {
            return Err(format!("it has two accounts: {known} and {user}"));
        }
        let install = &self.tries[at].install;
        let known = self.devices.entry(install.clone()).or_insert_with(|| device.to_owned());
        if known == device { Ok(()) } else { Err(format!("{install} has two devices: {known} and {device}")) }
    }

    /// A code that nothing has ended, and that nobody else has tried.
    fn wrong(&self, at: usize, at_us: u64) -> Result<u64, String> {
        let this = &self.tries[at];
        let Some((first, last)) = self.asked.filter(|_| self.brought.contains_key(&this.code)) else { return Ok(1) };
        let one_code = self.requests.len() == 1 && last - first < ASKED_US && at_us - first < YOUNG_US;
        let rivals = self.tries.iter().any(|tried| tried.code == this.code && tried.request != this.request);
        let others = self.tries.iter().filter(|tried| tried.code != this.code).count();
        if one_code && !rivals && others < usize::from(limits::CODE_TRIES_MAX) {
            return Err(format!("{} was brought, lives, and is refused to request {}", this.code, this.request));
        }
        Ok(1)
    }
}

/// It was changed by something that was applied between `first` and `last`.
fn row(old: &CodeRow, new: Option<&CodeRow>, first: AgeMs, last: AgeMs) -> Result<(), String> {
    let (at, code) = *old.issued.last().ok_or("it has a row without a code")?;
    let Some(new) = new else {
        // Rows go for the sake of others' codes; by then no limit needs them.
        let since = last.0.saturating_sub(at.0);
        return if since < limits::CODE_ROW_MS { Err(format!("forgotten after {since} ms")) } else { Ok(()) };
    };
    let since = first.0.saturating_sub(at.0);
    let (newer, next) = *new.issued.last().ok_or("it has a row without a code")?;
    if (newer, next) != (at, code) {
        if newer.0 < at.0 + limits::CODE_PAUSE_MS {
            return Err(format!("a code is issued {} ms after the one before it", newer.0.saturating_sub(at.0)));
        }
        if old.issued.iter().any(|(_, old)| *old == next) {
            return Err("a code is issued twice".into());
        }
        let hour = new.issued.iter().filter(|(issued, _)| newer.0 - issued.0 < limits::HOUR_MS).count();
        return if hour > limits::CODES_PER_HOUR { Err(format!("{hour} codes are issued in an hour")) } else { Ok(()) };
    }
    if new.tries < old.tries || new.tries > limits::CODE_TRIES_MAX {
        return Err(format!("a code with {} wrong tries has {} now", old.tries, new.tries));
    }
    match (old.used, new.used) {
        (None, Some(_)) if old.tries >= limits::CODE_TRIES_MAX => Err("a code is used after the last wrong try".into()),
        (None, Some(_)) if since >= limits::CODE_LIFE_MS => Err(format!("a code is used after {since} ms")),
        (Some(first), now) if now != Some(first) => Err(format!("a code that {first} has used is used by {now:?}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_machine::meta::Clock;
    use flotilla_proto::ids::Hash32;

    use super::super::testkit::{Bench, Raw, raw, user};
    use super::*;

    const PROMISE: &str = "one-time codes";

    fn bench() -> Bench {
        Bench::new(vec![Box::new(Codes::default())])
    }

    /// Ann is brought a code; then these: code, request, install, how it ends.
    fn story(tries: &[(&str, u128, &str, How)]) -> Bench {
        let mut bench = bench();
        let address = || "ann@example.com".to_owned();
        bench.notes("ann", Step::Asks { address: address(), request: Cid(1) }.op());
        bench.notes("ann", Step::Brought { address: address(), code: "123456".into() }.op());
        for (n, (code, request, install, how)) in tries.iter().enumerate() {
            let (code, install, id) = ((*code).to_owned(), (*install).to_owned(), Cid(100 + n as u128));
            bench.notes("ann", Step::Tries { id, address: address(), code, request: Cid(*request), install }.op());
            bench.notes("ann", Step::Ends { id, how: how.clone() }.op());
        }
        bench
    }

    fn into(user: &str, device: &str) -> How {
        How::In { user: user.into(), device: device.into() }
    }

    #[test]
    fn a_code_that_works_twice_and_one_that_is_refused_are_seen() {
        let (right, wrong) = ("123456", "654321");
        story(&[(wrong, 2, "a", How::Wrong), (right, 3, "a", into("e.1", "d1")), (right, 3, "a", into("e.1", "d1"))])
            .holds();
        story(&[(right, 3, "a", into("e.1", "d1")), (right, 4, "b", How::Wrong)]).holds();
        story(&[(right, 3, "a", into("e.1", "d1")), (right, 4, "b", into("e.1", "d2"))]).violates(PROMISE);
        story(&[(wrong, 3, "a", into("e.1", "d1"))]).violates(PROMISE);
        story(&[(right, 3, "a", How::Wrong)]).violates(PROMISE);
        story(&[(right, 3, "a", How::Unknown), (right, 3, "a", How::Wrong)]).violates(PROMISE);
    }

    #[test]
    fn a_code_that_works_after_five_wrong_tries_is_seen() {
        let guesses = |count: u128| (0..count).map(|n| ("654321", 10 + n, "a", How::Wrong)).collect::<Vec<_>>();
        let then = |count, how| [guesses(count), vec![("123456", 3, "a", how)]].concat();
        story(&then(4, into("e.1", "d1"))).holds();
        story(&then(5, How::Wrong)).holds();
        story(&then(5, into("e.1", "d1"))).violates(PROMISE);
        let before = [vec![("123456", 3, "a", How::Unknown)], then(5, into("e.1", "d1"))].concat();
        story(&before).holds();
    }

    #[test]
    fn two_accounts_or_two_devices_where_there_is_one_are_seen() {
        let twice = |user: &str, device: &str| {
            story(&[("123456", 3, "a", into("e.1", "d1")), ("123456", 3, "a", into(user, device))])
        };
        twice("e.1", "d1").holds();
        twice("e.2", "d1").violates(PROMISE);
        twice("e.1", "d2").violates(PROMISE);
    }

    fn code(issued: &[u64], tries: u8, used: Option<u128>) -> Raw {
        let issued = issued.iter().map(|at| (AgeMs(*at), Hash32([(*at % 251) as u8; 32]))).collect();
        raw::<CodeTable>(&user("ann"), &CodeRow { issued, request: Cid(1), repeats: 0, tries, used: used.map(Cid) })
    }

    fn clock(age: u64) -> Raw {
        raw::<ClockTable>(&(), &Clock { age: AgeMs(age), ..Clock::default() })
    }

    #[test]
    fn rows_that_the_rules_do_not_allow_are_seen() {
        let applied = |at: u64, before: Raw, after: Raw| {
            let mut bench = bench();
            bench.apply_all(1, 1, vec![before, clock(at)]);
            bench.apply_all(1, 2, vec![after, clock(at + 1)]);
            bench
        };
        const AT: u64 = 1_000;
        let young = AT + 1_000;
        applied(young, code(&[AT], 0, None), code(&[AT], 0, Some(7))).holds();
        applied(young, code(&[AT], 4, None), code(&[AT], 5, None)).holds();
        applied(young, code(&[AT], 5, None), code(&[AT], 5, Some(7))).violates(PROMISE);
        applied(young, code(&[AT], 0, None), code(&[AT], 6, None)).violates(PROMISE);
        applied(young, code(&[AT], 3, None), code(&[AT], 2, None)).violates(PROMISE);
        applied(young, code(&[AT], 0, Some(7)), code(&[AT], 0, Some(8))).violates(PROMISE);
        applied(AT + limits::CODE_LIFE_MS, code(&[AT], 0, None), code(&[AT], 0, Some(7))).violates(PROMISE);
        let later = AT + limits::CODE_PAUSE_MS;
        applied(later, code(&[AT], 5, None), code(&[AT, later], 0, None)).holds();
        applied(later, code(&[AT], 5, None), code(&[AT, later - 1], 0, None)).violates(PROMISE);
        let six: Vec<u64> = (1..=6).map(|n| n * later).collect();
        applied(six[5], code(&six[..5], 0, None), code(&six, 0, None)).violates(PROMISE);
        applied(later, code(&[AT], 0, None), (code(&[AT], 0, None).0, None)).violates(PROMISE);
    }
}
