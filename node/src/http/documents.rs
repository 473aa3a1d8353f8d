//! The API as documents: OpenAPI 3.1, AsyncAPI 3, JSON Schema, and what codes mean, from the tables and types that the product
//! runs on.
//!
//! Invariant: nothing about a single route, frame or code is written here. The files in `docs/api` are what this makes (a test
//! compares them), and the binary serves those; nothing is made while serving. Knows no request.

use std::collections::BTreeMap;

use flotilla_proto::frame::types::{CLIENT_FRAMES, FrameType, SERVER_FRAMES};
use flotilla_proto::frame::{CloseCode, ErrorCode, Verdict};
use flotilla_proto::ids::{Cid, ConvId, DeviceId, UserId};
use flotilla_proto::limits;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::api::Problem;
use super::route::Route;
use super::{routes, server};

/// File names and contents, in order.
pub fn all() -> [(&'static str, String); 4] {
    let text = |value: Value| serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
    [
        ("openapi.json", text(openapi())),
        ("asyncapi.json", text(asyncapi())),
        ("schema.json", text(schema())),
        ("errors.json", text(errors())),
    ]
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const PROBLEM: &str = "application/problem+json";

/// Types as they are read, and types as they are written.
struct Schemas {
    read: SchemaGenerator,
    written: SchemaGenerator,
}

impl Schemas {
    fn new(path: &'static str) -> Self {
        let settings = SchemaSettings::draft2020_12().with(|s| {
            s.definitions_path = path.into();
            s.meta_schema = None;
        });
        Self { read: settings.clone().into_generator(), written: settings.for_serialize().into_generator() }
    }

    /// All that were asked for; a type that is both read and written looks the same in both directions, or has another name.
    fn take(mut self) -> Map<String, Value> {
        let mut all = self.written.take_definitions(true);
        for (name, schema) in self.read.take_definitions(true) {
            let before = all.insert(name.clone(), schema.clone());
            assert!(before.is_none_or(|b| same(&b, &schema)), "{name} is read and written, and not in the same form");
        }
        all
    }
}

/// What is required is more in what a server writes.
fn same(a: &Value, b: &Value) -> bool {
    let bare = |value: &Value| {
        let mut value = value.clone();
        if let Value::Object(map) = &mut value {
            map.remove("required");
        }
        value
    };
    bare(a) == bare(b)
}

pub fn openapi() -> Value {
    let mut schemas = Schemas::new("/components/schemas");
    written::<Problem>(&mut schemas);
    let mut shared = Map::new();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for route in routes::all() {
        let operation = operation(route, &mut schemas, &mut shared);
        paths.entry(format!("/v1/{}", route.path)).or_default().insert(route.verb.to_lowercase(), operation);
    }
    for plain in server::PLAIN {
        paths.entry(plain.path.to_owned()).or_default().insert("get".into(), plain_operation(plain, &mut shared));
    }
    let mut tags: Vec<&str> = routes::all().iter().map(|route| route.group).collect();
    tags.push(server::GROUP);
    tags.dedup();
    let tags: Vec<Value> = tags.into_iter().map(|name| json!({ "name": name })).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Flotilla",
            "version": VERSION,
            "summary": "A chat server in one binary.",
            "description": "Any node serves any request. Every answer that is an error is a problem document (RFC 9457) whose `code` \
                says what to do next: /v1/errors.json. Receivers ignore fields that they do not know. What is no HTTP is answered 400 \
                and a head above 16 KiB 431, both without a body; a connection over the limits 429, whatever it asks for.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "`access_token` of a login. On a node for development, from its own machine, also `dev:NAME`.",
            } },
            "responses": shared,
            "schemas": schemas.take(),
        },
    })
}

fn written<T: JsonSchema>(schemas: &mut Schemas) -> Value {
    schemas.written.subschema_for::<T>().to_value()
}

