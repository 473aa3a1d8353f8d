//! A device whose process dies all the time: dropped in the middle of whatever it does, started again on what its store
//! holds. What it had given to its outbox must be accepted by the next one, what it had stored must not come a second time
//! as new, and nothing may be missing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use flotilla_client::store::MemStore;
use flotilla_proto::frame::Target;
use flotilla_proto::ids::ConvKind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::scene::{LIMIT, Scene, Seat, text};
use crate::talk::{Room, Run};

pub struct Phoenix {
    pub name: &'static str,
    pub number: u32,
    pub store: MemStore,
    dice: StdRng,
}

impl Phoenix {
    pub fn new(name: &'static str, number: u32, seed: u64) -> Self {
        Self { name, number, store: MemStore::new(), dice: StdRng::seed_from_u64(seed) }
    }

    pub async fn rise(&self, scene: &Scene) -> anyhow::Result<Seat> {
        scene.open_at(self.name, self.number, scene.urls.clone(), self.store.clone()).await
    }

    /// Lives and dies until told to stop; the last life, with every command answered, and how many there were.
    pub async fn work(
        mut self,
        first: Seat,
        scene: Arc<Scene>,
        rooms: Vec<Room>,
        run: Arc<Run>,
    ) -> anyhow::Result<(Seat, u64)> {
        let me = first.handle.user().clone();
        let rooms: Vec<Room> = rooms.into_iter().filter(|r| !r.volatile && r.members.contains(&me)).collect();
        let (mut seat, mut lives, mut count) = (first, 1u64, 0u64);
        while !run.stopped() {
            for _ in 0..self.dice.random_range(5..60) {
                let room = &rooms[self.dice.random_range(0..rooms.len())];
                let target = match room.conv.peer_of(&me) {
                    Some(peer) if room.conv.kind() == ConvKind::Direct => Target::User(peer),
                    _ => Target::Conv(room.conv.clone()),
                };
                count += 1;
                // Its answer may come in another life.
                drop(seat.handle.submit(target, text(format!("{} {count}", seat.label))).await?);
                run.count_sent();
                tokio::time::sleep(Duration::from_millis(self.dice.random_range(0..150))).await;
            }
            drop(seat);
            lives += 1;
            seat = self.rise(&scene).await?;
        }
        seat.until("has an answer to everything", LIMIT, |s| s.unanswered == 0).await?;
        ensure!(lives > 1, "{} never died", seat.label);
        Ok((seat, lives))
    }
}
