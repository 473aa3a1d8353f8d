//! The fixed cases. Each gets a fresh engine.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::model::{self, Model, put};
use super::{Checked, Failure, Subject, ensure, same};
use crate::{Batch, Durability, Engine, Order, Read, StorageError, WriteNo};
use Durability::{Buffered, Synced};

pub(super) type Case = fn(&mut dyn Subject) -> Checked;

pub(super) const ALL: [(&str, Case); 16] = [
    ("new_engine_is_empty", new_engine_is_empty),
    ("later_operations_of_a_batch_win", later_operations_of_a_batch_win),
    ("range_delete_takes_the_start_and_leaves_the_end", range_delete_takes_the_start_and_leaves_the_end),
    ("scan_takes_the_start_and_leaves_the_end", scan_takes_the_start_and_leaves_the_end),
    ("scan_stops_when_the_visitor_breaks", scan_stops_when_the_visitor_breaks),
    ("scan_sees_one_point_in_time", scan_sees_one_point_in_time),
    ("long_scan_visits_each_key_once", long_scan_visits_each_key_once),
    ("empty_and_inverted_ranges_are_empty", empty_and_inverted_ranges_are_empty),
    ("any_bytes_are_keys_and_values", any_bytes_are_keys_and_values),
    ("view_stays_frozen", view_stays_frozen),
    ("synced_write_covers_the_buffered_ones_before_it", synced_write_covers_the_buffered_ones_before_it),
    ("empty_batch_writes_nothing", empty_batch_writes_nothing),
    ("closed_engine_comes_back_whole", closed_engine_comes_back_whole),
    ("second_open_is_refused", second_open_is_refused),
    ("checkpoint_is_a_frozen_copy", checkpoint_is_a_frozen_copy),
    ("concurrent_callers_get_numbers_that_cover_their_writes", concurrent_callers),
];

fn value(read: &dyn Read, key: &str) -> Result<Option<Bytes>, StorageError> {
    read.get(key.as_bytes())
}

fn keys(read: &dyn Read, from: &str, to: &str, order: Order) -> Result<String, StorageError> {
    let pairs = model::scan(read, from.as_bytes(), to.as_bytes(), order, usize::MAX)?;
    Ok(pairs.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>().join(" "))
}

fn abcde(engine: &dyn Engine) -> Result<WriteNo, StorageError> {
    engine.write(put(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]), Buffered)
}

fn new_engine_is_empty(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    same("the last write", engine.last_write(), WriteNo(0))?;
    same("synced", engine.synced(), WriteNo(0))?;
    same("a get", value(&*engine, "a")?, None)?;
    model::same_content(&*engine, &Model::new())?;
    model::same_content(&*engine.view(), &Model::new())
}

fn later_operations_of_a_batch_win(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    abcde(&*engine)?;
    let mut batch = put(&[("a", "new")]);
    batch.delete("a");
    batch.delete("b");
    batch.put("b", "back");
    batch.put("c1", "inside");
    batch.delete_range("c", "e");
    batch.put("d", "after");
    same("one number per operation", engine.write(batch, Buffered)?, WriteNo(5 + 7))?;
    same("keys", keys(&*engine, "", "z", Order::Forward)?, "b d e".into())?;
    same("b", value(&*engine, "b")?, Some("back".into()))?;
    same("d", value(&*engine, "d")?, Some("after".into()))
}

fn range_delete_takes_the_start_and_leaves_the_end(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    abcde(&*engine)?;
    let mut batch = Batch::new();
    batch.delete_range("b", "d");
    engine.write(batch, Buffered)?;
    same("keys", keys(&*engine, "", "z", Order::Forward)?, "a d e".into())?;
    same("a deleted key", value(&*engine, "c")?, None)?;
    engine.write(put(&[("c", "again")]), Buffered)?;
    same("written again", value(&*engine, "c")?, Some("again".into()))
}

fn scan_takes_the_start_and_leaves_the_end(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    abcde(&*engine)?;
    for read in [&*engine as &dyn Read, &*engine.view()] {
        same("forward", keys(read, "b", "d", Order::Forward)?, "b c".into())?;
        same("reverse", keys(read, "b", "d", Order::Reverse)?, "c b".into())?;
        same("bounds between keys", keys(read, "aa", "dd", Order::Reverse)?, "d c b".into())?;
        same("beyond the last key", keys(read, "d", "z", Order::Forward)?, "d e".into())?;
        same("beyond the last key, reverse", keys(read, "", "z", Order::Reverse)?, "e d c b a".into())?;
    }
    Ok(())
}

