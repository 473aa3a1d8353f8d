//! People who come by one-time code, each on a machine of its own, through the routes that an app takes. An address that a code is
//! brought to, tries that are right, wrong, repeated, late or by two at once; what must hold of them is a checker's to say.

use std::net::Ipv4Addr;
use std::time::Duration;

use flotilla_client::device::random_cid;
use flotilla_client::history::Recorder;
use flotilla_client::http::{Http, HttpError};
use flotilla_proto::frame::ErrorCode;
use flotilla_proto::ids::{Cid, UserId};
use flotilla_proto::limits;
use madsim::runtime::NodeHandle;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::Chat;
use super::shown::Shown;
use crate::cluster::{Cluster, machine};
use crate::codes::{How, Step};
use crate::options::{Options, stream};
use crate::trace::Trace;

/// Of one request.
const PATIENCE: Duration = Duration::from_secs(8);
/// So long attempts of one request for a code begin: less than the pause until the next code.
const ASKS: Duration = Duration::from_secs(12);
/// So long one code is tried with one request.
const TRIES: Duration = Duration::from_secs(12);
/// In the end, when nothing is broken.
const CALM: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);
/// A code that is on its way comes within this time, or not at all.
const COMES: Duration = Duration::from_secs(1);
/// Until the next code may be asked for.
const NEXT: Duration = Duration::from_millis(limits::CODE_PAUSE_MS + 1_000);
const BROUGHT: &str = "one-time code";

/// What somebody does with a code.
#[derive(Debug, Clone, Copy)]
enum Visit {
    /// Comes in, again with the same request, and with another one.
    Enters,
    /// So many wrong tries, then the right one.
    Guesses(u8),
    /// Two installs at once, each its own request.
    Races,
    /// Comes in; the next code, and the old one once more.
    Returns,
}

impl Visit {
    fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..10) {
            0..4 => Self::Enters,
            4..7 => Self::Guesses(rng.random_range(1..=limits::CODE_TRIES_MAX + 1)),
            7..9 => Self::Races,
            _ => Self::Returns,
        }
    }
}

#[derive(Clone)]
struct Comer {
    label: String,
    user: UserId,
    address: String,
    urls: Vec<String>,
    recorder: Recorder,
    trace: Trace,
    shown: Shown,
}

impl Comer {
    fn say(&self, step: &Step) {
        self.recorder.record(&self.label, &self.user, step.op());
    }

    /// Asks through one node after the other, with one request; the code, if one was brought.
    async fn asks(&self) -> Option<String> {
        let (request, end) = (random_cid(), Instant::now() + ASKS);
        for url in self.urls.iter().cycle() {
            if Instant::now() > end {
                break;
            }
            self.say(&Step::Asks { address: self.address.clone(), request });
            let (http, body) = (Http::new(url), json!({ "address": self.address }));
            let asked = http.post("/v1/auth/otp", request, &body);
            if let Ok(Ok(_)) = timeout(PATIENCE, asked).await {
                break;
            }
            sleep(PAUSE).await;
        }
        let end = Instant::now() + COMES;
        loop {
            // The answer may be lost and the code come.
            if let Some(code) = self.trace.told(BROUGHT, "to", &self.address, "code") {
                self.say(&Step::Brought { address: self.address.clone(), code: code.clone() });
                return Some(code);
            }
            if Instant::now() > end {
                return None;
            }
            sleep(PAUSE).await;
        }
    }

    async fn tries_at(&self, url: &str, code: &str, request: Cid, install: &str) -> How {
        let id = random_cid();
        let (address, code, install) = (self.address.clone(), code.to_owned(), install.to_owned());
        let body = json!({ "address": address, "code": code, "install": install });
        self.say(&Step::Tries { id, address, code, request, install });
        let http = Http::new(url);
        let how = match timeout(PATIENCE, http.post("/v1/auth/otp/verify", request, &body)).await {
            Ok(Ok(tokens)) => How::In { user: text(&tokens["user"]), device: text(&tokens["device"]) },
            Ok(Err(HttpError::Refused { body, .. })) if body.code == ErrorCode::Unauthenticated => How::Wrong,
            _ => How::Unknown,
        };
        self.say(&Step::Ends { id, how: how.clone() });
        how
    }

