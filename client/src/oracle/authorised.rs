//! Authorised: no device receives an entry from outside its user's membership, by the log itself (both ends inclusive).

use super::world::World;
use super::{Stats, Violation};
use crate::history::Op;

const PROMISE: &str = "authorised";

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    for record in world.records {
        let Op::Entry { entry } = &record.op else { continue };
        let Some(member) = world.is_member(&entry.conv, &record.user, entry.seq) else { continue };
        *stats.entry("authorised").or_default() += 1;
        if !member {
            let what = format!("{} got {} seq {} without being a member there", record.device, entry.conv, entry.seq);
            return Err(Violation::new(PROMISE, what, [record]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::history::Op;
    use crate::oracle::testkit::History;

    #[test]
    fn an_entry_for_a_stranger_and_one_after_the_own_removal_are_seen() {
        let mut stranger = History::good();
        let at = stranger.last(|r| matches!(&r.op, Op::Entry { entry } if entry.conv == stranger.direct));
        let mut leaked = stranger.records[at].clone();
        (leaked.device, leaked.user) = ("carol/1".into(), stranger.user("carol"));
        stranger.records.push(leaked);
        stranger.violates("authorised");

        let mut removed = History::good();
        let group = removed.group.clone();
        removed.remove(&group, "carol");
        let members = ["alice", "bob", "carol"];
        removed.append_to(&group, "alice", "without carol", &members);
        removed.violates("authorised");
    }
}
