//! What the screen shows and what follows from keys, events of the device, and answers. Pure: it touches neither terminal nor
//! network; what is to be done comes out as [`Action`]s.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_client::device::Event;
use flotilla_client::device::{Last, ListPage, random_cid};
use flotilla_proto::entry::Role;
use flotilla_proto::frame::{Conv, ConvReceipts, EntryFrame, Signal, Target};
use flotilla_proto::ids::{Cid, ConvId, ConvKind, Seq, UserId};
use flotilla_proto::limits;

use super::command::{Typed, parse};
use super::input::Input;
use super::room::{Older, ROOM_ENTRIES_MAX, Room, Waiting, clean, short};

/// How long "is typing" stands without being renewed.
const TYPING_MS: u64 = 4_000;
/// At most one of one's own in this time.
const TYPE_EVERY_MS: u64 = 3_000;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// The list of conversations, from this place on.
    List {
        after: Option<String>,
    },
    /// A page of history that ends before this seq; none: the newest.
    Page {
        conv: ConvId,
        before: Option<Seq>,
    },
    Send {
        cid: Cid,
        target: Target,
        text: String,
    },
    Read {
        conv: ConvId,
        seq: Seq,
    },
    Typing(ConvId),
    Watch(Vec<UserId>),
    /// Whom this user has blocked.
    Blocks,
    /// How far the members are of the group that is open; none: of no group.
    Receipts(Option<ConvId>),
    Group {
        name: String,
        users: Vec<UserId>,
    },
    Channel {
        name: String,
        users: Vec<UserId>,
    },
    Add {
        conv: ConvId,
        users: Vec<UserId>,
    },
    Remove {
        conv: ConvId,
        user: UserId,
    },
    Leave(ConvId),
    Redraw,
    Quit,
}

