//! `flotilla cluster limits`: shows or changes, while the cluster runs, how much clients may do.

use std::str::FromStr;

use anyhow::bail;
use clap::Args;
use flotilla_machine::command::{ClientLimits, LimitName};

use super::ask::{NodeAddr, ask};
use crate::cluster::wire::{AdminReply, AdminRequest};

#[derive(Debug, Clone, Args)]
pub struct LimitsArgs {
    /// Nodes to ask, with their peer addresses; the first that answers is enough
    #[arg(long, required = true, value_delimiter = ',', value_name = "N=ADDR")]
    pub nodes: Vec<NodeAddr>,
    /// What to change, on all nodes and for good: sends_per_user=20; `default` gives it back to each node's own configuration
    #[arg(value_name = "NAME=VALUE")]
    pub changes: Vec<Change>,
    /// Speak plain TCP beyond loopback
    #[arg(long)]
    pub insecure_peers: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change(LimitName, Option<u32>);

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE, like sends_per_user=20")?;
        let Some(limit) = LimitName::parse(name) else {
            let names: Vec<&str> = LimitName::ALL.iter().map(|limit| limit.name()).collect();
            return Err(format!("no limit is called `{name}`; there are {}", names.join(", ")));
        };
        if value == "default" {
            return Ok(Self(limit, None));
        }
        let (min, max) = limit.range();
        let value = value.parse().map_err(|_| format!("`{value}` is not a number of {min} to {max}, nor `default`"))?;
        Ok(Self(limit, Some(limit.check(value)?)))
    }
}

pub async fn run(args: LimitsArgs) -> anyhow::Result<()> {
    let changes: Vec<_> = args.changes.iter().map(|Change(name, value)| (*name, *value)).collect();
    let mut refused = None;
    for at in &args.nodes {
        let request = AdminRequest::Limits { changes: changes.clone() };
        match ask(&at.addr, Some(at.node), &request, args.insecure_peers).await {
            Ok(AdminReply::Limits(limits)) => {
                show(&limits);
                return Ok(());
            }
            Ok(_) => bail!("an answer of another kind; is it the same version?"),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) => Err(error),
        None => bail!("no node to ask"),
    }
}

fn show(limits: &ClientLimits) {
    for name in LimitName::ALL {
        match limits.get(&name) {
            Some(value) => println!("{:<24} {value}", name.name()),
            None => println!("{:<24} each node's own", name.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_understood_or_told_what_is_wrong() {
        assert_eq!("sends_per_user=20".parse(), Ok(Change(LimitName::SendsPerUser, Some(20))));
        assert_eq!("logins_per_minute=default".parse(), Ok(Change(LimitName::LoginsPerMinute, None)));
        for (text, part) in [
            ("sends_per_user", "NAME=VALUE"),
            ("sends=1", "there are sends_per_user"),
            ("logins_per_minute=0", "allowed is 1 to 100000"),
            ("sends_per_user=-1", "not a number of 0 to 1000000"),
        ] {
            let why = Change::from_str(text).expect_err(text);
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
