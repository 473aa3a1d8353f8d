//! A rolling restart by SIGTERM: whatever was sent before `goaway` is answered on its connection, the connection is closed
//! with a verdict, and the process says that all went well.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{bail, ensure};
use flotilla_client::device::random_cid;
use flotilla_proto::frame::CloseCode;
use flotilla_tests::cluster::Cluster;
use flotilla_tests::raw::{Got, Raw};
use serde_json::{Value, json};
use tokio::sync::oneshot;

const SENDERS: usize = 6;
const BEAT: Duration = Duration::from_millis(5);
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Answers that each sender has had before the node is told to stop.
const WARM: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_sent_before_goaway_stays_unanswered_when_a_node_stops() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(3).await?;
    for at in 0..cluster.nodes.len() {
        let url = cluster.nodes[at].url();
        let (mut senders, mut warm) = (Vec::new(), Vec::new());
        for n in 0..SENDERS {
            let (tell, told) = oneshot::channel();
            warm.push(told);
            senders.push(tokio::spawn(pour(
                url.clone(),
                format!("user{n}"),
                format!("user{}", (n + 1) % SENDERS),
                tell,
            )));
        }
        for told in warm {
            told.await?;
        }
        let status = cluster.nodes[at].stop(STOP_LIMIT).await?;
        ensure!(status.success(), "node {at} said {status}");
        for sender in senders {
            sender.await??;
        }
        cluster.spawn(at)?;
        cluster.ready(at).await?;
    }
    Ok(())
}

/// Sends without waiting for answers until `goaway`, then takes what comes until the end.
async fn pour(url: String, me: String, peer: String, warm: oneshot::Sender<()>) -> anyhow::Result<()> {
    let mut warm = Some(warm);
    let mut raw = Raw::open(&url, &me, &format!("install of {me} at {url}, long enough")).await?;
    let (mut id, mut answered, mut going) = (0u64, 0usize, false);
    let mut waiting = BTreeSet::new();
    let mut beat = tokio::time::interval(BEAT);
    loop {
        let got = tokio::select! {
            biased;
            got = raw.next() => got?,
            // Below what one connection may have in flight.
            _ = beat.tick(), if !going && waiting.len() < 32 => {
                id += 1;
                waiting.insert(id);
                let cid = random_cid();
                raw.say(&json!({"t": "send", "id": id, "d": {"to": peer, "cid": cid, "kind": "message", "body": "aGk"}})).await?;
                continue;
            }
        };
        match got {
            Got::Frame(frame) => {
                going |= frame["t"] == "goaway";
                if let Some(id) = frame["id"].as_u64() {
                    let good = frame["t"] == "accepted" || frame["d"]["retryable"] == Value::Bool(true);
                    ensure!(good, "{me}: {frame}");
                    waiting.remove(&id);
                    answered += 1;
                }
                if frame["t"] == "entry" {
                    let d = &frame["d"];
                    raw.say(&json!({"t": "ack", "d": [{"conv": d["conv"], "seq": d["seq"]}]})).await?;
                }
                if answered >= WARM
                    && let Some(warm) = warm.take()
                {
                    let _ = warm.send(());
                }
            }
            Got::Closed(code) => {
                ensure!(going, "{me}: closed with {code} without goaway");
                ensure!(
                    waiting.is_empty(),
                    "{me}: closed with {code}, {} of {id} sends unanswered: {waiting:?}",
                    waiting.len()
                );
                if code != CloseCode::GoingAway.number() {
                    bail!("{me}: closed with {code}");
                }
                return Ok(());
            }
        }
    }
}
