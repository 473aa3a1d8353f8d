//! `flotilla chat`, `send` and `tail`: a person or a script at a terminal, through the Rust client.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use flotilla_client::device::{Outcome, random_cid};
use flotilla_client::terminal::{self, Account, Login, chat, send, tail};
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
    /// Read the password from this file (`-`: standard input); without it, a demo user of `--auth dev`
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Make the account first if it is missing
    #[arg(long, requires = "password_file")]
    pub register: bool,
    /// Keep the device's store here, so that nothing is lost between two calls; without it each call is a new device
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

/// Where a message goes.
#[derive(Debug, Clone, Args)]
#[group(required = false, multiple = false)]
pub struct Where {
    /// A user: their direct conversation
    #[arg(long, value_parser = user)]
    pub to: Option<UserId>,
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

fn cid(text: &str) -> Result<Cid, String> {
    Cid::parse(text).map_err(|e| e.to_string())
}

impl Who {
    fn account(self) -> anyhow::Result<Account> {
        let login = match &self.password_file {
            None => Login::Demo,
            Some(path) => Login::Password { password: password(path)?, register: self.register },
        };
        Ok(Account { urls: self.url, user: self.user, login, dir: self.store })
    }
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
        let to = self.to.clone().map(Target::User);
        to.or_else(|| self.conv.clone().map(Target::Conv))
    }
}

pub async fn chat(args: ChatArgs) -> anyhow::Result<()> {
    let (handle, mut events) = args.who.account()?.open().await?;
    let lines = terminal::stdin_lines();
    chat::chat(handle, &mut events, lines, args.place.target(), &mut std::io::stdout()).await?;
    Ok(())
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
