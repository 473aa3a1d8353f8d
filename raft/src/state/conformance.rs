//! openraft's own suite for log storage and state machine, on ours.

use std::sync::Arc;

use flotilla_storage::{Engine, MemEngine};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft_rt::AsyncRuntime as _;

use super::{AppliedMark, Applier};
use crate::log::LogStore;
use crate::runtime::Runtime;
use crate::testkit::{Node, SHARD};
use crate::types::TypeConfig;

struct Builder<F>(F);

impl<F, G> StoreBuilder<TypeConfig, LogStore, Applier, (Node, G)> for Builder<F>
where
    F: Fn() -> (Arc<dyn Engine>, G) + Send + Sync,
    G: Send + Sync,
{
    async fn build(&self) -> Result<((Node, G), LogStore, Applier), StorageError<TypeConfig>> {
        let (engine, guard) = (self.0)();
        let node = Node::on(engine);
        // The suite purges logs that were never applied, which nothing else may do.
        let anything = AppliedMark::default();
        anything.is_durable(u64::MAX);
        // A tiny cache, so that most reads go to the engine.
        let log = node.log_with(SHARD, anything, 64).await.expect("an empty log opens");
        let applier = node.applier().expect("an empty state opens").with_gaps();
        Ok(((node, guard), log, applier))
    }
}

fn check<G: Send + Sync>(engine: impl Fn() -> (Arc<dyn Engine>, G) + Send + Sync) {
    let passed = Runtime::new(2).block_on(Suite::test_all(Builder(engine)));
    passed.expect("every promise of a store is kept");
}

#[test]
fn store_on_the_memory_engine_passes_openrafts_suite() {
    check(|| (Arc::new(MemEngine::new()), ()));
}

#[cfg(feature = "rocksdb")]
#[test]
fn store_on_rocksdb_passes_openrafts_suite() {
    use flotilla_storage::rocks::{RocksEngine, RocksOptions};
    check(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let engine = RocksEngine::open(&dir.path().join("db"), RocksOptions::default()).expect("a new database opens");
        (Arc::new(engine), dir)
    });
}
