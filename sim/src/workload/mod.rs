//! Users with a device each, and what they do: messages in direct conversations and in groups, pipelined, and changes.
//!
//! - `person` a device on its machine, which may stand still or die · `talk` what one of them does · `beside` what it does
//!   beside: bursts, pages, names · `asks` reads while a leader is deposed · `web` requests without an outbox · `places` the same device twice
//!   · `strange` a client that keeps to no rule · `comers` people who log in by code · `acts` settings, profiles, contacts, blocks · `late` what has not happened yet
//!   · `names` who is named in messages · `watching` whose receipts are watched · `shown` what of it has really happened
//!
//! Invariant: everything goes through the real client over its own simulated machine; what happened is in its history.

mod acts;
mod asks;
mod beside;
mod comers;
mod late;
mod names;
mod person;
mod places;
mod shown;
mod strange;
mod talk;
mod watching;
mod web;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use flotilla_client::device::{message, random_cid};
use flotilla_client::history::Recorder;
use flotilla_proto::entry::HistoryAccess;
use flotilla_proto::frame::Target;
use flotilla_proto::ids::{Cid, ConvId, ConvKind, UserId};

use crate::cluster::Cluster;
use crate::options::Options;
pub use person::Person;
pub use shown::Shown;
pub use strange::Stranger;
use talk::Plan;

/// So long a stranger may take for what it has not shown yet.
const CALMS: Duration = Duration::from_secs(30);

/// Conversations and who is in them.
pub struct Chat {
    pub people: Vec<Arc<Person>>,
    /// With those who were in them at first.
    pub convs: Vec<(ConvId, Vec<usize>)>,
    /// Who made a group.
    owners: BTreeMap<ConvId, usize>,
    /// Members of groups come and go.
    pub changing: bool,
    /// Who is there is asked in the end.
    pub watched: bool,
    /// Messages name people, who look for that.
    pub naming: bool,
    pub strangers: Vec<Stranger>,
    /// What of the load has happened.
    pub shown: Shown,
}

impl Chat {
    /// Accounts, devices, groups.
    pub async fn open(options: &Options, cluster: &Cluster, recorder: &Recorder) -> anyhow::Result<Self> {
        let (mut people, shown) = (Vec::new(), Shown::default());
        let (watch, seen) = (cluster.watch.clone(), shown.clone());
        recorder.tap(move |record| {
            watch.on_record(record);
            if places::is_takeover(record) {
                seen.add("places");
            }
        });
        for index in 0..options.users {
            people.push(Arc::new(Person::enter(index, cluster.urls(), recorder.clone(), shown.clone()).await?));
        }
        let (mut convs, mut owners) = (Vec::new(), BTreeMap::new());
        for a in 0..people.len() {
            for b in a + 1..people.len() {
                convs.push((ConvId::direct(&people[a].user, &people[b].user), vec![a, b]));
            }
        }
        let mut strangers = Vec::new();
        for index in 0..options.load.strangers {
            let others = convs.iter().map(|(conv, _)| conv.clone()).collect();
            let (urls, recorder) = (cluster.urls(), recorder.clone());
            strangers.push(Stranger::enter(index, options.seed, urls, recorder, shown.clone(), others).await?);
        }
        for number in 0..options.groups {
            let creator = number % people.len();
            let others = people.iter().enumerate().filter(|(i, _)| *i != creator).map(|(_, p)| p.user.clone());
            let others = others.chain(strangers.iter().map(|stranger| stranger.user.clone())).collect();
            let conv = make_group(&people[creator], others).await.context("a group cannot be made")?;
            owners.insert(conv.clone(), creator);
            convs.push((conv, (0..people.len()).collect()));
        }
        for number in 0..options.channels {
            // Not the one who has made the first group.
            let creator = people.len() - 1 - number % people.len();
            let others = people.iter().enumerate().filter(|(i, _)| *i != creator).map(|(_, p)| p.user.clone());
            let others: Vec<UserId> = others.chain(strangers.iter().map(|stranger| stranger.user.clone())).collect();
            let handle = people[creator].handle();
            let made = handle.create_channel(random_cid(), "channel", &others, HistoryAccess::FromJoin).await;
            let conv = made.context("a channel cannot be made")?;
            owners.insert(conv.clone(), creator);
            convs.push((conv, (0..people.len()).collect()));
        }
        for number in 0..options.second_devices.min(options.users) {
            let (index, user) = (people.len(), people[number].user.clone());
            let person = Person::enter_again(index, &user, cluster.urls(), recorder.clone(), shown.clone()).await?;
            people.push(Arc::new(person));
        }
        let (changing, watched) = (options.change_percent > 0, options.load.presence > 0);
        let naming = options.load.mentions > 0;
        Ok(Self { people, convs, owners, changing, watched, naming, strangers, shown })
    }

