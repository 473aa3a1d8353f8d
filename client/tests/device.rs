//! Devices against a server that breaks connections on purpose: whatever happens on the wire, the promises hold.

mod fake;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::{Fake, Faults, eventually};
use flotilla_client::device::{Event, fixed_token, message};
use flotilla_client::history::Recorder;
use flotilla_client::oracle::{Demand, judge};
use flotilla_client::store::{FileStore, MemStore, Store};
use flotilla_client::terminal::plain::{self, Plain, Printing, Tally};
use flotilla_client::terminal::{Account, Login};
use flotilla_client::{Config, Device, Handle, Outcome};
use flotilla_proto::frame::{Encoding, ErrorCode, Target};
use flotilla_proto::ids::{ConvId, Seq, UserId};
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(30);

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("valid")
}

fn config(name: &str, number: u32, urls: &[String], recorder: &Recorder) -> Config {
    let mut config = Config::new(urls.to_vec(), user(name), fixed_token(format!("dev:{name}")));
    config.label = format!("{name}/{number}");
    config.recorder = recorder.clone();
    config.encoding = if number.is_multiple_of(2) { Encoding::Json } else { Encoding::MsgPack };
    (config.backoff_min, config.backoff_max) = (Duration::from_millis(5), Duration::from_millis(40));
    config
}

/// Events are taken by somebody, else the server's window closes.
fn drained((handle, mut events): (Handle, mpsc::Receiver<Event>)) -> Handle {
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle
}

async fn caught_up(handle: &Handle) {
    eventually("caught up", LIMIT, async || handle.status().await.is_some_and(|s| s.caught_up)).await;
}

