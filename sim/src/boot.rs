//! One life of a node: from its disk as the last life left it until it is killed or ends by itself.
//!
//! The same start as the binary's; only engine, addresses and the price of a password differ.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_machine::command::NodeInfo;
use flotilla_node::auth::courier::Delivery;
use flotilla_node::auth::password::Passwords;
use flotilla_node::gateway::shared::Options as ClientOptions;
use flotilla_node::metrics::Registry;
use flotilla_node::node::{Node, NodeOptions};
use flotilla_proto::ids::NodeId;
use flotilla_storage::{MemEngine, StorageError};

use crate::checkers::engine::WatchedEngine;
use crate::cluster::{CLIENT_PORT, PEER_PORT, Seat};

/// Shorter than in production.
const LEASE: Duration = Duration::from_secs(4);
pub async fn run(seat: Seat) {
    let options = match options(&seat) {
        Ok(options) => options,
        Err(error) => return seat.not_started(format!("its disk cannot be opened: {error}")),
    };
    match Node::start(options).await {
        Err(error) => seat.not_started(format!("it does not start: {error}")),
        Ok(mut node) => {
            seat.lives(Some(Arc::downgrade(&node.cluster)));
            tokio::select! {
                biased;
                reason = node.fatal.recv() => seat.ended(reason.unwrap_or_else(|| "nobody is left to say why".into())),
                () = seat.stop.notified() => {
                    match node.shutdown().await {
                        Ok(()) => seat.stopped(),
                        Err(reason) => seat.ended(reason),
                    }
                }
            }
        }
    }
}

fn options(seat: &Seat) -> Result<NodeOptions, StorageError> {
    Ok(NodeOptions {
        info: NodeInfo { node: NodeId(seat.number), peer_addr: seat.peer_addr(), client_url: seat.client_url() },
        client_addr: format!("{}:{CLIENT_PORT}", seat.ip),
        peer_addr: format!("{}:{PEER_PORT}", seat.ip),
        insecure_peers: true,
        lease: LEASE,
        timings: seat.timings,
        // Into the log, as on a demo user's node: that is where those who come by code find theirs.
        clients: ClientOptions { codes: Delivery::Log, ..ClientOptions::default() },
        passwords: Passwords::cheap(),
        engine: Arc::new(WatchedEngine::new(MemEngine::open(&seat.disk)?, seat.number, seat.watch.clone())),
        watermark: Arc::new(seat.disk.watermark()),
        registry: Arc::new(Registry::default()),
        disk_low: {
            let low = seat.disk_low.clone();
            Arc::new(move || low.load(Ordering::Relaxed))
        },
    })
}
