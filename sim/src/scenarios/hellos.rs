//! What may happen around a `hello`.

use std::time::Duration;

use flotilla_client::device::Event;
use flotilla_client::history::Op;
use flotilla_proto::ids::{ConvId, Seq, SessionNo};
use tokio::time::sleep;

use super::kit::{must, shown};
use super::person::Person;
use super::{Fail, Scenario, Stage, Told, story};
use crate::options::Disk;

pub const ALL: fn() -> Vec<Scenario> = || {
    vec![
        story(
            "hello_races_a_notification_with_no_fault_at_all",
            "an entry that is accepted while a device connects is delivered, whichever comes first",
            hello_races,
        ),
        story(
            "a_late_hello",
            "the hello of an app that died, done after the next one's, does not take its session",
            late_hello,
        ),
        story(
            "the_only_node_that_a_device_reaches_restarts",
            "a device comes back to the node that it has left when it reaches no other",
            only_node,
        ),
        Scenario {
            nodes: 5,
            shards: 5,
            ..story(
                "an_unavailable_conversation_shard_at_hello",
                "a device is caught up although one conversation cannot be read, is told which, and gets it later",
                unavailable_shard,
            )
        },
    ]
};

const HELLOS: u64 = 40;

fn hello_races(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let mut last = Seq(1);
        let mut raced = 0;
        for number in 0..HELLOS {
            bob.app_dies();
            bob.opens().await?;
            // From before the hello leaves to after it is answered.
            sleep(Duration::from_millis(number * 3)).await;
            let was_caught_up = bob.status().await.caught_up;
            last = alice.sends(&conv, &format!("race {number}")).await?.seq;
            raced += usize::from(!was_caught_up);
            stage.gets(&bob, &conv, last).await?;
        }
        shown(raced >= 5, format!("only {raced} messages met a hello"))?;
        stage.gets(&bob, &conv, last).await
    })
}

fn sessions(stage: &Stage, person: &Person) -> Vec<SessionNo> {
    stage.seen(person, |record| match &record.op {
        Op::Connected { session, .. } => Some(*session),
        _ => None,
    })
}

/// Longer than any request waits.
const DONE: Duration = Duration::from_secs(8);

/// The first hello waits at a node for a leader, and its app is gone when there is one.
fn late_hello(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let inbox = stage.inbox_leader_of(&bob).await?;
        let here = stage.other(&[inbox]);
        let there = stage.other(&[inbox, here]);
        bob.closes().await;
        bob.sees_only(&[here]);
        [inbox, there].iter().for_each(|node| stage.kill(*node, Disk::Kept));
        bob.opens().await?;
        sleep(Duration::from_millis(1_500)).await;
        shown(bob.node().await.is_none(), "the first hello was answered")?;
        bob.app_dies();
        // The node hears that the socket is gone.
        sleep(Duration::from_millis(200)).await;
        bob.sees_only(&[there]);
        [inbox, there].iter().for_each(|node| stage.restart(*node));
        bob.opens().await?;
        stage.is_connected(&bob).await?;
        let session = sessions(stage, &bob).last().copied();
        sleep(DONE).await;
        let now = sessions(stage, &bob).last().copied();
        must(now == session, format!("I7 one-session: the dead app took session {session:?}, bob has {now:?}"))?;
        let next = alice.sends(&conv, "still there?").await?;
        stage.gets(&bob, &conv, next.seq).await?;
        bob.sees_all();
        Ok(())
    })
}

/// Other nodes are known to it and not reached: trying only those would never end.
fn only_node(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let (alice, bob, conv) = stage.talk_apart().await?;
        let (inbox, log) = (stage.inbox_leader_of(&bob).await?, stage.leader_of(&conv).await?);
        let only = stage.other(&[inbox, log]);
        stage.moves(&bob, only).await?;
        stage.moves(&alice, log).await?;
        let before = sessions(stage, &bob).len();
        stage.kill(only, Disk::Kept);
        let missed = alice.sends(&conv, "while bob's node is down").await?;
        shown(bob.has(&conv).await < missed.seq, "bob's node is not down")?;
        stage.restart(only);
        stage
            .until("liveness: bob is served again by the only node that he reaches", async || {
                bob.node().await == Some(only) && sessions(stage, &bob).len() > before
            })
            .await?;
        stage.gets(&bob, &conv, missed.seq).await?;
        bob.sees_all();
        alice.sees_all();
        Ok(())
    })
}

/// Five nodes: the three of one shard may die, and another shard still has two of its own. The control group has no quorum
/// then, and nobody may need it.
fn unavailable_shard(stage: &Stage) -> Told<'_> {
    Box::pin(async move {
        let alice = stage.person("alice").await?;
        let status = stage.status(0).await.ok_or_else(|| Fail::NotShown("no status".into()))?;
        shown(!status.groups.is_empty(), "no groups")?;
        let voters = async |shard| -> Result<Vec<usize>, Fail> {
            let leader = stage.leader(shard).await?;
            let status = stage.status(leader).await.ok_or_else(|| Fail::NotShown("no status".into()))?;
            let group = status.groups.into_iter().find(|group| group.shard == shard);
            Ok(group.map(|g| g.voters.iter().map(|v| usize::from(v.node.0) - 1).collect()).unwrap_or_default())
        };
        // Somebody whose conversation with alice can lose all its replicas while the inbox keeps its quorum.
        let mut found = None;
        for number in 0..60 {
            let name = format!("bob{number}");
            let user = flotilla_proto::ids::UserId::parse(&name).map_err(|e| Fail::NotShown(e.to_string()))?;
            let conv = ConvId::direct(&alice.user, &user);
            let (log, inbox) = (voters(stage.shard_of(&conv)).await?, voters(stage.shard_of_user(&user)).await?);
            if inbox.iter().filter(|node| !log.contains(node)).count() * 2 > inbox.len() {
                found = Some((name, conv, log));
                break;
            }
        }
        let (name, conv, log) = found.ok_or_else(|| Fail::NotShown("no such placement".into()))?;
        let bob = stage.person(&name).await?;
        let hello = alice.sends(&conv, "hello").await?;
        stage.gets(&bob, &conv, hello.seq).await?;
        bob.app_dies();
        let missed = alice.sends(&conv, "while bob is away").await?;
        let row = (bob.user.clone(), conv.clone());
        let told = || stage.cluster.watch.with_world(|world| world.inboxes.get(&row).map(|told| told.head));
        stage
            .until("I3: the message is in bob's inbox before its log is gone", async || told() >= Some(missed.seq))
            .await?;
        log.iter().for_each(|node| stage.kill(*node, Disk::Kept));
        bob.opens().await?;
        stage.is_connected(&bob).await?;
        let behind = bob.events().iter().any(|e| matches!(e, Event::CaughtUp { behind } if behind.contains(&conv)));
        shown(behind || bob.has(&conv).await < missed.seq, "the shard was available")?;
        must(
            behind || bob.has(&conv).await >= missed.seq,
            "I3 no-loss: caught up without a word about what is missing",
        )?;
        log.iter().for_each(|node| stage.restart(*node));
        stage.gets(&bob, &conv, missed.seq).await?;
        shown(missed.seq > Seq(1), "nothing was missed")
    })
}
