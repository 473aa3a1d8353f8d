//! Real-time order of reads: what is read at the leader after somebody was told that an entry is accepted shows that entry,
//! whoever answers. A deposed leader that answers from what it has is found out by any client that both leaders can reach.

use flotilla_proto::ids::{ConvId, Seq};

pub const PROMISE: &str = "real-time order of reads";

/// A read of the newest entry of a conversation.
pub struct Answered {
    pub conv: ConvId,
    /// The node that was asked.
    pub via: u16,
    /// The highest seq that anybody had been told is accepted when the read was sent.
    pub known: Seq,
    pub got: Seq,
}

impl Answered {
    pub fn judge(&self) -> Result<u64, String> {
        let Self { conv, via, known, got } = self;
        if got < known {
            return Err(format!(
                "{conv} was read through node {via} up to {got} only, when seq {known} had been told to be accepted before"
            ));
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::conv;
    use super::*;

    #[test]
    fn a_read_that_does_not_show_what_was_accepted_before_is_seen() {
        let read = |known, got| Answered { conv: conv(), via: 1, known: Seq(known), got: Seq(got) }.judge();
        assert!(read(3, 3).is_ok() && read(3, 4).is_ok() && read(3, 2).is_err());
    }
}
