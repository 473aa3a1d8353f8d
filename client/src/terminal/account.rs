//! Who the person at the terminal is: a demo user, or a user with a password whose tokens are refreshed as needed.

use std::path::PathBuf;
use std::sync::Arc;

use flotilla_proto::ids::{Cid, UserId};
use futures::future::FutureExt;
use tokio::sync::{Mutex, mpsc};

use crate::device::{Config, Device, Event, Handle, TokenError, TokenSource, fixed_token, random_cid};
use crate::http::{Http, HttpError, Tokens};
use crate::store::{FileStore, MemStore, Store, StoreError, install_of};

#[derive(Debug, Clone)]
pub enum Login {
    /// `--auth dev` of the node: no secret at all.
    Demo,
    /// `register`: make the account first if it is missing.
    Password { password: String, register: bool },
}

#[derive(Debug, Clone)]
pub struct Account {
    pub urls: Vec<String>,
    pub user: UserId,
    pub login: Login,
    /// None: nothing outlives the process, and the device is a new one each time.
    pub dir: Option<PathBuf>,
}

impl Account {
    /// The person's device; its events must be taken.
    pub async fn open(self) -> Result<(Handle, mpsc::Receiver<Event>), StoreError> {
        let store = self.store().await?;
        self.open_on(store).await
    }

    /// What the device keeps, in `dir` if there is one.
    pub async fn store(&self) -> Result<Box<dyn Store>, StoreError> {
        let Some(dir) = self.dir.clone() else { return Ok(Box::new(MemStore::new())) };
        // The simulator marks it deprecated; nothing there has a store of files or a terminal.
        #[allow(deprecated)]
        let opened = tokio::task::spawn_blocking(move || FileStore::open(&dir)).await;
        Ok(Box::new(opened.map_err(|e| StoreError::Task(e.to_string()))??))
    }

    pub async fn open_on(self, mut store: Box<dyn Store>) -> Result<(Handle, mpsc::Receiver<Event>), StoreError> {
        let install = install_of(store.as_mut()).await?;
        let token = match &self.login {
            Login::Demo => fixed_token(format!("dev:{}", self.user)),
            Login::Password { password, register } => {
                password_tokens(self.urls.clone(), self.user.clone(), install, password.clone(), *register)
            }
        };
        Ok(Device::open(Config::new(self.urls, self.user, token), store))
    }
}

struct Purse {
    urls: Vec<String>,
    user: UserId,
    password: String,
    register: bool,
    install: String,
    tokens: Mutex<Option<Tokens>>,
}

/// Tokens of an account with a password, for the device whose store holds `install`: refreshed when a fresh one is wanted,
/// else by logging in. `register`: make the account first if it is missing.
pub fn password_tokens(
    urls: Vec<String>,
    user: UserId,
    install: String,
    password: String,
    register: bool,
) -> TokenSource {
    let purse = Arc::new(Purse { urls, user, password, register, install, tokens: Mutex::new(None) });
    Arc::new(move |fresh| {
        let purse = purse.clone();
        async move { purse.token(fresh).await }.boxed()
    })
}

/// One way to come to tokens; the key makes a repeat at another node safe.
enum Way {
    Register(Cid),
    Login(Cid),
    Refresh(Cid, String),
}

impl Purse {
    /// The last one, else by refresh, else by login.
    async fn token(&self, fresh: bool) -> Result<String, TokenError> {
        let mut held = self.tokens.lock().await;
        if let Some(tokens) = held.as_ref().filter(|_| !fresh) {
            return Ok(tokens.access_token.clone());
        }
        let refresh = held.as_ref().map(|t| t.refresh_token.clone()).filter(|t| !t.is_empty());
        let refreshed = match refresh {
            Some(token) => self.anywhere(Way::Refresh(random_cid(), token)).await.ok(),
            None => None,
        };
        let got = match refreshed {
            Some(tokens) => tokens,
            None => self.log_in().await?,
        };
        Ok(held.insert(got).access_token.clone())
    }

    async fn log_in(&self) -> Result<Tokens, TokenError> {
        if self.register {
            // A conflict says that the account exists: then the password decides. The reply to a registration may hold
            // no tokens: then login gives them.
            if let Ok(tokens) = self.anywhere(Way::Register(random_cid())).await {
                return Ok(tokens);
            }
        }
        self.anywhere(Way::Login(random_cid())).await.map_err(|e| match e {
            HttpError::Refused { body, .. } if !body.retryable => TokenError::Denied(body.to_string()),
            other => TokenError::Later(other.to_string()),
        })
    }

    /// Any node serves: the next one after a failure that another node may not have.
    async fn anywhere(&self, way: Way) -> Result<Tokens, HttpError> {
        let (user, password, install) = (self.user.as_str(), &self.password, &self.install);
        let mut last = HttpError::Broken("no node's URL is known".into());
        for url in &self.urls {
            let node = Http::new(url);
            let got = match &way {
                Way::Register(key) => node.register(*key, user, password, install).await,
                Way::Login(key) => node.login(*key, user, password, install).await,
                Way::Refresh(key, token) => node.refresh(*key, token).await,
            };
            match got {
                Err(error) if error.is_retryable() => last = error,
                decided => return decided,
            }
        }
        Err(last)
    }
}
