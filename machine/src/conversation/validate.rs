//! What a client may put into a command. Gateways check the same earlier; apply believes none of them.
//!
//! Depends on the command and the settings only, never on a row.

use flotilla_proto::entry::What;
use flotilla_proto::ids::{Blob, Seq};
use flotilla_proto::limits;

use crate::command::Settings;
use crate::reply::Rejection;

pub fn check(what: &What, settings: &Settings) -> Result<(), Rejection> {
    match what {
        What::Message { kind, body, reply_to, mentions, media } => {
            check_kind(kind)?;
            check_media(media.as_deref())?;
            check_body(body, media.is_some(), settings)?;
            require(mentions.len() <= limits::MENTIONS_MAX, "too many mentions")?;
            require(*reply_to != Some(Seq::ZERO), "reply_to is a seq, and they start at 1")
        }
        What::Edit { target, body } => {
            check_target(*target)?;
            check_body(body, false, settings)
        }
        What::Delete { target } => check_target(*target),
        What::React { target, emoji, on: _ } => {
            check_target(*target)?;
            require(!emoji.is_empty() && emoji.len() <= limits::EMOJI_BYTES_MAX, "an emoji is 1 to 32 bytes")?;
            require(!emoji.chars().any(char::is_control), "an emoji holds no control characters")
        }
        What::Create { name, members, history: _ } => {
            check_name(name)?;
            require(members.len() <= limits::GROUP_MEMBERS_MAX, "too many members")
        }
        What::Add { users } => {
            require(!users.is_empty(), "nobody to add")?;
            require(users.len() <= limits::GROUP_MEMBERS_MAX, "too many users")
        }
        What::Rename { name } => {
            check_name(name)?;
            require(!name.trim().is_empty(), "a name is not blank")
        }
        What::Remove { .. } | What::Leave { .. } | What::SetRole { .. } | What::SetHistory { .. } => Ok(()),
    }
}

fn require(holds: bool, otherwise: &str) -> Result<(), Rejection> {
    if holds { Ok(()) } else { Err(Rejection::Validation(otherwise.into())) }
}

fn check_kind(kind: &str) -> Result<(), Rejection> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    let shaped = !kind.is_empty() && kind.len() <= limits::KIND_BYTES_MAX && kind.bytes().all(allowed);
    require(shaped, "a kind is 1 to 32 characters of a-z, 0-9, '_', '.' and '-'")?;
    require(!What::kind_is_reserved(kind), "this kind is the server's own")
}

fn check_body(body: &Blob, empty_allowed: bool, settings: &Settings) -> Result<(), Rejection> {
    require(empty_allowed || !body.0.is_empty(), "the body is empty")?;
    let max = settings.body_bytes_max as usize;
    require(body.0.len() <= max.min(limits::BODY_BYTES_MAX), "the body is too large")
}

fn check_media(media: Option<&str>) -> Result<(), Rejection> {
    let fits = media.is_none_or(|m| !m.is_empty() && m.len() <= limits::MEDIA_BYTES_MAX);
    require(fits, "a media reference is 1 to 1,024 bytes")
}

fn check_target(target: Seq) -> Result<(), Rejection> {
    require(target > Seq::ZERO, "a target is a seq, and they start at 1")
}

fn check_name(name: &str) -> Result<(), Rejection> {
    let fits = name.len() <= limits::NAME_BYTES_MAX && !name.chars().any(char::is_control);
    require(fits, "a name is at most 256 bytes without control characters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::arb::{message, named};

    fn refused(what: What) -> bool {
        check(&what, &Settings::default()).is_err()
    }

    fn with(kind: &str, len: usize, mentions: usize, media: Option<&str>) -> What {
        let body = Blob::from(vec![b'x'; len]);
        let media = media.map(str::to_owned);
        What::Message { kind: kind.into(), body, reply_to: None, mentions: vec![named("a"); mentions], media }
    }

    #[test]
    fn bodies_of_nothing_and_of_the_limit_plus_one_are_refused() {
        assert!(!refused(message("x")));
        assert!(!refused(with("message", limits::BODY_BYTES_MAX, 0, None)));
        assert!(refused(with("message", limits::BODY_BYTES_MAX + 1, 0, None)));
        assert!(refused(with("message", 0, 0, None)));
        assert!(!refused(with("message", 0, 0, Some("m1"))), "a picture needs no words");
        assert!(refused(What::Edit { target: Seq(1), body: Blob::default() }));
    }

    #[test]
    fn kinds_of_the_server_and_shapeless_ones_are_refused() {
        assert!(!refused(with("my.app-poll_2", 1, 0, None)));
        for kind in ["", "leave", "gap", "Message", "a b", "é", &"x".repeat(33)] {
            assert!(refused(with(kind, 1, 0, None)), "{kind:?}");
        }
    }

    #[test]
    fn lists_texts_and_targets_have_bounds() {
        assert!(!refused(with("message", 1, 50, None)));
        assert!(refused(with("message", 1, 51, None)));
        assert!(refused(with("message", 1, 0, Some(&"m".repeat(1_025)))));
        assert!(refused(What::Delete { target: Seq::ZERO }));
        assert!(refused(What::React { target: Seq(1), emoji: String::new(), on: true }));
        assert!(refused(What::React { target: Seq(1), emoji: "\u{7}".into(), on: true }));
        assert!(refused(What::Add { users: vec![] }));
        assert!(refused(What::Add { users: vec![named("a"); 501] }));
        assert!(refused(What::Rename { name: " ".into() }));
        assert!(refused(What::Rename { name: "x".repeat(257) }));
    }

    #[test]
    fn a_smaller_body_limit_of_the_settings_holds() {
        let settings = Settings { body_bytes_max: 3, ..Settings::default() };
        assert!(check(&message("abc"), &settings).is_ok());
        assert!(check(&message("abcd"), &settings).is_err());
    }
}
