//! From the seed to the options, in a fixed order.
//!
//! Swarm: each kind of fault is switched off in half of the seeds, so that rare mixtures happen. Lanes run beside each
//! other: what happens to processes and disks, to the network, and to everything else.

use std::time::Duration;

use flotilla_proto::fate::Door;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::fault::{LATER, NETWORK, NEWER, NEWER_LOSSES};
use super::load::{Load, stream};
use super::{Disk, Fault, KINDS, Options, POINTS, Timed};

const PROCESSES: [&str; 8] = ["kill", "crash-at", "pause", "stop", "rolling", "kill", "crash-at", "kill"];
const OTHERS: [&str; 10] =
    ["slow", "sync-error", "full", "clock", "drift", "transfer", "silent", "client-crash", "slow", "crash-at"];
/// At most one of these in a run: each takes a copy away for good.
const LOSSES: [&str; 2] = ["wipe", "corrupt"];

impl Options {
    /// Draws everything in a fixed order.
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = [3, 3, 3, 3, 3, 3, 5, 1][rng.random_range(0..8)];
        let election_ms = [300, 500, 500, 800][rng.random_range(0..4)];
        let mut options = Self {
            seed,
            nodes,
            shards: rng.random_range(1..=3),
            users: rng.random_range(3..=5),
            groups: rng.random_range(1..=2),
            sends: rng.random_range(40..=240),
            pause: Duration::from_millis(rng.random_range(40..=600)),
            group_percent: rng.random_range(20..=70),
            latency: Duration::from_micros(rng.random_range(100..=500))
                ..Duration::from_millis(rng.random_range(1..=20)),
            election: Duration::from_millis(election_ms),
            snapshot_entries: [30, 60, 120, 200][rng.random_range(0..4)],
            sync: Duration::from_micros([0, 200, 1_000, 4_000][rng.random_range(0..4)]),
            change_percent: [0, 10, 30, 50][rng.random_range(0..4)],
            dead: Vec::new(),
            lanes: Vec::new(),
            load: Load::draw(seed),
            plant: None,
            ..Self::default()
        };
        let since = |kind: &&str| LATER.contains(kind) || NEWER.contains(kind) || NEWER_LOSSES.contains(kind);
        let first = KINDS.into_iter().filter(|kind| !since(kind) && *kind != "minority");
        let on: Vec<&str> = first.filter(|_| rng.random_bool(0.5)).collect();
        for kinds in [&PROCESSES[..], &NETWORK[..], &OTHERS[..]] {
            let kinds: Vec<&str> = kinds.iter().copied().filter(|kind| on.contains(kind)).collect();
            let count = rng.random_range(1..=3);
            options.lanes.push(lane(&mut rng, &options, &kinds, count));
        }
        let provoked = if nodes > 1 { provoke(&mut rng, &mut options) } else { None };
        let loss = LOSSES[rng.random_range(0..LOSSES.len())];
        let drawn = (nodes > 1 && on.contains(&loss) && rng.random_bool(0.5)).then_some(loss);
        if let Some(loss) = provoked.or(drawn) {
            let lane = lane(&mut rng, &options, &[loss], 1);
            options.lanes.push(lane);
        }
        // Most seeds heal everything, the others leave a minority dead for good.
        // Not where a copy was lost: two of three would be gone.
        let whole = options.lanes.iter().flatten().all(|timed| !timed.fault.is_loss());
        if nodes > 1 && rng.random_bool(0.3) && whole {
            options.dead = vec![rng.random_range(0..nodes)];
        }
        options.later();
        options.pulled();
        // From one that is full after a few messages to one that no run fills: then only snapshots make state durable.
        options.table_bytes = [4 * 1024, 32 * 1024, 256 * 1024, 16 * 1024 * 1024][stream(seed, 300).random_range(0..4)];
        options
    }
}

