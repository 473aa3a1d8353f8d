//! What a person does beside writing message after message: bursts, pages of history, names, sends without the outbox.
//!
//! A stream of random numbers of its own, so that the messages of a seed are the same with and without it. Each part that is
//! on has its turn once in any case, in the middle of the work.

use std::sync::Arc;

use flotilla_client::device::{message, random_cid};
use flotilla_client::history::Op;
use flotilla_proto::frame::History;
use flotilla_proto::ids::{ConvId, Seq};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;

use super::talk::Plan;
use super::{Person, acts, target_of, watching};
use crate::options::{Load, stream};

/// Of the commands of a device, in hundredths: beside so many stands a burst.
const BURSTS: u32 = 3;
/// What the part `people` of the load is made of.
const PEOPLE: [&str; 4] = ["profile", "contact", "device", "report"];

pub struct Beside<'a> {
    person: &'a Arc<Person>,
    plan: &'a Plan,
    rng: StdRng,
    /// For what is settled: it changes nothing that the other one draws.
    acts: StdRng,
    /// For looks at who is named.
    looks: StdRng,
    /// For lists of conversations whose receipts are watched.
    watches: StdRng,
    /// What goes on while the person writes.
    under_way: Vec<JoinHandle<()>>,
}

impl<'a> Beside<'a> {
    pub fn new(person: &'a Arc<Person>, plan: &'a Plan) -> Self {
        let rng = stream(plan.options.seed, 16 + plan.index as u64);
        let acts = stream(plan.options.seed, 48 + plan.index as u64);
        let looks = stream(plan.options.seed, 96 + plan.index as u64);
        let watches = stream(plan.options.seed, 210 + plan.index as u64);
        Self { person, plan, rng, acts, looks, watches, under_way: Vec::new() }
    }

    /// After the message of this number.
    pub async fn turn(&mut self, number: usize) {
        let Load { burst, retry, other_body, paging, rename, .. } = self.plan.options.load;
        let half = number == self.plan.share / 2;
        let mut is_due = |percent: u32| (self.rng.random_range(0..100) < percent) | (percent > 0 && half);
        let due = (is_due(if burst > 0 { BURSTS } else { 0 }), is_due(retry), is_due(paging), is_due(rename));
        if due.0 {
            self.burst(burst, number).await;
        }
        if due.1 {
            let again = half || self.rng.random_range(0..100) < other_body;
            self.retry(number, again && other_body > 0);
        }
        if due.2 {
            self.page().await;
        }
        if due.3 {
            self.rename(number, half);
        }
        self.settles(number, half).await;
        let mentions = self.plan.options.load.mentions;
        if (self.looks.random_range(0..100) < mentions) | (mentions > 0 && half) {
            self.looks();
        }
        let receipts = self.plan.options.load.receipts;
        if (self.watches.random_range(0..100) < receipts) | (receipts > 0 && half) {
            self.watches();
        }
    }

    /// Another list than before.
    fn watches(&mut self) {
        let person = self.person.clone();
        person.watching.wants(watching::draw(&mut self.watches, &self.plan.groups, &self.plan.directs));
        self.under_way.push(tokio::spawn(async move { person.watching.asks(&person.handle()).await }));
    }

    /// Through any node; half of the time what is seen is read.
    fn looks(&mut self) {
        let urls = &self.person.web.urls;
        let (url, reads) = (urls[self.looks.random_range(0..urls.len())].clone(), self.looks.random_bool(0.5));
        let person = self.person.clone();
        self.under_way.push(tokio::spawn(async move { person.looks(&url, reads).await }));
    }

    /// Settings, profiles, contacts, blocks and so on, see `acts`.
    async fn settles(&mut self, number: usize, half: bool) {
        let Load { settings, people, block, presence, .. } = self.plan.options.load;
        let parts = [("settings", settings), ("people", people), ("block", block), ("privacy", presence)];
        for (part, percent) in parts {
            let due = (self.acts.random_range(0..100) < percent) | (percent > 0 && half);
            let any = PEOPLE[self.acts.random_range(0..PEOPLE.len())];
            if !due {
                continue;
            }
            let part = if part == "people" { any } else { part };
            let Some(act) = acts::draw(&mut self.acts, part, self.person, self.plan, number).await else { continue };
            let web = self.person.web.clone();
            let url = web.urls[self.acts.random_range(0..web.urls.len())].clone();
            self.under_way.push(self.person.browse(async move {
                web.does(&url, &act).await;
            }));
        }
    }

    /// Everything that was begun has ended.
    pub async fn end(self) {
        for task in self.under_way {
            // A browser is not killed.
            let _ = task.await;
        }
    }

    fn conv(&mut self) -> ConvId {
        let convs: Vec<&ConvId> = self.plan.groups.iter().chain(&self.plan.directs).collect();
        convs[self.rng.random_range(0..convs.len())].clone()
    }

    async fn burst(&mut self, messages: usize, number: usize) {
        let (conv, user) = (self.conv(), &self.person.user);
        let handle = self.person.handle();
        for part in 0..messages {
            let body = format!("{user} {number} burst {part}");
            if handle.submit(target_of(user, &conv), message(body)).await.is_err() {
                return;
            }
        }
        self.person.web.shown.add("burst");
    }

    fn retry(&mut self, number: usize, again: bool) {
        let (conv, cid, web) = (self.conv(), random_cid(), self.person.web.clone());
        let body = format!("{} {number} without an outbox", web.user);
        let work = async move {
            if web.send(cid, &conv, &body).await && again {
                web.again(cid, &conv, &body).await;
            }
        };
        self.under_way.push(self.person.browse(work));
    }

    /// Between a send and the next: others write on.
    async fn page(&mut self) {
        let (conv, handle) = (self.conv(), self.person.handle());
        let Some(status) = handle.status().await else { return };
        let stored = status.positions.get(&conv).copied().unwrap_or_default();
        let some = Seq(self.rng.random_range(0..=stored.0 + 1));
        let mut ask = History { conv, before: None, after: None, around: None, limit: None };
        match self.rng.random_range(0..4) {
            0 => ask.before = Some(some.next()),
            1 => ask.after = Some(some),
            2 => ask.around = Some(some.next()),
            _ => {}
        }
        ask.limit = self.rng.random_bool(0.7).then(|| self.rng.random_range(1..=60));
        let (web, asked) = (self.person.web.clone(), ask.clone());
        // It may take as long as the faults do.
        self.under_way.push(tokio::spawn(async move {
            let Ok(page) = handle.history(ask).await else { return };
            if !page.entries.is_empty() {
                web.shown.add("paging");
            }
            web.recorder.record(&web.label, &web.user, Op::Page { ask: asked, stored, page: Box::new(page) });
        }));
    }

    /// Of the own group, or of any: then it is the server's to refuse.
    fn rename(&mut self, number: usize, own: bool) {
        let any = (!self.plan.groups.is_empty()).then(|| self.rng.random_range(0..self.plan.groups.len()));
        let own = self.plan.own.clone().filter(|_| own);
        let Some(conv) = own.or_else(|| any.map(|at| self.plan.groups[at].clone())) else { return };
        let (handle, shown) = (self.person.handle(), self.person.web.shown.clone());
        let name = format!("named by {} after {number}", self.person.user);
        self.under_way.push(tokio::spawn(async move {
            if handle.rename_group(random_cid(), &conv, &name).await.is_ok() {
                shown.add("rename");
            }
        }));
    }
}
