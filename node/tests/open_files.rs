//! A node under a limit of open files.

use std::process::Command;

/// What a node that cannot make its data directory says until it ends, under these limits (arguments of `ulimit`).
fn under(limits: &[&str]) -> String {
    let limits: String = limits.iter().map(|limit| format!("ulimit {limit} && ")).collect();
    let bin = env!("CARGO_BIN_EXE_flotilla");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limits}exec \"$0\" \"$@\""), bin, "start", "--node", "1", "--auth", "dev"]);
    command.args(["--client-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0", "--data-dir"]).arg(format!("{bin}/no"));
    let output = command.env("NO_COLOR", "1").env_remove("FLOTILLA_LOG").output().expect("sh runs");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && said.contains("cannot create the data directory"), "{said}");
    said
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one_and_a_low_one_is_told() {
    let said = under(&["-n 400", "-Sn 100"]);
    assert!(said.contains("WARN") && said.contains("limit=\"400\" needed=20512 connections=200"), "{said}");
    let said = under(&["-Sn 100"]);
    assert!(!said.contains("limit=\"100\""), "{said}");
}