impl Options {
    /// Pull mode in a third of the seeds. In most of them a group goes back to push mode when two of its members are away, and
    /// over again when they are back; else at any size that a run has.
    fn pulled(&mut self) {
        let mut rng = stream(self.seed, 7);
        if rng.random_range(0..3) > 0 {
            return;
        }
        let any = rng.random_range(1..=4);
        let below = rng.random_range(any.min(2)..=any);
        let two_less = u32::try_from(self.users + self.load.strangers).unwrap_or(u32::MAX) - 1;
        self.pull = Some(if rng.random_bool(0.7) { (two_less, two_less) } else { (any, below) });
        self.channels = rng.random_range(0..=1);
    }

    /// Kinds that were added since: one more lane, so that the others of a seed stay as they were.
    fn later(&mut self) {
        let mut rng = stream(self.seed, 2);
        let on: Vec<&str> = LATER.into_iter().filter(|_| rng.random_bool(0.5)).collect();
        let count = rng.random_range(1..=3);
        let mut lane = lane(&mut rng, self, &on, count);
        let mut whole = self.dead.is_empty() && !self.lanes.iter().flatten().any(|timed| timed.fault.is_loss());
        lane.retain(|timed| !timed.fault.is_loss() || std::mem::take(&mut whole));
        self.lanes.push(lane);
        let mut rng = stream(self.seed, 3);
        // Only where whoever says something again says how old it is: browsers and changes of members do not.
        let aged = self.change_percent == 0 && self.load.retry == 0 && self.load.rename == 0;
        if rng.random_bool(0.8) && aged {
            self.dedup_window = Duration::from_secs([12, 16, 20][rng.random_range(0..3)]);
        }
        if rng.random_bool(0.5) {
            self.second_devices = rng.random_range(1..=2);
        }
        self.newer();
    }

    /// The newest kinds, in the same way.
    fn newer(&mut self) {
        let mut rng = stream(self.seed, 6);
        self.log_cache_bytes = [1024 * 1024, 1024 * 1024, 16 * 1024, 2 * 1024][rng.random_range(0..4)];
        let on: Vec<&str> = NEWER.into_iter().filter(|_| rng.random_bool(0.5)).collect();
        let count = rng.random_range(1..=2);
        let newer = lane(&mut rng, self, &on, count);
        self.lanes.push(newer);
        let needed =
            |timed: &Timed| matches!(&timed.fault, Fault::CrashAt { point, .. } if point.starts_with("member"));
        if self.nodes < 3 || self.lanes.iter().flatten().any(needed) {
            return;
        }
        // In place of what else takes a copy away: so few seeds have nothing of it that these would be too rare.
        match rng.random_range(0..20) {
            0..=8 => {
                self.without_losses();
                let loss = NEWER_LOSSES[rng.random_range(0..NEWER_LOSSES.len())];
                let lane = lane(&mut rng, self, &[loss], 1);
                self.lanes.push(lane);
                self.dead.clear();
                if loss == "spread" {
                    self.snapshot_entries = 30;
                }
            }
            9..=12 => {
                // Beside a loss one node alone holds what was said meanwhile, until the one that was cut off has it as well.
                if rng.random_bool(0.5) {
                    self.without_losses();
                }
                self.minority(&mut rng);
            }
            _ => {}
        }
    }

    fn without_losses(&mut self) {
        let stays = |timed: &Timed| !timed.fault.is_loss() && timed.fault.kind() != "rejoin";
        self.lanes.iter_mut().for_each(|lane| lane.retain(stays));
    }

    /// Outlasts a lease, the time in which its end is noticed, and the bound within which a client must have been closed.
    fn minority(&mut self, rng: &mut StdRng) {
        let node = rng.random_range(0..self.nodes);
        let after = Duration::from_millis(rng.random_range(500..=3_000));
        let lasts = Duration::from_millis(rng.random_range(12_000..=18_000));
        // Whatever else happens to that node sends its clients away before anybody can see whether it lets them go.
        if rng.random_bool(0.7) {
            self.lanes.clear();
        }
        // It had better lead something.
        let shard = rng.random_range(1..=self.shards);
        let brief = Duration::from_millis(rng.random_range(50..=400));
        let lead = Timed { after, lasts: brief, fault: Fault::Transfer { shard, to: node } };
        self.lanes.push(vec![lead, Timed { after: brief, lasts, fault: Fault::Minority { node } }]);
        // As slow as with real processes: whoever leads without a quorum takes a while to notice.
        if rng.random_bool(0.7) {
            self.election = Duration::from_millis(1_500);
        }
    }
}

