//! What peers open to this node: accept, handshake, serve.
//!
//! Invariants: connections, handshakes and served requests are bounded, Raft apart from everything else; requests of one connection
//! reach the service in the order of arrival; a newer connection or incarnation of a peer ends the older one.
//! It does not know what a request means.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_proto::ids::{Incarnation, NodeId};
use flotilla_proto::limits;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::bulk::BulkStream;
use super::frame::{FrameError, FrameReader, frame};
use super::hello::{Acceptor, Hello, HelloRefusal, Lane, MAGIC, RefusalCode, Reply, Welcome, judge};
use super::service::{PeerInfo, PeerRefusal, kind};
use super::{BoxIo, Shared, serve};
use crate::seam::net::{Listener, Stream};

/// The newest main connection of each peer. A late handshake loses against a newer connection only while that one lasts, so that
/// nobody is locked out by a number.
#[derive(Default)]
pub struct Seen {
    peers: Mutex<BTreeMap<NodeId, Newest>>,
}

struct Newest {
    incarnation: Incarnation,
    attempt: u64,
    /// Dropped when a newer one comes, which ends the connection that watches it.
    alive: watch::Sender<()>,
}

impl Newest {
    fn age(&self) -> (Incarnation, u64) {
        let lasts = self.alive.receiver_count() > 0;
        (self.incarnation, if lasts { self.attempt } else { 0 })
    }
}

impl Seen {
    /// Judges and, if welcome, remembers in one step.
    fn admit(&self, shared: &Shared, hello: &Hello) -> Result<(Welcome, Option<watch::Receiver<()>>), HelloRefusal> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = hello.from.and_then(|node| peers.get(&node));
        let me = Acceptor {
            node: shared.node,
            incarnation: shared.incarnation(),
            cluster: *shared.cluster.borrow(),
            seen: newest.map(Newest::age),
        };
        let welcome = judge(&me, hello)?;
        let Some(node) = hello.from.filter(|_| hello.lane == Lane::Main) else {
            return Ok((welcome, None));
        };
        let (alive, watch) = watch::channel(());
        peers.insert(node, Newest { incarnation: hello.incarnation, attempt: hello.attempt, alive });
        Ok((welcome, Some(watch)))
    }
}

/// Accepts until the node stops.
pub async fn run(listener: Listener, shared: Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    let connections = Arc::new(Semaphore::new(limits::PEER_CONNECTIONS_MAX));
    let handshakes = Arc::new(Semaphore::new(limits::PEER_HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of file descriptors, for one: wait, or this loop eats a core.
                tracing::warn!(error = %e, "cannot accept a peer connection");
                tokio::time::sleep(Duration::from_millis(limits::PEER_BACKOFF_MIN_MS)).await;
                continue;
            }
        };
        // Without room the stream is dropped, which closes it; the dialer backs off.
        let (Ok(connection), Ok(handshake)) =
            (connections.clone().try_acquire_owned(), handshakes.clone().try_acquire_owned())
        else {
            continue;
        };
        tokio::spawn(on_connection(stream, shared.clone(), connection, handshake));
    }
}

async fn on_connection(
    stream: Stream,
    shared: Arc<Shared>,
    connection: OwnedSemaphorePermit,
    handshake: OwnedSemaphorePermit,
) {
    let limit = Duration::from_millis(limits::PEER_HANDSHAKE_MS);
    let shaken = tokio::time::timeout(limit, shake(stream, &shared)).await;
    drop(handshake);
    let greeted = match shaken {
        Ok(Ok(Some(greeted))) => greeted,
        // Refusals are logged where they are made; scanners and cut connections are not worth a line.
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(e)) => return tracing::debug!(error = %e, "peer handshake failed"),
    };
    let mut stop = shared.stop.subscribe();
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => {}
        () = greeted.serve(&shared, connection) => {}
    }
}

