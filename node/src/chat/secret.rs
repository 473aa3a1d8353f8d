//! Asks for a secret at the terminal, without echo. Standard input may be a pipe: keys come from the terminal itself.

use std::io::{self, Write};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{disable_raw_mode, enable_raw_mode};

/// Blocking; the terminal is given back as it was.
pub fn ask_secret(prompt: &str) -> io::Result<String> {
    let mut err = io::stderr();
    write!(err, "{prompt}")?;
    err.flush()?;
    enable_raw_mode()?;
    let secret = read();
    disable_raw_mode()?;
    writeln!(err)?;
    secret
}

fn read() -> io::Result<String> {
    let mut secret = String::new();
    loop {
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => return Ok(secret),
            KeyCode::Char('c' | 'd') if control => return Err(io::ErrorKind::Interrupted.into()),
            KeyCode::Char('u') if control => secret.clear(),
            KeyCode::Char(c) if !control => secret.push(c),
            KeyCode::Backspace => {
                secret.pop();
            }
            _ => {}
        }
    }
}
