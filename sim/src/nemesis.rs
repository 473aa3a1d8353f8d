//! What breaks, and when. One kill and restart for now; partitions, clocks and slow disks belong here.

use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::options::Options;

/// Returns when everything is healed; whether the kill that the options ask for has happened.
pub async fn run(options: &Options, cluster: &Cluster) -> bool {
    let Some(kill) = &options.kill else { return false };
    sleep(kill.after).await;
    cluster.kill(kill.node, kill.disk, kill.keep_permille);
    sleep(kill.down).await;
    cluster.restart(kill.node);
    true
}
