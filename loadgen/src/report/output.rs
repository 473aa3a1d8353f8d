//! What is done with a report: printed, compared, held against bounds, drawn.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::asserts::Assertion;
use super::{Report, baseline, html};

#[derive(Debug, Clone, Args)]
pub struct Output {
    /// Also write one page with charts that needs nothing but itself
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Show what changed against a result of --json
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Fail unless a figure keeps a bound, like 'accept.p99<20ms'; may be given more than once
    #[arg(long, value_name = "FIGURE<BOUND")]
    pub assert: Vec<Assertion>,
}

impl Output {
    /// What can be known to be wrong is said before anything runs.
    pub fn check(&self) -> anyhow::Result<()> {
        if let Some(file) = &self.baseline {
            baseline::read(file)?;
        }
        Ok(())
    }

    /// Whether no promise was broken and every bound was kept.
    pub fn finish(&self, report: &Report) -> anyhow::Result<bool> {
        report.print();
        if let Some(file) = &self.baseline {
            let kept = baseline::read(file)?;
            let same = kept.iter().find(|old| old.workload == report.workload);
            let old = same.or(kept.first()).with_context(|| format!("{} holds no report", file.display()))?;
            println!();
            baseline::print(old, report);
        }
        if let Some(file) = &self.html {
            std::fs::write(file, html::page(report)?).with_context(|| format!("cannot write {}", file.display()))?;
            println!("  charts     {}", file.display());
        }
        let mut ok = report.ok();
        for assertion in &self.assert {
            let (holds, says) = assertion.judge(report);
            println!("  {}  {says}", if holds { "holds    " } else { "DOES NOT HOLD" });
            ok &= holds;
        }
        Ok(ok)
    }
}
