//! The frames that matter at speed: `entry` and `accepted` are read in one pass without copies, everything else by the
//! protocol's own decoder. Outgoing frames are written by hand; tests hold them against the protocol's types.

use std::io::Write as _;

use flotilla_proto::frame::ServerMessage;
use flotilla_proto::frame::codec::{self, Decoded};
use flotilla_proto::frame::{CodecLimits, Encoding};
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

/// One frame of the server.
#[derive(Debug)]
pub enum Incoming<'a> {
    Entry(Entry<'a>),
    Accepted { id: u32, seq: u64, chain: u64 },
    Other(Box<ServerMessage>),
}

#[derive(Debug)]
pub struct Entry<'a> {
    pub conv: &'a str,
    pub seq: u64,
    pub cid: u128,
    /// Of the chain value's text: two sightings that agree have the same.
    pub chain: u64,
}

#[derive(Deserialize)]
struct EntryFrame<'a> {
    #[serde(borrow)]
    d: EntryContent<'a>,
}

#[derive(Deserialize)]
struct EntryContent<'a> {
    conv: &'a str,
    seq: u64,
    cid: &'a str,
    chain: &'a str,
}

#[derive(Deserialize)]
struct AcceptedFrame<'a> {
    id: u32,
    #[serde(borrow)]
    d: AcceptedContent<'a>,
}

#[derive(Deserialize)]
struct AcceptedContent<'a> {
    seq: u64,
    chain: &'a str,
}

/// The frames of one message, in order. An error: that is no frame.
pub fn read<'a>(message: &'a [u8], mut each: impl FnMut(Incoming<'a>)) -> Result<(), String> {
    for line in message.split(|byte| *byte == b'\n') {
        if line.starts_with(br#"{"t":"entry""#) {
            let EntryFrame { d } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            let cid = hex(d.cid).ok_or_else(|| format!("a cid is not a UUID: {}", d.cid))?;
            let chain = xxh3_64(d.chain.as_bytes());
            each(Incoming::Entry(Entry { conv: d.conv, seq: d.seq, cid, chain }));
        } else if line.starts_with(br#"{"t":"accepted""#) {
            let AcceptedFrame { id, d } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            each(Incoming::Accepted { id, seq: d.seq, chain: xxh3_64(d.chain.as_bytes()) });
        } else if !line.is_empty() {
            let unpacked = codec::decode_server(Encoding::Json, line, CodecLimits::OPEN);
            if let Some(bad) = unpacked.bad {
                return Err(bad.to_string());
            }
            for frame in unpacked.frames {
                if let Decoded::Message(message) = frame {
                    each(Incoming::Other(Box::new(message)));
                }
            }
        }
    }
    Ok(())
}

fn hex(text: &str) -> Option<u128> {
    let mut value = 0u128;
    let mut digits = 0;
    for byte in text.bytes() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'-' => continue,
            _ => return None,
        };
        value = value << 4 | u128::from(digit);
        digits += 1;
    }
    (digits == 32).then_some(value)
}

fn uuid(value: u128, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for at in 0..32 {
        if matches!(at, 8 | 12 | 16 | 20) {
            out.push(b'-');
        }
        out.push(DIGITS[(value >> (124 - 4 * at)) as usize & 15]);
    }
}

