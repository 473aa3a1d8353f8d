//! What of the load has not happened while things broke happens once everything is healed: what was drawn can always happen.

use std::sync::Arc;
use std::time::Duration;

use flotilla_client::device::{message, random_cid};
use flotilla_client::history::Op;
use flotilla_proto::frame::History;
use flotilla_proto::ids::ConvId;
use tokio::time::{Instant, sleep};

use super::talk::Plan;
use super::{CALMS, Chat, Person, acts, make_group, target_of};
use crate::cluster::Cluster;
use crate::options::{Options, stream};

/// So often each part is tried.
const TRIES: usize = 8;
const PAUSE: Duration = Duration::from_secs(2);
/// So long somebody is waited for who is about to be replaced by a second place.
const CONNECTS: Duration = Duration::from_secs(20);

impl Chat {
    /// Everything is healed and nobody is anywhere else: whose device was stopped by a second place opens it again, and
    /// strangers show what they have not shown yet.
    pub async fn settles(&self) {
        for person in &self.people {
            person.comes_back().await;
        }
        if self.people.iter().any(|person| person.is_torn()) {
            // Some hear only now that another place has taken the session.
            sleep(PAUSE).await;
            for person in &self.people {
                person.comes_back().await;
            }
        }
        for stranger in &self.strangers {
            stranger.calms(&self.shown, CALMS).await;
        }
    }

    /// The cluster serves again: what the options ask for and nobody has seen is done, somebody
    /// new is let in, and blocks are lifted.
    pub async fn catches_up(&self, options: &Options, cluster: &Cluster) {
        self.somebody_comes(options, cluster).await;
        for part in options.load.parts() {
            for number in 0..TRIES {
                if self.shown.counts().contains_key(part) {
                    break;
                }
                if number > 0 {
                    sleep(PAUSE).await;
                }
                self.makes_up(part, number, options, cluster).await;
            }
        }
        self.makes_peace(options).await;
    }

    async fn makes_up(&self, part: &'static str, number: usize, options: &Options, cluster: &Cluster) {
        let person = &self.people[number % options.users];
        let directs = self.convs.iter().map(|(conv, _)| conv).filter(|conv| conv.peer_of(&person.user).is_some());
        let directs: Vec<ConvId> = directs.cloned().collect();
        let conv = &directs[number % directs.len()];
        match part {
            "burst" => {
                for at in 0..options.load.burst {
                    let what = message(format!("{} late burst {at}", person.user));
                    if person.handle().submit(target_of(&person.user, conv), what).await.is_err() {
                        return;
                    }
                }
                self.shown.add("burst");
            }
            "retry" | "other-body" => {
                let body = format!("{} late {number}", person.user);
                person.sends(conv, &body, options.load.other_body > 0).await;
            }
            "paging" => self.pages(person).await,
            "rename" => self.renames(person).await,
            "places" => self.second_place_of(person, options, cluster).await,
            // Strangers are seen to when they calm down.
            "strange-acks" | "late-acks" | "old-hellos" => {}
            "mentions" => self.names_somebody(person, conv).await,
            "receipts" => {
                let groups = self.convs.iter().map(|(conv, _)| conv).filter(|conv| conv.peers().is_none());
                person.watching.wants(groups.cloned().collect());
                person.watching.asks(&person.handle()).await;
            }
            // See `somebody_comes`.
            "codes" => {}
            act => {
                let mut rng = stream(options.seed, 41 + number as u64);
                let users = self.people.iter().take(options.users).map(|person| person.user.clone()).collect();
                let index = number % options.users;
                let plan =
                    Plan { index, share: 0, groups: vec![], directs, own: None, users, options: options.clone() };
                if let Some(act) = acts::draw(&mut rng, act, person, &plan, number).await {
                    person.insists(act).await;
                }
            }
        }
    }

    async fn pages(&self, person: &Arc<Person>) {
        let handle = person.handle();
        for (conv, _) in self.convs.iter().filter(|(conv, _)| conv.peer_of(&person.user).is_some()) {
            let Some(status) = handle.status().await else { return };
            let stored = status.positions.get(conv).copied().unwrap_or_default();
            let ask = History { conv: conv.clone(), before: None, after: None, around: None, limit: Some(30) };
            let Ok(page) = handle.history(ask.clone()).await else { continue };
            if !page.entries.is_empty() {
                self.shown.add("paging");
            }
            let web = &person.web;
            web.recorder.record(&web.label, &web.user, Op::Page { ask, stored, page: Box::new(page) });
        }
    }

    /// Whoever may still name a group does; else somebody makes one more, and may.
    async fn renames(&self, person: &Arc<Person>) {
        for (conv, _) in self.convs.iter().filter(|(conv, _)| conv.peers().is_none()) {
            for person in &self.people {
                if person.handle().rename_group(random_cid(), conv, "named in the end").await.is_ok() {
                    return self.shown.add("rename");
                }
            }
        }
        let others = self.people.iter().filter(|other| other.user != person.user).map(|other| other.user.clone());
        // A second device is of a user that has one already.
        let others = others.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        let Ok(conv) = make_group(person, others).await else { return };
        if person.handle().rename_group(random_cid(), &conv, "named in the end").await.is_ok() {
            self.shown.add("rename");
        }
    }

    /// Somebody is there who hears of it.
    async fn second_place_of(&self, person: &Arc<Person>, options: &Options, cluster: &Cluster) {
        person.comes_back().await;
        let end = Instant::now() + CONNECTS;
        while Instant::now() < end && !person.handle().status().await.is_some_and(|status| status.caught_up) {
            sleep(Duration::from_millis(50)).await;
        }
        let mut rng = stream(options.seed, 5);
        cluster.say(format!("opens the device of {} in a second place", person.user));
        self.second_place(&mut rng, person).await;
        cluster.say(format!("ends the second place of {}", person.user));
        person.comes_back().await;
        // It may be on its way to hear that the other place has taken the session.
        sleep(PAUSE).await;
        person.comes_back().await;
    }
}
