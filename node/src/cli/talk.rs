//! `flotilla chat`, `send` and `tail`: a person or a script at a terminal, through the Rust client. A password never stands on
//! the command line: it comes from a prompt without echo, a file, or the environment.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use flotilla_client::device::{Outcome, random_cid};
use flotilla_client::store::StoreError;
use flotilla_client::terminal::plain::{self, Plain, Printing};
use flotilla_client::terminal::{self, Account, Login, send, tail};
use flotilla_proto::frame::Target;
use flotilla_proto::ids::{Cid, ConvId, UserId};

#[derive(Debug, Clone, Args)]
pub struct Who {
    /// The user to act as
    #[arg(long, value_parser = user)]
    pub user: UserId,
    /// Base URLs of nodes, any of them, comma separated
    #[arg(long, env = "FLOTILLA_URL", value_delimiter = ',', default_value = "http://127.0.0.1:4001")]
    pub url: Vec<String>,
    /// Ask for the password at the terminal. Without a password (this, a file, or FLOTILLA_PASSWORD): a demo user of `--auth dev`
    #[arg(long)]
    pub password: bool,
    /// Read the password from this file (`-`: standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    pub password_file: Option<PathBuf>,
    /// Make the account first if it is missing
    #[arg(long)]
    pub register: bool,
    /// Keep the device's store here, so that nothing is lost between two calls. Without it `chat` keeps one below
    /// $XDG_STATE_HOME/flotilla; each call of `send` and `tail` is a new device
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

const PASSWORD_ENV: &str = "FLOTILLA_PASSWORD";

/// Where a message goes.
#[derive(Debug, Clone, Args)]
#[group(required = false, multiple = false)]
pub struct Where {
    /// A user (their direct conversation), or a conversation's id
    #[arg(long, value_name = "USER|CONVERSATION", value_parser = target)]
    pub to: Option<Target>,
    /// A conversation's id
    #[arg(long, value_parser = conversation)]
    pub conv: Option<ConvId>,
}

#[derive(Debug, Clone, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub who: Who,
    #[command(flatten)]
    pub place: Where,
    /// Lines of standard input are sent, what arrives is printed one entry a line (format: docs/terminal.md). Without it: when
    /// standard input or output is no terminal
    #[arg(long)]
    pub plain: bool,
    /// Plain: go on printing after the end of the input, until Ctrl-C
    #[arg(long)]
    pub follow: bool,
    /// Plain: seconds to wait for answers that are missing when the input has ended, or after Ctrl-C
    #[arg(long, default_value_t = 30)]
    pub wait: u64,
}

#[derive(Debug, Clone, Args)]
pub struct SendArgs {
    #[command(flatten)]
    pub who: Who,
    #[command(flatten)]
    pub place: Where,
    /// The UUID of this message, kept by the caller: a repeat with the same one is never a second message
    #[arg(long, value_parser = cid)]
    pub cid: Option<Cid>,
    /// Give up waiting after this many seconds; the outcome is then unknown, not failed
    #[arg(long, default_value_t = 30)]
    pub timeout: u64,
    /// The text; `-` reads standard input
    pub text: String,
}

#[derive(Debug, Clone, Args)]
pub struct TailArgs {
    #[command(flatten)]
    pub who: Who,
    /// Output form
    #[arg(short, long, value_enum, default_value = "json")]
    pub output: TailOutput,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TailOutput {
    Json,
}

fn user(text: &str) -> Result<UserId, String> {
    UserId::parse(text).map_err(|e| e.to_string())
}

fn conversation(text: &str) -> Result<ConvId, String> {
    ConvId::parse(text).map_err(|e| e.to_string())
}

fn target(text: &str) -> Result<Target, String> {
    // No person is called like a conversation.
    ConvId::parse(text).map(Target::Conv).or_else(|_| user(text).map(Target::User))
}

fn cid(text: &str) -> Result<Cid, String> {
    Cid::parse(text).map_err(|e| e.to_string())
}

impl Who {
    fn account(self) -> anyhow::Result<Account> {
        let password = match (&self.password_file, self.password, std::env::var(PASSWORD_ENV)) {
            (Some(path), ..) => Some(password(path)?),
            (None, true, _) => Some(ask_password(&self.user)?),
            (None, false, Ok(password)) if !password.is_empty() => Some(password),
            _ => None,
        };
        let login = match password {
            Some(password) => Login::Password { password, register: self.register },
            None if self.register => {
                bail!("to register give a password: --password, --password-file or {PASSWORD_ENV}")
            }
            None => Login::Demo,
        };
        Ok(Account { urls: self.url, user: self.user, login, dir: self.store })
    }
}

#[cfg(feature = "terminal")]
fn ask_password(user: &UserId) -> anyhow::Result<String> {
    crate::chat::ask_secret(&format!("password of {user}: ")).context("cannot ask for the password at a terminal")
}

#[cfg(not(feature = "terminal"))]
fn ask_password(_: &UserId) -> anyhow::Result<String> {
    bail!("this binary was built without the terminal client: use --password-file")
}

/// Below the user's state directory, one for each user and cluster; `n` for the n-th that runs at the same time.
fn default_store(user: &UserId, url: &str, n: usize) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    let at = url.trim_start_matches("http://").trim_end_matches('/');
    let at: String = at.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
    let suffix = if n == 0 { String::new() } else { format!("-{}", n + 1) };
    Some(state.join("flotilla").join(format!("{user}@{at}{suffix}")))
}

