//! Two or more real endpoints over loopback.

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frame::{FrameReader, frame};
use super::hello::{Hello, MAGIC, Reply, VERSIONS};
use super::*;

const CLUSTER: ClusterId = ClusterId(77);
const ECHO: u8 = 16;
const NEVER: u8 = 17;
const SLOW_RAFT: u8 = 3;
const NEVER_PATIENT: u8 = 20;
const JOIN: u8 = 240;

/// Echoes, never answers, or counts, by kind.
#[derive(Default)]
struct Echo {
    casts: Mutex<Vec<Bytes>>,
    gone: Mutex<Vec<NodeId>>,
}

impl PeerService for Echo {
    fn request(&self, from: PeerInfo, kind: u8, payload: Bytes) -> BoxFuture<'static, Result<Bytes, PeerRefusal>> {
        match kind {
            ECHO | SLOW_RAFT => async move { Ok(payload) }.boxed(),
            NEVER | NEVER_PATIENT => std::future::pending().boxed(),
            JOIN => async move { Ok(Bytes::from(format!("{} {:?}", from.node, from.lane))) }.boxed(),
            other => async move { Err(PeerRefusal::Unsupported(other)) }.boxed(),
        }
    }

    fn is_patient(&self, kind: u8, _: &[u8]) -> bool {
        kind == NEVER_PATIENT
    }

    fn cast(&self, _: PeerInfo, _: u8, payload: Bytes) {
        self.casts.lock().expect("not poisoned").push(payload);
    }

    fn gone(&self, from: PeerInfo) {
        self.gone.lock().expect("not poisoned").push(from.node);
    }

    /// Counts the bytes that come, answers the sum; sends that many back if asked for kind 18;
    /// wants nothing of kind 19.
    fn bulk(&self, _: PeerInfo, kind: u8, _: Bytes, mut stream: BulkStream) -> BoxFuture<'static, ()> {
        async move {
            let mut sum = 0u64;
            if kind == 19 {
                let _ = stream.send("enough".into()).await;
                return stream.close().await;
            }
            while let Ok(Some(chunk)) = stream.recv().await {
                sum += chunk.len() as u64;
            }
            if kind == 18 {
                for _ in 0..sum / 1000 {
                    if stream.send(Bytes::from(vec![1; 1000])).await.is_err() {
                        return;
                    }
                }
            }
            let _ = stream.send(Bytes::copy_from_slice(&sum.to_le_bytes())).await;
            stream.close().await;
        }
        .boxed()
    }
}

struct Node {
    peers: Arc<Peers>,
    addr: String,
    echo: Arc<Echo>,
}

async fn node_with(node: u16, incarnation: u64, cluster: Option<ClusterId>) -> Node {
    let listener = bind("127.0.0.1:0", false).await.expect("a free port");
    let addr = listener.local_addr().expect("bound").to_string();
    let echo = Arc::new(Echo::default());
    let config =
        PeersConfig { node: NodeId(node), incarnation: Incarnation(incarnation), cluster, insecure_peers: false };
    Node { peers: Peers::start(config, listener, echo.clone()), addr, echo }
}

async fn node(id: u16) -> Node {
    node_with(id, 1, Some(CLUSTER)).await
}

fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = within(10_000);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn connected_pair() -> (Node, Node) {
    let (a, b) = (node(1).await, node(2).await);
    a.peers.set_address(NodeId(2), &b.addr);
    eventually("1 connects to 2", || a.peers.is_connected(NodeId(2))).await;
    (a, b)
}

#[tokio::test]
async fn request_is_answered_and_refused_and_casts_stay_in_order() {
    let (a, b) = connected_pair().await;
    let ask =
        |kind, text: &'static str| a.peers.request(NodeId(2), kind, Bytes::from_static(text.as_bytes()), within(5_000));
    assert_eq!(ask(ECHO, "x").await, Outcome::Answer("x".into()));
    assert_eq!(ask(99, "x").await, Outcome::Refused(PeerRefusal::Unsupported(99)));
    assert_eq!(a.peers.request(NodeId(1), ECHO, "self".into(), within(5_000)).await, Outcome::Answer("self".into()));
    let casts: Vec<Bytes> = (0..500u32).map(|i| Bytes::copy_from_slice(&i.to_le_bytes())).collect();
    assert!(casts.iter().all(|c| a.peers.cast(NodeId(2), ECHO, c.clone())));
    eventually("all casts came", || b.echo.casts.lock().expect("not poisoned").len() == casts.len()).await;
    assert_eq!(*b.echo.casts.lock().expect("not poisoned"), casts);
}

