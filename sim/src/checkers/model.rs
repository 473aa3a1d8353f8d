//! A conversation told again from its entries alone: who is a member since when, with which role, what counts, what was
//! edited and deleted. The rules of DEFINITIONS.md a second time, in other words than the machine's.
//!
//! Invariant: it looks at entries and at nothing that the machine derives from them, so that a derived row can be compared
//! with it. An entry that the rules do not allow is an error: whoever asked for it had to be refused.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::entry::{Entry, HistoryAccess, Role, What};
use flotilla_proto::ids::{ConvId, ConvKind, Count, MsgId, Seq, TsMs, UserId};
use flotilla_proto::member::{Interval, MembershipPart, Mode};

/// Is this entry delivered to the user? Both ends of a stay are.
pub fn receives(part: &MembershipPart, seq: Seq) -> bool {
    part.intervals.iter().any(|stay| seq >= stay.from && stay.until.is_none_or(|until| seq <= until))
}

/// May the user page it?
pub fn may_read(part: &MembershipPart, seq: Seq) -> bool {
    part.intervals.iter().any(|stay| seq >= stay.history_from && stay.until.is_none_or(|until| seq <= until))
}

pub fn is_member(part: &MembershipPart) -> bool {
    matches!(part.intervals.last(), Some(Interval { until: None, .. }))
}

/// Where the log ends for the user, and what counts up to there.
pub fn end(part: &MembershipPart, head: Seq, n_head: Count) -> (Seq, Count) {
    match part.intervals.last() {
        None => (Seq::ZERO, Count(0)),
        Some(Interval { until: None, .. }) => (head, n_head),
        Some(Interval { until: Some(until), n_until, .. }) => (head.min(*until), n_head.min(*n_until)),
    }
}

/// The highest entry at or below `seq` that is delivered to the user; 0 if none is.
pub fn inside(part: &MembershipPart, seq: Seq) -> Seq {
    let begun = part.intervals.iter().rfind(|stay| stay.from <= seq);
    begun.map_or(Seq::ZERO, |stay| stay.until.map_or(seq, |until| until.min(seq)))
}

/// Sum over the stays of what lies above all that was seen.
pub fn unread(part: &MembershipPart, n_head: Count, n_read: Count, n_sent: Count) -> u64 {
    let of = |stay: &Interval| {
        let top = if stay.until.is_some() { stay.n_until.0.min(n_head.0) } else { n_head.0 };
        top.saturating_sub(n_read.0.max(n_sent.0).max(stay.n_before.0))
    };
    part.intervals.iter().map(of).sum()
}

/// An entry without its content.
#[derive(Debug)]
pub struct Line {
    pub from: UserId,
    pub kind: String,
    pub n: Count,
    pub msg_id: MsgId,
    pub ts: TsMs,
    /// What it edits, if it does; none also where it was redacted before anybody saw it.
    pub edits: Option<Seq>,
    /// Whom a message names; none where it was redacted before anybody saw it.
    pub named: Option<BTreeSet<UserId>>,
}

#[derive(Default)]
pub struct Model {
    pub head: Seq,
    pub n_head: Count,
    pub name: String,
    pub history: HistoryAccess,
    pub lines: BTreeMap<Seq, Line>,
    pub parts: BTreeMap<UserId, MembershipPart>,
    /// The part of a user as the entry of this seq left it.
    pub past: BTreeMap<(UserId, Seq), MembershipPart>,
    pub n_sent: BTreeMap<UserId, Count>,
    pub redacted: BTreeSet<Seq>,
    /// From how many members on a group is in pull mode, and below how many it goes back; none: there is no pull mode.
    pub pull: Option<(u32, u32)>,
    pub mode: Mode,
    /// How often the mode has changed, and what was said in pull mode: for the coverage.
    pub switches: u64,
    pub pulled: u64,
    /// Whom the entry at hand has touched.
    touched: BTreeSet<UserId>,
    /// Edits that were redacted before anybody saw them: of which message they were nobody can say.
    pub blurred: BTreeSet<Seq>,
}

impl Model {
    pub fn new(pull: Option<(u32, u32)>) -> Self {
        Self { pull, ..Self::default() }
    }

    pub fn members(&self) -> impl Iterator<Item = &UserId> {
        self.parts.iter().filter(|(_, part)| is_member(part)).map(|(user, _)| user)
    }

    /// None: nothing is known of that seq yet.
    pub fn n_at(&self, seq: Seq) -> Option<Count> {
        if seq == Seq::ZERO { Some(Count(0)) } else { self.lines.get(&seq).map(|line| line.n) }
    }

    pub fn part(&self, user: &UserId) -> Option<&MembershipPart> {
        self.parts.get(user)
    }

