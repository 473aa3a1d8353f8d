//! The history of operations: one record per event, in the order in which it happened in this process.
//!
//! Devices write it, the oracle reads it. Records of many devices share one recorder, so that their order is the real-time
//! order of the process. Kept in memory for tests and the simulator, or streamed as JSON lines.

use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};

use flotilla_proto::entry::What;
use flotilla_proto::frame::{Accepted, Conv, EntryFrame, ErrorBody, Gap, History, HistoryReply, MemberMarks};
use flotilla_proto::ids::{Cid, ConvId, DeviceId, Seq, SessionNo, UserId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Microseconds since the recorder was made.
    pub at_us: u64,
    /// The test's name of the device; one per store.
    pub device: String,
    pub user: UserId,
    pub op: Op,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The server knows this device: from here on it is owed entries.
    Connected {
        device: DeviceId,
        session: SessionNo,
        url: String,
        attempt: u64,
    },
    CaughtUp,
    Closed {
        code: u16,
        reason: String,
    },
    /// A command was given to the device. Group changes that go by `call` have their key as cid.
    Invoked {
        cid: Cid,
        conv: ConvId,
        what: What,
        pipelined: bool,
    },
    Accepted {
        cid: Cid,
        accepted: Accepted,
    },
    /// Final: it has no effect.
    Rejected {
        cid: Cid,
        error: ErrorBody,
    },
    /// Given up: it may or may not have happened.
    Unknown {
        cid: Cid,
        why: String,
    },
    /// As it came from the server, repeats included.
    Entry {
        entry: Box<EntryFrame>,
    },
    Gap {
        gap: Gap,
    },
    /// A page of history, as it was asked for and came. `stored`: how far the device had the conversation before it asked.
    Page {
        ask: History,
        stored: Seq,
        page: Box<HistoryReply>,
    },
    /// The client's own finding: something between is missing.
    Hole {
        conv: ConvId,
        stored: Seq,
        got: Seq,
    },
    Acked {
        conv: ConvId,
        seq: Seq,
    },
    /// The person has read up to here.
    Read {
        conv: ConvId,
        seq: Seq,
    },
    /// The state of a conversation, as it came from the server.
    Conv {
        conv: Box<Conv>,
    },
    /// The server watches receipts of these conversations for this connection, and of no others.
    Watched {
        convs: Vec<ConvId>,
    },
    /// How far members are, as it came from the server.
    Receipts {
        conv: ConvId,
        members: Vec<MemberMarks>,
    },
    /// The store was lost: from here on this is another device.
    Reset,
    /// A note of the test: a fault, a phase.
    Note {
        text: String,
    },
}

enum Sink {
    Memory(Vec<Record>),
    Lines(Box<dyn Write + Send>),
    Off,
}

/// Hears of each record as it happens.
type Tap = Box<dyn FnMut(&Record) + Send>;

struct Shared {
    started: Instant,
    sink: Mutex<Sink>,
    tap: Mutex<Option<Tap>>,
}

/// A cheap handle; clones write into the same history.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

impl Recorder {
    fn new(sink: Sink) -> Self {
        Self(Arc::new(Shared { started: Instant::now(), sink: Mutex::new(sink), tap: Mutex::new(None) }))
    }

    /// Grows with the run: for tests and the simulator.
    pub fn memory() -> Self {
        Self::new(Sink::Memory(Vec::new()))
    }

    pub fn lines(out: impl Write + Send + 'static) -> Self {
        Self::new(Sink::Lines(Box::new(BufWriter::new(out))))
    }

    pub fn off() -> Self {
        Self::new(Sink::Off)
    }

    /// From now on each record is told to `tap` before anything else happens. It must not record anything itself.
    pub fn tap(&self, tap: impl FnMut(&Record) + Send + 'static) {
        *self.0.tap.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tap));
    }

    pub fn record(&self, device: &str, user: &UserId, op: Op) {
        // A holder cannot panic half-way: it only pushes, or writes a line.
        let mut sink = self.0.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*sink, Sink::Off) {
            return;
        }
        let at_us = u64::try_from(self.0.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let record = Record { at_us, device: device.to_owned(), user: user.clone(), op };
        if let Some(tap) = &mut *self.0.tap.lock().unwrap_or_else(PoisonError::into_inner) {
            tap(&record);
        }
        match &mut *sink {
            Sink::Memory(records) => records.push(record),
            Sink::Lines(out) => {
                let written = serde_json::to_writer(&mut *out, &record).map_err(std::io::Error::from);
                if let Err(error) = written.and_then(|()| out.write_all(b"\n")) {
                    tracing::warn!(%error, "history is incomplete");
                    *sink = Sink::Off;
                }
            }
            Sink::Off => {}
        }
    }

    pub fn flush(&self) -> std::io::Result<()> {
        match &mut *self.0.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            Sink::Lines(out) => out.flush(),
            _ => Ok(()),
        }
    }

    /// The records so far, in memory only; they are taken out.
    pub fn take(&self) -> Vec<Record> {
        match &mut *self.0.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            Sink::Memory(records) => std::mem::take(records),
            _ => Vec::new(),
        }
    }

    pub fn count(&self) -> usize {
        match &*self.0.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            Sink::Memory(records) => records.len(),
            _ => 0,
        }
    }
}

/// Reads JSON lines back.
pub fn read_lines(input: impl std::io::BufRead) -> impl Iterator<Item = std::io::Result<Record>> {
    input.lines().map(|line| serde_json::from_str(&line?).map_err(std::io::Error::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_records() {
        #[derive(Clone, Default)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("not poisoned").extend_from_slice(buf);
                Ok(buf.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let out = Shared::default();
        let recorder = Recorder::lines(out.clone());
        let alice = UserId::parse("alice").expect("valid");
        recorder.record("alice/1", &alice, Op::CaughtUp);
        recorder.record("alice/1", &alice, Op::Note { text: "kill".into() });
        recorder.flush().expect("flushes");
        let bytes = out.0.lock().expect("not poisoned").clone();
        let back: Vec<Record> = read_lines(&bytes[..]).map(|r| r.expect("a record")).collect();
        assert_eq!(back.len(), 2);
        assert_eq!(back[1].op, Op::Note { text: "kill".into() });
    }
}
