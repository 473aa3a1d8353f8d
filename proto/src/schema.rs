//! JSON Schema of what is written by hand in JSON: ids, bytes, codes. Everything else derives it beside its serde.
//!
//! Invariant: describes the JSON form; MessagePack has bytes where this says base64url. Knows no document and no route.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::frame::{ErrorCode, HistoryReply, ReceiptsReply, Reply, SyncReply};
use crate::ids::{Blob, Cid, ClusterId, ConvId, DeviceId, Hash32, Instance, MsgId, UserId};
use crate::limits;

macro_rules! texts {
    ($($name:ident: $about:literal, $pattern:expr, $more:tt;)*) => {
        $(
            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    let mut schema = json_schema!($more);
                    schema.insert("type".into(), "string".into());
                    schema.insert("description".into(), $about.into());
                    schema.insert("pattern".into(), String::from($pattern).into());
                    schema
                }
            }
        )*
    };
}

/// As ids of 128 bits are written; on input the dashes may be missing.
const HEX_128: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";

texts! {
    DeviceId: "A device: issued by the server, never used again.", HEX_128, { "examples": ["0192f0c1-7d3e-4c1a-9b1e-2f6d5a4b3c2d"] };
    Cid: "The client's id of one command: a random UUID, kept until an answer.", HEX_128,
        { "examples": ["7d444840-9dc0-41d1-b245-5ffdce74fad2"] };
    ClusterId: "The cluster's id.", HEX_128, {};
    Instance: "Random per client process.", HEX_128, { "examples": ["3f0c9d1e-88aa-4d53-a1be-64d8f0a3c1b7"] };
    MsgId: "A message id: 64 bits that rise within a shard, as decimal text.", "^[0-9]{1,20}$", { "examples": ["1234567890123456789"] };
    UserId: "A user's name and identity.", format!("^[a-z0-9_.-]{{1,{}}}$", limits::USER_ID_BYTES_MAX), { "examples": ["alice"] };
    ConvId: "A conversation: opaque to clients.", "^(d[0-9a-f]{2}[a-z0-9_.-]{3,136}|[gc][0-9a-f]{32})$",
        { "maxLength": (limits::CONV_ID_BYTES_MAX), "examples": ["d05alice03bob"] };
    Blob: "Bytes: base64url without padding.", "^[A-Za-z0-9_-]*$", { "contentEncoding": "base64url", "examples": ["aGVsbG8"] };
    Hash32: "A SHA-256 value: base64url without padding.", "^[A-Za-z0-9_-]{43}$", { "contentEncoding": "base64url" };
}

impl JsonSchema for ErrorCode {
    fn schema_name() -> Cow<'static, str> {
        "ErrorCode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        json_schema!({
            "type": "string",
            "description": "What went wrong, for programs. Others may come later: then `retryable` decides.",
            "enum": names,
        })
    }
}

impl JsonSchema for Reply {
    fn schema_name() -> Cow<'static, str> {
        "Reply".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (history, sync) = (generator.subschema_for::<HistoryReply>(), generator.subschema_for::<SyncReply>());
        let receipts = generator.subschema_for::<ReceiptsReply>();
        let value = json_schema!({
            "type": "object",
            "description": "To `call`: what the REST operation answers. To `auth`: nothing. To `presence`: `presence`, a list.",
        });
        json_schema!({ "anyOf": [history, sync, receipts, value] })
    }
}
