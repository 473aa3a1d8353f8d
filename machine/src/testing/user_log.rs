//! Generated commands of the user side: small values that meet each other, and any values at all.

use flotilla_proto::ids::*;
use flotilla_proto::member::{Interval, MembershipPart, Mode};
use proptest::prelude::*;

use super::arb::named;
use crate::command::*;

/// Small numbers that meet each other, and the ends of the range.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![10 => 0u64..12, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn name() -> impl Strategy<Value = UserId> {
    prop::sample::select(vec!["ann", "bob", "nobody"]).prop_map(named)
}

fn device() -> impl Strategy<Value = DeviceId> {
    (1u128..5).prop_map(DeviceId)
}

fn conv() -> impl Strategy<Value = ConvId> {
    prop_oneof![
        (0u128..3).prop_map(|n| ConvId::group(&named("founder"), Cid(n))),
        Just(ConvId::direct(&named("ann"), &named("bob")))
    ]
}

fn hashes() -> impl Strategy<Value = Hash32> {
    (1u8..9).prop_map(|n| Hash32([n; 32]))
}

fn any_part() -> impl Strategy<Value = MembershipPart> {
    let interval =
        (number(), prop::option::of(number()), any::<(u64, u64, u64)>()).prop_map(|(from, until, n)| Interval {
            from: Seq(from),
            n_before: Count(n.0),
            until: until.map(Seq),
            n_until: Count(n.1),
            history_from: Seq(n.2),
        });
    (number(), prop::collection::vec(interval, 0..3), any::<bool>()).prop_map(|(mseq, intervals, pull)| {
        MembershipPart {
            mseq: Seq(mseq),
            intervals,
            mode: if pull { Mode::Pull } else { Mode::Push },
            ..MembershipPart::default()
        }
    })
}

fn notify() -> impl Strategy<Value = Notify> {
    let user = (name(), number(), prop::option::of(any_part())).prop_map(|(user, n, part)| NotifyUser {
        user,
        n_sent: Count(n),
        part,
    });
    (conv(), number(), number(), number(), prop::collection::vec(user, 0..3)).prop_map(
        |(conv, head, n, last, users)| Notify {
            conv,
            head: Seq(head),
            n_head: Count(n),
            last_id: MsgId(last),
            last_ts: TsMs(last),
            users,
        },
    )
}

fn mark() -> impl Strategy<Value = Mark> {
    let kind = prop_oneof![Just(MarkKind::Ack), Just(MarkKind::Read)];
    (name(), device(), 0u64..4, conv(), kind, [number(), number(), number(), number()]).prop_map(
        |(user, device, session, conv, kind, [seq, n, head, n_head])| Mark {
            user,
            device,
            number: SessionNo(session),
            conv,
            kind,
            seq: Seq(seq),
            n: Count(n),
            head: Seq(head),
            n_head: Count(n_head),
        },
    )
}

fn receipt() -> impl Strategy<Value = Receipt> {
    (name(), conv(), number(), number()).prop_map(|(user, conv, d, r)| Receipt {
        user,
        conv,
        delivered: Seq(d),
        read: Seq(r),
    })
}

fn conv_change() -> impl Strategy<Value = ConvChange> {
    let flags = [prop::option::of(any::<bool>()), prop::option::of(any::<bool>()), prop::option::of(any::<bool>())];
    (flags, prop::option::of(any::<bool>()), prop::option::of(number())).prop_map(
        |([pinned, archived, unread], hide_read, until)| ConvChange {
            pinned,
            archived,
            unread,
            hide_read,
            muted_until: until.map(TsMs),
        },
    )
}

fn audience() -> impl Strategy<Value = Audience> {
    prop_oneof![Just(Audience::Everyone), Just(Audience::Contacts), Just(Audience::Nobody)]
}