/// What came of an action.
#[derive(Debug)]
pub enum Answer {
    Listed(ListPage),
    Page {
        conv: ConvId,
        entries: Vec<EntryFrame>,
        more: bool,
    },
    NoPage {
        conv: ConvId,
        why: String,
    },
    /// None: its entry comes, or has come.
    Sent {
        conv: ConvId,
        cid: Cid,
        failed: Option<String>,
    },
    Presence(Vec<(UserId, String)>),
    Blocked(BTreeSet<UserId>),
    Receipts(Vec<ConvReceipts>),
    Made(ConvId),
    Notice(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    Connecting,
    Up(String),
    Lost(String),
    Stopped(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Focus {
    List,
    Input,
}

/// Where a line of the conversation stands: an entry's seq and the line within it. Waiting messages stand above all seqs.
pub type Tag = (Seq, u16);

pub struct Model {
    pub me: UserId,
    pub rooms: BTreeMap<ConvId, Room>,
    pub open: Option<ConvId>,
    pub focus: Focus,
    pub input: Input,
    pub link: Link,
    pub caught_up: bool,
    pub presence: BTreeMap<UserId, String>,
    /// As it was when the connection was made.
    pub blocked: BTreeSet<UserId>,
    /// What they write in groups is in sight all the same.
    pub shows_blocked: bool,
    typing: BTreeMap<(ConvId, UserId), u64>,
    typed_at: Option<u64>,
    pub notice: Option<String>,
    pub help: bool,
    /// The lowest line on the screen; none: the newest.
    pub anchor: Option<Tag>,
    /// All lines of the open conversation as they were drawn last, and how many there was room for.
    pub lines: Vec<Tag>,
    pub height: usize,
    pub unanswered: usize,
    pub now_ms: u64,
    listing: bool,
    watched: Vec<UserId>,
    /// The group whose receipts are watched.
    group: Option<ConvId>,
}

impl Model {
    pub fn new(me: UserId, to: Option<Target>) -> Self {
        let mut model = Self {
            me,
            rooms: BTreeMap::new(),
            open: None,
            focus: Focus::List,
            input: Input::default(),
            link: Link::Connecting,
            caught_up: false,
            presence: BTreeMap::new(),
            blocked: BTreeSet::new(),
            shows_blocked: false,
            typing: BTreeMap::new(),
            typed_at: None,
            notice: None,
            help: false,
            anchor: None,
            lines: Vec::new(),
            height: 1,
            unanswered: 0,
            now_ms: 0,
            listing: false,
            watched: Vec::new(),
            group: None,
        };
        if let Some(target) = to {
            let conv = target.conv_for(&model.me);
            model.rooms.entry(conv.clone()).or_default();
            (model.open, model.focus) = (Some(conv), Focus::Input);
        }
        model
    }

    /// Pinned ones first, then by latest activity.
    pub fn order(&self) -> Vec<&ConvId> {
        let mut order: Vec<_> =
            self.rooms.iter().filter(|(c, r)| !r.archived || self.open.as_ref() == Some(c)).collect();
        order.sort_by_key(|(conv, r)| (!r.pinned, std::cmp::Reverse(r.last_ts), (*conv).clone()));
        order.into_iter().map(|(conv, _)| conv).collect()
    }

    pub fn title(&self, conv: &ConvId) -> String {
        match conv.peer_of(&self.me) {
            Some(peer) if peer == self.me => format!("{peer} (you)"),
            Some(peer) => peer.to_string(),
            None => self.rooms.get(conv).and_then(|r| r.name.clone()).unwrap_or_else(|| short(conv)),
        }
    }

    /// Why nothing can be said there.
    pub fn why_silent(&self, conv: &ConvId) -> Option<&'static str> {
        let room = self.rooms.get(conv)?;
        match (conv.kind(), room.role) {
            _ if room.gone => Some("you are not a member any more"),
            (ConvKind::Channel, Some(Role::Member)) => Some("only admins write in this channel"),
            _ => None,
        }
    }

    /// A blocked user's, in a conversation in which nobody refuses it. In a direct one only what was there before is.
    pub fn is_blocked(&self, conv: &ConvId, from: &UserId) -> bool {
        conv.kind() != ConvKind::Direct && self.blocked.contains(from)
    }

    pub fn typists(&self, conv: &ConvId) -> Vec<&UserId> {
        let types = |user: &UserId, until: u64| until > self.now_ms && !self.is_blocked(conv, user);
        self.typing.iter().filter(|((c, u), until)| c == conv && types(u, **until)).map(|((_, u), _)| u).collect()
    }

    // What the device tells.

    pub fn on_event(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Connected { url, node, .. } => {
                self.link = Link::Up(format!("node {node} at {}", url.trim_start_matches("http://")));
                self.caught_up = false;
                self.watched.clear();
                self.group = None;
                // Before anything of theirs comes.
                let mut actions = vec![Action::Blocks];
                actions.extend(self.watch());
                actions
            }
            Event::CaughtUp { .. } => {
                self.caught_up = true;
                let mut actions = self.list();
                actions.extend(self.show());
                actions
            }
            Event::Entry(entry) => self.on_entry(&entry),
            Event::Gap(gap) => {
                self.room(&gap.conv).on_gap(&gap);
                Vec::new()
            }
            Event::Conv(conv) => self.on_conv(&conv),
            Event::Signal(signal) => self.on_signal(&signal),
            Event::Disconnected { reason, .. } => {
                self.link = Link::Lost(reason);
                self.caught_up = false;
                self.presence.clear();
                self.typing.clear();
                Vec::new()
            }
            Event::Stopped { code, reason } => {
                self.link = Link::Stopped(if code == 0 { reason } else { format!("{code} {reason}") });
                Vec::new()
            }
            Event::Hole { conv, stored, got, .. } => {
                self.say(format!("{}: something is missing between {stored} and {got}", self.title(&conv)))
            }
            Event::Stale(_) => self.say("an old message was given up: it could not be sent for days".to_owned()),
            Event::Reset => self.say("this device is new to the server".to_owned()),
        }
    }

    fn say(&mut self, notice: String) -> Vec<Action> {
        self.notice = Some(clean(&notice).replace('\n', " "));
        Vec::new()
    }

    fn room(&mut self, conv: &ConvId) -> &mut Room {
        self.rooms.entry(conv.clone()).or_default()
    }

    fn on_entry(&mut self, entry: &EntryFrame) -> Vec<Action> {
        let known = self.rooms.contains_key(&entry.conv);
        let me = self.me.clone();
        let room = self.room(&entry.conv);
        let named_before = room.mentions;
        room.on_entry(&me, entry);
        let named = room.mentions > named_before;
        self.typing.remove(&(entry.conv.clone(), entry.from.clone()));
        let mut actions = if known { Vec::new() } else { self.appeared() };
        actions.extend(self.mark_read());
        if self.group.as_ref() == Some(&entry.conv) && matches!(entry.kind.as_str(), "add" | "remove" | "leave") {
            // Who the others are, an answer says.
            actions.push(Action::Receipts(self.group.clone()));
        }
        let tell = named && self.caught_up && !self.is_blocked(&entry.conv, &entry.from);
        if tell && self.room(&entry.conv).mentions > 0 {
            let title = self.title(&entry.conv);
            actions.extend(self.say(format!("{} names you in {title}", entry.from)));
        }
        actions
    }

    fn on_conv(&mut self, conv: &Conv) -> Vec<Action> {
        let known = self.rooms.contains_key(&conv.conv);
        let room = self.room(&conv.conv);
        let read_elsewhere = conv.read > room.read;
        room.on_conv(conv);
        match known {
            false => self.appeared(),
            // How many of what is left name this user, only the server knows: not all of it is here.
            true if read_elsewhere && self.room(&conv.conv).mentions > 0 => self.list(),
            true => Vec::new(),
        }
    }

    /// A conversation that the list has not named yet.
    fn appeared(&mut self) -> Vec<Action> {
        let mut actions = self.watch();
        if self.caught_up {
            actions.extend(self.list());
        }
        actions
    }

    fn on_signal(&mut self, signal: &Signal) -> Vec<Action> {
        match (signal.k.as_str(), &signal.conv, &signal.user) {
            ("typing", Some(conv), Some(user)) => {
                self.typing.insert((conv.clone(), user.clone()), self.now_ms + TYPING_MS);
                self.typing.retain(|_, until| *until > self.now_ms);
            }
            ("presence", _, Some(user)) => {
                self.presence.insert(user.clone(), signal.state.clone().unwrap_or_default());
            }
            ("receipts", Some(conv), _) => {
                let me = self.me.clone();
                self.room(conv).on_members(&me, signal.members.as_deref().unwrap_or_default(), false);
            }
            (_, Some(conv), _) if is_of_marks(signal) && conv.kind() == ConvKind::Direct => {
                self.room(&conv.clone()).on_marks(signal.delivered, signal.read);
            }
            _ => {}
        }
        Vec::new()
    }

    fn list(&mut self) -> Vec<Action> {
        if std::mem::replace(&mut self.listing, true) { Vec::new() } else { vec![Action::List { after: None }] }
    }

    /// The receipts of the group that is open; of a direct conversation they come by themselves.
    fn watch_group(&mut self) -> Vec<Action> {
        let group = self.open.clone().filter(|conv| conv.kind() == ConvKind::Group);
        if group == self.group || !matches!(self.link, Link::Up(_)) {
            return Vec::new();
        }
        self.group.clone_from(&group);
        vec![Action::Receipts(group)]
    }

    /// The peers of direct conversations, the latest first.
    fn watch(&mut self) -> Vec<Action> {
        let mut peers: Vec<UserId> = self.order().into_iter().filter_map(|c| c.peer_of(&self.me)).collect();
        peers.truncate(limits::WATCH_MAX);
        peers.sort();
        if peers == self.watched || !matches!(self.link, Link::Up(_)) {
            return Vec::new();
        }
        self.watched.clone_from(&peers);
        vec![Action::Watch(peers)]
    }

    // Answers.

    pub fn on_answer(&mut self, answer: Answer) -> Vec<Action> {
        match answer {
            Answer::Listed(page) => self.on_listed(page),
            Answer::Page { conv, entries, more } => {
                let room = self.room(&conv);
                entries.iter().for_each(|entry| room.add(entry));
                let full = room.items.len() >= ROOM_ENTRIES_MAX;
                room.older = if more && !full { Older::More } else { Older::End };
                // A page of reactions alone shows nothing.
                if room.items.is_empty() && room.older == Older::More { self.older() } else { self.mark_read() }
            }
            Answer::NoPage { conv, why } => {
                let room = self.room(&conv);
                room.older = if room.items.is_empty() { Older::Unasked } else { Older::More };
                // A conversation that its first message will make has no history.
                let not_made = room.head == Seq(0) && conv.kind() == ConvKind::Direct;
                if not_made { Vec::new() } else { self.say(why) }
            }
            Answer::Sent { conv, cid, failed } => {
                for waiting in self.room(&conv).waiting.iter_mut().filter(|w| w.cid == cid) {
                    waiting.failed.clone_from(&failed);
                }
                Vec::new()
            }
            Answer::Presence(seen) => {
                self.presence.extend(seen);
                Vec::new()
            }
            Answer::Blocked(users) => {
                self.blocked = users;
                Vec::new()
            }
            Answer::Receipts(receipts) => {
                let me = self.me.clone();
                receipts.iter().for_each(|of| self.room(&of.conv).on_members(&me, &of.members, true));
                Vec::new()
            }
            Answer::Made(conv) => self.enter(conv),
            Answer::Notice(notice) => self.say(notice),
        }
    }

    fn on_listed(&mut self, page: ListPage) -> Vec<Action> {
        let me = self.me.clone();
        for listed in page.convs {
            let mentions = listed.mentions();
            let room = self.room(&listed.conv.conv);
            room.on_conv(&listed.conv);
            room.on_mentions(&me, mentions, &listed.conv);
            room.members = listed.members.or(room.members);
            if room.preview.is_none() {
                room.preview = listed.last.as_ref().map(|last| (last.from.clone(), preview(last)));
            }
        }
        self.listing = false;
        if page.unreadable > 0 {
            let (n, s) = (page.unreadable, if page.unreadable == 1 { "" } else { "s" });
            self.notice = Some(format!("{n} conversation{s} of the list cannot be read"));
        }
        let mut actions = self.watch();
        match page.next {
            Some(after) => actions.push(Action::List { after: Some(after) }),
            None if self.open.is_none() => {
                // Something to look at, but nothing is marked as read before the person has chosen it.
                self.notice.get_or_insert("choose a conversation, or /to USER; F1 for help".to_owned());
            }
            None => {}
        }
        actions
    }

    // What the person does.

    pub fn enter(&mut self, conv: ConvId) -> Vec<Action> {
        self.room(&conv);
        (self.open, self.focus, self.anchor, self.notice) = (Some(conv), Focus::Input, None, None);
        let mut actions = self.show();
        actions.extend(self.watch());
        actions
    }

    /// The open conversation comes on the screen.
    fn show(&mut self) -> Vec<Action> {
        let Some(conv) = self.open.clone() else { return Vec::new() };
        let mut actions = self.mark_read();
        if self.caught_up {
            actions.extend(self.watch_group());
        }
        if self.caught_up && self.room(&conv).older == Older::Unasked {
            self.room(&conv).older = Older::Loading;
            actions.push(Action::Page { conv, before: None });
        }
        actions
    }

    fn older(&mut self) -> Vec<Action> {
        let Some(conv) = self.open.clone() else { return Vec::new() };
        let room = self.room(&conv);
        if room.older != Older::More {
            return Vec::new();
        }
        room.older = Older::Loading;
        let before = room.lowest;
        vec![Action::Page { conv, before }]
    }

    /// What stands on the screen was read; not while the person looks at older ones.
    fn mark_read(&mut self) -> Vec<Action> {
        let (Some(conv), None, Focus::Input) = (self.open.clone(), self.anchor, self.focus) else { return Vec::new() };
        let room = self.room(&conv);
        let newest = room.head;
        (room.unread, room.mentions) = (0, 0);
        if newest <= room.read {
            return Vec::new();
        }
        room.read = newest;
        vec![Action::Read { conv, seq: newest }]
    }

    /// The next or the previous conversation of the list.
    pub fn step(&mut self, down: bool) -> Vec<Action> {
        let order = self.order();
        let at = order.iter().position(|c| self.open.as_ref() == Some(*c));
        let next = match (at, down) {
            (None, _) => 0,
            (Some(at), true) => (at + 1).min(order.len().saturating_sub(1)),
            (Some(at), false) => at.saturating_sub(1),
        };
        let Some(conv) = order.get(next).map(|c| (*c).clone()) else { return Vec::new() };
        if self.open.as_ref() != Some(&conv) {
            (self.open, self.anchor) = (Some(conv), None);
        }
        self.show()
    }

    /// Lines up (negative) or down.
    pub fn scroll(&mut self, by: isize) -> Vec<Action> {
        let last = self.lines.len().saturating_sub(1);
        let bottom = self.anchor.map_or(last, |tag| self.lines.iter().rposition(|t| *t <= tag).unwrap_or(last));
        // The first line does not leave the top.
        let top = self.height.saturating_sub(1).min(last);
        let next = bottom.saturating_add_signed(by).clamp(top, last);
        self.anchor = if next == last { None } else { self.lines.get(next).copied() };
        if by < 0 && next <= top { self.older() } else { self.mark_read() }
    }

    pub fn typed(&mut self) -> Vec<Action> {
        let due = self.typed_at.is_none_or(|at| self.now_ms >= at + TYPE_EVERY_MS);
        let command = self.input.text().starts_with('/');
        match self.open.as_ref().filter(|conv| self.why_silent(conv).is_none()) {
            Some(conv)
                if due && !command && self.caught_up && self.rooms.get(conv).is_some_and(|r| r.head > Seq(0)) =>
            {
                self.typed_at = Some(self.now_ms);
                vec![Action::Typing(conv.clone())]
            }
            _ => Vec::new(),
        }
    }

    pub fn submit(&mut self) -> Vec<Action> {
        self.notice = None;
        match parse(&self.input.take()) {
            Typed::Nothing => Vec::new(),
            Typed::Say(text) => self.send(text),
            Typed::To(user) => self.enter(ConvId::direct(&self.me, &user)),
            Typed::In(conv) => self.enter(conv),
            Typed::Group(name, users) => vec![Action::Group { name, users }],
            Typed::Channel(name, users) => vec![Action::Channel { name, users }],
            Typed::Add(users) => self.in_group(|conv| Action::Add { conv, users }),
            Typed::Remove(user) => self.in_group(|conv| Action::Remove { conv, user }),
            Typed::Leave => self.in_group(Action::Leave),
            Typed::Blocked => {
                self.shows_blocked = !self.shows_blocked;
                let now = if self.shows_blocked { "in sight" } else { "out of sight" };
                self.say(format!("what blocked people write in groups is {now}"))
            }
            Typed::Help => {
                self.help = true;
                Vec::new()
            }
            Typed::Quit => vec![Action::Quit],
            Typed::Wrong(why) => self.say(why),
        }
    }

    fn send(&mut self, text: String) -> Vec<Action> {
        let Some(conv) = self.open.clone() else {
            return self.say("to whom? choose a conversation, or /to USER".to_owned());
        };
        if let Some(why) = self.why_silent(&conv) {
            // As it was typed: a slash in front of it would be taken for a command.
            let slash = if text.starts_with('/') { "/" } else { "" };
            self.input.put_back(&format!("{slash}{text}"));
            return self.say(why.to_owned());
        }
        let cid = random_cid();
        let target = match conv.peer_of(&self.me) {
            Some(peer) => Target::User(peer),
            None => Target::Conv(conv.clone()),
        };
        self.anchor = None;
        self.typed_at = None;
        let room = self.room(&conv);
        room.waiting.push(Waiting { cid, text: text.clone(), failed: None });
        vec![Action::Send { cid, target, text }]
    }

    fn in_group(&mut self, action: impl FnOnce(ConvId) -> Action) -> Vec<Action> {
        match self.open.clone().filter(|conv| conv.kind() != ConvKind::Direct) {
            Some(conv) => vec![action(conv)],
            None => self.say("this is neither a group nor a channel: choose one first".to_owned()),
        }
    }
}

fn is_of_marks(signal: &Signal) -> bool {
    signal.delivered.is_some() || signal.read.is_some()
}

/// Of the last message, as the list of the server has it.
fn preview(last: &Last) -> String {
    if last.redacted {
        return "(deleted)".to_owned();
    }
    let text = last.body.as_ref().and_then(|b| String::from_utf8_lossy(&b.0).lines().next().map(clean));
    match last.kind.as_str() {
        "message" => text.unwrap_or_else(|| "(no text)".to_owned()),
        kind => format!("({})", clean(kind)),
    }
}
