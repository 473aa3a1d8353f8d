//! How many files a node may have open: each connection is one.
//!
//! A shell allows 1,024 as a rule, and more only to who asks. Connections must leave the database what it needs: one that cannot
//! open its next log or table is a failed disk, which ends the node.

use flotilla_proto::limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Tables of the database, logs, peers, whoever asks for metrics.
const BESIDE: u64 = 512;
/// As many clients as a node takes.
const NEEDED: u64 = limits::CONNECTIONS_MAX as u64 + BESIDE;

/// Raises the soft limit to the hard one, tells what came of it, and returns how many clients there is room for. A node with few goes
/// on: it may never have many.
pub fn raise() -> usize {
    let before = getrlimit(Resource::Nofile);
    for wanted in higher(&before) {
        match setrlimit(Resource::Nofile, wanted) {
            Ok(()) => break,
            Err(error) => tracing::warn!(%error, wanted = says(wanted.current), "cannot raise the limit of open files"),
        }
    }
    let now = getrlimit(Resource::Nofile).current;
    let connections = room(now);
    if suffices(now) {
        tracing::info!(limit = says(now), "open files");
    } else {
        tracing::warn!(
            limit = says(now),
            needed = NEEDED,
            connections,
            "the hard limit of open files is too low for as many connections as a node takes: raise it (LimitNOFILE= of a service, \
             --ulimit nofile= of a container)"
        );
    }
    connections
}

/// Clients at the same time; above it they are told so. Of very few files half are for them.
fn room(files: Option<u64>) -> usize {
    let of_files =
        files.map_or(usize::MAX, |files| usize::try_from(files - BESIDE.min(files / 2)).unwrap_or(usize::MAX));
    of_files.min(limits::CONNECTIONS_MAX)
}

fn suffices(files: Option<u64>) -> bool {
    files.is_none_or(|files| files >= NEEDED)
}

/// What to ask for, one after the other until it is given. Some systems do not give all that the hard limit says.
fn higher(limit: &Rlimit) -> Vec<Rlimit> {
    let asked = |current| Rlimit { current, maximum: limit.maximum };
    let mut wanted = Vec::new();
    if limit.current != limit.maximum && limit.current.is_some() {
        wanted.push(asked(limit.maximum));
    }
    if !suffices(limit.current) && limit.maximum.is_none_or(|maximum| maximum > NEEDED) {
        wanted.push(asked(Some(NEEDED)));
    }
    wanted
}

fn says(files: Option<u64>) -> String {
    files.map_or("none".to_owned(), |files| files.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_is_asked_for_and_then_what_is_needed() {
        let asks = |current, maximum| -> Vec<_> {
            higher(&Rlimit { current, maximum }).into_iter().map(|limit| limit.current).collect()
        };
        assert_eq!(asks(Some(1_024), Some(4_096)), [Some(4_096)]);
        assert_eq!(asks(Some(1_024), Some(1 << 20)), [Some(1 << 20), Some(NEEDED)]);
        assert_eq!(asks(Some(1_024), None), [None, Some(NEEDED)]);
        assert_eq!(asks(Some(30_000), Some(1 << 20)), [Some(1 << 20)]);
        assert!(asks(Some(1 << 20), Some(1 << 20)).is_empty() && asks(None, None).is_empty());
        assert_eq!([100, 1_024, 4_096].map(|files| room(Some(files))), [50, 512, 3_584]);
        assert!([Some(NEEDED), Some(1 << 20), None].iter().all(|files| room(*files) == limits::CONNECTIONS_MAX));
        assert!(suffices(Some(NEEDED)) && suffices(None) && !suffices(Some(NEEDED - 1)));
    }
}
