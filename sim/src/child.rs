//! A run in a process of its own: started from this executable, ended when it takes too long, its summary read back.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::options::Chosen;
use crate::report::{Summary, Verdict};

/// Real seconds after which a run counts as broken, unless told otherwise. A run takes a second or a few; a crowded machine
/// must not make it fail.
pub const LIMIT_S: u64 = 300;
/// How often a running child is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Of what a broken run says last, this much is kept.
const LAST_WORDS_BYTES: usize = 2_000;

pub struct Ended {
    pub real: Duration,
    /// The summary, or why there is none: out of real time, killed, aborted.
    pub summary: Result<Summary, String>,
}

impl Ended {
    pub fn verdict(&self) -> Verdict {
        self.summary.as_ref().map_or(Verdict::Broken, |summary| summary.verdict)
    }

    /// What was violated, by name: two runs with the same answer fail alike.
    pub fn promise(&self) -> Option<String> {
        match &self.summary {
            Ok(summary) => summary.promise(),
            Err(_) => Some("the run ends".into()),
        }
    }

    /// The first line of the reason for anything but a pass.
    pub fn reason(&self) -> String {
        let first = match &self.summary {
            Ok(summary) => summary.why.first().map_or("", String::as_str),
            Err(why) => why,
        };
        let first = first.lines().next().unwrap_or_default();
        first.strip_prefix("violated: ").unwrap_or(first).to_owned()
    }
}

/// Plays and waits, at most `limit` of real time.
pub fn play(chosen: &Chosen, limit: Duration) -> Ended {
    let started = Instant::now();
    let summary = run(chosen, started + limit).unwrap_or_else(|error| Err(format!("no process: {error}")));
    Ended { real: started.elapsed(), summary }
}

fn run(chosen: &Chosen, end: Instant) -> std::io::Result<Result<Summary, String>> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("run")
        .arg("--json")
        .args(chosen.args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    // Read beside each other, or a child that says much would wait for ever.
    let (out, err) = (std::thread::spawn(move || read(out)), std::thread::spawn(move || read(err)));
    let mut in_time = true;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            in_time = false;
            child.kill()?;
            break child.wait()?;
        }
        std::thread::sleep(LOOK);
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    Ok(match summary_in(&out) {
        Ok(summary) => Ok(summary),
        Err(_) if !in_time => Err("no end within the limit of real time".into()),
        Err(error) => {
            let from = err.len().saturating_sub(LAST_WORDS_BYTES);
            let words = String::from_utf8_lossy(&err[from..]).trim().replace('\n', " | ");
            Err(format!("no summary ({error}), {status}: {words}"))
        }
    })
}

/// The last line: commands of the product that a run uses may have said something before it.
fn summary_in(out: &[u8]) -> serde_json::Result<Summary> {
    let line = out.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    serde_json::from_slice(line.unwrap_or_default())
}

fn read(from: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before an error counts.
    let _ = from.map(|mut from| from.read_to_end(&mut bytes));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Outcome;
    use crate::options::Options;

    #[test]
    fn a_summary_is_found_behind_what_the_product_has_printed() {
        let summary = Summary::new(Options::default(), Outcome::Passed);
        let line = serde_json::to_string(&summary).expect("plain data");
        let out = format!("node 1 is back with new replicas\n{line}\n");
        assert_eq!(summary_in(out.as_bytes()).expect("the last line").verdict, Verdict::Passed);
        assert!(summary_in(b"").is_err() && summary_in(b"only words\n").is_err());
    }
}
