//! Lines in, lines out, for pipes: what is read is sent, what arrives is printed. No line is a command.
//!
//! One entry a line, fields apart by one tab, in this order for ever (fields may be added at the end):
//! `SEQ  UNIX_MS  CONVERSATION  FROM  KIND  TEXT  MENTIONS`, the last one the users that a message names, with a comma between.
//! In TEXT a backslash, a tab, a line feed and a carriage return are written
//! `\\`, `\t`, `\n`, `\r`, other control characters `\u{HEX}`; a body that is no UTF-8 is `\b{BASE64URL}`. A hole that the
//! server names has KIND `gap`, SEQ its first and TEXT its last seq.
//!
//! Invariant: an entry is printed before the store counts it as had, and only then acked. So with a store that lasts, no line
//! is lost; one that was printed when the process died may come again, with the same SEQ.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_proto::frame::{EntryFrame, Gap, Target};
use flotilla_proto::ids::{Blob, ConvId, UserId};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use crate::device::{Event, Handle, Outcome, SubmitError, message_naming};
use crate::store::{Change, Saved, Store, StoreError};

/// Lines that have no answer yet; reading pauses above.
const UNANSWERED_MAX: usize = 256;

type Out = Arc<Mutex<dyn Write + Send>>;

/// A store that prints what it is given to keep, of one conversation or of all, before it keeps it.
pub struct Printing<S> {
    store: S,
    only: Option<ConvId>,
    out: Out,
}

impl<S> Printing<S> {
    pub fn new(store: S, only: Option<ConvId>, out: Out) -> Self {
        Self { store, only, out }
    }

    fn line(&self, change: &Change) -> Option<String> {
        let wanted = |conv: &ConvId| self.only.as_ref().is_none_or(|only| only == conv);
        match change {
            Change::Entry(entry) if wanted(&entry.conv) => Some(entry_line(entry)),
            Change::Gap(gap) if wanted(&gap.conv) => Some(gap_line(gap)),
            _ => None,
        }
    }
}

impl<S: Store> Store for Printing<S> {
    fn load(&self) -> Saved {
        self.store.load()
    }

