//! `flotilla api`: writes the API documents that this build stands for.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::http::documents;

#[derive(Debug, Clone, Args)]
pub struct ApiArgs {
    /// Directory to write to
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

pub fn run(args: &ApiArgs) -> anyhow::Result<()> {
    for (name, text) in documents::all() {
        let path = args.dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
