//! What can be left out of options, coarse before fine: kinds of faults, elements of lists, halves and less of numbers,
//! switches. Seed and planted bug stay.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde_json::Value;

use crate::options::{KINDS, LOADS, Options, Overrides};

#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    Without(&'static str),
    /// Elements of the list at a JSON pointer.
    Remove(String, Range<usize>),
    Set(String, Value),
}

/// Not to be changed: another seed is another run.
const KEPT: [&str; 2] = ["/seed", "/plant"];

impl Edit {
    /// None if it would change nothing.
    pub fn apply(&self, options: &Value) -> Option<Value> {
        let mut changed = options.clone();
        match self {
            Self::Without(kind) => {
                let mut typed: Options = serde_json::from_value(changed).ok()?;
                typed.without(kind);
                changed = serde_json::to_value(typed).ok()?;
            }
            Self::Remove(pointer, range) => {
                let list = changed.pointer_mut(pointer)?.as_array_mut()?;
                let end = range.end.min(list.len());
                list.drain(range.start.min(end)..end);
            }
            Self::Set(pointer, value) => {
                let field = changed.pointer_mut(pointer)?;
                // Another edit may have made it smaller still.
                if let (Some(now), Some(new)) = (field.as_u64(), value.as_u64())
                    && now <= new
                {
                    return None;
                }
                *field = value.clone();
            }
        }
        // As a run would take it.
        let mut typed: Options = serde_json::from_value(changed).ok()?;
        Overrides::default().apply(&mut typed);
        let changed = serde_json::to_value(typed).ok()?;
        (changed != *options).then_some(changed)
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Without(kind) => write!(f, "without {kind}"),
            Self::Remove(pointer, range) => write!(f, "without {pointer} {}..{}", range.start, range.end),
            Self::Set(pointer, value) => write!(f, "{pointer} = {value}"),
        }
    }
}

/// Every edit, the ones that leave out most first.
pub fn all(options: &Value) -> Vec<Edit> {
    let mut edits: Vec<Edit> = KINDS.into_iter().chain(LOADS).map(Edit::Without).collect();
    let (mut lists, mut plain) = (Vec::new(), Vec::new());
    walk(options, String::new(), &mut lists, &mut plain);
    // Long parts of all lists before short ones of any; from the end, so that what is left keeps its place.
    lists.sort_by_key(|edit: &Edit| match edit {
        Edit::Remove(_, range) => std::cmp::Reverse((range.len(), range.start)),
        _ => std::cmp::Reverse((0, 0)),
    });
    edits.extend(lists);
    edits.extend(plain);
    edits
}

fn walk(value: &Value, at: String, lists: &mut Vec<Edit>, plain: &mut Vec<Edit>) {
    if KEPT.contains(&at.as_str()) {
        return;
    }
    match value {
        Value::Array(list) => {
            lists.extend(parts(list.len()).into_iter().map(|range| Edit::Remove(at.clone(), range)));
            for (index, element) in list.iter().enumerate() {
                // A fault's own numbers are left alone: a fault is there or it is not.
                if element.is_array() {
                    walk(element, format!("{at}/{index}"), lists, plain);
                }
            }
        }
        // A duration.
        Value::Object(fields) if fields.contains_key("nanos") => {}
        Value::Object(fields) => {
            for (name, field) in fields {
                walk(field, format!("{at}/{name}"), lists, plain);
            }
        }
        Value::Number(number) => {
            let Some(number) = number.as_u64() else { return };
            let smaller: BTreeSet<u64> = [0, 1, 2, 3, number / 8, number / 4, number / 2, number - number / 4]
                .into_iter()
                .filter(|n| *n < number)
                .collect();
            plain.extend(smaller.into_iter().map(|n| Edit::Set(at.clone(), n.into())));
        }
        Value::Bool(true) => plain.push(Edit::Set(at, false.into())),
        _ => {}
    }
}

/// Everything, halves, quarters, down to single elements.
fn parts(len: usize) -> Vec<Range<usize>> {
    let (mut parts, mut size) = (Vec::new(), len);
    while size > 0 {
        parts.extend((0..len).step_by(size).map(|from| from..(from + size).min(len)));
        if size == 1 {
            break;
        }
        size = size.div_ceil(2);
    }
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_go_from_everything_to_single_elements() {
        assert!(parts(0).is_empty());
        assert_eq!(parts(1).len(), 1);
        assert!(parts(3) == vec![0..3, 0..2, 2..3, 0..1, 1..2, 2..3]);
    }

    #[test]
    fn edits_leave_seed_and_plant_alone_and_make_options_that_can_be_read() {
        let drawn = (0..50).map(Options::draw).find(|o| o.lanes.iter().flatten().count() > 3).expect("most seeds");
        let options = serde_json::to_value(Options { plant: Some("x".into()), ..drawn }).expect("plain data");
        let edits = all(&options);
        assert!(LOADS.iter().all(|part| edits.contains(&Edit::Without(part))));
        for edit in &edits {
            let Some(changed) = edit.apply(&options) else { continue };
            assert_eq!((&changed["seed"], &changed["plant"]), (&options["seed"], &options["plant"]));
            serde_json::from_value::<Options>(changed).unwrap_or_else(|e| panic!("{edit}: {e}"));
        }
        assert!(edits.contains(&Edit::Set("/sends".into(), json!(1))));
        assert!(edits.contains(&Edit::Remove("/lanes/0".into(), 0..1)));
    }

    #[test]
    fn an_edit_of_what_is_gone_or_smaller_is_none() {
        let drawn = (0..50).map(Options::draw).find(|o| o.lanes[0].len() == 2).expect("some seed");
        let options = serde_json::to_value(&drawn).expect("plain data");
        assert_eq!(Edit::Remove("/lanes/7".into(), 0..1).apply(&options), None);
        assert_eq!(Edit::Remove("/lanes/0".into(), 5..9).apply(&options), None);
        let changed = Edit::Remove("/lanes/0".into(), 0..1).apply(&options).expect("it is there");
        assert_eq!(changed["lanes"][0].as_array().map(Vec::len), Some(1));
        let fewer = Edit::Set("/sends".into(), json!(3)).apply(&options).expect("there are more");
        assert_eq!(Edit::Set("/sends".into(), json!(4)).apply(&fewer), None);
        assert_eq!(Edit::Set("/sends".into(), json!("x")).apply(&options), None, "no options at all");
    }
}
