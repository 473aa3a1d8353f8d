//! Stories and properties of the control group.

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::slots::SlotTable;
use proptest::prelude::*;

use super::boot;
use super::client_limits::{ClientLimits, ClientLimitsTable, LimitName};
use super::tables::*;
use crate::command::*;
use crate::effect::Effect;
use crate::query::{Answer, ControlState, Query};
use crate::reply::{Rejection, Reply};
use crate::table::assert_round_trip;
use crate::user::tests::kit::Shard;

fn info(node: u16) -> NodeInfo {
    NodeInfo {
        node: NodeId(node),
        peer_addr: format!("127.0.0.1:{node}"),
        client_url: format!("http://127.0.0.1:{node}"),
    }
}

fn replica(node: u16, generation: u32) -> ReplicaId {
    ReplicaId::new(NodeId(node), Generation(generation))
}

fn init() -> Control {
    init_at(limits::FEATURE_LEVEL)
}

fn init_at(feature_level: u32) -> Control {
    init_with(Settings::at_level(feature_level))
}

fn init_with(settings: Settings) -> Control {
    let replicas = || (1..=3).map(|n| replica(n, 1)).collect::<Vec<_>>();
    Control::Init {
        cluster: ClusterId(7),
        epoch: Epoch(1),
        slots: SlotTable::even(2),
        settings,
        placement: (0..=2).map(|s| (ShardId(s), replicas())).collect(),
        nodes: (1..=3).map(info).collect(),
        keys: vec![KeyRow { id: 1, public: [1; 32], wrapped: vec![2; 48].into() }],
    }
}

struct Group(Shard);

impl Group {
    fn new() -> Self {
        Self::made(Settings::default())
    }

    fn made(settings: Settings) -> Self {
        let mut group = Self(Shard::bare(ShardId::CONTROL));
        assert_eq!(group.run(init_with(settings)), Reply::Done);
        group
    }

    fn run(&mut self, command: Control) -> Reply {
        self.0.run(Command::Control(command))
    }

    fn register(&mut self, node: u16, boot: u64) -> Reply {
        self.run(Control::RegisterNode { node: info(node), boot })
    }

    fn state(&self) -> ControlState {
        match self.0.ask(Query::ControlState) {
            Answer::ControlState(Some(state)) => state,
            other => panic!("expected the state, got {other:?}"),
        }
    }

    fn owed(&self) -> Vec<(u16, u16, u64)> {
        self.state().fences_owed.iter().map(|(shard, node, lowest)| (shard.0, node.0, lowest.0)).collect()
    }
}

fn registered(n: u64) -> Reply {
    Reply::Registered { incarnation: Incarnation(n) }
}

#[test]
fn a_cluster_is_initialised_once() {
    let mut group = Group::new();
    let state = group.state();
    assert_eq!((state.version, state.cluster, state.nodes.len(), state.keys.len()), (1, ClusterId(7), 3, 1));
    assert_eq!(state.slots, SlotTable::even(2));
    assert!(matches!(group.run(init()), Reply::Rejected(Rejection::Conflict(_))));
    assert_eq!(group.state().version, 1);
}

#[test]
fn nothing_is_done_before_init_nor_outside_of_the_control_group() {
    let mut early = Group(Shard::bare(ShardId::CONTROL));
    assert!(matches!(early.register(1, 1), Reply::Rejected(Rejection::Conflict(_))));
    assert_eq!(early.0.ask(Query::ControlState), Answer::ControlState(None));
    let mut elsewhere = Group(Shard::bare(ShardId(1)));
    assert!(matches!(elsewhere.run(init()), Reply::Rejected(Rejection::Validation(_))));
}

#[test]
fn every_registration_is_a_new_life_that_all_shards_must_fence() {
    let mut group = Group::new();
    assert_eq!(group.register(1, 1), registered(1));
    assert!(matches!(group.0.effects[..], [Effect::Control]));
    assert_eq!(group.register(1, 1), registered(2), "within one boot too");
    assert_eq!(group.register(1, 2), registered(3));
    assert_eq!(group.owed(), [(1, 1, 3), (2, 1, 3)]);
    assert_eq!(group.state().version, 4);
    let moved = NodeInfo { peer_addr: "10.0.0.9:1".into(), ..info(1) };
    group.run(Control::RegisterNode { node: moved.clone(), boot: 3 });
    assert_eq!(group.state().nodes[0].info, moved);
    assert_eq!(group.register(9, 1), registered(1), "a node that joins");
}