#[tokio::test]
async fn the_end_of_a_connection_is_told_to_who_heard_casts_on_it() {
    let (a, b) = connected_pair().await;
    assert!(b.echo.gone.lock().expect("not poisoned").is_empty());
    a.peers.shutdown().await;
    eventually("2 is told", || *b.echo.gone.lock().expect("not poisoned") == [NodeId(1)]).await;
}

#[tokio::test]
async fn no_connection_is_not_sent_and_no_answer_is_unknown() {
    let (a, b) = connected_pair().await;
    let ask = |to, kind, ms| a.peers.request(NodeId(to), kind, Bytes::new(), within(ms));
    assert_eq!(ask(9, ECHO, 1_000).await, Outcome::NotSent(NotSent::NoPeer));
    assert_eq!(ask(2, NEVER, 50).await, Outcome::Unknown);
    let lost = a.peers.request(NodeId(2), NEVER, Bytes::new(), within(60_000));
    let cut = async {
        eventually("the request has left", || a.peers.status()[0].open == 1 && a.peers.status()[0].queued == 0).await;
        b.peers.shutdown().await;
    };
    let (outcome, ()) = tokio::join!(lost, cut);
    assert_eq!(outcome, Outcome::Unknown);
    eventually("1 notices", || !a.peers.is_connected(NodeId(2))).await;
    assert_eq!(ask(2, ECHO, 1_000).await, Outcome::NotSent(NotSent::NotConnected));
}

#[tokio::test]
async fn node_requests_that_hang_do_not_keep_raft_waiting_and_are_bounded() {
    let (a, _b) = connected_pair().await;
    let hanging: Vec<_> = (0..limits::PEER_SERVE_REQUESTS_MAX)
        .map(|_| {
            let peers = a.peers.clone();
            tokio::spawn(async move { peers.request(NodeId(2), NEVER, Bytes::new(), within(60_000)).await })
        })
        .collect();
    eventually("all hang", || a.peers.status()[0].open == hanging.len()).await;
    eventually("none waits", || a.peers.status()[0].queued == 0).await;
    let over = a.peers.request(NodeId(2), ECHO, Bytes::new(), within(5_000)).await;
    assert_eq!(over, Outcome::Refused(PeerRefusal::Overloaded));
    let raft = a.peers.request(NodeId(2), SLOW_RAFT, "vote".into(), within(5_000)).await;
    assert_eq!(raft, Outcome::Answer("vote".into()));
}

#[tokio::test]
async fn requests_that_wait_by_design_do_not_keep_others_waiting_and_are_bounded() {
    let (a, _b) = connected_pair().await;
    let ask = |kind, ms| a.peers.request(NodeId(2), kind, Bytes::new(), within(ms));
    let hang = async {
        eventually("all hang", || a.peers.status()[0].open == limits::PEER_SERVE_PATIENT_MAX).await;
        eventually("none waits", || a.peers.status()[0].queued == 0).await;
        (ask(NEVER_PATIENT, 5_000).await, ask(ECHO, 5_000).await)
    };
    let patient = futures::future::join_all((0..limits::PEER_SERVE_PATIENT_MAX).map(|_| ask(NEVER_PATIENT, 60_000)));
    let (over, other) = tokio::select! {
        _ = patient => panic!("they are never answered"),
        answers = hang => answers,
    };
    assert_eq!(over, Outcome::Refused(PeerRefusal::Overloaded));
    assert_eq!(other, Outcome::Answer(Bytes::new()));
}

/// They come in few frames, so many are refused before an answer can leave; the peer reads all along.
#[tokio::test]
async fn a_flood_of_requests_is_refused_and_does_not_end_the_connection() {
    let (a, _b) = connected_pair().await;
    let before = a.peers.status()[0].attempts;
    let ask = |kind| a.peers.request(NodeId(2), kind, Bytes::new(), within(5_000));
    let all = 3 * (limits::PEER_SERVE_REQUESTS_MAX + limits::PEER_SERVE_RAFT_MAX);
    let flood = futures::future::join_all((0..all).map(|_| ask(NEVER)));
    let raft = async {
        eventually("the flood has begun", || a.peers.status()[0].open > 0).await;
        ask(SLOW_RAFT).await
    };
    let (flood, raft) = tokio::join!(flood, raft);
    let count = |wanted: &Outcome| flood.iter().filter(|outcome| *outcome == wanted).count();
    let refused = count(&Outcome::Refused(PeerRefusal::Overloaded));
    assert_eq!(refused, all - limits::PEER_SERVE_REQUESTS_MAX, "the others hang");
    assert_eq!(count(&Outcome::Unknown), limits::PEER_SERVE_REQUESTS_MAX);
    assert_eq!(raft, Outcome::Answer(Bytes::new()));
    assert_eq!(a.peers.status()[0].attempts, before, "one connection");
}

