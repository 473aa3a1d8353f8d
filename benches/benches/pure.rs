//! Criterion over every pure part of a message's path: `cargo bench -p flotilla-benches [--features window]`.

use std::time::Duration;

use criterion::Criterion;

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let mut criterion = criterion.configure_from_args();
    for (name, prepare) in flotilla_benches::pieces() {
        let mut piece = prepare();
        criterion.bench_function(name, |bencher| bencher.iter(|| piece.step()));
    }
    criterion.final_summary();
}