/// Where a send goes: the end of its frame up to the cid is the same for all sends to it.
pub fn target_conv(conv: &str) -> String {
    format!(r#""d":{{"conv":"{conv}","cid":""#)
}

pub fn target_user(user: &str) -> String {
    format!(r#""d":{{"to":"{user}","cid":""#)
}

/// What all sends of a run share: the rest of the frame behind the cid and the age.
pub fn tail(body: &[u8]) -> String {
    use flotilla_proto::ids::Blob;
    let body = serde_json::to_string(&Blob::from(body.to_vec())).expect("a text");
    format!(r#""kind":"message","body":{body}}}}}"#)
}

pub fn send(out: &mut Vec<u8>, id: u32, target: &str, cid: u128, age_s: Option<u64>, tail: &str) {
    // Writing to memory cannot fail.
    let _ = write!(out, r#"{{"t":"send","id":{id},"#);
    out.extend_from_slice(target.as_bytes());
    uuid(cid, out);
    out.extend_from_slice(br#"","#);
    if let Some(age_s) = age_s {
        let _ = write!(out, r#""age_s":{age_s},"#);
    }
    out.extend_from_slice(tail.as_bytes());
}

/// One `ack` frame of (conversation, seq).
pub fn ack<'a>(out: &mut Vec<u8>, items: impl Iterator<Item = (&'a str, u64)>) {
    out.extend_from_slice(br#"{"t":"ack","d":["#);
    for (at, (conv, seq)) in items.enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(out, r#"{comma}{{"conv":"{conv}","seq":{seq}}}"#);
    }
    out.extend_from_slice(b"]}");
}

#[cfg(test)]
mod tests {
    use flotilla_proto::frame::{AckItem, ClientFrame, ClientMessage, SendMessage};
    use flotilla_proto::ids::{Blob, Cid, ConvId, Seq, UserId};

    use super::*;

    fn decoded(bytes: &[u8]) -> ClientMessage {
        let unpacked = codec::decode_client(Encoding::Json, bytes, CodecLimits::OPEN);
        assert_eq!(unpacked.bad, None, "{}", String::from_utf8_lossy(bytes));
        match unpacked.frames.into_iter().next() {
            Some(Decoded::Message(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_by_hand_is_what_the_protocol_reads() {
        let (alice, bob) = (UserId::parse("alice").expect("valid"), UserId::parse("bob").expect("valid"));
        let conv = ConvId::direct(&alice, &bob);
        let cid = Cid(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        let wanted = |conv, to, age_s| SendMessage {
            conv,
            to,
            cid,
            age_s,
            after: None,
            kind: "message".into(),
            body: Blob::from(b"hello\"there".to_vec()),
            mentions: vec![],
            reply_to: None,
            media: None,
        };
        let tail = tail(b"hello\"there");
        let mut out = Vec::new();
        send(&mut out, 7, &target_user("bob"), cid.0, None, &tail);
        let message = ClientMessage { id: Some(7), frame: ClientFrame::Send(wanted(None, Some(bob), None)) };
        assert_eq!(decoded(&out), message);
        out.clear();
        send(&mut out, 8, &target_conv(&conv.to_string()), cid.0, Some(3), &tail);
        let message =
            ClientMessage { id: Some(8), frame: ClientFrame::Send(wanted(Some(conv.clone()), None, Some(3))) };
        assert_eq!(decoded(&out), message);
        out.clear();
        let text = conv.to_string();
        ack(&mut out, [(text.as_str(), 5), (text.as_str(), 9)].into_iter());
        let item = |seq| AckItem { conv: conv.clone(), seq: Seq(seq) };
        assert_eq!(decoded(&out), ClientMessage { id: None, frame: ClientFrame::Ack(vec![item(5), item(9)]) });
    }

    #[test]
    fn entries_are_read_whatever_stands_between_their_fields() {
        let chain = "A".repeat(43);
        let text = format!(
            "{{\"t\":\"entry\",\"d\":{{\"conv\":\"c\",\"seq\":5,\"n\":4,\"cid\":\"01234567-89ab-cdef-0011-223344556677\",\"body\":\"eHg\",\"chain\":\"{chain}\"}}}}\n{{\"t\":\"ping\",\"d\":{{}}}}\n{{\"t\":\"accepted\",\"id\":9,\"d\":{{\"conv\":\"c\",\"seq\":6,\"chain\":\"{chain}\"}}}}"
        );
        let mut seen = Vec::new();
        read(text.as_bytes(), |frame| {
            seen.push(match frame {
                Incoming::Entry(entry) => {
                    assert_eq!(entry.cid, 0x0123_4567_89ab_cdef_0011_2233_4455_6677);
                    format!("entry {} {} {}", entry.conv, entry.seq, entry.chain)
                }
                Incoming::Accepted { id, seq, chain } => format!("accepted {id} {seq} {chain}"),
                Incoming::Other(_) => "other".into(),
            });
        })
        .expect("frames");
        let chain = xxh3_64(chain.as_bytes());
        assert_eq!(seen, [format!("entry c 5 {chain}"), "other".into(), format!("accepted 9 6 {chain}")]);
        assert!(read(b"{\"t\":\"entry\",\"d\":{}}", |_| ()).is_err());
    }
}
