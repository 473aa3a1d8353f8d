//! One message, and its answer as a JSON line.

use std::io::Write;
use std::time::Duration;

use flotilla_proto::frame::Target;
use flotilla_proto::ids::Cid;
use serde_json::json;

use crate::device::{Handle, Outcome, SubmitError, message_naming};

/// Waits at most `limit`; a time-out is reported as unknown, never as a failure (the store sends it again next time).
pub async fn send(
    handle: &Handle,
    target: Target,
    cid: Cid,
    body: String,
    limit: Duration,
    out: &mut (dyn Write + Send),
) -> Result<Outcome, SubmitError> {
    let ticket = handle.submit_as(cid, target, message_naming(body)).await?;
    let outcome = match tokio::time::timeout(limit, ticket.answer()).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Unknown("no answer in time".into()),
    };
    // A closed pipe is the reader's choice.
    let _ = writeln!(out, "{}", line(cid, &outcome));
    Ok(outcome)
}

fn line(cid: Cid, outcome: &Outcome) -> serde_json::Value {
    match outcome {
        Outcome::Accepted(accepted) => json!({"outcome": "accepted", "cid": cid, "accepted": accepted}),
        Outcome::Rejected(error) => json!({"outcome": "rejected", "cid": cid, "error": error}),
        Outcome::Unknown(why) => json!({"outcome": "unknown", "cid": cid, "why": why}),
    }
}