    /// Through one node after the other, until one says yes or no. `from`: the node to begin with.
    async fn tries(&self, from: usize, code: &str, request: Cid, install: &str) -> How {
        let end = Instant::now() + TRIES;
        for url in self.urls.iter().cycle().skip(from) {
            let how = self.tries_at(url, code, request, install).await;
            if how != How::Unknown || Instant::now() > end {
                return how;
            }
            sleep(PAUSE).await;
        }
        How::Unknown
    }

    async fn visits(self, visit: Visit) {
        let Some(code) = self.asks().await else { return };
        let request = random_cid();
        match visit {
            Visit::Enters | Visit::Returns => {}
            Visit::Guesses(times) => {
                for time in 0..times {
                    let guess = other_than(&code, u32::from(time) + 1);
                    self.tries(usize::from(time), &guess, random_cid(), "one").await;
                }
            }
            Visit::Races => {
                let other = random_cid();
                futures::future::join(self.tries(1, &code, request, "one"), self.tries(0, &code, other, "two")).await;
            }
        }
        if let How::In { .. } = self.tries(0, &code, request, "one").await {
            self.shown.add("codes");
            self.tries(1, &code, request, "one").await;
        }
        self.tries(2, &code, random_cid(), "three").await;
        if matches!(visit, Visit::Returns) {
            sleep(NEXT).await;
            if let Some(next) = self.asks().await.filter(|next| *next != code) {
                self.tries(0, &code, random_cid(), "one").await;
                self.tries(0, &next, random_cid(), "one").await;
            }
        }
    }

    /// With nothing broken any more: somebody whom nobody knows is let in.
    async fn must_enter(&self) -> bool {
        let end = Instant::now() + CALM;
        let request = random_cid();
        while Instant::now() < end {
            let Some(code) = self.asks().await else { continue };
            match self.tries(0, &code, request, "one").await {
                How::In { .. } => return true,
                // Whether rightly is a checker's to say.
                How::Wrong | How::Unknown => {}
            }
        }
        false
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Another code.
fn other_than(code: &str, by: u32) -> String {
    format!("{:06}", (code.parse::<u32>().unwrap_or_default() + by) % 1_000_000)
}

/// Those of the end stand behind all others.
const LAST: usize = 200;

impl Chat {
    fn comer(&self, number: usize, cluster: &Cluster) -> Option<(Comer, NodeHandle)> {
        let host = u8::try_from(number + 1).ok()?;
        let label = format!("comer{}", number + 1);
        let comer = Comer {
            user: UserId::parse(&label).ok()?,
            address: format!("{label}@example.com"),
            label: label.clone(),
            urls: cluster.urls(),
            recorder: self.people.first()?.web.recorder.clone(),
            trace: cluster.trace.clone(),
            shown: self.shown.clone(),
        };
        Some((comer, machine(&label, Ipv4Addr::new(10, 0, 3, host))))
    }

    /// While things break.
    pub async fn come_by_code(&self, options: &Options, cluster: &Cluster) {
        let mut rng = stream(options.seed, 71);
        let mut visits = Vec::new();
        for number in 0..options.load.codes {
            let after = Duration::from_millis(rng.random_range(0..=12_000));
            let visit = Visit::draw(&mut rng);
            let Some((comer, machine)) = self.comer(number, cluster) else { return };
            visits.push(machine.spawn(async move {
                sleep(after).await;
                comer.visits(visit).await;
            }));
        }
        for visit in visits {
            // Its machine is never killed.
            let _ = visit.await;
        }
    }

    /// Everything is healed.
    pub(super) async fn somebody_comes(&self, options: &Options, cluster: &Cluster) {
        if options.load.codes == 0 {
            return;
        }
        let Some((comer, machine)) = self.comer(LAST, cluster) else { return };
        let comes = comer.clone();
        if machine.spawn(async move { comes.must_enter().await }).await.unwrap_or(false) {
            self.shown.add("codes");
        } else {
            let seconds = CALM.as_secs();
            self.shown.broken(format!("liveness: nobody comes in by a one-time code within {seconds} s"));
        }
    }
}