async fn all_have_everything(fake: &Fake, handles: &[Handle]) {
    eventually("every device holds every entry", LIMIT, async || {
        let heads = fake.heads();
        for handle in handles {
            let Some(status) = handle.status().await else { return false };
            let owed = heads.iter().filter(|(conv, _)| conv.peer_of(handle.user()).is_some());
            let whole = owed.into_iter().all(|(conv, head)| status.positions.get(conv) == Some(head));
            if status.unanswered > 0 || !whole {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test]
async fn sends_survive_cuts_before_and_after_they_were_applied() {
    let fake = Fake::new();
    let urls = [fake.listen().await, fake.listen().await];
    let recorder = Recorder::memory();
    let open = |name, number| drained(Device::open(config(name, number, &urls, &recorder), MemStore::new()));
    let handles = [open("alice", 1), open("alice", 2), open("bob", 1), open("carol", 1)];
    for handle in &handles {
        caught_up(handle).await;
    }
    fake.set_faults(Faults { cut_after: 0.02, cut_before: 0.02, unavailable: 0.05, close: 0.01, goaway: 0.01 });
    let senders = [(0, "bob"), (0, "carol"), (1, "bob"), (2, "alice"), (3, "alice"), (2, "carol")];
    let mut tickets = Vec::new();
    for i in 0..100 {
        for (from, to) in senders {
            let body = format!("{from} to {to}: {i}");
            let ticket = handles[from].submit(Target::User(user(to)), message(body)).await.expect("taken");
            tickets.push(ticket);
        }
    }
    for ticket in tickets {
        let outcome = tokio::time::timeout(LIMIT, ticket.answer()).await.expect("answered in time");
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }
    fake.set_faults(Faults::default());
    all_have_everything(&fake, &handles).await;
    for handle in handles {
        handle.close().await;
    }
    let demand = Demand { accepted_min: 600, delivered_min: 1_700, repeats_min: 1, ..Demand::default() };
    let verdict = judge(&recorder.take(), demand);
    assert!(verdict.holds(), "{verdict}");
}

#[tokio::test]
async fn a_device_that_is_killed_goes_on_from_its_file() {
    let fake = Fake::new();
    let urls = [fake.listen().await];
    let recorder = Recorder::memory();
    let dir = tempfile::tempdir().expect("tempdir");
    let bob = drained(Device::open(config("bob", 1, &urls, &recorder), MemStore::new()));
    caught_up(&bob).await;
    let open = || {
        let store = FileStore::open(dir.path()).expect("opens");
        drained(Device::open(config("alice", 1, &urls, &recorder), store))
    };
    let mut alice = open();
    caught_up(&alice).await;
    fake.set_faults(Faults { cut_after: 0.05, ..Faults::default() });
    for round in 0..5 {
        for i in 0..20 {
            // Never waits for the answer: the next process owes it.
            alice.submit(Target::User(user("bob")), message(format!("{round}.{i}"))).await.expect("taken");
            bob.submit(Target::User(user("alice")), message(format!("{round}.{i}"))).await.expect("taken");
        }
        drop(alice);
        // The lock is free once the old task is gone.
        eventually("the old device is gone", LIMIT, async || FileStore::open(dir.path()).is_ok()).await;
        alice = open();
    }
    fake.set_faults(Faults::default());
    all_have_everything(&fake, &[alice.clone(), bob.clone()]).await;
    alice.close().await;
    let verdict = judge(&recorder.take(), Demand { delivered_min: 400, ..Demand::default() });
    // Commands whose answer a killed process never saw are in the log and were sent once.
    assert!(verdict.holds(), "{verdict}");
    assert_eq!(fake.heads()[&ConvId::direct(&user("alice"), &user("bob"))].0, 200);
    let saved = FileStore::open(dir.path()).expect("opens").load();
    assert_eq!(saved.commands, []);
}

#[tokio::test]
async fn a_rejected_command_does_not_hold_up_those_behind_it() {
    let fake = Fake::new();
    let urls = [fake.listen().await];
    let recorder = Recorder::memory();
    let (alice, mut events) = Device::open(config("alice", 1, &urls, &recorder), MemStore::new());
    let to_bob = || Target::User(user("bob"));
    let mut tickets = Vec::new();
    for body in ["one", "forbidden", "two"] {
        tickets.push(alice.submit(to_bob(), message(body)).await.expect("taken"));
    }
    let mut outcomes = Vec::new();
    for ticket in tickets {
        outcomes.push(tokio::time::timeout(LIMIT, ticket.answer()).await.expect("answered"));
    }
    assert!(matches!(&outcomes[0], Outcome::Accepted(a) if a.seq.0 == 1), "{outcomes:?}");
    assert!(matches!(&outcomes[1], Outcome::Rejected(e) if e.code == ErrorCode::Forbidden), "{outcomes:?}");
    assert!(matches!(&outcomes[2], Outcome::Accepted(a) if a.seq.0 == 2), "{outcomes:?}");
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        let event = tokio::time::timeout(LIMIT, events.recv()).await.expect("in time").expect("open");
        if let Event::Entry(entry) = event {
            bodies.push(entry.body.expect("an echo is filled in by the device").0);
        }
    }
    assert_eq!(bodies, ["one", "two"]);
}

#[tokio::test]
async fn a_read_mark_above_what_was_delivered_is_told_again_once_it_has_come() {
    let fake = Fake::new();
    let urls = [fake.listen().await];
    let recorder = Recorder::memory();
    let open = |name| drained(Device::open(config(name, 1, &urls, &recorder), MemStore::new()));
    let (alice, bob) = (open("alice"), open("bob"));
    let both = [alice.clone(), bob.clone()];
    for handle in &both {
        caught_up(handle).await;
    }
    let conv = ConvId::direct(&user("alice"), &user("bob"));
    let says = async |from: &Handle, to: &str| {
        let ticket = from.submit(Target::User(user(to)), message("a word")).await.expect("taken");
        let outcome = tokio::time::timeout(LIMIT, ticket.answer()).await.expect("answered in time");
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    };
    says(&bob, "alice").await;
    all_have_everything(&fake, &both).await;
    // A page of history has shown more than was delivered.
    alice.read(conv, Seq(3)).await;
    eventually("a mark told too early", LIMIT, async || fake.reads(alice.user()) == [(3, false)]).await;
    says(&bob, "alice").await;
    all_have_everything(&fake, &both).await;
    // Her own word comes behind whatever she had to tell before it, and is the third.
    says(&alice, "bob").await;
    eventually("told again", LIMIT, async || fake.reads(alice.user()).len() > 1).await;
    says(&bob, "alice").await;
    all_have_everything(&fake, &both).await;
    says(&alice, "bob").await;
    assert_eq!(fake.reads(alice.user()), [(3, false), (3, true)], "not below it, and once");
}

/// What is printed, kept for the test to read.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn rows(&self) -> Vec<Vec<String>> {
        let text = String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text");
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }
}

#[tokio::test]
async fn a_pipe_sends_its_lines_and_prints_what_arrives_in_seven_fields() {
    let fake = Fake::new();
    let urls = vec![fake.listen().await];
    let account = |name: &str| Account { urls: urls.clone(), user: user(name), login: Login::Demo, dir: None };
    let bob = drained(account("bob").open().await.expect("opens"));
    caught_up(&bob).await;
    let paper = Paper::default();
    let to = Target::User(user("bob"));
    let conv = to.conv_for(&user("alice"));
    let store = Printing::new(MemStore::new(), Some(conv.clone()), Arc::new(Mutex::new(paper.clone())));
    let (alice, events) = account("alice").open_on(Box::new(store)).await.expect("opens");
    let (keys, typed) = mpsc::channel(8);
    for line in ["/quit is text", "a\ttab", ""] {
        keys.send(line.to_owned()).await.expect("room");
    }
    // A device gets what comes after it is known.
    caught_up(&alice).await;
    bob.send(Target::User(user("alice")), "from bob").await.expect("taken");
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let plain = Plain { to: Some(to), follow: true, wait: LIMIT };
    let stop = async {
        // Dropped without a word is no stop either.
        let _ = told.await;
    };
    let running = plain::run(plain, alice, events, typed, stop, |_| {});
    let reading = async {
        eventually("three lines", LIMIT, async || paper.rows().len() == 3).await;
        drop(keys);
        tell.send(()).expect("it waits");
    };
    let (tally, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(running, reading) }).await.expect("in time");
    assert_eq!(tally, Tally { accepted: 2, ..Tally::default() });
    let rows = paper.rows();
    assert!(rows.iter().all(|r| r.len() == 7 && r[2] == conv.as_str() && r[4] == "message"), "{rows:?}");
    let mine: Vec<&str> = rows.iter().filter(|r| r[3] == "alice").map(|r| r[5].as_str()).collect();
    assert_eq!(mine, ["/quit is text", "a\\ttab"], "an empty line is nothing");
    let seqs: Vec<&str> = rows.iter().map(|r| r[0].as_str()).collect();
    assert_eq!(seqs, ["1", "2", "3"]);
}
