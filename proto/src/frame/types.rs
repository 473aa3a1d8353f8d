//! The one table of frame types: name on the wire, content, what answers it. Documents are made from it.
//!
//! Invariant: a variant without a line does not compile; that names and contents are those of the codec is tested with the golden
//! frames.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::client::*;
use super::entry::EntryFrame;
use super::error::ErrorBody;
use super::server::*;

/// One line of the table.
pub struct FrameType {
    pub t: &'static str,
    /// Types of the frames that may answer it; empty: none does, and it needs no `id`.
    pub answers: &'static [&'static str],
    pub about: &'static str,
    /// Schema of `d`.
    pub content: fn(&mut SchemaGenerator) -> Schema,
}

/// Of frames that say everything by their type.
#[derive(JsonSchema)]
pub struct Nothing {}

macro_rules! frame_types {
    ($frame:ident, $all:ident; $($t:literal $variant:ident($content:ty) $answers:expr, $about:literal;)*) => {
        pub const $all: &[FrameType] = &[$(FrameType {
            t: $t,
            answers: &$answers,
            about: $about,
            content: |generator| generator.subschema_for::<$content>(),
        },)*];

        impl $frame {
            /// The `t` of its envelope.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $($frame::$variant { .. } => $t,)*
                }
            }
        }
    };
}

frame_types! {
    ClientFrame, CLIENT_FRAMES;
    "hello" Hello(Hello) ["ready"], "First frame of a connection, within 10 s. Refused by a close.";
    "auth" Auth(Auth) ["reply", "error"], "A fresh token for this connection, before the old one ends.";
    "send" Send(SendMessage) ["accepted", "error"], "A message. Answered when a majority has it on disk.";
    "edit" Edit(Edit) ["accepted", "error"], "A new body for an own message.";
    "delete" Delete(Delete) ["accepted", "error"], "Empties a message; its hash stays.";
    "react" React(React) ["accepted", "error"], "Sets a reaction or takes it back.";
    "ack" Ack(Vec<AckItem>) [], "Stored on this device, with everything below. Never because of `accepted`.";
    "read" Read(AckItem) [], "Read by the user up to here; told to the own devices and, unless hidden, to others.";
    "typing" Typing(Typing) [], "As often as you like: one per 3 s is passed on.";
    "presence" Presence(Watch) ["reply", "error"], "Watches these users from now on; the answer is how they are now, changes come as `signal`.";
    "receipts" Receipts(WatchReceipts) ["reply", "error"], "Watches how far members of these conversations are; the answer is how far they are now, changes come as `signal`.";
    "history" History(History) ["reply", "error"], "A page of a conversation.";
    "sync" Sync(SyncRequest) ["reply", "error"], "States of conversations that changed after `rev`.";
    "call" Call(Call) ["reply", "error"], "Any REST operation.";
    "state" State(State) [], "In the background no signals are sent.";
    "pong" Pong(Nothing) [], "The answer to `ping`, at once.";
}

frame_types! {
    ServerFrame, SERVER_FRAMES;
    "ready" Ready(Ready) [], "The session is open.";
    "accepted" Accepted(Accepted) [], "Durable on a majority and applied. Carries the request's `id`.";
    "reply" Reply(Reply) [], "Carries the request's `id`.";
    "error" Error(ErrorBody) [], "Carries the request's `id`, if it had one.";
    "entry" Entry(EntryFrame) ["ack"], "An entry of a conversation's log: in `seq` order, sent again until acked.";
    "gap" Gap(Gap) ["ack"], "The only way a hole can appear; acked like an entry.";
    "conv" Conv(Conv) [], "The user's whole state of one conversation; in rev order.";
    "caught_up" CaughtUp(CaughtUp) [], "Everything that was pending at `hello` has been sent.";
    "signal" Signal(Signal) [], "May be lost; never acked.";
    "urls" Urls(Urls) [], "Nodes have come or gone.";
    "goaway" Goaway(Goaway) [], "Connect elsewhere first, then close here.";
    "ping" Ping(Nothing) ["pong"], "Nothing was sent or received for 25 s.";
}