/// Terminals of one user at the same time, each a device of its own (a user has at most 8).
const STORES_MAX: usize = 8;

/// The store that was named, else the first of the user's own that no other process has.
async fn chat_store(account: &mut Account) -> anyhow::Result<Box<dyn flotilla_client::store::Store>> {
    if account.dir.is_some() {
        return Ok(account.store().await?);
    }
    let url = account.urls.first().cloned().unwrap_or_default();
    for n in 0..STORES_MAX {
        account.dir = default_store(&account.user, &url, n);
        match account.store().await {
            Err(StoreError::Locked { .. }) => {}
            other => return Ok(other?),
        }
    }
    bail!("{STORES_MAX} terminals of this user are open; name a directory with --store")
}

fn password(path: &PathBuf) -> anyhow::Result<String> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).context("cannot read the password from standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

impl Where {
    fn target(&self) -> Option<Target> {
        self.to.clone().or_else(|| self.conv.clone().map(Target::Conv))
    }
}

/// What the exit code of a plain chat says beside 0 (all was accepted) and 1 (it could not be done at all).
#[derive(Debug, thiserror::Error)]
pub enum NotAll {
    #[error("{0} of the lines were not accepted")]
    Rejected(u64),
    #[error("of {0} lines it is not known whether they were accepted; the same store sends them again")]
    Unknown(u64),
}

impl NotAll {
    pub fn exit_code(&self) -> u8 {
        match self {
            NotAll::Rejected(_) => 3,
            NotAll::Unknown(_) => 4,
        }
    }
}

pub async fn chat(args: ChatArgs) -> anyhow::Result<()> {
    let plain = args.plain || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal();
    if plain { plain_chat(args).await } else { screen_chat(args).await }
}

#[cfg(feature = "terminal")]
async fn screen_chat(args: ChatArgs) -> anyhow::Result<()> {
    let to = args.place.target();
    let mut account = args.who.account()?;
    let store = chat_store(&mut account).await?;
    let (handle, events) = account.open_on(store).await?;
    crate::chat::run(handle, events, to).await
}

#[cfg(not(feature = "terminal"))]
async fn screen_chat(args: ChatArgs) -> anyhow::Result<()> {
    plain_chat(args).await
}

async fn plain_chat(args: ChatArgs) -> anyhow::Result<()> {
    let plain = Plain { to: args.place.target(), follow: args.follow, wait: Duration::from_secs(args.wait) };
    let mut account = args.who.account()?;
    let only = plain.to.as_ref().map(|to| to.conv_for(&account.user));
    let store = Printing::new(chat_store(&mut account).await?, only, Arc::new(Mutex::new(std::io::stdout())));
    let (handle, events) = account.open_on(Box::new(store)).await?;
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        if flotilla_raft::seam::signal::stop().await.is_ok() {
            // The receiver is gone where all was done before.
            let _ = tell.send(());
            if flotilla_raft::seam::signal::stop().await.is_ok() {
                std::process::exit(130);
            }
        }
    });
    let stop = async {
        if told.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let say = |note: &str| eprintln!("flotilla: {note}");
    let tally = plain::run(plain, handle, events, terminal::stdin_lines(), stop, say).await;
    match tally {
        plain::Tally { stopped: Some(why), .. } => bail!("{why}"),
        plain::Tally { rejected: n, .. } if n > 0 => Err(NotAll::Rejected(n).into()),
        plain::Tally { unknown: n, .. } if n > 0 => Err(NotAll::Unknown(n).into()),
        _ => Ok(()),
    }
}

/// Exit code 0: accepted; an error: rejected or unknown.
pub async fn send(args: SendArgs) -> anyhow::Result<()> {
    let target = args.place.target().context("name the receiver: --to USER or --conv ID")?;
    let mut text = args.text;
    if text == "-" {
        text.clear();
        std::io::stdin().read_to_string(&mut text).context("cannot read the text from standard input")?;
    }
    let (handle, mut events) = args.who.account()?.open().await?;
    // Events must be taken for the device to go on; a sender does not show them.
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let cid = args.cid.unwrap_or_else(random_cid);
    let limit = Duration::from_secs(args.timeout);
    match send::send(&handle, target, cid, text, limit, &mut std::io::stdout()).await? {
        Outcome::Accepted(_) => Ok(()),
        Outcome::Rejected(error) => bail!("rejected: {error}"),
        Outcome::Unknown(why) => bail!("unknown: {why}; repeat with --cid {cid}"),
    }
}

pub async fn tail(args: TailArgs) -> anyhow::Result<()> {
    let TailOutput::Json = args.output;
    let (_handle, mut events) = args.who.account()?.open().await?;
    tail::tail(&mut events, &mut std::io::stdout()).await;
    Ok(())
}
