//! The list of conversations by activity, with a look at the last message of each, and what the user settles about one.
//!
//! A look is read from the conversation's own log: a body lives in one place. One that cannot be read now is left out; the
//! list itself comes from the user's shard alone.

use flotilla_machine::command::{ConvChange, ConvSettings};
use flotilla_machine::query::{Conversation, InboxRow, MentionsView, Place, RowsPage};
use flotilla_machine::{Answer, Command, Query};
use flotilla_proto::entry::{Entry, What};
use flotilla_proto::frame::{self, ErrorBody};
use flotilla_proto::ids::*;
use flotilla_proto::limits;
use futures::stream::{self, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::accounts::{Me, execute};
use super::groups::conv_id;
use super::route::{Ask, Done};
use crate::backend::{Freshness, Route};
use crate::gateway::shared::Shared;
use crate::gateway::{errors, ops, pulled};

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By conversation id.
    #[default]
    Id,
    /// Pinned ones first, then by latest activity.
    Activity,
}

#[derive(Deserialize, JsonSchema)]
pub struct ListPage {
    #[serde(default)]
    pub order: Order,
    /// `next` of the page before.
    pub after: Option<String>,
    pub limit: Option<u32>,
    /// By activity: only those that are archived, or only those that are not.
    pub archived: Option<bool>,
    /// By activity: with a look at the last message; at most 50 a page.
    pub previews: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
pub struct Conversations {
    pub convs: Vec<Listed>,
    pub more: bool,
    pub next: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub struct Listed {
    #[serde(flatten)]
    pub conv: frame::Conv,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Preview>,
    /// With previews: how many members a group has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<u32>,
    /// With previews: unread messages that name you; none, or not known now, without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mentions: Option<Mentioned>,
}

/// Unread messages that name somebody.
#[derive(Serialize, JsonSchema)]
pub struct Mentioned {
    pub count: u32,
    /// Seq of the first.
    pub first: Seq,
    /// There are more than are counted (1,000).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl Listed {
    fn of(conv: frame::Conv) -> Self {
        Self { conv, last: None, members: None, mentions: None }
    }
}

/// The latest entry that is not a change of another one.
#[derive(Serialize, JsonSchema)]
pub struct Preview {
    pub seq: Seq,
    pub from: UserId,
    pub kind: String,
    pub ts: TsMs,
    pub n: Count,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Blob>,
    /// The body goes on; what is encrypted cannot be read from a part.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
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

pub async fn list(Ask { shared, me, params, .. }: Ask<ListPage>) -> Result<Conversations, ErrorBody> {
    match params.order {
        Order::Id => by_id(&shared, me, params).await,
        Order::Activity => by_activity(&shared, me, params).await,
    }
}

async fn rows(shared: &Shared, me: &Me, query: Query) -> Result<RowsPage, ErrorBody> {
    match shared.backend.query(Route::User(me.user.clone()), query, Freshness::Linearizable).await {
        Ok(Answer::Rows(page)) => Ok(page),
        Ok(Answer::NotFound) => Err(errors::no_device()),
        Ok(_) => Err(errors::internal("rows")),
        Err(error) => Err(errors::of_call(error)),
    }
}

async fn by_id(shared: &Shared, me: Me, params: ListPage) -> Result<Conversations, ErrorBody> {
    let after = match params.after {
        Some(text) => Some(ConvId::parse(&text).map_err(|_| errors::bad("`after` is a conversation's id"))?),
        None => None,
    };
    let limit = params.limit.unwrap_or(limits::ROWS_PER_PAGE).clamp(1, limits::ROWS_PER_PAGE);
    let query = Query::Rows { user: me.user.clone(), device: me.device, after, limit };
    let mut page = rows(shared, &me, query).await?;
    pulled::stand_once(shared, &me.user, &mut page.rows, &Freshness::Any { min_seq: None }).await;
    let next = page.rows.last().filter(|_| page.more).map(|row| row.conv.to_string());
    let epoch = shared.node().epoch;
    let one = |row: &InboxRow| Listed::of(ops::conv_frame(&me.user, epoch, row));
    Ok(Conversations { convs: page.rows.iter().map(one).collect(), more: page.more, next })
}

async fn by_activity(shared: &Shared, me: Me, params: ListPage) -> Result<Conversations, ErrorBody> {
    let ListPage { after, limit, archived, previews, .. } = params;
    let previews = previews.unwrap_or(false);
    let after = match after {
        Some(text) => Some(place_of(&text).ok_or_else(|| errors::bad("`after` is the `next` of a page"))?),
        None => None,
    };
    let max = if previews { limits::PREVIEWS_PER_PAGE } else { limits::ROWS_PER_PAGE };
    let limit = limit.unwrap_or(max).clamp(1, max);
    let query = Query::Recent { user: me.user.clone(), device: me.device, after, archived, limit };
    let mut page = rows(shared, &me, query).await?;
    let next = page.rows.last().filter(|_| page.more).map(|row| text_of(&row.place()));
    // After the place in the list was taken: that is by what the rows themselves say.
    pulled::stand_once(shared, &me.user, &mut page.rows, &Freshness::Any { min_seq: None }).await;
    let epoch = shared.node().epoch;
    let one = |row: InboxRow| {
        let me = &me;
        async move {
            let mut listed = Listed::of(ops::conv_frame(&me.user, epoch, &row));
            if previews {
                look(shared, me, &row, &mut listed).await;
            }
            listed
        }
    };
    // In order, a few at a time.
    let convs = stream::iter(page.rows).map(one).buffered(limits::PREVIEWS_AT_ONCE).collect().await;
    Ok(Conversations { convs, more: page.more, next })
}

/// Adds `last` and, for a group, name and number of members.
async fn look(shared: &Shared, me: &Me, row: &InboxRow, listed: &mut Listed) {
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
    if let Ok(page) = ops::entries(shared, query, &conv, fresh.clone()).await {
        listed.last = page.entries.iter().find(|entry| is_shown(entry)).map(preview);
    }
    if listed.conv.unread > 0 {
        listed.mentions = mentioned(shared, me, row, fresh.clone()).await;
    }
    if conv.kind() != ConvKind::Direct {
        let query = Query::Conversation { conv: conv.clone(), user };
        if let Ok(Answer::Conversation(Some(Conversation { name, members, .. }))) =
            shared.backend.query(Route::Conv(conv), query, fresh).await
        {
            (listed.conv.name, listed.members) = (Some(name), Some(members));
        }
    }
}

/// Counted by the marks that unread is counted by.
async fn mentioned(shared: &Shared, me: &Me, row: &InboxRow, fresh: Freshness) -> Option<Mentioned> {
    let (past, to) = (row.n_read.max(row.n_sent), row.part.effective_n(row.n_head));
    let query = Query::Mentions { conv: row.conv.clone(), user: me.user.clone(), past, to };
    match shared.backend.query(Route::Conv(row.conv.clone()), query, fresh).await {
        Ok(Answer::Mentions(MentionsView { count, first: Some(first), more })) => {
            Some(Mentioned { count, first, more })
        }
        _ => None,
    }
}

/// Changes of other entries are not what a list shows.
fn is_shown(entry: &Entry) -> bool {
    !matches!(entry.kind.as_str(), "edit" | "delete" | "react")
}

/// The body as far as a list needs it; cut bodies say so, for what is encrypted cannot be read from a part.
fn preview(entry: &Entry) -> Preview {
    let (mut body, mut cut, mut media) = (None, false, None);
    if let Some(What::Message { body: whole, media: about, .. }) = &entry.what {
        cut = whole.0.len() > limits::PREVIEW_BYTES;
        body = Some(Blob(whole.0.slice(..whole.0.len().min(limits::PREVIEW_BYTES))));
        media.clone_from(about);
    }
    let Entry { seq, ts, n, .. } = *entry;
    let (from, kind) = (entry.from.clone(), entry.kind.clone());
    Preview { seq, from, kind, ts, n, body, cut, media, redacted: entry.what.is_none() }
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

/// At least one of them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Settle {
    pub pinned: Option<bool>,
    /// Unix milliseconds; 0 or null: not muted.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<u64>")]
    pub muted_until: Option<Option<u64>>,
    pub archived: Option<bool>,
    /// Marked as unread, whatever the read mark says.
    pub unread: Option<bool>,
    /// Read marks are not shown to others.
    pub hide_read: Option<bool>,
}

pub async fn settle(ask: Ask<Settle>) -> Result<Done, ErrorBody> {
    let conv = conv_id(ask.at(0))?;
    let Ask { shared, me, params, .. } = ask;
    let Settle { pinned, muted_until, archived, unread, hide_read } = params;
    let muted_until = muted_until.map(|until| TsMs(until.unwrap_or(0)));
    let change = ConvChange { pinned, muted_until, archived, unread, hide_read };
    if change == ConvChange::default() {
        return Err(errors::bad("one of `pinned`, `muted_until`, `archived`, `unread`, `hide_read`"));
    }
    execute(&shared, &me.user, Command::SetConv { user: me.user.clone(), conv, change }).await?;
    Ok(Done {})
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
