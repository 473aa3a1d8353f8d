//! One conversation as the screen knows it: its entries, what was changed about them, what is on its way, how far others are.
//!
//! Invariant: an entry stands here once, whatever page or push it came by; a message of one's own leaves `waiting` when its
//! entry is there or its answer said that it will not be.

use std::collections::BTreeMap;

use flotilla_proto::entry::Role;
use flotilla_proto::frame::{Conv, EntryFrame, Gap, MemberMarks};
use flotilla_proto::ids::{Cid, ConvId, ConvKind, Seq, TsMs, UserId};

/// Entries kept of one conversation; paging further back ends here.
pub const ROOM_ENTRIES_MAX: usize = 5_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub seq: Seq,
    pub ts: TsMs,
    pub from: UserId,
    pub cid: Cid,
    /// Whom it names.
    pub mentions: Vec<UserId>,
    pub what: Shown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    Text(String),
    /// A message without text that can be shown.
    Opaque,
    Deleted,
    /// Something that happened to the conversation.
    Event(String),
}

/// What later entries say about an earlier one.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    /// The newest edit.
    pub edit: Option<(Seq, String)>,
    pub deleted: bool,
    /// Set or taken back, by whom and with what; the newest of each counts.
    pub reactions: BTreeMap<(String, UserId), (Seq, bool)>,
}

/// A message of one's own that has no entry yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub cid: Cid,
    pub text: String,
    pub failed: Option<String>,
}

/// What lies before the oldest entry that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Older {
    #[default]
    Unasked,
    Loading,
    More,
    /// The beginning is here, or no more is kept.
    End,
}

/// How far one's own message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    Sent,
    Delivered,
    Read,
}

#[derive(Debug, Default)]
pub struct Room {
    pub name: Option<String>,
    pub members: Option<u64>,
    pub gone: bool,
    pub pinned: bool,
    pub archived: bool,
    pub head: Seq,
    pub read: Seq,
    pub unread: u64,
    /// Unread messages that name this user.
    pub mentions: u64,
    pub role: Option<Role>,
    pub last_ts: TsMs,
    /// Of the last message: by whom, and its first line.
    pub preview: Option<(UserId, String)>,
    pub items: BTreeMap<Seq, Item>,
    pub patches: BTreeMap<Seq, Patch>,
    /// First seq of what is missing, and the last.
    pub gaps: BTreeMap<Seq, Seq>,
    pub waiting: Vec<Waiting>,
    pub older: Older,
    /// Of the peer of a direct conversation: delivered, read.
    pub peer: Option<(Seq, Seq)>,
    /// The same of the other members of a group, while it is watched.
    pub others: BTreeMap<UserId, (Seq, Seq)>,
    /// The lowest seq that came, edits and reactions included: where the next page begins.
    pub lowest: Option<Seq>,
}

/// Somebody else's text must not drive this terminal, nor turn its lines around.
pub fn clean(text: &str) -> String {
    let harmless = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c == '\n' || !(c.is_control() || turns) { c } else { '\u{fffd}' }
    };
    text.replace("\r\n", "\n").replace('\t', "    ").chars().map(harmless).collect()
}

fn body(entry: &EntryFrame) -> Option<String> {
    entry.body.as_ref().and_then(|b| std::str::from_utf8(&b.0).ok()).map(clean)
}

fn names(users: &[UserId]) -> String {
    users.iter().map(UserId::as_str).collect::<Vec<_>>().join(", ")
}

/// None: it is about another entry.
fn shown(entry: &EntryFrame) -> Option<Shown> {
    if entry.redacted {
        return Some(Shown::Deleted);
    }
    let user = || entry.user.as_ref().map_or("somebody", UserId::as_str);
    let kind = || if entry.conv.kind() == ConvKind::Channel { "channel" } else { "group" };
    let event = match entry.kind.as_str() {
        "edit" | "delete" | "react" => return None,
        "create" => {
            let name = clean(entry.name.as_deref().unwrap_or_default());
            format!("made the {} “{name}” with {}", kind(), names(entry.members.as_deref().unwrap_or_default()))
        }
        "add" => format!("added {}", names(entry.users.as_deref().unwrap_or_default())),
        "remove" => format!("removed {}", user()),
        "leave" => "left".to_owned(),
        "role" => format!("gave {} another role", user()),
        "rename" => format!("renamed the {} to “{}”", kind(), clean(entry.name.as_deref().unwrap_or_default())),
        "history" => "changed who sees the history".to_owned(),
        "message" => return Some(body(entry).map_or(Shown::Opaque, Shown::Text)),
        other => format!("({})", clean(other)),
    };
    Some(Shown::Event(event))
}

impl Room {
    /// True: it is a message of somebody else that was not known.
    pub fn on_entry(&mut self, me: &UserId, entry: &EntryFrame) -> bool {
        let fresh = entry.seq > self.head;
        self.add(entry);
        self.head = self.head.max(entry.seq);
        self.last_ts = self.last_ts.max(entry.ts);
        if fresh {
            if let Some(item) = self.items.get(&entry.seq) {
                self.preview = Some((item.from.clone(), item.what.line()));
            }
            if entry.kind == "rename" || entry.kind == "create" {
                self.name = entry.name.clone().map(|n| clean(&n));
            }
            if entry.from == *me {
                if entry.kind == "message" {
                    (self.unread, self.mentions) = (0, 0);
                }
            } else if entry.kind == "message" {
                self.unread += 1;
                self.mentions += u64::from(entry.mentions.iter().any(|user| user == me));
                return true;
            }
        }
        false
    }

