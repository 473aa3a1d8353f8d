//! A typed line: text, or with `/` in front a command.

use flotilla_proto::ids::{ConvId, IdError, UserId};

pub const HELP: [(&str, &str); 11] = [
    ("/to USER", "talk to this user"),
    ("/in CONVERSATION", "talk in the conversation with this id"),
    ("/group NAME USER...", "make a group and talk there"),
    ("/channel NAME USER...", "make a channel: you and admins write, all read"),
    ("/add USER...", "let users into the group or channel"),
    ("/remove USER", "put a user out of it"),
    ("/leave", "leave it"),
    ("/blocked", "show, or hide again, what blocked people write in groups"),
    ("/help", "this page"),
    ("/quit", "leave the program"),
    ("//text", "text that begins with a slash"),
];

#[derive(Debug, PartialEq)]
pub enum Typed {
    Say(String),
    To(UserId),
    In(ConvId),
    Group(String, Vec<UserId>),
    Channel(String, Vec<UserId>),
    Add(Vec<UserId>),
    Remove(UserId),
    Leave,
    Blocked,
    Help,
    Quit,
    Nothing,
    Wrong(String),
}

pub fn parse(line: &str) -> Typed {
    let line = line.trim_end();
    let Some(rest) = line.strip_prefix('/') else {
        return if line.is_empty() { Typed::Nothing } else { Typed::Say(line.to_owned()) };
    };
    let mut words = rest.split_whitespace();
    let command = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    let users = |names: &[&str]| names.iter().map(|n| UserId::parse(n)).collect::<Result<Vec<_>, _>>();
    let wrong = |e: IdError| Typed::Wrong(e.to_string());
    match (command, words.as_slice()) {
        ("to", [name]) => UserId::parse(name).map_or_else(wrong, Typed::To),
        ("in", [id]) => ConvId::parse(id).map_or_else(wrong, Typed::In),
        ("group", [name, rest @ ..]) => users(rest).map_or_else(wrong, |u| Typed::Group((*name).to_owned(), u)),
        ("channel", [name, rest @ ..]) => users(rest).map_or_else(wrong, |u| Typed::Channel((*name).to_owned(), u)),
        ("add", rest @ [_, ..]) => users(rest).map_or_else(wrong, Typed::Add),
        ("remove", [name]) => UserId::parse(name).map_or_else(wrong, Typed::Remove),
        ("leave", []) => Typed::Leave,
        ("blocked", []) => Typed::Blocked,
        ("help", _) => Typed::Help,
        ("quit" | "q", []) => Typed::Quit,
        // A line that begins with two is text.
        _ if rest.starts_with('/') => Typed::Say(rest.to_owned()),
        _ => Typed::Wrong(format!("/{command} is not a command as typed; /help lists them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_text_unless_they_are_commands() {
        let bob = UserId::parse("bob").expect("valid");
        assert_eq!(parse("hello /to"), Typed::Say("hello /to".into()));
        assert_eq!(parse("//to"), Typed::Say("/to".into()));
        assert_eq!(parse("/to bob"), Typed::To(bob.clone()));
        assert_eq!(parse("/group crew bob"), Typed::Group("crew".into(), vec![bob]));
        assert_eq!(parse("/channel news"), Typed::Channel("news".into(), vec![]));
        assert_eq!((parse("/quit"), parse("/blocked")), (Typed::Quit, Typed::Blocked));
        assert_eq!(parse("  "), Typed::Nothing);
        assert!(matches!(parse("/to b@d"), Typed::Wrong(_)));
        assert!(matches!(parse("/channel news b@d"), Typed::Wrong(_)));
        assert!(matches!(parse("/channel"), Typed::Wrong(_)));
        assert!(matches!(parse("/fly"), Typed::Wrong(_)));
    }
}
