//! What a client watches, and the signals that follow from it.

use std::collections::BTreeSet;
use std::time::Duration;

use flotilla_proto::frame::{self, ErrorBody, ErrorCode, ServerFrame, Signal};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, Done};
use super::receipts::{Looked, Marks, has_reads};
use super::shared::Shared;
use super::{errors, hiding};
use crate::backend::Push;
use crate::http::people;

/// What a job about receipts brings back.
pub(super) enum Heard {
    /// To a list. `hides`: whether this user hides its reads; none: nobody can tell now.
    Looked { id: Option<u32>, looked: Result<Vec<Looked>, ErrorBody>, hides: Option<bool> },
    /// For what was to be told.
    Hides { taken: Marks, hides: Option<bool> },
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    pub(super) fn on_push(&mut self, push: Push) {
        let signal = match push {
            Push::Presence { user, seen } => self.signals.on_presence(user, seen),
            Push::Typing { conv, user } => self.signals.on_typing(conv, user),
            Push::Receipts { conv, marks } => {
                self.signals.receipts().on_marks(conv, marks);
                return self.tell_receipts();
            }
            push => {
                let now = self.now();
                return self.session.on_push(push, now);
            }
        };
        if let Some(signal) = signal {
            self.signal(signal);
        }
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        self.shared.figures.signals.inc();
        self.put(None, ServerFrame::Signal(signal));
    }

    /// Watches these users and no others; the answer says where they are now.
    pub(super) fn on_watch(&mut self, id: Option<u32>, ask: frame::Watch) {
        let (shared, user, watcher) = (self.shared.clone(), self.open.caller.user.clone(), self.open.guard.id);
        self.signals.on_watch();
        self.request(id, async move {
            let users = people::check_users(ask.watch)?;
            let seen = shared.backend.presence(user, users.clone(), Some(watcher)).await.map_err(errors::of_call)?;
            let presences = serde_json::to_value(people::presences(users, &seen));
            presences.map(frame::server::Reply::Value).map_err(|_| errors::internal("encoding"))
        });
    }

    /// Watches how far members of these conversations are, and of no others; the answer says how far they are now.
    pub(super) fn on_receipts(&mut self, id: Option<u32>, ask: frame::WatchReceipts) {
        let convs: BTreeSet<ConvId> = ask.watch.into_iter().collect();
        if convs.len() > limits::RECEIPT_WATCHES_MAX {
            let error = errors::invalid(format!("at most {} conversations", limits::RECEIPT_WATCHES_MAX));
            return self.put(id, ServerFrame::Error(error));
        }
        if !self.may_start(id) {
            return;
        }
        self.signals.receipts().on_watch(convs.clone());
        let (shared, user, session) = (self.shared.clone(), self.open.caller.user.clone(), self.open.guard.id);
        self.job(async move {
            let looked = look(&shared, session, &user, convs).await;
            // Asked behind the marks: who hides its reads before they are answered is not shown them.
            let hides = match &looked {
                Ok(looked) if looked.iter().any(|(_, marks)| marks.is_some()) => {
                    hiding::hides_read(&shared, &user).await
                }
                _ => Some(false),
            };
            Done::Receipts(Heard::Looked { id, looked, hides })
        });
    }

    pub(super) fn on_heard(&mut self, heard: Heard) {
        let me = self.open.caller.user.clone();
        match heard {
            Heard::Looked { id, looked, hides } => {
                self.request_ended();
                let reply = looked.and_then(|looked| {
                    let reply = serde_json::to_value(self.signals.receipts().answer(&me, looked, hides));
                    reply.map(frame::server::Reply::Value).map_err(|_| errors::internal("encoding"))
                });
                self.put(id, reply.map_or_else(ServerFrame::Error, ServerFrame::Reply));
            }
            Heard::Hides { taken, hides } => {
                // In the background it waits again.
                let hides = hides.filter(|_| self.signals.is_active());
                for signal in self.signals.receipts().on_hides(&me, taken, hides) {
                    self.shared.figures.receipt_signals.inc();
                    self.signal(signal);
                }
            }
        }
        self.tell_receipts();
    }

    /// What waits goes out, once it is known that it may.
    pub(super) fn tell_receipts(&mut self) {
        let Some(taken) = self.signals.take_receipts() else { return };
        let (shared, user) = (self.shared.clone(), self.open.caller.user.clone());
        self.job(async move {
            let hides = match has_reads(&user, &taken) {
                true => hiding::hides_read(&shared, &user).await,
                false => Some(false),
            };
            if hides.is_none() {
                tokio::time::sleep(Duration::from_millis(limits::READ_RETRY_MS)).await;
            }
            Done::Receipts(Heard::Hides { taken, hides })
        });
    }
}

/// Of a direct conversation the peer's marks come with its `conv` frames, so there is nothing to watch.
async fn look(shared: &Shared, session: u64, user: &UserId, convs: BTreeSet<ConvId>) -> Result<Vec<Looked>, ErrorBody> {
    let (direct, others): (Vec<_>, Vec<_>) = convs.into_iter().partition(|conv| conv.kind() == ConvKind::Direct);
    let strange = direct.iter().any(|conv| conv.peer_of(user).is_none());
    let watched = if strange { Vec::new() } else { others };
    let seen = shared.backend.receipts(session, user.clone(), watched.clone()).await.map_err(errors::of_call)?;
    if strange {
        return Err(ErrorBody::new(ErrorCode::NotMember, "not a member of this conversation"));
    }
    let direct = direct.into_iter().map(|conv| (conv, Some(Vec::new())));
    Ok(direct.chain(watched.into_iter().zip(seen)).collect())
}
