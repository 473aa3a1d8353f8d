//! The application's side of a device: commands in, events out.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_proto::entry::{HistoryAccess, What};
use flotilla_proto::frame::{
    Accepted, Call as CallFrame, ClientFrame, Conv, ConvReceipts, EntryFrame, ErrorBody, Gap, History, HistoryReply,
    ReceiptsReply, Reply, Signal, SyncReply, SyncRequest, Target, Watch, WatchReceipts,
};
use flotilla_proto::ids::{Blob, Cid, ConvId, DeviceId, NodeId, Seq, UserId};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::calls::{Call, CallError, Noted};
use crate::clock;
use crate::store::SavedCommand;

/// The answer to a command. Exactly three exist.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Accepted(Accepted),
    /// No effect.
    Rejected(ErrorBody),
    /// May or may not have happened; this device will not try again by itself.
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("too many commands wait for an answer")]
    Full,
    #[error("this device has stopped: {0}")]
    Stopped(String),
    #[error("only messages, edits, deletions and reactions go through the outbox")]
    NotACommand,
}

/// What happens on a device, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Connected {
        url: String,
        node: NodeId,
        user: UserId,
        device: DeviceId,
    },
    /// Everything pending at the connect has been received, but for these.
    CaughtUp {
        behind: Vec<ConvId>,
    },
    /// Stored; each (conversation, seq) once.
    Entry(Box<EntryFrame>),
    Gap(Gap),
    Conv(Box<Conv>),
    Signal(Signal),
    /// Something is missing and no gap said so. `believed`: seen twice, the device goes on behind it.
    Hole {
        conv: ConvId,
        stored: Seq,
        got: Seq,
        believed: bool,
    },
    /// Older than the time for which a device resends by itself: ask the person.
    Stale(Cid),
    Disconnected {
        code: u16,
        reason: String,
    },
    /// The server does not know this device's past any more.
    Reset,
    /// The device will not come back by itself.
    Stopped {
        code: u16,
        reason: String,
    },
}

/// Where a device stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    pub connected: Option<String>,
    pub caught_up: bool,
    pub device: Option<DeviceId>,
    /// Commands without an answer.
    pub unanswered: usize,
    pub positions: BTreeMap<ConvId, Seq>,
    pub stopped: Option<String>,
}

#[derive(Debug)]
pub(super) enum Ask {
    Submit {
        command: Box<SavedCommand>,
        pipelined: bool,
        taken: oneshot::Sender<Result<(), SubmitError>>,
        done: oneshot::Sender<Outcome>,
    },
    Call {
        call: Box<Call>,
        limit: Duration,
    },
    Read {
        conv: ConvId,
        seq: Seq,
    },
    Typing(ConvId),
    Status(oneshot::Sender<Status>),
    Close(oneshot::Sender<()>),
}

/// A command that is durably in the outbox.
#[derive(Debug)]
pub struct Ticket {
    pub cid: Cid,
    answer: oneshot::Receiver<Outcome>,
}

impl Ticket {
    pub async fn answer(self) -> Outcome {
        self.answer.await.unwrap_or_else(|_| Outcome::Unknown("the device was dropped".into()))
    }
}

/// Cheap to clone; when the last one is dropped the device goes away as in a crash.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) user: UserId,
    pub(super) asks: mpsc::Sender<Ask>,
}

const CALL_LIMIT: Duration = Duration::from_secs(30);

pub fn random_cid() -> Cid {
    // The version and variant bits of a random UUID.
    let random: u128 = rand::random();
    Cid((random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62))
}

/// For a new message: a UUID of version 7 (RFC 9562), which begins with the time. A server that finds a cid above all those of its
/// sender knows without a look at its disk that it is new; where a clock is wrong it looks. What makes it unique are 62 random bits.
pub fn timed_cid() -> Cid {
    cid_at(clock::wall(), rand::random())
}

fn cid_at(wall: Duration, random: u128) -> Cid {
    /// Of a millisecond, in 12 bits.
    const PARTS: u128 = 1 << 12;
    const MS_NANOS: u128 = 1_000_000;
    let ms = wall.as_millis() & 0xffff_ffff_ffff;
    let part = wall.as_nanos() % MS_NANOS * PARTS / MS_NANOS;
    Cid((ms << 80) | (0x7 << 76) | (part << 64) | (0x2 << 62) | (random & ((1 << 62) - 1)))
}

impl Handle {
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// A text message; returns with its answer, however long that takes.
    pub async fn send(&self, target: Target, body: impl Into<Vec<u8>>) -> Result<Outcome, SubmitError> {
        Ok(self.submit(target, message(body)).await?.answer().await)
    }

    pub async fn edit(&self, conv: ConvId, seq: Seq, body: impl Into<Vec<u8>>) -> Result<Outcome, SubmitError> {
        let what = What::Edit { target: seq, body: Blob::from(body.into()) };
        Ok(self.submit(Target::Conv(conv), what).await?.answer().await)
    }

