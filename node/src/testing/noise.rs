//! What nobody should send: bytes, texts and JSON drawn by chance, the same ones in every run; and what comes back over HTTP.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Node, PATIENCE};

pub struct Noise(TestRunner);

impl Noise {
    pub fn new() -> Self {
        Self(TestRunner::deterministic())
    }

    pub fn draw<S: Strategy>(&mut self, from: S) -> S::Value {
        from.new_tree(&mut self.0).expect("can be drawn").current()
    }

    pub fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        self.draw(any::<Index>()).get(all).clone()
    }

    /// `of` in `out_of` times.
    pub fn happens(&mut self, of: u32, out_of: u32) -> bool {
        self.draw(0..out_of) < of
    }

    /// What may stand behind the colon of a header, or would if it were text.
    pub fn header(&mut self) -> Vec<u8> {
        let byte = prop_oneof![12 => 0x20..0x7f_u8, 2 => 0x80..=0xff_u8, 1 => any::<u8>()];
        self.draw(vec(byte.prop_filter("it ends no line", |b| !b"\r\n".contains(b)), 0..80))
    }

    /// Behind a question mark: escapes, right and wrong, of any of these names.
    pub fn query(&mut self, names: &[&str]) -> String {
        let part = "([a-zA-Z0-9.:_~+-]|%[0-9a-fA-F]{2}|%[0-9a-z]?|=|&){0,60}";
        let mut text = self.draw(part);
        if self.happens(3, 4) {
            let name = self.one_of(names);
            text = format!("{name}={}&{text}", self.draw(part));
        }
        text
    }

    pub fn json(&mut self) -> Value {
        self.draw(json())
    }

    /// The same with one thing in it replaced by something else, or left out.
    pub fn spoil(&mut self, value: &Value) -> Value {
        let mut places = vec![String::new()];
        places_in(value, "", &mut places);
        let (at, other) = (self.one_of(&places), self.json());
        let mut spoiled = value.clone();
        match at.rsplit_once('/') {
            Some((parent, name)) if self.happens(1, 4) => {
                if let Some(Value::Object(fields)) = spoiled.pointer_mut(parent) {
                    fields.remove(name);
                }
            }
            _ => {
                if let Some(place) = spoiled.pointer_mut(&at) {
                    *place = other;
                }
            }
        }
        spoiled
    }
}

fn places_in(value: &Value, at: &str, places: &mut Vec<String>) {
    let mut go = |name: &str, value: &Value| {
        let at = format!("{at}/{name}");
        places.push(at.clone());
        places_in(value, &at, places);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| go(name, value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| go(&i.to_string(), value)),
        _ => {}
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "(dev:)?[a-z0-9.-]{0,70}".prop_map(Value::from),
        (0..12_000_usize).prop_map(|n| "x".repeat(n).into()),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let list = vec(inner.clone(), 0..4).prop_map(Value::from);
        let object = btree_map("[a-z_]{0,8}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()));
        prop_oneof![list, object]
    })
}

/// An answer; its body is read only if it ends.
#[derive(Debug)]
pub struct Heard {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Heard {
    /// It was refused as HTTP, before anybody looked at what is asked for.
    pub fn is_of_http(&self) -> bool {
        self.body.is_empty() && matches!(self.status, 400 | 431)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// Says exactly this to a node; none: the connection ended without an answer.
pub async fn heard(node: &Node, request: &[u8]) -> Option<Heard> {
    hear(&mut TcpStream::connect(node.addr).await.expect("connects"), request).await
}

/// As [`heard`], of a connection that stays open.
pub async fn hear(stream: &mut TcpStream, request: &[u8]) -> Option<Heard> {
    // A node that has heard enough may have closed.
    let _ = stream.write_all(request).await;
    tokio::time::timeout(PATIENCE, answer(stream)).await.expect("an answer, or the end")
}

async fn answer(stream: &mut TcpStream) -> Option<Heard> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        read_some(stream, &mut bytes).await?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    while bytes.len() < end + length.unwrap_or(0) {
        read_some(stream, &mut bytes).await?;
    }
    Some(Heard { status, head, body: String::from_utf8_lossy(&bytes[end..]).into_owned() })
}

async fn read_some(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut part = [0; 4_096];
    match stream.read(&mut part).await {
        Ok(0) | Err(_) => None,
        Ok(n) => {
            bytes.extend_from_slice(&part[..n]);
            Some(())
        }
    }
}
