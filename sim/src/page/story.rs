//! What the page shows: lanes, what happened on them, who led, who was down, what was broken when.
//!
//! Columns instead of rows, for a run has tens of thousands of events. Times are microseconds since the run began.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_client::history::{Op, Record};
use serde::Serialize;

use crate::options::Options;
use crate::report::{Summary, Verdict};
use crate::run::Run;
use crate::trace::{self, Line};

/// What an event is to a reader; the page has a sign, a colour and a switch for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Send,
    Commit,
    Accepted,
    Refused,
    Push,
    Deliver,
    Ack,
    Session,
    Leader,
    Fault,
    Node,
    Way,
    Raft,
    Violation,
}

#[derive(Debug, Serialize)]
struct Lane {
    name: String,
    node: bool,
    user: Option<usize>,
}

/// A message: its cid, conversation, seq and who sent it.
#[derive(Debug, Serialize)]
struct Message {
    cid: String,
    conv: usize,
    seq: Option<u64>,
    lane: usize,
}

#[derive(Debug, Default, Serialize)]
struct Events {
    at: Vec<u64>,
    lane: Vec<usize>,
    kind: Vec<Kind>,
    conv: Vec<Option<usize>>,
    user: Vec<Option<usize>>,
    message: Vec<Option<usize>>,
    text: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Band {
    from: u64,
    to: u64,
    /// None: all of them.
    lanes: Vec<usize>,
    kind: &'static str,
    text: String,
}

#[derive(Debug, Serialize)]
struct Span {
    from: u64,
    to: u64,
    lane: usize,
    text: String,
    shard: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct Story {
    title: String,
    again: String,
    verdict: Verdict,
    why: Vec<String>,
    options: String,
    summary: Summary,
    end: u64,
    lanes: Vec<Lane>,
    convs: Vec<String>,
    users: Vec<String>,
    messages: Vec<Message>,
    events: Events,
    bands: Vec<Band>,
    leads: Vec<Span>,
    downs: Vec<Span>,
}

fn us(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

/// Numbers for names, in the order in which they come.
#[derive(Default)]
struct Names(BTreeMap<String, usize>, Vec<String>);

impl Names {
    fn of(&mut self, name: &str) -> usize {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        self.1.push(name.to_owned());
        self.0.insert(name.to_owned(), self.1.len() - 1);
        self.1.len() - 1
    }
}

struct Builder {
    lanes: Vec<Lane>,
    lane_of: BTreeMap<String, usize>,
    convs: Names,
    users: Names,
    messages: Vec<Message>,
    message_of: BTreeMap<String, usize>,
    events: Events,
    leads: Vec<Span>,
    leading: BTreeMap<(usize, u64), (u64, String)>,
    downs: Vec<Span>,
    down: BTreeMap<usize, u64>,
}

impl Story {
    pub fn of(run: &Run, again: &str) -> Self {
        let options = &run.summary.options;
        let mut builder = Builder::new(options, &run.records);
        builder.learn_messages(&run.records);
        let mut at_last = run.summary.simulated_us;
        let own = run.trace.lines(&[], run.origin);
        let seen = run.records.iter().map(|record| (run.origin + Duration::from_micros(record.at_us), record));
        let mut all: Vec<(Duration, Seen)> = own.iter().map(|line| (line.at, Seen::Line(line))).collect();
        all.extend(seen.map(|(at, record)| (at, Seen::Record(record))));
        all.sort_by_key(|(at, _)| at.as_micros());
        for (at, seen) in all {
            at_last = at_last.max(us(at));
            match seen {
                Seen::Line(line) => builder.on_line(line),
                Seen::Record(record) => builder.on_record(us(at), record),
            }
        }
        builder.mark_violations(&run.summary, run.origin, at_last);
        builder.close(at_last);
        let bands = run.trace.bands().iter().map(|band| builder.band(band)).collect();
        Self {
            title: format!("seed {}", options.seed),
            again: again.to_owned(),
            verdict: run.summary.verdict,
            why: run.summary.why.clone(),
            options: options.to_string(),
            summary: run.summary.clone(),
            end: at_last.max(1),
            lanes: builder.lanes,
            convs: builder.convs.1,
            users: builder.users.1,
            messages: builder.messages,
            events: builder.events,
            bands,
            leads: builder.leads,
            downs: builder.downs,
        }
    }
}

enum Seen<'a> {
    Line(&'a Line),
    Record(&'a Record),
}

/// Lane of what is neither a node nor a device.
const RUN: &str = "run";

impl Builder {
    fn new(options: &Options, records: &[Record]) -> Self {
        let mut builder = Self {
            lanes: Vec::new(),
            lane_of: BTreeMap::new(),
            convs: Names::default(),
            users: Names::default(),
            messages: Vec::new(),
            message_of: BTreeMap::new(),
            events: Events::default(),
            leads: Vec::new(),
            leading: BTreeMap::new(),
            downs: Vec::new(),
            down: BTreeMap::new(),
        };
        builder.lane(RUN, false, None);
        for node in 1..=options.nodes {
            builder.lane(&format!("node{node}"), true, None);
        }
        let mut devices: BTreeMap<&str, &str> = BTreeMap::new();
        for record in records {
            devices.entry(&record.device).or_insert(record.user.as_str());
        }
        for (device, user) in devices {
            let user = builder.users.of(user);
            builder.lane(device, false, Some(user));
        }
        builder
    }

    fn lane(&mut self, name: &str, node: bool, user: Option<usize>) {
        self.lane_of.insert(name.to_owned(), self.lanes.len());
        self.lanes.push(Lane { name: name.to_owned(), node, user });
    }

    fn lane_at(&self, place: &str) -> usize {
        self.lane_of.get(place).copied().unwrap_or(0)
    }

    /// Which cid is which message, before any of its steps is looked at.
    fn learn_messages(&mut self, records: &[Record]) {
        for record in records {
            match &record.op {
                Op::Invoked { cid, conv, .. } => {
                    let (conv, lane) = (self.convs.of(&conv.to_string()), self.lane_at(&record.device));
                    let number = self.messages.len();
                    if self.message_of.insert(cid.to_string(), number).is_none() {
                        self.messages.push(Message { cid: cid.to_string(), conv, seq: None, lane });
                    }
                }
                Op::Accepted { cid, accepted } => {
                    if let Some(number) = self.message_of.get(&cid.to_string()) {
                        self.messages[*number].seq = Some(accepted.seq.0);
                    }
                }
                _ => {}
            }
        }
    }

    fn push(&mut self, at: u64, lane: usize, kind: Kind, about: About, text: String) {
        let events = &mut self.events;
        events.at.push(at);
        events.lane.push(lane);
        events.kind.push(kind);
        events.conv.push(about.conv);
        events.user.push(about.user);
        events.message.push(about.message);
        events.text.push(text);
    }

    fn on_line(&mut self, line: &Line) {
        let (at, lane) = (us(line.at), self.lane_at(&line.place));
        let field = |name: &str| line.fields.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
        let number = |name: &str| field(name).and_then(|v| v.parse::<u64>().ok());
        if line.text.starts_with("leading") {
            let (shard, term) = (number("shard").unwrap_or(0), field("term").unwrap_or("?").to_owned());
            self.ends_leading(lane, Some(shard), at);
            self.leading.insert((lane, shard), (at, term));
        } else if line.text.starts_with("no longer leading") {
            self.ends_leading(lane, number("shard"), at);
        } else if line.place == "nemesis" {
            self.on_nemesis(at, &line.text);
        } else if line.place == "checker" {
            let lane = self.lane_named_in(&line.text);
            return self.push(at, lane, Kind::Violation, self.about_of(&line.text), line.text.clone());
        }
        let message = field("cid").and_then(|cid| self.message_of.get(cid)).copied();
        let conv = field("conv").map(|conv| self.convs.of(conv)).or(message.map(|m| self.messages[m].conv));
        let user = field("user").and_then(|user| self.users.0.get(user)).copied();
        let leads = number("shard").is_some_and(|shard| self.leading.contains_key(&(lane, shard)));
        let kind = match field("stage").filter(|_| line.detail) {
            Some("apply") if leads => Kind::Commit,
            Some("append" | "durable" | "applied" | "apply") => Kind::Raft,
            Some("entry") => Kind::Push,
            Some("ack" | "marks" | "cursor") => Kind::Ack,
            Some(_) => Kind::Way,
            None if line.place == "nemesis" => Kind::Fault,
            None if line.text.contains("leading") => Kind::Leader,
            None => Kind::Node,
        };
        self.push(at, lane, kind, About { conv, user, message }, line.text.clone());
    }

    /// Deaths and returns of nodes, as the nemesis tells them.
    fn on_nemesis(&mut self, at: u64, text: &str) {
        let node = text.split([' ', ':', ',']).find(|word| word.starts_with("node"));
        let Some(lane) = node.and_then(|node| self.lane_of.get(node)).copied() else { return };
        if text.contains("kills") {
            self.ends_leading(lane, None, at);
            self.down.entry(lane).or_insert(at);
        } else if text.contains("restarts")
            && let Some(from) = self.down.remove(&lane)
        {
            self.downs.push(Span { from, to: at, lane, text: "down".into(), shard: None });
        }
    }

    /// Of one shard, or of all.
    fn ends_leading(&mut self, lane: usize, shard: Option<u64>, at: u64) {
        let over: Vec<(usize, u64)> =
            self.leading.keys().filter(|(l, s)| *l == lane && shard.is_none_or(|shard| shard == *s)).copied().collect();
        for key in over {
            if let Some((from, term)) = self.leading.remove(&key) {
                let text = format!("shard {} term {term}", key.1);
                self.leads.push(Span { from, to: at, lane, text, shard: Some(key.1) });
            }
        }
    }

    fn on_record(&mut self, at: u64, record: &Record) {
        let Some(text) = trace::describe(&record.op) else { return };
        let (kind, cid, conv) = match &record.op {
            Op::Invoked { cid, conv, .. } => (Kind::Send, Some(*cid), Some(conv)),
            Op::Accepted { cid, accepted } => (Kind::Accepted, Some(*cid), Some(&accepted.conv)),
            Op::Rejected { cid, .. } | Op::Unknown { cid, .. } => (Kind::Refused, Some(*cid), None),
            Op::Entry { entry } => (Kind::Deliver, Some(entry.cid), Some(&entry.conv)),
            Op::Gap { gap } => (Kind::Deliver, None, Some(&gap.conv)),
            Op::Page { ask, .. } => (Kind::Node, None, Some(&ask.conv)),
            Op::Hole { conv, .. } => (Kind::Refused, None, Some(conv)),
            Op::Acked { conv, .. } => (Kind::Ack, None, Some(conv)),
            Op::Read { conv, .. } => (Kind::Ack, None, Some(conv)),
            Op::Conv { conv } => (Kind::Deliver, None, Some(&conv.conv)),
            Op::Receipts { conv, .. } => (Kind::Deliver, None, Some(conv)),
            Op::Connected { .. } | Op::CaughtUp | Op::Closed { .. } | Op::Reset => (Kind::Session, None, None),
            Op::Note { .. } | Op::Watched { .. } => (Kind::Node, None, None),
        };
        let message = cid.and_then(|cid| self.message_of.get(&cid.to_string())).copied();
        let conv = conv.map(|conv| self.convs.of(&conv.to_string())).or(message.map(|m| self.messages[m].conv));
        let (lane, user) = (self.lane_at(&record.device), self.users.0.get(record.user.as_str()).copied());
        self.push(at, lane, kind, About { conv, user, message }, text);
    }

    /// The first lane that a sentence names: `node 3`, `node3` or a device.
    fn lane_named_in(&self, text: &str) -> usize {
        let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '/').collect();
        let pairs = words.windows(2).filter(|pair| pair[0] == "node").map(|pair| format!("node{}", pair[1]));
        let mut names = words.iter().map(|word| (*word).to_owned()).chain(pairs);
        names.find_map(|name| self.lane_of.get(&name).copied().filter(|lane| *lane > 0)).unwrap_or(0)
    }

    /// The first message whose cid a sentence names.
    fn about_of(&self, text: &str) -> About {
        let mut words = text.split(|c: char| !c.is_ascii_hexdigit() && c != '-');
        let message = words.find_map(|word| self.message_of.get(word)).copied();
        About { conv: message.map(|m| self.messages[m].conv), user: None, message }
    }

    /// A flag at every record that a violation names as its evidence; at the end of the run if it names none and no
    /// checker has spoken at the event.
    fn mark_violations(&mut self, summary: &Summary, origin: Duration, end: u64) {
        if summary.verdict != Verdict::Violated {
            return;
        }
        let spoken =
            |events: &Events, first: &str| events.text.iter().any(|t| t.starts_with("VIOLATION") && t.contains(first));
        for why in &summary.why {
            let first = why.lines().next().unwrap_or_default();
            let first = first.strip_prefix("violated: ").unwrap_or(first).to_owned();
            let about = self.about_of(&first);
            let named: Vec<Record> = why.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect();
            for record in &named {
                let lane = self.lane_at(&record.device);
                self.push(us(origin) + record.at_us, lane, Kind::Violation, about, first.clone());
            }
            if named.is_empty() && !spoken(&self.events, &first) {
                self.push(end, 0, Kind::Violation, about, first);
            }
        }
    }

    fn close(&mut self, end: u64) {
        for lane in 0..self.lanes.len() {
            self.ends_leading(lane, None, end);
        }
        for (lane, from) in std::mem::take(&mut self.down) {
            self.downs.push(Span { from, to: end, lane, text: "down".into(), shard: None });
        }
        let events = &mut self.events;
        let mut order: Vec<usize> = (0..events.at.len()).collect();
        order.sort_by_key(|i| events.at[*i]);
        *events = Events {
            at: order.iter().map(|i| events.at[*i]).collect(),
            lane: order.iter().map(|i| events.lane[*i]).collect(),
            kind: order.iter().map(|i| events.kind[*i]).collect(),
            conv: order.iter().map(|i| events.conv[*i]).collect(),
            user: order.iter().map(|i| events.user[*i]).collect(),
            message: order.iter().map(|i| events.message[*i]).collect(),
            text: order.iter().map(|i| std::mem::take(&mut events.text[*i])).collect(),
        };
    }

    /// Which lanes a fault concerns is read from its own fields: indexes of nodes, or of a user, under these names. A fault
    /// that names nobody concerns all.
    fn band(&self, band: &trace::Band) -> Band {
        let fault = serde_json::to_value(&band.fault).unwrap_or_default();
        let fields = fault.as_object().and_then(|kinds| kinds.values().next()).cloned().unwrap_or_default();
        let mut lanes = Vec::new();
        for name in ["node", "nodes", "from", "to", "a", "b", "order", "user"] {
            let named = match &fields[name] {
                serde_json::Value::Array(list) => list.iter().filter_map(serde_json::Value::as_u64).collect(),
                one => one.as_u64().into_iter().collect::<Vec<_>>(),
            };
            let kind = if name == "user" { "user" } else { "node" };
            lanes.extend(named.iter().filter_map(|index| self.lane_of.get(&format!("{kind}{}", index + 1))));
        }
        lanes.sort_unstable();
        lanes.dedup();
        let text = format!("{:?}", band.fault);
        Band { from: us(band.from), to: us(band.to), lanes, kind: band.fault.kind(), text }
    }
}

/// What an event is about, for the filters.
#[derive(Debug, Clone, Copy, Default)]
struct About {
    conv: Option<usize>,
    user: Option<usize>,
    message: Option<usize>,
}
