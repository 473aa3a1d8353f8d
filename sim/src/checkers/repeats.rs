//! Bounded duplicates: over one connection a device is sent an entry once. A repeat follows a reconnect only (RELIABILITY
//! section 3).

use std::collections::BTreeMap;

use flotilla_client::history::{Op, Record};
use flotilla_proto::ids::{ConvId, Seq};

use super::{Checker, World};

#[derive(Default)]
pub struct Repeats {
    /// The last entry that came over the present connection, by the label in the history.
    sent: BTreeMap<String, BTreeMap<ConvId, Seq>>,
}

impl Checker for Repeats {
    fn promise(&self) -> &'static str {
        "bounded duplicates"
    }

    fn on_record(&mut self, _: &World, record: &Record) -> Result<u64, String> {
        match &record.op {
            Op::Connected { .. } | Op::Reset => drop(self.sent.remove(&record.device)),
            Op::Entry { entry } => {
                let sent = self.sent.entry(record.device.clone()).or_default();
                let last = sent.insert(entry.conv.clone(), entry.seq);
                if let Some(last) = last.filter(|last| entry.seq <= *last) {
                    let (who, conv, seq) = (&record.device, &entry.conv, entry.seq);
                    return Err(format!("{who} is sent {conv} seq {seq} after {last} over one connection"));
                }
                return Ok(1);
            }
            _ => {}
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Bench, entry};
    use super::*;

    #[test]
    fn an_entry_that_comes_twice_over_one_connection_is_seen() {
        let bench = || Bench::new(vec![Box::new(Repeats::default())]);
        let one = entry(1, 10, None);
        let two = entry(2, 11, Some(&one));
        bench().connected("bob", 1).received("bob", &one).received("bob", &two).holds();
        bench().connected("bob", 1).received("bob", &one).connected("bob", 2).received("bob", &one).holds();
        bench().connected("bob", 1).received("bob", &one).received("bob", &one).violates("bounded duplicates");
    }
}
