//! What an operator may set: a TOML file, environment over it, flags over both.
//!
//! Invariant: an unknown key is an error that names its line and the nearest known key; nothing is ignored silently.
//! Nothing here reaches `apply`: settings that decide what is accepted are replicated state.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use flotilla_proto::ids::UserId;
use flotilla_proto::limits;
use serde::Deserialize;

use crate::auth::issuer;
use crate::outgoing::Url;

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Accounts with passwords, signed tokens.
    #[default]
    Password,
    /// Also unsigned demo users (`dev:NAME`), on loopback only.
    Dev,
}

/// `flotilla start`: every field may also stand in the file (`--config`) or the environment (`FLOTILLA_…`).
#[derive(Debug, Clone, Default, Args)]
pub struct StartArgs {
    /// TOML file with the same keys (dashes become underscores)
    #[arg(long, env = "FLOTILLA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Settings,
    /// Where the page finds the process that started this node, and the key to it; given by `flotilla dev`
    #[arg(long, env = "FLOTILLA_DEV_CONTROL", hide = true, hide_env_values = true)]
    pub dev_control: Option<String>,
}

/// Each is optional here; `Config::resolve` fills in the defaults.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// This node's number, 1 to 65535, never given to another machine
    #[arg(long, env = "FLOTILLA_NODE", value_name = "N")]
    pub node: Option<u16>,
    /// Directory for everything this node stores
    #[arg(long, env = "FLOTILLA_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address for clients (HTTP and WebSocket), host:port [default: 127.0.0.1:4000]
    #[arg(long, env = "FLOTILLA_CLIENT_ADDR", value_name = "ADDR")]
    pub client_addr: Option<String>,
    /// Base URL that clients are told [default: http://CLIENT_ADDR]
    #[arg(long, env = "FLOTILLA_CLIENT_URL", value_name = "URL")]
    pub client_url: Option<String>,
    /// Address for other nodes, host:port [default: 127.0.0.1:5000]
    #[arg(long, env = "FLOTILLA_PEER_ADDR", value_name = "ADDR")]
    pub peer_addr: Option<String>,
    /// Address that other nodes are told [default: PEER_ADDR]
    #[arg(long, env = "FLOTILLA_PEER_ADVERTISE", value_name = "ADDR")]
    pub peer_advertise: Option<String>,
    /// Speak plain TCP with other nodes beyond loopback
    #[arg(long, env = "FLOTILLA_INSECURE_PEERS", num_args = 0..=1, default_missing_value = "true")]
    pub insecure_peers: Option<bool>,
    /// Who may log in
    #[arg(long, env = "FLOTILLA_AUTH", value_enum)]
    pub auth: Option<AuthMode>,
    /// Exact web origins that may talk to this node beside pages of the cluster's own URLs, comma separated
    #[arg(long, env = "FLOTILLA_ORIGINS", value_delimiter = ',', value_name = "ORIGIN")]
    pub origins: Option<Vec<String>>,
    /// Refuse client writes when the data directory's disk has less room than this, in MiB [default: 256]
    #[arg(long, env = "FLOTILLA_DISK_RESERVE_MIB", value_name = "MIB")]
    pub disk_reserve_mib: Option<u64>,
    /// Log entries of a shard between two snapshots [default: 20000]
    #[arg(long, env = "FLOTILLA_SNAPSHOT_ENTRIES", value_name = "COUNT")]
    pub snapshot_entries: Option<u64>,
    /// Threads for everything that does not wait for the disk; fewer when several nodes share a machine [default: one for each
    /// processor]
    #[arg(long, env = "FLOTILLA_THREADS", value_name = "COUNT")]
    pub threads: Option<u16>,
    /// Leader heartbeat in milliseconds [default: 250]
    #[arg(long, env = "FLOTILLA_HEARTBEAT_MS", value_name = "MS")]
    pub heartbeat_ms: Option<u64>,
    /// Lower end of the election time-out in milliseconds; the upper end is twice this. A dead leader is replaced after
    /// three to four times this: a follower first waits out the lease of one upper end [default: 500]
    #[arg(long, env = "FLOTILLA_ELECTION_MS", value_name = "MS")]
    pub election_ms: Option<u64>,
    /// A node not heard from for this long has lapsed, in milliseconds [default: 10000]
    #[arg(long, env = "FLOTILLA_LEASE_MS", value_name = "MS")]
    pub lease_ms: Option<u64>,
    /// Sends a second of one user on this node, ten seconds' worth at once; 0: no limit [default: 50, with --auth dev 0]
    #[arg(long, env = "FLOTILLA_SENDS_PER_USER", value_name = "COUNT")]
    pub sends_per_user: Option<u32>,
    /// Sends a second into one conversation on this node; 0: no limit [default: 200, with --auth dev 0]
    #[arg(long, env = "FLOTILLA_SENDS_PER_CONVERSATION", value_name = "COUNT")]
    pub sends_per_conversation: Option<u32>,
    /// Tries to log in or register a minute, of one address and for one account [default: 30]
    #[arg(long, env = "FLOTILLA_LOGINS_PER_MINUTE", value_name = "COUNT")]
    pub logins_per_minute: Option<u32>,
    /// Where one-time codes go: a POST for each, signed; https:// beyond this machine. Without it nobody logs in by code (with
    /// --auth dev codes stand in the log)
    #[arg(long, env = "FLOTILLA_CODE_WEBHOOK", value_name = "URL")]
    pub code_webhook: Option<String>,
    /// File with the secret that signs what goes to the webhook, 16 bytes at least
    #[arg(long, env = "FLOTILLA_CODE_WEBHOOK_SECRET_FILE", value_name = "FILE")]
    pub code_webhook_secret_file: Option<PathBuf>,
    /// Take tokens (JWT) of this issuer: its `iss`, letter by letter
    #[arg(long, env = "FLOTILLA_ISSUER", value_name = "ISS")]
    pub issuer: Option<String>,
    /// What `aud` of such a token must name
    #[arg(long, env = "FLOTILLA_ISSUER_AUDIENCE", value_name = "AUD")]
    pub issuer_audience: Option<String>,
    /// Where the issuer publishes its keys (JWKS); https:// beyond this machine
    #[arg(long, env = "FLOTILLA_ISSUER_KEYS", value_name = "URL")]
    pub issuer_keys: Option<String>,
    /// The claim that names the user [default: sub]
    #[arg(long, env = "FLOTILLA_ISSUER_USER_CLAIM", value_name = "CLAIM")]
    pub issuer_user_claim: Option<String>,
    /// Put in front of what the claim says, so that these users meet no others [default: nothing]
    #[arg(long, env = "FLOTILLA_ISSUER_USER_PREFIX", value_name = "TEXT")]
    pub issuer_user_prefix: Option<String>,
    /// How far the issuer's clock may be off, in seconds [default: 60]
    #[arg(long, env = "FLOTILLA_ISSUER_LEEWAY_S", value_name = "S")]
    pub issuer_leeway_s: Option<u64>,
    /// Seconds between two questions for the issuer's keys, whatever tokens come [default: 30]
    #[arg(long, env = "FLOTILLA_ISSUER_ASK_S", value_name = "S")]
    pub issuer_ask_s: Option<u64>,
    /// PEM file with certificates to trust beside the system's, for the webhook and the issuer
    #[arg(long, env = "FLOTILLA_TRUST_FILE", value_name = "FILE")]
    pub trust_file: Option<PathBuf>,
    /// Client connections from one address; more are closed before anything is read [default: 20000]
    #[arg(long, env = "FLOTILLA_CONNECTIONS_PER_ADDRESS", value_name = "COUNT")]
    pub connections_per_address: Option<usize>,
}

