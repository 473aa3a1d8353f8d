//! Whom a text names: users behind an at sign.

use std::collections::BTreeSet;

use flotilla_proto::entry::What;
use flotilla_proto::ids::{Blob, UserId};
use flotilla_proto::limits;

/// `@name` at the start or behind white space, in order, each once; a full stop or a hyphen behind it is none of the name. Those
/// of them that are no members of the conversation are named in vain: the server counts for members only.
pub fn named(text: &str) -> Vec<UserId> {
    let mut known = BTreeSet::new();
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.split_whitespace()
        .filter_map(|word| {
            let rest = word.strip_prefix('@')?;
            let end = rest.find(|c| !of_name(c)).unwrap_or(rest.len());
            UserId::parse(&rest[..end].trim_end_matches(['.', '-']).to_ascii_lowercase()).ok()
        })
        .filter(|user| known.insert(user.clone()))
        .take(limits::MENTIONS_MAX)
        .collect()
}

/// A plain message that names those behind its at signs.
pub fn message_naming(text: impl Into<String>) -> What {
    let text = text.into();
    let mentions = named(&text);
    What::Message { kind: "message".into(), body: Blob::from(text.into_bytes()), reply_to: None, mentions, media: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_behind_an_at_sign_and_nothing_else_is_one() {
        let names = |text: &str| named(text).iter().map(UserId::to_string).collect::<Vec<_>>();
        assert_eq!(names("@bob, look: @Carol.X and @bob again. (@dave)\n@eve."), ["bob", "carol.x", "eve"]);
        assert!(names("mail ann@example.com, @ @! @@bob 5@6").is_empty());
        assert!(names(&format!("@{}", "x".repeat(65))).is_empty(), "no user has such a name");
        let many: String = (0..99).map(|n| format!("@user{n} ")).collect();
        assert_eq!(names(&many).len(), limits::MENTIONS_MAX);
    }
}
