//! Heads of many requests in one command: what a user shard is told of a conversation again before it has written the first.
//!
//! Why: a head costs each user four rows on every replica, however small its step. Those that come within a moment are one.
//!
//! Pure; knows nothing of who asked or when. Invariant: applied, it leaves what the requests would have left one by one, but for
//! the revisions in between, and that a device which registers between them is given the earlier entries too. It holds because news
//! merge by maximum, and because only news for the same users become one: whoever is not named in the later one is not told its head.

use std::collections::BTreeMap;

use flotilla_proto::ids::ConvId;

use crate::command::{Notify, NotifyUser};

/// Whether these news may wait for others: a membership part may not, it says what a user may see from now on.
pub fn may_wait(news: &Notify) -> bool {
    news.users.iter().all(|user| user.part.is_none())
}

#[derive(Debug, Default)]
pub struct Gathered {
    /// In the order in which they came, where those of one conversation are for different users.
    news: BTreeMap<ConvId, Vec<Notify>>,
}

impl Gathered {
    /// Says whether they became one with others.
    pub fn add(&mut self, news: Notify) -> bool {
        // The key is cloned for the first only.
        let Some(waiting) = self.news.get_mut(&news.conv) else {
            self.news.insert(news.conv.clone(), vec![news]);
            return false;
        };
        match waiting.iter_mut().find(|other| are_for_the_same(&other.users, &news.users)) {
            Some(other) => {
                join(other, &news);
                true
            }
            None => {
                waiting.push(news);
                false
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.news.is_empty()
    }

    pub fn take(&mut self) -> Vec<Notify> {
        std::mem::take(&mut self.news).into_values().flatten().collect()
    }
}

fn are_for_the_same(some: &[NotifyUser], others: &[NotifyUser]) -> bool {
    let is_same =
        |(one, other): (&NotifyUser, &NotifyUser)| one.user == other.user && one.part.is_none() && other.part.is_none();
    some.len() == others.len() && some.iter().zip(others).all(is_same)
}

fn join(news: &mut Notify, other: &Notify) {
    news.head = news.head.max(other.head);
    news.n_head = news.n_head.max(other.n_head);
    news.last_id = news.last_id.max(other.last_id);
    news.last_ts = news.last_ts.max(other.last_ts);
    for (user, same) in news.users.iter_mut().zip(&other.users) {
        user.n_sent = user.n_sent.max(same.n_sent);
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::*;

    use super::*;

    fn news(head: u64, users: &[&str]) -> Notify {
        let user = |name: &&str| {
            let user = UserId::parse(name).expect("valid");
            NotifyUser { user, n_sent: Count(head), part: None }
        };
        Notify {
            conv: ConvId::group(&UserId::parse("ann").expect("valid"), Cid(1)),
            head: Seq(head),
            n_head: Count(head),
            last_id: MsgId(head),
            last_ts: TsMs(head),
            users: users.iter().map(user).collect(),
        }
    }

    #[test]
    fn heads_for_the_same_users_become_one_and_nobody_else_is_told_of_them() {
        let mut gathered = Gathered::default();
        assert!(gathered.is_empty());
        let both = ["ann", "bob"];
        let (alone, others) = (news(7, &["ann"]), news(8, &["ann", "carol"]));
        let joined = [news(4, &both), news(6, &both), news(5, &both), alone.clone(), others.clone()]
            .map(|news| gathered.add(news));
        assert_eq!(joined, [false, true, true, false, false]);
        assert_eq!(gathered.take(), [news(6, &both), alone, others]);
        assert!(gathered.is_empty() && gathered.take().is_empty());
    }
}
