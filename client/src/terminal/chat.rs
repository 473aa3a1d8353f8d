//! A conversation in plain lines: what is typed is sent, what arrives is printed, `/` begins a command.

use std::io::Write;

use flotilla_proto::entry::HistoryAccess;
use flotilla_proto::frame::{EntryFrame, History, Target};
use flotilla_proto::ids::{ConvId, ConvKind, UserId};
use tokio::sync::mpsc;

use super::tail::text;
use crate::device::{Event, Handle, Outcome, message, random_cid};

/// Answers and pages that wait to be printed.
const PRINTED_MAX: usize = 64;
const PAGE: u32 = 20;

const HELP: &str = "\
/to USER               talk to this user
/group NAME USER...    make a group and talk there
/in CONVERSATION       talk in this conversation
/add USER...           let users into the group
/remove USER           put a user out of the group
/leave                 leave the group
/history               the newest messages here
/quit                  leave";

/// A line as it was understood.
#[derive(Debug, PartialEq)]
enum Typed {
    Say(String),
    To(UserId),
    In(ConvId),
    Group(String, Vec<UserId>),
    Add(Vec<UserId>),
    Remove(UserId),
    Leave,
    History,
    Help,
    Quit,
    Nothing,
    Wrong(String),
}

fn parse(line: &str) -> Typed {
    let line = line.trim_end();
    let Some(rest) = line.strip_prefix('/') else {
        return if line.is_empty() { Typed::Nothing } else { Typed::Say(line.to_owned()) };
    };
    let mut words = rest.split_whitespace();
    let command = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    let users = |names: &[&str]| names.iter().map(|n| UserId::parse(n)).collect::<Result<Vec<_>, _>>();
    let wrong = |e: flotilla_proto::ids::IdError| Typed::Wrong(e.to_string());
    match (command, words.as_slice()) {
        ("to", [name]) => UserId::parse(name).map_or_else(wrong, Typed::To),
        ("in", [id]) => ConvId::parse(id).map_or_else(wrong, Typed::In),
        ("group", [name, rest @ ..]) => users(rest).map_or_else(wrong, |u| Typed::Group((*name).to_owned(), u)),
        ("add", rest @ [_, ..]) => users(rest).map_or_else(wrong, Typed::Add),
        ("remove", [name]) => UserId::parse(name).map_or_else(wrong, Typed::Remove),
        ("leave", []) => Typed::Leave,
        ("history", []) => Typed::History,
        ("help", _) => Typed::Help,
        ("quit" | "q", []) => Typed::Quit,
        // A line that begins with two is text.
        _ if rest.starts_with('/') => Typed::Say(rest.to_owned()),
        _ => Typed::Wrong(format!("/{command} is not a command as typed; /help lists them")),
    }
}

struct Room {
    handle: Handle,
    here: Option<Target>,
    print: mpsc::Sender<String>,
}

/// Runs until `/quit`, the end of the input, or the device's stop. `to`: whom to talk to at first.
pub async fn chat(
    handle: Handle,
    events: &mut mpsc::Receiver<Event>,
    mut typed: mpsc::Receiver<String>,
    to: Option<Target>,
    out: &mut (dyn Write + Send),
) -> std::io::Result<()> {
    let (print, mut printed) = mpsc::channel(PRINTED_MAX);
    let me = handle.user().clone();
    let mut room = Room { handle, here: to, print };
    writeln!(out, "you are {me}; /help lists the commands")?;
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                None => return Ok(()),
                Some(event) => {
                    if let Some(line) = shown(&me, &event) {
                        writeln!(out, "{line}")?;
                    }
                    mark_read(&room, &event).await;
                    if matches!(event, Event::Stopped { .. }) {
                        return Ok(());
                    }
                }
            },
            Some(line) = printed.recv() => writeln!(out, "{line}")?,
            line = typed.recv() => match parse(line.as_deref().unwrap_or("/quit")) {
                Typed::Quit => return Ok(()),
                other => {
                    if let Some(line) = room.on_typed(other).await {
                        writeln!(out, "{line}")?;
                    }
                }
            },
        }
        out.flush()?;
    }
}

/// What stands on the screen was read.
async fn mark_read(room: &Room, event: &Event) {
    let (Event::Entry(entry), Some(here)) = (event, &room.here) else { return };
    if entry.conv == here.conv_for(room.handle.user()) && entry.from != *room.handle.user() {
        room.handle.read(entry.conv.clone(), entry.seq).await;
    }
}

impl Room {
    /// Does it, or starts it; a line to print at once.
    async fn on_typed(&mut self, typed: Typed) -> Option<String> {
        match typed {
            Typed::Quit | Typed::Nothing => None,
            Typed::Help => Some(HELP.to_owned()),
            Typed::Wrong(why) => Some(why),
            Typed::To(user) => self.go(Target::User(user)),
            Typed::In(conv) => self.go(Target::Conv(conv)),
            Typed::Say(line) => self.say(line).await,
            Typed::Group(name, users) => self.group(&name, &users).await,
            Typed::Add(users) => self.change(async |h, conv| h.add_members(random_cid(), conv, &users).await).await,
            Typed::Remove(user) => self.change(async |h, conv| h.remove_member(random_cid(), conv, &user).await).await,
            Typed::Leave => self.change(async |h, conv| h.leave(random_cid(), conv).await).await,
            Typed::History => self.history().await,
        }
    }