    fn commit(&mut self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreError>> {
        let lines: String = changes.iter().filter_map(|c| self.line(c)).collect();
        let out = self.out.clone();
        async move {
            if !lines.is_empty() {
                // A reader that is slow is waited for, off the runtime: the device acks later, and the server sends less. The
                // simulator marks it deprecated; nothing there has a terminal.
                #[allow(deprecated)]
                let printed = tokio::task::spawn_blocking(move || {
                    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
                    out.write_all(lines.as_bytes()).and_then(|()| out.flush())
                });
                let printed = printed.await.map_err(|e| StoreError::Task(e.to_string()))?;
                let failed = |source| StoreError::Io { what: "cannot write", path: "standard output".into(), source };
                printed.map_err(failed)?;
            }
            self.store.commit(changes).await
        }
        .boxed()
    }
}

fn entry_line(entry: &EntryFrame) -> String {
    let text = match entry.kind.as_str() {
        "delete" => entry.target.unwrap_or_default().to_string(),
        "react" => {
            let sign = if entry.on == Some(false) { "-" } else { "+" };
            let emoji = escaped(entry.emoji.as_deref().unwrap_or_default());
            format!("{} {sign}{emoji}", entry.target.unwrap_or_default())
        }
        "edit" => format!("{} {}", entry.target.unwrap_or_default(), body(entry.body.as_ref())),
        _ => body(entry.body.as_ref()),
    };
    let (kind, conv) = (escaped(&entry.kind), escaped(entry.conv.as_str()));
    let names: Vec<&str> = entry.mentions.iter().map(UserId::as_str).collect();
    format!("{}\t{}\t{conv}\t{}\t{kind}\t{text}\t{}\n", entry.seq, entry.ts.0, entry.from, names.join(","))
}

fn gap_line(gap: &Gap) -> String {
    format!("{}\t0\t{}\t\tgap\t{}\t\n", gap.from, escaped(gap.conv.as_str()), gap.to)
}

fn body(body: Option<&Blob>) -> String {
    match body.map(|b| (std::str::from_utf8(&b.0), b)) {
        None => String::new(),
        Some((Ok(text), _)) => escaped(text),
        Some((Err(_), blob)) => {
            let text = serde_json::to_value(blob).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
            format!("\\b{{{text}}}")
        }
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// What became of the lines.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub accepted: u64,
    pub rejected: u64,
    /// Not answered, or not decided: the store sends them again next time.
    pub unknown: u64,
    /// Why the device ended by itself.
    pub stopped: Option<String>,
}

pub struct Plain {
    pub to: Option<Target>,
    /// Go on printing after the last line was answered.
    pub follow: bool,
    /// For what is not answered when the input ends, or when it is told to stop.
    pub wait: Duration,
}

/// Until the input has ended and all is answered; with `follow` until `stop`. Notes for a person go to `say`.
pub async fn run(
    plain: Plain,
    handle: Handle,
    mut events: mpsc::Receiver<Event>,
    mut lines: mpsc::Receiver<String>,
    stop: impl Future<Output = ()>,
    mut say: impl FnMut(&str),
) -> Tally {
    tokio::pin!(stop);
    let mut tally = Tally::default();
    let mut open = FuturesUnordered::new();
    let mut reading = plain.to.is_some();
    loop {
        if !reading && !plain.follow {
            break;
        }
        tokio::select! {
            biased;
            () = &mut stop => break,
            event = events.recv() => match event {
                Some(event) => {
                    note(&event, &mut say);
                    if let Event::Stopped { code, reason } = event {
                        tally.stopped = Some(if code == 0 { reason } else { format!("{code} {reason}") });
                        break;
                    }
                }
                None => break,
            },
            Some(outcome) = open.next(), if !open.is_empty() => count(&mut tally, outcome, &mut say),
            line = lines.recv(), if reading && open.len() < UNANSWERED_MAX => match (line, plain.to.clone()) {
                // There is no message without content.
                (Some(line), _) if line.is_empty() => {}
                (Some(line), Some(to)) => match handle.submit(to, message_naming(line)).await {
                    Ok(ticket) => open.push(ticket.answer()),
                    Err(error) => refused(&mut tally, &error, &mut say),
                },
                _ => reading = false,
            },
        }
    }
    let rest = async {
        while let Some(outcome) = open.next().await {
            count(&mut tally, outcome, &mut say);
        }
    };
    // Events go on being taken, or the device would not ack, and its task not answer.
    let drain = async { while events.recv().await.is_some() {} };
    tokio::select! {
        biased;
        () = rest => {}
        () = drain => {}
        () = tokio::time::sleep(plain.wait) => {}
    }
    tally.unknown += open.len() as u64;
    handle.close().await;
    tally
}

fn count(tally: &mut Tally, outcome: Outcome, say: &mut impl FnMut(&str)) {
    match outcome {
        Outcome::Accepted(_) => tally.accepted += 1,
        Outcome::Rejected(error) => {
            tally.rejected += 1;
            say(&format!("not sent: {error}"));
        }
        Outcome::Unknown(why) => {
            tally.unknown += 1;
            say(&format!("perhaps sent: {why}"));
        }
    }
}

fn refused(tally: &mut Tally, error: &SubmitError, say: &mut impl FnMut(&str)) {
    tally.rejected += 1;
    say(&format!("not sent: {error}"));
}

fn note(event: &Event, say: &mut impl FnMut(&str)) {
    match event {
        Event::Connected { url, node, .. } => say(&format!("connected to node {node} at {url}")),
        Event::Disconnected { reason, .. } => say(&format!("disconnected: {reason}; connecting again")),
        Event::Hole { conv, stored, got, .. } => {
            say(&format!("{conv}: between {stored} and {got} something is missing"))
        }
        Event::Reset => say("this device is new to the server"),
        Event::Stale(cid) => say(&format!("given up, too old to be sent: {cid}")),
        Event::CaughtUp { .. }
        | Event::Stopped { .. }
        | Event::Entry(_)
        | Event::Gap(_)
        | Event::Conv(_)
        | Event::Signal(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_whatever_it_holds() {
        assert_eq!(escaped("a\tb\\n\nc\r\u{1b}[2J"), "a\\tb\\\\n\\nc\\r\\u{1b}[2J");
        assert_eq!(body(Some(&Blob::from(vec![0xff, 0xfe]))), "\\b{__4}");
        assert_eq!(body(Some(&Blob::from("ñ世".as_bytes().to_vec()))), "ñ世");
        assert_eq!(body(None), "");
    }
}
