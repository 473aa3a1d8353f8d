//! `flotilla inspect DIR`: whose directory it is and what its replicas have stored. Offline and read only.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use flotilla_machine::control::boot::Shown;
use flotilla_machine::table::kind;
use flotilla_raft::inspect::ReplicaFacts;
use serde::Serialize;

use super::status::Output;
use crate::cluster::local::LocalFacts;

#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// The --data-dir of a node that does not run
    pub dir: PathBuf,
    /// Compute every checksum and decode every log entry; fails if something is damaged
    #[arg(long)]
    pub verify: bool,
    /// Output form
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

#[derive(Serialize)]
struct Page {
    #[serde(flatten)]
    local: LocalFacts,
    watermark: Option<u64>,
    replicas: Vec<ReplicaFacts>,
}

pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let _lock = lock(&args.dir)?;
    let page = read(args)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&page)?),
        Output::Table => print(&page),
    }
    let damaged = page.replicas.iter().filter(|r| !r.damage.is_empty()).count();
    if damaged > 0 {
        bail!(
            "{damaged} replicas are damaged; start the node all the same: it replaces what is damaged by new replicas from the other nodes"
        );
    }
    if args.verify && args.output == Output::Table {
        println!("\nevery checksum is right");
    }
    Ok(())
}

/// Held while reading: a node that starts meanwhile is told that the directory is in use.
fn lock(dir: &Path) -> anyhow::Result<File> {
    let db = dir.join("db");
    if !db.join("CURRENT").is_file() {
        bail!(
            "{} is no data directory of flotilla: it has no database in `db`; give the --data-dir of a node",
            dir.display()
        );
    }
    let path = db.join("LOCK");
    let file = File::options().write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
            bail!(
                "{} is in use: stop its node first, or ask the running one with `flotilla cluster status`",
                dir.display()
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[cfg(feature = "rocksdb")]
fn read(args: &InspectArgs) -> anyhow::Result<Page> {
    use flotilla_storage::watermark::{WatermarkFile, WatermarkStore};
    let read = flotilla_storage::rocks::RocksEngine::open_read_only(&args.dir.join("db"))?;
    Ok(Page {
        local: crate::cluster::local::facts(&*read)?,
        watermark: WatermarkFile::new(args.dir.join("watermark")).read()?.map(|mark| mark.0.0),
        replicas: flotilla_raft::inspect::replicas(&*read, args.verify)?,
    })
}

#[cfg(not(feature = "rocksdb"))]
fn read(_args: &InspectArgs) -> anyhow::Result<Page> {
    bail!("this binary was built without the feature `rocksdb` and cannot read data")
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn print(page: &Page) {
    let local = &page.local;
    let cluster = local.cluster.map_or("none yet".to_owned(), |id| id.to_string());
    println!("node {}, boot {}, cluster {cluster}", text(local.node), Shown(local.boot));
    println!("control tables version {}, watermark {}", local.tables_version, text(page.watermark));
    for (shard, replica) in &local.distrusted {
        println!("shard {shard}: replica {replica} lost synced writes and does not vote again");
    }
    println!(
        "\n{:<7}{:<6}{:<10}{:>20}{:>12}{:>10}{:>10}{:>8}  {:<12}VOTE",
        "SHARD", "GEN", "HELD", "LOG", "BYTES", "PURGED", "APPLIED", "STATE", "VOTERS"
    );
    for r in &page.replicas {
        let log = r.log.as_ref().map_or("-".to_owned(), |log| format!("{}..{}", log.first, log.last));
        let bytes = r.log.as_ref().map(|log| log.bytes);
        let state = r.state.as_ref();
        let voters: Vec<_> = state.iter().flat_map(|s| &s.voters).map(|r| r.node.to_string()).collect();
        println!(
            "{:<7}{:<6}{:<10}{:>20}{:>12}{:>10}{:>10}{:>8}  {:<12}{}",
            r.shard,
            r.generation.0,
            if r.held { "yes" } else { "retired" },
            log,
            text(bytes),
            text(r.purged),
            text(state.and_then(|s| s.applied)),
            text(state.map(|s| s.generation)),
            voters.join(","),
            text(r.vote.as_ref())
        );
    }
    tables(page);
    for r in &page.replicas {
        r.damage.iter().for_each(|what| println!("damaged: shard {}, generation {}: {what}", r.shard, r.generation.0));
    }
}

/// Rows and bytes of each table, all shards together; by shard they are in the JSON.
fn tables(page: &Page) {
    let mut sums = std::collections::BTreeMap::<u8, (u64, u64)>::new();
    let states = || page.replicas.iter().filter_map(|r| r.state.as_ref());
    for (kind, rows) in states().flat_map(|s| &s.tables) {
        let sum = sums.entry(*kind).or_default();
        *sum = (sum.0 + rows.rows, sum.1 + rows.bytes);
    }
    println!("\n{:<16}{:>12}{:>16}", "TABLE", "ROWS", "BYTES");
    for (kind, (rows, bytes)) in sums {
        let name = kind::name(kind).map_or_else(|| format!("kind {kind:#04x}"), str::to_owned);
        println!("{name:<16}{rows:>12}{bytes:>16}");
    }
    let left: u64 = states().map(|s| s.leftover.rows).sum();
    if left > 0 {
        println!("{left} rows of replaced states are deleted at the next start");
    }
}
