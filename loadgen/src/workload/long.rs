//! The workload `long`: direct conversations that are long before anything is measured, and pages of their history afterwards.
//! Says how the cost of a send and of a page grows with the entries that are there.

use std::sync::Arc;

use anyhow::{bail, ensure};
use clap::Args;
use flotilla_proto::frame::{ClientFrame, ClientMessage, History};
use flotilla_proto::ids::Seq;
use hdrhistogram::Histogram;

use super::{Shape, Workload, direct};
use crate::engine::Engine;
use crate::engine::tally::histogram;
use crate::report::Latency;

/// Unanswered sends of a conversation while it is filled.
const FILLING: u64 = 64;
/// Parts of the filling whose rates are printed.
const PARTS: u64 = 10;
/// Pages that are read at the end, one after the other.
const PAGES: u64 = 500;
const PAGE_ENTRIES: u32 = 50;
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Entries that each conversation has before anything is measured
    #[arg(long, default_value_t = 1_000_000)]
    pub entries: u64,
    /// Conversations, two users each
    #[arg(long, default_value_t = 1)]
    pub pairs: usize,
    #[command(flatten)]
    pub shape: Shape,
}

impl Options {
    pub fn workload(&self) -> Arc<dyn Workload> {
        Arc::new(Long { entries: self.entries, pairs: self.pairs })
    }
}

struct Long {
    entries: u64,
    pairs: usize,
}

impl Workload for Long {
    fn name(&self) -> String {
        format!("long, {} conversations of {} entries", self.pairs, self.entries)
    }

    fn devices(&self) -> usize {
        2 * self.pairs
    }

    fn prepare(&self, engine: &mut Engine) -> anyhow::Result<()> {
        // The oracle judges whole histories, and of a million sends it would keep every word: the ledger judges alone.
        engine.kept = 0;
        direct::pairs(engine, self.pairs, false)?;
        for part in 1..=PARTS {
            let (from, to) = (self.entries * (part - 1) / PARTS, self.entries * part / PARTS);
            let begin = engine.clock.now();
            fill(engine, to - from)?;
            let seconds = engine.clock.now().since(begin) as f64 / 1e6;
            let rate = ((to - from) * self.pairs as u64) as f64 / seconds.max(1e-6);
            println!("  filling    {from} to {to} entries each: {rate:.0} accepted/s");
        }
        Ok(())
    }

    fn after(&self, engine: &mut Engine) -> anyhow::Result<()> {
        let mut took = histogram();
        for page in 0..PAGES {
            let conv = page as usize % engine.conversations.len();
            let reader = engine.conversations[conv].members[1] as usize;
            read_page(engine, conv, reader, rand::random_range(0..=self.entries), &mut took)?;
        }
        engine.pages = Some(Latency::of(&took));
        Ok(())
    }
}

/// So many more sends into every conversation; all are answered and delivered at the end.
fn fill(engine: &mut Engine, sends: u64) -> anyhow::Result<()> {
    let mut left = vec![sends; engine.conversations.len()];
    let mut moved = engine.clock.now();
    loop {
        let now = engine.clock.now();
        for (conv, left) in left.iter_mut().enumerate() {
            while *left > 0 && (engine.conversations[conv].ledger.unanswered as u64) < FILLING {
                engine.send(conv as u32, 0, now, now);
                *left -= 1;
                moved = now;
            }
        }
        if left.iter().all(|left| *left == 0) && engine.is_settled() {
            return Ok(());
        }
        ensure!(now < moved.after(LIMIT), "nothing moved for {LIMIT:?}; errors: {:?}", engine.tally.errors);
        engine.turn(now.after(std::time::Duration::from_millis(5)))?;
    }
}

fn read_page(
    engine: &mut Engine,
    conv: usize,
    reader: usize,
    after: u64,
    took: &mut Histogram<u64>,
) -> anyhow::Result<()> {
    let ask = History {
        conv: engine.conversations[conv].id.clone(),
        before: None,
        after: Some(Seq(after)),
        around: None,
        limit: Some(PAGE_ENTRIES),
    };
    let (begin, id) = (engine.clock.now(), engine.call_id());
    engine.put(reader, &ClientMessage { id: Some(id), frame: ClientFrame::History(ask) });
    let limit = begin.after(LIMIT);
    let answer = loop {
        if let Some(answer) = engine.answer(id) {
            break answer;
        }
        ensure!(engine.clock.now() < limit, "a page was not answered in {LIMIT:?}; errors: {:?}", engine.tally.errors);
        engine.turn(limit)?;
    };
    match answer {
        Ok(page) if page["entries"].as_array().is_some_and(|entries| !entries.is_empty()) => {}
        Ok(page) => bail!("a page after entry {after} is empty: {page}"),
        Err(error) if error.retryable => return Ok(()),
        Err(error) => bail!("a page cannot be read: {error}"),
    }
    took.saturating_record(engine.clock.now().since(begin).max(1));
    Ok(())
}