/// Some points are passed only after something else has happened: sees to it where a crash waits for one. Gives the loss of a
/// copy that is needed, if one is.
fn provoke(rng: &mut StdRng, options: &mut Options) -> Option<&'static str> {
    let waited = |options: &Options, name: &str| {
        let of = |timed: &Timed| match &timed.fault {
            Fault::CrashAt { node, point, .. } if point.starts_with(name) => Some(*node),
            _ => None,
        };
        options.lanes.iter().flatten().find_map(of)
    };
    let timed = |rng: &mut StdRng, lasts: std::ops::Range<u64>, fault| Timed {
        after: Duration::from_millis(rng.random_range(50..=1_500)),
        lasts: Duration::from_millis(rng.random_range(lasts)),
        fault,
    };
    // A node that was away so long that the others have purged what it lacks.
    if let Some(node) = waited(options, "snapshot.") {
        options.snapshot_entries = 30;
        let kill = Fault::Kill { nodes: vec![node], disk: Disk::Kept, keep_permille: 0 };
        let kill = timed(rng, 3_000..7_000, kill);
        options.lanes.push(vec![kill]);
    }
    // A leader that goes on appending while nobody hears of it.
    if waited(options, "log.truncated").is_some() {
        let shard = rng.random_range(0..=options.shards);
        let cut = |rng: &mut StdRng| timed(rng, 1_500..5_000, Fault::IsolateLeader { shard });
        let cuts = vec![cut(rng), cut(rng)];
        options.lanes.push(cuts);
    }
    if waited(options, "block.").is_some() {
        options.load.block = options.load.block.max(10);
    }
    // A node that is replaced.
    waited(options, "membership.").map(|_| "wipe")
}

fn lane(rng: &mut StdRng, options: &Options, kinds: &[&str], count: usize) -> Vec<Timed> {
    let count = if kinds.is_empty() { 0 } else { count };
    let mut lane = Vec::new();
    for _ in 0..count {
        let kind = kinds[rng.random_range(0..kinds.len())];
        lane.extend(fault(rng, options, kind));
    }
    lane
}

