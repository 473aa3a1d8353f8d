//! The list of conversations by activity, with a look at the last message of each, and what the user settles about one.
//!
//! A look is read from the conversation's own log: a body lives in one place. One that cannot be read now is left out; the
//! list itself comes from the user's shard alone.

use flotilla_machine::command::{ConvChange, ConvSettings};
use flotilla_machine::query::{Conversation, InboxRow, Place};
use flotilla_machine::{Answer, Command, Query};
use flotilla_proto::entry::{Entry, What};
use flotilla_proto::frame::ErrorBody;
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use futures::stream::{self, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::accounts::{Me, execute};
use super::api::{Outcome, Request};
use super::groups::conv_id;
use crate::backend::{Freshness, Route};
use crate::gateway::shared::Shared;
use crate::gateway::{errors, ops};

#[derive(Deserialize)]
struct Params {
    after: Option<String>,
    limit: Option<u32>,
    archived: Option<Value>,
    previews: Option<Value>,
}

/// `true` as JSON or as a text of the query.
pub fn flag(value: Option<&Value>) -> Result<Option<bool>, ErrorBody> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(Value::String(text)) if text == "true" => Ok(Some(true)),
        Some(Value::String(text)) if text == "false" => Ok(Some(false)),
        Some(Value::Number(n)) if n.as_u64() == Some(1) => Ok(Some(true)),
        Some(Value::Number(n)) if n.as_u64() == Some(0) => Ok(Some(false)),
        Some(_) => Err(errors::bad("a flag is true or false")),
    }
}

/// Where a page ends, as text for the client to give back.
fn text_of(place: &Place) -> String {
    format!("{}.{}.{}", u8::from(place.pinned), place.at.0, place.conv)
}

