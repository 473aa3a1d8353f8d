//! Arbitrary ids and entries, from small sets where collisions are wanted.

use flotilla_proto::entry::{self, Entry, HistoryAccess, Role, What};
use flotilla_proto::ids::*;
use proptest::prelude::*;

/// Any valid user id.
pub fn user() -> impl Strategy<Value = UserId> {
    "[a-z0-9_.-]{1,64}".prop_map(|name| UserId::parse(&name).expect("the pattern gives valid ids"))
}

/// Any valid conversation id.
pub fn conv() -> impl Strategy<Value = ConvId> {
    prop_oneof![
        (user(), user()).prop_map(|(a, b)| ConvId::direct(&a, &b)),
        (user(), any::<u128>()).prop_map(|(creator, cid)| ConvId::group(&creator, Cid(cid))),
        Just(ConvId::parse("c0123456789abcdef0123456789abcdef").expect("a valid id")),
    ]
}

pub fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Member), Just(Role::Admin), Just(Role::Owner)]
}

pub fn history() -> impl Strategy<Value = HistoryAccess> {
    prop_oneof![Just(HistoryAccess::FromJoin), Just(HistoryAccess::Full)]
}

/// Positions: small ones that hit something, and any at all.
pub fn seq() -> impl Strategy<Value = Seq> {
    prop_oneof![12 => 1u64..9, 3 => 0u64..25, 1 => any::<u64>(), 1 => Just(u64::MAX)].prop_map(Seq)
}

fn bytes() -> impl Strategy<Value = Blob> {
    prop_oneof![
        20 => prop::collection::vec(any::<u8>(), 0..9).prop_map(Blob::from),
        1 => (32_766usize..32_771).prop_map(|len| Blob::from(vec![7; len])),
    ]
}

/// What a message may hold, valid or not. `users` is where names come from.
pub fn what(users: BoxedStrategy<UserId>) -> impl Strategy<Value = What> {
    let some = prop::collection::vec(users.clone(), 0..5);
    let kind = prop_oneof![12 => Just("message".to_owned()), 3 => Just("note".to_owned()), 1 => any::<String>(), 1 => Just("leave".into())];
    prop_oneof![
        6 => (kind, bytes(), prop::option::weighted(0.2, seq()), some.clone(), prop::option::weighted(0.1, any::<String>())).prop_map(
            |(kind, body, reply_to, mentions, media)| What::Message { kind, body, reply_to, mentions, media }
        ),
        4 => plain().prop_map(|body| What::Message { kind: "message".into(), body, reply_to: None, mentions: vec![], media: None }),
        5 => (seq(), bytes()).prop_map(|(target, body)| What::Edit { target, body }),
        3 => seq().prop_map(|target| What::Delete { target }),
        2 => (seq(), ".{1,9}", any::<bool>()).prop_map(|(target, emoji, on)| What::React { target, emoji, on }),
        2 => (".{0,20}", some.clone(), history()).prop_map(|(name, members, history)| What::Create { name, members, history }),
        3 => some.prop_map(|users| What::Add { users }),
        3 => users.clone().prop_map(|user| What::Remove { user }),
        3 => prop::option::of(users.clone()).prop_map(|heir| What::Leave { heir }),
        3 => (users, role()).prop_map(|(user, role)| What::SetRole { user, role }),
        1 => prop_oneof![3 => "[a-z ]{0,20}", 1 => ".{0,300}"].prop_map(|name| What::Rename { name }),
        1 => history().prop_map(|history| What::SetHistory { history }),
    ]
}

fn plain() -> impl Strategy<Value = Blob> {
    prop::collection::vec(any::<u8>(), 1..9).prop_map(Blob::from)
}

pub fn entry() -> impl Strategy<Value = Entry> {
    (conv(), seq(), user(), what(user().boxed()), any::<(u64, u128, bool)>()).prop_map(
        |(conv, seq, from, what, (number, id, redacted))| {
            let cid = Cid(id);
            Entry {
                conv,
                seq,
                n: Count(number),
                msg_id: MsgId(number),
                ts: TsMs(number),
                from,
                device: DeviceId(id),
                cid,
                kind: what.kind().to_owned(),
                body_hash: entry::body_hash(cid, &what),
                chain: Hash32([number as u8; 32]),
                what: (!redacted).then_some(what),
            }
        },
    )
}

pub fn named(name: &str) -> UserId {
    UserId::parse(name).expect("a valid test name")
}

pub fn some_conv() -> ConvId {
    ConvId::direct(&named("alice"), &named("bob"))
}

pub fn message(body: &str) -> What {
    let body = Blob::from(body.as_bytes().to_vec());
    What::Message { kind: "message".into(), body, reply_to: None, mentions: vec![], media: None }
}

pub fn some_entry(conv: &ConvId, seq: Seq) -> Entry {
    let what = message("x");
    let cid = Cid(u128::from(seq.0));
    Entry {
        conv: conv.clone(),
        seq,
        n: Count(seq.0),
        msg_id: MsgId(seq.0),
        ts: TsMs(seq.0),
        from: named("alice"),
        device: DeviceId(1),
        cid,
        kind: what.kind().to_owned(),
        body_hash: entry::body_hash(cid, &what),
        chain: Hash32::default(),
        what: Some(what),
    }
}