    pub async fn delete(&self, conv: ConvId, seq: Seq) -> Result<Outcome, SubmitError> {
        Ok(self.submit(Target::Conv(conv), What::Delete { target: seq }).await?.answer().await)
    }

    pub async fn react(&self, conv: ConvId, seq: Seq, emoji: &str, on: bool) -> Result<Outcome, SubmitError> {
        let what = What::React { target: seq, emoji: emoji.to_owned(), on };
        Ok(self.submit(Target::Conv(conv), what).await?.answer().await)
    }

    /// Returns once the command is durable; its answer comes with the ticket. Commands of one conversation are applied in
    /// the order of these calls.
    pub async fn submit(&self, target: Target, what: What) -> Result<Ticket, SubmitError> {
        self.submit_as(timed_cid(), target, what).await
    }

    /// With a cid of the caller's own.
    pub async fn submit_as(&self, cid: Cid, target: Target, what: What) -> Result<Ticket, SubmitError> {
        if !matches!(what, What::Message { .. } | What::Edit { .. } | What::Delete { .. } | What::React { .. }) {
            return Err(SubmitError::NotACommand);
        }
        let conv = target.conv_for(&self.user);
        let to = match target {
            Target::User(user) => Some(user),
            Target::Conv(_) => None,
        };
        let command = SavedCommand { cid, conv, to, what, saved_ms: clock::wall_ms() };
        let ((taken, was_taken), (done, answer)) = (oneshot::channel(), oneshot::channel());
        let gone = || SubmitError::Stopped("the device was dropped".into());
        let ask = Ask::Submit { command: Box::new(command), pipelined: true, taken, done };
        self.asks.send(ask).await.map_err(|_| gone())?;
        was_taken.await.map_err(|_| gone())??;
        Ok(Ticket { cid, answer })
    }

    /// Any REST operation over the socket: `POST groups`, with the key that repeats carry.
    pub async fn call(&self, method: &str, key: Option<Cid>, params: Value) -> Result<Value, CallError> {
        self.call_noted(method, key, params, None).await
    }

    async fn call_noted(
        &self,
        method: &str,
        key: Option<Cid>,
        params: Value,
        noted: Option<Noted>,
    ) -> Result<Value, CallError> {
        let frame = ClientFrame::Call(CallFrame { method: method.to_owned(), key, params });
        match self.request(frame, noted).await? {
            Reply::Value(value) => Ok(value),
            Reply::History(page) => Ok(serde_json::to_value(page).unwrap_or_default()),
            Reply::Sync(page) => Ok(serde_json::to_value(page).unwrap_or_default()),
        }
    }

