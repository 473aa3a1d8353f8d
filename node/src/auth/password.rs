//! Passwords: argon2id in PHC form, on blocking threads, at most two at a time on a node.
//!
//! Invariant: checking against an account that does not exist costs as much as checking against one that does. When too
//! many wait the answer is `Busy`, not a longer queue.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use flotilla_proto::limits;
use tokio::sync::Semaphore;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("too many passwords are being checked")]
    Busy,
    #[error("a password is {} to {} bytes", limits::PASSWORD_BYTES_MIN, limits::PASSWORD_BYTES_MAX)]
    Length,
    #[error("the password could not be hashed")]
    Failed,
}

#[derive(Clone)]
pub struct Passwords {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    argon2: Argon2<'static>,
    /// Of no password: checked where there is no account.
    dummy: Arc<str>,
    /// The simulator has no threads.
    inline: bool,
}

impl Passwords {
    /// OWASP's first choice: 19 MiB, two passes, one lane.
    pub fn production() -> Self {
        Self::new(Params::DEFAULT, false)
    }

    /// The least that argon2 allows, on the calling task: for the simulator and for tests.
    pub fn cheap() -> Self {
        let params = Params::new(Params::MIN_M_COST, Params::MIN_T_COST, 1, None).expect("the least costs are valid");
        Self::new(params, true)
    }

    fn new(params: Params, inline: bool) -> Self {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let secret: [u8; 16] = rand::random();
        let dummy = hash(&argon2, &secret).expect("the parameters are valid");
        Self {
            running: Arc::new(Semaphore::new(limits::PASSWORD_HASHES_AT_ONCE)),
            waiting: Arc::new(Semaphore::new(limits::PASSWORD_HASHES_WAITING_MAX)),
            argon2,
            dummy: dummy.into(),
            inline,
        }
    }

    /// A PHC string with a fresh salt.
    pub async fn hash(&self, password: &str) -> Result<String, PasswordError> {
        if !(limits::PASSWORD_BYTES_MIN..=limits::PASSWORD_BYTES_MAX).contains(&password.len()) {
            return Err(PasswordError::Length);
        }
        let (argon2, password) = (self.argon2.clone(), password.to_owned());
        self.run(move || hash(&argon2, password.as_bytes())).await?.ok_or(PasswordError::Failed)
    }

    /// Does `password` fit? `phc` none (or empty: a demo user): no, after the same work.
    pub async fn verify(&self, phc: Option<&str>, password: &str) -> Result<bool, PasswordError> {
        let known = phc.filter(|p| !p.is_empty());
        let exists = known.is_some();
        let phc = known.unwrap_or(&self.dummy).to_owned();
        if password.len() > limits::PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let (argon2, password) = (self.argon2.clone(), password.to_owned());
        let fits = self
            .run(move || match PasswordHash::new(&phc) {
                Ok(parsed) => argon2.verify_password(password.as_bytes(), &parsed).is_ok(),
                Err(_) => false,
            })
            .await?;
        Ok(fits && exists)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PasswordError> {
        let _place = self.waiting.try_acquire().map_err(|_| PasswordError::Busy)?;
        let _turn = self.running.acquire().await.map_err(|_| PasswordError::Busy)?;
        if self.inline {
            return Ok(work());
        }
        // The simulator marks it as deprecated to say that it has no threads; there `inline` is set.
        #[allow(deprecated)]
        tokio::task::spawn_blocking(work).await.map_err(|_| PasswordError::Failed)
    }
}

fn hash(argon2: &Argon2<'_>, password: &[u8]) -> Option<String> {
    let salt: [u8; 16] = rand::random();
    argon2.hash_password_with_salt(password, &salt).ok().map(|phc| phc.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_an_existing_account_fits() {
        let passwords = Passwords::cheap();
        let phc = passwords.hash("correct horse").await.expect("hashes");
        assert!(phc.starts_with("$argon2id$v=19$"));
        assert_eq!(passwords.verify(Some(&phc), "correct horse").await, Ok(true));
        assert_eq!(passwords.verify(Some(&phc), "wrong horse").await, Ok(false));
        for nobody in [None, Some(""), Some("garbage")] {
            assert_eq!(passwords.verify(nobody, "correct horse").await, Ok(false));
        }
        assert_eq!(passwords.hash("short").await, Err(PasswordError::Length));
        assert_eq!(passwords.verify(Some(&phc), &"x".repeat(1_000_000)).await, Ok(false));
    }
}
