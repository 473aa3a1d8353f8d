//! Tokens, passwords, limits on login.
