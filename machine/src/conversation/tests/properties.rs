//! Promises over generated command logs.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::entry::{Entry, What, body_hash};
use flotilla_proto::ids::*;
use flotilla_proto::slots::SlotTable;
use proptest::prelude::*;

use crate::command::*;
use crate::conversation::tables::conversation::Conversations;
use crate::conversation::tables::entry::Entries;
use crate::conversation::tables::member::Members;
use crate::query::{Answer, Query};
use crate::reply::Reply;
use crate::table::{self, Table};
use crate::testing::log::{self, Proposal};
use crate::testing::{Machine, arb, scene};

fn machine() -> Machine {
    Machine::with_slots(scene::HOME, &scene::slots())
}

fn run(machine: &mut Machine, log: &[Proposal]) -> Vec<Reply> {
    log.iter().flat_map(|(stamp, commands)| machine.apply(stamp, commands).replies).collect()
}

fn entries(machine: &Machine) -> Vec<Entry> {
    let from = [Entries::KIND];
    let (rows, more) =
        table::page::<Entries>(&machine.view(), &from, &table::end_of(&from), 100_000).expect("sound state");
    assert!(!more);
    rows.into_iter().map(|(_, entry)| entry).collect()
}

/// Heads, watermarks and revisions by key: none of them may go back (I9).
fn marks(machine: &Machine) -> BTreeMap<String, Vec<u64>> {
    let view = machine.view();
    let mut marks = BTreeMap::new();
    let from = [Conversations::KIND];
    let (rows, _) = table::page::<Conversations>(&view, &from, &table::end_of(&from), 999).expect("sound state");
    for (conv, row) in rows {
        marks.insert(conv.to_string(), vec![row.head.0, row.n_head.0, row.last_ts.0, row.last_id.0]);
    }
    let from = [Members::KIND];
    let (rows, _) = table::page::<Members>(&view, &from, &table::end_of(&from), 999).expect("sound state");
    for ((conv, user), row) in rows {
        assert!(row.part.is_well_formed(), "stays in order, only the last one open");
        assert!(row.read <= row.delivered);
        marks.insert(format!("{conv}/{user}"), vec![row.part.mseq.0, row.delivered.0, row.read.0, row.n_sent.0]);
    }
    let clock = machine.meta().clock;
    marks.insert("clock".into(), vec![clock.age.0, clock.display.0, (clock.id_ms << 12) + u64::from(clock.id_counter)]);
    marks
}

fn check_log(entries: &[Entry]) -> Result<(), TestCaseError> {
    let mut at: BTreeMap<&ConvId, &Entry> = BTreeMap::new();
    for entry in entries {
        let before = at.get(&entry.conv).copied();
        prop_assert_eq!(entry.seq, before.map_or(Seq(1), |b| b.seq.next()), "I2: no hole");
        prop_assert_eq!(entry.chain, entry.chain_after(before.map_or(Hash32::default(), |b| b.chain)), "I11");
        let counted = u64::from(entry.kind == "message");
        prop_assert_eq!(entry.n.0, before.map_or(0, |b| b.n.0) + counted);
        if let Some(before) = before {
            prop_assert!(entry.msg_id > before.msg_id && entry.ts >= before.ts, "I9");
        }
        if let Some(what) = &entry.what {
            prop_assert_eq!(what.kind(), entry.kind.as_str());
            prop_assert_eq!(body_hash(entry.cid, what), entry.body_hash, "I11");
        }
        at.insert(&entry.conv, entry);
    }
    let ids: BTreeSet<MsgId> = entries.iter().map(|e| e.msg_id).collect();
    prop_assert_eq!(ids.len(), entries.len(), "message ids are one shard's own");
    Ok(())
}

fn any_command() -> impl Strategy<Value = Command> {
    let slots = (any::<u64>(), prop::collection::vec(any::<u16>(), 0..9))
        .prop_map(|(version, owners)| SlotTable::from_owners(version, owners.into_iter().map(ShardId).collect()));
    prop_oneof![
        12 => log::any_append(),
        4 => log::conversation_side(),
        1 => slots.prop_map(Command::SetSlots),
        1 => any::<u32>().prop_map(|limit| Command::EvictDedup { limit }),
    ]
}