fn place_of(text: &str) -> Option<Place> {
    let (pinned, rest) = text.split_once('.')?;
    let (at, conv) = rest.split_once('.')?;
    let pinned = match pinned {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    Some(Place { pinned, at: TsMs(at.parse().ok()?), conv: ConvId::parse(conv).ok()? })
}

pub async fn by_activity(shared: &Shared, me: Me, mut request: Request) -> Outcome {
    request.params.remove("order");
    let Params { after, limit, archived, previews } = request.params()?;
    let (archived, previews) = (flag(archived.as_ref())?, flag(previews.as_ref())?.unwrap_or(false));
    let after = match after {
        Some(text) => Some(place_of(&text).ok_or_else(|| errors::bad("`after` is the `next` of a page"))?),
        None => None,
    };
    let max = if previews { limits::PREVIEWS_PER_PAGE } else { limits::ROWS_PER_PAGE };
    let limit = limit.unwrap_or(max).clamp(1, max);
    let query = Query::Recent { user: me.user.clone(), device: me.device, after, archived, limit };
    let page = match shared.backend.query(Route::User(me.user.clone()), query, Freshness::Linearizable).await {
        Ok(Answer::Rows(page)) => page,
        Ok(_) => return Err(errors::internal("recent")),
        Err(error) => return Err(errors::of_call(error)),
    };
    let next = page.rows.last().filter(|_| page.more).map(|row| text_of(&row.place()));
    let epoch = shared.node().epoch;
    let one = |row: InboxRow| {
        let me = &me;
        async move {
            let mut conv = serde_json::to_value(ops::conv_frame(&me.user, epoch, &row)).unwrap_or_default();
            if previews && let Value::Object(fields) = &mut conv {
                look(shared, me, &row, fields).await;
            }
            conv
        }
    };
    // In order, a few at a time.
    let convs: Vec<Value> = stream::iter(page.rows).map(one).buffered(limits::PREVIEWS_AT_ONCE).collect().await;
    Ok(json!({ "convs": convs, "more": page.more, "next": next }))
}

/// Adds `last` and, for a group, `name`.
async fn look(shared: &Shared, me: &Me, row: &InboxRow, fields: &mut serde_json::Map<String, Value>) {
    let (user, conv) = (me.user.clone(), row.conv.clone());
    let to = row.part.effective_head(row.head);
    let query = Query::Entries {
        conv: conv.clone(),
        user: user.clone(),
        from: Seq(1),
        to,
        newest_first: true,
        limit: limits::PREVIEW_ENTRIES,
        bytes_max: limits::PREVIEW_READ_BYTES,
    };
    let fresh = Freshness::Any { min_seq: Some((conv.clone(), to)) };
    if let Ok(page) = ops::entries(shared, query, &conv, fresh.clone()).await
        && let Some(last) = page.entries.iter().find(|entry| is_shown(entry))
    {
        fields.insert("last".into(), preview(last));
    }
    if conv.kind() != ConvKind::Direct {
        let query = Query::Conversation { conv: conv.clone(), user };
        if let Ok(Answer::Conversation(Some(Conversation { name, members, .. }))) =
            shared.backend.query(Route::Conv(conv), query, fresh).await
        {
            fields.insert("name".into(), name.into());
            fields.insert("members".into(), members.into());
        }
    }
}

/// Changes of other entries are not what a list shows.
fn is_shown(entry: &Entry) -> bool {
    !matches!(entry.kind.as_str(), "edit" | "delete" | "react")
}

/// The body as far as a list needs it; cut bodies say so, for what is encrypted cannot be read from a part.
fn preview(entry: &Entry) -> Value {
    let mut preview = json!({ "seq": entry.seq, "from": entry.from, "kind": entry.kind, "ts": entry.ts, "n": entry.n });
    match &entry.what {
        None => preview["redacted"] = true.into(),
        Some(What::Message { body, media, .. }) => {
            let cut = body.0.len() > limits::PREVIEW_BYTES;
            let part = Blob::from(body.0.iter().take(limits::PREVIEW_BYTES).copied().collect::<Vec<u8>>());
            preview["body"] = serde_json::to_value(part).unwrap_or_default();
            if cut {
                preview["cut"] = true.into();
            }
            if let Some(media) = media {
                preview["media"] = media.clone().into();
            }
        }
        Some(_) => {}
    }
    preview
}

/// As it stands in `conv` frames; none if nothing is settled.
pub fn settings_value(settings: &ConvSettings) -> Option<Value> {
    if *settings == ConvSettings::default() {
        return None;
    }
    let mut value = json!({});
    if let Some(pinned) = settings.pinned {
        value["pinned"] = pinned.0.into();
    }
    if let Some(until) = settings.muted_until {
        value["muted_until"] = until.0.into();
    }
    for (name, on) in [("archived", settings.archived), ("unread", settings.unread), ("hide_read", settings.hide_read)]
    {
        if on {
            value[name] = true.into();
        }
    }
    Some(value)
}

pub async fn settle(shared: &Shared, me: Me, id: &str, mut request: Request) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Params {
        pinned: Option<bool>,
        /// Unix milliseconds; 0 or null: not muted.
        #[serde(default, deserialize_with = "given")]
        muted_until: Option<Option<u64>>,
        archived: Option<bool>,
        unread: Option<bool>,
        hide_read: Option<bool>,
    }
    let conv = conv_id(id)?;
    let Params { pinned, muted_until, archived, unread, hide_read } = request.params()?;
    let muted_until = muted_until.map(|until| TsMs(until.unwrap_or(0)));
    let change = ConvChange { pinned, muted_until, archived, unread, hide_read };
    if change == ConvChange::default() {
        return Err(errors::bad("one of `pinned`, `muted_until`, `archived`, `unread`, `hide_read`"));
    }
    execute(shared, &me.user, Command::SetConv { user: me.user.clone(), conv, change }).await?;
    Ok(json!({}))
}

/// Tells null from nothing.
fn given<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(d).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_page_is_read_back() {
        let user = UserId::parse("a.b").expect("valid");
        let place = Place { pinned: true, at: TsMs(7), conv: ConvId::direct(&user, &user) };
        assert_eq!(place_of(&text_of(&place)), Some(place));
        for bad in ["", "1", "1.7", "2.7.x", "1.x.y", "1.7.\u{0}"] {
            assert_eq!(place_of(bad), None, "{bad}");
        }
    }
}