#[test]
fn a_data_directory_that_was_rolled_back_is_refused() {
    let mut group = Group::new();
    group.register(1, 5);
    match group.register(1, 4) {
        Reply::Rejected(Rejection::Conflict(why)) => assert!(why.contains("rolled back"), "{why}"),
        other => panic!("expected a conflict, got {other:?}"),
    }
    assert_eq!(group.register(1, 5), registered(2));
}

/// The registration of a life whose directory is lost by now may come at any time.
#[test]
fn a_late_registration_of_a_lost_directory_does_not_keep_the_next_one_out() {
    let mut group = Group::new();
    group.register(1, 4);
    let back = boot::of_next_directory(4).expect("not used up");
    assert_eq!(group.register(1, 5), registered(2), "it comes before");
    assert_eq!(group.register(1, back), registered(3));
    let row = group.state().nodes[0].clone();
    for late in [5, u64::from(u32::MAX)] {
        assert!(matches!(group.register(1, late), Reply::Rejected(Rejection::Conflict(_))), "it comes after");
        assert_eq!(group.state().nodes[0], row);
    }
    assert_eq!(group.register(1, back + 1), registered(4), "and starts again");
}

#[test]
fn a_lapse_that_was_decided_too_late_does_not_fence_the_new_life() {
    let mut group = Group::new();
    group.register(1, 1);
    group.register(1, 2);
    let lapse = |incarnation| Control::LapseNode { node: NodeId(1), incarnation: Incarnation(incarnation) };
    assert!(matches!(group.run(lapse(1)), Reply::Rejected(Rejection::Conflict(_))));
    assert_eq!(group.run(lapse(2)), Reply::Done);
    assert_eq!(group.owed(), [(1, 1, 3), (2, 1, 3)]);
    let version = group.state().version;
    assert_eq!(group.run(lapse(2)), Reply::Done);
    assert_eq!(group.state().version, version, "nothing changed");
    assert!(group.state().nodes[0].lapsed);
    assert_eq!(group.register(1, 2), registered(3));
    assert!(!group.state().nodes[0].lapsed);
    assert!(matches!(
        group.run(Control::LapseNode { node: NodeId(77), incarnation: Incarnation(1) }),
        Reply::Rejected(Rejection::NotFound)
    ));
}

/// A replica of an older build stops at a command that it cannot decode, and at every start again.
#[test]
fn limits_have_no_place_in_the_log_of_a_cluster_that_older_builds_may_run() {
    let mut group = Group(Shard::bare(ShardId::CONTROL));
    let set = || Control::SetClientLimits { changes: vec![(LimitName::SendsPerUser, Some(7))] };
    assert!(matches!(group.run(set()), Reply::Rejected(Rejection::Validation(_))), "before it is initialised");
    assert_eq!(group.run(init_at(limits::CLIENT_LIMITS_LEVEL - 1)), Reply::Done);
    let version = group.state().version;
    match group.run(set()) {
        Reply::Rejected(Rejection::Validation(why)) => assert!(why.contains("feature level 2"), "{why}"),
        other => panic!("expected a rejection, got {other:?}"),
    }
    assert_eq!(group.state().version, version);
    assert_eq!(group.register(1, 1), registered(1), "what was always there goes on");
}

#[test]
fn limits_are_set_within_their_ranges_and_given_back() {
    let mut group = Group::new();
    let set = |changes: &[(LimitName, Option<u32>)]| Control::SetClientLimits { changes: changes.to_vec() };
    let limits = |group: &Group| match group.0.ask(Query::ClientLimits) {
        Answer::ClientLimits(limits) => limits,
        other => panic!("expected limits, got {other:?}"),
    };
    use LimitName::*;
    assert_eq!(group.run(set(&[(SendsPerUser, Some(7)), (LoginsPerMinute, Some(60))])), Reply::Done);
    assert_eq!(limits(&group), ClientLimits::from([(SendsPerUser, 7), (LoginsPerMinute, 60)]));
    let version = group.state().version;
    match group.run(set(&[(SendsPerUser, Some(9)), (LoginsPerMinute, Some(0))])) {
        Reply::Rejected(Rejection::Validation(why)) => {
            assert_eq!(why, "logins_per_minute is 0; allowed is 1 to 100000");
        }
        other => panic!("expected a rejection, got {other:?}"),
    }
    assert_eq!((limits(&group)[&SendsPerUser], group.state().version), (7, version), "all of it or nothing");
    let twice = group.run(set(&[(SendsPerUser, Some(9)), (SendsPerUser, None)]));
    assert_eq!(twice, Reply::Rejected(Rejection::Validation("each limit once".into())));
    assert_eq!(group.run(set(&[(SendsPerUser, Some(7))])), Reply::Done);
    assert_eq!(group.state().version, version, "nothing changed");
    assert_eq!(group.run(set(&[(SendsPerUser, None)])), Reply::Done);
    assert_eq!(limits(&group), ClientLimits::from([(LoginsPerMinute, 60)]));
    assert!(group.state().version > version, "nodes hear of it");
    assert!(LimitName::ALL.iter().all(|name| LimitName::parse(name.name()) == Some(*name)));
}

