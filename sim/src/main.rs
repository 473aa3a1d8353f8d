//! The simulator's command line: one run of a seed, and the check that a seed gives the same run twice.

#[cfg(not(madsim))]
fn main() {
    eprintln!("flotilla-sim runs only when everything is built with RUSTFLAGS=\"--cfg madsim\": use ./scripts/sim");
    std::process::exit(2);
}

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    flotilla_sim::cli::main()
}
