//! What a client says on an open session: frames in, requests started.
//!
//! Invariant: at most `REQUESTS_IN_FLIGHT_MAX` requests at once, and of what has no answer as much as [`pace`] lets through; the frames
//! before a bad one count.

use flotilla_machine::{Answer, Query};
use flotilla_proto::frame::codec::decode_client;
use flotilla_proto::frame::{
    self, ClientFrame, ClientMessage, CloseCode, CodecLimits, CommandFrame, Decoded, ErrorBody, ErrorCode, FrameError,
    RevToken, ServerFrame,
};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_raft::path;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::begin::Unread;
use super::connection::{Connection, Done};
use super::sends::Try;
use super::socket::Incoming;
use super::{errors, hello, ops, pace, pulled};
use crate::auth::Caller;
use crate::backend::{Freshness, Route};

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    // What the client says.

    pub(super) fn on_incoming(&mut self, incoming: Incoming) -> Result<(), Option<CloseCode>> {
        let bytes = match incoming {
            Incoming::Frames(bytes) => bytes,
            Incoming::Bad(code) => return Err(Some(code)),
            Incoming::Closed => return Err(None),
        };
        self.received_at = self.now();
        self.pinged = false;
        let unpacked = decode_client(self.socket.encoding, &bytes, CodecLimits::OPEN);
        self.on_frames(Unread { frames: unpacked.frames, bad: unpacked.bad }).map_err(Some)
    }

    /// The frames before a bad one count.
    pub(super) fn on_frames(&mut self, unread: Unread) -> Result<(), CloseCode> {
        // Frames that are to be ignored are not in it.
        if unread.frames.is_empty() && unread.bad.is_none() {
            self.on_word()?;
        }
        for frame in unread.frames {
            match frame {
                Decoded::Message(message) => self.on_frame(message)?,
                Decoded::Unknown { t, id } => {
                    let error = ErrorBody::new(ErrorCode::Unsupported, format!("unknown request {t}"));
                    self.put(Some(id), ServerFrame::Error(error));
                }
                Decoded::Invalid { t, id, why } => {
                    self.put(Some(id), ServerFrame::Error(errors::bad(format!("{t}: {why}"))));
                }
            }
        }
        unread.bad.map_or(Ok(()), |bad| Err(bad_code(&bad)))
    }

    /// Something that has no answer.
    fn on_word(&mut self) -> Result<(), CloseCode> {
        let now = self.now();
        if self.pace.take(now) { Ok(()) } else { Err(CloseCode::RateLimited) }
    }

    fn on_frame(&mut self, message: ClientMessage) -> Result<(), CloseCode> {
        let ClientMessage { id, frame } = message;
        let now = self.now();
        if pace::is_word(&frame) {
            self.on_word()?;
        }
        if let Some(command) = frame.command() {
            self.on_command(id, command);
            return Ok(());
        }
        match frame {
            ClientFrame::Hello(_) => return Err(CloseCode::ProtocolViolation),
            ClientFrame::Ack(items) => {
                if items.len() > limits::ACKS_PER_FRAME_MAX {
                    return Err(CloseCode::BadFrame);
                }
                let before = self.session.bad_acks;
                for item in items {
                    path::position("ack", &self.open.caller.user, &item.conv, item.seq);
                    self.session.on_ack(item, now);
                }
                self.shared.figures.bad_acks.add(self.session.bad_acks - before);
            }
            ClientFrame::Read(item) => {
                let before = self.session.bad_acks;
                self.session.on_read(item, now);
                self.shared.figures.bad_acks.add(self.session.bad_acks - before);
            }
            ClientFrame::Auth(auth) => self.on_auth(id, &auth.token)?,
            ClientFrame::History(ask) => {
                let (shared, user) = (self.shared.clone(), self.open.caller.user.clone());
                self.request(
                    id,
                    async move { ops::history(&shared, &user, &ask).await.map(frame::server::Reply::History) },
                );
            }
            ClientFrame::Sync(ask) => self.on_sync(id, ask),
            ClientFrame::Call(call) => {
                let shared = self.shared.clone();
                let caller = Caller { device: Some(self.open.device), ..self.open.caller.clone() };
                let peer = self.peer;
                self.request(id, async move {
                    crate::http::api::call(&shared, caller, peer, call).await.map(frame::server::Reply::Value)
                });
            }
            ClientFrame::Presence(ask) => self.on_watch(id, ask),
            ClientFrame::Receipts(ask) => self.on_receipts(id, ask),
            ClientFrame::Send(_) => self.put(id, ServerFrame::Error(errors::bad("exactly one of `conv` and `to`"))),
            ClientFrame::Typing(typing) => {
                if self.signals.may_type(&typing.conv, now) {
                    self.shared.backend.typing(typing.conv, self.open.caller.user.clone());
                }
            }
            ClientFrame::State(state) => {
                for signal in self.signals.on_activity(state.state) {
                    self.signal(signal);
                }
                self.tell_receipts();
            }
            ClientFrame::Pong => {}
            ClientFrame::Edit(_) | ClientFrame::Delete(_) | ClientFrame::React(_) => {}
        }
        Ok(())
    }

    /// False: too many are under way, and that was answered.
    pub(super) fn may_start(&mut self, id: Option<u32>) -> bool {
        let may = self.requests < limits::REQUESTS_IN_FLIGHT_MAX;
        if may {
            self.requests += 1;
            self.shared.figures.requests_waiting.add(1);
        } else {
            let message = format!("at most {} requests at once", limits::REQUESTS_IN_FLIGHT_MAX);
            self.put(id, ServerFrame::Error(ErrorBody::new(ErrorCode::TooManyRequests, message)));
        }
        may
    }

    pub(super) fn request(
        &mut self,
        id: Option<u32>,
        work: impl Future<Output = Result<frame::server::Reply, ErrorBody>> + Send + 'static,
    ) {
        if self.may_start(id) {
            self.job(async move {
                let frame = work.await.map_or_else(ServerFrame::Error, ServerFrame::Reply);
                Done::Answer(id, frame)
            });
        }
    }

    fn on_command(&mut self, id: Option<u32>, command: CommandFrame) {
        if !self.may_start(id) {
            return;
        }
        let (shared, user, device) = (self.shared.clone(), self.open.caller.user.clone(), self.open.device);
        let conv = command.target.conv_for(&user);
        let cid = command.cid;
        path::to("frame", cid, &user);
        if self.own.len() >= limits::ECHO_CIDS_MAX {
            self.own.pop_front();
        }
        self.own.push_back(cid);
        let ticket = self.sends.enter(&conv, cid);
        let asked = Instant::now();
        self.job(async move {
            let submit = |ask: Try| {
                let (shared, user) = (&shared, &user);
                let command = CommandFrame { after: ask.after, ..command.clone() };
                async move {
                    if ask.is_first {
                        ops::append(shared, user, device, &command).await
                    } else {
                        ops::append_again(shared, user, device, &command).await
                    }
                }
            };
            let result = ticket.run(command.after, submit).await;
            Done::Sent { id, conv, cid, asked, result }
        });
    }

    fn on_auth(&mut self, id: Option<u32>, token: &str) -> Result<(), CloseCode> {
        let caller = self.shared.authenticate(token, self.peer.ip()).map_err(hello::token_code)?;
        if caller.user != self.open.caller.user {
            return Err(CloseCode::AuthFailed);
        }
        self.token_ends(caller.expires);
        self.open.caller.expires = caller.expires;
        let value = serde_json::json!({ "token_expires_at": caller.expires });
        self.put(id, ServerFrame::Reply(frame::server::Reply::Value(value)));
        Ok(())
    }

    fn on_sync(&mut self, id: Option<u32>, ask: frame::SyncRequest) {
        let (shared, user, device) = (self.shared.clone(), self.open.caller.user.clone(), self.open.device);
        let epoch = self.open.epoch;
        self.request(id, async move {
            let since = match ask.rev.as_ref().map(|token| token.parse()) {
                None => Rev(0),
                Some(Some((of, rev))) if of == epoch => rev,
                Some(_) => return Err(ErrorBody::new(ErrorCode::EpochMismatch, "drop this `rev`")),
            };
            // An answer fits one message: a conv is below 700 bytes.
            let limit = ask.limit.unwrap_or(64).clamp(1, 64);
            let query = Query::Changed { user: user.clone(), device, since, limit };
            let mut page = match shared.backend.query(Route::User(user.clone()), query, Freshness::Linearizable).await {
                Ok(Answer::Rows(page)) => page,
                Ok(_) => return Err(errors::internal("sync")),
                Err(error) => return Err(errors::of_call(error)),
            };
            pulled::stand_once(&shared, &user, &mut page.rows, &Freshness::Any { min_seq: None }).await;
            let top = if page.more { page.rows.last().map_or(since, |r| r.rev) } else { page.rev };
            let convs = page.rows.iter().map(|row| ops::conv_frame(&user, epoch, row)).collect();
            let rev = RevToken::new(epoch, top);
            Ok(frame::server::Reply::Sync(frame::SyncReply { convs, rev, more: page.more }))
        });
    }
}

pub(super) fn bad_code(bad: &FrameError) -> CloseCode {
    match bad {
        FrameError::TooBig { .. } => CloseCode::MessageTooBig,
        FrameError::TooMany { .. } | FrameError::Malformed { .. } => CloseCode::BadFrame,
    }
}