#[tokio::test]
async fn wrong_cluster_and_wrong_node_are_shown_with_a_sentence() {
    let (a, b) = (node(1).await, node_with(2, 1, Some(ClusterId(78))).await);
    let c = node(3).await;
    a.peers.set_address(NodeId(2), &b.addr);
    a.peers.set_address(NodeId(4), &c.addr);
    let code = |at: usize| match &a.peers.status()[at].link {
        Link::Refused(refusal) => Some((refusal.code, refusal.sentence.clone())),
        _ => None,
    };
    eventually("both are refused", || code(0).is_some() && code(1).is_some()).await;
    let (wrong_cluster, sentence) = code(0).expect("refused");
    assert_eq!(wrong_cluster, RefusalCode::WrongCluster);
    assert!(sentence.contains("belongs to cluster"), "{sentence}");
    assert_eq!(code(1).expect("refused").0, RefusalCode::WrongNode);
    assert_eq!(
        a.peers.request(NodeId(2), ECHO, Bytes::new(), within(100)).await,
        Outcome::NotSent(NotSent::NotConnected)
    );
}

#[tokio::test]
async fn newer_incarnation_ends_the_older_one_which_cannot_come_back() {
    let (old, b) = connected_pair().await;
    let new = node_with(1, 2, Some(CLUSTER)).await;
    new.peers.set_address(NodeId(2), &b.addr);
    eventually("the new one is in", || new.peers.is_connected(NodeId(2))).await;
    let refused = || matches!(&old.peers.status()[0].link, Link::Refused(r) if r.code == RefusalCode::OlderIncarnation);
    eventually("the old one is out", refused).await;
}

#[tokio::test]
async fn peer_that_starts_again_under_the_same_incarnation_is_let_in_once_its_old_connection_is_gone() {
    let (old, b) = connected_pair().await;
    // Many connections, so that the number of the new one's first is lower.
    for port in 65_530..65_534 {
        old.peers.set_address(NodeId(2), &format!("127.0.0.1:{port}"));
        eventually("the connection is lost", || !old.peers.is_connected(NodeId(2))).await;
        old.peers.set_address(NodeId(2), &b.addr);
        eventually("connected again", || old.peers.is_connected(NodeId(2))).await;
    }
    old.peers.shutdown().await;
    let new = node(1).await;
    new.peers.set_address(NodeId(2), &b.addr);
    eventually("let in", || new.peers.is_connected(NodeId(2))).await;
}

#[tokio::test]
async fn init_reaches_nodes_without_a_cluster_and_they_connect_after_it() {
    let (a, b) = (node_with(1, 1, None).await, node_with(2, 1, None).await);
    a.peers.set_address(NodeId(2), &b.addr);
    assert_eq!(
        a.peers.request(NodeId(2), ECHO, Bytes::new(), within(100)).await,
        Outcome::NotSent(NotSent::NotConnected)
    );
    let (welcome, answer) = a.peers.join(&b.addr, None, JOIN, Bytes::new(), within(5_000)).await.expect("reached");
    assert_eq!((welcome.node, welcome.cluster), (NodeId(2), None));
    assert_eq!(answer, Outcome::Answer("1 Join".into()));
    let (_, other) = a.peers.join(&b.addr, None, ECHO, Bytes::new(), within(5_000)).await.expect("reached");
    assert_eq!(other, Outcome::Refused(PeerRefusal::Unsupported(ECHO)), "only join kinds on this lane");
    assert!(a.peers.set_cluster(CLUSTER) && b.peers.set_cluster(CLUSTER));
    assert!(!b.peers.set_cluster(ClusterId(1)), "a cluster id is given once");
    eventually("1 connects to 2", || a.peers.is_connected(NodeId(2))).await;
}