    /// Sends everything; returns when all of it is in the outboxes, answered or not.
    pub async fn send_all(&self, options: &Options) -> anyhow::Result<()> {
        let users: Vec<UserId> = self.people.iter().map(|person| person.user.clone()).collect();
        let mut tasks = Vec::new();
        // A second device only listens and acks.
        for (index, person) in self.people.iter().enumerate().take(options.users) {
            let share = options.sends / options.users + usize::from(index < options.sends % options.users);
            let mine = self.convs.iter().filter(|(_, members)| members.contains(&index));
            let (groups, directs): (Vec<ConvId>, Vec<ConvId>) =
                mine.map(|(conv, _)| conv.clone()).partition(|conv| conv.peers().is_none());
            let owns = |conv: &&ConvId| self.owners.get(*conv) == Some(&index);
            let own = groups.iter().find(owns).cloned();
            let plan = Plan { index, share, groups, directs, own, users: users.clone(), options: options.clone() };
            tasks.push(tokio::spawn(talk::run(person.clone(), plan)));
        }
        for task in tasks {
            task.await?;
        }
        Ok(())
    }

    /// The number of the user whose device this is: second ones stand behind those of all users.
    pub fn user_of(&self, device: usize) -> usize {
        let user = &self.people[device].user;
        self.people.iter().position(|person| person.user == *user).unwrap_or(device)
    }

    /// One more message from everybody to every conversation; the cids of those that must be accepted.
    pub async fn send_fresh(&self) -> anyhow::Result<Vec<Cid>> {
        let mut cids = Vec::new();
        for (conv, members) in &self.convs {
            for person in members.iter().map(|index| &self.people[*index]) {
                let ticket = person.handle().submit(target_of(&person.user, conv), message("fresh")).await?;
                if self.may_write(conv) {
                    cids.push(ticket.cid);
                }
            }
        }
        Ok(cids)
    }

    /// Everybody who was in it. Somebody may have left a group whose members change, and in a channel few may write.
    fn may_write(&self, conv: &ConvId) -> bool {
        conv.peers().is_some() || !self.changing && conv.kind() == ConvKind::Group
    }

    /// One message to one conversation, by its first member that may write there for sure.
    pub async fn whisper(&self, conv: usize) -> anyhow::Result<()> {
        let mut from = self.convs.iter().cycle().skip(conv).take(self.convs.len());
        let (conv, members) = from.find(|(conv, _)| self.may_write(conv)).context("nobody to talk to")?;
        let person = &self.people[members[0]];
        person.handle().submit(target_of(&person.user, conv), message("psst")).await?;
        Ok(())
    }

    /// The user's machine stands still: nothing is read, nothing acked.
    pub async fn silence(&self, cluster: &Cluster, user: usize, lasts: Duration) {
        if let Some(person) = self.people.get(user) {
            cluster.say(format!("stops the machine of {}", person.user));
            person.pause();
            tokio::time::sleep(lasts).await;
            person.resume();
        }
    }

    /// The user's process dies, and comes back on its store.
    pub async fn crash(&self, cluster: &Cluster, user: usize, lasts: Duration) {
        if let Some(person) = self.people.get(user) {
            cluster.say(format!("kills the client of {}", person.user));
            person.is_away(lasts.min(Duration::from_secs(3))).await;
            cluster.say(format!("starts the client of {}", person.user));
        }
    }
}

async fn make_group(creator: &Person, others: Vec<UserId>) -> anyhow::Result<ConvId> {
    let handle = creator.handle();
    Ok(handle.create_group(random_cid(), "group", &others, HistoryAccess::FromJoin).await?)
}

fn target_of(user: &UserId, conv: &ConvId) -> Target {
    match conv.peer_of(user) {
        Some(peer) => Target::User(peer),
        None => Target::Conv(conv.clone()),
    }
}