proptest! {
    #![proptest_config(log::few_cases())]

    #[test]
    fn logs_have_no_holes_marks_never_go_back_and_chains_verify(
        log in log::conversation_log(40)
    ) {
        let mut machine = machine();
        let mut before = marks(&machine);
        let mut accepted = 0;
        for (stamp, commands) in &log {
            for reply in machine.apply(stamp, commands).replies {
                accepted += usize::from(matches!(reply, Reply::Accepted(a) if !a.dup));
            }
            let after = marks(&machine);
            for (what, old) in &before {
                let now = &after[what];
                prop_assert!(old.iter().zip(now).all(|(old, now)| old <= now), "{} went back: {:?} to {:?}", what, old, now);
            }
            before = after;
        }
        let entries = entries(&machine);
        prop_assert_eq!(entries.len(), accepted, "one entry per accepted send");
        check_log(&entries)?;
    }

    /// No eviction here: inside the window, one seq per (conversation, sender, cid), and every retry of everything ever
    /// accepted gets the first answer, whatever happened since.
    #[test]
    fn one_seq_per_cid_and_retries_of_the_accepted_are_duplicates(
        appends in prop::collection::vec(log::append(), 1..80)
    ) {
        let mut machine = machine();
        let mut firsts = Vec::new();
        for append in &appends {
            if let Reply::Accepted(answer) = machine.one(append.clone())
                && !answer.dup
            {
                firsts.push((append.clone(), answer));
            }
        }
        let sent: BTreeSet<_> = entries(&machine).into_iter().map(|e| (e.conv, e.from, e.cid)).collect();
        prop_assert_eq!(sent.len(), firsts.len(), "one seq per (conversation, sender, cid)");
        for (append, answer) in firsts {
            let again = machine.one(append);
            prop_assert_eq!(again, Reply::Accepted(crate::reply::Accepted { dup: true, ..answer }));
        }
    }

    #[test]
    fn a_rejected_command_leaves_what_a_tick_leaves(log in log::conversation_log(30)) {
        let mut machine = machine();
        for (stamp, commands) in log {
            for command in commands {
                let mut idle = machine.copy(vec![9, 9]);
                let reply = machine.at(stamp, command);
                if matches!(reply, Reply::Rejected(_)) {
                    idle.at(stamp, Command::Tick);
                    prop_assert_eq!(machine.digest(), idle.digest());
                }
            }
        }
    }

    #[test]
    fn replay_from_any_snapshot_gives_the_same_digest(
        log in log::conversation_log(30), cut in any::<prop::sample::Index>()
    ) {
        let mut whole = machine();
        let replies = run(&mut whole, &log);
        let cut = cut.index(log.len());
        let mut first = machine();
        let mut again = run(&mut first, &log[..cut]);
        let mut installed = first.copy(vec![200, 1, 2, 3]);
        prop_assert_eq!(first.digest(), installed.digest(), "digests leave the prefix out");
        again.extend(run(&mut installed, &log[cut..]));
        prop_assert_eq!(whole.digest(), installed.digest());
        prop_assert_eq!(replies, again);
    }

    /// Batches are the leader's choice: cut anywhere, the commands do the same.
    #[test]
    fn proposals_split_anywhere_give_the_same_digest(log in log::conversation_log(30), cuts: u32) {
        let (mut whole, mut split) = (machine(), machine());
        let replies = run(&mut whole, &log);
        let mut again = Vec::new();
        for (nth, (stamp, commands)) in log.iter().enumerate() {
            let cut = if commands.is_empty() { 0 } else { (cuts as usize >> (nth % 16)) % commands.len() };
            again.extend(split.apply(stamp, &commands[..cut]).replies);
            let rest = Stamp { age_delta_ms: 0, display: stamp.display };
            again.extend(split.apply(&rest, &commands[cut..]).replies);
        }
        prop_assert_eq!(whole.digest(), split.digest());
        prop_assert_eq!(replies, again);
    }

    /// Any values at all, from anywhere: an answer, never a panic. Twice, for what the first one left behind.
    #[test]
    fn apply_is_total(commands in prop::collection::vec(any_command(), 1..15), stamp in log::stamp()) {
        let mut machine = Machine::with_slots(ShardId(1), &SlotTable::even(1));
        for _ in 0..2 {
            let replies = machine.apply(&stamp, &commands).replies;
            prop_assert_eq!(replies.len(), commands.len());
        }
        check_log(&entries(&machine))?;
    }

    /// Slots of members that move away under a conversation (built later) must not stop it, nor make holes.
    #[test]
    fn changed_slot_tables_do_no_harm_to_the_log(
        log in log::conversation_log(30), shards in prop::collection::vec(1u16..6, 30)
    ) {
        let mut machine = machine();
        for ((stamp, commands), (version, shards)) in log.iter().zip((2..).zip(shards)) {
            machine.apply(stamp, commands);
            let owners = (0..4_096u16).map(|slot| ShardId(1 + slot % shards)).collect();
            machine.one(Command::SetSlots(SlotTable::from_owners(version, owners)));
        }
        check_log(&entries(&machine))?;
    }

    /// Pages hold what the reader may read, in order, and `more` is true exactly if something was left out.
    #[test]
    fn pages_are_total_ordered_whole_and_authorised(
        log in log::conversation_log(30), from in arb::seq(), to in arb::seq(), newest_first: bool,
        limit in prop_oneof![0u32..5, any::<u32>()], bytes_max in prop_oneof![Just(0u32), 300u32..2_000, any::<u32>()]
    ) {
        let mut machine = machine();
        run(&mut machine, &log);
        let all = entries(&machine);
        for (conv, user) in scene::conversations().into_iter().flat_map(|c| scene::users().into_iter().map(move |u| (c.clone(), u))) {
            let query = Query::Entries { conv: conv.clone(), user, from, to, newest_first, limit, bytes_max };
            let Answer::Entries(page) = machine.query(&query) else { continue };
            let may = |e: &&Entry| e.conv == conv && from <= e.seq && e.seq <= to && page.part.may_read(e.seq);
            let mut wanted: Vec<Seq> = all.iter().filter(may).map(|e| e.seq).collect();
            if newest_first {
                wanted.reverse();
            }
            let got: Vec<Seq> = page.entries.iter().map(|e| e.seq).collect();
            prop_assert!(wanted.starts_with(&got), "{:?} of {:?}", got, wanted);
            prop_assert_eq!(page.more, got.len() < wanted.len());
            prop_assert!(!got.is_empty() || wanted.is_empty(), "a page makes progress");
        }
    }

    #[test]
    fn commands_survive_their_encoding(command in log::conversation_side()) {
        let bytes = command.encode().expect("encodes");
        prop_assert_eq!(Command::decode(&bytes).expect("decodes"), command);
    }

    #[test]
    fn a_flipped_or_cut_command_is_fatal_or_another_command_never_a_panic(
        command in log::conversation_side(), at in any::<prop::sample::Index>(), bit in 0u8..8, cut: bool
    ) {
        let mut bytes = command.encode().expect("encodes").to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if cut {
            bytes.truncate(at);
        }
        let _ = machine().try_apply(&Stamp::default(), &[bytes.into()]);
    }
}