/// What a node runs with.
#[derive(Debug, Clone)]
pub struct Config {
    pub node: u16,
    pub data_dir: PathBuf,
    pub client_addr: String,
    pub client_url: String,
    pub peer_addr: String,
    pub peer_advertise: String,
    pub insecure_peers: bool,
    pub auth: AuthMode,
    pub origins: Vec<String>,
    pub disk_reserve_mib: u64,
    pub snapshot_entries: u64,
    /// None: one for each processor.
    pub threads: Option<u16>,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub lease_ms: u64,
    pub sends_per_user: u32,
    pub sends_per_conversation: u32,
    pub logins_per_minute: u32,
    pub connections_per_address: usize,
    pub code_webhook: Option<(Url, PathBuf)>,
    pub issuer: Option<issuer::Settings>,
    pub trust_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}, line {line}: {what}")]
    Parse { path: PathBuf, line: usize, what: String },
    #[error("{0} is required: give --{1}, set {2}, or write it into the configuration file")]
    Missing(&'static str, &'static str, &'static str),
    #[error("{name} is {value}; allowed is {allowed}")]
    Range { name: &'static str, value: u64, allowed: &'static str },
    #[error("{name}: {what}")]
    Wrong { name: &'static str, what: String },
    #[error("{given} is set and {missing} is not: they go together")]
    Together { given: &'static str, missing: &'static str },
}

impl Config {
    /// Flags and environment (already merged by the parser) over the file over the defaults.
    pub fn resolve(args: StartArgs) -> Result<Self, ConfigError> {
        let file = match &args.config {
            None => Settings::default(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                parse(&text).map_err(|(line, what)| ConfigError::Parse { path: path.clone(), line, what })?
            }
        };
        Self::from_settings(over(args.settings, file))
    }

    pub fn from_settings(s: Settings) -> Result<Self, ConfigError> {
        let (code_webhook, issuer) = (code_webhook(&s)?, issuer(&s)?);
        let node = s.node.ok_or(ConfigError::Missing("the node number", "node", "FLOTILLA_NODE"))?;
        let data_dir = s.data_dir.ok_or(ConfigError::Missing("a data directory", "data-dir", "FLOTILLA_DATA_DIR"))?;
        let client_addr = s.client_addr.unwrap_or_else(|| "127.0.0.1:4000".into());
        let peer_addr = s.peer_addr.unwrap_or_else(|| "127.0.0.1:5000".into());
        let auth = s.auth.unwrap_or_default();
        // Demo users are for trying and measuring on one machine.
        let unless_dev = |limit| if auth == AuthMode::Dev { 0 } else { limit };
        let config = Self {
            node,
            data_dir,
            client_url: s.client_url.unwrap_or_else(|| format!("http://{client_addr}")),
            client_addr,
            peer_advertise: s.peer_advertise.unwrap_or_else(|| peer_addr.clone()),
            peer_addr,
            insecure_peers: s.insecure_peers.unwrap_or(false),
            auth,
            origins: s.origins.unwrap_or_default(),
            disk_reserve_mib: s.disk_reserve_mib.unwrap_or(256),
            snapshot_entries: s.snapshot_entries.unwrap_or(20_000),
            threads: s.threads,
            heartbeat_ms: s.heartbeat_ms.unwrap_or(250),
            election_ms: s.election_ms.unwrap_or(500),
            lease_ms: s.lease_ms.unwrap_or(10_000),
            sends_per_user: s.sends_per_user.unwrap_or(unless_dev(limits::SENDS_PER_USER)),
            sends_per_conversation: s.sends_per_conversation.unwrap_or(unless_dev(limits::SENDS_PER_CONVERSATION)),
            logins_per_minute: s.logins_per_minute.unwrap_or(limits::LOGIN_PER_MINUTE),
            connections_per_address: s.connections_per_address.unwrap_or(limits::CONNECTIONS_PER_ADDRESS_MAX),
            code_webhook,
            issuer,
            trust_file: s.trust_file,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let range = |name, value, ok: bool, allowed| {
            if ok { Ok(()) } else { Err(ConfigError::Range { name, value, allowed }) }
        };
        range("node", self.node.into(), self.node >= 1, "1 to 65535")?;
        let logins = self.logins_per_minute;
        range("logins_per_minute", logins.into(), (1..=100_000).contains(&logins), "1 to 100000")?;
        let connections = self.connections_per_address;
        range("connections_per_address", connections as u64, connections >= 1, "1 or more")?;
        for (name, sends) in
            [("sends_per_user", self.sends_per_user), ("sends_per_conversation", self.sends_per_conversation)]
        {
            range(name, sends.into(), sends <= 1_000_000, "0 to 1000000")?;
        }
        range("snapshot_entries", self.snapshot_entries, self.snapshot_entries >= 100, "100 or more")?;
        if let Some(threads) = self.threads {
            range("threads", threads.into(), (1..=1_024).contains(&threads), "1 to 1024")?;
        }
        range("heartbeat_ms", self.heartbeat_ms, (10..=5_000).contains(&self.heartbeat_ms), "10 to 5000")?;
        let election = self.election_ms >= 2 * self.heartbeat_ms && self.election_ms <= 60_000;
        range("election_ms", self.election_ms, election, "two heartbeats to 60000")?;
        let lease = self.lease_ms >= 4 * self.election_ms && self.lease_ms <= 600_000;
        range("lease_ms", self.lease_ms, lease, "four election time-outs to 600000")
    }
}

fn url(name: &'static str, text: &str) -> Result<Url, ConfigError> {
    Url::parse(text).map_err(|what| ConfigError::Wrong { name, what })
}

fn code_webhook(s: &Settings) -> Result<Option<(Url, PathBuf)>, ConfigError> {
    let (given, missing) = ("code_webhook", "code_webhook_secret_file");
    match (&s.code_webhook, &s.code_webhook_secret_file) {
        (None, None) => Ok(None),
        (Some(text), Some(file)) => Ok(Some((url(given, text)?, file.clone()))),
        (Some(_), None) => Err(ConfigError::Together { given, missing }),
        (None, Some(_)) => Err(ConfigError::Together { given: missing, missing: given }),
    }
}

fn issuer(s: &Settings) -> Result<Option<issuer::Settings>, ConfigError> {
    let parts = [
        ("issuer", s.issuer.is_some()),
        ("issuer_audience", s.issuer_audience.is_some()),
        ("issuer_keys", s.issuer_keys.is_some()),
    ];
    let more = [
        ("issuer_user_claim", s.issuer_user_claim.is_some()),
        ("issuer_user_prefix", s.issuer_user_prefix.is_some()),
        ("issuer_leeway_s", s.issuer_leeway_s.is_some()),
        ("issuer_ask_s", s.issuer_ask_s.is_some()),
    ];
    let Some((given, _)) = parts.iter().chain(&more).find(|(_, set)| *set) else { return Ok(None) };
    if let Some((missing, _)) = parts.iter().find(|(_, set)| !set) {
        return Err(ConfigError::Together { given, missing });
    }
    for (name, text) in
        [("issuer", &s.issuer), ("issuer_audience", &s.issuer_audience), ("issuer_user_claim", &s.issuer_user_claim)]
    {
        if text.as_ref().is_some_and(|text| text.is_empty()) {
            return Err(ConfigError::Wrong { name, what: "it is empty".into() });
        }
    }
    let leeway_s = s.issuer_leeway_s.unwrap_or(60);
    if leeway_s > 600 {
        return Err(ConfigError::Range { name: "issuer_leeway_s", value: leeway_s, allowed: "0 to 600" });
    }
    let ask_s = s.issuer_ask_s.unwrap_or(30);
    if !(1..=600).contains(&ask_s) {
        return Err(ConfigError::Range { name: "issuer_ask_s", value: ask_s, allowed: "1 to 600" });
    }
    let user_prefix = s.issuer_user_prefix.clone().unwrap_or_default();
    if UserId::parse(&format!("{user_prefix}a")).map_or(true, |id| id.as_str() != format!("{user_prefix}a")) {
        let what = format!("{user_prefix:?} cannot begin a user's id (a-z, 0-9, `_`, `.`, `-`)");
        return Err(ConfigError::Wrong { name: "issuer_user_prefix", what });
    }
    Ok(Some(issuer::Settings {
        issuer: s.issuer.clone().unwrap_or_default(),
        audience: s.issuer_audience.clone().unwrap_or_default(),
        keys: url("issuer_keys", s.issuer_keys.as_deref().unwrap_or_default())?,
        user_claim: s.issuer_user_claim.clone().unwrap_or_else(|| "sub".into()),
        user_prefix,
        leeway_s,
        ask_every: Duration::from_secs(ask_s),
    }))
}

fn over(high: Settings, low: Settings) -> Settings {
    Settings {
        node: high.node.or(low.node),
        data_dir: high.data_dir.or(low.data_dir),
        client_addr: high.client_addr.or(low.client_addr),
        client_url: high.client_url.or(low.client_url),
        peer_addr: high.peer_addr.or(low.peer_addr),
        peer_advertise: high.peer_advertise.or(low.peer_advertise),
        insecure_peers: high.insecure_peers.or(low.insecure_peers),
        auth: high.auth.or(low.auth),
        origins: high.origins.or(low.origins),
        disk_reserve_mib: high.disk_reserve_mib.or(low.disk_reserve_mib),
        snapshot_entries: high.snapshot_entries.or(low.snapshot_entries),
        threads: high.threads.or(low.threads),
        heartbeat_ms: high.heartbeat_ms.or(low.heartbeat_ms),
        election_ms: high.election_ms.or(low.election_ms),
        lease_ms: high.lease_ms.or(low.lease_ms),
        sends_per_user: high.sends_per_user.or(low.sends_per_user),
        sends_per_conversation: high.sends_per_conversation.or(low.sends_per_conversation),
        logins_per_minute: high.logins_per_minute.or(low.logins_per_minute),
        connections_per_address: high.connections_per_address.or(low.connections_per_address),
        code_webhook: high.code_webhook.or(low.code_webhook),
        code_webhook_secret_file: high.code_webhook_secret_file.or(low.code_webhook_secret_file),
        issuer: high.issuer.or(low.issuer),
        issuer_audience: high.issuer_audience.or(low.issuer_audience),
        issuer_keys: high.issuer_keys.or(low.issuer_keys),
        issuer_user_claim: high.issuer_user_claim.or(low.issuer_user_claim),
        issuer_user_prefix: high.issuer_user_prefix.or(low.issuer_user_prefix),
        issuer_leeway_s: high.issuer_leeway_s.or(low.issuer_leeway_s),
        issuer_ask_s: high.issuer_ask_s.or(low.issuer_ask_s),
        trust_file: high.trust_file.or(low.trust_file),
    }
}

const KEYS: [&str; 28] = [
    "node",
    "data_dir",
    "client_addr",
    "client_url",
    "peer_addr",
    "peer_advertise",
    "insecure_peers",
    "auth",
    "origins",
    "disk_reserve_mib",
    "snapshot_entries",
    "heartbeat_ms",
    "election_ms",
    "lease_ms",
    "sends_per_user",
    "sends_per_conversation",
    "logins_per_minute",
    "connections_per_address",
    "code_webhook",
    "code_webhook_secret_file",
    "issuer",
    "issuer_audience",
    "issuer_keys",
    "issuer_user_claim",
    "issuer_user_prefix",
    "issuer_leeway_s",
    "issuer_ask_s",
    "trust_file",
];

/// The settings in a file's text, or the line (from 1) and what is wrong with it.
fn parse(text: &str) -> Result<Settings, (usize, String)> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        (line, explain(e.message()))
    })
}

