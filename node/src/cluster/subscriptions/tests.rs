//! What is said, in which order, and what each session gets of it.

use super::*;
use flotilla_proto::member::Interval;

pub fn user(name: &str) -> UserId {
    UserId::parse(name).expect("valid")
}

pub fn conv() -> ConvId {
    ConvId::channel(&user("ann"), Cid(1))
}

fn member(from: u64) -> StandingOf {
    let stay =
        Interval { from: Seq(from), n_before: Count(0), until: None, n_until: Count(0), history_from: Seq(from) };
    let part = MembershipPart { mseq: Seq(from), intervals: vec![stay], mode: Mode::Pull, role: None };
    StandingOf { part, n_sent: Count(0) }
}

pub fn answer(head: u64, users: Vec<Option<StandingOf>>) -> Option<Standing> {
    let (head, n_head) = (Seq(head), Count(head));
    Some(Standing { mode: Mode::Pull, head, n_head, last_id: MsgId(head.0), last_ts: TsMs(1), users })
}

pub fn entry(seq: u64, what: What) -> Arc<Entry> {
    Arc::new(Entry {
        conv: conv(),
        seq: Seq(seq),
        n: Count(seq),
        msg_id: MsgId(seq),
        ts: TsMs(seq),
        from: user("ann"),
        device: DeviceId(1),
        cid: Cid(seq.into()),
        kind: what.kind().to_owned(),
        what: Some(what),
        body_hash: Hash32::default(),
        chain: Hash32::default(),
    })
}

pub fn says(seq: u64) -> Arc<Entry> {
    let body = Blob::from(b"x".to_vec());
    entry(seq, What::Message { kind: "message".into(), body, reply_to: None, mentions: vec![], media: None })
}

fn asked(users: &[&str]) -> Subscription {
    Subscription { conv: conv(), users: users.iter().map(|name| user(name)).collect() }
}

/// (session, effective head, seqs)
fn told(tells: &[Tell]) -> Vec<(u64, u64, Vec<u64>)> {
    let one = |tell: &Tell| match &tell.push {
        Push::Head { head, entries, .. } => (tell.session, head.0, entries.iter().map(|e| e.seq.0).collect()),
        other => panic!("expected a head, got {other:?}"),
    };
    tells.iter().map(one).collect()
}

/// Bob (1) and cyd (2), at head 5.
fn two() -> Subscriptions {
    let mut all = Subscriptions::default();
    for (session, name) in [(1, "bob"), (2, "cyd")] {
        assert!(all.want(session, &user(name), &conv(), Seq(2)).is_none());
        let tells = all.on_answer(&asked(&[name]), answer(5, vec![Some(member(2))]));
        assert_eq!(told(&tells), [(session, 5, vec![])]);
    }
    all
}

#[test]
fn a_member_kicked_at_7_gets_7_and_nothing_above() {
    let mut all = two();
    let kick = entry(7, What::Remove { user: user("bob") });
    let (tells, hole) = all.on_pulled(&conv(), &[says(6), kick, says(8)]);
    assert!(!hole);
    assert_eq!(told(&tells), [(1, 7, vec![6, 7]), (2, 8, vec![6, 7, 8])]);
    let (tells, _) = all.on_pulled(&conv(), &[says(8), says(9)]);
    assert_eq!(told(&tells), [(2, 9, vec![9])], "repeats are nobody's news");
    assert!(all.view(1, &conv()).is_none());
    assert_eq!(all.view(2, &conv()).map(|view| view.head), Some(Seq(9)));
}

#[test]
fn an_answer_that_was_read_before_an_entry_that_is_known_is_not_taken() {
    let mut all = two();
    all.want(3, &user("dan"), &conv(), Seq(2));
    all.on_pulled(&conv(), &[entry(6, What::Remove { user: user("dan") })]);
    assert!(all.on_answer(&asked(&["dan"]), answer(5, vec![Some(member(2))])).is_empty());
    assert!(all.view(3, &conv()).is_none());
    assert_eq!(all.asks(|_| true, false, false), [asked(&["dan"])], "asked for again");
}

