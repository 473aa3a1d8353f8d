//! How many files this process, and the nodes that it starts, may have open: a connection is one at each of its ends.
//!
//! Asked before anything is started: beyond the limit every further dial fails, again and again, and nodes take nobody.

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cluster::Place;

/// Of this process beside connections: the poll, the runtime, the nodes' logs, what is asked of them.
const BESIDE: u64 = 64;
/// Of a node beside its clients: the files of its database, its peers, whoever asks for metrics.
const NODE_BESIDE: u64 = 512;

/// Sees to it that so many connections can be open at once, with a higher soft limit if it must be; an error says what to do.
/// Nodes that are started after it inherit the limit.
pub fn make_room(connections: usize, place: &Place) -> anyhow::Result<()> {
    let nodes = if place.urls.is_empty() { place.nodes } else { 0 };
    match raised(getrlimit(Resource::Nofile), connections, nodes)? {
        None => Ok(()),
        Some(limit) => setrlimit(Resource::Nofile, limit).context("cannot raise the soft limit of open files"),
    }
}

/// What the fuller process needs.
fn needed(connections: usize, local_nodes: u16) -> u64 {
    let own = connections as u64 + BESIDE;
    let share = |nodes: u16| connections.div_ceil(nodes.into()) as u64 + NODE_BESIDE;
    (local_nodes > 0).then_some(local_nodes).map_or(own, |nodes| own.max(share(nodes)))
}

/// The limit to be set. None: the present one will do.
fn raised(limit: Rlimit, connections: usize, local_nodes: u16) -> anyhow::Result<Option<Rlimit>> {
    let needed = needed(connections, local_nodes);
    let holds = |files: Option<u64>| files.is_none_or(|files| files >= needed);
    if holds(limit.current) {
        return Ok(None);
    }
    let says = |files: Option<u64>| files.map_or("none".to_owned(), |files| files.to_string());
    let (soft, hard) = (says(limit.current), says(limit.maximum));
    ensure!(
        holds(limit.maximum),
        "{connections} connections need {needed} open files in one process, and the system allows {hard} (the hard limit of \
         RLIMIT_NOFILE; the soft one is {soft}). Ask for fewer connections, or have the hard limit raised: `ulimit -n {needed}` by \
         root in the shell that starts this, `nofile` in /etc/security/limits.conf, LimitNOFILE= of a service, --ulimit nofile={needed} \
         of a container"
    );
    Ok(Some(Rlimit { current: limit.maximum, maximum: limit.maximum }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(current: u64, maximum: u64) -> Rlimit {
        Rlimit { current: Some(current), maximum: Some(maximum) }
    }

    #[test]
    fn a_soft_limit_is_raised_only_where_it_is_too_low_and_a_hard_one_is_an_error_that_says_what_to_do() {
        let (few, many) = (limit(1_024, 20_000), limit(1_024, 4_096));
        assert_eq!(raised(few, 900, 0).expect("enough"), None);
        assert_eq!(raised(few, 9_000, 3).expect("enough after it"), Some(limit(20_000, 20_000)));
        let error = raised(many, 9_000, 0).expect_err("too few").to_string();
        for part in ["9000 connections", "9064 open files", "allows 4096", "soft one is 1024", "ulimit -n 9064"] {
            assert!(error.contains(part), "{part} is missing: {error}");
        }
        let unlimited = Rlimit { current: None, maximum: None };
        assert_eq!(raised(unlimited, 1_000_000, 3).expect("no limit"), None);
    }

    #[test]
    fn of_generator_and_nodes_the_fuller_one_counts() {
        assert_eq!(needed(9_000, 3), 9_064);
        assert_eq!(needed(9_000, 1), 9_512);
        assert_eq!(needed(128, 3), 555);
        assert_eq!(needed(128, 0), 192, "nodes elsewhere look after themselves");
    }
}
