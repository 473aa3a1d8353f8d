//! What a person sees who opens the application after all is over: the list of conversations and the whole history of each,
//! asked through the real client. It must be what the log says.

use std::collections::BTreeMap;

use flotilla_client::history::{Op, Record};
use flotilla_proto::frame::{Conv, EntryFrame, History, SyncRequest};
use flotilla_proto::ids::{ConvId, Rev, Seq, UserId};

use crate::checkers::model::may_read;
use crate::checkers::{World, frames, settings};
use crate::cluster::Cluster;
use crate::workload::{Chat, Person};

/// Small, so that there are several.
const PAGE: u32 = 23;
/// Of a history that changes while it is read.
const READS_MAX: usize = 10;

pub async fn agree(cluster: &Cluster, chat: &Chat) -> Result<(), String> {
    for person in &chat.people {
        list(cluster, person).await.map_err(|what| format!("the list of {}: {what}", person.user))?;
        let mine = |world: &World| {
            let of = world.models.iter().filter(|(_, (model, _))| model.part(&person.user).is_some());
            of.map(|(conv, _)| conv.clone()).collect::<Vec<ConvId>>()
        };
        for conv in cluster.watch.with_world(mine) {
            history(cluster, person, &conv).await.map_err(|what| format!("{} pages {conv}: {what}", person.user))?;
        }
    }
    Ok(())
}

async fn list(cluster: &Cluster, person: &Person) -> Result<(), String> {
    let (mut seen, mut request) = (Vec::new(), SyncRequest { rev: None, limit: Some(3) });
    loop {
        let reply = person.handle().sync(request).await.map_err(|error| error.to_string())?;
        for conv in &reply.convs {
            let known = cluster.watch.with_world(|world| frames::on_conv(world, &person.user, conv));
            let rev = known?;
            cluster.watch.with_world(|world| settings::shown(world, &person.user, conv))?;
            let newest = cluster.watch.with_world(|world| newest(world, &person.user, &conv.conv));
            if Some(rev) != newest {
                return Err(format!("{} is listed at revision {rev}, the newest is {newest:?}", conv.conv));
            }
            seen.push(conv.conv.clone());
        }
        if !reply.more {
            break;
        }
        request = SyncRequest { rev: Some(reply.rev), limit: Some(3) };
    }
    let shown = |world: &World| {
        let of = world.models.iter().filter(|(_, (model, _))| model.part(&person.user).is_some());
        of.map(|(conv, _)| conv.clone()).find(|conv| !seen.contains(conv))
    };
    match cluster.watch.with_world(shown) {
        Some(conv) => Err(format!("{conv} is missing")),
        None => Ok(()),
    }
}

fn newest(world: &World, user: &UserId, conv: &ConvId) -> Option<Rev> {
    world.rows.get(&(user.clone(), conv.clone()))?.keys().next_back().copied()
}

/// Up and down, page by page: exactly what the user's stays open. Members still come and go here and there: what was read
/// while another entry was written says nothing.
async fn history(cluster: &Cluster, person: &Person, conv: &ConvId) -> Result<(), String> {
    let readable = || {
        cluster.watch.with_world(|world| {
            let (model, _) = &world.models[conv];
            let part = &model.parts[&person.user];
            model.lines.keys().copied().filter(|seq| may_read(part, *seq)).collect::<Vec<Seq>>()
        })
    };
    for _ in 0..READS_MAX {
        let due = readable();
        let read = pages(cluster, person, conv).await?;
        if readable() != due {
            continue;
        }
        for (way, seqs) in [("up", &read.0), ("down", &read.1)] {
            if *seqs != due {
                return Err(format!("{way} come {seqs:?}, readable are {due:?}"));
            }
        }
        return Ok(());
    }
    Err(format!("what is readable changed during each of {READS_MAX} reads"))
}

async fn pages(cluster: &Cluster, person: &Person, conv: &ConvId) -> Result<(Vec<Seq>, Vec<Seq>), String> {
    let mut up: Vec<Seq> = Vec::new();
    loop {
        let after = Some(up.last().copied().unwrap_or(Seq::ZERO));
        let (entries, more) = page(cluster, person, History { after, ..asked(conv) }).await?;
        up.extend(entries.iter().map(|entry| entry.seq));
        if !more || entries.is_empty() {
            break;
        }
    }
    let mut down: Vec<Seq> = Vec::new();
    loop {
        let before = down.last().copied();
        let (entries, more) = page(cluster, person, History { before, ..asked(conv) }).await?;
        down.extend(entries.iter().rev().map(|entry| entry.seq));
        if !more || entries.is_empty() {
            break;
        }
    }
    down.reverse();
    Ok((up, down))
}

fn asked(conv: &ConvId) -> History {
    History { conv: conv.clone(), before: None, after: None, around: None, limit: Some(PAGE) }
}

async fn page(cluster: &Cluster, person: &Person, asked: History) -> Result<(Vec<EntryFrame>, bool), String> {
    let handle = person.handle();
    let status = handle.status().await.ok_or("the device is gone")?;
    let stored = status.positions.get(&asked.conv).copied().unwrap_or_default();
    let page = handle.history(asked.clone()).await.map_err(|error| error.to_string())?;
    cluster.watch.with_world(|world| frames::on_page(world, &person.user, &asked, stored, &page))?;
    Ok((page.entries, page.more))
}

/// A client whose last `conv` frame of a conversation says other than the row, but for what a mere head does not tell.
pub fn stale(world: &World, records: &[Record]) -> Option<String> {
    let mut shown: BTreeMap<(&str, &ConvId), (&UserId, &Conv)> = BTreeMap::new();
    let mut open: BTreeMap<&str, bool> = BTreeMap::new();
    for record in records {
        match &record.op {
            Op::Conv { conv } => drop(shown.insert((&record.device, &conv.conv), (&record.user, conv))),
            // Of other places and of strangers nobody hears when they end.
            Op::CaughtUp => {
                open.insert(&record.device, !record.device.ends_with("-b") && !record.device.starts_with("strange"));
            }
            Op::Closed { .. } => drop(open.insert(&record.device, false)),
            _ => {}
        }
    }
    let users: BTreeMap<&str, &UserId> = records.iter().map(|record| (record.device.as_str(), &record.user)).collect();
    for (device, _) in open.iter().filter(|(_, open)| **open) {
        let user = users[device];
        for ((_, conv), rows) in world.rows.iter().filter(|((of, _), _)| of == user) {
            let Some(row) = rows.values().next_back().filter(|row| row.is_shown()) else { continue };
            let settled = settings::in_frames(&settings::at(world, user, conv, row.rev));
            let due = (row.read, row.part.mseq, row.part.role, (row.peer_delivered, row.peer_read), settled);
            let last = shown.get(&(*device, conv)).map(|(_, last)| {
                let peer = last.peer.as_ref().map(|peer| (peer.delivered, peer.read)).unwrap_or_default();
                (last.read, last.mseq, last.role, peer, last.settings.clone())
            });
            let veiled = (due.0, due.1, due.2, (row.peer_delivered, Seq::ZERO), due.4.clone());
            let may_be_veiled = world.veiled.contains(user) && last.as_ref() == Some(&veiled);
            if last.as_ref() != Some(&due) && !may_be_veiled {
                return Some(format!("{device} was shown {conv} as {last:?}, its row says {due:?}"));
            }
        }
    }
    None
}
