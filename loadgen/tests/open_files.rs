//! The generator under a limit of open files.

use std::process::Command;
use std::time::{Duration, Instant};

/// What it says on the way to its end, under this limit (the arguments of `ulimit`).
fn under(limit: &str, args: &[&str]) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_flotilla-loadgen")]);
    let output = command.args(args).output().expect("sh runs");
    assert!(!output.status.success());
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn too_many_connections_are_refused_before_anything_is_dialled() {
    let begin = Instant::now();
    let nobody = ["--urls", "http://127.0.0.1:1"];
    for load in [["idle", "--connections", "9000"], ["storm", "--devices", "8968"], ["direct", "--pairs", "4500"]] {
        let said = under("-n 100", &[&load[..], &nobody].concat());
        for part in ["9000 connections need 9064 open files", "allows 100", "`ulimit -n 9064`"] {
            assert!(said.contains(part), "{load:?}: {part} is missing: {said}");
        }
    }
    let limit = Duration::from_secs(60);
    assert!(begin.elapsed() < limit, "without the check it dials for two minutes, each of them");
}

#[test]
fn a_soft_limit_is_raised_and_a_local_node_needs_more_than_its_connections() {
    let nowhere = ["--bin", "/nowhere/flotilla"];
    let said = under("-Sn 100", &[&["idle", "--connections", "200"], &nowhere[..]].concat());
    assert!(said.contains("/nowhere/flotilla is not there"), "it goes on to the next thing: {said}");
    let said = under("-n 300", &[&["idle", "--connections", "200"], &nowhere[..]].concat());
    assert!(said.contains("200 connections need 579 open files"), "{said}");
}
