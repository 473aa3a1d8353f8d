//! Whole runs against a node that is not one: it speaks just enough of the protocol for one pair, and breaks one promise.
//! A run against it must end as bad, and by the count that says why.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_proto::frame::codec::{self, Decoded};
use flotilla_proto::frame::{ClientFrame, CodecLimits, Encoding};
use flotilla_proto::ids::{ConvId, UserId};

use super::Engine;
use super::ledger::Faults;
use super::load::{Load, Pace, Workload};

/// What the node does wrong with its tenth send.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// The receiver never gets it, nor anything after it.
    Lose,
    /// The receiver gets the next one, but not this one.
    Skip,
    Twice,
    /// The answer names another chain value than the entry.
    Contradict,
    /// It becomes two entries.
    TwoEntries,
    /// An entry that nobody sent comes with it.
    Invent,
    NoAnswer,
    NoReceipt,
}

struct Node {
    trouble: Trouble,
    seq: u64,
    sends: u64,
    users: Vec<(UserId, TcpStream)>,
}

const CHAIN: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const OTHER: &str = "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const UUID: &str = "00000000-0000-0000-0000-000000000001";

fn say(to: &mut TcpStream, text: &str) {
    let mut bytes = vec![0x81];
    match text.len() {
        short @ 0..126 => bytes.push(short as u8),
        long => {
            bytes.push(126);
            bytes.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(text.as_bytes());
    // The client may be gone: the test is over.
    let _ = to.write_all(&bytes);
}

impl Node {
    fn entry(&mut self, from: &UserId, to: &UserId, cid: &str, seq: u64, who: &[usize]) {
        let conv = ConvId::direct(from, to);
        let text = format!(
            r#"{{"t":"entry","d":{{"conv":"{conv}","seq":{seq},"n":{seq},"msg_id":"{seq}","ts":1,"from":"{from}","device":"{UUID}","cid":"{cid}","kind":"message","body_hash":"{CHAIN}","chain":"{CHAIN}","echo":true}}}}"#
        );
        for which in who {
            let user = [from, to][*which];
            if let Some((_, socket)) = self.users.iter_mut().rev().find(|(known, _)| known == user) {
                say(socket, &text);
            }
        }
    }

    fn send(&mut self, id: u32, from: &UserId, to: &UserId, cid: &str, socket: &mut TcpStream) {
        self.sends += 1;
        self.seq += 1;
        let (seq, now) = (self.seq, self.sends == 10);
        let trouble = if now { self.trouble } else { Trouble::None };
        let conv = ConvId::direct(from, to);
        let chain = if trouble == Trouble::Contradict { OTHER } else { CHAIN };
        if trouble != Trouble::NoAnswer {
            say(
                socket,
                &format!(
                    r#"{{"t":"accepted","id":{id},"d":{{"conv":"{conv}","seq":{seq},"msg_id":"1","ts":1,"chain":"{chain}","dup":false}}}}"#
                ),
            );
        }
        let lost = self.trouble == Trouble::Lose && self.sends >= 10;
        match trouble {
            _ if lost || trouble == Trouble::Skip => self.entry(from, to, cid, seq, &[0]),
            Trouble::NoAnswer => {}
            Trouble::Twice => self.entry(from, to, cid, seq, &[0, 1, 1]),
            Trouble::TwoEntries => {
                self.entry(from, to, cid, seq, &[0, 1]);
                self.seq += 1;
                self.entry(from, to, cid, seq + 1, &[0, 1]);
            }
            Trouble::Invent => {
                self.entry(from, to, cid, seq, &[0, 1]);
                self.seq += 1;
                self.entry(from, to, UUID, seq + 1, &[0, 1]);
            }
            _ => self.entry(from, to, cid, seq, &[0, 1]),
        }
    }
}

/// The next message of a client, whose mask is zero; none at the end.
fn hear(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = [0; 2];
    socket.read_exact(&mut head).ok()?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut two = [0; 2];
            socket.read_exact(&mut two).ok()?;
            usize::from(u16::from_be_bytes(two))
        }
        short => usize::from(short),
    };
    let mut payload = vec![0; length + 4];
    socket.read_exact(&mut payload).ok()?;
    Some(payload.split_off(4))
}

