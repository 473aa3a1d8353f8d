//! The one table of operations: requests are dispatched by it, and the documents are made from it.

use std::sync::LazyLock;

use flotilla_proto::frame::ErrorCode as E;

use super::route::{Route, get, post, route, stream};
use super::stream as streamed;
use super::{accounts, groups, history, inbox, lists, login, people, profiles};

static TABLE: LazyLock<Vec<Route>> = LazyLock::new(table);

pub fn all() -> &'static [Route] {
    &TABLE
}

/// The route of a request, and what stands in its path for the names in braces.
pub fn find(verb: &str, segments: &[String]) -> Option<(&'static Route, Vec<String>)> {
    let mut of_verb = TABLE.iter().filter(|route| route.verb == verb);
    of_verb.find_map(|route| Some((route, route.captures(segments)?)))
}

/// The verbs that a path takes; none: there is no such path.
pub fn allowed(segments: &[String]) -> Vec<&'static str> {
    TABLE.iter().filter(|route| route.captures(segments).is_some()).map(|route| route.verb).collect()
}

/// Names of what is to come: their answer is `unsupported`, not `not_found`.
pub fn is_reserved(segments: &[String]) -> bool {
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    matches!(segments.as_slice(), ["keys" | "media" | "search" | "push", ..])
}

/// What an entry may be refused with.
const APPEND: &[E] = &[
    E::NotMember,
    E::Forbidden,
    E::Blocked,
    E::Conflict,
    E::ConversationFull,
    E::OutOfOrder,
    E::TooOld,
    E::IdempotencyMismatch,
    E::TooManyRequests,
];
/// What a login without a password may be refused with.
const LOGIN: &[E] =
    &[E::Unsupported, E::TokenExpired, E::Forbidden, E::TooManyRequests, E::QuotaExceeded, E::NotFound, E::Conflict];
const OF_MEMBERS: &[E] = &[E::NotMember];
const TRIES: &[E] = &[E::TooManyRequests];
const CHANGE: &[E] = &[E::Conflict];

