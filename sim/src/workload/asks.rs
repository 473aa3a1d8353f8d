//! Reads while a leader is deposed: clients ask the node that is cut off for the newest entry of what others go on writing.

use std::time::Duration;

use flotilla_client::http::Http;
use flotilla_proto::frame::HistoryReply;
use tokio::time::{Instant, sleep};

use super::Chat;
use crate::checkers::reads::Answered;
use crate::cluster::Cluster;

const PAUSE: Duration = Duration::from_millis(80);

impl Chat {
    /// For so long. An ask that gets no answer says nothing, and neither does one that is refused.
    pub async fn ask_meanwhile(&self, cluster: &Cluster, node: usize, lasts: Duration) {
        let (url, via) = (cluster.seats[node].client_url(), cluster.seats[node].number);
        let end = Instant::now() + lasts;
        while Instant::now() < end {
            sleep(PAUSE).await;
            let newest = cluster.watch.with_world(|world| {
                let conv = world.newest.clone()?;
                let known = world.told.get(&conv).copied()?;
                Some((conv, known))
            });
            let Some((conv, known)) = newest else { continue };
            let Some(person) = self.people.iter().find(|person| conv.peer_of(&person.user).is_some()) else { continue };
            let http = Http::new(&url).with_token(person.web.token.clone());
            let watch = cluster.watch.clone();
            // Nobody waits for it: the answer may come when all is over.
            drop(person.browse(async move {
                let path = format!("/v1/conversations/{conv}/messages?limit=1");
                let Ok(answer) = http.get(&path).await else { return };
                let Ok(page) = serde_json::from_value::<HistoryReply>(answer) else { return };
                let got = page.entries.iter().map(|entry| entry.seq).max().unwrap_or_default();
                watch.on_read(&Answered { conv, via, known, got });
            }));
        }
    }
}