fn scan_stops_when_the_visitor_breaks(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    abcde(&*engine)?;
    for (order, expected) in [(Order::Forward, "ab"), (Order::Reverse, "ed")] {
        let mut seen = String::new();
        engine.scan(b"", b"z", order, &mut |key, _| {
            seen.push_str(&String::from_utf8_lossy(key));
            if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        same("visited before the break", &seen[..], expected)?;
    }
    Ok(())
}

fn scan_sees_one_point_in_time(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    for order in [Order::Forward, Order::Reverse] {
        let mut batch = Batch::new();
        (0..1000u32).for_each(|number| batch.put(number.to_be_bytes().to_vec(), "old"));
        engine.write(batch, Buffered)?;
        let (mut old, mut other, mut failure) = (0, 0, None);
        engine.scan(&[], &[0xfe], order, &mut |_, value| {
            if old + other == 0 {
                // The visitor may write; here it pulls everything away from under the scan.
                let mut batch = Batch::new();
                batch.delete_range(Bytes::new(), Bytes::from_static(&[0xfe]));
                (0..2000u32).for_each(|number| batch.put((number * 7).to_be_bytes().to_vec(), "new"));
                failure = engine.write(batch, Buffered).err();
            }
            *(if value == b"old" { &mut old } else { &mut other }) += 1;
            ControlFlow::Continue(())
        })?;
        same("the visitor's write", failure, None)?;
        same("old and new pairs visited", (old, other), (1000, 0))?;
        let mut batch = Batch::new();
        batch.delete_range(Bytes::new(), Bytes::from_static(&[0xfe]));
        engine.write(batch, Buffered)?;
    }
    Ok(())
}

fn long_scan_visits_each_key_once(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    let mut model = Model::new();
    for number in 0..3000u32 {
        let mut batch = Batch::new();
        batch.put(number.to_be_bytes().to_vec(), number.to_le_bytes().to_vec());
        if number % 3 == 0 {
            batch.delete((number / 2).to_be_bytes().to_vec());
        }
        model::apply(&mut model, batch.ops());
        engine.write(batch, Buffered)?;
    }
    model::same_content(&*engine, &model)
}

fn empty_and_inverted_ranges_are_empty(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    abcde(&*engine)?;
    for (from, to) in [("b", "b"), ("d", "b"), ("z", ""), ("", "")] {
        for order in [Order::Forward, Order::Reverse] {
            same("keys", keys(&*engine, from, to, order)?, String::new())?;
            same("keys of a view", keys(&*engine.view(), from, to, order)?, String::new())?;
        }
        let mut batch = Batch::new();
        batch.delete_range(from, to);
        engine.write(batch, Buffered)?;
    }
    same("nothing was deleted", keys(&*engine, "", "z", Order::Forward)?, "a b c d e".into())
}

fn any_bytes_are_keys_and_values(subject: &mut dyn Subject) -> Checked {
    let long = Bytes::from(vec![7u8; 1 << 20]);
    let pairs: [(&[u8], Bytes); 6] = [
        (b"", "the empty key".into()),
        (b"\0", Bytes::new()),
        (b"\0\0", "zeroes".into()),
        (b"k", long.clone()),
        (b"\xff", "high".into()),
        (b"\xff\xff", Bytes::from_static(b"\0\xff\0")),
    ];
    let mut batch = Batch::new();
    pairs.iter().for_each(|(key, value)| batch.put(key.to_vec(), value.clone()));
    subject.engine().write(batch, Synced)?;
    let model: Model = pairs.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    let intact = |read: &dyn Read| {
        let content = model::content(read)?;
        ensure("all pairs are there, unchanged and in order", content == model)?;
        same("an empty value is not an absent one", read.get(b"\0")?, Some(Bytes::new()))
    };
    intact(&*subject.engine())?;
    subject.reopen()?;
    intact(&*subject.engine())
}

fn view_stays_frozen(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    abcde(&*engine)?;
    let before = engine.view();
    let mut batch = put(&[("a", "changed"), ("f", "added")]);
    batch.delete("b");
    batch.delete_range("c", "e");
    engine.write(batch, Synced)?;
    let after = engine.view();
    let mut batch = Batch::new();
    batch.delete_range("", "z");
    engine.write(batch, Synced)?;
    same("the first view", keys(&*before, "", "z", Order::Reverse)?, "e d c b a".into())?;
    same("its value", value(&*before, "a")?, Some("1".into()))?;
    drop(before);
    same("the second view", keys(&*after, "", "z", Order::Forward)?, "a e f".into())?;
    same("its value", value(&*after, "a")?, Some("changed".into()))?;
    same("a deleted key", value(&*after, "b")?, None)?;
    same("the engine", keys(&*engine, "", "z", Order::Forward)?, String::new())
}

fn synced_write_covers_the_buffered_ones_before_it(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    let first = abcde(&*engine)?;
    let second = engine.write(put(&[("f", "6")]), Buffered)?;
    ensure("numbers rise", second > first)?;
    let third = engine.write(put(&[("g", "7")]), Synced)?;
    ensure("numbers rise", third > second)?;
    same("synced", engine.synced(), third)?;
    let fourth = engine.write(put(&[("h", "8")]), Buffered)?;
    ensure("a buffered write is not durable by itself", engine.synced() < fourth)?;
    same("a sync covers it", engine.sync()?, fourth)?;
    same("synced", engine.synced(), fourth)
}

fn empty_batch_writes_nothing(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    let number = abcde(&*engine)?;
    same("an empty buffered batch", engine.write(Batch::new(), Buffered)?, number)?;
    ensure("it syncs nothing", engine.synced() < number)?;
    same("an empty synced batch", engine.write(Batch::new(), Synced)?, number)?;
    same("it syncs", engine.synced(), number)
}

fn closed_engine_comes_back_whole(subject: &mut dyn Subject) -> Checked {
    let mut model = Model::new();
    for round in 0..4u8 {
        let mut batch = Batch::new();
        batch.put(vec![round], vec![round; 3]);
        batch.put("same", vec![round]);
        batch.delete_range(vec![0], vec![round]);
        model::apply(&mut model, batch.ops());
        let durability = if round % 2 == 0 { Synced } else { Buffered };
        let number = subject.engine().write(batch, durability)?;
        subject.reopen()?;
        let engine = subject.engine();
        same("the last write", engine.last_write(), number)?;
        same("what was recovered is durable", engine.synced(), number)?;
        model::same_content(&*engine, &model)?;
    }
    Ok(())
}

fn second_open_is_refused(subject: &mut dyn Subject) -> Checked {
    subject.engine().write(put(&[("a", "1")]), Buffered)?;
    match subject.open_again() {
        Err(StorageError::Locked { .. }) => {}
        other => return Err(Failure(format!("opening twice answered {other:?}"))),
    }
    subject.engine().write(put(&[("b", "2")]), Synced)?;
    subject.reopen()?;
    same("the first handle went on", keys(&*subject.engine(), "", "z", Order::Forward)?, "a b".into())
}

fn checkpoint_is_a_frozen_copy(subject: &mut dyn Subject) -> Checked {
    let engine = subject.engine();
    let number = abcde(&*engine)?;
    let dir = subject.checkpoint_dir();
    engine.checkpoint(&dir)?;
    ensure("a checkpoint syncs first", engine.synced() >= number)?;
    let mut batch = put(&[("a", "changed")]);
    batch.delete_range("b", "z");
    engine.write(batch, Synced)?;
    let copy = subject.open_checkpoint(&dir)?;
    same("the copy", keys(&*copy, "", "z", Order::Forward)?, "a b c d e".into())?;
    same("its value", value(&*copy, "a")?, Some("1".into()))?;
    same("the original", keys(&*engine, "", "z", Order::Forward)?, "a".into())?;
    ensure("an existing copy is never overwritten", engine.checkpoint(&dir).is_err())?;
    engine.write(put(&[("b", "still alive")]), Synced)?;
    Ok(())
}

fn concurrent_callers(subject: &mut dyn Subject) -> Checked {
    const CALLERS: u8 = 4;
    const WRITES: u8 = 40;
    let engine = subject.engine();
    let call = |caller: u8| -> Checked {
        for number in 0..WRITES {
            let mut batch = Batch::new();
            batch.put(vec![caller, number], vec![number]);
            batch.put(vec![caller], vec![number]);
            let durability = if number % 4 == caller { Synced } else { Buffered };
            let written = engine.write(batch, durability)?;
            let (synced, last) = (engine.synced(), engine.last_write());
            ensure("the last write covers this one", last >= written)?;
            ensure("synced never passes the last write", synced <= last)?;
            ensure("a synced write is covered", durability == Buffered || synced >= written)?;
            same("own writes are visible", engine.get(&[caller])?, Some(vec![number].into()))?;
        }
        Ok(())
    };
    let call = &call;
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || call(caller))).collect();
        callers.into_iter().try_for_each(|caller| caller.join().map_err(|_| Failure("a caller panicked".into()))?)
    })?;
    let writes = u64::from(CALLERS) * u64::from(WRITES) * 2;
    same("the last write", engine.last_write(), WriteNo(writes))?;
    same("a sync covers everything", engine.sync()?, WriteNo(writes))
}
