//! Three outcomes: a command that was rejected has no effect, so it never stands in a log.

use flotilla_proto::frame::ErrorCode;

use super::world::World;
use super::{Stats, Violation};
use crate::history::Op;

const PROMISE: &str = "rejected has no effect";

pub fn check(world: &World<'_>, stats: &mut Stats) -> Result<(), Violation> {
    let seqs = world.seqs_of();
    for (cid, at) in &world.rejected {
        let record = &world.records[*at];
        // Says that the cid was used before, with another content.
        if matches!(&record.op, Op::Rejected { error, .. } if error.code == ErrorCode::IdempotencyMismatch) {
            continue;
        }
        *stats.entry("rejections verified").or_default() += 1;
        if let Some(seq) = seqs.get(cid) {
            let what = format!("cid {cid} was rejected and stands in the log at seq {seq}");
            return Err(Violation::new(PROMISE, what, [record]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flotilla_proto::frame::{ErrorBody, ErrorCode};

    use crate::history::Op;
    use crate::oracle::testkit::History;

    #[test]
    fn a_rejected_command_in_the_log_is_seen() {
        let mut history = History::good();
        let at = history.last(|r| matches!(r.op, Op::Accepted { .. }));
        let record = &mut history.records[at];
        if let Op::Accepted { cid, .. } = record.op {
            record.op = Op::Rejected { cid, error: ErrorBody::new(ErrorCode::Conflict, "no") };
        }
        history.violates("rejected has no effect");
    }
}
