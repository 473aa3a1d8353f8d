//! Presence is true in the end: who has a session is online for everybody whom the privacy and the blocks of that user let see it,
//! and for all others as hidden as somebody who does not exist; who has closed the last session is offline since then.

use std::collections::BTreeSet;

use flotilla_proto::ids::UserId;

/// What a user lets others see.
#[derive(Debug, Clone, Default)]
pub struct Veil {
    /// `everyone`, `contacts` or `nobody`.
    pub audience: String,
    pub contacts: BTreeSet<UserId>,
    pub blocked: BTreeSet<UserId>,
}

impl Veil {
    fn lets(&self, by: &UserId) -> bool {
        let audience = match self.audience.as_str() {
            "everyone" => true,
            "contacts" => self.contacts.contains(by),
            _ => false,
        };
        audience && !self.blocked.contains(by)
    }
}

/// `seen`: the state that `by` is told of `user`, and whether it came with a time.
pub fn wrong(by: &UserId, user: &UserId, veil: &Veil, here: bool, seen: (&str, bool)) -> Option<String> {
    let due = match (by == user || veil.lets(by), here) {
        (false, _) => ("hidden", false),
        (true, true) => ("online", false),
        (true, false) => ("offline", true),
    };
    (seen != due).then(|| format!("{by} sees {user} as {seen:?} (state, time), it must be {due:?}: {veil:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_old_or_that_is_not_for_everybody_is_named() {
        let user = |name: &str| UserId::parse(name).expect("valid");
        let (ann, bob) = (user("ann"), user("bob"));
        let veil = |audience: &str| Veil { audience: audience.into(), ..Veil::default() };
        let sees = |veil: &Veil, here, seen| wrong(&ann, &bob, veil, here, seen);
        assert_eq!(sees(&veil("everyone"), true, ("online", false)), None);
        assert!(sees(&veil("everyone"), true, ("offline", true)).is_some());
        assert!(sees(&veil("everyone"), true, ("unknown", false)).is_some());
        assert!(sees(&veil("everyone"), false, ("online", false)).is_some());
        assert!(sees(&veil("everyone"), false, ("offline", false)).is_some(), "since when?");
        assert!(sees(&veil("nobody"), true, ("online", false)).is_some());
        let friends = Veil { contacts: [ann.clone()].into(), ..veil("contacts") };
        assert_eq!(sees(&friends, true, ("online", false)), None);
        let rivals = Veil { blocked: [ann.clone()].into(), ..friends };
        assert_eq!(sees(&rivals, true, ("hidden", false)), None);
        assert_eq!(wrong(&bob, &bob, &veil("nobody"), true, ("online", false)), None, "oneself always");
    }
}
