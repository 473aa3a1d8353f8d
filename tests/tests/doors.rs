//! Strangers at the doors: silence, slowness and rubbish on both ports. The node stays up, serves others, and its memory
//! stays bounded.
//!
//! `FLOTILLA_SILENT=10000` for as many silent connections (1,000 by default).

use std::time::Duration;

use anyhow::Context;
use flotilla_client::device::random_cid;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::probe::{figure, memory_kib, number, raise_open_files, reset_memory};
use flotilla_tests::raw::{Raw, hello};
use flotilla_tests::scene::eventually;
use futures::stream::{self, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(60);

fn send(to: &str) -> Value {
    json!({"to": to, "cid": random_cid(), "kind": "message", "body": "AAAA"})
}

/// Somebody else gets an answer, and soon.
async fn serves(url: &str, name: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut raw = Raw::open(url, name, &format!("{name}-{}", random_cid())).await?;
    let answer = raw.ask(1, "send", send(name)).await?;
    assert_eq!(answer["t"], "accepted", "{answer}");
    Ok(began.elapsed())
}

/// Open client connections as the node counts them, the asking one included.
async fn connections(url: &str) -> Option<u64> {
    figure(url, "flotilla_connections ").await
}

/// Reads until the other side ends the connection.
async fn ends(stream: &mut TcpStream, limit: Duration) -> anyhow::Result<Vec<u8>> {
    let mut got = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => got.extend_from_slice(&buffer[..n]),
            }
        }
    };
    tokio::time::timeout(limit, read).await.context("the connection stays open")?;
    Ok(got)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_nobody_out_and_go_away() -> anyhow::Result<()> {
    let count = number("FLOTILLA_SILENT", 1_000);
    let files = raise_open_files()?;
    let count = count.min(files.saturating_sub(512));
    let cluster = Cluster::start(1).await?;
    let (url, pid) = (cluster.nodes[0].url(), cluster.nodes[0].pid().context("runs")?);
    let address = cluster.nodes[0].client_addr.clone();
    let before = reset_memory(pid)?;
    let began = Instant::now();
    // A third opens a WebSocket and says nothing, a third opens a socket, a third asks half a question.
    let open = |i: u64| {
        let (url, address) = (url.clone(), address.clone());
        async move {
            match i % 3 {
                0 => Raw::dial(&url, None).await.ok().map(|raw| (None, Some(raw))),
                1 => TcpStream::connect(&address).await.ok().map(|s| (Some(s), None)),
                _ => {
                    let mut stream = TcpStream::connect(&address).await.ok()?;
                    stream.write_all(b"GET /v1/ws HTTP/1.1\r\nhost: x\r\n").await.ok()?;
                    Some((Some(stream), None))
                }
            }
        }
    };
    let silent: Vec<_> = stream::iter(0..count).map(open).buffer_unordered(64).filter_map(async |c| c).collect().await;
    let opened = (silent.len(), began.elapsed());
    let answered = serves(&url, "alice").await?;
    let peak = memory_kib(pid)?;
    println!(
        "{} silent connections in {:?}; another user served in {answered:?}; memory {before} -> {peak} KiB",
        opened.0, opened.1
    );
    assert_eq!(opened.0 as u64, count, "all were let in: the caps are higher");
    assert!(peak.saturating_sub(before) < 64 * 1024 + 24 * count, "{before} -> {peak} KiB");
    // The time-outs of headers and of hello end them all, without any word from them.
    eventually("they are gone", LIMIT, async || connections(&url).await.is_some_and(|n| n <= 1)).await?;
    drop(silent);
    serves(&url, "bob").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_headers_and_rubbish_at_the_client_port_end_in_time() -> anyhow::Result<()> {
    let cluster = Cluster::start(1).await?;
    let (url, address) = (cluster.nodes[0].url(), cluster.nodes[0].client_addr.clone());
    // One byte a moment, for ever.
    let slow = {
        let address = address.clone();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(&address).await?;
            let began = Instant::now();
            stream.write_all(b"GET /livez HTTP/1.1\r\nx-slow: ").await?;
            while stream.write_all(b"a").await.is_ok() {
                anyhow::ensure!(began.elapsed() < Duration::from_secs(20), "slow headers are taken for ever");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok::<_, anyhow::Error>(began.elapsed())
        })
    };
    let mut dice = StdRng::seed_from_u64(7);
    let mut rubbish: Vec<Vec<u8>> = vec![
        b"\r\n\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /v1/ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n".to_vec(),
        b"POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 512 * 1024]].concat(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
    ];
    rubbish.extend((0..20).map(|_| (0..dice.random_range(1..4_000)).map(|_| dice.random()).collect()));
    for bytes in rubbish {
        let mut stream = TcpStream::connect(&address).await?;
        // Closed in the middle of the write: as good an answer as any.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        ends(&mut stream, Duration::from_secs(15)).await?;
    }
    assert!(slow.await??.as_secs() < 20);
    serves(&url, "alice").await?;
    Ok(())
}

