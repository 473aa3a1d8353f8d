//! The order of pipelined sends: one connection's commands of one conversation are applied as they were sent.
//!
//! A command that follows one still under way names it as `after`, so that the log itself keeps the order whatever way the
//! two take. If the earlier one is refused for good, the later one is asked again without it; if the earlier one may be
//! sent again, the later one is answered `out_of_order`, so that it cannot overtake.

use std::collections::BTreeMap;

use flotilla_proto::frame::{Accepted, CommandFrame, ErrorBody, ErrorCode};
use flotilla_proto::ids::{Cid, ConvId, DeviceId, UserId};
use tokio::sync::watch;

use super::ops;
use super::shared::Shared;

/// How a command ended, for the one behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Accepted,
    /// Refused for good.
    Refused,
    /// May be sent again, or may even have happened.
    Open,
}

/// None while under way.
type Outcome = watch::Receiver<Option<End>>;

/// The newest command under way in each conversation.
#[derive(Default)]
pub struct Sends {
    last: BTreeMap<ConvId, (Cid, Outcome)>,
}

/// One command with its place in the order.
pub struct Ticket {
    before: Option<(Cid, Outcome)>,
    done: watch::Sender<Option<End>>,
}

impl Sends {
    pub fn enter(&mut self, conv: &ConvId, cid: Cid) -> Ticket {
        let (done, outcome) = watch::channel(None);
        let before = self.last.insert(conv.clone(), (cid, outcome));
        Ticket { before: before.filter(|(earlier, _)| *earlier != cid), done }
    }

    pub fn leave(&mut self, conv: &ConvId, cid: Cid) {
        if self.last.get(conv).is_some_and(|(last, _)| *last == cid) {
            self.last.remove(conv);
        }
    }
}

impl Ticket {
    pub async fn run(
        self,
        shared: &Shared,
        user: &UserId,
        device: DeviceId,
        mut frame: CommandFrame,
    ) -> Result<Accepted, ErrorBody> {
        let before = self.before.filter(|_| frame.after.is_none());
        frame.after = frame.after.or(before.as_ref().map(|(cid, _)| *cid));
        let mut result = ops::append(shared, user, device, &frame).await;
        if let (Err(error), Some((cid, mut outcome))) = (&result, before)
            && error.code == ErrorCode::OutOfOrder
        {
            let end = outcome.wait_for(Option::is_some).await.map_or(Some(End::Open), |end| *end);
            if end != Some(End::Open) {
                frame.after = (end == Some(End::Accepted)).then_some(cid);
                result = ops::append(shared, user, device, &frame).await;
            }
        }
        self.done.send_replace(Some(match &result {
            Ok(_) => End::Accepted,
            Err(error) if error.retryable => End::Open,
            Err(_) => End::Refused,
        }));
        result
    }
}
