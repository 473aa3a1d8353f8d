//! What a node keeps for itself in its engine, beside Raft: boot number, the plan it adopted, the last control tables.
//!
//! Invariant: each row is versioned and checksummed; the boot number rises durably before anything else happens.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_machine::query::ControlState;
use flotilla_proto::codec::{self, CodecError};
use flotilla_proto::ids::{ClusterId, NodeId, ReplicaId, ShardId};
use flotilla_proto::limits;
use flotilla_raft::runtime::blocking_write;
use flotilla_storage::{Batch, Durability, Engine, Read, StorageError, value};
use serde::{Serialize, de::DeserializeOwned};

use super::wire::Plan;

/// Version of these rows; a data directory of a newer one is refused.
const LAYOUT: u8 = 1;
const BOOT: &[u8] = b"\xf0boot";
const NODE: &[u8] = b"\xf0node";
const PLAN: &[u8] = b"\xf0plan";
const SECRET: &[u8] = b"\xf0secret";
const DISTRUSTED: &[u8] = b"\xf0distrusted";
const TABLES: &[u8] = b"\xf0tables";
const REFUSED: &[u8] = b"\xf0refused";

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("storage failed: {0}")]
    Storage(#[from] StorageError),
    #[error(
        "the row `{row}` of the data directory is damaged; move the directory away and start the node with an empty one"
    )]
    Damaged { row: &'static str },
    #[error(
        "the data directory has layout {found}, this binary knows {LAYOUT}: start the version that wrote it, or a newer one"
    )]
    Newer { found: u8 },
    #[error("this data directory belongs to node {found}, not to node {asked}: give each node its own --data-dir")]
    WrongNode { found: NodeId, asked: NodeId },
    #[error("{0}")]
    Refused(String),
    #[error("cannot encode a row: {0}")]
    Encode(#[from] CodecError),
}

#[derive(Clone)]
pub struct Local {
    engine: Arc<dyn Engine>,
}

impl Local {
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }

    /// The directory is this node's for ever.
    pub async fn claim(&self, node: NodeId) -> Result<(), LocalError> {
        match self.read::<NodeId>(NODE, "node")? {
            Some(found) if found != node => Err(LocalError::WrongNode { found, asked: node }),
            Some(_) => Ok(()),
            None => self.write(NODE, &node, Durability::Synced).await,
        }
    }

    /// The cluster has found out that this directory was rolled back: no later start may take it for a newer one because
    /// its boot number has risen meanwhile.
    pub async fn refuse(&self, why: &str) -> Result<(), LocalError> {
        self.write(REFUSED, &why, Durability::Synced).await
    }

    pub fn check_refused(&self) -> Result<(), LocalError> {
        self.read::<String>(REFUSED, "refused")?.map_or(Ok(()), |why| Err(LocalError::Refused(why)))
    }

    /// The number of this start, durable before it is returned.
    pub async fn next_boot(&self) -> Result<u64, LocalError> {
        let boot = self.read::<u64>(BOOT, "boot")?.unwrap_or(0) + 1;
        self.write(BOOT, &boot, Durability::Synced).await?;
        Ok(boot)
    }

    /// For a node that comes back with an empty directory: above what the cluster has seen of it.
    pub async fn raise_boot(&self, boot: u64) -> Result<(), LocalError> {
        self.write(BOOT, &boot, Durability::Synced).await
    }

    pub fn plan(&self) -> Result<Option<Plan>, LocalError> {
        self.read(PLAN, "plan")
    }

    pub fn secret(&self) -> Result<Option<[u8; 32]>, LocalError> {
        self.read(SECRET, "secret")
    }

    pub async fn adopt(&self, plan: &Plan, secret: [u8; 32]) -> Result<(), LocalError> {
        let mut batch = Batch::default();
        batch.put(PLAN.to_vec(), sealed(plan)?);
        batch.put(SECRET.to_vec(), sealed(&secret)?);
        self.write_batch(batch, Durability::Synced).await
    }

    /// These replicas never run again under their ids. Durable before the node does anything else with them.
    pub async fn distrust(&self, replicas: &[(ShardId, ReplicaId)]) -> Result<(), LocalError> {
        let mut all = self.distrusted()?;
        all.extend_from_slice(replicas);
        all.sort_unstable();
        all.dedup();
        self.write(DISTRUSTED, &all, Durability::Synced).await
    }

    pub fn distrusted(&self) -> Result<Vec<(ShardId, ReplicaId)>, LocalError> {
        Ok(self.read(DISTRUSTED, "distrusted")?.unwrap_or_default())
    }

    pub fn tables(&self) -> Result<Option<ControlState>, LocalError> {
        self.read(TABLES, "tables")
    }

    /// Not synced: an older copy only costs one more fetch.
    pub async fn keep_tables(&self, state: &ControlState) -> Result<(), LocalError> {
        self.write(TABLES, state, Durability::Buffered).await
    }

    async fn write<T: Serialize>(&self, key: &[u8], value: &T, durability: Durability) -> Result<(), LocalError> {
        let mut batch = Batch::default();
        batch.put(key.to_vec(), sealed(value)?);
        self.write_batch(batch, durability).await
    }

    /// Not on a thread of the runtime: a slow disk would hold up every connection of the node.
    async fn write_batch(&self, batch: Batch, durability: Durability) -> Result<(), LocalError> {
        let engine = self.engine.clone();
        blocking_write(&*self.engine, move || engine.write(batch, durability)).await?;
        Ok(())
    }

    fn read<T: DeserializeOwned>(&self, key: &[u8], row: &'static str) -> Result<Option<T>, LocalError> {
        read_row(&*self.engine, key, row)
    }
}