fn operation(route: &Route, schemas: &mut Schemas, shared: &mut Map<String, Value>) -> Value {
    let mut parameters = path_parameters(route, schemas);
    let keyed = matches!(route.verb, "POST" | "PUT" | "PATCH" | "DELETE");
    if keyed {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": route.verb == "POST",
            "description": "Drawn once for one request; a retry has the same one. What is stored is done once, as long as keys are \
                            kept: 24 hours, for a sender's last 1,024 messages of a conversation 14 days. A login, a refresh or a \
                            report that is repeated is done again.",
            "schema": schemas.read.subschema_for::<Cid>(),
        }));
    }
    let params = (route.params)(&mut schemas.read).to_value();
    let mut operation = Map::new();
    operation.insert("operationId".into(), operation_id(route).into());
    operation.insert("summary".into(), route.about.into());
    operation.insert("tags".into(), json!([route.group]));
    if matches!(route.verb, "GET" | "DELETE") {
        parameters.extend(query_parameters(&params, schemas));
    } else if !properties(&params, schemas).is_empty() {
        let required = !required(&params, schemas).is_empty();
        operation.insert(
            "requestBody".into(),
            json!({ "required": required, "content": { "application/json": { "schema": params } } }),
        );
    }
    operation.insert("parameters".into(), parameters.into());
    if route.open {
        operation.insert("security".into(), json!([]));
    }
    if !route.http_only {
        operation.insert("x-call".into(), format!("{} {}", route.verb, route.path).into());
    }
    let answer = (route.answer)(&mut schemas.written).to_value();
    let mut responses = problems(&route.all_errors().into_iter().collect::<Vec<_>>(), shared);
    responses.insert(
        "200".into(),
        json!({ "description": "Done.", "content": { route.content_type: { "schema": answer } } }),
    );
    operation.insert("responses".into(), responses.into());
    operation.into()
}

/// `postConversationsMessages` of `POST conversations/{conv}/messages`.
fn operation_id(route: &Route) -> String {
    let mut id = route.verb.to_lowercase();
    for segment in route.path.split('/') {
        let (word, by) = match segment.strip_prefix('{') {
            Some(name) => (name.trim_end_matches('}'), "By"),
            None => (segment, ""),
        };
        let (first, rest) = word.split_at(1);
        id += &format!("{by}{}{rest}", first.to_uppercase());
    }
    id
}

fn path_parameters(route: &Route, schemas: &mut Schemas) -> Vec<Value> {
    let names = route.path.split('/').filter_map(|s| s.strip_prefix('{')).map(|s| s.trim_end_matches('}'));
    let parameter = |name: &str| {
        let schema = match name {
            "conv" => schemas.read.subschema_for::<ConvId>(),
            "user" => schemas.read.subschema_for::<UserId>(),
            "device" => schemas.read.subschema_for::<DeviceId>(),
            _ => schemas.read.subschema_for::<String>(),
        };
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    };
    names.map(parameter).collect()
}

/// The schema that a reference names.
fn resolved(schema: &Value, schemas: &Schemas) -> Value {
    let name = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
    name.and_then(|name| schemas.read.definitions().get(name)).unwrap_or(schema).clone()
}

fn properties(schema: &Value, schemas: &Schemas) -> Map<String, Value> {
    resolved(schema, schemas)["properties"].as_object().cloned().unwrap_or_default()
}

fn required(schema: &Value, schemas: &Schemas) -> Vec<Value> {
    resolved(schema, schemas)["required"].as_array().cloned().unwrap_or_default()
}

fn query_parameters(params: &Value, schemas: &Schemas) -> Vec<Value> {
    let required = required(params, schemas);
    let parameter = |(name, schema): (String, Value)| {
        let mut schema = not_null(schema);
        let about = schema.as_object_mut().and_then(|map| map.remove("description")).unwrap_or_default();
        let mut parameter = json!({ "name": name, "in": "query", "required": required.contains(&name.clone().into()) });
        if let Some(about) = about.as_str() {
            parameter["description"] = about.into();
        }
        if schema["type"] == "array" {
            parameter["style"] = "form".into();
            parameter["explode"] = false.into();
        }
        parameter["schema"] = schema;
        parameter
    };
    properties(params, schemas).into_iter().map(parameter).collect()
}

