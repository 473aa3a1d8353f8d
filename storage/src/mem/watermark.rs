//! The watermark's corner of a simulated disk: durable at once, as the real file is.
//!
//! Invariant: like an engine, the handle of a killed process changes nothing.

use super::MemDisk;
use super::disk::injected;
use crate::StorageError;
use crate::watermark::{Watermark, WatermarkStore, decode, encode};

/// A process's handle to the watermark of its disk.
pub struct MemWatermark {
    disk: MemDisk,
    generation: u64,
}

impl MemDisk {
    /// A handle that dies with the next crash.
    pub fn watermark(&self) -> MemWatermark {
        MemWatermark { disk: self.clone(), generation: self.state().generation }
    }
}

impl WatermarkStore for MemWatermark {
    fn read(&self) -> Result<Option<Watermark>, StorageError> {
        let state = self.disk.state();
        state.check_generation(self.generation)?;
        if state.faults.fail_reads {
            return Err(injected("reading the watermark"));
        }
        state.watermark.as_deref().map(decode).transpose()
    }

    fn write(&self, watermark: Watermark) -> Result<(), StorageError> {
        let mut state = self.disk.state();
        state.check_generation(self.generation)?;
        if state.faults.full {
            return Err(StorageError::Full { detail: "injected".into() });
        }
        if state.faults.fail_writes || state.faults.fail_syncs {
            return Err(injected("writing the watermark"));
        }
        state.watermark = Some(encode(watermark));
        Ok(())
    }
}