    /// From a push or a page.
    pub fn add(&mut self, entry: &EntryFrame) {
        self.waiting.retain(|w| w.cid != entry.cid);
        self.lowest = Some(self.lowest.map_or(entry.seq, |low| low.min(entry.seq)));
        match shown(entry) {
            Some(what) => {
                let (seq, ts, from, cid) = (entry.seq, entry.ts, entry.from.clone(), entry.cid);
                let mentions = entry.mentions.clone();
                self.items.insert(seq, Item { seq, ts, from, cid, mentions, what });
            }
            None => self.patch(entry),
        }
    }

    fn patch(&mut self, entry: &EntryFrame) {
        let Some(target) = entry.target else { return };
        let patch = self.patches.entry(target).or_default();
        match entry.kind.as_str() {
            "delete" => patch.deleted = true,
            "edit" => {
                if patch.edit.as_ref().is_none_or(|(seq, _)| *seq < entry.seq) {
                    patch.edit = Some((entry.seq, body(entry).unwrap_or_default()));
                }
            }
            _ => {
                let emoji = clean(entry.emoji.as_deref().unwrap_or_default());
                let state = patch.reactions.entry((emoji, entry.from.clone())).or_default();
                if state.0 <= entry.seq {
                    *state = (entry.seq, entry.on.unwrap_or(true));
                }
            }
        }
    }

    pub fn on_gap(&mut self, gap: &Gap) {
        self.gaps.insert(gap.from, gap.to);
        self.head = self.head.max(gap.to);
    }

    pub fn on_conv(&mut self, conv: &Conv) {
        if conv.head >= self.head {
            (self.head, self.unread) = (conv.head, conv.unread);
        } else if conv.read > self.read {
            // Read elsewhere; what came since is counted from here.
            let newer = self.items.range(conv.read.next()..).filter(|(_, i)| matches!(i.what, Shown::Text(_))).count();
            self.unread = self.unread.min(newer as u64);
        }
        self.read = self.read.max(conv.read);
        self.last_ts = self.last_ts.max(conv.last_ts);
        self.mentions = self.mentions.min(self.unread);
        (self.gone, self.role) = (!conv.member, conv.role);
        if let Some(name) = &conv.name {
            self.name = Some(clean(name));
        }
        if let Some(peer) = &conv.peer {
            self.on_marks(Some(peer.delivered), Some(peer.read));
        }
        let settled = |name: &str| conv.settings.as_ref().and_then(|s| s.get(name)).cloned();
        self.pinned = settled("pinned").is_some();
        self.archived = settled("archived").is_some_and(|v| v == true);
    }

    /// As the list counts them, with what has come since.
    pub fn on_mentions(&mut self, me: &UserId, count: u64, listed: &Conv) {
        let since = self.items.range(listed.head.next()..);
        let newer = since.filter(|(_, item)| item.from != *me && item.mentions.contains(me)).count() as u64;
        let known = if listed.read >= self.read { count } else { 0 };
        self.mentions = (known + newer).min(self.unread);
    }

    pub fn on_marks(&mut self, delivered: Option<Seq>, read: Option<Seq>) {
        let (old_delivered, old_read) = self.peer.unwrap_or_default();
        let read = old_read.max(read.unwrap_or_default());
        self.peer = Some((old_delivered.max(delivered.unwrap_or_default()).max(read), read));
    }

    /// Of members of a group. `whole`: these are all of them.
    pub fn on_members(&mut self, me: &UserId, members: &[MemberMarks], whole: bool) {
        if whole {
            self.others.retain(|user, _| members.iter().any(|of| of.user == *user));
        }
        for MemberMarks { user, delivered, read } in members.iter().filter(|of| of.user != *me) {
            let (old_delivered, old_read) = self.others.get(user).copied().unwrap_or_default();
            let read = old_read.max(read.unwrap_or_default());
            self.others.insert(user.clone(), (old_delivered.max(*delivered).max(read), read));
        }
    }

    /// In a group, what holds for all of the others.
    pub fn tick(&self, seq: Seq) -> Tick {
        let least = |all: &BTreeMap<UserId, (Seq, Seq)>| {
            let marks = all.values().copied().reduce(|a, b| (a.0.min(b.0), a.1.min(b.1)));
            marks.unwrap_or_default()
        };
        match self.peer.unwrap_or_else(|| least(&self.others)) {
            (_, read) if read >= seq => Tick::Read,
            (delivered, _) if delivered >= seq => Tick::Delivered,
            _ => Tick::Sent,
        }
    }

    /// The last message of this user.
    pub fn newest_of(&self, user: &UserId) -> Option<Seq> {
        let said = |item: &&Item| item.from == *user && !matches!(item.what, Shown::Event(_));
        self.items.values().rev().find(said).map(|item| item.seq)
    }

    /// How many of the others in a group have read this one, and of how many.
    pub fn readers(&self, seq: Seq) -> (usize, usize) {
        (self.others.values().filter(|(_, read)| *read >= seq).count(), self.others.len())
    }
}

impl Shown {
    /// In one line, for the list.
    pub fn line(&self) -> String {
        match self {
            Shown::Text(text) => text.lines().next().unwrap_or_default().to_owned(),
            Shown::Opaque => "(no text)".to_owned(),
            Shown::Deleted => "(deleted)".to_owned(),
            Shown::Event(event) => format!("({event})"),
        }
    }
}

/// What a conversation is called where it has no other name.
pub fn short(conv: &ConvId) -> String {
    format!("{:.8}", conv.as_str())
}