/// A query has no null: what may be missing is missing.
fn not_null(mut schema: Value) -> Value {
    let is_null = |v: &Value| v == "null" || v["type"] == "null";
    if let Some(types) = schema["type"].as_array() {
        let kept: Vec<Value> = types.iter().filter(|v| !is_null(v)).cloned().collect();
        schema["type"] = kept.first().cloned().unwrap_or_default();
    } else if let Some(kept) = schema["anyOf"].as_array().and_then(|any| any.iter().find(|v| !is_null(v)).cloned()) {
        let about = schema["description"].clone();
        schema = kept;
        if about.is_string() {
            schema["description"] = about;
        }
    }
    // Indexing wrote a null where nothing was.
    if let Value::Object(map) = &mut schema {
        map.retain(|_, value| !value.is_null());
    }
    schema
}

/// By status, with the codes of each; many operations share an answer, which stands among the components then.
fn problems(codes: &[ErrorCode], shared: &mut Map<String, Value>) -> Map<String, Value> {
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.http_status()).or_default().push(*code);
    }
    let mut one = |(status, codes): (u16, Vec<ErrorCode>)| {
        let lines: Vec<String> =
            codes.iter().map(|c| format!("`{}`: {} {}", c.name(), c.meaning(), c.advice())).collect();
        let names: Vec<&str> = codes.iter().map(|c| c.name()).collect();
        let schema = json!({ "allOf": [problem, { "properties": { "code": { "enum": names } } }] });
        let mut answer = json!({ "description": lines.join("\n\n"), "content": { PROBLEM: { "schema": schema } } });
        if codes.iter().any(|c| c.retryable()) {
            answer["headers"] = json!({ "Retry-After": {
                "description": "Seconds, where `retry_after_ms` is given.",
                "schema": { "type": "integer", "minimum": 0 },
            } });
        }
        let name = format!("{status}-{}", names.join("-"));
        let reference = json!({ "$ref": format!("#/components/responses/{name}") });
        shared.insert(name, answer);
        (status.to_string(), reference)
    };
    by_status.into_iter().map(&mut one).collect()
}

fn plain_operation(plain: &server::Plain, shared: &mut Map<String, Value>) -> Value {
    let mut responses = problems(plain.errors, shared);
    for (status, content_type, about) in plain.answers {
        let content = match *content_type {
            "" => json!({}),
            "application/json" => json!({ "application/json": { "schema": { "type": "object" } } }),
            other => json!({ other: { "schema": { "type": "string" } } }),
        };
        responses.insert(status.to_string(), json!({ "description": about, "content": content }));
    }
    json!({
        "operationId": plain.id,
        "summary": plain.about,
        "tags": [server::GROUP],
        "security": [],
        "responses": responses,
    })
}

pub fn asyncapi() -> Value {
    let mut schemas = Schemas::new("/components/schemas");
    let mut messages = Map::new();
    for (from, frames) in [("client", CLIENT_FRAMES), ("server", SERVER_FRAMES)] {
        for frame in frames {
            let generator = if from == "client" { &mut schemas.read } else { &mut schemas.written };
            messages.insert(message_name(from, frame), message(from, frame, (frame.content)(generator).to_value()));
        }
    }
    let here: Map<String, Value> = messages
        .keys()
        .map(|name| (name.clone(), json!({ "$ref": format!("#/components/messages/{name}") })))
        .collect();
    let list = |from: &str, frames: &[FrameType]| -> Vec<Value> {
        let one = |frame| json!({ "$ref": format!("#/channels/socket/messages/{}", message_name(from, frame)) });
        frames.iter().map(one).collect()
    };
    let (sent, received) = (list("client", CLIENT_FRAMES), list("server", SERVER_FRAMES));
    let channel = json!({ "$ref": "#/channels/socket" });
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Flotilla",
            "version": VERSION,
            "description": "One WebSocket message holds one or more frames, `{\"t\": type, \"id\": u32?, \"d\": {…}}`: with a newline between in \
                JSON (`flotilla.v1.json`, assumed when no subprotocol is offered), concatenated in MessagePack (`flotilla.v1.msgpack`). \
                `id` is chosen by the client on requests and comes back with the answer. Receivers ignore fields that they do not \
                know, and frames that they do not know without an `id`. Close codes: /v1/errors.json.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "servers": { "node": { "host": "localhost:4001", "protocol": "ws", "description": "Any node of the cluster." } },
        "defaultContentType": "application/json",
        "channels": { "socket": {
            "address": "/v1/ws",
            "title": "A session of one device",
            "messages": here,
            "bindings": { "ws": { "method": "GET", "bindingVersion": "0.1.0" } },
        } },
        "operations": {
            "toServer": { "action": "receive", "channel": channel, "title": "From a client to a node", "messages": sent },
            "toClient": { "action": "send", "channel": channel, "title": "From a node to a client", "messages": received },
        },
        "components": { "messages": messages, "schemas": schemas.take() },
    })
}