/// A connection whose dialer is known.
struct Greeted {
    info: PeerInfo,
    reader: FrameReader<ReadHalf<BoxIo>>,
    writer: WriteHalf<BoxIo>,
    alive: Option<watch::Receiver<()>>,
}

async fn shake(stream: Stream, shared: &Shared) -> Result<Option<Greeted>, FrameError> {
    let stream: BoxIo = Box::new(stream);
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader, limits::PEER_HELLO_BYTES_MAX);
    if reader.exactly(MAGIC.len()).await? != MAGIC[..] {
        return Err(FrameError::Malformed);
    }
    let body = reader.next().await?.ok_or(FrameError::Cut)?;
    let judged = match Hello::decode(&body) {
        Ok(hello) => shared.seen.admit(shared, &hello).map(|admitted| (hello, admitted)),
        Err(e) => Err(HelloRefusal::new(RefusalCode::Malformed, format!("a hello that cannot be read: {e}"))),
    };
    let (hello, (welcome, alive)) = match judged {
        Ok(welcome) => welcome,
        Err(refusal) => {
            tracing::warn!(code = ?refusal.code, told = %refusal.sentence, "refused a peer connection");
            reply(&mut writer, &Reply::Refused(refusal)).await?;
            // Until the dialer has read it and hung up: closing first may take the sentence back.
            let _ = tokio::time::timeout(Duration::from_millis(limits::PEER_PING_MS), reader.next()).await;
            return Ok(None);
        }
    };
    reply(&mut writer, &Reply::Welcome(welcome)).await?;
    reader.set_bytes_max(limits::PEER_FRAME_BYTES_MAX);
    let info = PeerInfo { node: hello.from.unwrap_or(NodeId(0)), incarnation: hello.incarnation, lane: hello.lane };
    Ok(Some(Greeted { info, reader, writer, alive }))
}

async fn reply(writer: &mut WriteHalf<BoxIo>, reply: &Reply) -> Result<(), FrameError> {
    let body = reply.encode().map_err(|_| FrameError::Malformed)?;
    writer.write_all(&frame(&body)).await?;
    Ok(writer.flush().await?)
}

impl Greeted {
    async fn serve(self, shared: &Arc<Shared>, connection: OwnedSemaphorePermit) {
        let Self { info, reader, writer, alive } = self;
        match (info.lane, alive) {
            (Lane::Main, Some(alive)) => {
                let end = serve::run(shared, info, reader, writer, alive).await;
                tracing::debug!(peer = %info.node, reason = %end, "peer connection ended");
                shared.service.gone(info);
            }
            (Lane::Main, None) => {}
            (Lane::Bulk, _) => serve_bulk(shared, info, BulkStream::new(reader, writer, vec![connection])).await,
            (Lane::Join, _) => serve_join(shared, info, BulkStream::new(reader, writer, vec![connection])).await,
        }
    }
}

async fn serve_bulk(shared: &Shared, info: PeerInfo, mut stream: BulkStream) {
    let Ok(_permit) = shared.bulk_served.try_acquire() else {
        let _ = stream.refuse(&PeerRefusal::Overloaded).await;
        return stream.close().await;
    };
    if let Ok((kind, payload)) = stream.opened().await {
        shared.service.bulk(info, kind, payload, stream).await;
    }
}

async fn serve_join(shared: &Shared, info: PeerInfo, mut stream: BulkStream) {
    let Ok((kind, payload)) = stream.opened().await else { return };
    let answer = if kind::is_join(kind) {
        let limit = Duration::from_millis(limits::PEER_SERVE_MS);
        let work = shared.service.request(info, kind, payload);
        // What was given up on may have been done: no answer, so the caller reads "unknown".
        let Ok(answer) = tokio::time::timeout(limit, work).await else { return };
        answer
    } else {
        Err(PeerRefusal::Unsupported(kind))
    };
    let sent = match answer {
        Ok(bytes) => stream.send(bytes).await,
        Err(refusal) => stream.refuse(&refusal).await,
    };
    if sent.is_ok() {
        stream.close().await;
    }
}