/// A frame as a client makes it, mask of zeroes; `len` as written, whatever follows.
fn frame(head: u8, len: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head, 0x80 | 127];
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_websocket_frames_end_their_connection_only() -> anyhow::Result<()> {
    let cluster = Cluster::start(1).await?;
    let (url, address) = (cluster.nodes[0].url(), cluster.nodes[0].client_addr.clone());
    let pid = cluster.nodes[0].pid().context("runs")?;
    let before = reset_memory(pid)?;
    let mut dice = StdRng::seed_from_u64(11);
    let mut cases: Vec<Vec<u8>> = vec![
        frame(0x81, u64::MAX, b""),
        frame(0x81, 1 << 40, b"x"),
        frame(0x82, 1 << 20, &[0; 4096]),
        frame(0xf1, 1, b"x"),
        frame(0x83, 1, b"x"),
        frame(0x80, 1, b"x"),
        frame(0x89, 200, &[0; 200]),
        frame(0x81, 2, b"\xff\xfe"),
        frame(0x88, 1, b"x"),
        frame(0x88, 2, b"\x00\x00"),
        vec![0x81, 0x05, b'h', b'e', b'l', b'l', b'o'],
        // Fragments without end.
        (0..200).flat_map(|i| frame(if i == 0 { 0x01 } else { 0x00 }, 1, b"x")).collect(),
        frame(0x81, 2, b"[]"),
        frame(0x81, 4, b"null"),
        frame(0x81, 16_000, "[".repeat(16_000).as_bytes()),
        frame(0x82, 5, b"\xdd\xff\xff\xff\xff"),
        frame(0x82, 9, b"\xdf\xff\xff\xff\xff\xdf\xff\xff\xff"),
    ];
    cases.extend((0..40).map(|_| (0..dice.random_range(1..600)).map(|_| dice.random()).collect()));
    for (i, bytes) in cases.into_iter().enumerate() {
        let mut stream = TcpStream::connect(&address).await?;
        let protocol = if i % 2 == 0 { "flotilla.v1.json" } else { "flotilla.v1.msgpack" };
        let upgrade = format!(
            "GET /v1/ws HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
        );
        stream.write_all(upgrade.as_bytes()).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"HTTP/1.1 101");
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        ends(&mut stream, Duration::from_secs(15)).await.with_context(|| format!("case {i}"))?;
    }
    let peak = memory_kib(pid)?;
    println!("memory {before} -> {peak} KiB");
    assert!(peak < before + 32 * 1024, "lengths that are only claimed cost memory: {before} -> {peak} KiB");
    serves(&url, "alice").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_and_silence_at_the_peer_port_hurt_nobody() -> anyhow::Result<()> {
    raise_open_files()?;
    let mut cluster = Cluster::start(3).await?;
    let (url, address) = (cluster.nodes[0].url(), cluster.nodes[0].peer_addr.clone());
    let pid = cluster.nodes[0].pid().context("runs")?;
    let before = reset_memory(pid)?;
    // More silent dialers than handshakes are allowed at once.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(&address).await?);
    }
    let mut dice = StdRng::seed_from_u64(13);
    let magic = b"FLOTPEER".to_vec();
    let mut cases: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        magic.clone(),
        [magic.clone(), vec![0xff; 64]].concat(),
        [magic.clone(), vec![0; 64]].concat(),
        [magic.clone(), vec![0, 0, 0, 0]].concat(),
        [magic.clone(), vec![0x7f, 0xff, 0xff, 0xff]].concat(),
    ];
    cases.extend((0..40).map(|i| {
        let rubbish: Vec<u8> = (0..dice.random_range(1..3_000)).map(|_| dice.random()).collect();
        if i % 2 == 0 { rubbish } else { [magic.clone(), rubbish].concat() }
    }));
    for (i, bytes) in cases.into_iter().enumerate() {
        let mut stream = TcpStream::connect(&address).await?;
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        ends(&mut stream, Duration::from_secs(15)).await.with_context(|| format!("case {i}"))?;
    }
    serves(&url, "alice").await?;
    // A peer that restarts finds its way in past the silent ones.
    cluster.nodes[1].kill()?;
    cluster.spawn(1)?;
    cluster.ready(1).await?;
    drop(silent);
    let peak = memory_kib(pid)?;
    println!("memory {before} -> {peak} KiB");
    assert!(peak < before + 32 * 1024, "{before} -> {peak} KiB");
    serves(&cluster.nodes[1].url(), "bob").await?;
    Ok(())
}

