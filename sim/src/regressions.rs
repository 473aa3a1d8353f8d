//! Runs that once broke a promise, a file each in `sim/regressions/`: none of them may break one again.
//!
//! A file holds the options and not only the seed, for what a seed draws changes as the simulator learns new faults.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::child;
use crate::options::{Chosen, Options};
use crate::report::Verdict;

/// Seen from the project's folder, where `scripts/sim` runs.
const FOLDER: &str = "sim/regressions";

#[derive(Debug, Args)]
pub struct Regressions {
    /// Only those with this in their name
    name: Option<String>,
    /// Real seconds after which a run counts as broken
    #[arg(long, default_value_t = child::LIMIT_S)]
    limit: u64,
}

#[derive(Debug, Args)]
pub struct Record {
    #[command(flatten)]
    chosen: Chosen,
    /// The file's name: what the run tells, in a few words
    #[arg(long)]
    name: String,
    /// What was wrong, in a sentence
    #[arg(long)]
    was: String,
    /// The commit that fixed it
    #[arg(long, default_value = "not fixed yet")]
    fix: String,
}

/// One file of the folder.
#[derive(Debug, Serialize, Deserialize)]
pub struct Regression {
    pub was: String,
    /// The promise that was broken, as the simulator named it.
    pub promise: String,
    pub date: String,
    pub fix: String,
    pub options: Options,
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut files = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "json"));
    files.sort();
    Ok(files)
}

impl Regressions {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let mut good = true;
        let mut count = 0;
        for file in files(Path::new(FOLDER))? {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if self.name.as_ref().is_some_and(|wanted| !name.contains(wanted)) {
                continue;
            }
            let ended = child::play(&Chosen::of_file(&file), Duration::from_secs(self.limit));
            let verdict = ended.verdict();
            good &= matches!(verdict, Verdict::Passed | Verdict::Unknown);
            count += 1;
            println!("{:<8} {name} ({:.1} s)", verdict.name(), ended.real.as_secs_f64());
            if verdict != Verdict::Passed {
                println!("    {}\n    ./scripts/sim run --options {}", ended.reason(), file.display());
            }
        }
        println!("{count} regressions, {}", if good { "none came back" } else { "SOME CAME BACK" });
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

impl Record {
    /// Writes the file; the run must fail now, or nothing shows that it is the right one. A fixed one may be passed off
    /// with a `fix` that names the commit.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let options = self.chosen.load()?;
        let ended = child::play(&self.chosen, Duration::from_secs(600));
        let fixed = self.fix != "not fixed yet";
        ensure!(fixed || ended.promise().is_some(), "this run breaks no promise: record it on a build that does");
        let promise = ended.promise().unwrap_or_else(|| "see the sentence".into());
        let date = Command::new("date").arg("+%F").output().context("no date")?;
        let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
        let (was, fix) = (self.was.clone(), self.fix.clone());
        let file = Path::new(FOLDER).join(format!("{}.json", self.name));
        std::fs::create_dir_all(FOLDER).with_context(|| format!("cannot make {FOLDER}"))?;
        let text = serde_json::to_string_pretty(&Regression { was, promise, date, fix, options })?;
        std::fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}", file.display());
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_regression_of_the_folder_can_be_read() {
        for file in files(Path::new("regressions")).expect("the folder can be listed") {
            let text = std::fs::read(&file).expect("it can be read");
            let read: Regression = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert!(!read.was.is_empty() && !read.fix.is_empty());
        }
    }
}
