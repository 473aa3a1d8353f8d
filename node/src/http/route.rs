//! How a route is declared: verb, path, handler. Its parameters and its answer are the handler's own types, so what the
//! documents say is what is parsed and written.
//!
//! Invariant: a handler sees parameters that were parsed, and a caller with a device unless the route is open to all. Knows no
//! operation ([`super::routes`]) and no document ([`super::documents`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::response::Response;
use flotilla_proto::frame::{ErrorBody, ErrorCode};
use flotilla_proto::ids::*;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::accounts::Me;
use crate::gateway::errors;
use crate::gateway::shared::Shared;

/// What a handler is asked.
pub struct Ask<P, W = Me> {
    pub shared: Arc<Shared>,
    pub me: W,
    pub params: P,
    /// The `Idempotency-Key`; there is one on every POST.
    pub key: Option<Cid>,
    pub peer: SocketAddr,
    /// When the caller's token ends; none for a demo user.
    pub expires: Option<TsMs>,
    path: Vec<String>,
}

impl<P, W> Ask<P, W> {
    /// What stands in the path for the `i`th name in braces.
    pub fn at(&self, i: usize) -> &str {
        self.path.get(i).map_or("", String::as_str)
    }

    pub fn key(&self) -> Result<Cid, ErrorBody> {
        self.key.ok_or_else(no_key)
    }
}

pub fn no_key() -> ErrorBody {
    errors::bad("an `Idempotency-Key` (a UUID) is required")
}

/// Where no parameters are.
#[derive(Deserialize, JsonSchema)]
pub struct NoParams {}

/// Where there is nothing to say but that it is done.
#[derive(Serialize, JsonSchema)]
pub struct Done {}

/// Who asks: a device that is logged in, or nobody in particular.
pub trait Who: Sized {
    const OPEN: bool;

    fn of(me: Option<Me>) -> Option<Self>;
}

impl Who for Me {
    const OPEN: bool = false;

    fn of(me: Option<Me>) -> Option<Self> {
        me
    }
}

/// On routes that need no token.
pub struct Nobody;

impl Who for Nobody {
    const OPEN: bool = true;

    fn of(_: Option<Me>) -> Option<Self> {
        Some(Nobody)
    }
}

/// A request before its parameters are parsed.
pub struct Raw {
    pub shared: Arc<Shared>,
    pub me: Option<Me>,
    pub params: Map<String, Value>,
    pub key: Option<Cid>,
    pub peer: SocketAddr,
    pub expires: Option<TsMs>,
    pub path: Vec<String>,
}

impl Raw {
    fn parse<P: DeserializeOwned, W: Who>(self) -> Result<Ask<P, W>, ErrorBody> {
        let Raw { shared, me, params, key, peer, expires, path } = self;
        let params = serde_json::from_value(Value::Object(params)).map_err(|e| errors::bad(e.to_string()))?;
        let me = W::of(me).ok_or_else(no_token)?;
        Ok(Ask { shared, me, params, key, peer, expires, path })
    }
}

pub fn no_token() -> ErrorBody {
    ErrorBody::new(ErrorCode::Unauthenticated, "a bearer token is required")
}

type Task<T> = Pin<Box<dyn Future<Output = Result<T, ErrorBody>> + Send>>;

/// What runs, by what it answers.
pub enum Run {
    Value(Box<dyn Fn(Raw) -> Task<Value> + Send + Sync>),
    /// Over HTTP only.
    Stream(Box<dyn Fn(Raw) -> Task<Response> + Send + Sync>),
}

/// How a text of a query becomes the JSON that a parameter wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Number,
    Flag,
    List,
}