#[test]
fn a_level_is_raised_and_never_lowered() {
    let mut group = Group::made(Settings::at_level(2));
    let raise = |level| Control::RaiseLevel { level };
    let settings = |group: &Group| group.state().settings;
    let before = settings(&group).version;
    assert_eq!(group.run(raise(limits::PULL_LEVEL)), Reply::Done);
    let raised = settings(&group);
    assert_eq!((raised.feature_level, raised.group_members_max), (limits::PULL_LEVEL, 10_000));
    assert!(raised.version > before, "shards take it");
    assert_eq!(group.run(raise(1)), Reply::Done);
    assert_eq!(settings(&group), raised);
    let mut group = Group::made(Settings { group_members_max: 50, ..Settings::at_level(2) });
    group.run(raise(limits::PULL_LEVEL));
    assert_eq!(settings(&group).group_members_max, 50, "somebody has set it");
}

#[test]
fn an_answer_to_an_older_fence_settles_nothing() {
    let mut group = Group::new();
    group.register(1, 1);
    group.register(1, 2);
    let done =
        |shard, lowest| Control::FenceDone { shard: ShardId(shard), node: NodeId(1), lowest: Incarnation(lowest) };
    group.run(done(1, 1));
    assert_eq!(group.owed(), [(1, 1, 2), (2, 1, 2)]);
    group.run(done(1, 2));
    assert_eq!(group.owed(), [(2, 1, 2)]);
    group.run(done(2, 3));
    assert!(group.owed().is_empty());
    assert_eq!(group.run(done(2, 2)), Reply::Done);
}

#[test]
fn a_generation_is_never_given_twice() {
    let mut group = Group::new();
    let allocate = |replaces| Control::AllocateReplica { shard: ShardId(1), node: NodeId(2), replaces };
    let old = replica(2, 1);
    assert_eq!(group.run(allocate(Some(old))), Reply::Replica(replica(2, 2)));
    assert_eq!(group.state().retiring, [(ShardId(1), old)]);
    group.run(Control::ForgetReplica { shard: ShardId(1), replica: old });
    group.run(Control::ForgetReplica { shard: ShardId(1), replica: replica(2, 2) });
    assert_eq!(group.run(allocate(None)), Reply::Replica(replica(2, 3)), "also after the last one was forgotten");
    assert!(group.state().retiring.is_empty());
    let placed = group.state().placement.into_iter().find(|(shard, _)| *shard == ShardId(1)).map(|(_, r)| r);
    assert_eq!(placed, Some(vec![replica(1, 1), replica(3, 1), replica(2, 3)]));
    assert!(matches!(group.run(allocate(Some(replica(1, 1)))), Reply::Rejected(Rejection::Conflict(_))));
}

#[test]
fn a_node_that_asks_again_leaves_no_replica_that_nobody_runs() {
    let mut group = Group::new();
    let allocate = |replaces| Control::AllocateReplica { shard: ShardId(1), node: NodeId(2), replaces: Some(replaces) };
    let old = replica(2, 1);
    assert_eq!(group.run(allocate(old)), Reply::Replica(replica(2, 2)), "this reply is lost");
    assert_eq!(group.run(allocate(old)), Reply::Replica(replica(2, 3)));
    let retiring = |group: &Group| group.state().retiring.into_iter().map(|(_, r)| r).collect::<Vec<_>>();
    assert_eq!(retiring(&group), [old, replica(2, 2)]);
    group.run(Control::ForgetReplica { shard: ShardId(1), replica: old });
    group.run(Control::ForgetReplica { shard: ShardId(1), replica: replica(2, 2) });
    assert_eq!(group.run(allocate(old)), Reply::Replica(replica(2, 4)), "its disk has fallen back");
    assert_eq!(retiring(&group), [replica(2, 3)], "what it has forgotten it must not run");
}