fn serve(node: Arc<Mutex<Node>>, mut socket: TcpStream) -> Option<()> {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).ok()?;
        asked.push(byte[0]);
    }
    socket.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").ok()?;
    let mut me = None;
    loop {
        let message = hear(&mut socket)?;
        let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
        for frame in codec::decode_client(Encoding::Json, &message, CodecLimits::OPEN).frames {
            let Decoded::Message(message) = frame else { continue };
            match (message.frame, &me) {
                (ClientFrame::Hello(hello), _) => {
                    let user = UserId::parse(hello.token.strip_prefix("dev:")?).ok()?;
                    let ready = format!(
                        r#"{{"t":"ready","d":{{"session":"1","node":1,"user":"{user}","device":"{UUID}","rev":"1.1","server_time":1,"limits":{{}}}}}}"#
                    );
                    say(&mut socket, &ready);
                    say(&mut socket, r#"{"t":"caught_up","d":{"rev":"1.1"}}"#);
                    node.users.push((user.clone(), socket.try_clone().ok()?));
                    me = Some(user);
                }
                (ClientFrame::Send(send), Some(from)) => {
                    node.send(message.id?, from, &send.to?, &send.cid.to_string(), &mut socket);
                }
                (ClientFrame::Call(_), _) => {
                    let delivered = if node.trouble == Trouble::NoReceipt { 3 } else { node.seq };
                    let id = message.id?;
                    say(
                        &mut socket,
                        &format!(r#"{{"t":"reply","id":{id},"d":{{"members":[{{"delivered":{delivered}}}]}}}}"#),
                    );
                }
                _ => {}
            }
        }
    }
}

struct OnePair;

impl Workload for OnePair {
    fn name(&self) -> String {
        "one pair".into()
    }

    fn devices(&self) -> usize {
        2
    }

    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()> {
        crate::workload::direct::pairs(engine, 1, false)
    }
}

fn run(trouble: Trouble) -> (Faults, u64, u64) {
    run_at(Pace::Open(crate::schedule::Schedule::constant(200.0)), trouble)
}

fn run_at(pace: Pace, trouble: Trouble) -> (Faults, u64, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let node = Arc::new(Mutex::new(Node { trouble, seq: 0, sends: 0, users: Vec::new() }));
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let node = node.clone();
            std::thread::spawn(move || serve(node, socket));
        }
    });
    let mut engine = Engine::new(&[url], 16).expect("an engine");
    let workload: Arc<dyn Workload> = Arc::new(OnePair);
    workload.prepare(&mut engine).expect("online");
    let load = Load {
        pace,
        warm_up: Duration::ZERO,
        seconds: Duration::from_millis(300),
        drain: Duration::from_millis(300),
        gap: None,
        live: false,
    };
    engine.load(&load, &workload, |_| (), || false).expect("runs");
    (engine.tally.faults.clone(), engine.tally.unanswered, engine.tally.sent)
}

#[test]
fn a_node_that_keeps_its_promises_passes() {
    let (faults, unanswered, sent) = run(Trouble::None);
    assert!(faults.none() && unanswered == 0, "{faults:?}, {unanswered} unanswered");
    assert_eq!(sent, 60, "an open loop sends what is due, whatever happens");
}

#[test]
fn more_sends_in_flight_than_a_connection_takes_leave_in_order() {
    let (faults, unanswered, sent) = run_at(Pace::Closed(2 * super::device::IN_FLIGHT_MAX), Trouble::None);
    assert!(faults.none() && unanswered == 0, "{faults:?}, {unanswered} unanswered of {sent}");
}

#[test]
fn every_broken_promise_is_seen_and_named() {
    let count: [(Trouble, fn(&Faults) -> u64); 7] = [
        (Trouble::Lose, |f| f.lost),
        (Trouble::Skip, |f| f.reordered),
        (Trouble::Twice, |f| f.doubled),
        (Trouble::Contradict, |f| f.differing),
        (Trouble::TwoEntries, |f| f.doubled + f.differing),
        (Trouble::Invent, |f| f.foreign),
        (Trouble::NoReceipt, |f| f.receipts_missing),
    ];
    for (trouble, of) in count {
        let (faults, ..) = run(trouble);
        assert!(of(&faults) > 0, "{trouble:?}: {faults:?}");
    }
    let (_, unanswered, _) = run(Trouble::NoAnswer);
    assert_eq!(unanswered, 1);
}