fn message_name(from: &str, frame: &FrameType) -> String {
    format!("{from}.{}", frame.t)
}

fn message(from: &str, frame: &FrameType, content: Value) -> Value {
    // A request is what a frame of its own answers.
    let asks = frame.answers.iter().any(|t| matches!(*t, "accepted" | "reply"));
    let answers = matches!(frame.t, "accepted" | "reply") && from == "server";
    let mut required = vec!["t", "d"];
    if asks || answers {
        required.push("id");
    }
    let id = json!({ "type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX });
    let mut message = json!({
        "name": frame.t,
        "title": format!("{} ({from})", frame.t),
        "summary": frame.about,
        "payload": {
            "type": "object",
            "required": required,
            "properties": { "t": { "const": frame.t }, "id": id, "d": content },
        },
    });
    if !frame.answers.is_empty() {
        message["x-answers"] = frame.answers.into();
    }
    message
}

fn schema() -> Value {
    let mut schemas = Schemas::new("/$defs");
    for route in routes::all() {
        (route.params)(&mut schemas.read);
        (route.answer)(&mut schemas.written);
    }
    for frame in CLIENT_FRAMES {
        (frame.content)(&mut schemas.read);
    }
    for frame in SERVER_FRAMES {
        (frame.content)(&mut schemas.written);
    }
    written::<Problem>(&mut schemas);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Flotilla",
        "description": "All types of the client protocol and of REST, in JSON.",
        "$defs": schemas.take(),
    })
}

fn errors() -> Value {
    let error = |code: &ErrorCode| {
        json!({
            "code": code.name(),
            "status": code.http_status(),
            "retryable": code.retryable(),
            "meaning": code.meaning(),
            "advice": code.advice(),
        })
    };
    let close = |code: &CloseCode| {
        json!({
            "code": code.number(),
            "name": code.name(),
            "verdict": code.verdict().name(),
            "meaning": code.meaning(),
            "advice": code.verdict().advice(),
        })
    };
    let range = |verdict: Verdict| {
        let (from, to) = verdict.range();
        json!({ "from": from, "to": to, "verdict": verdict.name(), "advice": verdict.advice() })
    };
    json!({
        "errors": ErrorCode::ALL.iter().map(error).collect::<Vec<_>>(),
        "closes": CloseCode::ALL.iter().map(close).collect::<Vec<_>>(),
        "ranges": Verdict::ALL.map(range),
        "others": "Close codes outside of these ranges (1001, 1006, 1011 to 1013) mean reconnect. An error code that a client does \
            not know: `retryable` decides.",
        "message_bytes_max": limits::MESSAGE_BYTES_MAX,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENEW: &str = "cargo run -p flotilla-node -- api docs/api";

    #[test]
    fn the_stored_documents_are_what_the_tables_and_types_say() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api");
        for (name, made) in all() {
            let stored = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
            if stored != made {
                let line = stored.lines().zip(made.lines()).position(|(a, b)| a != b).map_or(0, |i| i + 1);
                panic!(
                    "docs/api/{name} is out of date (first in line {line}). Renew it, and read what changed: {RENEW}"
                );
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_no_operation_has_another_ones_name() {
        for (name, text) in all() {
            let document: Value = serde_json::from_str(&text).expect("JSON");
            let mut refs = Vec::new();
            refs_of(&document, &mut refs);
            for reference in refs {
                let pointer = reference.strip_prefix('#').expect("of this document");
                assert!(document.pointer(pointer).is_some(), "{name}: {reference}");
            }
        }
        let ids: Vec<String> = routes::all().iter().map(operation_id).collect();
        let mut unique = ids.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), ids.len());
    }

    fn refs_of(value: &Value, refs: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                refs.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| refs_of(v, refs));
            }
            Value::Array(items) => items.iter().for_each(|v| refs_of(v, refs)),
            _ => {}
        }
    }
}