fn any_control() -> impl Strategy<Value = Control> {
    let node = || prop_oneof![9 => 0u16..6, 1 => any::<u16>()].prop_map(NodeId);
    let shard = || prop_oneof![9 => 0u16..4, 1 => any::<u16>()].prop_map(ShardId);
    let number = || prop_oneof![9 => 0u64..6, 1 => any::<u64>(), 1 => Just(u64::MAX)];
    let some_replica = || (0u16..5, prop_oneof![9 => 0u32..6, 1 => Just(u32::MAX)]).prop_map(|(n, g)| replica(n, g));
    prop_oneof![
        1 => Just(init()),
        3 => (node(), number(), ".{0,9}").prop_map(|(node, boot, addr)| Control::RegisterNode {
            node: NodeInfo { node, peer_addr: addr.clone(), client_url: addr },
            boot,
        }),
        2 => (node(), number()).prop_map(|(node, n)| Control::LapseNode { node, incarnation: Incarnation(n) }),
        3 => (shard(), node(), prop::option::of(some_replica()))
            .prop_map(|(shard, node, replaces)| Control::AllocateReplica { shard, node, replaces }),
        2 => (shard(), some_replica()).prop_map(|(shard, replica)| Control::ForgetReplica { shard, replica }),
        2 => (shard(), node(), number())
            .prop_map(|(shard, node, n)| Control::FenceDone { shard, node, lowest: Incarnation(n) }),
        1 => prop::collection::vec((prop::sample::select(LimitName::ALL.to_vec()), prop::option::of(any::<u32>())), 0..6)
            .prop_map(|changes| Control::SetClientLimits { changes }),
        1 => (0..=limits::FEATURE_LEVEL).prop_map(|level| Control::RaiseLevel { level }),
    ]
}

proptest! {
    // Every state read decodes the slot table.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The kit asserts that a rejection writes nothing.
    #[test]
    fn the_version_rises_with_every_change_and_nothing_goes_back(log in prop::collection::vec(any_control(), 1..40)) {
        let mut group = Group::new();
        let mut given = std::collections::BTreeSet::new();
        for command in log {
            let (digest, before) = (group.0.digest(), group.state());
            let reply = group.run(command);
            let now = group.state();
            prop_assert_eq!(now.version > before.version, digest != group.0.digest());
            prop_assert_eq!(now.version > before.version, group.0.effects == [Effect::Control]);
            for old in &before.nodes {
                let row = now.nodes.iter().find(|row| row.info.node == old.info.node).expect("nodes stay");
                prop_assert!(row.incarnation >= old.incarnation && row.boot >= old.boot);
            }
            if let Reply::Replica(replica) = reply {
                prop_assert!(given.insert(replica), "{} was given twice", replica);
                prop_assert!(before.placement.iter().all(|(_, all)| !all.contains(&replica)));
            }
        }
    }

    #[test]
    fn rows_round_trip(n: u64, node: u16, generation: u32, text in ".{0,20}") {
        let cluster = ClusterRow { version: n, cluster: ClusterId(n.into()), epoch: Epoch(1), generation: Generation(generation) };
        assert_round_trip::<ClusterTable>(&(), &cluster);
        assert_round_trip::<ControlSlotsTable>(&(), &SlotTable::even(node.clamp(1, 1_023)));
        assert_round_trip::<ClientLimitsTable>(&(), &LimitName::ALL.into_iter().map(|name| (name, generation)).collect());
        assert_round_trip::<ControlSettingsTable>(&(), &Settings { version: n, ..Settings::default() });
        let info = NodeInfo { node: NodeId(node), peer_addr: text.clone(), client_url: text };
        assert_round_trip::<NodeTable>(&NodeId(node), &Node { info, incarnation: Incarnation(n), boot: n, lapsed: n % 2 == 0 });
        let placement = Placement { replicas: vec![replica(node, generation)], retiring: vec![replica(node, 1)] };
        assert_round_trip::<PlacementTable>(&ShardId(node), &placement);
        assert_round_trip::<KeyTable>(&generation, &KeyRow { id: generation, public: [3; 32], wrapped: vec![1].into() });
        assert_round_trip::<OwedTable>(&NodeId(node), &Owed { lowest: Incarnation(n), shards: vec![ShardId(node)] });
    }
}
