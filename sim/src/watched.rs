//! What a device that watches receipts has heard of how far others are, after all is over: what is registered, of every member.

use std::collections::BTreeMap;

use flotilla_client::history::{Op, Record};
use flotilla_proto::ids::{ConvId, Seq, UserId};
use flotilla_proto::member::Mode;

use crate::checkers::World;
use crate::checkers::model::is_member;

/// Delivered and read, the highest that was heard on one connection.
type Heard<'r> = BTreeMap<(&'r ConvId, &'r UserId), (Seq, Seq)>;

#[derive(Default)]
struct Watcher<'r> {
    watched: &'r [ConvId],
    heard: Heard<'r>,
}

/// The first that was not told of somebody's mark.
pub fn behind(world: &World, records: &[Record]) -> Option<String> {
    let mut watchers: BTreeMap<&str, (&UserId, Watcher<'_>)> = BTreeMap::new();
    for record in records {
        match &record.op {
            Op::Connected { .. } => {
                watchers.insert(&record.device, (&record.user, Watcher::default()));
            }
            Op::Closed { .. } => drop(watchers.remove(record.device.as_str())),
            Op::Watched { convs } => {
                if let Some((_, watcher)) = watchers.get_mut(record.device.as_str()) {
                    watcher.watched = convs;
                }
            }
            Op::Receipts { conv, members } => {
                let Some((_, watcher)) = watchers.get_mut(record.device.as_str()) else { continue };
                for of in members {
                    let known = watcher.heard.entry((conv, &of.user)).or_default();
                    *known = (known.0.max(of.delivered), known.1.max(of.read.unwrap_or_default()));
                }
            }
            _ => {}
        }
    }
    let mut behind = watchers.into_iter().flat_map(|(device, (user, watcher))| {
        let missing = watcher.watched.iter().find_map(|conv| misses(world, user, conv, &watcher.heard));
        missing.map(|what| format!("{device} {what}"))
    });
    behind.next()
}

fn misses(world: &World, by: &UserId, conv: &ConvId, heard: &Heard<'_>) -> Option<String> {
    let (model, _) = world.models.get(conv)?;
    if conv.peers().is_some() || model.mode == Mode::Pull || !model.part(by).is_some_and(is_member) {
        return None;
    }
    model.members().find_map(|user| {
        let due = world.receipts.get(&(conv.clone(), user.clone())).copied().unwrap_or_default();
        let seen = heard.get(&(conv, user)).copied().unwrap_or_default();
        // Who hides its reads is shown those of nobody, for as long.
        let hidden = user != by && world.veiled.contains(by) && seen.1 <= due.1;
        let told = seen.0 == due.0 && (seen.1 == due.1 || hidden);
        (!told).then(|| format!("watches {conv} and knows {user} at {seen:?} (delivered, read), registered is {due:?}"))
    })
}