#[tokio::test]
async fn peer_that_moved_is_found_again() {
    let (a, b) = connected_pair().await;
    b.peers.shutdown().await;
    let moved = node_with(2, 2, Some(CLUSTER)).await;
    a.peers.set_address(NodeId(2), &moved.addr);
    let mut answered = false;
    let deadline = within(10_000);
    while !answered && Instant::now() < deadline {
        answered = a.peers.request(NodeId(2), ECHO, "x".into(), within(500)).await == Outcome::Answer("x".into());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(answered);
}

#[tokio::test]
async fn transfer_is_bounded_by_its_window_and_answers() {
    let (a, _b) = connected_pair().await;
    let mut stream = a.peers.bulk(NodeId(2), 18, Bytes::new(), within(5_000)).await.expect("opens");
    for _ in 0..100 {
        stream.send(Bytes::from(vec![0; 1000])).await.expect("sends");
    }
    stream.finish().await.expect("ends");
    let mut back = 0;
    let mut last = Bytes::new();
    while let Some(chunk) = stream.recv().await.expect("receives") {
        back += 1;
        last = chunk;
    }
    assert_eq!(back, 101);
    assert_eq!(last, 100_000u64.to_le_bytes()[..]);
    drop(stream);

    let mut stream = a.peers.bulk(NodeId(2), 19, Bytes::new(), within(5_000)).await.expect("opens");
    let mut sent = 0;
    let stopped = loop {
        assert!(sent < 1_000, "the peer said that it wants no more");
        match stream.send(Bytes::from_static(b"x")).await {
            Ok(()) => sent += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(stopped, BulkError::Answered), "{stopped}");
    assert_eq!(stream.recv().await.expect("the last word"), Some(Bytes::from_static(b"enough")));
    drop(stream);

    let mut open = Vec::new();
    for _ in 0..limits::PEER_BULK_STREAMS_MAX {
        open.push(a.peers.bulk(NodeId(2), 17, Bytes::new(), within(5_000)).await.expect("opens"));
    }
    assert!(matches!(a.peers.bulk(NodeId(2), 17, Bytes::new(), within(5_000)).await, Err(BulkError::Connect(_))));
}

/// Accepts as node 2 and lets the test write what it likes.
async fn rogue(listener: &Listener) -> crate::seam::net::Stream {
    let (mut stream, _) = listener.accept().await.expect("accepts");
    let mut magic = [0; 8];
    stream.read_exact(&mut magic).await.expect("magic");
    assert_eq!(&magic, MAGIC);
    let mut reader = FrameReader::new(&mut stream, limits::PEER_HELLO_BYTES_MAX);
    reader.next().await.expect("reads").expect("a hello");
    let welcome = Welcome { version: 1, node: NodeId(2), incarnation: Incarnation(1), cluster: Some(CLUSTER) };
    stream.write_all(&frame(&Reply::Welcome(welcome).encode().expect("encodes"))).await.expect("writes");
    stream.flush().await.expect("flushes");
    stream
}

#[tokio::test]
async fn answer_cut_in_the_middle_of_a_frame_is_unknown_and_the_next_connection_works() {
    let a = node(1).await;
    let listener = bind("127.0.0.1:0", false).await.expect("a free port");
    a.peers.set_address(NodeId(2), &listener.local_addr().expect("bound").to_string());
    let mut stream = rogue(&listener).await;
    eventually("connected", || a.peers.is_connected(NodeId(2))).await;
    let asking = a.peers.request(NodeId(2), ECHO, "x".into(), within(60_000));
    let cutting = async {
        let mut reader = FrameReader::new(&mut stream, limits::PEER_FRAME_BYTES_MAX);
        reader.next().await.expect("reads").expect("the request");
        stream.write_all(&[40, 0, 0, 0, 1, 2, 3, 4, 2]).await.expect("writes");
        stream.flush().await.expect("flushes");
        drop(stream);
    };
    let (outcome, ()) = tokio::join!(asking, cutting);
    assert_eq!(outcome, Outcome::Unknown);
    let _again = rogue(&listener).await;
    eventually("connected again", || a.peers.is_connected(NodeId(2))).await;
}

#[tokio::test]
async fn garbage_and_huge_lengths_close_the_connection_and_nothing_else() {
    let (a, b) = connected_pair().await;
    let hello = Hello {
        versions: VERSIONS,
        cluster: Some(CLUSTER),
        from: Some(NodeId(3)),
        incarnation: Incarnation(1),
        attempt: 1,
        to: Some(NodeId(2)),
        lane: Lane::Main,
    };
    let mut huge_after_hello = MAGIC.to_vec();
    huge_after_hello.extend_from_slice(&frame(&hello.encode().expect("encodes")));
    huge_after_hello.extend_from_slice(&[0xff; 64]);
    let mut huge_hello = MAGIC.to_vec();
    huge_hello.extend_from_slice(&[0xff; 64]);
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), huge_hello, huge_after_hello] {
        let mut stream = net::connect(&b.addr, within(5_000)).await.expect("connects");
        stream.write_all(&bytes).await.expect("writes");
        stream.flush().await.expect("flushes");
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("is closed");
    }
    assert_eq!(a.peers.request(NodeId(2), ECHO, "x".into(), within(5_000)).await, Outcome::Answer("x".into()));
}

#[tokio::test]
async fn plain_tcp_beyond_loopback_must_be_asked_for() {
    let refused = bind("0.0.0.0:0", false).await.err().expect("refused");
    assert!(refused.to_string().contains("insecure_peers"), "{refused}");
    assert!(bind("0.0.0.0:0", true).await.is_ok());
    let a = node(1).await;
    let dialed = a.peers.join("192.0.2.1:1", None, JOIN, Bytes::new(), within(5_000)).await;
    assert!(matches!(dialed, Err(DialError::Insecure { .. })));
}
