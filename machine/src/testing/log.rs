//! Generated command logs: mostly sensible ones over the scene, and any commands with any values.

use flotilla_proto::entry::{HistoryAccess, What};
use flotilla_proto::ids::*;
use proptest::prelude::*;
use proptest::sample::select;

use super::{arb, scene};
use crate::command::*;

/// For properties that run whole logs: a quarter of the usual cases (`PROPTEST_CASES` raises them).
pub fn few_cases() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: (usual.cases / 4).max(1), ..usual }
}

/// One proposal of a log.
pub type Proposal = (Stamp, Vec<Command>);

pub fn stamp() -> impl Strategy<Value = Stamp> {
    let delta = prop_oneof![30 => 0u64..50, 3 => 0u64..200_000_000, 1 => any::<u64>().prop_map(|v| v >> 8)];
    let display = prop_oneof![8 => 1_600_000_000_000u64..1_600_000_000_100, 1 => any::<u64>()];
    (delta, display).prop_map(|(age_delta_ms, display)| Stamp { age_delta_ms, display: TsMs(display) })
}

/// A log of up to `len` proposals of commands from `command`.
pub fn proposals(command: BoxedStrategy<Command>, len: usize) -> impl Strategy<Value = Vec<Proposal>> {
    prop::collection::vec((stamp(), prop::collection::vec(command, 0..5)), 1..len)
}

pub fn user() -> BoxedStrategy<UserId> {
    select(scene::users()).boxed()
}

/// Mostly fresh, some that were used before, so that retries and reuse happen.
fn cid() -> impl Strategy<Value = Cid> {
    // Some begin with the time, as those of clients do (see [`crate::hot`]).
    let timed = (0u128..1_024).prop_map(|n| (n << 80) | (0x7 << 76));
    prop_oneof![6 => 100u128..u128::MAX, 4 => timed, 3 => 10u128..25, 1 => 1u128..4].prop_map(Cid)
}

/// Mostly those who may do something.
fn actor() -> impl Strategy<Value = UserId> {
    prop_oneof![4 => Just(arb::named("alice")), 2 => Just(arb::named("bob")), 3 => user()]
}

/// The scene's groups made, each with some members.
fn prelude() -> impl Strategy<Value = Proposal> {
    let makers: Vec<_> = scene::groups().into_iter().map(|group| create_one(Just(group))).collect();
    makers.prop_map(|commands| (Stamp { age_delta_ms: 1, display: TsMs(1_600_000_000_000) }, commands))
}

/// A log over the scene whose groups mostly exist.
pub fn conversation_log(len: usize) -> impl Strategy<Value = Vec<Proposal>> {
    (prelude(), prop::bool::weighted(0.9), proposals(conversation_side(), len)).prop_map(|(first, made, mut rest)| {
        if made {
            rest.insert(0, first);
        }
        rest
    })
}

fn checked() -> impl Strategy<Value = Vec<UserId>> {
    prop_oneof![9 => Just(scene::users()), 1 => prop::collection::vec(user(), 0..3)]
}

/// Creates one of the scene's groups.
fn create() -> impl Strategy<Value = Command> {
    create_one(select(scene::groups()))
}

fn create_one(group: impl Strategy<Value = (UserId, Cid)>) -> impl Strategy<Value = Command> {
    let history = prop_oneof![3 => Just(HistoryAccess::FromJoin), 1 => Just(HistoryAccess::Full)];
    let members = prop::collection::vec(user(), 0..5);
    (group, members, history, checked()).prop_map(|((sender, cid), members, history, checked)| {
        let conv = ConvId::group(&sender, cid);
        let what = What::Create { name: "team".into(), members, history };
        Command::Append(Append { conv, sender, device: DeviceId(1), cid, age_ms: 0, after: None, checked, what })
    })
}

/// An append of anything into one of the scene's conversations.
pub fn append() -> impl Strategy<Value = Command> {
    let age = prop_oneof![9 => Just(0u64), 2 => 0u64..100, 1 => any::<u64>()];
    let after = prop_oneof![12 => Just(None), 1 => cid().prop_map(Some)];
    let what = prop_oneof![
        4 => "[a-c]{1,2}".prop_map(|body| arb::message(&body)),
        5 => arb::what(user()),
        1 => user().prop_map(|user| What::Add { users: vec![user] }),
    ];
    let ids = (select(scene::conversations()), actor(), cid());
    let any = (ids, age, after, checked(), what).prop_map(|((conv, sender, cid), age_ms, after, checked, what)| {
        Command::Append(Append { conv, sender, device: DeviceId(7), cid, age_ms, after, checked, what })
    });
    prop_oneof![1 => create(), 15 => any]
}

pub fn receipts() -> impl Strategy<Value = Command> {
    let receipt = (user(), select(scene::conversations()), arb::seq(), arb::seq())
        .prop_map(|(user, conv, delivered, read)| Receipt { user, conv, delivered, read });
    prop::collection::vec(receipt, 0..4).prop_map(Command::Receipts)
}

fn target() -> impl Strategy<Value = ShardId> {
    (0u16..6).prop_map(ShardId)
}

/// Clears with any values: what a pump would never send must do no harm beyond what it says.
pub fn clears() -> impl Strategy<Value = Command> {
    let conv = || select(scene::conversations());
    let dirty = (conv(), arb::seq(), arb::seq()).prop_map(|(conv, head, parts)| ClearDirty { conv, head, parts });
    let receipt = (user(), conv(), arb::seq(), arb::seq()).prop_map(|(user, conv, delivered, read)| ClearReceipt {
        user,
        conv,
        delivered,
        read,
    });
    prop_oneof![
        (target(), prop::collection::vec(dirty, 0..4))
            .prop_map(|(target, items)| Command::ClearDirty { target, items }),
        prop::collection::vec(receipt, 0..4).prop_map(|items| Command::ClearReceiptDirty { items }),
    ]
}

/// Everything that the conversation side takes, over the scene.
pub fn conversation_side() -> BoxedStrategy<Command> {
    let settings = (0u64..4, 1u32..7, 0u64..1_000_000).prop_map(|(version, members, window)| {
        Command::SetSettings(Settings {
            version,
            group_members_max: members,
            dedup_window_ms: window,
            ..Settings::default()
        })
    });
    prop_oneof![
        20 => append(),
        4 => receipts(),
        4 => clears(),
        1 => (select(scene::conversations()), user(), any::<bool>())
            .prop_map(|(conv, user, on)| Command::SetBlocked { conv, user, on }),
        1 => (0u32..9).prop_map(|limit| Command::EvictDedup { limit }),
        1 => settings,
        1 => Just(Command::Tick),
    ]
    .boxed()
}

/// Appends of any values from anywhere, mostly into what does not exist.
pub fn any_append() -> impl Strategy<Value = Command> {
    let ids = (arb::conv(), arb::user(), any::<(u128, u128)>());
    let rest = (any::<u64>(), prop::option::of(any::<u128>()), prop::collection::vec(arb::user(), 0..3));
    (ids, rest, arb::what(arb::user().boxed())).prop_map(|((conv, sender, (device, cid)), rest, what)| {
        let (age_ms, after, checked) = rest;
        let (device, cid, after) = (DeviceId(device), Cid(cid), after.map(Cid));
        Command::Append(Append { conv, sender, device, cid, age_ms, after, checked, what })
    })
}