    /// Takes the next entry of the log.
    pub fn step(&mut self, entry: &Entry) -> Result<(), String> {
        assert_eq!(entry.seq, self.head.next(), "entries come in order");
        self.touched.clear();
        self.rules(entry).map_err(|why| format!("entry {} ({}) of {}: {why}", entry.seq, entry.kind, entry.conv))?;
        self.switch(entry);
        self.pulled += u64::from(self.mode == Mode::Pull);
        let countable = entry.kind == "message";
        let n = Count(self.n_head.0 + u64::from(countable));
        if entry.n != n {
            return Err(format!("entry {} of {} has n {}, it must be {n}", entry.seq, entry.conv, entry.n));
        }
        (self.head, self.n_head) = (entry.seq, n);
        if countable {
            self.n_sent.insert(entry.from.clone(), n);
        }
        let edits = match &entry.what {
            Some(What::Edit { target, .. }) => Some(*target),
            _ => None,
        };
        let named = match &entry.what {
            Some(What::Message { mentions, .. }) => Some(mentions.iter().cloned().collect()),
            Some(_) => Some(BTreeSet::new()),
            None => None,
        };
        let (from, kind) = (entry.from.clone(), entry.kind.clone());
        let line = Line { from, kind, n, msg_id: entry.msg_id, ts: entry.ts, edits, named };
        self.lines.insert(entry.seq, line);
        Ok(())
    }

    /// The entry that takes the members over a threshold is the switch: every member's part is made by it.
    fn switch(&mut self, entry: &Entry) {
        let Some((above, below)) = self.pull.filter(|_| !self.touched.is_empty()) else { return };
        let members = self.members().count() as u32;
        let mode = match (entry.conv.kind(), self.mode) {
            (ConvKind::Direct, mode) => mode,
            (ConvKind::Channel, _) => Mode::Pull,
            (ConvKind::Group, Mode::Push) if members > above => Mode::Pull,
            (ConvKind::Group, Mode::Pull) if members < below => Mode::Push,
            (ConvKind::Group, mode) => mode,
        };
        if mode != self.mode {
            let all: Vec<UserId> = self.members().cloned().collect();
            self.touched.extend(all);
            self.switches += u64::from(entry.seq > Seq(1));
            self.mode = mode;
        }
        for user in std::mem::take(&mut self.touched) {
            self.change(entry, &user, |part| part.mode = mode);
        }
    }

    fn rules(&mut self, entry: &Entry) -> Result<(), String> {
        let Some(what) = &entry.what else {
            if entry.kind == "edit" {
                self.blurred.insert(entry.seq);
            } else if What::kind_is_reserved(&entry.kind) {
                return Err("only messages and edits can be redacted".into());
            }
            return self.speaks(entry);
        };
        if what.kind() != entry.kind {
            return Err(format!("its content is a {}", what.kind()));
        }
        if entry.conv.kind() == ConvKind::Channel && matches!(what, What::Message { .. } | What::Edit { .. }) {
            self.admin(entry)?;
        }
        match what {
            What::Message { reply_to, .. } => {
                self.speaks(entry)?;
                reply_to.map_or(Ok(()), |seq| self.readable(entry, seq))
            }
            What::Edit { target, .. } => {
                let line = self.whole_message(entry, *target)?;
                if line.from == entry.from { Ok(()) } else { Err("it edits what another has written".into()) }
            }
            What::Delete { target } => {
                let own = self.whole_message(entry, *target)?.from == entry.from;
                if !own && self.role(&entry.from) < Some(Role::Admin) {
                    return Err("a member deletes what another has written".into());
                }
                let edits = self.lines.iter().filter(|(_, line)| line.edits == Some(*target)).map(|(seq, _)| *seq);
                let all: Vec<Seq> = edits.chain([*target]).collect();
                self.redacted.extend(all);
                Ok(())
            }
            What::React { target, .. } => self.whole_message(entry, *target).map(|_| ()),
            What::Create { name, members, history } => self.create(entry, name, members, *history),
            What::Add { users } => self.add(entry, users),
            What::Remove { user } => self.remove(entry, user),
            What::Leave { heir } => self.leave(entry, heir.as_ref()),
            What::SetRole { user, role } => self.set_role(entry, user, *role),
            What::Rename { name } => {
                self.admin(entry)?;
                self.name.clone_from(name);
                Ok(())
            }
            What::SetHistory { history } => {
                self.admin(entry)?;
                self.history = *history;
                Ok(())
            }
        }
    }

    fn role(&self, user: &UserId) -> Option<Role> {
        self.part(user).filter(|part| is_member(part)).and_then(|part| part.role)
    }

    /// Of a member; the first message makes a direct conversation and both its members.
    fn speaks(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.conv.kind() == ConvKind::Direct && entry.seq == Seq(1) {
            let peer = entry.conv.peer_of(&entry.from).ok_or("its sender is not one of the two")?;
            self.join(entry, &entry.from.clone(), Role::Member);
            if peer != entry.from {
                self.join(entry, &peer, Role::Member);
            }
            return Ok(());
        }
        self.role(&entry.from).map(|_| ()).ok_or_else(|| format!("{} is no member", entry.from))
    }

    fn admin(&self, entry: &Entry) -> Result<(), String> {
        if self.role(&entry.from) >= Some(Role::Admin) { Ok(()) } else { Err(format!("{} is no admin", entry.from)) }
    }