    async fn request(&self, frame: ClientFrame, noted: Option<Noted>) -> Result<Reply, CallError> {
        let (done, answer) = oneshot::channel();
        let ask = Ask::Call { call: Box::new(Call { frame, noted, done }), limit: CALL_LIMIT };
        let gone = || CallError::Unknown("the device was dropped".into());
        self.asks.send(ask).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Makes a group with this user as its owner; its id follows from (creator, key).
    pub async fn create_group(
        &self,
        key: Cid,
        name: &str,
        members: &[UserId],
        history: HistoryAccess,
    ) -> Result<ConvId, CallError> {
        let params = json!({"name": name, "members": members, "history": history});
        self.create(ConvId::group(&self.user, key), key, name, members, history, params).await
    }

    /// One to many: only admins write in it, and it may have very many members.
    pub async fn create_channel(
        &self,
        key: Cid,
        name: &str,
        members: &[UserId],
        history: HistoryAccess,
    ) -> Result<ConvId, CallError> {
        let params = json!({"name": name, "members": members, "history": history, "kind": "channel"});
        self.create(ConvId::channel(&self.user, key), key, name, members, history, params).await
    }

    async fn create(
        &self,
        conv: ConvId,
        key: Cid,
        name: &str,
        members: &[UserId],
        history: HistoryAccess,
        params: Value,
    ) -> Result<ConvId, CallError> {
        let what = What::Create { name: name.to_owned(), members: members.to_vec(), history };
        let noted = Noted { cid: key, conv: conv.clone(), what };
        self.call_noted("POST groups", Some(key), params, Some(noted)).await?;
        Ok(conv)
    }

    pub async fn add_members(&self, key: Cid, conv: &ConvId, users: &[UserId]) -> Result<Value, CallError> {
        let noted = Noted { cid: key, conv: conv.clone(), what: What::Add { users: users.to_vec() } };
        let method = format!("POST conversations/{conv}/members");
        self.call_noted(&method, Some(key), json!({"users": users}), Some(noted)).await
    }

    pub async fn remove_member(&self, key: Cid, conv: &ConvId, user: &UserId) -> Result<Value, CallError> {
        // To put oneself out is to leave.
        let what = if *user == self.user { What::Leave { heir: None } } else { What::Remove { user: user.clone() } };
        let noted = Noted { cid: key, conv: conv.clone(), what };
        let method = format!("DELETE conversations/{conv}/members/{user}");
        self.call_noted(&method, Some(key), json!({}), Some(noted)).await
    }

    pub async fn leave(&self, key: Cid, conv: &ConvId) -> Result<Value, CallError> {
        let noted = Noted { cid: key, conv: conv.clone(), what: What::Leave { heir: None } };
        let method = format!("DELETE conversations/{conv}/members/{}", self.user);
        self.call_noted(&method, Some(key), json!({}), Some(noted)).await
    }

    pub async fn rename_group(&self, key: Cid, conv: &ConvId, name: &str) -> Result<Value, CallError> {
        let noted = Noted { cid: key, conv: conv.clone(), what: What::Rename { name: name.to_owned() } };
        let method = format!("PATCH conversations/{conv}");
        self.call_noted(&method, Some(key), json!({"name": name}), Some(noted)).await
    }

    /// Everything up to `seq` was read by the person.
    pub async fn read(&self, conv: ConvId, seq: Seq) {
        // A dropped device has nobody to tell.
        let _ = self.asks.send(Ask::Read { conv, seq }).await;
    }

    /// This person types there, now. Not kept: without a connection nobody learns it.
    pub async fn typing(&self, conv: ConvId) {
        // As with `read`.
        let _ = self.asks.send(Ask::Typing(conv)).await;
    }

    /// Who of these is here, and signals when that changes: on this connection only, so again after each `Connected`.
    pub async fn watch(&self, users: Vec<UserId>) -> Result<Value, CallError> {
        match self.request(ClientFrame::Presence(Watch { watch: users }), None).await? {
            Reply::Value(value) => Ok(value),
            other => Err(CallError::Unknown(format!("not an answer about presence: {other:?}"))),
        }
    }

    /// How far members of these groups are (at most 8; none: nothing is watched any more), and signals when that changes: on this
    /// connection only, so again after each `Connected`. The highest of each mark counts; one that is missing follows as a signal.
    pub async fn watch_receipts(&self, convs: Vec<ConvId>) -> Result<Vec<ConvReceipts>, CallError> {
        match self.request(ClientFrame::Receipts(WatchReceipts { watch: convs }), None).await? {
            Reply::Value(value) => serde_json::from_value::<ReceiptsReply>(value)
                .map(|reply| reply.receipts)
                .map_err(|error| CallError::Unknown(format!("not an answer about receipts: {error}"))),
            other => Err(CallError::Unknown(format!("not an answer about receipts: {other:?}"))),
        }
    }

    pub async fn history(&self, page: History) -> Result<HistoryReply, CallError> {
        match self.request(ClientFrame::History(page), None).await? {
            Reply::History(page) => Ok(page),
            other => Err(CallError::Unknown(format!("not a page of history: {other:?}"))),
        }
    }

    pub async fn sync(&self, request: SyncRequest) -> Result<SyncReply, CallError> {
        match self.request(ClientFrame::Sync(request), None).await? {
            Reply::Sync(page) => Ok(page),
            other => Err(CallError::Unknown(format!("not a page of conversations: {other:?}"))),
        }
    }

    /// None once the device is gone.
    pub async fn status(&self) -> Option<Status> {
        let (tell, told) = oneshot::channel();
        self.asks.send(Ask::Status(tell)).await.ok()?;
        told.await.ok()
    }

    /// Sends what acks are due, closes the connection, ends the device. Unanswered commands stay in the store.
    pub async fn close(&self) {
        let (tell, told) = oneshot::channel();
        if self.asks.send(Ask::Close(tell)).await.is_ok() {
            let _ = told.await;
        }
    }
}

/// The content of a plain message.
pub fn message(body: impl Into<Vec<u8>>) -> What {
    What::Message {
        kind: "message".into(),
        body: Blob::from(body.into()),
        reply_to: None,
        mentions: Vec::new(),
        media: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timed_cid_is_a_uuid_of_version_7_and_later_ones_are_higher() {
        let at = |nanos| cid_at(Duration::new(1_700_000_000, nanos), u128::MAX).to_string();
        assert_eq!(at(0), "018bcfe5-6800-7000-bfff-ffffffffffff");
        assert_eq!(at(999_999), "018bcfe5-6800-7fff-bfff-ffffffffffff");
        assert_eq!(at(1_000_000), "018bcfe5-6801-7000-bfff-ffffffffffff");
        assert!(cid_at(Duration::from_nanos(1_000), 0) > cid_at(Duration::ZERO, u128::MAX));
        assert_ne!(timed_cid(), timed_cid());
    }
}
