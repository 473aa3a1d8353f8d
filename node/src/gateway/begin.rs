//! The beginning of a connection: its first frame, its session, `ready`.
//!
//! Invariants: one frame is enough to be refused, and nothing of what follows it is lost; no session is opened for a client that
//! is gone. Rules of a session live in [`super::hello`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::frame::codec::decode_client;
use flotilla_proto::frame::{self, ClientFrame, ClientMessage, CloseCode, CodecLimits, Decoded, FrameError};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
use super::hello::{self, Session as Open};
use super::requests::bad_code;
use super::shared::Shared;
use super::socket::{Incoming, Socket};
use crate::backend::Wanted;

/// From the first frame to `ready`; none: it is over.
pub(super) async fn begin<S>(
    shared: Arc<Shared>,
    mut socket: Socket<S>,
    peer: SocketAddr,
) -> Option<(Box<Connection<S>>, Box<Unread>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let first = Duration::from_millis(shared.options.timings.hello_ms);
    let refused = match tokio::time::timeout(first, first_frame(&mut socket)).await {
        Err(_) => CloseCode::HelloTimeout,
        Ok(Err(Some(code))) => code,
        Ok(Err(None)) => return None,
        Ok(Ok((hello, id, rest))) => match open_while_alive(&shared, &hello, peer, &mut socket).await {
            Ok(open) => {
                shared.figures.sessions.add(1);
                let asked = (hello.window, hello.state);
                let start = shared.in_step(&open.caller.user);
                let mut connection = Box::new(Connection::new(shared, socket, peer, open, asked, start));
                connection.ready(id);
                return Some((connection, Box::new(rest)));
            }
            Err(code) => {
                shared.figures.closed(code);
                code
            }
        },
    };
    socket.close(refused).await;
    None
}

/// The socket is looked at meanwhile, and not more than that: pipelined requests wait in it.
///
/// Why: 1. a `hello` waits for a leader, 2. its client dies, the next process on its store opens the session elsewhere,
/// 3. the `hello` is done for nobody and takes the session from the living one.
async fn open_while_alive<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    hello: &frame::Hello,
    peer: SocketAddr,
    socket: &mut Socket<S>,
) -> Result<Open, CloseCode> {
    let wanted = Wanted::for_now();
    let mut open = Box::pin(hello::open(shared, hello, peer.ip(), &wanted));
    tokio::select! {
        biased;
        () = socket.gone() => wanted.end(),
        open = &mut open => return open,
    }
    // What was proposed before is waited for: a session that opens is closed as the first thing after.
    open.await
}

type First = (Box<frame::Hello>, Option<u32>, Unread);

/// Frames that came in one message behind `hello`, and what was wrong with the rest.
pub(super) struct Unread {
    pub frames: Vec<Decoded<ClientMessage>>,
    pub bad: Option<FrameError>,
}

async fn first_frame<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>) -> Result<First, Option<CloseCode>> {
    let bytes = match socket.next(true).await {
        Incoming::Frames(bytes) => bytes,
        Incoming::Bad(code) => return Err(Some(code)),
        Incoming::Closed => return Err(None),
    };
    let unpacked = decode_client(socket.encoding, &bytes, CodecLimits::BEFORE_HELLO);
    let mut frames = unpacked.frames.into_iter();
    match (frames.next(), unpacked.bad) {
        (Some(Decoded::Message(ClientMessage { id, frame: ClientFrame::Hello(hello) })), bad) => {
            Ok((Box::new(hello), id, Unread { frames: frames.collect(), bad }))
        }
        (Some(Decoded::Invalid { t, .. }), _) if t == "hello" => Err(Some(CloseCode::BadFrame)),
        (None, Some(bad)) => Err(Some(bad_code(&bad))),
        _ => Err(Some(CloseCode::ProtocolViolation)),
    }
}