    fn readable(&self, entry: &Entry, seq: Seq) -> Result<(), String> {
        let readable = seq < entry.seq && self.part(&entry.from).is_some_and(|part| may_read(part, seq));
        if readable { Ok(()) } else { Err(format!("{} may not read {seq}, which it is about", entry.from)) }
    }

    fn whole_message(&mut self, entry: &Entry, target: Seq) -> Result<&Line, String> {
        self.speaks(entry)?;
        self.readable(entry, target)?;
        if self.redacted.contains(&target) {
            return Err(format!("it is about {target}, which was deleted before"));
        }
        let line = self.lines.get(&target).ok_or_else(|| format!("it is about {target}, which does not exist"))?;
        if What::kind_is_reserved(&line.kind) {
            return Err(format!("it is about {target}, which is no message"));
        }
        Ok(line)
    }

    fn create(&mut self, entry: &Entry, name: &str, members: &[UserId], history: HistoryAccess) -> Result<(), String> {
        let derived = match entry.conv.kind() {
            ConvKind::Channel => ConvId::channel(&entry.from, entry.cid),
            _ => ConvId::group(&entry.from, entry.cid),
        };
        if entry.seq != Seq(1) || entry.conv != derived {
            return Err("a group is made by its first entry, under an id of its creator's".into());
        }
        (self.name, self.history) = (name.to_owned(), history);
        for user in members.iter().filter(|user| **user != entry.from) {
            self.join(entry, user, Role::Member);
        }
        self.join(entry, &entry.from.clone(), Role::Owner);
        Ok(())
    }

    fn add(&mut self, entry: &Entry, users: &[UserId]) -> Result<(), String> {
        self.admin(entry)?;
        let joining: BTreeSet<&UserId> = users.iter().filter(|user| self.role(user).is_none()).collect();
        if joining.is_empty() {
            return Err("all of them are members".into());
        }
        joining.into_iter().for_each(|user| self.join(entry, user, Role::Member));
        Ok(())
    }

    fn remove(&mut self, entry: &Entry, user: &UserId) -> Result<(), String> {
        self.admin(entry)?;
        let theirs = self.role(user).ok_or_else(|| format!("{user} is no member"))?;
        if *user == entry.from || self.role(&entry.from) <= Some(theirs) {
            return Err(format!("{} does not stand above {user}", entry.from));
        }
        self.end(entry, user);
        Ok(())
    }

    /// An owner's heir is the oldest admin, else the oldest member.
    fn leave(&mut self, entry: &Entry, heir: Option<&UserId>) -> Result<(), String> {
        let role = self.role(&entry.from).ok_or_else(|| format!("{} is no member", entry.from))?;
        let others = self.members().filter(|user| **user != entry.from);
        let since = |user: &UserId| self.parts[user].intervals.last().map(|stay| stay.from);
        let oldest = others.min_by_key(|user| (self.role(user) < Some(Role::Admin), since(user), (*user).clone()));
        let due = oldest.filter(|_| role == Role::Owner).cloned();
        if heir != due.as_ref() {
            return Err(format!("its heir is {heir:?}, it must be {due:?}"));
        }
        self.end(entry, &entry.from.clone());
        if let Some(heir) = due {
            self.give(entry, &heir, Role::Owner);
        }
        Ok(())
    }

    fn set_role(&mut self, entry: &Entry, user: &UserId, role: Role) -> Result<(), String> {
        if self.role(&entry.from) != Some(Role::Owner) || *user == entry.from {
            return Err("the owner gives roles, to others".into());
        }
        if self.role(user).is_none_or(|known| known == role) {
            return Err(format!("{user} is no member, or has this role"));
        }
        self.give(entry, user, role);
        if role == Role::Owner {
            self.give(entry, &entry.from.clone(), Role::Admin);
        }
        Ok(())
    }

    fn change(&mut self, entry: &Entry, user: &UserId, change: impl FnOnce(&mut MembershipPart)) {
        let part = self.parts.entry(user.clone()).or_default();
        change(part);
        part.mseq = entry.seq;
        self.touched.insert(user.clone());
        self.past.insert((user.clone(), entry.seq), part.clone());
    }

    fn give(&mut self, entry: &Entry, user: &UserId, role: Role) {
        self.change(entry, user, |part| part.role = Some(role));
    }

    fn join(&mut self, entry: &Entry, user: &UserId, role: Role) {
        let history_from = if self.history == HistoryAccess::Full { Seq(1) } else { entry.seq };
        let (from, n_before) = (entry.seq, self.n_head);
        let stay = Interval { from, n_before, until: None, n_until: Count(0), history_from };
        self.change(entry, user, |part| {
            part.intervals.push(stay);
            part.role = Some(role);
        });
    }

    fn end(&mut self, entry: &Entry, user: &UserId) {
        let n = self.n_head;
        self.change(entry, user, |part| {
            part.role = None;
            if let Some(stay) = part.intervals.last_mut() {
                (stay.until, stay.n_until) = (Some(entry.seq), n);
            }
        });
    }
}