fn read_row<T: DeserializeOwned>(read: &dyn Read, key: &[u8], row: &'static str) -> Result<Option<T>, LocalError> {
    let Some(stored) = read.get(key)? else { return Ok(None) };
    let (version, payload) = value::open(&stored).map_err(|_| LocalError::Damaged { row })?;
    if version > LAYOUT {
        return Err(LocalError::Newer { found: version });
    }
    let decoded = codec::decode(LAYOUT, &payload, limits::PEER_FRAME_BYTES_MAX);
    decoded.map(Some).map_err(|_| LocalError::Damaged { row })
}

/// Whose directory this is, for a tool that only reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalFacts {
    pub node: Option<NodeId>,
    pub boot: u64,
    /// None: it was never adopted.
    pub cluster: Option<ClusterId>,
    pub tables_version: u64,
    /// Replicas that must not run again under their ids, and have not been replaced yet.
    pub distrusted: Vec<(ShardId, ReplicaId)>,
}

pub fn facts(read: &dyn Read) -> Result<LocalFacts, LocalError> {
    Ok(LocalFacts {
        node: read_row(read, NODE, "node")?,
        boot: read_row(read, BOOT, "boot")?.unwrap_or(0),
        cluster: read_row::<Plan>(read, PLAN, "plan")?.map(|plan| plan.cluster),
        tables_version: read_row::<ControlState>(read, TABLES, "tables")?.map_or(0, |state| state.version),
        distrusted: read_row(read, DISTRUSTED, "distrusted")?.unwrap_or_default(),
    })
}

fn sealed<T: Serialize>(value: &T) -> Result<Bytes, LocalError> {
    Ok(value::seal(LAYOUT, &codec::encode(LAYOUT, value)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flotilla_storage::MemEngine;

    use super::*;

    #[tokio::test]
    async fn boot_numbers_rise_and_a_newer_layout_is_refused() {
        let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
        let local = Local::new(engine.clone());
        assert_eq!(local.next_boot().await.expect("boots"), 1);
        assert_eq!(local.next_boot().await.expect("boots"), 2);
        let mut batch = Batch::default();
        batch.put(BOOT.to_vec(), value::seal(LAYOUT + 1, b"?"));
        engine.write(batch, Durability::Synced).expect("writes");
        assert!(matches!(local.next_boot().await, Err(LocalError::Newer { found: 2 })));
    }

    #[tokio::test]
    async fn a_disk_that_stalls_holds_up_nothing_but_the_write() {
        let engine = MemEngine::new();
        let disk = engine.disk().clone();
        disk.inject(|faults| faults.stall = Duration::from_secs(3_600));
        let local = Local::new(Arc::new(engine));
        let mut writing = tokio::spawn(async move { local.raise_boot(7).await.is_ok() });
        let waited = tokio::time::timeout(Duration::from_millis(50), &mut writing).await;
        assert!(waited.is_err(), "the write waits for the disk, and this thread goes on");
        writing.abort();
    }
}
