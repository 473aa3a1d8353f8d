//! Limits on clients as they stand now: what the cluster has set, else what this node was started with.
//!
//! Invariant: whoever counts reads the value of the moment; a change needs no restart and loses no count. Each node counts for
//! itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use flotilla_machine::command::{ClientLimits, LimitName};
use tokio::sync::watch;

use super::shared::Shared;

impl Shared {
    /// As configured here.
    fn own_limit(&self, name: LimitName) -> u32 {
        match name {
            LimitName::SendsPerUser => self.options.sends_per_user,
            LimitName::SendsPerConversation => self.options.sends_per_conversation,
            LimitName::LoginsPerMinute => self.options.logins_per_minute,
            LimitName::ConnectionsPerAddress => {
                u32::try_from(self.options.connections_per_address_max).unwrap_or(u32::MAX)
            }
        }
    }

    pub fn limit(&self, name: LimitName) -> u32 {
        match name {
            LimitName::SendsPerUser => self.sends_of_users.per_second(),
            LimitName::SendsPerConversation => self.sends_to_conversations.per_second(),
            LimitName::LoginsPerMinute => self.logins.per_minute(),
            LimitName::ConnectionsPerAddress => {
                u32::try_from(self.connections_max.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
            }
        }
    }

    fn set_limit(&self, name: LimitName, value: u32) {
        match name {
            LimitName::SendsPerUser => self.sends_of_users.set(value),
            LimitName::SendsPerConversation => self.sends_to_conversations.set(value),
            LimitName::LoginsPerMinute => self.logins.set(value),
            LimitName::ConnectionsPerAddress => self.connections_max.store(value as usize, Ordering::Relaxed),
        }
    }

    pub fn take_limits(&self, set: &ClientLimits) {
        for name in LimitName::ALL {
            let (before, now) = (self.limit(name), set.get(&name).copied().unwrap_or_else(|| self.own_limit(name)));
            if now != before {
                tracing::info!(limit = name.name(), before, now, "a limit on clients has changed");
                self.set_limit(name, now);
            }
            let help = "Limits on clients that count on this node now; 0: none.";
            self.figures.registry.gauge("flotilla_limit", help, &[("name", name.name())]).set(i64::from(now));
        }
    }
}

/// Takes what the cluster sets, for ever.
pub async fn follow(shared: Arc<Shared>, mut limits: watch::Receiver<ClientLimits>) {
    loop {
        let set = limits.borrow_and_update().clone();
        shared.take_limits(&set);
        if limits.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::shared::Options;
    use crate::testing::client::Node;

    #[tokio::test]
    async fn what_the_cluster_sets_counts_at_once_and_without_it_the_nodes_own() {
        let node = Node::with(Options { dev_auth: true, sends_per_user: 9, ..Options::default() }).await;
        let (set, limits) = watch::channel(ClientLimits::new());
        let following = tokio::spawn(follow(node.shared.clone(), limits));
        set.send_replace(ClientLimits::from([(LimitName::SendsPerUser, 3), (LimitName::ConnectionsPerAddress, 50)]));
        let until = async |name, value| {
            let deadline = tokio::time::Instant::now() + crate::testing::client::PATIENCE;
            while node.shared.limit(name) != value {
                assert!(tokio::time::Instant::now() < deadline, "{name:?} is {}", node.shared.limit(name));
                tokio::task::yield_now().await;
            }
        };
        until(LimitName::SendsPerUser, 3).await;
        until(LimitName::ConnectionsPerAddress, 50).await;
        let alice = node.caught_up("alice", "1").await;
        assert_eq!(alice.ready.as_ref().expect("said hello").limits.sends_per_user, 3);
        let (_, page) = node.http("GET", "/metrics", &[], "").await;
        assert!(page.as_str().is_some_and(|page| page.contains("flotilla_limit{name=\"sends_per_user\"} 3")));
        set.send_replace(ClientLimits::new());
        until(LimitName::SendsPerUser, 9).await;
        following.abort();
    }
}
