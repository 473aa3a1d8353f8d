//! How the one RocksDB of a node is set up, and why.
//!
//! Invariant: whatever the sizes, no setting here lets a logged write bypass the write-ahead log or lets a crash
//! lose anything of them but a suffix of whole batches.

use std::sync::Arc;
use std::time::Duration;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, DataBlockIndexType, Error,
    InfoLogger, LogLevel, Options,
};

const MIB: usize = 1 << 20;

/// Flushed memtables that are merged at once into level 1, where each byte of them rewrites several: more of the small ones,
/// so that small memtables do not mean more writing.
const LEVEL_0_FILES: i32 = 8;

/// A memtable grows by such blocks, and is full where the next would not fit: sizes that differ by less than a block are the same,
/// and RocksDB's choice, 1 MiB, is an eighth of a small memtable.
const ARENA_BLOCK_BYTES: usize = 256 << 10;

/// Of a memtable, for a filter of its keys: most lookups are for rows that are in tables, or nowhere, and a memtable is searched from the
/// top each time. Measured with the two below, 10,000 conversations in turn: 14 and 9 % more sends, 18 % less CPU for each.
const MEMTABLE_FILTER_PART: f64 = 0.05;

/// Of what is in the cache: RocksDB finds it out.
const ANY_SIZE: usize = 0;

/// Called with the duration of every sync, for a histogram. Must be quick: the writer waits for it.
pub type OnSync = Arc<dyn Fn(Duration) + Send + Sync>;

/// Sizes of a RocksDB. The defaults keep a node with little data well below 100 MiB: memory is at most
/// about `block_cache_bytes + 9/8 * write_buffer_bytes * write_buffers`, or with the larger memtables of a node under load; and
/// memtables grow as they fill.
#[derive(Clone)]
pub struct RocksOptions {
    /// The node's: replicas do not write their memtables out at the same instants.
    pub number: u16,
    /// Blocks, indexes and filters of the tables, uncompressed.
    pub block_cache_bytes: usize,
    /// One memtable while little is written, and while a snapshot comes in: about, see [`super::buffers::apart`].
    pub write_buffer_bytes: usize,
    /// One memtable under load, likewise; also bounds how much log a restart replays.
    pub write_buffer_bytes_under_load: usize,
    /// The one being filled and those being flushed.
    pub write_buffers: u8,
    /// Threads for flushes and compactions.
    pub background_jobs: u8,
    /// Table files kept open.
    pub open_files: u16,
    /// Hears about every sync.
    pub on_sync: Option<OnSync>,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            number: 0,
            block_cache_bytes: 32 * MIB,
            write_buffer_bytes: 8 * MIB,
            write_buffer_bytes_under_load: 32 * MIB,
            write_buffers: 3,
            background_jobs: 2,
            open_files: 256,
            on_sync: None,
        }
    }
}

impl RocksOptions {
    pub(super) fn to_rocksdb(&self) -> Result<Options, Error> {
        let mut options = Options::default().get_options_from_string(WITHOUT_SETTERS)?;
        durability(&mut options);
        inserts(&mut options);
        self.sizes(&mut options);
        quiet(&mut options);
        Ok(options)
    }

    fn sizes(&self, options: &mut Options) {
        let mut tables = BlockBasedOptions::default();
        // Without locks, and so in one part. (One that is cut into small parts, each with a size of its own, is full of the filters of
        // a few tables, and every lookup decompresses its index anew: after a minute at full load that was half of all CPU.)
        tables.set_block_cache(&Cache::new_hyper_clock_cache(self.block_cache_bytes, ANY_SIZE));
        tables.set_block_size(8 << 10);
        // Indexes and filters live in the cache, so that the cache bounds them too; in pieces of a block's size, so that what
        // is asked for often stays, however large the tables are.
        tables.set_cache_index_and_filter_blocks(true);
        tables.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        tables.set_partition_filters(true);
        tables.set_metadata_block_size(8 << 10);
        tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
        // 10 bits a key: about 1 % of the lookups of absent keys read a block.
        tables.set_bloom_filter(10.0, false);
        // A lookup finds its key in a block by hash; iterators search as ever.
        tables.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        options.set_block_based_table_factory(&tables);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(self.write_buffer_bytes);
        options.set_arena_block_size(ARENA_BLOCK_BYTES);
        options.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_PART);
        options.set_memtable_whole_key_filtering(true);
        options.set_max_write_buffer_number(i32::from(self.write_buffers));
        options.set_level_zero_file_num_compaction_trigger(LEVEL_0_FILES);
        options.set_max_background_jobs(i32::from(self.background_jobs));
        options.set_max_open_files(i32::from(self.open_files));
        // Tables are written back steadily instead of in one burst that would stall the log's syncs.
        options.set_bytes_per_sync(MIB as u64);
    }
}

/// Options that the binding has no setters for.
///
/// `track_and_verify_wals`: a log names its predecessor and that one's end. Without it, this happens: a memtable
/// fills up, a new log begins, and buffered writes go on; power is lost before the old memtable is in a table,
/// when the newer log happened to reach the disk and the end of the older one did not. Recovery then reads the
/// shortened log to its end, goes on with the newer one, and brings back a hole in the middle of the history
/// instead of a prefix.
///
/// `memtable_max_range_deletions`: each range delete makes the next read sort all those in the memtable again.
/// Measured: with 500 of them ten reads took 80 us, with 4,000 more than a millisecond.
///
/// `memtable_insert_with_hint_prefix_extractor`: where the last row of a table of a shard went in is remembered, and the next
/// one is looked for from there; a batch has its rows in order. 12 bytes are what the rows of one table of one state have in
/// common; log entries have more, but for the last three bytes of their index. About 250 bytes a prefix and memtable.
const WITHOUT_SETTERS: &str = "track_and_verify_wals=true;memtable_max_range_deletions=256;\
    memtable_insert_with_hint_prefix_extractor=rocksdb.CappedPrefix.12";

/// The settings that decide whether data survives; none of them is an option of ours.
fn durability(options: &mut Options) {
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    // A batch that was torn by a crash ends the log; everything before it is kept, nothing after it.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // A closed and synced log file that went missing or shrank is an error at open, not a silent loss.
    // The live log is not covered by this; the node's watermark is there for that.
    options.set_track_and_verify_wals_in_manifest(true);
    // A buffered write is in the page cache when it returns: a killed process loses nothing.
    options.set_manual_wal_flush(false);
    // A recycled log could show old records behind the new ones; cheaper syncs are not worth the proof. And RocksDB refuses unlogged
    // writes with it.
    options.set_recycle_log_file_num(0);
}

/// Finding the place of a row in the memtable is a quarter of what a node does under load.
fn inserts(options: &mut Options) {
    // Writes that come at the same time are put in by one of their threads, which has the hints, in place of each waking
    // up for its own.
    options.set_allow_concurrent_memtable_write(false);
}

/// An idle node should cost nothing.
fn quiet(options: &mut Options) {
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * MIB);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
}

/// For reading a copy, or a stopped node's directory, without changing anything in it, log files included.
pub(super) fn for_a_copy() -> Result<Options, Error> {
    let mut options = RocksOptions { block_cache_bytes: 8 * MIB, ..RocksOptions::default() }.to_rocksdb()?;
    options.create_if_missing(false);
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Error, |_, _| {}));
    Ok(options)
}