fn table() -> Vec<Route> {
    let accounts = [
        post("auth/register", accounts::register, "Make an account.").errors(&[E::Conflict, E::TooManyRequests]),
        post("auth/login", accounts::login, "Log in with a password: tokens for a device.").errors(&[
            E::Forbidden,
            E::TooManyRequests,
            E::QuotaExceeded,
            E::NotFound,
            E::Conflict,
        ]),
        get("auth/methods", login::methods, "How one may log in here."),
        post("auth/otp", login::request_code, "Have a one-time code sent to a phone or an e-mail address.")
            .errors(&[E::Unsupported, E::TooManyRequests]),
        post("auth/otp/verify", login::use_code, "Log in with such a code; the first login makes the account.")
            .errors(LOGIN),
        post("auth/external", login::external, "Log in with a token of the issuer that the operator has named.")
            .errors(LOGIN),
        post("auth/refresh", accounts::refresh, "New tokens for a refresh token.").errors(&[E::NotFound]),
        post("auth/logout", accounts::logout, "Log this device out."),
    ];
    let me = [
        get("me", accounts::me, "Who you are."),
        route("PATCH", "me", profiles::change, "Change what you say of yourself."),
        get("me/privacy", people::privacy, "Who may see your presence, and whether read marks are hidden."),
        route(
            "PATCH",
            "me/privacy",
            people::set_privacy,
            "Say who may see your presence, and whether read marks are hidden.",
        ),
        get("devices", accounts::devices, "Your devices."),
        route("PATCH", "devices/{device}", accounts::rename_device, "Rename a device."),
        route("DELETE", "devices/{device}", accounts::revoke_device, "End a device for ever: its session and tokens."),
    ];
    let people = [
        get("users", profiles::profiles, "Profiles of several users; unknown ones are left out."),
        get("users/{user}", profiles::profile, "A user's profile."),
        get("search/users", profiles::find, "Users by the beginning of their ids.").errors(TRIES),
        get("presence", people::presence, "How users are now."),
        get("contacts", people::contacts, "Your contacts, by id."),
        route("PUT", "contacts/{user}", people::keep_contact, "Add or rename a contact.").errors(CHANGE),
        route("DELETE", "contacts/{user}", people::drop_contact, "Remove a contact."),
        get("blocks", profiles::blocks, "Whom you block, by id."),
        route("PUT", "blocks/{user}", profiles::block, "Block a user.").errors(CHANGE),
        route("DELETE", "blocks/{user}", profiles::unblock, "Lift a block.").errors(CHANGE),
        post("reports", profiles::report, "Tell the operator of a user or a message.").errors(TRIES),
    ];
    let conversations = [
        get("conversations", lists::list, "Your conversations."),
        get("conversations/{conv}", groups::show, "A conversation.").errors(OF_MEMBERS),
        route("PATCH", "conversations/{conv}", groups::change, "Rename a group, or open its past to who joins.")
            .errors(APPEND),
        route("PATCH", "conversations/{conv}/settings", lists::settle, "Pin, mute, archive: your own settings."),
        post("groups", groups::create, "Make a group.").errors(APPEND),
        get("conversations/{conv}/members", groups::members, "Members with their watermarks.").errors(OF_MEMBERS),
        post("conversations/{conv}/members", groups::add, "Add members.").errors(APPEND),
        route("PATCH", "conversations/{conv}/members/{user}", groups::set_role, "Set a member's role.").errors(APPEND),
        route("DELETE", "conversations/{conv}/members/{user}", groups::remove, "Remove a member, or leave.")
            .errors(APPEND),
    ];
    let messages = [
        post("conversations/{conv}/messages", groups::send, "Send a message. Answered when a majority has it on disk.")
            .errors(APPEND),
        get("conversations/{conv}/messages", history::page, "A page of messages.").errors(OF_MEMBERS),
        stream::<history::ExportLine, _, _, _, _>(
            "GET",
            "conversations/{conv}/export",
            history::export,
            "application/x-ndjson",
            "Every entry that you may read, oldest first, one JSON object a line. A last line with `end` says that it is whole.",
        )
        .errors(&[E::NotMember, E::TooManyRequests]),
        post("conversations/{conv}/receipts", inbox::read, "Move the read mark, up to what this device has acked.")
            .errors(OF_MEMBERS),
        get("inbox", inbox::poll, "What is pending for this device; waits for it. Repeated until the ack.").http_only(),
        stream::<streamed::StreamEvent, _, _, _, _>(
            "GET",
            "inbox/stream",
            streamed::open,
            "text/event-stream",
            "What is pending for this device, and what comes, as server-sent events. An event's id is the `upto` of all before it.",
        )
        .errors(&[E::TooManyRequests]),
        post("inbox/ack", inbox::ack, "Take what a poll has returned off the inbox.").http_only(),
    ];
    let groups = [
        ("Accounts", Vec::from(accounts)),
        ("You", Vec::from(me)),
        ("People", Vec::from(people)),
        ("Conversations", Vec::from(conversations)),
        ("Messages", Vec::from(messages)),
    ];
    groups.into_iter().flat_map(|(name, routes)| routes.into_iter().map(move |route| route.group(name))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_routes_are_the_same_and_none_hides_another() {
        let mut seen = BTreeSet::new();
        for route in all() {
            assert!(seen.insert((route.verb, route.path)), "{} {} twice", route.verb, route.path);
            let example: Vec<String> = route.path.split('/').map(|s| s.trim_matches(['{', '}']).to_owned()).collect();
            let (found, _) = find(route.verb, &example).expect("finds itself");
            assert_eq!(found.path, route.path);
            assert!(allowed(&example).contains(&route.verb));
            assert!(!route.about.is_empty() && !route.path.starts_with('/'));
        }
    }
}