#[test]
fn a_hole_stops_everything_until_all_parts_were_told_again() {
    let mut all = two();
    let (tells, hole) = all.on_pulled(&conv(), &[says(7)]);
    assert!(tells.is_empty() && hole);
    assert!(all.view(1, &conv()).is_none());
    assert!(all.on_pulled(&conv(), &[says(8)]).1, "the parts may be wrong by now");
    assert!(all.on_pulled(&conv(), &[says(9)]).1);
    assert_eq!(all.asks(|_| true, false, false), [asked(&["bob", "cyd"])]);
    // The answer to one of them does not make the other's part right.
    assert_eq!(told(&all.on_answer(&asked(&["cyd"]), answer(7, vec![Some(member(2))]))), [(2, 7, vec![])]);
    assert!(all.view(1, &conv()).is_none() && all.on_pulled(&conv(), &[says(9)]).0.is_empty());
    // Bob was removed by 6, which nobody saw.
    let mut bob = member(2);
    end(&mut bob.part, &says(6));
    let tells = all.on_answer(&asked(&["bob", "cyd"]), answer(8, vec![Some(bob), Some(member(2))]));
    assert_eq!(told(&tells), [(1, 6, vec![]), (2, 8, vec![]), (2, 9, vec![9])], "what came meanwhile has waited");
    assert_eq!(told(&all.on_pulled(&conv(), &[says(10)]).0), [(2, 10, vec![10])]);
}

#[test]
fn a_head_that_is_told_twice_and_never_pushed_is_a_hole_too() {
    let mut all = two();
    let renewal = asked(&[]);
    assert_eq!(all.asks(|_| true, false, true), std::slice::from_ref(&renewal));
    assert!(all.on_answer(&renewal, answer(6, vec![])).is_empty());
    assert!(all.asks(|_| true, false, false).is_empty(), "it may be on its way");
    let shown = all.view(1, &conv()).map(|view| (view.head, view.last_id));
    assert_eq!(shown, Some((Seq(5), MsgId(5))), "not the time of 6 with the head of 5");
    all.on_answer(&renewal, answer(6, vec![]));
    assert_eq!(all.asks(|_| true, false, false), [asked(&["bob", "cyd"])]);
}

#[test]
fn a_conversation_back_in_push_mode_is_told_of_once_more_and_forgotten() {
    let mut all = two();
    let mut back = answer(9, vec![Some(member(2)), Some(member(2))]).expect("an answer");
    back.mode = Mode::Push;
    let ask = all.asks(|_| true, true, false).remove(0);
    assert_eq!(told(&all.on_answer(&ask, Some(back))).len(), 2);
    assert_eq!((all.convs.len(), all.by_session.len()), (0, 0));
    let mut all = two();
    all.forget(1);
    all.forget(2);
    assert_eq!((all.convs.len(), all.by_session.len()), (0, 0));
}

/// Bob in stays (from, until) of a conversation in pull mode.
fn stays(stays: &[(u64, Option<u64>)]) -> StandingOf {
    let stay = |(from, until): &(u64, Option<u64>)| {
        let until = until.map(Seq);
        Interval { until, n_until: Count(until.map_or(0, |seq| seq.0)), ..member(*from).part.intervals[0] }
    };
    let mseq = stays.iter().flat_map(|(from, until)| [Some(*from), *until]).flatten().max().expect("a stay");
    let part = MembershipPart { mseq: Seq(mseq), intervals: stays.iter().map(stay).collect(), ..member(1).part };
    StandingOf { part, n_sent: Count(0) }
}

fn out() -> StandingOf {
    stays(&[(2, Some(6))])
}

fn back() -> StandingOf {
    stays(&[(2, Some(6)), (7, None)])
}

fn removes_bob() -> Arc<Entry> {
    entry(6, What::Remove { user: user("bob") })
}

fn adds_bob() -> Arc<Entry> {
    entry(7, What::Add { users: vec![user("bob")] })
}

