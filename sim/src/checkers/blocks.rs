//! A blocked user's message to who has blocked it is never accepted once the block was answered as done, until a lift may have
//! been asked for; and nobody is refused as blocked whom nobody may have blocked (docs/server.md, DESIGN section 8).

use std::collections::BTreeMap;

use flotilla_client::history::{Op, Record};
use flotilla_proto::frame::ErrorCode;
use flotilla_proto::ids::{Cid, ConvId, UserId};

use crate::lasting::{Act, Did};

/// How many answers could have been wrong, or the first that is.
pub fn judge(records: &[Record], acts: &[Did]) -> Result<u64, String> {
    let mut sent: BTreeMap<Cid, (usize, &UserId, &ConvId)> = BTreeMap::new();
    let mut verified = 0;
    for (at, record) in records.iter().enumerate() {
        match &record.op {
            Op::Invoked { cid, conv, .. } if conv.peers().is_some() => {
                sent.entry(*cid).or_insert((at, &record.user, conv));
            }
            Op::Accepted { cid, .. } => {
                // Repeats of an accepted command are answered as ever.
                let Some((began, user, conv)) = sent.remove(cid) else { continue };
                let Some(on) = surely_on(acts, user, conv, began, at) else { continue };
                return Err(format!(
                    "{user}'s {cid} to {conv} was sent at record {began} and accepted at {at}, blocked since {on:?}"
                ));
            }
            Op::Rejected { cid, error } => {
                let Some((began, user, conv)) = sent.remove(cid) else { continue };
                if error.code == ErrorCode::Blocked {
                    verified += 1;
                    if !maybe_on(acts, user, conv, began, at) {
                        return Err(format!(
                            "{user}'s {cid} to {conv}, sent at record {began}, was refused at {at} as blocked by nobody"
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(verified)
}

/// Of the peer, against the user: those that want this.
fn wanting<'a>(acts: &'a [Did], user: &'a UserId, conv: &ConvId, wanted: bool) -> impl Iterator<Item = &'a Did> {
    let peer = conv.peer_of(user);
    acts.iter().filter(move |did| {
        let is = matches!(&did.act, Act::Block { user: blocked, on } if blocked == user && *on == wanted);
        is && Some(&did.user) == peer.as_ref()
    })
}

/// A block that was done before `from` and that no lift can have ended before `to`.
fn surely_on<'a>(acts: &'a [Did], user: &'a UserId, conv: &ConvId, from: usize, to: usize) -> Option<&'a Did> {
    let lifted = |on: &Did| wanting(acts, user, conv, false).any(|off| off.begins < to && off.may_come(on.begins));
    wanting(acts, user, conv, true).find(|on| on.is_over(from) && !lifted(on))
}

/// A block that may have held at some moment between the two.
fn maybe_on(acts: &[Did], user: &UserId, conv: &ConvId, from: usize, to: usize) -> bool {
    let lifted = |on: &Did| wanting(acts, user, conv, false).any(|off| off.is_over(from) && !on.may_come(off.begins));
    wanting(acts, user, conv, true).any(|on| on.begins < to && on.may_come(0) && !lifted(on))
}

#[cfg(test)]
mod tests {
    use flotilla_client::device::message;
    use flotilla_proto::frame::{Accepted, ErrorBody};
    use flotilla_proto::ids::{Hash32, MsgId, Seq, TsMs};

    use super::*;
    use crate::lasting::{Ended, acts, testing::history};

    fn block(on: bool, how: Ended) -> (&'static str, Act, Ended) {
        ("ann", Act::Block { user: UserId::parse("bob").expect("valid"), on }, how)
    }

    /// After these acts bob writes to ann.
    fn answered(before: &[(&str, Act, Ended)], beside: usize, accepted: bool) -> Result<u64, String> {
        let (ann, bob) = (UserId::parse("ann").expect("valid"), UserId::parse("bob").expect("valid"));
        let (conv, cid) = (ConvId::direct(&ann, &bob), Cid(77));
        let mut records = history(before, beside);
        let record = |op| Record { at_us: 0, device: "bob".into(), user: bob.clone(), op };
        records.push(record(Op::Invoked { cid, conv: conv.clone(), what: message("hi"), pipelined: true }));
        let (seq, msg_id, ts, chain, dup) = (Seq(1), MsgId(1), TsMs(1), Hash32::default(), false);
        records.push(record(if accepted {
            Op::Accepted { cid, accepted: Accepted { conv, seq, msg_id, ts, chain, dup } }
        } else {
            Op::Rejected { cid, error: ErrorBody::new(ErrorCode::Blocked, "blocked") }
        }));
        let acts = acts(&records);
        judge(&records, &acts)
    }

    #[test]
    fn a_message_past_a_block_and_a_refusal_without_one_are_seen() {
        use Ended::*;
        assert!(answered(&[block(true, Done)], 0, true).is_err());
        assert_eq!(answered(&[block(true, Done)], 0, false), Ok(1));
        assert!(answered(&[], 0, false).is_err());
        assert!(answered(&[block(true, Done), block(false, Done)], 0, false).is_err(), "lifted");
        assert!(answered(&[block(true, Refused)], 0, false).is_err());
        for how in [Done, Unknown] {
            assert_eq!(answered(&[block(true, Done), block(false, how)], 0, true), Ok(0));
        }
        assert_eq!(answered(&[block(true, Unknown)], 0, true), Ok(0), "nobody knows");
        assert_eq!(answered(&[block(true, Unknown)], 0, false), Ok(1));
        assert_eq!(answered(&[block(false, Unknown), block(true, Done)], 0, true), Ok(0), "the lift may come late");
        assert_eq!(answered(&[block(true, Done), block(false, Done)], 2, true), Ok(0), "side by side");
        assert_eq!(answered(&[block(true, Done), block(false, Done)], 2, false), Ok(1), "side by side");
    }
}
