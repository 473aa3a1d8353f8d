//! What the command line says about a run: which seed or file, and what is forced over it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{Disk, KINDS, LOADS, Options};
use crate::plants;

/// Which run: a seed or written options, and flags over them.
#[derive(Debug, Clone, Default, Args)]
pub struct Chosen {
    /// The run's seed; everything else follows from it
    #[arg(long, required_unless_present = "options")]
    pub seed: Option<u64>,
    /// Options that were written down (`options`, `shrink`), in place of what a seed draws
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    pub options: Option<PathBuf>,
    #[command(flatten)]
    pub over: Overrides,
}

/// Flags over what the seed draws.
#[derive(Debug, Clone, Default, Args)]
pub struct Overrides {
    /// What a killed node's disk looks like afterwards [default: drawn]
    #[arg(long, value_enum)]
    pub disk: Option<Disk>,
    /// Break nothing
    #[arg(long)]
    pub no_faults: bool,
    /// Leave out every fault of these kinds, and these parts of the load
    #[arg(long, value_name = "KIND", num_args = 1.., value_parser = clap::builder::PossibleValuesParser::new(KINDS.into_iter().chain(LOADS)))]
    pub without: Vec<String>,
    /// Messages of all devices together [default: drawn]
    #[arg(long)]
    pub sends: Option<usize>,
    /// Raft groups that hold conversations and users [default: drawn]
    #[arg(long)]
    pub shards: Option<u16>,
    /// Groups of three and more are in pull mode, and there is a channel [default: drawn]
    #[arg(long)]
    pub pull: bool,
    /// Switch on one deliberate bug (`plants` lists them): the run should find it
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(plants::names()), hide_possible_values = true)]
    pub plant: Option<String>,
}

impl Chosen {
    pub fn of_seed(seed: u64, over: Overrides) -> Self {
        Self { seed: Some(seed), options: None, over }
    }

    pub fn of_file(file: &Path) -> Self {
        Self { options: Some(file.to_owned()), ..Self::default() }
    }

    pub fn load(&self) -> anyhow::Result<Options> {
        let mut options = match &self.options {
            None => Options::draw(self.seed.unwrap_or_default()),
            Some(file) => {
                let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
                read(&text).with_context(|| format!("no options in {}", file.display()))?
            }
        };
        self.over.apply(&mut options);
        Ok(options)
    }

    /// The flags as they must be given again.
    pub fn args(&self) -> Vec<String> {
        let mut args = match &self.options {
            None => vec!["--seed".into(), self.seed.unwrap_or_default().to_string()],
            Some(file) => vec!["--options".into(), file.display().to_string()],
        };
        args.extend(self.over.args());
        args
    }
}

/// Options by themselves, or inside the file of a regression.
fn read(text: &[u8]) -> serde_json::Result<Options> {
    let mut value: serde_json::Value = serde_json::from_slice(text)?;
    match value.get_mut("options") {
        Some(inner) => serde_json::from_value(inner.take()),
        None => serde_json::from_value(value),
    }
}

impl Overrides {
    /// A flag changes nothing but what it names.
    pub fn apply(&self, options: &mut Options) {
        options.sends = self.sends.unwrap_or(options.sends);
        options.shards = self.shards.unwrap_or(options.shards).max(1);
        if let Some(disk) = self.disk {
            options.force_disk(disk);
        }
        if self.no_faults {
            options.lanes.clear();
            options.dead.clear();
        }
        self.without.iter().for_each(|kind| options.without(kind));
        if self.pull {
            options.pull = Some((2, 2));
            options.channels = options.channels.max(1);
        }
        if self.plant.is_some() {
            options.plant.clone_from(&self.plant);
        }
    }

    /// The flags as they must be given again.
    pub fn args(&self) -> Vec<String> {
        let mut args = Vec::new();
        let mut say = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                args.extend([format!("--{name}"), value]);
            }
        };
        say("disk", self.disk.map(|disk| if disk == Disk::Kept { "kept".into() } else { "lost".into() }));
        say("sends", self.sends.map(|n| n.to_string()));
        say("shards", self.shards.map(|n| n.to_string()));
        say("plant", self.plant.clone());
        self.without.iter().for_each(|kind| say("without", Some(kind.clone())));
        if self.no_faults {
            args.push("--no-faults".into());
        }
        if self.pull {
            args.push("--pull".into());
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_given_again_as_they_came() {
        let over = Overrides {
            disk: Some(Disk::Lost),
            sends: Some(5),
            plant: Some("x".into()),
            without: vec!["kill".into(), "cut".into()],
            ..Overrides::default()
        };
        let args = Chosen::of_seed(7, over).args().join(" ");
        assert_eq!(args, "--seed 7 --disk lost --sends 5 --plant x --without kill --without cut");
    }
}
