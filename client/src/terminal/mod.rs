//! What `flotilla chat`, `send` and `tail` do. Knows no flags and no exit codes: the binary's command line does.
//!
//! - [`account`] who the person is and how a token is had
//! - [`plain`] lines in and out, for pipes; [`send`] one message; [`tail`] all that arrives as JSON lines

pub mod account;
pub mod plain;
pub mod send;
pub mod tail;

use std::io::BufRead;

use tokio::sync::mpsc;

pub use account::{Account, Login};

/// Lines typed ahead of the reader.
const LINES_MAX: usize = 16;

/// Standard input as lines. The reading thread ends with the process: end the runtime without waiting for it.
pub fn stdin_lines() -> mpsc::Receiver<String> {
    let (lines, typed) = mpsc::channel(LINES_MAX);
    // The simulator marks it deprecated; nothing there has a store of files or a terminal.
    #[allow(deprecated)]
    tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    typed
}