#[test]
fn a_removal_that_is_pushed_after_the_row_of_the_next_stay_does_not_end_that() {
    // The answer comes before what it knows is pushed, or after it.
    for early in [true, false] {
        let mut all = two();
        assert!(all.want(1, &user("bob"), &conv(), Seq(7)).is_none(), "what is known is of an older stay");
        assert!(all.awaits(1, &conv()));
        assert_eq!(all.asks(|_| true, false, false), [asked(&["bob"])]);
        let mut bob = Vec::new();
        let mut hears = |tells: Vec<Tell>| bob.extend(told(&tells).into_iter().filter(|(session, ..)| *session == 1));
        if early {
            hears(all.on_answer(&asked(&["bob"]), answer(7, vec![Some(back())])));
        }
        hears(all.on_pulled(&conv(), &[removes_bob()]).0);
        hears(all.on_pulled(&conv(), &[adds_bob()]).0);
        if !early {
            hears(all.on_answer(&asked(&["bob"]), answer(7, vec![Some(back())])));
        }
        hears(all.on_pulled(&conv(), &[says(8)]).0);
        match early {
            true => assert_eq!(bob, [(1, 7, vec![]), (1, 6, vec![6]), (1, 7, vec![7]), (1, 8, vec![8])]),
            false => assert_eq!(bob, [(1, 7, vec![]), (1, 8, vec![8])], "6 and 7 are read from the log"),
        }
        assert_eq!(all.view(1, &conv()).map(|view| view.head), Some(Seq(8)));
    }
}

#[test]
fn an_answer_from_before_the_rows_stay_does_not_end_it() {
    let mut pushes = answer(6, vec![Some(member(2))]).expect("an answer");
    pushes.mode = Mode::Push;
    // Removed; not a member yet; back in push mode for a moment.
    for old in [answer(6, vec![Some(out())]), answer(6, vec![None]), Some(pushes)] {
        let mut all = two();
        all.want(1, &user("bob"), &conv(), Seq(7));
        assert!(all.on_answer(&asked(&["bob"]), old).is_empty());
        assert_eq!(all.asks(|_| true, false, false), [asked(&["bob"])], "asked for again");
        assert_eq!(told(&all.on_answer(&asked(&["bob"]), answer(7, vec![Some(back())]))), [(1, 7, vec![])]);
        assert!(!all.awaits(1, &conv()));
    }
}

#[test]
fn of_two_answers_under_way_the_one_that_was_read_last_counts() {
    let mut all = two();
    let bob = asked(&["bob"]);
    assert_eq!(told(&all.on_answer(&bob, answer(7, vec![Some(back())]))), [(1, 7, vec![])]);
    assert!(all.on_answer(&bob, answer(6, vec![Some(out())])).is_empty());
    assert_eq!(all.view(1, &conv()).map(|view| view.head), Some(Seq(7)));
}

#[test]
fn of_two_devices_each_goes_by_its_own_row_and_one_answer_serves_both() {
    let mut all = two();
    all.want(3, &user("bob"), &conv(), Seq(7));
    let (tells, _) = all.on_pulled(&conv(), &[removes_bob(), adds_bob()]);
    assert_eq!(told(&tells), [(1, 6, vec![6]), (2, 7, vec![6, 7])]);
    assert!(!all.awaits(1, &conv()), "its row has told of no other stay yet");
    all.want(1, &user("bob"), &conv(), Seq(7));
    assert_eq!(all.asks(|_| true, false, false), [asked(&["bob"])]);
    let tells = all.on_answer(&asked(&["bob"]), answer(7, vec![Some(back())]));
    assert_eq!(told(&tells), [(1, 7, vec![]), (3, 7, vec![])]);
    assert_eq!(told(&all.on_pulled(&conv(), &[says(8)]).0).len(), 3);
}

#[test]
fn who_left_and_joined_while_the_leader_changed_hears_of_it_from_the_next_one() {
    let mut all = two();
    all.want(1, &user("bob"), &conv(), Seq(7));
    // Nothing of 6 to 8 was pushed here, and the streams begin anew.
    assert_eq!(all.asks(|_| true, true, false), [asked(&["bob", "cyd"])]);
    // What the old leader had read.
    all.on_answer(&asked(&["bob"]), answer(6, vec![Some(out())]));
    let tells = all.on_answer(&asked(&["bob", "cyd"]), answer(8, vec![Some(back()), Some(member(2))]));
    assert_eq!(told(&tells), [(1, 8, vec![]), (2, 8, vec![])]);
    // What the old one had sent.
    assert!(all.on_pulled(&conv(), &[removes_bob(), adds_bob()]).0.is_empty());
    assert_eq!(told(&all.on_pulled(&conv(), &[says(9)]).0), [(1, 9, vec![9]), (2, 9, vec![9])]);
}
