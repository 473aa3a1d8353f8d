//! All that arrives, one JSON line an event, until the device stops or the reader goes away.

use std::io::Write;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::device::Event;

pub async fn tail(events: &mut mpsc::Receiver<Event>, out: &mut (dyn Write + Send)) {
    while let Some(event) = events.recv().await {
        let stopped = matches!(event, Event::Stopped { .. });
        let written = writeln!(out, "{}", line(&event)).and_then(|()| out.flush());
        if written.is_err() || stopped {
            return;
        }
    }
}

/// `event` names the kind; the rest is the frame as it came.
pub fn line(event: &Event) -> Value {
    match event {
        Event::Connected { url, node, user, device } => {
            json!({"event": "connected", "url": url, "node": node, "user": user, "device": device})
        }
        Event::CaughtUp { behind } => json!({"event": "caught_up", "behind": behind}),
        Event::Entry(entry) => json!({"event": "entry", "text": entry.body.as_ref().and_then(text), "entry": entry}),
        Event::Gap(gap) => json!({"event": "gap", "gap": gap}),
        Event::Conv(conv) => json!({"event": "conv", "conv": conv}),
        Event::Signal(signal) => json!({"event": "signal", "signal": signal}),
        Event::Hole { conv, stored, got, believed } => {
            json!({"event": "hole", "conv": conv, "stored": stored, "got": got, "believed": believed})
        }
        Event::Stale(cid) => json!({"event": "stale", "cid": cid}),
        Event::Disconnected { code, reason } => json!({"event": "disconnected", "code": code, "reason": reason}),
        Event::Reset => json!({"event": "reset"}),
        Event::Stopped { code, reason } => json!({"event": "stopped", "code": code, "reason": reason}),
    }
}

/// A body is opaque; shown as text where it is text.
pub fn text(body: &flotilla_proto::ids::Blob) -> Option<&str> {
    std::str::from_utf8(&body.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stopped_device_ends_the_stream_after_its_reason() {
        let (tell, mut events) = mpsc::channel(4);
        for event in [Event::Reset, Event::Stopped { code: 4505, reason: "device_revoked".into() }, Event::Reset] {
            tell.try_send(event).expect("room");
        }
        let mut out = Vec::new();
        tail(&mut events, &mut out).await;
        let lines: Vec<Value> =
            out.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["code"], 4505);
    }
}