/// None where the cluster is too small for it.
fn fault(rng: &mut StdRng, options: &Options, kind: &str) -> Option<Timed> {
    let nodes = options.nodes;
    let node = rng.random_range(0..nodes);
    let other = (node + rng.random_range(1..nodes.max(2))) % nodes;
    let shard = rng.random_range(0..=options.shards);
    let user = rng.random_range(0..options.users);
    let keep_permille = rng.random_range(0..=1_000);
    let alone = nodes == 1;
    let fault = match kind {
        "kill" => {
            let many = if rng.random_bool(0.6) { 1 } else { rng.random_range(1..=nodes) };
            let disk = if rng.random_bool(0.5) { Disk::Kept } else { Disk::Lost };
            Fault::Kill { nodes: (0..many).map(|i| (node + i) % nodes).collect(), disk, keep_permille }
        }
        "crash-at" => {
            let point = POINTS[rng.random_range(0..POINTS.len())].to_owned();
            // What happens rarely is not waited for often, and the rarest on any node.
            let is = |names: &[&str]| names.iter().any(|name| point.starts_with(name));
            let any = is(&["log.truncated", "snapshot.", "membership.", "session."]);
            let passes_max = match () {
                () if any || is(&["shutdown."]) => 1,
                () if is(&["fanout.", "marks.", "receipts.", "vote.", "notify.", "block."]) => 5,
                () => 40,
            };
            let passes = rng.random_range(1..=passes_max);
            Fault::CrashAt { node, point, passes, keep_permille, any }
        }
        "pause" => Fault::Pause { node },
        "stop" => {
            let killed = rng.random_bool(0.5);
            Fault::Stop { node, kill_after: killed.then(|| Duration::from_millis(rng.random_range(1..=1_500))) }
        }
        "rolling" => Fault::Rolling,
        "wipe" => Fault::Wipe { node },
        "corrupt" => Fault::Corrupt { node, pick: rng.random() },
        "isolate" => {
            let (inward, outward) = [(true, true), (true, false), (false, true)][rng.random_range(0..3)];
            Fault::Isolate { node, inward, outward }
        }
        "isolate-leader" => Fault::IsolateLeader { shard },
        "cut" | "partial" | "flap" if alone => return None,
        "cut" => Fault::Cut { from: node, to: other },
        "partial" => Fault::Partial { a: node, b: other },
        "flap" => Fault::Flap { from: node, to: other, period: Duration::from_millis(rng.random_range(50..=1_500)) },
        "swizzle" => {
            let mut order: Vec<usize> = (0..nodes).collect();
            (1..nodes).for_each(|i| order.swap(i, rng.random_range(0..=i)));
            Fault::Swizzle { order }
        }
        "loss" => Fault::Loss { permille: rng.random_range(1..=250) },
        "delay" => Fault::Delay { up_to: Duration::from_millis(rng.random_range(20..=1_500)) },
        "reset" => Fault::Reset { node, bytes: rng.random_range(0..=2_000) },
        "half-open" => Fault::HalfOpen { node },
        "late" => Fault::Late { node },
        "storm" => Fault::Storm,
        "slow" => Fault::Slow { node, by: Duration::from_millis(rng.random_range(5..=600)) },
        "sync-error" => Fault::SyncError { node },
        "full" => Fault::Full { node },
        "clock" => {
            let off_ms = [3_600_000, -3_600_000, 86_400_000, -86_400_000, 9_000, -9_000][rng.random_range(0..6)];
            Fault::Clock { node, off_ms }
        }
        "drift" => Fault::Drift { node, permille: rng.random_range(-300..=300) },
        "transfer" => Fault::Transfer { shard, to: node },
        "silent" => Fault::Silent { user },
        "client-crash" => Fault::ClientCrash { user },
        "rejoin" | "replace" | "grow" if alone => return None,
        "rejoin" => Fault::Rejoin { node, lost: rng.random_bool(0.5) },
        // A replica of the control group gets a new id only when its own node has lost it, which `wipe` and `rejoin` bring
        // about: a node that runs one does not look for another.
        "replace" => Fault::Replace { node, shard: shard.max(1), admins: rng.random_range(1..=2) },
        "grow" if nodes < 4 => return None,
        // The control group is everywhere already.
        "grow" => Fault::Grow { from: node, shard: shard.max(1) },
        "rot" => Fault::Rot { node, pick: rng.random() },
        "spread" => Fault::Spread { node, other, pick: rng.random() },
        "lost-tail" => Fault::LostTail { node },
        "roll-back" => Fault::RollBack { node },
        "crash-loop" => {
            let after = Duration::from_millis(rng.random_range(1..=600));
            Fault::CrashLoop { node, times: rng.random_range(2..=5), after }
        }
        "refuse" | "deposed" if alone => return None,
        "refuse" => Fault::Refuse { node, door: [Door::Refused, Door::Silent, Door::Dead][rng.random_range(0..3)] },
        "deposed" => Fault::Deposed { shard },
        "client-reset" => Fault::ClientReset { user, bytes: rng.random_range(0..=2_000) },
        other => unreachable!("a kind of fault that nobody draws: {other}"),
    };
    // Most things are short; some outlast a lease.
    let longest = if rng.random_bool(0.7) { 3_000 } else { 10_000 };
    Some(Timed {
        after: Duration::from_millis(rng.random_range(50..=4_000)),
        lasts: Duration::from_millis(rng.random_range(100..=longest)),
        fault,
    })
}