pub struct Route {
    pub verb: &'static str,
    /// Below `/v1/`; names in braces stand for one segment each.
    pub path: &'static str,
    pub group: &'static str,
    pub about: &'static str,
    /// Needs no token.
    pub open: bool,
    /// Not by `call` over the socket.
    pub http_only: bool,
    /// Beside those that any route may answer.
    pub errors: &'static [ErrorCode],
    pub content_type: &'static str,
    pub params: fn(&mut SchemaGenerator) -> Schema,
    pub answer: fn(&mut SchemaGenerator) -> Schema,
    pub run: Run,
    kinds: BTreeMap<String, Kind>,
}

const JSON: &str = "application/json";

pub fn get<P, R, W, F, T>(path: &'static str, handler: F, about: &'static str) -> Route
where
    P: DeserializeOwned + JsonSchema + 'static,
    R: Serialize + JsonSchema + 'static,
    W: Who + 'static,
    F: Fn(Ask<P, W>) -> T + Send + Sync + 'static,
    T: Future<Output = Result<R, ErrorBody>> + Send + 'static,
{
    route("GET", path, handler, about)
}

pub fn post<P, R, W, F, T>(path: &'static str, handler: F, about: &'static str) -> Route
where
    P: DeserializeOwned + JsonSchema + 'static,
    R: Serialize + JsonSchema + 'static,
    W: Who + 'static,
    F: Fn(Ask<P, W>) -> T + Send + Sync + 'static,
    T: Future<Output = Result<R, ErrorBody>> + Send + 'static,
{
    route("POST", path, handler, about)
}