/// Turns serde's list of expected fields into the one that was probably meant.
fn explain(message: &str) -> String {
    let Some(key) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) else {
        return message.to_owned();
    };
    let nearest = KEYS.iter().min_by_key(|known| distance(key, known)).filter(|known| distance(key, known) <= 3);
    match nearest {
        Some(known) => format!("unknown key `{key}`; did you mean `{known}`?"),
        None => format!("unknown key `{key}`; known keys are {}", KEYS.join(", ")),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_a_suggestion() {
        let (line, what) = parse("node = 1\ndata_dirr = \"/x\"\n").expect_err("must fail");
        assert_eq!((line, what.as_str()), (2, "unknown key `data_dirr`; did you mean `data_dir`?"));
        let (_, what) = parse("colour = 1").expect_err("must fail");
        assert!(what.contains("known keys are node, data_dir"), "{what}");
    }

    #[test]
    fn flags_win_over_the_file_and_defaults_fill_the_rest() {
        let file = parse("node = 7\nlease_ms = 9000\ndata_dir = \"/var/lib/flotilla\"").expect("parses");
        let config = Config::from_settings(over(Settings { node: Some(2), ..Settings::default() }, file)).expect("ok");
        assert_eq!((config.node, config.lease_ms, config.heartbeat_ms), (2, 9_000, 250));
    }

    #[test]
    fn sends_are_limited_but_not_for_demo_users() {
        let config =
            |text: &str| Config::from_settings(parse(&format!("node = 1\ndata_dir = \"/x\"\n{text}")).expect("parses"));
        let sends = |text: &str| config(text).map(|c| (c.sends_per_user, c.sends_per_conversation)).expect("ok");
        assert_eq!(sends(""), (limits::SENDS_PER_USER, limits::SENDS_PER_CONVERSATION));
        assert_eq!(sends("auth = \"dev\""), (0, 0));
        assert_eq!(sends("auth = \"dev\"\nsends_per_user = 7"), (7, 0));
        assert!(config("logins_per_minute = 0").is_err() && config("connections_per_address = 0").is_err());
    }

    #[test]
    fn settings_of_a_webhook_or_an_issuer_are_whole_or_refused() {
        let config = |text: &str| {
            Config::from_settings(parse(&format!("node = 1\ndata_dir = \"/x\"\n{text}")).expect("parses"))
                .map_err(|e| e.to_string())
        };
        let bare = config("").expect("neither");
        assert!(bare.code_webhook.is_none() && bare.issuer.is_none());
        let hook = "code_webhook = \"http://127.0.0.1:9/c\"";
        assert!(config(hook).expect_err("no secret").contains("code_webhook_secret_file"));
        assert!(config(&format!("{hook}\ncode_webhook_secret_file = \"/s\"")).expect("whole").code_webhook.is_some());
        let plain = "code_webhook = \"http://example.com/\"\ncode_webhook_secret_file = \"/s\"";
        assert!(config(plain).expect_err("codes in the clear").contains("must be https"));
        let issuer = "issuer = \"me\"\nissuer_audience = \"chat\"\nissuer_keys = \"http://127.0.0.1:9/k\"";
        let whole = config(issuer).expect("whole").issuer.expect("set");
        assert_eq!((whole.user_claim.as_str(), whole.leeway_s, whole.ask_every.as_secs()), ("sub", 60, 30));
        assert!(config("issuer_leeway_s = 5").expect_err("alone").contains("issuer is not"));
        let empty = issuer.replace("\"chat\"", "\"\"");
        assert!(config(&empty).expect_err("any audience").contains("empty"));
        for bad in ["issuer_leeway_s = 601", "issuer_ask_s = 0", "issuer_user_prefix = \"A b\""] {
            assert!(config(&format!("{issuer}\n{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_out_of_range_say_what_is_allowed() {
        let bad =
            Settings { node: Some(1), data_dir: Some("/x".into()), election_ms: Some(100), ..Settings::default() };
        let message = Config::from_settings(bad).expect_err("must fail").to_string();
        assert_eq!(message, "election_ms is 100; allowed is two heartbeats to 60000");
        assert!(Config::from_settings(Settings::default()).expect_err("must fail").to_string().contains("--node"));
    }
}
