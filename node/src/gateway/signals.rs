//! Signals of one connection: what may be lost, and what a client in the background is not told.
//!
//! Pure. Invariants: one `typing` per conversation in 3 s goes out; while the client is in the background nothing is sent, of
//! presence the latest is kept and sent when it comes back, and typing is dropped. Receipts have a file of their own.

use std::collections::{BTreeMap, VecDeque};

use flotilla_machine::query::PresenceView;
use flotilla_proto::frame::{Activity, Signal};
use flotilla_proto::ids::{ConvId, TsMs, UserId};
use flotilla_proto::limits;

use super::receipts::{Marks, Receipts};

#[derive(Default)]
pub struct Signals {
    activity: Activity,
    /// Conversations that this client typed in, and when (milliseconds of the connection), oldest first.
    typed: VecDeque<(ConvId, u64)>,
    held: BTreeMap<UserId, Option<PresenceView>>,
    /// Most connections watch none at a time.
    receipts: Option<Box<Receipts>>,
}

impl Signals {
    pub fn new(activity: Activity) -> Self {
        Self { activity, ..Self::default() }
    }

    /// The client types: shall others know?
    pub fn may_type(&mut self, conv: &ConvId, now: u64) -> bool {
        while self.typed.front().is_some_and(|(_, at)| now.saturating_sub(*at) >= limits::TYPING_MS) {
            self.typed.pop_front();
        }
        if self.typed.len() >= limits::TYPING_CONVS_MAX || self.typed.iter().any(|(typed, _)| typed == conv) {
            return false;
        }
        self.typed.push_back((conv.clone(), now));
        true
    }

    /// The signals that waited for the client to come back.
    pub fn on_activity(&mut self, activity: Activity) -> Vec<Signal> {
        self.activity = activity;
        if activity == Activity::Background {
            return Vec::new();
        }
        std::mem::take(&mut self.held).into_iter().map(|(user, seen)| presence(user, seen)).collect()
    }

    pub fn on_presence(&mut self, user: UserId, seen: Option<PresenceView>) -> Option<Signal> {
        if self.activity == Activity::Active {
            return Some(presence(user, seen));
        }
        // A client watches no more than this at a time; what it watched before may still be here.
        if self.held.len() < limits::WATCH_MAX || self.held.contains_key(&user) {
            self.held.insert(user, seen);
        }
        None
    }

    pub fn is_active(&self) -> bool {
        self.activity == Activity::Active
    }

    pub fn receipts(&mut self) -> &mut Receipts {
        self.receipts.get_or_insert_default()
    }

    /// Those that may go out now.
    pub fn take_receipts(&mut self) -> Option<Marks> {
        let active = self.is_active();
        self.receipts.as_mut().filter(|_| active)?.take()
    }

    /// A new list is watched: its answer says where everybody is.
    pub fn on_watch(&mut self) {
        self.held.clear();
    }

    pub fn on_typing(&mut self, conv: ConvId, user: UserId) -> Option<Signal> {
        let signal = Signal { conv: Some(conv), user: Some(user), ..signal("typing") };
        (self.activity == Activity::Active).then_some(signal)
    }
}

pub fn signal(k: &str) -> Signal {
    let k = k.to_owned();
    Signal { k, conv: None, user: None, delivered: None, read: None, at: None, state: None, members: None }
}

/// How a user is, for those who may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PresenceState {
    /// A session is open on some device.
    Online,
    Offline,
    /// Not shown to who asks, or no such user: they look alike.
    Hidden,
    /// The user's shard has no quorum now.
    Unknown,
}

impl PresenceState {
    fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Hidden => "hidden",
            Self::Unknown => "unknown",
        }
    }
}

/// The state, and when an offline user was last here.
pub fn state_of(seen: Option<PresenceView>) -> (PresenceState, Option<TsMs>) {
    match seen {
        Some(PresenceView::Online) => (PresenceState::Online, None),
        Some(PresenceView::Offline { last_seen }) => (PresenceState::Offline, last_seen),
        Some(PresenceView::Hidden) => (PresenceState::Hidden, None),
        None => (PresenceState::Unknown, None),
    }
}

fn presence(user: UserId, seen: Option<PresenceView>) -> Signal {
    let (state, at) = state_of(seen);
    Signal { user: Some(user), at, state: Some(state.name().to_owned()), ..signal("presence") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("valid")
    }

    fn group(n: u128) -> ConvId {
        ConvId::group(&user("ann"), flotilla_proto::ids::Cid(n))
    }

    #[test]
    fn typing_goes_out_once_in_three_seconds_for_each_conversation() {
        let mut signals = Signals::new(Activity::Active);
        assert!(signals.may_type(&group(1), 0) && signals.may_type(&group(2), 10));
        assert!(!signals.may_type(&group(1), 2_999));
        assert!(signals.may_type(&group(1), 3_000));
        let many = (0..1_000).filter(|n| signals.may_type(&group(100 + n), 3_001)).count();
        assert!(many < limits::TYPING_CONVS_MAX, "a client that types everywhere is not believed");
    }

    #[test]
    fn in_the_background_the_latest_presence_waits_and_typing_is_dropped() {
        let mut signals = Signals::new(Activity::Background);
        assert!(signals.on_typing(group(1), user("bob")).is_none());
        assert!(signals.on_presence(user("bob"), Some(PresenceView::Online)).is_none());
        assert!(signals.on_presence(user("bob"), Some(PresenceView::Offline { last_seen: Some(TsMs(7)) })).is_none());
        let told = signals.on_activity(Activity::Active);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].state.as_deref(), told[0].at), (Some("offline"), Some(TsMs(7))));
        assert!(signals.on_typing(group(1), user("bob")).is_some_and(|s| s.k == "typing"));
        assert!(signals.on_activity(Activity::Active).is_empty());
    }
}
