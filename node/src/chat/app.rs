//! Runs the model on a terminal: draws, waits for whatever comes first, does what comes out.
//!
//! Invariant: the terminal is given back as it was, however this ends. Nothing here blocks on the network: what takes time
//! runs beside, and its answer comes back over one bounded queue.

use std::io;
use std::time::Duration;

use flotilla_client::device::{Event, Handle, Outcome, message_naming, random_cid};
use flotilla_proto::entry::HistoryAccess;
use flotilla_proto::frame::{History, Target};
use flotilla_proto::ids::{Cid, ConvId, Seq, UserId};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::keys;
use super::model::{Action, Answer, Link, Model};
use super::view;

/// Keys and answers that wait to be looked at.
const QUEUED_MAX: usize = 256;
const PAGE: u32 = 50;
const LIST_PAGE: u32 = 50;
/// What changes by time alone: who types, what is unanswered.
const TICK: Duration = Duration::from_millis(500);
/// Events looked at between two drawings.
const BATCH_MAX: usize = 256;

/// Until the person leaves.
pub async fn run(handle: Handle, events: mpsc::Receiver<Event>, to: Option<Target>) -> anyhow::Result<()> {
    let terminal = ratatui::try_init()?;
    let result = Screen::new(handle, terminal, to).run(events).await;
    ratatui::restore();
    result.map_err(Into::into)
}

struct Screen {
    handle: Handle,
    terminal: DefaultTerminal,
    model: Model,
    started: Instant,
    answers: mpsc::Sender<Answer>,
    answered: mpsc::Receiver<Answer>,
}

impl Screen {
    fn new(handle: Handle, terminal: DefaultTerminal, to: Option<Target>) -> Self {
        let (answers, answered) = mpsc::channel(QUEUED_MAX);
        let model = Model::new(handle.user().clone(), to);
        Self { handle, terminal, model, started: Instant::now(), answers, answered }
    }

    async fn run(mut self, mut events: mpsc::Receiver<Event>) -> io::Result<()> {
        let mut typed = typed();
        let mut tick = tokio::time::interval(TICK);
        let stop = flotilla_raft::seam::signal::stop();
        tokio::pin!(stop);
        loop {
            self.model.now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.terminal.draw(|frame| view::draw(frame, &mut self.model))?;
            let actions = tokio::select! {
                biased;
                // Ctrl-C is a key here; this is a supervisor, or the end of the terminal's session.
                _ = &mut stop => vec![Action::Quit],
                input = typed.recv() => match input {
                    Some(input) => keys::on_terminal(&mut self.model, input),
                    // The terminal is gone.
                    None => return Ok(()),
                },
                Some(answer) = self.answered.recv() => self.model.on_answer(answer),
                Some(event) = events.recv(), if !matches!(self.model.link, Link::Stopped(_)) => {
                    let mut actions = self.model.on_event(event);
                    // What has come together is drawn together.
                    for _ in 0..BATCH_MAX {
                        let Ok(event) = events.try_recv() else { break };
                        actions.extend(self.model.on_event(event));
                    }
                    actions
                }
                _ = tick.tick() => {
                    self.model.unanswered = self.handle.status().await.map_or(0, |s| s.unanswered);
                    Vec::new()
                }
            };
            for action in actions {
                match action {
                    Action::Quit => {
                        self.handle.close().await;
                        return Ok(());
                    }
                    Action::Redraw => self.terminal.clear()?,
                    Action::Send { cid, target, text } => self.send(cid, target, text).await,
                    Action::Read { conv, seq } => self.handle.read(conv, seq).await,
                    Action::Typing(conv) => self.handle.typing(conv).await,
                    other => self.ask(other),
                }
            }
        }
    }

