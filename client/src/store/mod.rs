//! What a device must keep across crashes: who it is, its `rev`, unanswered commands, positions, read marks, entries.
//!
//! Invariant: a commit is all or nothing, and durable when it returns: a command before its first attempt, an entry together
//! with its position before its ack. The store knows nothing of connections.

mod file;
mod mem;

pub use file::FileStore;
pub use mem::MemStore;

use std::collections::BTreeMap;

use flotilla_proto::entry::What;
use flotilla_proto::frame::{Conv, EntryFrame, Gap, RevToken};
use flotilla_proto::ids::{Cid, ConvId, DeviceId, Seq, UserId};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: String, source: std::io::Error },
    #[error("{path} is in use by another process")]
    Locked { path: String },
    #[error("{path} is damaged at byte {at}: {why}; what lies before it is whole, move the file away to start anew")]
    Damaged { path: String, at: u64, why: String },
    #[error("{path} was written by a newer version ({found}, known: {known})")]
    Newer { path: String, found: u8, known: u8 },
    #[error("the store's task ended: {0}")]
    Task(String),
}

/// One change; several make a transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    Install(String),
    Device {
        user: UserId,
        device: DeviceId,
    },
    Rev(Option<RevToken>),
    Command(SavedCommand),
    /// The command has its final answer.
    Answered(Cid),
    /// Stored, with everything below: may be acked.
    Position {
        conv: ConvId,
        seq: Seq,
    },
    /// Another device id: its cursors are other ones.
    PositionsDropped,
    Read {
        conv: ConvId,
        seq: Seq,
    },
    Entry(Box<EntryFrame>),
    Gap(Gap),
    Conv(Box<Conv>),
}

/// A command whose answer is not known yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedCommand {
    pub cid: Cid,
    pub conv: ConvId,
    /// Set for a `send` that may make its direct conversation.
    pub to: Option<UserId>,
    pub what: What,
    /// Wall clock at the time of saving, which is before the first attempt.
    pub saved_ms: u64,
}

/// The store's state as a device needs it at its start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Saved {
    pub install: String,
    pub device: Option<(UserId, DeviceId)>,
    pub rev: Option<RevToken>,
    /// In the order in which they were given.
    pub commands: Vec<SavedCommand>,
    pub positions: BTreeMap<ConvId, Seq>,
    pub reads: BTreeMap<ConvId, Seq>,
}

impl Saved {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Install(secret) => self.install.clone_from(secret),
            Change::Device { user, device } => self.device = Some((user.clone(), *device)),
            Change::Rev(rev) => self.rev.clone_from(rev),
            Change::Command(command) => self.commands.push(command.clone()),
            Change::Answered(cid) => self.commands.retain(|c| c.cid != *cid),
            Change::Position { conv, seq } => raise(&mut self.positions, conv, *seq),
            Change::PositionsDropped => self.positions.clear(),
            Change::Read { conv, seq } => raise(&mut self.reads, conv, *seq),
            Change::Entry(_) | Change::Gap(_) | Change::Conv(_) => {}
        }
    }

    /// The fewest changes that lead here from nothing.
    pub fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        if !self.install.is_empty() {
            changes.push(Change::Install(self.install.clone()));
        }
        changes.extend(self.device.clone().map(|(user, device)| Change::Device { user, device }));
        changes.push(Change::Rev(self.rev.clone()));
        changes.extend(self.commands.iter().cloned().map(Change::Command));
        changes.extend(self.positions.iter().map(|(conv, seq)| Change::Position { conv: conv.clone(), seq: *seq }));
        changes.extend(self.reads.iter().map(|(conv, seq)| Change::Read { conv: conv.clone(), seq: *seq }));
        changes
    }
}

impl Change {
    /// Content that was received, as opposed to the device's own state.
    pub fn is_content(&self) -> bool {
        matches!(self, Change::Entry(_) | Change::Gap(_) | Change::Conv(_))
    }
}

fn raise(marks: &mut BTreeMap<ConvId, Seq>, conv: &ConvId, seq: Seq) {
    match marks.get_mut(conv) {
        Some(mark) => *mark = seq.max(*mark),
        None => {
            marks.insert(conv.clone(), seq);
        }
    }
}

pub trait Store: Send + 'static {
    fn load(&self) -> Saved;

    /// Durable when it returns; after an error nothing may be assumed, and the device stops.
    fn commit(&mut self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreError>>;
}

impl<S: Store + ?Sized> Store for Box<S> {
    fn load(&self) -> Saved {
        (**self).load()
    }

    fn commit(&mut self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreError>> {
        (**self).commit(changes)
    }
}

/// The store's secret; made and kept at the first use.
pub async fn install_of(store: &mut dyn Store) -> Result<String, StoreError> {
    let known = store.load().install;
    if !known.is_empty() {
        return Ok(known);
    }
    let made = format!("{:032x}", rand::random::<u128>());
    store.commit(vec![Change::Install(made.clone())]).await?;
    Ok(made)
}
