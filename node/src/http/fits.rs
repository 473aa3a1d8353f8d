//! Whether what was really said has the shape that the documents promise: for tests, which then check every answer that they get.
//!
//! Knows the few words of JSON Schema that the documents are made of; patterns are left to the fuzzer (`scripts/fuzz-api`).
//! Stricter than a client: a field that no document names is a difference.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::{documents, routes};

static OPENAPI: LazyLock<Value> = LazyLock::new(documents::openapi);

/// The first difference between `value` and `schema`, with its place.
pub fn difference(document: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let deeper = |schema: &Value| difference(document, schema, value, at);
    if schema == &Value::Bool(false) {
        return Some(format!("{at}: nothing may stand here"));
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#'));
        return target.map_or_else(|| Some(format!("{reference} leads nowhere")), deeper);
    }
    if let Some(all) = schema["allOf"].as_array()
        && let Some(why) = all.iter().find_map(deeper)
    {
        return Some(why);
    }
    for word in ["anyOf", "oneOf"] {
        if let Some(any) = schema[word].as_array() {
            let whys: Vec<String> = any.iter().map_while(deeper).collect();
            if whys.len() == any.len() {
                return Some(format!("{at}: none of [{}]", whys.join("; ")));
            }
        }
    }
    let wrong_constant = !schema["const"].is_null() && &schema["const"] != value;
    if wrong_constant || schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
        return Some(format!("{at}: {value} is none of the values"));
    }
    if !schema["type"].is_null() && !is_of_type(&schema["type"], value) {
        return Some(format!("{at}: {value} is no {}", schema["type"]));
    }
    if schema["minimum"].as_f64().is_some_and(|min| value.as_f64().is_some_and(|n| n < min)) {
        return Some(format!("{at}: {value} is too small"));
    }
    match value {
        Value::Array(items) if schema["items"].is_object() => {
            let item = |(i, item): (usize, &Value)| difference(document, &schema["items"], item, &format!("{at}[{i}]"));
            items.iter().enumerate().find_map(item)
        }
        Value::Object(fields) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            if let Some(name) = required.into_iter().find(|name| !fields.contains_key(*name)) {
                return Some(format!("{at}: `{name}` is missing"));
            }
            let known = schema["properties"].as_object()?;
            fields.iter().find_map(|(name, field)| match known.get(name) {
                Some(schema) => difference(document, schema, field, &format!("{at}.{name}")),
                // Beside an `allOf` others name the rest.
                None if schema["type"] == "object" => Some(format!("{at}: `{name}` is not in the document")),
                None => None,
            })
        }
        _ => None,
    }
}

fn is_of_type(types: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    match types {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => false,
    }
}

/// Which statuses the document names for this operation.
pub fn named(verb: &str, path: &str) -> BTreeSet<u16> {
    let responses = &OPENAPI["paths"][path][verb.to_lowercase()]["responses"];
    let statuses = responses.as_object().unwrap_or_else(|| panic!("{verb} {path} is in the document")).keys();
    statuses.map(|status| status.parse().expect("a status")).collect()
}

/// Panics unless the document names this answer of this route, and its shape. Other paths are none of its business.
pub fn check_answer(verb: &str, path: &str, status: u16, body: &Value) {
    let path = path.split('?').next().unwrap_or_default();
    let Some(below) = path.strip_prefix("/v1/") else { return };
    let segments: Vec<String> = below.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    let Some((route, _)) = routes::find(verb, &segments) else { return };
    let operation = &OPENAPI["paths"][format!("/v1/{}", route.path)][verb.to_lowercase()];
    let mut answer = &operation["responses"][status.to_string()];
    if let Some(reference) = answer["$ref"].as_str() {
        answer = OPENAPI.pointer(reference.trim_start_matches('#')).expect("references lead somewhere");
    }
    assert!(answer.is_object(), "{verb} {path}: the document does not name {status}: {body}");
    let Some((content_type, content)) = answer["content"].as_object().and_then(|map| map.iter().next()) else { return };
    if content_type.ends_with("json") && !content_type.ends_with("ndjson") {
        let why = difference(&OPENAPI, &content["schema"], body, "answer");
        assert_eq!(why, None, "{verb} {path}: {body}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn golden_frames_have_the_shape_that_the_documents_say() {
        let document = documents::asyncapi();
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/golden");
        for from in ["client", "server"] {
            let text = std::fs::read_to_string(dir.join(format!("{from}.json"))).expect("golden frames");
            let golden: Vec<Value> = serde_json::from_str(&text).expect("a list");
            assert!(golden.len() > 10);
            for one in golden {
                let frame: Value = serde_json::from_str(one["json"].as_str().expect("a frame")).expect("JSON");
                let name = format!("{from}.{}", frame["t"].as_str().expect("a type"));
                let schema = &document["components"]["messages"][&name]["payload"];
                assert!(schema.is_object(), "{name} is not in the document");
                assert_eq!(difference(&document, schema, &frame, &name), None, "{frame}");
            }
        }
    }

    #[test]
    fn a_difference_is_found_and_named() {
        let document = json!({ "defs": { "Id": { "type": "string" } } });
        let schema = json!({
            "type": "object",
            "required": ["id"],
            "properties": { "id": { "$ref": "#/defs/Id" }, "n": { "type": ["integer", "null"], "minimum": 1 },
                "of": { "anyOf": [{ "const": "a" }, { "type": "array", "items": { "$ref": "#/defs/Id" } }] } },
        });
        let why = |value: Value| difference(&document, &schema, &value, "it");
        for good in
            [json!({ "id": "x" }), json!({ "id": "x", "n": null, "of": "a" }), json!({ "id": "x", "of": ["b"] })]
        {
            assert_eq!(why(good), None);
        }
        for (bad, part) in [
            (json!({}), "`id` is missing"),
            (json!({ "id": 7 }), "it.id: 7 is no \"string\""),
            (json!({ "id": "x", "n": 0 }), "too small"),
            (json!({ "id": "x", "of": [1] }), "none of ["),
            (json!({ "id": "x", "more": 1 }), "`more` is not in the document"),
        ] {
            let why = why(bad).expect(part);
            assert!(why.contains(part), "{why}");
        }
    }
}