    /// Kept before the next key is looked at: the order of lines is the order of messages.
    async fn send(&self, cid: Cid, target: Target, text: String) {
        let conv = target.conv_for(self.handle.user());
        let answers = self.answers.clone();
        let ticket = match self.handle.submit_as(cid, target, message_naming(text)).await {
            Ok(ticket) => ticket,
            Err(error) => {
                // A full queue: the line stays as one that is on its way, and is none; the count of unanswered ones tells.
                let _ = answers.try_send(Answer::Sent { conv, cid, failed: Some(error.to_string()) });
                return;
            }
        };
        tokio::spawn(async move {
            let failed = match ticket.answer().await {
                Outcome::Accepted(_) => None,
                Outcome::Rejected(error) => Some(format!("not sent: {error}")),
                Outcome::Unknown(why) => Some(format!("perhaps sent: {why}")),
            };
            // The screen may be gone.
            let _ = answers.send(Answer::Sent { conv, cid, failed }).await;
        });
    }

    fn ask(&self, action: Action) {
        let (handle, answers) = (self.handle.clone(), self.answers.clone());
        tokio::spawn(async move {
            if let Some(answer) = answer(&handle, action).await {
                // The screen may be gone.
                let _ = answers.send(answer).await;
            }
        });
    }
}

/// Keys and resizes. The reading thread ends with the process.
fn typed() -> mpsc::Receiver<Input> {
    let (tell, told) = mpsc::channel(QUEUED_MAX);
    // The simulator marks it deprecated; nothing there has a terminal.
    #[allow(deprecated)]
    tokio::task::spawn_blocking(move || {
        while let Ok(input) = event::read() {
            if tell.blocking_send(input).is_err() {
                return;
            }
        }
    });
    told
}

async fn answer(handle: &Handle, action: Action) -> Option<Answer> {
    let notice =
        |result: Result<Value, flotilla_client::device::CallError>| result.err().map(|e| Answer::Notice(e.to_string()));
    match action {
        Action::List { after } => Some(list(handle, after).await),
        Action::Page { conv, before } => Some(page(handle, conv, before).await),
        // Asked again at the next connection.
        Action::Watch(users) => handle.watch(users).await.ok().map(|value| Answer::Presence(presence(&value))),
        // As with presence.
        Action::Blocks => handle.blocks().await.ok().map(Answer::Blocked),
        Action::Receipts(group) => handle.watch_receipts(group.into_iter().collect()).await.ok().map(Answer::Receipts),
        Action::Group { name, users } => {
            let made = handle.create_group(random_cid(), &name, &users, HistoryAccess::FromJoin).await;
            Some(made.map_or_else(|e| Answer::Notice(e.to_string()), Answer::Made))
        }
        Action::Channel { name, users } => {
            let made = handle.create_channel(random_cid(), &name, &users, HistoryAccess::FromJoin).await;
            Some(made.map_or_else(|e| Answer::Notice(e.to_string()), Answer::Made))
        }
        Action::Add { conv, users } => notice(handle.add_members(random_cid(), &conv, &users).await),
        Action::Remove { conv, user } => notice(handle.remove_member(random_cid(), &conv, &user).await),
        Action::Leave(conv) => notice(handle.leave(random_cid(), &conv).await),
        Action::Send { .. } | Action::Read { .. } | Action::Typing(_) | Action::Redraw | Action::Quit => None,
    }
}

async fn list(handle: &Handle, after: Option<String>) -> Answer {
    // Asked again at the next connection.
    Answer::Listed(handle.list(after, LIST_PAGE).await.unwrap_or_default())
}

async fn page(handle: &Handle, conv: ConvId, before: Option<Seq>) -> Answer {
    let history = History { conv: conv.clone(), before, after: None, around: None, limit: Some(PAGE) };
    match handle.history(history).await {
        Ok(page) => Answer::Page { conv, entries: page.entries, more: page.more },
        Err(error) => Answer::NoPage { conv, why: error.to_string() },
    }
}

fn presence(value: &Value) -> Vec<(UserId, String)> {
    let rows = value["presence"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |row: &Value| Some((UserId::parse(row["user"].as_str()?).ok()?, row["state"].as_str()?.to_owned()));
    rows.iter().filter_map(one).collect()
}
