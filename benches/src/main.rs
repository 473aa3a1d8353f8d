//! `flotilla-hot-path`: steps one piece so many times, for a tool that counts instructions. Without arguments it lists them.

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(name) = args.next() else {
        for (name, _) in flotilla_benches::pieces() {
            println!("{name}");
        }
        return Ok(());
    };
    let steps: u64 = args.next().context("how many steps?")?.parse()?;
    let pieces = flotilla_benches::pieces();
    let (_, prepare) = pieces.iter().find(|(known, _)| *known == name).with_context(|| format!("no piece {name:?}"))?;
    let mut piece = prepare();
    for _ in 0..steps {
        piece.step();
    }
    Ok(())
}
