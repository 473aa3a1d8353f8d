//! The same person without an outbox: requests to all nodes at once, each sent again with the same key until it is answered.
//!
//! Invariant: of all attempts with one cid and one body at most one has an effect, whichever nodes they go through; another
//! body never has any.

use std::sync::Arc;
use std::time::Duration;

use flotilla_client::device::message;
use flotilla_client::history::{Op, Recorder};
use flotilla_client::http::{Http, HttpError};
use flotilla_proto::frame::{Accepted, ErrorBody, ErrorCode};
use flotilla_proto::ids::{Blob, Cid, ConvId, UserId};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::shown::Shown;

/// So long an attempt is repeated.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Clone)]
pub struct Web {
    pub user: UserId,
    pub label: String,
    pub token: String,
    pub urls: Vec<String>,
    pub recorder: Recorder,
    pub shown: Shown,
    /// Held during an act, see `acts`.
    pub acting: Arc<Mutex<()>>,
}

/// How all attempts through one node ended.
enum Ended {
    Accepted(Accepted),
    /// Finally. `sure`: no attempt before it has been left without an answer.
    Refused {
        error: ErrorBody,
        sure: bool,
    },
    Silent,
}

impl Web {
    fn record(&self, op: Op) {
        self.recorder.record(&self.label, &self.user, op);
    }

    /// A message through all nodes at once; true if it was accepted.
    pub async fn send(&self, cid: Cid, conv: &ConvId, body: &str) -> bool {
        self.record(Op::Invoked { cid, conv: conv.clone(), what: message(body), pipelined: false });
        let ended = self.through_all(cid, conv, body).await;
        let mut accepted = 0;
        for end in &ended {
            match end {
                Ended::Accepted(answer) => {
                    self.record(Op::Accepted { cid, accepted: answer.clone() });
                    accepted += 1;
                }
                Ended::Refused { error, .. } if error.code == ErrorCode::IdempotencyMismatch => self.broken(cid, error),
                Ended::Refused { .. } | Ended::Silent => {}
            }
        }
        if accepted > 0 {
            // One alone has shown no second attempt.
            if accepted > 1 {
                self.shown.add("retry");
            }
            return true;
        }
        let refused = |end: &Ended| match end {
            Ended::Refused { error, sure: true } => Some(error.clone()),
            _ => None,
        };
        let refused: Option<Vec<ErrorBody>> = ended.iter().map(refused).collect();
        match refused.and_then(|all| all.into_iter().next()) {
            Some(error) => self.record(Op::Rejected { cid, error }),
            None => self.record(Op::Unknown { cid, why: "some attempt has no answer".into() }),
        }
        false
    }

    /// What was accepted comes once more: with the same body it gets the same answer, with another one it is refused.
    pub async fn again(&self, cid: Cid, conv: &ConvId, body: &str) {
        for end in self.through_all(cid, conv, body).await {
            match end {
                Ended::Accepted(accepted) => self.record(Op::Accepted { cid, accepted }),
                Ended::Refused { error, .. } => self.broken(cid, &error),
                Ended::Silent => {}
            }
        }
        for end in self.through_all(cid, conv, &format!("not {body}")).await {
            match end {
                Ended::Accepted(accepted) => self.shown.broken(format!(
                    "I2 one body per cid: cid {cid} of {} is accepted with another body: {accepted:?}",
                    self.user
                )),
                Ended::Refused { error, .. } if error.code == ErrorCode::IdempotencyMismatch => {
                    self.shown.add("other-body");
                }
                Ended::Refused { .. } | Ended::Silent => {}
            }
        }
    }

    fn broken(&self, cid: Cid, error: &ErrorBody) {
        let user = &self.user;
        self.shown
            .broken(format!("I2 one answer per cid: cid {cid} of {user} was sent again, the same, and got {error:?}"));
    }

    async fn through_all(&self, cid: Cid, conv: &ConvId, body: &str) -> Vec<Ended> {
        // Where there is one node, through that one twice.
        let urls = self.urls.iter().cycle().take(self.urls.len().max(2));
        futures::future::join_all(urls.map(|url| self.through(url, cid, conv, body))).await
    }

    async fn through(&self, url: &str, cid: Cid, conv: &ConvId, body: &str) -> Ended {
        let http = Http::new(url).with_token(self.token.clone());
        let path = format!("/v1/conversations/{conv}/messages");
        let (began, mut sure) = (Instant::now(), true);
        while began.elapsed() < PATIENCE {
            let mut params = json!({ "body": Blob::from(body.as_bytes().to_vec()) });
            if !began.elapsed().is_zero() {
                params["age_s"] = began.elapsed().as_secs().into();
            }
            match http.post(&path, cid, &params).await {
                Ok(value) => match serde_json::from_value(value) {
                    Ok(accepted) => return Ended::Accepted(accepted),
                    Err(_) => return Ended::Silent,
                },
                // Says nothing of the command: the node's clock is wrong, and a new token would be taken for old as well.
                Err(HttpError::Refused { body, .. }) if body.code == ErrorCode::TokenExpired => {}
                Err(HttpError::Refused { body, .. }) if !body.retryable => return Ended::Refused { error: body, sure },
                Err(_) => sure = false,
            }
            sleep(PAUSE).await;
        }
        Ended::Silent
    }
}