/// Everything that the user side takes, mostly about users `ann` and `bob`, devices 1 to 4 and a few conversations.
pub fn user_side() -> BoxedStrategy<Command> {
    let clear =
        receipt().prop_map(|r| ClearReceipt { user: r.user, conv: r.conv, delivered: r.delivered, read: r.read });
    let text = prop_oneof![9 => "[a-z]{0,5}", 1 => Just("x".repeat(2_000))];
    prop_oneof![
        2 => (name(), text.clone(), 1u128..3)
            .prop_map(|(user, phc, r)| Command::Register(Register { user, phc, request: Cid(r) })),
        6 => (name(), hashes(), device(), text.clone(), hashes(), any::<bool>()).prop_map(
            |(user, install, device, name, refresh, create)| Command::Login(Login { user, install, device, name, refresh, create })
        ),
        4 => (name(), device(), hashes(), hashes()).prop_map(
            |(user, device, presented, next)| Command::RotateToken(RotateToken { user, device, presented, next })
        ),
        1 => (name(), device()).prop_map(|(user, device)| Command::Logout { user, device }),
        1 => (name(), device()).prop_map(|(user, device)| Command::RevokeDevice { user, device, request: Cid(1) }),
        1 => (name(), device(), text.clone()).prop_map(|(user, device, name)| Command::RenameDevice { user, device, name }),
        1 => (name(), text, 1u128..4).prop_map(|(user, phc, r)| Command::SetPassword { user, phc, request: Cid(r) }),
        6 => (name(), device(), hashes(), 1u16..3, number(), 1u128..3, number()).prop_map(
            |(user, device, install, node, life, instance, attempt)| Command::OpenSession(OpenSession {
                user, device, install, node: NodeId(node), incarnation: Incarnation(life), instance: Instance(instance), attempt,
            })
        ),
        2 => (name(), device(), 0u64..4)
            .prop_map(|(user, device, n)| Command::CloseSession { user, device, number: SessionNo(n) }),
        2 => (name(), device(), 1u128..3, number()).prop_map(|(user, device, instance, attempt)| {
            Command::WithdrawSession { user, device, instance: Instance(instance), attempt }
        }),
        8 => prop::collection::vec(notify(), 0..3).prop_map(Command::Notify),
        8 => prop::collection::vec(mark(), 0..4).prop_map(Command::Marks),
        2 => prop::collection::vec(receipt(), 0..3).prop_map(Command::PeerMarks),
        2 => prop::collection::vec(clear, 0..3).prop_map(|items| Command::ClearReceiptDue { items }),
        1 => (1u16..3, 0u64..12, any::<u32>())
            .prop_map(|(n, l, limit)| Command::Fence { node: NodeId(n), lowest: Incarnation(l), limit }),
        1 => any::<u32>().prop_map(|limit| Command::StepJob { limit }),
        1 => (name(), audience()).prop_map(|(user, presence)| Command::SetPrivacy { user, presence }),
        2 => (name(), prop::option::of(audience()), prop::option::of(any::<bool>()))
            .prop_map(|(user, presence, hide_read)| Command::ChangePrivacy { user, presence, hide_read }),
        2 => (name(), name(), any::<bool>(), 1u128..4)
            .prop_map(|(user, peer, on, r)| Command::SetBlock { user, peer, on, request: Cid(r) }),
        2 => (name(), name(), 1u128..4)
            .prop_map(|(user, peer, r)| Command::BlockSettled { user, peer, request: Cid(r) }),
        1 => (name(), prop::option::of("[a-z]{0,5}"), prop::option::of(prop_oneof![Just("x".repeat(2_000)), Just("b".into())]))
            .prop_map(|(user, name, about)| Command::SetProfile { user, name, avatar: None, about }),
        2 => (name(), device(), prop::collection::vec((conv(), number(), number()), 0..3)).prop_map(|(user, device, places)| {
            let place = |(conv, head, n)| PulledHead { conv, head: Seq(head), n_head: Count(n) };
            Command::PlaceDevice { user, device, places: places.into_iter().map(place).collect() }
        }),
        3 => (name(), hashes(), 1u128..4).prop_map(|(user, code, r)| Command::IssueCode { user, code, request: Cid(r) }),
        3 => (name(), hashes(), 1u128..4, hashes(), device(), hashes()).prop_map(
            |(user, code, r, install, device, refresh)| Command::UseCode {
                code,
                request: Cid(r),
                login: Login { user, install, device, name: String::new(), refresh, create: false },
            }
        ),
        3 => (name(), conv(), conv_change()).prop_map(|(user, conv, change)| Command::SetConv { user, conv, change }),
        2 => (name(), name(), prop::option::of(prop_oneof![4 => "[a-z]{0,5}", 1 => Just("x".repeat(2_000))]))
            .prop_map(|(user, contact, name)| Command::SetContact { user, contact, name }),
    ]
    .boxed()
}