/// A session whose socket takes little and is never read.
async fn never_reads(address: &str, name: &str) -> anyhow::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut stream = socket.connect(address.parse()?).await?;
    let upgrade = format!(
        "GET /v1/ws HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: flotilla.v1.json\r\n\r\n"
    );
    stream.write_all(upgrade.as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    let hello = hello(name, "stuck").to_string();
    stream.write_all(&frame(0x81, hello.len() as u64, hello.as_bytes())).await?;
    Ok(stream)
}

/// A socket that takes no byte for 30 s is closed; it costs little memory, nobody else waits for it, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_that_never_reads_is_closed_and_loses_nothing() -> anyhow::Result<()> {
    const EACH: u32 = 140;
    let cluster = Cluster::start(1).await?;
    let (url, address) = (cluster.nodes[0].url(), cluster.nodes[0].client_addr.clone());
    let pid = cluster.nodes[0].pid().context("runs")?;
    drop(Raw::open(&url, "bob", "stuck").await?);
    let _stuck = never_reads(&address, "bob").await?;
    let mut reader = Raw::open(&url, "bob", "reads").await?;
    let before = reset_memory(pid)?;
    // Two conversations with full windows of large bodies: more than all buffers of a socket hold.
    let body = "A".repeat(40 * 1024);
    for name in ["alice", "carol"] {
        let mut sender = Raw::open(&url, name, name).await?;
        for id in 1..=EACH {
            let message = json!({"to": "bob", "cid": random_cid(), "kind": "message", "body": body});
            let answer = sender.ask(id, "send", message).await?;
            assert_eq!(answer["t"], "accepted", "{answer}");
            sender.say(&json!({"t": "ack", "d": [{"conv": answer["d"]["conv"], "seq": id}]})).await?;
            // The other device of the same user waits for nothing.
            let entry = reader.until(|f| f["t"] == "entry").await?;
            assert_eq!(entry["d"]["seq"], id);
            reader.say(&json!({"t": "ack", "d": [{"conv": entry["d"]["conv"], "seq": id}]})).await?;
        }
    }
    let peak = memory_kib(pid)?;
    println!("memory {before} -> {peak} KiB with an unread socket");
    assert!(peak < before + 96 * 1024, "what is not read is not kept in memory: {before} -> {peak} KiB");
    drop(reader);
    eventually("the unread connection is closed", Duration::from_secs(45), async || {
        connections(&url).await.is_some_and(|n| n <= 1)
    })
    .await?;
    assert_eq!(figure(&url, "flotilla_closes_total{code=\"4003\"} ").await, Some(1), "slow_consumer");
    assert_eq!(figure(&url, "flotilla_closes_total{code=\"4002\"} ").await, None, "not heartbeat_timeout");
    // It comes back to everything that it never acked.
    let mut bob = Raw::dial(&url, Some("flotilla.v1.json")).await?;
    bob.say(&hello("bob", "stuck")).await?;
    let mut next = std::collections::BTreeMap::<String, u64>::new();
    for _ in 0..20 {
        let entry = bob.until(|f| f["t"] == "entry").await?;
        let due = next.entry(entry["d"]["conv"].to_string()).or_insert(1);
        assert_eq!(entry["d"]["seq"], *due, "each conversation from its first entry on");
        *due += 1;
    }
    Ok(())
}