pub fn route<P, R, W, F, T>(verb: &'static str, path: &'static str, handler: F, about: &'static str) -> Route
where
    P: DeserializeOwned + JsonSchema + 'static,
    R: Serialize + JsonSchema + 'static,
    W: Who + 'static,
    F: Fn(Ask<P, W>) -> T + Send + Sync + 'static,
    T: Future<Output = Result<R, ErrorBody>> + Send + 'static,
{
    let run = move |raw: Raw| -> Task<Value> {
        match raw.parse::<P, W>() {
            Ok(ask) => {
                let task = handler(ask);
                Box::pin(async move { serde_json::to_value(task.await?).map_err(|_| errors::internal("encoding")) })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    };
    Route::new::<P, R, W>(verb, path, about, JSON, Run::Value(Box::new(run)))
}

/// Answers with a body of its own; `R` is one item of it.
pub fn stream<R, P, W, F, T>(
    verb: &'static str,
    path: &'static str,
    handler: F,
    content_type: &'static str,
    about: &'static str,
) -> Route
where
    P: DeserializeOwned + JsonSchema + 'static,
    R: JsonSchema + 'static,
    W: Who + 'static,
    F: Fn(Ask<P, W>) -> T + Send + Sync + 'static,
    T: Future<Output = Result<Response, ErrorBody>> + Send + 'static,
{
    let run = move |raw: Raw| -> Task<Response> {
        match raw.parse::<P, W>() {
            Ok(ask) => Box::pin(handler(ask)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    };
    Route::new::<P, R, W>(verb, path, about, content_type, Run::Stream(Box::new(run))).http_only()
}

impl Route {
    fn new<P: JsonSchema, R: JsonSchema, W: Who>(
        verb: &'static str,
        path: &'static str,
        about: &'static str,
        content_type: &'static str,
        run: Run,
    ) -> Self {
        Self {
            verb,
            path,
            group: "Other",
            about,
            open: W::OPEN,
            http_only: false,
            errors: &[],
            content_type,
            params: |generator| generator.subschema_for::<P>(),
            answer: |generator| generator.subschema_for::<R>(),
            run,
            kinds: kinds_of::<P>(),
        }
    }

    pub fn group(self, group: &'static str) -> Self {
        Self { group, ..self }
    }

    pub fn errors(self, errors: &'static [ErrorCode]) -> Self {
        Self { errors, ..self }
    }

    pub fn http_only(self) -> Self {
        Self { http_only: true, ..self }
    }

    /// What stands for the names in braces; none: another path.
    pub fn captures(&self, segments: &[String]) -> Option<Vec<String>> {
        let mut captured = Vec::new();
        let mut wanted = self.path.split('/');
        for segment in segments {
            match wanted.next()? {
                name if name.starts_with('{') => captured.push(segment.clone()),
                word if word == segment => {}
                _ => return None,
            }
        }
        wanted.next().is_none().then_some(captured)
    }

    /// Texts of a query as the parameters want them; what does not fit stays, and is refused when it is parsed.
    pub fn read_texts(&self, params: &mut Map<String, Value>) {
        for (name, kind) in &self.kinds {
            let Some(value) = params.get_mut(name) else { continue };
            let Value::String(text) = &*value else { continue };
            let read = match kind {
                Kind::Number => text.parse::<u64>().ok().map(Value::from),
                Kind::Flag => match text.as_str() {
                    "true" | "1" => Some(true.into()),
                    "false" | "0" => Some(false.into()),
                    _ => None,
                },
                Kind::List => Some(text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(Value::from).collect()),
            };
            if let Some(read) = read {
                *value = read;
            }
        }
    }

    /// Everything that may be answered instead.
    pub fn all_errors(&self) -> BTreeSet<ErrorCode> {
        use ErrorCode as E;
        let mut all: BTreeSet<E> = self.errors.iter().copied().collect();
        all.extend([E::BadRequest, E::Internal, E::Overloaded, E::Unavailable, E::OutcomeUnknown]);
        all.extend([E::PayloadTooLarge, E::ValidationFailed]);
        // A token that is presented is checked, also where none is needed.
        all.extend([E::Unauthenticated, E::TokenExpired]);
        if !self.open {
            all.extend([E::NotFound, E::QuotaExceeded]);
        }
        all
    }
}

/// Of the parameters that are not text. The types are written out in full here, to look through newtypes.
fn kinds_of<P: JsonSchema>() -> BTreeMap<String, Kind> {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<P>();
    let Some(Value::Object(properties)) = schema.get("properties") else { return BTreeMap::new() };
    let kind = |schema: &Value| {
        let is = |wanted: &str| match &schema["type"] {
            Value::String(name) => name == wanted,
            Value::Array(names) => names.iter().any(|name| name == wanted),
            _ => false,
        };
        let kinds = [("integer", Kind::Number), ("boolean", Kind::Flag), ("array", Kind::List)];
        kinds.into_iter().find(|(name, _)| is(name)).map(|(_, kind)| kind)
    };
    properties.iter().filter_map(|(name, schema)| Some((name.clone(), kind(schema)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, JsonSchema)]
    struct Params {
        after: Option<UserId>,
        before: Option<Seq>,
        fold: Option<bool>,
        #[serde(default)]
        users: Vec<UserId>,
    }

    async fn nothing(ask: Ask<Params>) -> Result<Done, ErrorBody> {
        let Params { after, before, fold, users } = ask.params;
        drop((after, before, fold, users));
        Ok(Done {})
    }

    #[test]
    fn texts_of_a_query_become_what_the_parameters_are() {
        let route = get("x/{conv}/y", nothing, "");
        let mut params = Map::new();
        for (name, text) in [("after", "123"), ("before", "7"), ("fold", "1"), ("users", "a, b,")] {
            params.insert(name.into(), text.into());
        }
        route.read_texts(&mut params);
        assert_eq!(
            Value::Object(params),
            serde_json::json!({ "after": "123", "before": 7, "fold": true, "users": ["a", "b"] })
        );
        let mut wrong: Map<String, Value> = [("before".to_owned(), Value::from("x"))].into_iter().collect();
        route.read_texts(&mut wrong);
        assert_eq!(wrong["before"], "x", "is refused when it is parsed");
    }

    #[test]
    fn a_path_fits_as_a_whole_or_not_at_all() {
        let route = get("x/{conv}/y", nothing, "");
        let of = |path: &str| route.captures(&path.split('/').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("x/7/y"), Some(vec!["7".to_owned()]));
        for other in ["x/7", "x/7/y/z", "y/7/y", ""] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