    fn go(&mut self, target: Target) -> Option<String> {
        let line = match &target {
            Target::User(user) => format!("now talking to {user}"),
            Target::Conv(conv) => format!("now talking in {conv}"),
        };
        self.here = Some(target);
        Some(line)
    }

    fn conv(&self) -> Option<ConvId> {
        self.here.as_ref().map(|here| here.conv_for(self.handle.user()))
    }

    async fn say(&self, line: String) -> Option<String> {
        let Some(here) = self.here.clone() else {
            return Some("to whom? /to USER".to_owned());
        };
        let ticket = match self.handle.submit(here, message(line)).await {
            Ok(ticket) => ticket,
            Err(error) => return Some(format!("not taken: {error}")),
        };
        let print = self.print.clone();
        tokio::spawn(async move {
            let line = match ticket.answer().await {
                Outcome::Accepted(_) => return,
                Outcome::Rejected(error) => format!("not sent: {error}"),
                Outcome::Unknown(why) => format!("perhaps sent: {why}"),
            };
            // The terminal may be gone.
            let _ = print.send(line).await;
        });
        None
    }

    async fn group(&mut self, name: &str, users: &[UserId]) -> Option<String> {
        match self.handle.create_group(random_cid(), name, users, HistoryAccess::FromJoin).await {
            Ok(conv) => self.go(Target::Conv(conv)),
            Err(error) => Some(error.to_string()),
        }
    }

    async fn change<T>(
        &self,
        change: impl AsyncFnOnce(&Handle, &ConvId) -> Result<T, crate::device::CallError>,
    ) -> Option<String> {
        match self.conv().filter(|conv| conv.kind() == ConvKind::Group) {
            None => Some("not in a group here; /in CONVERSATION".to_owned()),
            Some(conv) => change(&self.handle, &conv).await.err().map(|e| e.to_string()),
        }
    }

    async fn history(&self) -> Option<String> {
        let conv = self.conv()?;
        let page = History { conv, before: None, after: None, around: None, limit: Some(PAGE) };
        match self.handle.history(page).await {
            Err(error) => Some(error.to_string()),
            Ok(mut page) => {
                page.entries.sort_by_key(|e| e.seq);
                let me = self.handle.user();
                let lines: Vec<String> = page.entries.iter().map(|e| entry_line(me, e)).collect();
                Some(lines.join("\n"))
            }
        }
    }
}

/// The event as a line, if it is one for a person.
fn shown(me: &UserId, event: &Event) -> Option<String> {
    match event {
        Event::Entry(entry) => Some(entry_line(me, entry)),
        Event::Gap(gap) => Some(format!("({} to {} of {} are gone)", gap.from, gap.to, gap.conv)),
        Event::Hole { conv, stored, got, .. } => {
            Some(format!("! {conv}: between {stored} and {got} something is missing"))
        }
        Event::Disconnected { reason, .. } => Some(format!("(disconnected: {reason}; connecting again)")),
        Event::Connected { url, node, .. } => Some(format!("(connected to node {node} at {url})")),
        Event::Stopped { code, reason } => Some(format!("(closed: {code} {reason})")),
        Event::Reset => Some("(this device is new to the server)".to_owned()),
        Event::Stale(cid) => Some(format!("(an old message was given up: {cid})")),
        Event::CaughtUp { .. } | Event::Conv(_) | Event::Signal(_) => None,
    }
}

fn entry_line(me: &UserId, entry: &EntryFrame) -> String {
    let place = match entry.conv.peer_of(me) {
        Some(peer) => peer.to_string(),
        None => format!("{:.8}", entry.conv.as_str()),
    };
    let body = entry.body.as_ref().and_then(text);
    let said = match (entry.kind.as_str(), body) {
        ("message", Some(body)) => body.to_owned(),
        ("message", None) => "(no text)".to_owned(),
        ("edit", Some(body)) => format!("(edited {}) {body}", entry.target.unwrap_or_default()),
        ("delete", _) => format!("(deleted {})", entry.target.unwrap_or_default()),
        ("react", _) => {
            format!("{} on {}", entry.emoji.as_deref().unwrap_or_default(), entry.target.unwrap_or_default())
        }
        (kind, _) => format!("({kind})"),
    };
    // Control characters of somebody else must not drive this terminal.
    let said: String = said.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("[{place} {}] {}: {said}", entry.seq, entry.from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_text_unless_they_are_commands() {
        let bob = UserId::parse("bob").expect("valid");
        assert_eq!(parse("hello /to"), Typed::Say("hello /to".into()));
        assert_eq!(parse("//to"), Typed::Say("/to".into()));
        assert_eq!(parse("/to bob"), Typed::To(bob.clone()));
        assert_eq!(parse("/group crew bob"), Typed::Group("crew".into(), vec![bob]));
        assert_eq!(parse("/quit"), Typed::Quit);
        assert_eq!(parse("  "), Typed::Nothing);
        assert!(matches!(parse("/to b@d"), Typed::Wrong(_)));
        assert!(matches!(parse("/fly"), Typed::Wrong(_)));
    }
}
