//! What a user has settled about a conversation is what every device is shown with the revision that it came with, and a read
//! mark that was hidden when it was made is never told to others (DEFINITIONS: receipts).

use flotilla_client::history::{Op, Record};
use flotilla_machine::command::ConvSettings;
use flotilla_machine::conversation::tables::member::Members;
use flotilla_proto::frame::Conv;
use flotilla_proto::ids::{ConvId, Rev, UserId};
use serde_json::{Value, json};

use super::{Checker, Event, Site, World};

#[derive(Default)]
pub struct Settings;

impl Checker for Settings {
    fn promise(&self) -> &'static str {
        "settings are shown as settled"
    }

    fn on_event(&mut self, world: &World, site: &Site<'_>, event: &Event) -> Result<u64, String> {
        let Event::Applied { rows, .. } = event else { return Ok(0) };
        let mut sum = 0;
        for row in rows {
            let Some(((conv, user), _, Some(row))) = row.of::<Members>() else { continue };
            let key = (user, conv);
            let Some((_, most)) = world.shown_reads.get(&key) else { continue };
            if row.read > *most {
                let (user, conv) = key;
                return Err(format!(
                    "node {}: {conv} knows that {user} has read up to {}; of what was not hidden the highest is {most}",
                    site.node, row.read
                ));
            }
            sum += 1;
        }
        Ok(sum)
    }

    fn on_record(&mut self, world: &World, record: &Record) -> Result<u64, String> {
        let Op::Conv { conv } = &record.op else { return Ok(0) };
        shown(world, &record.user, conv).map_err(|what| format!("{}: {what}", record.device))
    }
}

/// What stood there when the row had this revision.
pub fn at(world: &World, user: &UserId, conv: &ConvId, rev: Rev) -> ConvSettings {
    let settled = world.settings.get(&(user.clone(), conv.clone()));
    settled.and_then(|by_rev| by_rev.range(..=rev).next_back()).map(|(_, settings)| *settings).unwrap_or_default()
}

/// The frame says what was settled at its revision. How much that was.
pub fn shown(world: &World, user: &UserId, conv: &Conv) -> Result<u64, String> {
    let Some((_, rev)) = conv.rev.parse() else { return Err(format!("{:?} is no revision", conv.rev)) };
    let due = in_frames(&at(world, user, &conv.conv, rev));
    if conv.settings != due {
        return Err(format!("{} at revision {rev} is shown with {:?}, settled is {due:?}", conv.conv, conv.settings));
    }
    Ok(u64::from(due.is_some()))
}

/// Only what is settled is named.
pub fn in_frames(settings: &ConvSettings) -> Option<Value> {
    let mut fields = serde_json::Map::new();
    let mut say = |name: &str, value: Option<Value>| drop(value.map(|value| fields.insert(name.to_owned(), value)));
    say("pinned", settings.pinned.map(|since| json!(since.0)));
    say("muted_until", settings.muted_until.map(|until| json!(until.0)));
    say("archived", settings.archived.then_some(json!(true)));
    say("unread", settings.unread.then_some(json!(true)));
    say("hide_read", settings.hide_read.then_some(json!(true)));
    (!fields.is_empty()).then_some(Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use flotilla_machine::conversation::tables::member::MemberRow;
    use flotilla_machine::user::conv_settings::ConvSettingsTable;
    use flotilla_machine::user::inbox::{InboxTable, Row};
    use flotilla_proto::ids::Seq;

    use super::super::testkit::{Bench, Raw, conv, part, raw, user};
    use super::*;

    fn hidden() -> Raw {
        let settings = ConvSettings { hide_read: true, ..ConvSettings::default() };
        raw::<ConvSettingsTable>(&(user("ann"), conv()), &settings)
    }

    fn read(rev: u64, read: u64) -> Raw {
        let row = Row { rev: Rev(rev), read: Seq(read), head: Seq(9), part: part(1), ..Row::default() };
        raw::<InboxTable>(&(user("ann"), conv()), &row)
    }

    fn told(read: u64) -> Raw {
        raw::<Members>(&(conv(), user("ann")), &MemberRow { part: part(1), read: Seq(read), ..MemberRow::default() })
    }

    #[test]
    fn a_hidden_read_mark_that_is_told_is_seen() {
        let bench = || {
            let mut bench = Bench::new(vec![Box::new(Settings)]);
            bench.apply_all(1, 1, vec![read(1, 3)]).apply_all(1, 2, vec![hidden(), read(2, 3)]);
            bench.apply_all(1, 3, vec![read(3, 5)]);
            bench
        };
        bench().apply_all(1, 4, vec![told(3)]).holds();
        bench().apply_all(1, 4, vec![told(5)]).violates("settings are shown");
    }

    #[test]
    fn what_was_settled_belongs_to_its_revision() {
        let mut bench = Bench::new(Vec::new());
        bench.apply_all(1, 1, vec![read(4, 0)]).apply_all(1, 2, vec![hidden(), read(5, 0)]);
        bench.watch.with_world(|world| {
            assert_eq!(at(world, &user("ann"), &conv(), Rev(4)), ConvSettings::default());
            assert!(at(world, &user("ann"), &conv(), Rev(7)).hide_read);
            assert_eq!(in_frames(&at(world, &user("ann"), &conv(), Rev(5))), Some(json!({"hide_read": true})));
        });
    }
}