/// The generator must reach what the properties are about, or they prove nothing.
#[test]
fn generated_logs_reach_every_kind_of_entry_and_most_answers() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strategy = log::conversation_log(80);
    let (mut kinds, mut answers) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..80 {
        let log = strategy.new_tree(&mut runner).expect("generates").current();
        let mut machine = machine();
        for reply in run(&mut machine, &log) {
            answers.insert(
                format!("{reply:?}").chars().take_while(|c| *c != '{' && *c != '"').take(40).collect::<String>(),
            );
        }
        for entry in entries(&machine) {
            kinds.insert(if entry.is_redacted() { "redacted".to_owned() } else { entry.kind });
        }
    }
    let heirless = What::Leave { heir: None };
    for kind in [
        "message",
        "edit",
        "delete",
        "react",
        "create",
        "add",
        "remove",
        heirless.kind(),
        "role",
        "rename",
        "history",
        "redacted",
    ] {
        assert!(kinds.contains(kind), "no entry of kind {kind}; got {kinds:?}");
    }
    for answer in [
        "Moved",
        "Validation",
        "NotFound",
        "NotMember",
        "Forbidden",
        "Conflict",
        "ConversationFull",
        "OutOfOrder",
        "TooOld",
        "IdempotencyMismatch",
        "NeedPeers",
    ] {
        let wanted = format!("Rejected({answer}");
        assert!(answer == "Moved" || answers.iter().any(|a| a.starts_with(&wanted)), "never {answer}; got {answers:?}");
    }
}
